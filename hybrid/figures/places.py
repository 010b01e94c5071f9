"""Where chosen sets stand among all sets: the ranking at the top, one row of marks a method below."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hybrid.figures import BAND_FROM, INK, NEUTRAL, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns, interval

ROW_INCHES = 0.24
MEAN = "#0b0da3"


def places(sets: pd.DataFrame, chosen: pd.DataFrame, *, ylabel: str) -> Figure:
    """One column of two panels for each value of ``panel``, such as a budget, over one axis: the share of the
    other sets that are better, 0 for the best set and 1 for the worst.

    Above, the ``value`` of every set, one grey line a seed. Below, a ring for each set that a method chose,
    and the mean over seeds as a diamond with its 95 % interval where `BAND_FROM` seeds or more stand behind
    it. The dashed line is what a set drawn at random has on average.

    Args:
        sets: one row a set and seed, with columns ``panel``, ``seed``, ``better`` (0..1) and ``value``.
        chosen: one row a method and seed, with columns ``panel``, ``name``, ``seed`` and ``better``; methods
            are drawn in the frame's order.

    Raises ``ValueError`` naming a missing column, an empty table, or a panel of ``chosen`` that has no sets.
    """
    check_columns(sets, "panel", "seed", "better", "value")
    check_columns(chosen, "panel", "name", "seed", "better")
    titles, names = list(sets["panel"].unique()), list(chosen["name"].unique())
    if unknown := set(chosen["panel"]) - set(titles):
        raise ValueError(f"no sets of panel {sorted(unknown)[0]!r}; there are: {', '.join(map(str, titles))}")
    low = 0.5 + ROW_INCHES * len(names)
    figure = Figure(figsize=(PAGE_WIDTH, 3.1 + low), layout="constrained")
    heights = {"height_ratios": [2.0, low], "sharex": True, "sharey": "row", "squeeze": False}
    above, below = figure.subplots(2, len(titles), **heights)
    for ax, title in zip(above, titles, strict=True):
        mine = sets[sets["panel"] == title]
        for (seed, line), (color, _, dash) in zip(mine.groupby("seed"), NEUTRAL * len(mine), strict=False):
            line = line.sort_values("better")
            drawn = {"color": color, "linestyle": dash, "lw": 1.2, "marker": ".", "ms": 4}
            ax.plot(line["better"], line["value"], label=f"all sets, seed {seed}", **drawn)
        ax.set(title=title)
    for ax, title in zip(below, titles, strict=True):
        ax.axvline(0.5, color=INK, ls="--", lw=0.9, label="random, on average")
        for y, name in enumerate(names):
            values = chosen.loc[(chosen["panel"] == title) & (chosen["name"] == name), "better"]
            _row(ax, y, values)
        ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlim=(-0.05, 1.05))
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.set_xlabel("Share of better sets")
    above[0].set_ylabel(ylabel)
    entries = {}
    for ax in (*above, *below):
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3)
    return figure


def _row(ax, y: int, values: pd.Series) -> None:
    if values.empty:
        return
    ring = {"color": "none", "mec": INK, "ms": 6, "mew": 1.1, "linestyle": "none", "clip_on": False}
    ax.plot(values, [y] * len(values), "o", label="chosen, one seed", zorder=3, **ring)
    if len(values) >= BAND_FROM:
        mean, low, high = interval(values, bounds=(0, 1))
        bar = [[mean - low], [high - mean]]
        drawn = {"color": MEAN, "ms": 6.5, "mec": "white", "mew": 0.5, "capsize": 3, "lw": 1.4, "zorder": 4}
        label = f"mean, 95 % interval, n = {len(values)}"
        ax.errorbar(mean, y, xerr=bar, fmt="D", label=label, **drawn)

"""What a choice cost and what it gained: one marker a method, costs on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from hybrid.figures import BAND_FROM, DRAW_POINTS_BELOW, INK, MIXER_STYLE, PAGE_WIDTH
from hybrid.figures.gates import MARKERS
from hybrid.statistics.intervals import check_columns, interval

COLORS = tuple(look.color for look in MIXER_STYLE.values())
FREE = 10.0
"""How far left of the least cost what costs nothing is drawn, as a factor."""
APART = 1.3
"""How far apart methods that cost nothing are drawn, as a factor: none hides another."""
MOST_DECADES = 5
"""Ticks stand at every power of ten up to this many, then at every second one, and so on."""


def payoff(df: pd.DataFrame, costs: Mapping[str, str], gain: str, *, ylabel: str) -> Figure:
    """Mean gain against mean cost, one panel a cost, one marker a method; 95 % interval of the gain
    (`interval`) where `BAND_FROM` values or more stand behind it.

    Args:
        df: one row a method and seed, with a column ``name``, the gain and the costs. With fewer than five
            values behind a mean every one is drawn as a dot. Methods come in the frame's order.
        costs: column -> axis label. A mean cost of 0 stands left of a dotted line, at the tick "0".

    The legend states n. Raises ``ValueError`` naming a missing column, an empty table, or a negative cost.
    """
    check_columns(df, "name", gain, *costs)
    for cost in costs:
        if df[cost].min() < 0:
            raise ValueError(f"a cost is at least 0; got {df[cost].min():g} in {cost!r}")
    names = list(df["name"].unique())
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(PAGE_WIDTH, 3.6 + 0.2 * rows), layout="constrained")
    axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    few, many = df.groupby("name")[gain].count().agg(["min", "max"])
    for ax, (cost, label) in zip(axes, costs.items(), strict=True):
        means = df.groupby("name", sort=False)[cost].mean()
        paid = means[means > 0]
        least = paid.min() if len(paid) else 1.0
        free = least / FREE
        nothing = [name for name in names if not means[name]]
        for i, name in enumerate(names):
            values = df.loc[df["name"] == name, gain].dropna()
            look = {"color": COLORS[i % len(COLORS)], "zorder": 3}
            x = means[name] or free * APART ** nothing.index(name)
            mean, low, high = interval(values)
            bar = [[mean - low], [high - mean]] if len(values) >= BAND_FROM else None
            marks = {"fmt": MARKERS[i % len(MARKERS)], "ms": 7.5, "mec": "white", "mew": 0.5, "label": name}
            ax.errorbar(x, mean, yerr=bar, capsize=2.5, lw=1.1, **marks, **look)
            if 1 < len(values) < DRAW_POINTS_BELOW:
                ax.plot([x] * len(values), values, "_", ms=7, mew=1.1, alpha=0.6, **look)
        ax.axhline(0, color=INK, lw=0.8, zorder=1)
        ax.set(xscale="log", xlabel=label)
        _ticks(ax, least, means.max() or 1.0, free if nothing else None)
    axes[0].set_ylabel(ylabel)
    title = "one value a marker"
    if many > 1:
        words = "mean, 95 % interval" if few >= BAND_FROM else "mean"
        title = f"{words}, n = {few}" + (f" to {many}" if many > few else "")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=4)
    return figure


def _ticks(ax, least: float, most: float, free: float | None) -> None:
    powers = [t for t in LogLocator(numticks=99).tick_values(least, most) if least / 2 <= t <= most * 2]
    powers = powers[:: -(-len(powers) // MOST_DECADES)] or [least]
    if free is not None:
        ax.axvline(least / FREE**0.5, color="#8c8c8c", ls=":", lw=1)
    ax.xaxis.set_major_locator(FixedLocator(powers if free is None else [free, *powers]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: "0" if t == free else f"$10^{{{log10(t):g}}}$"))
    ax.xaxis.set_minor_locator(NullLocator())

"""Methods compared at equal budgets: one row a method, one panel a budget, means with every value behind."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure

from hybrid.figures import BAND_FROM, DRAW_POINTS_BELOW, PAGE_WIDTH
from hybrid.statistics.intervals import ANY, check_columns, interval

LEVELS = (("#0b0da3", "o", "-"), ("#cd7c06", "^", "--"), ("#a90009", "D", ":"), ("#646464", "P", "-."))
"""Colour, marker and line style of the levels of a row, such as lengths of a text, in order."""
ROW_INCHES = 0.27
CHARACTERS = 78
"""Of a label, that the panels hold side by side."""
SPREAD = 0.62
"""Share of a row's height over which its levels lie."""


def compared(
    df: pd.DataFrame,
    x: str,
    *,
    xlabel: str,
    level: str | None = None,
    reference: str | None = None,
    bounds: tuple[float, float] = ANY,
) -> Figure:
    """Mean of ``x`` with its 95 % interval (`interval`) where `BAND_FROM` values or more stand behind it: one
    panel a value of ``panel``, one row a ``name``, and in a row one marker a ``level``, from above.

    Args:
        df: one row a value, with columns ``panel``, ``name`` and ``x``. With fewer than five values behind a
            mean every value is drawn as a dot. Rows, panels and levels come in the frame's order.
        level: a column with at most as many values as `LEVELS`.
        reference: the name whose means are drawn as vertical lines through their panel as well.
        bounds: least and largest possible ``x``; an interval that goes beyond is cut off there.

    The legend states n. Raises ``ValueError`` naming a missing column, an empty table, a reference that is no
    row, or too many levels.
    """
    check_columns(df, "panel", "name", x, *([level] if level else []))
    names, levels = list(df["name"].unique()), list(df[level].unique()) if level else [""]
    if reference is not None and reference not in names:
        raise ValueError(f"no row {reference!r}; there are: {', '.join(map(str, names))}")
    if len(levels) > len(LEVELS):
        raise ValueError(f"column {level!r} has {len(levels)} values; allowed: at most {len(LEVELS)}")
    titles = list(df["panel"].unique())
    inches = len(names) * ROW_INCHES * (1 + 0.25 * (len(levels) - 1))
    figure = Figure(figsize=(PAGE_WIDTH, inches + 1.5), layout="constrained")
    axes = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
    counts = []
    for ax, title in zip(axes, titles, strict=True):
        mine = df[df["panel"] == title]
        for order, (value, look) in enumerate(zip(levels, LEVELS, strict=False)):
            rows = mine[mine[level] == value] if level else mine
            shift = SPREAD * ((order + 0.5) / len(levels) - 0.5)
            for y, name in enumerate(names):
                values = rows.loc[rows["name"] == name, x].dropna()
                if len(values):
                    counts.append(len(values))
                    _row(ax, y + shift, values, look, bounds, str(value))
                    if name == reference:
                        ax.axvline(values.mean(), color=look[0], ls=look[2], lw=0.9, zorder=1)
        for y in range(1, len(names)):
            ax.axhline(y - 0.5, color="#dddddd", lw=0.6, zorder=0)
        ax.set(title=title, xlabel=fill(xlabel, CHARACTERS // len(titles)), ylim=(len(names) - 0.4, -0.6))
        ax.grid(axis="y", visible=False)
        if bounds != ANY:
            margin = 0.04 * (bounds[1] - bounds[0])
            ax.set_xlim(bounds[0] - margin, bounds[1] + margin)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].tick_params(axis="y", length=0)
    entries = {}
    for ax in axes:
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    shown = [str(value) for value in levels if level and str(value) in entries]
    place = {"loc": "outside lower center", "ncols": len(LEVELS), "title": _n(counts)}
    figure.legend([entries[name] for name in shown], shown, **place)
    return figure


def _row(ax, y: float, values: pd.Series, look: tuple, bounds: tuple[float, float], label: str) -> None:
    color, marker, _ = look
    mean, low, high = interval(values, bounds=bounds)
    bar = [[mean - low], [high - mean]] if len(values) >= BAND_FROM else None
    drawn = {"color": color, "ms": 6, "mec": "white", "mew": 0.5, "capsize": 2, "lw": 1.1, "zorder": 3}
    ax.errorbar(mean, y, xerr=bar, fmt=marker, label=label, **drawn)
    if 1 < len(values) < DRAW_POINTS_BELOW:
        dots = {"color": color, "linestyle": "none", "ms": 2.6, "alpha": 0.6, "mew": 0, "zorder": 4}
        ax.plot(values, [y + 0.13] * len(values), "o", **dots)


def _n(counts: list[int]) -> str:
    few, many = min(counts), max(counts)
    if many == 1:
        return "one value a marker"
    words = "mean" if many < BAND_FROM else "mean, 95 % interval"
    if few < BAND_FROM <= many:
        words += f" from {BAND_FROM} values on"
    return f"{words}, n = {few}" + (f" to {many}" if many > few else "")

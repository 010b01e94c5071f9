"""Scatter plots with their Pareto front: filled points and a staircase; everything else is hollow."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from hybrid.figures import MIXER_STYLE, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns
from hybrid.statistics.pareto import pareto_front


def fronts(
    df: pd.DataFrame,
    x: str,
    y: str,
    better: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    panel: str | None = None,
    log: Sequence[str] = (),
    note: str = "",
) -> Figure:
    """Models by two properties, one point each, with the front of each panel.

    Args:
        df: one row a model, with columns ``x`` and ``y``, ``mixer`` (a mixer, or "full") and ``label``,
            which is written beside points on the front. Columns ``{x}_low`` and ``{x}_high`` of its name, and
            those of ``y``, draw an interval; it is cut off at the edge of the panel, which the points decide.
        better: "high" or "low" for x and for y.
        panel: a column with one panel a value, side by side.
        log: which axes are logarithmic, of "x" and "y".
        note: what a point is, for the legend, such as "mean of 3 seeds".

    Rows without a finite ``x`` or ``y`` are left out. Raises ``ValueError`` for a missing column or no row.
    """
    df = df.dropna(subset=[c for c in (x, y) if c in df])
    check_columns(df, x, y, "mixer", "label", *([panel] if panel else []))
    titles = list(df[panel].unique()) if panel else [""]
    figure = Figure(figsize=(PAGE_WIDTH, 4.2), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        _front(ax, df[df[panel] == title] if panel else df, x, y, better, log)
        ax.set(title=title, xlabel=xlabel)
    axes[0].set_ylabel(ylabel)
    entries = {}
    for ax in axes:
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    place = {"loc": "outside lower center", "ncols": 4, "title": f"filled: on the front; {note}".rstrip("; ")}
    figure.legend(list(entries.values()), list(entries), **place)
    return figure


def _front(ax, df: pd.DataFrame, x: str, y: str, better: Sequence[str], log: Sequence[str]) -> None:
    ax.margins(0.15)
    for axis, column in (("x", x), ("y", y)):
        if axis in log:
            _logarithmic(ax, axis, df[column].max() / df[column].min())
    on = pareto_front(df[[x, y]].to_numpy(), better)
    best = df[on].sort_values([x, y], ascending=[True, better[1] == better[0]])
    steps = "steps-pre" if better[0] == "high" else "steps-post"
    ax.plot(best[x], best[y], color="#8c8c8c", lw=1.1, drawstyle=steps, zorder=1)
    for mixer, rows in df.assign(on=on).groupby("mixer", sort=False):
        look = MIXER_STYLE[mixer]
        for chosen, face in ((rows[~rows["on"]], "white"), (rows[rows["on"]], look.color)):
            marks = {"linestyle": "none", "marker": look.marker, "color": look.color, "mfc": face}
            ax.plot(chosen[x], chosen[y], **marks, zorder=3)
        ax.plot([], [], linestyle="none", marker=look.marker, color=look.color, label=look.label)
    bars = {
        f"{side}err": [df[c] - df[f"{c}_low"], df[f"{c}_high"] - df[c]]
        for side, c in (("x", x), ("y", y))
        if f"{c}_low" in df
    }
    if bars:
        limits = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
        inks = [MIXER_STYLE[mixer].color for mixer in df["mixer"]]
        ax.errorbar(df[x], df[y], **bars, fmt="none", ecolor=inks, alpha=0.3, lw=0.9, zorder=2)
        ax.set(**limits)
    right, up = better[0] == "high", better[1] == "high"
    place = {"ha": "left" if right else "right", "va": "bottom" if up else "top"}
    for row in best[[x, y, "label"]].itertuples(index=False):
        # Towards the better side of the front, where no point can be.
        offset = (4 if right else -4, 3 if up else -3)
        ax.annotate(row[2], row[:2], xytext=offset, textcoords="offset points", fontsize=8, **place)


def _logarithmic(ax, axis: str, span: float) -> None:
    ax.set(**{f"{axis}scale": "log"})
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    few = (1, 2, 5) if span > 4 else (1, 1.5, 2, 3, 5, 7)
    ticks.set_major_locator(LogLocator(subs=(1,) if span > 50 else few))
    ticks.set_major_formatter(EngFormatter(sep=""))
    ticks.set_minor_locator(NullLocator())

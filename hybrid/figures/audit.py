"""The figure of an audit: how far printed numbers lie from recomputed ones, beside what rounding explains."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hybrid.figures import NEUTRAL, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns


def difference_strips(df: pd.DataFrame, x: str, group: str, *, band: float, xlabel: str) -> Figure:
    """One strip a group, one mark a row: a disc within the band around zero, a cross outside.

    The axis is linear within twice the band and logarithmic outside, so that what rounding explains and what
    it does not are both legible. Marks of a strip are spread over its height and lie in the frame's order.

    Args:
        band: half its width, in the unit of ``x``; a mark on its edge is inside.

    Raises ``ValueError`` naming a missing column, for an empty table, or a band that is not positive.
    """
    check_columns(df, x, group)
    if not band > 0:
        raise ValueError(f"band must be positive; got {band!r}")
    names = list(df[group].unique())
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 0.52 * len(names)), layout="constrained")
    ax = figure.subplots()
    ax.axvspan(-band, band, color=NEUTRAL[2][0], alpha=0.25, lw=0, label="explained by rounding")
    edge = band * (1 + 1e-9)
    for row, name in enumerate(names):
        values = df.loc[df[group] == name, x].to_numpy()
        heights = row + 0.56 * ((pd.RangeIndex(len(values)) + 0.5) / len(values) - 0.5)
        for inside, marker, size, color in ((True, "o", 7, "#446aff"), (False, "X", 9, "#a90009")):
            chosen = (abs(values) <= edge) == inside
            label = "agrees" if inside else "differs"
            ax.plot(values[chosen], heights[chosen], marker, color=color, mec="white", ms=size, label=label)
    ax.set_xscale("symlog", linthresh=2 * band, linscale=0.8)
    reach = max(abs(df[x]).max(), 4 * band)
    steps = [s * band for s in (1, 4, 20, 100, 500) if s * band <= reach * 1.6]
    ax.xaxis.set_major_locator(FixedLocator([-s for s in reversed(steps)] + [0, *steps]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:+g}" if t else "0"))
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.45, -0.55), xlabel=xlabel)
    ax.set_xlim(-1.3 * max(reach, steps[-1]), 1.3 * max(reach, steps[-1]))
    handles, labels = ax.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3)
    return figure

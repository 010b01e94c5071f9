"""The figure of paired differences: one interval a comparison, beside the margin that counts as none."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hybrid.figures import DRAW_POINTS_BELOW, MIXER_STYLE, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns, summary


def effect_intervals(df: pd.DataFrame, x: str, hue: str, label: str, *, margin: float, xlabel: str) -> Figure:
    """Mean paired difference of every comparison with its 95 % interval, and a band from -margin to margin.

    An interval inside the band shows that the two sides are equivalent, one wholly beyond it that they
    differ by more than the margin; one that does neither, that the runs do not tell.

    Args:
        df: one row a pair of runs. With fewer than five pairs behind a mean every one is drawn.
        x: the column of differences.
        hue: the column of mixers; each is one block of rows in its colour and marker.
        label: what the rows of a block are called.
        margin: in the unit of ``x``.

    The legend states n. Raises ``ValueError`` naming a missing column, for an empty table, or a margin
    that is not positive.
    """
    check_columns(df, x, hue, label)
    if not margin > 0:
        raise ValueError(f"margin must be positive; got {margin!r}")
    table = summary(df, [hue, label], x)
    figure = Figure(figsize=(PAGE_WIDTH, 1.3 + 0.27 * len(table)), layout="constrained")
    ax = figure.subplots()
    ax.axvspan(-margin, margin, color="#8c8c8c", alpha=0.2, lw=0, label=f"within ±{margin:g}")
    ax.axvline(0, color="#222222", lw=0.8)
    for y, row in enumerate(table.itertuples(index=False)):
        look = MIXER_STYLE[getattr(row, hue)]
        drawn = {"color": look.color, "marker": look.marker}
        bar = [[row.mean - row.low], [row.high - row.mean]] if row.n > 1 else None
        ax.errorbar(
            row.mean, y, xerr=bar, capsize=3, lw=1.6, ms=7, mec="white", mew=0.5, label=look.label, **drawn
        )
        points = df.loc[(df[hue] == getattr(row, hue)) & (df[label] == getattr(row, label)), x]
        if 1 < row.n < DRAW_POINTS_BELOW:
            ax.plot(points, [y + 0.28] * len(points), linestyle="none", ms=3, alpha=0.6, mew=0, **drawn)
    ax.set(yticks=range(len(table)), yticklabels=table[label], ylim=(len(table) - 0.4, -0.6), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    few, many = table["n"].min(), table["n"].max()
    title = f"mean, 95 % interval, n = {few}" + (f" to {many}" if many > few else "")
    figure.legend(list(entries.values()), list(entries), title=title, loc="outside lower center", ncols=4)
    return figure

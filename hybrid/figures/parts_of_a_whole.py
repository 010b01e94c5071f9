"""What a whole is made of: one bar a candidate, its parts one after the other."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hybrid.figures import INK, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns

LOOKS = (
    ("#0b0da3", ""),
    ("#446aff", "//"),
    ("#c9d4f5", ""),
    ("#ffffff", "xx"),
    ("#8c8c8c", ""),
    ("#dddddd", ".."),
)
"""Fill and hatch of the parts, in order."""
ROW_INCHES = 0.32


def parts(df: pd.DataFrame, candidate: str, part: str, value: str, *, xlabel: str) -> Figure:
    """One horizontal bar a candidate, from the top in the frame's order, with its sum written at its end.

    Args:
        df: one row a candidate and part. At most six parts; hatches tell them apart as colours do.

    Raises ``ValueError`` naming a missing column, an empty table, a negative value, or too many parts.
    """
    check_columns(df, candidate, part, value)
    if df[value].min() < 0:
        raise ValueError(f"a part is at least 0; got {df[value].min():g} in {value!r}")
    names, pieces = list(df[candidate].unique()), list(df[part].unique())
    if len(pieces) > len(LOOKS):
        raise ValueError(f"at most {len(LOOKS)} parts can be told apart; got {len(pieces)}")
    table = df.pivot_table(value, candidate, part, sort=False).fillna(0.0)
    figure = Figure(figsize=(PAGE_WIDTH, 1.2 + ROW_INCHES * len(names)), layout="constrained")
    ax = figure.subplots()
    left = pd.Series(0.0, index=table.index)
    for piece, (color, hatch) in zip(pieces, LOOKS, strict=False):
        ax.barh(
            names,
            table.loc[names, piece],
            left=left[names],
            color=color,
            hatch=hatch,
            ec=INK,
            lw=0.6,
            label=piece,
        )
        left = left + table[piece]
    for place, name in enumerate(names):
        ax.text(left[name], place, f" {left[name]:.3g}", va="center", fontsize=8, color=INK)
    ax.set(xlabel=xlabel)
    ax.margins(x=0.09)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=len(pieces))
    return figure

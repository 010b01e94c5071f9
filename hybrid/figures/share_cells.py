"""Tables of shares as shaded cells: how often a block is kept, how far sets agree, what is recalled where."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from hybrid.figures import INK, PAGE_WIDTH

MAP = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#c9d4f5", "#446aff", "#0b0da3"])
"""From white, 0, over tints to the darkest blue, 1: lightness alone orders them."""
DARK = 0.45
"""Shares above this are written in white."""
ROW_INCHES = 0.24


def share_cells(
    tables: Mapping[str, pd.DataFrame], *, label: str, xlabel: str = "", across: int = 1, turned: bool = False
) -> Figure:
    """One panel a table, one cell a value from 0, white, to 1, dark, with the value written in it; index and
    columns name rows and columns.

    Args:
        tables: title -> shares; NaN, where there is no value, is crossed out.
        label: what a cell holds, for the scale.
        across: panels side by side; those of a row share the names of their rows.
        turned: write the names of columns upwards, where they are long.

    Raises ``ValueError`` when there is no table, or naming a value outside [0, 1].
    """
    if not tables:
        raise ValueError("no table to draw")
    for title, table in tables.items():
        values = table.to_numpy(dtype=float)
        outside = values[(values < 0) | (values > 1)]
        if outside.size:
            raise ValueError(f"shares lie between 0 and 1; got {outside[0]:g} in {title!r}")
    rows, columns = -(-len(tables) // across), min(across, len(tables))
    tall = max(len(table) for table in tables.values())
    longest = max(len(str(name)) for table in tables.values() for name in table.columns) if turned else 0
    height = rows * (tall * ROW_INCHES + 0.5) + 0.062 * longest + 0.6
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(tables) :]:
        ax.remove()
    for place, (ax, (title, table)) in enumerate(zip(axes, tables.items(), strict=False)):
        last = place + columns >= len(tables)
        _cells(ax, table)
        rotation = 90 if turned else 0
        ax.set_xticks(np.arange(len(table.columns)) + 0.5, table.columns, rotation=rotation)
        ax.set_yticks(np.arange(len(table)) + 0.5, table.index)
        ax.tick_params(length=0, labelsize=8, labelleft=place % columns == 0, labelbottom=last or not turned)
        ax.set(title=title, xlabel=xlabel if last else "")
        ax.grid(visible=False)
        ax.invert_yaxis()
    scale = {"orientation": "horizontal", "shrink": 0.4, "aspect": 30, "pad": 0.03}
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), MAP), ax=list(axes[: len(tables)]), **scale)
    bar.set_label(label)
    bar.set_ticks([0, 0.5, 1])
    return figure


def _cells(ax, table: pd.DataFrame) -> None:
    values = table.to_numpy(dtype=float)
    edges = {"edgecolors": "#e6e6e6", "linewidth": 0.3}
    ax.pcolormesh(np.ma.masked_invalid(values), cmap=MAP, vmin=0, vmax=1, **edges)
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > DARK else INK
        place = {"ha": "center", "va": "center_baseline", "fontsize": 7}
        ax.text(
            column + 0.5,
            row + 0.5,
            "×" if np.isnan(value) else f"{value:.2f}".rstrip("0").rstrip("."),
            color=ink,
            **place,
        )

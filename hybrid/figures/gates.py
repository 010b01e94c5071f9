"""Figures of gates, one a block: as lines, and the loss over two of them.

Blocks are counted from 0. A block has its colour, dark for the first and light for the last, with its own
marker and dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from hybrid.figures import INK, PAGE_WIDTH, PANELS, Look
from hybrid.statistics.intervals import check_columns

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p", ">", "h")
DASHES = ("-", "--", ":", "-.")
LIGHTEST = 0.63
"""Where the colour map ends: what lies beyond has a contrast below 3:1 against white."""


def block_look(block: int, depth: int) -> Look:
    """How a block is drawn in a stack of that depth."""
    color = mpl.colormaps["plasma"](LIGHTEST * block / max(1, depth - 1))
    mark, dash = MARKERS[block % len(MARKERS)], DASHES[block % len(DASHES)]
    return Look(f"block {block}", mpl.colors.to_hex(color), mark, dash)


def gate_curves(
    df: pd.DataFrame, x: str, *, xlabel: str, panel: str | None = None, log: bool = False
) -> Figure:
    """Gates against ``x``, one line a block.

    Args:
        df: one row a block and ``x``, with columns ``block`` (from 0) and ``gate`` (0..1).
        panel: a column with one panel a value, such as a run, `PANELS` a row.
        log: a logarithmic ``x``, with a tick at each of its values; else its ticks are whole numbers.

    Raises ``ValueError`` naming a missing column, or for an empty table.
    """
    check_columns(df, x, "block", "gate", *([panel] if panel else []))
    titles = list(df[panel].unique()) if panel else [""]
    rows = -(-len(titles) // PANELS)
    columns = -(-len(titles) // rows)
    figure = Figure(figsize=(PAGE_WIDTH, 1.1 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[len(titles) :]:
        ax.remove()
    depth = df["block"].max() + 1
    for place, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        for block, line in (df[df[panel] == title] if panel else df).groupby("block"):
            look, line = block_look(block, depth), line.sort_values(x)
            drawn = {"color": look.color, "linestyle": look.dash, "marker": look.marker, "label": look.label}
            ax.plot(line[x], line["gate"], mec="white", markevery=max(1, len(line) // 8), **drawn)
        ax.set(title=title, ylim=(-0.04, 1.04), ylabel="" if place % columns else "Gate")
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(sorted(df[x].unique())))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place + columns >= len(titles):
            ax.set_xlabel(xlabel)
    handles, labels = axes[0].get_legend_handles_labels()
    ncols = -(-len(labels) // -(-len(labels) // 6))
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, handlelength=3.2)
    return figure


def gate_surface(
    surfaces: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    paths: Mapping[str, Sequence[tuple[float, float]]],
) -> Figure:
    """A loss over two gates, one panel a surface, in shades between level lines; levels grow by a constant
    factor. A cross marks the least value of the grid, and a line the way that a training went, with a
    square where it began and a disc where it ended.

    Args:
        surfaces: title -> [N, N] positive values; rows are the gate of the vertical axis, columns that of the
            horizontal one, each evenly from 0 to 1.
        label: what the values are, for the scale of all panels.
        paths: title -> the points (horizontal, vertical) that a training passed.

    Raises ``ValueError`` when a surface is not square, or has a value that is not positive.
    """
    for title, values in surfaces.items():
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not (values > 0).all():
            raise ValueError(f"surface {title!r} must be [N, N] with positive values; got {values.shape}")
    least = min(values.min() for values in surfaces.values())
    most = max(values.max() for values in surfaces.values())
    levels, norm = np.geomspace(least, most, 9), mpl.colors.LogNorm(least, most)
    figure = Figure(figsize=(PAGE_WIDTH, 3.7), layout="constrained")
    axes = figure.subplots(1, len(surfaces), sharey=True, squeeze=False)[0]
    for ax, (title, values) in zip(axes, surfaces.items(), strict=True):
        at = np.linspace(0, 1, len(values))
        shades = ax.contourf(at, at, values, levels, norm=norm, cmap="Blues", alpha=0.75)
        ax.contour(at, at, values, levels[1:-1], colors=INK, linewidths=0.7)
        row, column = np.unravel_index(values.argmin(), values.shape)
        point = {"linestyle": "none", "clip_on": False, "mec": "white"}
        ax.plot(at[column], at[row], "X", color=INK, ms=15, label="least on the grid", zorder=4, **point)
        x, y = zip(*paths[title], strict=True)
        ax.plot(x, y, color="#a90009", lw=1.8, clip_on=False, zorder=5, label="the way of the training")
        for place, mark, name, size in ((0, "s", "its start", 9), (-1, "o", "its end", 6)):
            ax.plot(x[place], y[place], mark, color="#a90009", ms=size, label=name, zorder=6, **point)
        ax.set_title(title, pad=12)
        ax.set(xlabel=xlabel, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.grid(False)
    axes[0].set_ylabel(ylabel)
    figure.colorbar(shades, ax=list(axes), label=label, ticks=levels, format="%.3g", shrink=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure

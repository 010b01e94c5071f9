"""Figures of gates, one a block: as lines, as a map of numbers, and the loss over two of them.

Blocks are counted from 0. A block has its colour, dark for the first and light for the last, with its own
marker and dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hybrid.figures import INK, PAGE_WIDTH, PANELS, Look
from hybrid.intervals import check_columns

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
        log: a logarithmic ``x``, with a tick at each of its values.

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
        if place + columns >= len(titles):
            ax.set_xlabel(xlabel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), handlelength=3.2)
    return figure


def gate_map(df: pd.DataFrame, row: str) -> Figure:
    """Final gates as numbers, one row a run and one column a block; a frame marks blocks that stay full.

    Args:
        df: one row a run and block, with columns ``row`` (its label), ``block`` (from 0), ``gate`` (0..1)
            and ``kept`` (whether the block stays full). Rows are drawn in the frame's order.

    Raises ``ValueError`` naming a missing column, or for an empty table.
    """
    check_columns(df, row, "block", "gate", "kept")
    names, depth = list(df[row].unique()), df["block"].max() + 1
    figure = Figure(figsize=(PAGE_WIDTH, 0.7 + 0.27 * len(names)), layout="constrained")
    ax = figure.subplots()
    shades = mpl.colormaps["Blues"]
    for line in df.itertuples(index=False):
        x, y = line.block, names.index(getattr(line, row))
        shade = 0.85 * line.gate
        ax.add_patch(Rectangle((x, y), 1, 1, fc=shades(shade), ec="white", lw=0.8))
        if line.kept:
            frame = Rectangle((x + 0.05, y + 0.08), 0.9, 0.84, fill=False, ec=INK, lw=1.6, gid="kept")
            ax.add_patch(frame)
        weight = "bold" if line.kept else "normal"
        ink = "white" if shade > 0.5 else INK
        at = {"ha": "center", "va": "center_baseline", "fontsize": 8}
        ax.text(x + 0.5, y + 0.5, f"{line.gate:.2f}", color=ink, fontweight=weight, **at)
    ax.set(xlim=(0, depth), ylim=(len(names), 0), xlabel="Block")
    ax.set_xticks(np.arange(depth) + 0.5, range(depth))
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return figure


def gate_surface(
    surfaces: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    paths: Mapping[str, Sequence[tuple[float, float]]],
) -> Figure:
    """A loss over two gates, one panel a surface, with labelled level lines; levels grow by a constant
    factor. A cross marks the least value of the grid, and a line the way that a training went, with a
    square where it began and a disc where it ended.

    Args:
        surfaces: title -> [N, N] positive values; rows are the gate of the vertical axis, columns that of the
            horizontal one, each evenly from 0 to 1.
        paths: title -> the points (horizontal, vertical) that a training passed.

    Raises ``ValueError`` when a surface is not square, or has a value that is not positive.
    """
    for title, values in surfaces.items():
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not (values > 0).all():
            raise ValueError(f"surface {title!r} must be [N, N] with positive values; got {values.shape}")
    least = min(values.min() for values in surfaces.values())
    most = max(values.max() for values in surfaces.values())
    levels = np.geomspace(least, most, 9)
    norm = mpl.colors.LogNorm(least, most)
    figure = Figure(figsize=(PAGE_WIDTH, 3.9), layout="constrained")
    axes = figure.subplots(1, len(surfaces), sharey=True, squeeze=False)[0]
    for ax, (title, values) in zip(axes, surfaces.items(), strict=True):
        at = np.linspace(0, 1, len(values))
        ax.contourf(at, at, values, levels, norm=norm, cmap="Blues", alpha=0.75)
        lines = ax.contour(at, at, values, levels[1:-1], colors=INK, linewidths=0.7)
        ax.clabel(lines, fmt="%.3g", fontsize=7)
        x, y = zip(*paths[title], strict=True)
        ax.plot(x, y, color="#a90009", lw=1.8, clip_on=False, zorder=4, label="the way of the training")
        ends = {"color": "#a90009", "linestyle": "none", "mec": "white", "clip_on": False, "zorder": 5}
        ax.plot(x[0], y[0], "s", label="its begin", ms=8, **ends)
        ax.plot(x[-1], y[-1], "o", label="its end", ms=8, **ends)
        row, column = np.unravel_index(values.argmin(), values.shape)
        cross = {"ms": 10, "mec": "white", "color": INK, "clip_on": False, "zorder": 6}
        ax.plot(at[column], at[row], "X", linestyle="none", label="least on the grid", **cross)
        ax.set(title=title, xlabel=xlabel, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.grid(False)
    axes[0].set_ylabel(ylabel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure

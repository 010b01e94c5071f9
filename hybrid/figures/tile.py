"""A square of pairs of tokens, each with the name of the group it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hybrid.figures import INK, PAGE_WIDTH

SHADES = ("#ffffff", "#d9d9d9", "#b5c7e8", "#f3cf9b", "#8fb8a4", "#c79ac4", "#9db4c0", "#e0b0a0")
"""Fill of a group, in order; the first is that of pairs that do not count. All carry dark letters."""


def tile(groups: np.ndarray, names: Sequence[str], *, xlabel: str, ylabel: str) -> Figure:
    """Pairs of a row and a column, filled by group and marked with the group's name.

    Args:
        groups: [C, C], the number of each pair's group, from 0.
        names: of the groups, short; what has an empty name is left blank.

    Raises ``ValueError`` for groups without a name or a shade.
    """
    groups = np.asarray(groups)
    allowed = min(len(names), len(SHADES))
    if groups.min() < 0 or groups.max() >= allowed:
        raise ValueError(f"groups must be from 0 to {allowed - 1}; got {groups.min()} to {groups.max()}")
    size = len(groups)
    figure = Figure(figsize=(0.75 * PAGE_WIDTH, 0.75 * PAGE_WIDTH), layout="constrained")
    ax = figure.subplots()
    colors = ListedColormap(SHADES[:allowed])
    edges = np.arange(size + 1) - 0.5
    ax.pcolormesh(edges, edges, groups, cmap=colors, vmin=-0.5, vmax=allowed - 0.5, edgecolors="#ffffff")
    for (i, j), group in np.ndenumerate(groups):
        ax.text(j, i, names[group], ha="center", va="center", fontsize=7.5, color=INK)
    ticks = range(size)
    ax.set(xlabel=xlabel, ylabel=ylabel, aspect="equal", xticks=ticks, yticks=ticks)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0, labelsize=8)
    return figure

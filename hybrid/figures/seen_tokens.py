"""The figure of what attention sees: one square a head, a query in every row and a key in every column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hybrid.figures import INK, PAGE_WIDTH

SEEN, UNSEEN = "#0b0da3", "#ffffff"


def seen_tokens(heads: Mapping[str, np.ndarray]) -> Figure:
    """Attention weights [T, T] of heads, queries in rows: a cell is dark where the weight is above zero.

    Raises ``ValueError`` when there is no head, or naming one whose weights are not square.
    """
    if not heads:
        raise ValueError("no head to draw")
    for name, weights in heads.items():
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(f"weights of {name!r} must be [T, T]; got {list(weights.shape)}")
    figure = Figure(figsize=(PAGE_WIDTH, PAGE_WIDTH / len(heads) + 1.0), layout="constrained")
    axes = figure.subplots(1, len(heads), sharey=True, squeeze=False)[0]
    for ax, (name, weights) in zip(axes, heads.items(), strict=True):
        edges = {"edgecolors": "#e6e6e6", "linewidth": 0.3}
        ax.pcolormesh(weights > 0, cmap=ListedColormap([UNSEEN, SEEN]), vmin=0, vmax=1, **edges)
        last = len(weights) - 1
        ticks = {"ticks": [0.5, last + 0.5], "labels": [0, last]}
        ax.set_xticks(**ticks)
        ax.set_yticks(**ticks)
        ax.set(title=name, aspect="equal", xlabel="Key at token")
        ax.grid(visible=False)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("Query at token")
    entries = [Patch(fc=SEEN, ec=INK, label="seen"), Patch(fc=UNSEEN, ec=INK, label="not seen")]
    figure.legend(handles=entries, loc="outside lower center", ncols=2)
    return figure

"""Heat maps of a memory while it is written, one a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hybrid.figures import PAGE_WIDTH


def state_strip(
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str],
    *,
    keys: Sequence[str] = (),
    limit: float | None = None,
) -> Figure:
    """Heat maps in rows: the state of a memory after each token of a short sequence, and what is read.

    Args:
        rows: label -> one array a title: [K, V], or [1, V] for a vector state and for a read-out.
        titles: one a column, such as the token written.
        keys: names of the key channels, written left of the rows that have as many.
        limit: where the diverging colour scale ends on both sides of zero; None is the largest value.

    Raises ``ValueError`` when a row does not hold one array a title.
    """
    for label, panels in rows.items():
        if len(panels) != len(titles):
            raise ValueError(f"row {label!r} holds {len(panels)} arrays for {len(titles)} titles")
    rows = {label: [np.asarray(p, dtype=float) for p in panels] for label, panels in rows.items()}
    limit = limit or max(np.abs(p).max() for panels in rows.values() for p in panels) or 1.0
    norm, gap, between = Normalize(-limit, limit), 1.0, 2.4
    widths = [max(panel.shape[1] for panel in column) for column in zip(*rows.values(), strict=True)]
    lefts = np.cumsum([0, *(width + gap for width in widths)])

    figure = Figure()
    ax = figure.add_axes([0, 0, 1, 1])
    top = 0.0
    for label, panels in rows.items():
        height = max(len(p) for p in panels)
        ax.text(0, top - 0.3, label, ha="left", va="bottom", fontweight="bold", fontsize=9.5)
        for i, key in enumerate(keys if len(keys) == height else ()):
            ax.text(-0.4, top + i + 0.5, key, ha="right", va="center", fontsize=7.5)
        for left, panel in zip(lefts[:-1], panels, strict=True):
            k, v = panel.shape
            x, y = left + np.arange(v + 1), top + np.arange(k + 1)
            ax.pcolormesh(x, y, panel, cmap="RdBu_r", norm=norm, edgecolors="#e6e6e6", linewidth=0.3)
            ax.add_patch(Rectangle((left, top), v, k, fill=False, edgecolor="#666666", linewidth=0.8))
        top += height + between
    for left, width, title in zip(lefts[:-1], widths, titles, strict=True):
        ax.text(left + width / 2, -between + 0.6, title, ha="center", va="bottom", fontsize=9)

    right, bottom, head = lefts[-1] + 0.4, top - between + 0.5, -between - 0.8
    height = PAGE_WIDTH / (right + 1.6) * (bottom - head) + 0.6
    figure.set_size_inches(PAGE_WIDTH, height)
    ax.set(xlim=(-1.6, right), ylim=(bottom, head), position=[0, 0.6 / height, 1, 1 - 0.6 / height])
    ax.axis("off")
    bar = figure.add_axes([0.3, 0.43 / height, 0.4, 0.12 / height])
    figure.colorbar(ScalarMappable(norm, "RdBu_r"), bar, orientation="horizontal", label="value held")
    bar.tick_params(labelsize=8, pad=1)
    return figure

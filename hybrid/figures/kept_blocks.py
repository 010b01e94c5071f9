"""Which blocks stay full: one row a method, one cell a block, shaded by how many of its layouts keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hybrid.config.layout import LETTERS, Layout
from hybrid.figures import INK, MIXER_STYLE, PAGE_WIDTH

LETTER_INCHES = 0.074
"""Room for one letter of a label."""
COUNT_INCHES = 0.85
ROW_INCHES = 0.235
MOST_CELL_INCHES = 0.36
LEAST_NAMED_INCHES = 0.16
"""In narrower cells only every fourth block is numbered."""
LIGHTEST = 0.92
"""Grey of a block that one of very many layouts keeps."""


def kept_blocks(layouts: Mapping[str, Sequence[Layout | str]]) -> Figure:
    """One row a label; blocks are counted from 0, as indices are.

    A cell is white where no layout of its row keeps the block full, and the darker the more do; where a row
    has several layouts their number is written in. It is hatched where the block is a sliding window in one
    of them. Each cell carries ``row-block-number`` as its `gid`. At the right stand the full blocks of a
    layout and the depth.

    Raises ``ValueError`` when there is no layout, or naming a row whose layouts differ in depth.
    """
    if not layouts:
        raise ValueError("no layout to draw")
    rows = {label: [Layout.parse(layout) for layout in group] for label, group in layouts.items()}
    for label, group in rows.items():
        if len({len(layout) for layout in group}) != 1:
            raise ValueError(f"the layouts of row {label!r} must have one depth; got {[*map(str, group)]}")
    depth = max(len(group[0]) for group in rows.values())
    left = LETTER_INCHES * max(map(len, [*rows, "block"])) + 0.15
    cell = min(MOST_CELL_INCHES, (PAGE_WIDTH - left - COUNT_INCHES) / depth)
    width, height = left + depth * cell + COUNT_INCHES, ROW_INCHES * (len(rows) + 1)
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes([0, 0, 1, 1])
    ax.set(xlim=(-left / cell, depth + COUNT_INCHES / cell), ylim=(len(rows) + 0.05, -0.95))
    ax.axis("off")
    step = 1 if cell >= LEAST_NAMED_INCHES else 4
    ax.text(-0.1 / cell, -0.4, "block", ha="right", va="center", fontsize=8)
    for block in range(0, depth, step):
        ax.text(block + 0.5, -0.4, str(block), ha="center", va="center", fontsize=7.5)
    for y, (label, group) in enumerate(rows.items()):
        ax.text(-0.1 / cell, y + 0.45, label, ha="right", va="center", fontsize=8.5)
        for block, letters in enumerate(zip(*group, strict=True)):
            _cell(ax, y, block, letters)
        budgets = sorted({len(layout.full) for layout in group})
        words = " or ".join(map(str, budgets)) + f" of {len(group[0])}"
        ax.text(len(group[0]) + 0.1 / cell, y + 0.45, words, va="center", fontsize=8.5)
    return figure


def _cell(ax, y: int, block: int, letters: tuple[str, ...]) -> None:
    kinds = [LETTERS[letter].mixers for letter in letters]
    number = sum("full" in mixers for mixers in kinds)
    share = number / len(letters)
    grey = LIGHTEST * (1 - share) if number else 1.0
    window = any("window" in mixers for mixers in kinds)
    edge = MIXER_STYLE["window"].color if window else "#b0b0b0"
    style = {"facecolor": (grey,) * 3, "edgecolor": edge, "hatch": "/////" if window else "", "lw": 0.6}
    ax.add_patch(Rectangle((block + 0.03, y), 0.94, 0.86, gid=f"{y}-{block}-{number}", **style))
    if number and len(letters) > 1:
        ink = "white" if grey < 0.5 else INK
        ax.text(block + 0.5, y + 0.45, str(number), ha="center", va="center", color=ink, fontsize=8)

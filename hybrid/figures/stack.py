"""A layout as a picture: every part of every block, or one cell a block.

Full, windowed and linear mixers are dark, hatched and tinted, and carry their letter, so that neither
colour nor a good screen is needed to tell them apart. Cards are white, as `hybrid.figures` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from hybrid.config import MIXERS
from hybrid.config.layout import LETTERS, Layout, Letter
from hybrid.figures import INK, MIXER_STYLE, PAGE_WIDTH, Look

COLUMN_BLOCKS = 8
"""Blocks drawn above each other before the residual stream goes on in the next column."""
COLUMN_WIDTH, COLUMN_INCHES = 5.4, PAGE_WIDTH / 3
"""Width of a column in drawing units, of which a branch is one high, and in inches."""
LABEL_INCHES, COUNT_INCHES = 1.45, 1.15
"""Room for the words at the left and at the right of `strips`."""
MLP_WORDS = {"dense": "MLP", "experts": "Experts"}
ANY_MIXER = Look("Linear mixer", "#6e6e6e", "o")
"""Where no mixer is named."""
PLAIN = "#f2f2f2"
"""Fill of the parts that every block has."""


@dataclass(frozen=True)
class BlockLook:
    """How the mixer of one letter is drawn."""

    name: str
    fill: str | tuple
    ink: str
    hatch: str
    edge: str


def block_looks(mixer: str | None = None) -> dict[str, BlockLook]:
    """The look of each letter where the linear mixer is `mixer`, or any: that of what mixes tokens in the
    block, or of its MLP where nothing does.

    Raises ``ValueError`` naming a mixer that does not exist.
    """
    if mixer is not None:
        MIXERS.check(mixer)
    look = ANY_MIXER if mixer is None else MIXER_STYLE[mixer]
    return {letter: _look(kind, look) for letter, kind in LETTERS.items()}


def _look(kind: Letter, look: Look) -> BlockLook:
    if not kind.mixers:
        return BlockLook(MLP_WORDS[kind.mlp], PLAIN, INK, "", "#6e6e6e")
    full, window = MIXER_STYLE["full"], MIXER_STYLE["window"]
    if kind.mixers == ("full",):
        return BlockLook(full.label, full.color, "white", "", full.color)
    if kind.mixers == ("window",):
        return BlockLook(window.label, "white", INK, "///", window.color)
    tint = tuple(0.82 + 0.18 * channel for channel in to_rgb(look.color))
    if kind.mixers == ("linear",):
        return BlockLook(look.label, tint, INK, "", look.color)
    return BlockLook(f"Full | {look.label}", tint, INK, "|||", full.color)


def stack(layout: Layout | str, mixer: str | None = None) -> Figure:
    """Every block with its branches, each a norm, a mixer or MLP, and a sum, on one residual stream.

    The stream enters at the bottom left and goes upwards; above `COLUMN_BLOCKS` blocks it goes on at
    the foot of the next column. Each part carries its kind as its `gid`: ``mixer-F``, ``norm``,
    ``mlp``, ``sum``; those of mixers end with the number of their block, from 1.

    Source: 2507.06457 v1, Figure 2, redrawn; the paper's picture is not reproduced.
    """
    layout = Layout.parse(layout)
    looks = block_looks(mixer)
    columns = ceil(len(layout) / COLUMN_BLOCKS)
    rows = ceil(len(layout) / columns)
    bottom, top = -1.3, 2 * rows + 1.7
    unit = COLUMN_INCHES / COLUMN_WIDTH
    figure = Figure(figsize=(columns * COLUMN_INCHES, (top - bottom) * unit))
    ax = figure.add_axes([0, 0, 1, 1])
    ax.set(xlim=(-0.95, columns * COLUMN_WIDTH - 0.95), ylim=(bottom, top))
    ax.axis("off")

    for index, letter in enumerate(layout):
        column, row = divmod(index, rows)
        x, y = column * COLUMN_WIDTH, 2 * row
        _block(ax, x, y, index + 1, looks[letter], letter)
    for column in range(columns):
        x, last = column * COLUMN_WIDTH, column == columns - 1
        drawn = min(rows, len(layout) - column * rows)
        _line(ax, [(x, -0.75 if column == 0 else -0.6), (x, 2 * drawn + 0.55)], arrow=last)
        if not last:
            turn, height = x + COLUMN_WIDTH - 0.9, 2 * rows + 0.55
            foot = x + COLUMN_WIDTH
            _line(ax, [(x, height), (turn, height), (turn, -0.6), (foot, -0.6)])
    _part(ax, "embeddings", -0.8, -1.1, 2.9, PLAIN, INK, "embeddings", align=0.4)
    end = (columns - 1) * COLUMN_WIDTH
    height = 2 * (len(layout) - (columns - 1) * rows) + 0.6
    _part(ax, "norm", end - 0.45, height, 0.9, PLAIN, INK, "norm", 0.42)
    _part(ax, "head", end + 0.75, height, 2.2, PLAIN, INK, "output layer", 0.42)
    _line(ax, [(end + 0.45, height + 0.21), (end + 0.75, height + 0.21)])
    return figure


def strips(layouts: Mapping[str, Layout], mixer: str | None = None) -> Figure:
    """One row a layout, one cell a block, the first block at the left; its count of full blocks beside.

    Raises ``ValueError`` when there is no layout.
    """
    if not layouts:
        raise ValueError("no layout to draw")
    looks = block_looks(mixer)
    depth = max(len(layout) for layout in layouts.values())
    cell = min(0.34, (PAGE_WIDTH - LABEL_INCHES - COUNT_INCHES) / depth)
    pitch = max(1.3, 0.3 / cell)
    left, right = LABEL_INCHES / cell, COUNT_INCHES / cell
    figure = Figure(figsize=((depth + left + right) * cell, (len(layouts) + 0.8) * pitch * cell))
    ax = figure.add_axes([0, 0, 1, 1])
    ax.set(xlim=(-left, depth + right), ylim=(len(layouts) * pitch, -0.8 * pitch))
    ax.axis("off")
    ax.text(-0.4, -0.3 * pitch, "block", ha="right", va="center", fontsize=8)
    for i in range(depth):
        ax.text(i + 0.5, -0.3 * pitch, f"{i + 1}", ha="center", va="center", fontsize=7)
    for row, (label, layout) in enumerate(layouts.items()):
        y = row * pitch
        ax.text(-0.4, y + 0.5, label, ha="right", va="center", fontsize=9)
        for i, letter in enumerate(layout):
            look = looks[letter]
            style = {"facecolor": look.fill, "edgecolor": look.edge, "hatch": look.hatch, "lw": 0.8}
            ax.add_patch(Rectangle((i, y), 1, 1, gid=f"mixer-{letter}-{i + 1}", **style))
            _word(ax, i + 0.5, y + 0.5, letter, look, 8)
        ax.text(
            len(layout) + 0.4, y + 0.5, f"{len(layout.full)} of {len(layout)} full", va="center", fontsize=9
        )
    return figure


def _block(ax, x: float, y: float, number: int, look: BlockLook, letter: str) -> None:
    frame = FancyBboxPatch(
        (x - 0.45, y + 0.03), 4.75, 1.94, "round,pad=0,rounding_size=0.12", fc="none", ec="#b0b0b0", lw=0.8
    )
    ax.add_patch(frame)
    ax.text(x - 0.55, y + 1, str(number), ha="right", va="center", fontsize=8)
    kind = LETTERS[letter]
    branches = [f"mixer-{letter}-{number}"] if kind.mixers else []
    branches += ["mlp"] if kind.mlp else []
    # A block of one branch stands in the middle.
    first = y + (2 - len(branches)) / 2
    for low, gid in zip((first, first + 1), branches, strict=False):
        out, back = low + 0.38, low + 0.84
        _line(ax, [(x, out), (x + 0.35, out)], arrow=True)
        _part(ax, "norm", x + 0.35, out - 0.25, 0.9, PLAIN, INK, "norm")
        _line(ax, [(x + 1.25, out), (x + 1.5, out)], arrow=True)
        if gid == "mlp":
            _part(ax, gid, x + 1.5, out - 0.25, 2.4, PLAIN, INK, MLP_WORDS[kind.mlp])
        else:
            word = f"{letter}  {look.name}"
            _part(ax, gid, x + 1.5, out - 0.25, 2.4, look.fill, look.ink, word, look=look)
        _line(ax, [(x + 3.9, out), (x + 4.1, out), (x + 4.1, back), (x + 0.16, back)], arrow=True)
        ax.add_patch(Circle((x, back), 0.15, fc="white", ec=INK, lw=0.9, zorder=3, gid="sum"))
        ax.text(x, back - 0.01, "+", ha="center", va="center_baseline", fontsize=8, zorder=4)


def _part(ax, gid, x, y, width, fill, ink, word, height=0.5, align=0.5, look=None) -> None:
    edge, hatch = (look.edge, look.hatch) if look else ("#6e6e6e", "")
    style = {"facecolor": fill, "edgecolor": edge, "hatch": hatch, "lw": 0.9, "zorder": 2}
    ax.add_patch(Rectangle((x, y), width, height, gid=gid, **style))
    _word(ax, x + width / 2, y + height / 2, word, look, 7)


def _word(ax, x: float, y: float, word: str, look: BlockLook | None, size: float) -> None:
    ink = look.ink if look else INK
    # A plain patch under the letters keeps the hatch from running through them.
    under = {"boxstyle": "square,pad=0.12", "fc": look.fill, "ec": "none"} if look else None
    ax.text(x, y, word, ha="center", va="center", color=ink, fontsize=size, bbox=under, zorder=4)


def _line(ax, points: list[tuple[float, float]], *, arrow: bool = False) -> None:
    ax.plot(*zip(*points, strict=True), color=INK, lw=0.9, zorder=1, solid_capstyle="round")
    if arrow:
        ax.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9})

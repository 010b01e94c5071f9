"""Layouts: which block of a hybrid holds which mixer, one letter a block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Letter(NamedTuple):
    """What a block of one letter holds, each part in a residual branch of its own."""

    words: str
    """What a reader calls it."""
    mixers: tuple[str, ...]
    """Of "full" (softmax attention over the whole past), "window" (over the last tokens) and "linear" (the
    config's linear mixer); two stand side by side in one branch."""
    mlp: str | None
    """ "dense", "experts" or None: the part of a `ModelConfig` that says which."""


LETTERS = {
    "F": Letter("full softmax attention", ("full",), "dense"),
    "W": Letter("sliding-window softmax attention", ("window",), "dense"),
    "L": Letter("the config's linear mixer", ("linear",), "dense"),
    "P": Letter("full attention and the linear mixer side by side", ("full", "linear"), "dense"),
    "f": Letter("full softmax attention without an MLP", ("full",), None),
    "w": Letter("sliding-window softmax attention without an MLP", ("window",), None),
    "l": Letter("the config's linear mixer without an MLP", ("linear",), None),
    "p": Letter("full attention and the linear mixer side by side without an MLP", ("full", "linear"), None),
    "m": Letter("an MLP alone", (), "dense"),
    "e": Letter("experts alone", (), "experts"),
}
"""The blocks a layout can hold. Upper case: the mixer, then an MLP; lower case: one branch alone."""
RULES = ("period", "literal")


@dataclass(frozen=True)
class Layout:
    """An ordered list of blocks, written as a string of letters such as ``"LLLF"``.

    `LETTERS` says what each letter holds. Layouts compare and hash by their letters.

    >>> Layout.parse("LLLF").full
    (3,)
    >>> str(Layout.from_ratio("3:1", depth=6))
    'LLFLLF'
    """

    letters: str

    def __post_init__(self) -> None:
        if not isinstance(self.letters, str) or not self.letters:
            raise ValueError(f"a layout needs at least one block; got {self.letters!r}")
        for position, letter in enumerate(self.letters):
            if letter not in LETTERS:
                allowed = ", ".join(f"{key} ({kind.words})" for key, kind in LETTERS.items())
                raise ValueError(
                    f"unknown block {letter!r} at position {position} of layout {self.letters!r}; "
                    f"allowed: {allowed}"
                )

    @classmethod
    def parse(cls, blocks: str | Iterable[str] | Layout) -> Layout:
        """Read a layout from a string, a list of letters, or another layout.

        Raises ``ValueError`` naming the unknown letter and its position.
        """
        if isinstance(blocks, Layout):
            return blocks
        if not isinstance(blocks, str):
            if not isinstance(blocks, Iterable):
                raise ValueError(f"a layout is a string or a list of letters; got {blocks!r}")
            blocks = list(blocks)
            odd = [b for b in blocks if not isinstance(b, str) or len(b) != 1]
            if odd:
                raise ValueError(f"a list layout holds one letter a block; got {odd[0]!r}")
            blocks = "".join(blocks)
        return cls(blocks)

    @classmethod
    def from_full(cls, full: Iterable[int], depth: int) -> Layout:
        """Linear blocks everywhere but at the zero-based positions ``full``.

        Raises ``ValueError`` for a position outside ``0..depth-1`` or named twice.
        """
        positions = list(full)
        for p in positions:
            if not isinstance(p, int) or not 0 <= p < depth:
                raise ValueError(
                    f"full block {p!r} is outside the model; allowed: 0..{depth - 1} at depth {depth}"
                )
            if positions.count(p) > 1:
                raise ValueError(f"full block {p} is named {positions.count(p)} times")
        return cls("".join("F" if i in positions else "L" for i in range(depth)))

    @classmethod
    def from_ratio(cls, ratio: str, depth: int, rule: str = "period") -> Layout:
        """The layout behind a label such as ``"6:1"``, ``"pure"`` or ``"full"``.

        The label is ambiguous (arXiv 2507.06457, v2 Appendix D, against the released checkpoints):

        * ``rule="period"``: every r-th block is full, last of its group, as in the released
          checkpoints. 24 blocks at ``3:1`` hold 8 full blocks, which is literally 2:1.
        * ``rule="literal"``: r linear blocks, then one full block, as the paper's text says.

        Raises ``ValueError`` when the label cannot be read or the depth cannot hold it.
        """
        if rule not in RULES:
            raise ValueError(f"unknown ratio rule {rule!r}; allowed: {', '.join(RULES)}")
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be a positive number of blocks; got {depth!r}")
        if ratio == "pure":
            return cls("L" * depth)
        if ratio == "full":
            return cls("F" * depth)
        match = re.fullmatch(r"([1-9]\d*):1", ratio) if isinstance(ratio, str) else None
        if match is None:
            raise ValueError(f"unknown ratio {ratio!r}; allowed: 'pure', 'full', or 'r:1' such as '6:1'")
        r = int(match.group(1))
        period = r if rule == "period" else r + 1
        if period == 1:
            raise ValueError(
                "1:1 is full attention in every block under the period rule: write 'full', or '2:1' for "
                "every second block"
            )
        if depth % period:
            raise ValueError(
                f"{ratio} needs a depth divisible by {period} under the {rule} rule; got {depth}"
            )
        return cls(("L" * (period - 1) + "F") * (depth // period))

    @property
    def full(self) -> tuple[int, ...]:
        """Zero-based positions of the full-attention blocks."""
        return tuple(i for i, kind in enumerate(self.kinds) if "full" in kind.mixers)

    @property
    def kinds(self) -> tuple[Letter, ...]:
        """What each block holds."""
        return tuple(LETTERS[letter] for letter in self.letters)

    def uses(self, part: str) -> bool:
        """Whether some block holds a part: "full", "window", "linear", "dense" or "experts"."""
        return any(part in (*kind.mixers, kind.mlp) for kind in self.kinds)

    def describe(self) -> str:
        """What every table prints beside a ratio label.

        >>> Layout.from_ratio("3:1", depth=24).describe()
        'full blocks 8 of 24'
        """
        return f"full blocks {len(self.full)} of {len(self)}"

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self):
        return iter(self.letters)

    def __str__(self) -> str:
        return self.letters

"""Rules that count: what a layout holds and caches. They need no run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybrid.claims.rules.verdicts import NOT_SUPPORTED, SUPPORTED, Verdict
from hybrid.config import MIXERS, ModelConfig
from hybrid.config.layout import Layout
from hybrid.models.cost import cache_bytes

LENGTH = 4096
"""Tokens at which caches are compared; their ratio is the same at every length."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A number that a ratio label promises is the one that its layout holds, for every label.

    A layout of n blocks with k full ones caches n/k times less than full attention.
    """

    name: ClassVar[str] = "counted"
    reads: ClassVar[str] = "nothing"
    what: str
    """One of "saving" (cache of full attention over the hybrid's), "linear per full", "share of full"."""
    promised: dict[str, float]
    """Ratio label -> the number."""
    rule: str = "period"
    """How a label is read, see `Layout.from_ratio`."""
    depth: int = 24
    """Blocks of the model; one that the rule can divide."""

    def __post_init__(self) -> None:
        if self.what not in _COUNTS:
            raise ValueError(f"unknown count {self.what!r}; allowed: {', '.join(_COUNTS)}")
        for ratio in self.promised:
            Layout.from_ratio(ratio, self.depth, self.rule)

    def words(self) -> str:
        """The rule as a sentence."""
        numbers = ", ".join(f"{value:g} at {ratio}" for ratio, value in self.promised.items())
        return f"{self.what} is {numbers}; {self.depth} blocks, labels read by the {self.rule} rule; exact"

    def __call__(self, runs: object = None) -> Verdict:
        """Count. `runs` is not looked at."""
        lines, right = [], True
        for ratio, number in self.promised.items():
            layout = Layout.from_ratio(ratio, self.depth, self.rule)
            found = _COUNTS[self.what](layout)
            right &= abs(found - number) < 1e-9
            lines.append(f"{ratio} is {layout.describe()}: {found:.3g}")
        return Verdict(SUPPORTED if right else NOT_SUPPORTED, f"{self.what}: {'; '.join(lines)}; exact")


def _saving(layout: Layout) -> float:
    full = Layout.from_ratio("full", len(layout))
    # Whichever linear mixer it is, its state is no cache.
    sizes = (cache_bytes(ModelConfig(some, next(iter(MIXERS))), LENGTH) for some in (full, layout))
    return next(sizes) / next(sizes)


def _linear_per_full(layout: Layout) -> float:
    return (len(layout) - len(layout.full)) / len(layout.full)


def _share_of_full(layout: Layout) -> float:
    return len(layout.full) / len(layout)


_COUNTS = {"saving": _saving, "linear per full": _linear_per_full, "share of full": _share_of_full}

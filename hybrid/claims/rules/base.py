"""What all rules share: their common parameters, and how a comparison that cannot be made is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, ClassVar

from hybrid.claims.rules.contrasts import Cells, Contrast, Undecided, contrast, mixer_words
from hybrid.claims.rules.verdicts import COUNTS, INCONCLUSIVE, Verdict

if TYPE_CHECKING:
    import pandas


def decides(method: Callable) -> Callable:
    """What a rule cannot compare is inconclusive, with its reason."""

    @wraps(method)
    def decided(self, runs: pandas.DataFrame) -> Verdict:
        try:
            return method(self, runs)
        except Undecided as why:
            return Verdict(INCONCLUSIVE, "", str(why))

    return decided


def attempt(runs: pandas.DataFrame, name: str, terms: Sequence[tuple[float, Cells]]) -> Contrast | Undecided:
    """A contrast, or why there is none, under its name."""
    try:
        return contrast(runs, name, terms)
    except Undecided as why:
        return Undecided(f"{name}: {why}")


def side(cells: Cells) -> str:
    """Such as "HGRN-2 3:1"; the mixer alone where layouts are averaged."""
    if cells.layouts == "full":
        return "full attention"
    return mixer_words(cells.mixers) + ("" if cells.layouts == "hybrids" else f" {cells.layouts}")


def between(first: Cells, second: Cells) -> str:
    """Name of a pair's difference."""
    return f"{side(first)} minus {side(second)}"


def mixed(pairs: Sequence[tuple[Cells, Cells]]) -> bool:
    """Whether groups of different mixers are compared, and not one pair, nor the layouts of one group."""
    firsts, seconds = ({cells.mixers for cells in sides} for sides in zip(*pairs, strict=True))
    return len(pairs) > 1 and firsts != seconds


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What all rules about runs share."""

    name: ClassVar[str]
    reads: ClassVar[str] = "grid"
    metric: str
    """Column of the runs that is compared."""
    arm: str = "matched"
    """Arm of the study, unless cells name another."""
    mixers: tuple[str, ...] = ()
    """Mixers it is about, averaged; empty are all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixers", tuple(self.mixers))
        for name in ("layouts", "at"):
            Cells(getattr(self, name, "hybrids"), self.mixers, self.arm)

    @property
    def default(self) -> Cells:
        """What cells of this rule leave open."""
        return Cells("hybrids", self.mixers, self.arm, self.metric)

    def cells(self, layouts: str, mixers: Sequence[str] = ()) -> Cells:
        """Cells of the rule's metric and arm."""
        return Cells(layouts, tuple(mixers)).within(self.default)

    @decides
    def __call__(self, runs: pandas.DataFrame) -> Verdict:
        """Decide from the observations of the rule's own metrics; others may be of other runs and seeds."""
        mine = runs[runs["metric"].isin(self.metrics())]
        if missing := self.metrics() - set(mine["metric"]):
            raise Undecided(f"not measured at this scale: {', '.join(sorted(missing))}")
        return self._decide(mine)

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        raise NotImplementedError

    def arms(self) -> set[str]:
        """Arms whose runs the rule reads."""
        return {self.arm} | {cells.arm for cells in self._named() if cells.arm}

    def metrics(self) -> set[str]:
        """Columns that the rule reads."""
        return {self.metric} | {cells.metric for cells in self._named() if cells.metric}

    def named(self) -> set[str]:
        """Mixers that the rule names."""
        return set(self.mixers).union(*(cells.mixers for cells in self._named()))

    def _named(self) -> list[Cells]:
        values = [getattr(self, field.name) for field in fields(self)]
        values += [part for value in values if isinstance(value, tuple) for part in value]
        return [value for value in values if isinstance(value, Cells)]

    def about(self) -> str:
        """Metric, arm and mixers, as the words of a rule begin."""
        return f"{self.metric}, {self.arm} arm, {mixer_words(self.mixers)}: "


def check_count(count: str) -> None:
    if count not in COUNTS:
        raise ValueError(f"unknown count {count!r}; allowed: {', '.join(COUNTS)}")

"""Rules about the number of full blocks: rising, falling nowhere, flat, saturating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from hybrid.claims.rules.base import Rule, attempt, check_count
from hybrid.claims.rules.contrasts import NAMES, Cells, Undecided, check_learnt, contrast
from hybrid.claims.rules.verdicts import Relation, Verdict, together
from hybrid.papers.published import paper_mixers

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class Rises(Rule):
    """The metric rises with the share of full blocks: the gain of a straight line, fitted over all layouts
    but full attention, from no full block to the densest hybrid, lies above the margin.

    Mixers are averaged, or with a `count` each is taken by itself.
    """

    name = "rises"
    margin: float
    count: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count:
            check_count(self.count)

    def words(self) -> str:
        each = f", for {self.count} mixer" if self.count else ""
        return (
            f"{self.about()}gain of a straight line from no full block to the densest hybrid is "
            f"{Relation('above', self.margin).words()}{each}"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        check_learnt(runs, [self.default])
        relation = Relation("above", self.margin)
        if not self.count:
            return together([(contrast(runs, "", self._terms(runs, self.mixers)), relation)])
        return together(
            [
                (attempt(runs, NAMES[m], self._terms(runs, (m,))), relation)
                for m in self.mixers or paper_mixers()
                if (runs["mixer"] == m).any()
            ],
            self.count,
        )

    def _terms(self, runs: pandas.DataFrame, mixers: Sequence[str]) -> list[tuple[float, Cells]]:
        labels, share = _ladder(self.cells("linear", mixers).rows(runs))
        if len(labels) < 3:
            raise Undecided(f"a line needs three layouts; there are {', '.join(labels)}")
        off = share - share.mean()
        weights = off / (off**2).sum() * (share.max() - share.min())
        return [(w, self.cells(label, mixers)) for w, label in zip(weights, labels, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Steady(Rule):
    """No step to the next denser layout loses more than the margin, mixers averaged."""

    name = "steady"
    margin: float
    layouts: str

    def words(self) -> str:
        relation = Relation("above", -self.margin).words()
        return f"{self.about()}every step to the next denser layout is {relation}"

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        labels, _ = _ladder(self.cells(self.layouts).rows(runs))
        return _compare(self, runs, [(b, a) for a, b in pairwise(labels)], Relation("above", -self.margin))


@dataclass(frozen=True, kw_only=True)
class Flat(Rule):
    """Any two layouts differ by less than the margin, mixers averaged (tests of equivalence)."""

    name = "flat"
    margin: float
    layouts: str

    def words(self) -> str:
        layouts = Cells(self.layouts).words().removeprefix("all mixers ")
        return f"{self.about()}any two layouts, {layouts}, differ {Relation('within', self.margin).words()}"

    def __post_init__(self) -> None:
        super().__post_init__()
        Relation("within", self.margin)

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        labels, _ = _ladder(self.cells(self.layouts).rows(runs))
        pairs = [(b, a) for a, b in combinations(labels, 2)]
        return _compare(self, runs, pairs, Relation("within", self.margin))


@dataclass(frozen=True, kw_only=True)
class Saturates(Rule):
    """The metric rises up to a layout by more than the margin, and denser hybrids change it by less."""

    name = "saturates"
    at: str
    margin: float

    def words(self) -> str:
        rise, rest = (Relation(kind, self.margin).words() for kind in ("above", "within"))
        first = f"{self.about()}{self.at} minus no full block is {rise}"
        return f"{first}, and the densest hybrid minus {self.at} is {rest}"

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        check_learnt(runs, [self.default])
        labels, _ = _ladder(self.cells("linear").rows(runs))
        if self.at not in labels or labels[-1] == self.at:
            raise Undecided(f"no layout denser than {self.at} was trained; there are {', '.join(labels)}")
        found = [
            (attempt(runs, f"{b} minus {a}", [(1.0, self.cells(b)), (-1.0, self.cells(a))]), relation)
            for a, b, relation in (
                (labels[0], self.at, Relation("above", self.margin)),
                (self.at, labels[-1], Relation("within", self.margin)),
            )
        ]
        return together(found)


@dataclass(frozen=True, kw_only=True)
class PartOfGain(Rule):
    """The gain of one layout over no full block is less than a share of that of another, which must itself
    lie above 0; both for every single mixer."""

    name = "part_of_gain"
    part: str
    whole: str
    share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for layouts in (self.part, self.whole):
            Cells(layouts)
        if not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1; got {self.share!r}")

    def words(self) -> str:
        return (
            f"{self.about()}the gain of {self.whole} over no full block is above 0 and that of {self.part} "
            f"below {self.share:g} times as much, for every single mixer"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        check_learnt(runs, [self.default])
        found = []
        for mixer in self.mixers or paper_mixers():
            part, whole, pure = (self.cells(at, (mixer,)) for at in (self.part, self.whole, "pure"))
            less = [(1.0, part), (-self.share, whole), (self.share - 1, pure)]
            name = f"{NAMES[mixer]} {self.part} gain minus {self.share:g} times {self.whole} gain"
            gain = attempt(runs, f"{NAMES[mixer]} {self.whole} gain", [(1.0, whole), (-1.0, pure)])
            found += [(gain, Relation("above", 0.0)), (attempt(runs, name, less), Relation("below", 0.0))]
        return together(found)


def _ladder(rows: pandas.DataFrame) -> tuple[list[str], np.ndarray]:
    """Labels of layouts, fewest full blocks first, with their share of full blocks."""
    steps = rows.drop_duplicates("full_blocks").sort_values("full_blocks")
    return steps["label"].tolist(), (steps["full_blocks"] / steps["depth"]).to_numpy(dtype=float)


def _compare(
    rule: Rule, runs: pandas.DataFrame, pairs: Sequence[tuple[str, str]], relation: Relation
) -> Verdict:
    check_learnt(runs, [rule.default])
    if not pairs:
        raise Undecided("only one layout at this scale")
    terms = {f"{a} minus {b}": [(1.0, rule.cells(a)), (-1.0, rule.cells(b))] for a, b in pairs}
    return together([(attempt(runs, name, some), relation) for name, some in terms.items()])

"""Rules about means: differences, full attention, chance, and the order of mixers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hybrid.claims.rules.base import Rule, attempt, between, check_count, mixed
from hybrid.claims.rules.contrasts import (
    CLEAR,
    LEARNT,
    LEFT,
    NAMES,
    Cells,
    Contrast,
    Undecided,
    against_counter,
    chance_of,
    check_learnt,
    check_seeds,
    contrast,
    crossed,
    left_chance,
    matrix,
    mixer_words,
    near_chance,
)
from hybrid.claims.rules.verdicts import (
    COUNTS,
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    Relation,
    Verdict,
    of_members,
    together,
)
from hybrid.papers.published import paper_mixers
from hybrid.statistics import intervals

if TYPE_CHECKING:
    import pandas

SAME_ORDER = 0.5
"""Kendall's tau of two rankings that put three pairs of four in the same order."""
RANKED = 4
"""Fewest mixers whose rankings are compared: three have only four values of tau."""


@dataclass(frozen=True, kw_only=True)
class Difference(Rule):
    """The mean of some cells minus that of others, times a factor, lies as the relation says.

    Groups of mixers are averaged, and every pair of one mixer of each is told beside them
    (`verdicts.of_members`); or with a `count` each pair is taken by itself. "At least 1.75 times as much" is
    a difference to 1.75 times the other that is above 0 (Fieller's way to test a ratio), and the ratio is
    reported beside it.
    """

    name = "difference"
    first: Cells
    second: Cells
    factor: float = 1.0
    relation: str
    margin: float
    count: str = ""
    """How many pairs of one mixer of each side must have the relation; empty: their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Relation(self.relation, self.margin)
        if self.count:
            check_count(self.count)

    def words(self) -> str:
        times = "" if self.factor == 1 else f"{self.factor:g} times "
        first, second = (
            replace(c, mixers=c.mixers or self.mixers).words() for c in (self.first, self.second)
        )
        relation = Relation(self.relation, self.margin).words()
        each = f" for {COUNTS[self.count]} of their pairs" if self.count else ""
        return f"{self.metric}, {self.arm} arm: {first} minus {times}{second} is {relation}{each}"

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        sides = [self.first.within(self.default), self.second.within(self.default)]
        check_learnt(runs, sides)
        relation, pairs = Relation(self.relation, self.margin), crossed(runs, *sides)
        weights = (1.0, -self.factor)

        def members() -> list[Contrast | Undecided]:
            return [attempt(runs, between(*p), list(zip(weights, p, strict=True))) for p in pairs]

        if self.count:
            return together([(one, relation) for one in members()], self.count)
        one = contrast(runs, "", list(zip(weights, sides, strict=True)))
        found = together([(one, relation)])
        if mixed(pairs):
            found = of_members(found, relation, members())
        if self.factor == 1:
            return found
        positive = (np.finfo(float).tiny, np.inf)
        ratio = intervals.bootstrap(one.means, lambda m: m[:, 0] / m[:, 1], bounds=positive)
        evidence = ("ratio {:.2f} [{:.2f}, {:.2f}]".format(*ratio), found.evidence)
        return replace(found, evidence="; ".join(filter(None, evidence)))


@dataclass(frozen=True, kw_only=True)
class Interaction(Rule):
    """A difference between cells is larger in one place than in another: a difference of differences."""

    name = "interaction"
    first: Cells
    second: Cells
    places: tuple[Cells, Cells]
    """Two arms, or two metrics: ``first - second`` in one place minus the same in the other."""
    relation: str
    margin: float

    def __post_init__(self) -> None:
        super().__post_init__()
        Relation(self.relation, self.margin)
        if len(self.places) != 2:
            raise ValueError(f"places must be two; got {len(self.places)}")

    def words(self) -> str:
        sides = " minus ".join(
            replace(c, mixers=c.mixers or self.mixers).words() for c in (self.first, self.second)
        )
        here, there = (f"{p.metric or self.metric}, {p.arm or self.arm} arm" for p in self.places)
        relation = Relation(self.relation, self.margin).words()
        return f"({sides}) in {here}, minus the same in {there}, is {relation}"

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        places = [place.within(self.default) for place in self.places]
        cells = [side.within(place) for place in places for side in (self.first, self.second)]
        weights, relation = (1.0, -1.0, -1.0, 1.0), Relation(self.relation, self.margin)
        one = contrast(runs, "", list(zip(weights, cells, strict=True)))
        found = together([(one, relation)])
        gains = one.means.mean(axis=0).reshape(2, 2) @ (1.0, -1.0)
        parts = [f"{p.metric}, {p.arm} arm {gain:+.3f}" for p, gain in zip(places, gains, strict=True)]
        found = replace(found, evidence=f"{found.evidence} ({'; '.join(parts)})".strip())
        here, there = (crossed(runs, *cells[at : at + 2]) for at in (0, 2))
        if not mixed(here):
            return found
        members = [
            attempt(runs, between(*pair), list(zip(weights, (*pair, *same), strict=True)))
            for pair, same in zip(here, there, strict=True)
        ]
        return of_members(found, relation, members)


@dataclass(frozen=True, kw_only=True)
class AgainstFull(Rule):
    """Every, most or some single models, one mixer and layout each, minus full attention."""

    name = "against_full"
    layouts: str
    relation: str
    margin: float
    count: str

    def __post_init__(self) -> None:
        super().__post_init__()
        Relation(self.relation, self.margin)
        check_count(self.count)

    def words(self) -> str:
        models = replace(self.cells(self.layouts), metric="", arm="").words()
        relation = Relation(self.relation, self.margin).words()
        return (
            f"{self.metric}, {self.arm} arm: {models}, one model at a time, minus full attention is "
            f"{relation} for {COUNTS[self.count]} of them"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        check_learnt(runs, [self.default])
        models = self.cells(self.layouts).rows(runs).drop_duplicates(["mixer", "full_blocks"])
        models = models.sort_values(["mixer", "full_blocks"])
        relation, full = Relation(self.relation, self.margin), self.cells("full")
        found = []
        for mixer, label in models[["mixer", "label"]].itertuples(index=False):
            terms = [(1.0, self.cells(label, [mixer])), (-1.0, full)]
            found.append((attempt(runs, f"{NAMES[mixer]} {label}", terms), relation))
        return together(found, self.count)


@dataclass(frozen=True, kw_only=True)
class Learnt(Rule):
    """Full attention has learnt the task at the training length, or the text, every seed of it."""

    name = "learnt"

    def words(self) -> str:
        return (
            f"{self.metric}, {self.arm} arm: the lowest seed of full attention is at least {LEARNT}; for "
            "text, every seed is below a counter of bytes"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        full = self.cells("full").rows(runs)
        full = full[full["value"].notna()]
        if full.empty:
            raise Undecided("no finished run of full attention")
        if full["chance"].isna().all():
            bits, counter = against_counter(full)
            learnt, evidence = bits < counter, f"{bits:.3f} bits a byte, counter {counter:.3f}"
        else:
            learnt, evidence = full["value"].min() >= LEARNT, f"lowest {full['value'].min():.3f}"
        verdict = SUPPORTED if learnt else NOT_SUPPORTED
        return Verdict(verdict, f"{evidence}, n = {len(full)}", "", len(full))


@dataclass(frozen=True, kw_only=True)
class RankUnrelated(Rule):
    """The order of pure models does not carry over to hybrids: Kendall's tau below `SAME_ORDER`.

    Seeds are drawn by `intervals.bootstrap`; the mixers are these, not a sample of others. Mixers
    near chance in every layout are left out, and `RANKED` must remain.
    """

    name = "rank_unrelated"
    layouts: str

    def words(self) -> str:
        hybrids = Cells(self.layouts).words().removeprefix("all mixers ")
        return (
            f"{self.about()}Kendall's tau between pure models and hybrids ({hybrids}) is below {SAME_ORDER:g}"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        check_learnt(runs, [self.default])
        there = [m for m in self.mixers or paper_mixers() if (runs["mixer"] == m).any()]
        kept = [m for m in there if left_chance(runs, self.metric, m, [self.arm])]
        near = f"left out, near chance: {mixer_words([m for m in there if m not in kept])}"
        note = near if len(kept) < len(there) else ""
        if len(kept) < RANKED:
            raise Undecided(f"{len(kept)} mixers to rank, {RANKED} needed; {note}".rstrip("; "))
        cells = [self.cells(layouts, [m]) for layouts in ("pure", self.layouts) for m in kept]
        means, missing = matrix(runs, cells)
        check_seeds(len(means), missing)
        tau, low, high = intervals.bootstrap(
            means, lambda drawn: intervals.kendall(drawn.reshape(-1, 2, len(kept)))
        )
        verdict = SUPPORTED if high < SAME_ORDER else NOT_SUPPORTED if low >= SAME_ORDER else INCONCLUSIVE
        why = f"the interval holds {SAME_ORDER:g}" if verdict == INCONCLUSIVE else ""
        reason = "; ".join(x for x in (why, note, missing and f"missing: {missing}") if x)
        evidence = f"tau {tau:+.2f} [{low:+.2f}, {high:+.2f}] over {len(kept)} mixers, n = {len(means)}"
        return Verdict(verdict, evidence, reason, len(means))


@dataclass(frozen=True, kw_only=True)
class NearChance(Rule):
    """The mean of some layouts stays near what guessing gives, where full attention has learnt the task."""

    name = "near_chance"
    layouts: str

    def words(self) -> str:
        return (
            f"{self.about()}{self.layouts} stay below {LEFT:g} times chance, at most "
            f"half-way from chance to 1 and at least {CLEAR:g} above chance"
        )

    def _decide(self, runs: pandas.DataFrame) -> Verdict:
        cells = self.cells(self.layouts)
        check_learnt(runs, [cells])
        limit = near_chance(chance_of(runs, self.metric))
        means, missing = matrix(runs, [cells])
        check_seeds(len(means), missing)
        one = Contrast(f"minus {limit:.3f}:", means[:, 0] - limit, missing, "", (-limit, 1 - limit))
        return together([(one, Relation("below", 0.0))])

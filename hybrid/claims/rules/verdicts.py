"""Decisions about contrasts: what their intervals say, one by one and several together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hybrid.claims.rules.contrasts import SEEDS, Contrast, Undecided
from hybrid.statistics.intervals import interval

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
LEVEL = 0.95
COUNTS = {"every": "each", "most": "most", "some": "some"}
"""How many of several comparisons must hold, and the word before "of them"."""
REASONS = 2
"""Most comparisons of one claim whose reasons are printed."""
SHOWN = 6
"""Most comparisons of one claim that are printed; of more, the extreme ones."""


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one sentence."""

    verdict: str
    """One of "supported", "not supported" or "inconclusive"."""
    evidence: str = ""
    """The numbers behind it, with their interval and n."""
    reason: str = ""
    """Why nothing can be decided, or what was left out."""
    n: int = 0
    """Paired seeds behind it, the smallest number where it rests on several comparisons."""


@dataclass(frozen=True)
class Relation:
    """How an interval must lie for a sentence to hold."""

    kind: str = "above"
    """Where it must lie. "above": the difference is larger than the margin. "below": smaller. "within":
    between minus and plus the margin, that is, the two sides are equivalent."""
    margin: float = 0.0
    """In the unit of the metric."""

    def __post_init__(self) -> None:
        if self.kind not in ("above", "below", "within"):
            raise ValueError(f"unknown relation {self.kind!r}; allowed: above, below, within")
        if self.kind == "within" and not self.margin > 0:
            raise ValueError(f"a relation 'within' needs a positive margin; got {self.margin!r}")

    def words(self) -> str:
        """Such as "above +0.05"."""
        if self.kind == "within":
            return f"within ±{self.margin:g}"
        return f"{self.kind} {self.margin:+g}" if self.margin else f"{self.kind} 0"

    def judge(self, low: float, high: float) -> str:
        """Supported where the whole interval has the relation, not supported where no part of it has.

        "within" is two one-sided tests (Schuirmann 1987), here at 2.5 % each.
        """
        margin = self.margin
        match self.kind:
            case "above":
                holds, fails = low > margin, high <= margin
            case "below":
                holds, fails = high < margin, low >= margin
            case _:
                holds, fails = -margin < low and high < margin, low >= margin or high <= -margin
        return SUPPORTED if holds else NOT_SUPPORTED if fails else INCONCLUSIVE

    def opposed(self, low: float, high: float) -> bool:
        """Whether the whole interval lies beyond the margin on the other side; a tie does not."""
        match self.kind:
            case "above":
                return high < self.margin
            case "below":
                return low > self.margin
            case _:
                return low > self.margin or high < -self.margin


def decide(
    difference: Sequence[float],
    margin: float = 0.0,
    kind: str = "above",
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Verdict:
    """Decide about the mean of paired differences by its 95 % interval; undecided below `SEEDS` pairs.

    Args:
        difference: one a seed.
        margin, kind: the relation, see `Relation`.
        bounds: least and largest possible difference.
    """
    values, relation = [float(d) for d in difference], Relation(kind, margin)
    if len(values) < SEEDS:
        return Verdict(INCONCLUSIVE, "", f"needs {SEEDS} paired seeds; has {len(values)}", len(values))
    mean, low, high = interval(values, LEVEL, bounds)
    evidence = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], n = {len(values)}"
    verdict = relation.judge(low, high)
    reason = f"the interval is not wholly {relation.words()} nor wholly outside"
    return Verdict(verdict, evidence, reason if verdict == INCONCLUSIVE else "", len(values))


def together(found: Sequence[tuple[Contrast | Undecided, Relation]], count: str = "every") -> Verdict:
    """Decide whether every, most or some of several comparisons have their relation.

    That at least k of m hold is tested as a partial conjunction: supported where k of them are at level 1 -
    0.05/(m - k + 1), and not supported where m - k + 1 fail at level 1 - 0.05/k, so that either verdict is
    wrong at most one time in twenty whatever m is, if values are normal (see `intervals.interval`). A
    comparison that the runs do not allow counts for neither side, nor does one in which a share of right
    answers leaves no room for the relation.
    Source: Benjamini and Heller 2008, Biometrics 64, with Bonferroni's combination.

    Raises ``ValueError`` for a count that is none of `COUNTS`, or nothing to compare.
    """
    if count not in COUNTS or not found:
        raise ValueError(f"unknown count {count!r}; allowed: {', '.join(COUNTS)}; {len(found)} comparisons")
    found = [(_with_room(one, relation), relation) for one, relation in found]
    m = len(found)
    k = {"every": m, "most": m // 2 + 1, "some": 1}[count]
    done = [(one, relation) for one, relation in found if isinstance(one, Contrast)]
    reasons = list(dict.fromkeys(str(one) for one, _ in found if isinstance(one, Undecided)))
    if len(reasons) > REASONS:
        reasons = [*reasons[:REASONS], f"and {len(reasons) - REASONS} more comparisons"]
    if not done:
        return Verdict(INCONCLUSIVE, "", "; ".join(reasons))

    def agree(verdict: str, error: float) -> int:
        return sum(r.judge(*interval(c.values, 1 - error, c.bounds)[1:]) == verdict for c, r in done)

    held, failed = agree(SUPPORTED, 0.05 / (m - k + 1)), agree(NOT_SUPPORTED, 0.05 / k)
    verdict = SUPPORTED if held >= k else NOT_SUPPORTED if failed >= m - k + 1 else INCONCLUSIVE
    singles = [decide(c.values, r.margin, r.kind, c.bounds) for c, r in done]
    lines = [f"{c.name} {one.evidence}".strip() for (c, _), one in zip(done, singles, strict=True)]
    if len(done) > SHOWN:
        order = sorted(range(len(done)), key=lambda i: done[i][0].values.mean())
        lines = [lines[i] for i in (*order[: SHOWN // 2], *order[-(SHOWN // 2) :])]
    evidence = "; ".join(lines)
    if m > 1:
        holding, failing = (sum(one.verdict == v for one in singles) for v in (SUPPORTED, NOT_SUPPORTED))
        which = ", the lowest and highest" if len(done) > SHOWN else ""
        evidence = f"{holding} of {m} hold and {failing} fail, each taken alone{which}: {evidence}"
    if verdict == INCONCLUSIVE:
        reasons += [singles[0].reason if m == 1 else f"too few of the {m} intervals lie on one side"]
    reasons += dict.fromkeys(c.note for c, _ in done if c.note)
    reasons += dict.fromkeys(f"missing: {c.missing}" for c, _ in done if c.missing)
    return Verdict(verdict, evidence, "; ".join(reasons), min(len(c.values) for c, _ in done))


def of_members(pooled: Verdict, relation: Relation, members: Sequence[Contrast | Undecided]) -> Verdict:
    """The verdict about two groups of mixers, with what each pair of their members says about it.

    A mean over pairs can rest on one of them. So the evidence names the pair that contributes most, with its
    part of the mean, and gives every pair's difference; and a mean is not supported where the 95 % interval
    of one pair, taken alone, lies wholly on the other side of the threshold.
    """
    done = [one for one in members if isinstance(one, Contrast)]
    if not done:
        return pooled
    parts = {one.name: one.values.mean() / len(members) for one in done}
    most = max(parts, key=lambda name: parts[name] * np.sign(sum(parts.values())))
    singles = {one.name: decide(one.values, relation.margin, relation.kind, one.bounds) for one in done}
    against = [one.name for one in done if relation.opposed(*interval(one.values, LEVEL, one.bounds)[1:])]
    lines = [f"{name} {single.evidence}" for name, single in singles.items()]
    lines += [str(one) for one in members if isinstance(one, Undecided)]
    evidence = f"{pooled.evidence}; most of it, {parts[most]:+.3f}, from {most}; by pair: {'; '.join(lines)}"
    if pooled.verdict != SUPPORTED or not against:
        return replace(pooled, evidence=evidence)
    why = f"the mean over pairs would support it, but the other way goes {', '.join(against)}"
    reason = "; ".join(filter(None, [why, pooled.reason]))
    return replace(pooled, verdict=NOT_SUPPORTED, evidence=evidence, reason=reason)


def _with_room(one: Contrast | Undecided, relation: Relation) -> Contrast | Undecided:
    """The comparison, unless no result whatever of its first side could have the relation."""
    if isinstance(one, Undecided):
        return one
    least, most = one.attainable
    if relation.kind == "above" and most <= relation.margin:
        return Undecided(f"{one.name} no room: beside the other side at most {most:+.3f} is possible".strip())
    if relation.kind == "below" and least >= relation.margin:
        return Undecided(
            f"{one.name} no room: beside the other side at least {least:+.3f} is possible".strip()
        )
    return one

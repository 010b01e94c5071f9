"""Rules about layer selection: sums of observations of selectors or of masks, paired by seed.

They read one row a seed, with columns ``study`` ("selection" or "consa"), ``name`` (of a selector or an arm),
``at`` (share of full blocks, or of cheap units), ``seed``, ``metric`` and ``value``
(`hybrid.claims.selection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from hybrid.claims.rules.base import check_count, decides
from hybrid.claims.rules.contrasts import SEEDS, Contrast, Undecided, limits
from hybrid.claims.rules.verdicts import COUNTS, SUPPORTED, Relation, Verdict, decide, together
from hybrid.statistics import intervals

RANGES = {
    "passkey": (0.0, 1.0),
    "better": (0.0, 1.0),
    "overlap": (0.0, 1.0),
    "middle": (-1.0, 1.0),
    "gap": (0.0, 1.0),
    "miss": (0.0, float("inf")),
}
"""First word of a metric -> least and largest value; others have no such limits."""


@dataclass(frozen=True)
class Term:
    """One summand: the mean of a metric over some selectors or arms."""

    weight: float
    names: tuple[str, ...]
    metric: str
    at: float | None = None
    """The share it is taken at; None: the one that the comparison is about."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names:
            raise ValueError("a term needs the names of one selector or arm, or of several")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A weighted sum of means lies above, below or within a margin; one comparison a share.

    A seed counts where every term has a value for it. Shares that a depth cannot tell apart are one.
    """

    name: ClassVar[str] = "choices"
    reads: ClassVar[str] = "selection"
    study: str
    """ "selection" or "consa"."""
    terms: tuple[Term, ...]
    """What is added up, as lists of weight, names, metric and, if it is not the comparison's, share."""
    at: tuple[float, ...]
    """Shares, one comparison each."""
    kind: str = "above"
    """See `Relation`."""
    margin: float = 0.0
    """See `Relation`."""
    count: str = "every"
    """How many of the comparisons must hold: "every", "most" or "some"."""
    given: tuple[Term, ...] = ()
    """Terms whose sum must be above 0 for a share to be compared: what was not there cannot be lost."""

    def __post_init__(self) -> None:
        for name in ("terms", "given"):
            terms = (t if isinstance(t, Term) else Term(*t) for t in getattr(self, name))
            object.__setattr__(self, name, tuple(terms))
        object.__setattr__(self, "at", tuple(self.at))
        Relation(self.kind, self.margin)
        check_count(self.count)
        if self.study not in ("selection", "consa"):
            raise ValueError(f"unknown study {self.study!r}; allowed: selection, consa")
        if not self.terms or not self.at:
            raise ValueError("choices need at least one term and one share")

    def words(self) -> str:
        """The rule as a sentence."""
        shares = ", ".join(f"{share:.3g}" for share in self.at)
        relation = Relation(self.kind, self.margin).words()
        which = f"{COUNTS[self.count]} of {shares}"
        given = f", where {_words(self.given)} is above 0" if self.given else ""
        return f"{self.study}: {_words(self.terms)} is {relation} at {which}{given}; paired by seed"

    @decides
    def __call__(self, seen: pd.DataFrame) -> Verdict:
        """Decide from the observations of the rule's study."""
        mine = seen[seen["study"] == self.study]
        if untaught := mine.loc[mine["metric"] == "untaught", "name"].tolist():
            raise Undecided(f"baseline undertrained: {untaught[0]}")
        relation = Relation(self.kind, self.margin)
        return together([(self._contrast(mine, share), relation) for share in self.at], self.count)

    def _contrast(self, seen: pd.DataFrame, share: float) -> Contrast | Undecided:
        if self.given:
            given = _sum(self.given, seen, share)
            if isinstance(given, Undecided):
                return given
            if decide(given.values, bounds=given.bounds).verdict != SUPPORTED:
                return Undecided(f"{given.name}: {_words(self.given)} is not shown to be above 0")
        return _sum(self.terms, seen, share)


def _words(terms: Sequence[Term]) -> str:
    return " ".join(
        f"{term.weight:+g} {term.metric} of {', '.join(term.names)}"
        + (f" at {term.at:.3g}" if term.at is not None else "")
        for term in terms
    )


def _sum(terms: Sequence[Term], seen: pd.DataFrame, share: float) -> Contrast | Undecided:
    """The terms added up at a share, over the seeds that all of them have."""
    by_term = []
    for term in terms:
        at = share if term.at is None else term.at
        rows = seen[
            seen["name"].isin(term.names) & (seen["metric"] == term.metric) & ((seen["at"] - at).abs() < 1e-9)
        ]
        by_name = rows.pivot_table(index="seed", columns="name", values="value", aggfunc="mean")
        by_name = by_name.reindex(columns=list(term.names))
        by_term.append(by_name.mean(axis=1, skipna=False))
    means = pd.concat(by_term, axis=1).dropna().to_numpy()
    where = f"at {share:.3g}"
    if len(means) < SEEDS:
        return Undecided(f"{where}: needs {SEEDS} paired seeds; has {len(means)}")
    weights = np.array([term.weight for term in terms])
    ranges = [RANGES.get(term.metric.split()[0], intervals.ANY) for term in terms]
    attainable, bounds = limits(means, weights, ranges)
    return Contrast(where, means @ weights, "", "", means, attainable, bounds)

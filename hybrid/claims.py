"""From runs to verdicts: rules fixed beforehand, applied to the table of `hybrid.runs.collect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.intervals import interval

if TYPE_CHECKING:
    import pandas

LEARNT = 0.95
"""Recall of full attention at the training length from which a study counts."""
LEFT = 1.5
"""How far above chance, as a factor, a mixer must have come before its layouts are compared."""


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one sentence."""

    sentence: str
    verdict: str
    """ "supported", "not supported" or "inconclusive"."""
    evidence: str
    """The numbers behind it, with their interval and n, or the reason why there are none."""


def decide(sentence: str, difference: Sequence[float], *, margin: float = 0.0) -> Verdict:
    """Decide whether paired differences lie above `margin`.

    Supported where the whole 95 % interval of their mean lies above the margin, not supported where it
    lies at or below it, and inconclusive otherwise, or with fewer than three pairs.
    """
    values = [float(d) for d in difference]
    if len(values) < 3:
        return Verdict(sentence, "inconclusive", f"needs at least three paired seeds; n = {len(values)}")
    mean, low, high = interval(values)
    evidence = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], n = {len(values)}"
    if low > margin:
        return Verdict(sentence, "supported", evidence)
    return Verdict(sentence, "not supported" if high <= margin else "inconclusive", evidence)


def paired(frame: pandas.DataFrame, metric: str, first: dict, second: dict) -> list[float]:
    """Differences ``first - second`` of a metric, one for each seed that both sides hold.

    Args:
        frame: one row a run.
        metric: the column compared.
        first, second: column -> value, which rows are meant; they must leave one run a seed.

    Raises ``ValueError`` naming the side that holds several runs of one seed.
    """
    sides = []
    for chosen in (first, second):
        rows = frame[frame["status"] == "done"]
        for column, value in chosen.items():
            rows = rows[rows[column] == value]
        if rows["seed"].duplicated().any():
            raise ValueError(f"{chosen} does not name one run a seed")
        sides.append(rows.set_index("seed")[metric])
    both = sides[0].index.intersection(sides[1].index)
    return [float(sides[0][seed] - sides[1][seed]) for seed in sorted(both)]


def baseline_learnt(full: pandas.DataFrame, metric: str = "recall") -> Verdict:
    """Whether the full-attention runs of a study have learnt the task at the training length.

    Where they have not, every other verdict of the study is inconclusive: what a baseline did not
    learn cannot show what its rivals lack.
    """
    sentence = f"full attention reaches {LEARNT} at the training length"
    values = full.loc[full["status"] == "done", metric].dropna()
    if values.empty:
        return Verdict(sentence, "inconclusive", "no finished run of full attention")
    evidence = f"lowest of {len(values)} seeds {values.min():.3f}"
    return Verdict(sentence, "supported" if values.min() >= LEARNT else "not supported", evidence)


def left_chance(frame: pandas.DataFrame, chance: float, metric: str = "recall") -> Verdict:
    """Whether any layout among the runs has, on average over seeds, recall of at least `LEFT` times the
    chance level. Where none has, the runs are too short to tell their layouts apart."""
    done = frame[frame["status"] == "done"]
    sentence = f"some layout reaches {LEFT:g} times chance ({chance:.3f})"
    if done.empty:
        return Verdict(sentence, "inconclusive", "no finished run")
    best = done.groupby("layout")[metric].mean().max()
    return Verdict(sentence, "supported" if best >= LEFT * chance else "not supported", f"best {best:.3f}")


def subject_to(condition: Verdict, reason: str, verdict: Verdict) -> Verdict:
    """The verdict; or "inconclusive", with the reason, where its condition is not supported."""
    if condition.verdict == "supported":
        return verdict
    evidence = f"{reason} ({condition.evidence}); measured {verdict.evidence}"
    return Verdict(verdict.sentence, "inconclusive", evidence)


def table(verdicts: Sequence[Verdict]) -> pandas.DataFrame:
    """Claim, verdict and evidence as a table, in the given order."""
    import pandas

    rows = [(v.sentence, v.verdict, v.evidence) for v in verdicts]
    return pandas.DataFrame(rows, columns=["Claim", "Verdict", "Evidence"])

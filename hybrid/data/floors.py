"""What a rule that skips the task reaches: the floor below which an accuracy shows nothing.

A guess among all the values that a text shows is the weakest such rule; its accuracy is called chance. Others
use where the values stand, which of them the questions before have used up, or a part of the question. Each
rule here reads a text and names the values it would answer; of several it takes any, so its accuracy is the
share of them that are right, an exact expectation and no draw.

Counting how often a word stands is the task of the group "cwe_fwe", and finding the symbol beside a
key that of the needles: they are no rules there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from hybrid.data.recall import IGNORED, mqar
from hybrid.data.suite import TASKS, Sample, Symbols

DRAWS = 4096
"""Sequences of multi-query recall behind its floor."""

Value = tuple[int, ...]


class Reading(NamedTuple):
    """What a rule knows when it is asked for a value."""

    shown: list[Value]
    """Values of the text in their order, as often as they stand there."""
    question: list[int]
    """Symbols of the question, without the mark that asks."""
    given: list[Value]
    """The right answers so far, those of earlier questions too."""
    rows: list[list[int]]
    """Symbols of the text without the marks, three by three: its facts, where it is made of facts."""
    among: set[int]
    """Symbols that answers are made of."""
    assigned: dict[int, int]
    """Each symbol's neighbour to the right at its first place, without the marks: a variable's source."""

    @property
    def left(self) -> list[Value]:
        """The values that no answer has used, in the order of their first appearance."""
        used = set(self.given)
        return [value for value in dict.fromkeys(self.shown) if value not in used]


Rule = Callable[[Reading], Sequence[Value]]


def any_value(text: Reading) -> Sequence[Value]:
    """Chance: any value that the text shows."""
    return list(set(text.shown))


def any_left(text: Reading) -> Sequence[Value]:
    """Any value that no answer has used."""
    return text.left


def first_left(text: Reading) -> Sequence[Value]:
    """The first value that no answer has used."""
    return text.left[:1]


def latest_left(text: Reading) -> Sequence[Value]:
    """The most recent value that no answer has used."""
    left = set(text.left)
    return [value for value in text.shown if value in left][-1:]


def next_in_text(text: Reading) -> Sequence[Value]:
    """The value that follows the last answer in the text; at the beginning the first."""
    order = list(dict.fromkeys(text.shown))
    start = order.index(text.given[-1]) + 1 if text.given else 0
    left = set(text.left)
    return [value for value in order[start:] if value in left][:1]


def most_frequent(text: Reading) -> Sequence[Value]:
    """The value that stands most often."""
    left = set(text.left)
    counts = Counter(value for value in text.shown if value in left)
    return [value for value, count in counts.items() if count == max(counts.values())]


def next_variable(text: Reading) -> Sequence[Value]:
    """A variable set to a value, then the next one in the text that is set to a variable."""
    starts = [(name,) for name in text.among if text.assigned.get(name, name) not in text.among]
    if not text.given:
        return starts
    order = list(dict.fromkeys(text.shown))
    left = set(text.left) - set(starts)
    return [value for value in order[order.index(text.given[-1]) + 1 :] if value in left][:1]


def without(part: int) -> Rule:
    """Any object that facts lead to when a part of the question is ignored: 0 is its entity, 1 its first
    relation. A part that the question does not have leaves nothing."""

    def rule(text: Reading) -> Sequence[Value]:
        if part >= len(text.question):
            return []
        entity, *relations = [s if i != part else None for i, s in enumerate(text.question)]
        return _reached(text, entity, relations)

    return rule


def last_relation(text: Reading) -> Sequence[Value]:
    """Any object of the relation asked last, whatever the entity: no hop."""
    return _reached(text, None, text.question[-1:])


def _reached(text: Reading, entity: int | None, relations: Sequence[int | None]) -> list[Value]:
    at: list[int | None] = [entity]
    for relation in relations:
        at = [
            found
            for one in at
            for subject, by, found in text.rows
            if one in (None, subject) and relation in (None, by)
        ]
    return [(found,) for found in at if found in text.among]


PLACES: tuple[Rule, ...] = (any_value, any_left, first_left, latest_left, next_in_text)
RULES: dict[str, tuple[Rule, ...]] = dict.fromkeys(
    (task.group for task in TASKS.values()), (*PLACES, most_frequent)
) | {
    "cwe_fwe": PLACES,
    "vt": (*PLACES, most_frequent, next_variable),
    "qa": (*PLACES, most_frequent, last_relation, without(0), without(1), without(2)),
}
"""The rules that skip the tasks of a group; the first is chance."""


def skipped(symbols: Symbols, name: str, sample: Sample) -> list[float]:
    """Accuracy of each of a task's `RULES` on a sample: the mean over the values of its answers."""
    marks = symbols.first + symbols.vocab
    bare = [s for s in sample.context if symbols.first <= s < marks]
    rows = [bare[i : i + 3] for i in range(0, len(bare) - 2, 3)]
    assigned = dict(zip(reversed(bare[:-1]), reversed(bare[1:]), strict=True))
    shown, among = sample.values(sample.context), set(sample.among.tolist())
    given: list[Value] = []
    right = []
    for (_, *question), answer in sample.turns:
        for value in sample.values(answer):
            text = Reading(shown, question, given, rows, among, assigned)
            answers = [rule(text) for rule in RULES[TASKS[name].group]]
            right.append([sum(one == value for one in any_of) / max(1, len(any_of)) for any_of in answers])
            given = [*given, value]
    return np.mean(right, axis=0).tolist()


@cache
def recall_floor(length: int, pairs: int) -> float:
    """The floor of multi-query associative recall in its published form: a guess among the values, or the
    n-th value for the n-th question. The published law of gaps draws them for one pair after
    another, so the pairs written first are asked a little earlier.

    >>> round(recall_floor(64, 8), 2)
    0.16
    """
    inputs, labels, _ = mqar(np.random.default_rng(0), DRAWS, length, pairs, 2 * pairs)
    answers = labels[labels != IGNORED].reshape(DRAWS, pairs)
    return max(1 / pairs, float((answers == inputs[:, 1 : 2 * pairs : 2]).mean()))

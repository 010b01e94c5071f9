"""Thirteen recall tasks of single symbols, in the seven groups of RULER.

RULER (Hsieh et al., arXiv 2404.06654; code of record NVIDIA/RULER) asks in English and needs models of
hundreds of millions of parameters to understand the question. Here each of its tasks keeps its
structure and loses its language: a word, a number or a name is one symbol, a question is one mark and
a key, and the answer follows it. So a small model can be asked, and a task measures recall alone.

A generator returns a `Sample`: a context and one turn a question. `sequence` joins them. What is the
same for all tasks:

- an answer of several values is given in one fixed order and read with the right symbols before it
  (RULER reads free text and looks for every answer in any order); a value of several symbols is right
  only as a whole, as there;
- facts and needles stand at random places of their haystack, in random order;
- something competes with what is asked. In English a question and its needle are told apart by their
  words. Among symbols a needle that stands alone is the only one of its kind, and a rule that never reads
  the question would find it. So the single needles have one distractor, the needle of several values and
  the chain of variables have others between their parts, and of eight needles four are asked. What rules
  of that kind still reach is measured in `hybrid.data.floors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import NamedTuple

import numpy as np

from hybrid.data.recall import IGNORED

NOISE = 5
"""Symbols of the noise haystack, which repeats them in one order as RULER repeats five sentences."""
MARKS = ("ask", "trace", "common", "frequent", "fact", *(f"noise {i}" for i in range(NOISE)))
"""Symbols that are neither key nor value: one for each kind of question, then the noise."""
RELATIONS = 4
"""How many of the keys stand for relations in the question-answering tasks."""


@dataclass(frozen=True, eq=False)
class Symbols:
    """The ids that sequences are made of."""

    text: np.ndarray
    """A text, 1-D; the essay haystack is cut from it."""
    first: int
    """Id of the first key; keys, values and `MARKS` follow one another."""
    vocab: int
    """Number of keys and values together; half of them each."""

    @property
    def keys(self) -> np.ndarray:
        """Ids of the keys."""
        return self.first + np.arange(self.vocab // 2)

    @property
    def values(self) -> np.ndarray:
        """Ids of the values."""
        return self.first + np.arange(self.vocab // 2, self.vocab)

    def mark(self, name: str) -> int:
        """Id of one of `MARKS`."""
        return self.first + self.vocab + MARKS.index(name)

    def haystack(self, rng: np.random.Generator, kind: str, size: int) -> list[int]:
        """``size`` tokens to hide things in: "essay" is a random window of the text, "noise" the cycle."""
        if kind == "essay":
            if len(self.text) <= size:
                raise ValueError(
                    f"an essay of {size} tokens needs a longer text; this one has {len(self.text)}"
                )
            start = rng.integers(len(self.text) - size)
            return self.text[start : start + size].tolist()
        return [self.mark(f"noise {i % NOISE}") for i in range(size)]


class Sample(NamedTuple):
    """What a generator makes."""

    context: list[int]
    turns: list[tuple[list[int], list[int]]]
    """Question and answer, one after the other."""
    among: np.ndarray
    """Ids an answer is taken from."""
    size: int = 1
    """Symbols of one value of an answer."""

    def values(self, symbols: list[int]) -> list[tuple[int, ...]]:
        """The values that symbols show, in their order and as often as they show them."""
        among = set(self.among.tolist())
        chosen = [symbol for symbol in symbols if symbol in among]
        return list(zip(*(chosen[i :: self.size] for i in range(self.size)), strict=True))


def needles(
    rng: np.random.Generator,
    symbols: Symbols,
    length: int,
    *,
    haystack: str = "essay",
    keys: int | None = 1,
    values: int = 1,
    queries: int | None = 1,
    key_size: int = 1,
    value_size: int = 1,
) -> Sample:
    """Needle in a haystack: which values were written beside this key?

    Args:
        length: tokens of the whole sequence, questions and answers included.
        haystack: "essay" or "noise", see `Symbols.haystack`.
        keys: different keys in the haystack; None: as many as fit, the others being distractors, and at
            most as many as there are symbols.
        values: needles of each key, each with a value of its own; the answer has them in the order of
            the text, where those of other keys stand between them.
        queries: keys asked, one after the other, no more than `keys`; None: as many as half of the
            sequence can ask.
        key_size, value_size: symbols of a key and of a value, such as RULER's "uuids".

    Two keys with one value each in noise; key 2 is asked. Symbols: 0 to 3 keys, 4 to 7 values,
    8 asks, 13 to 17 are the noise:

    >>> symbols = Symbols(np.zeros(0, int), first=0, vocab=8)
    >>> needles(np.random.default_rng(1), symbols, 12, haystack="noise", keys=2)[:2]
    ([13, 2, 4, 14, 15, 16, 17, 1, 6], [([8, 2], [4])])
    """
    _holds(symbols, 2)
    needle, turn = key_size + value_size, 1 + key_size + values * value_size
    queries = min(queries or max(1, length // (2 * turn)), keys or symbols.vocab // 2)
    room = length - queries * turn
    if keys is None:
        keys = min(room // needle, symbols.vocab // 2)
    _fits(length, queries * turn + max(keys, queries) * values * needle)
    names = _distinct(rng, symbols.keys, keys, key_size)
    contents = _distinct(rng, symbols.values, keys * values, value_size)
    owners = rng.permutation(np.repeat(np.arange(keys), values))
    items = [names[owner] + content for owner, content in zip(owners, contents, strict=True)]
    context = _hide(rng, items, symbols.haystack(rng, haystack, room - needle * len(items)))
    turns = []
    for asked in rng.permutation(keys)[:queries]:
        answer = [s for owner, c in zip(owners, contents, strict=True) if owner == asked for s in c]
        turns.append(([symbols.mark("ask"), *names[asked]], answer))
    return Sample(context, turns, symbols.values, value_size)


def variable_tracking(
    rng: np.random.Generator, symbols: Symbols, length: int, *, hops: int = 4, chains: int = 3
) -> Sample:
    """Which variables hold this value? The first is set to it, each further one to the one before.

    Args:
        hops: assignments from variable to variable; the answer names ``hops + 1`` variables, in the
            order of the chain, which is that of the text.
        chains: each with a value of its own, their assignments mixed; one is asked. (RULER's default is
            one chain: then the variables in the order of the text are the answer.)

    Variable 0 is set to 4 and variable 1 to variable 0; variable 3 is set to 7 and variable 2 to variable 3.
    Mark 9 asks for the variables that hold 7:

    >>> symbols = Symbols(np.zeros(0, int), first=0, vocab=8)
    >>> variable_tracking(np.random.default_rng(0), symbols, 17, hops=1, chains=2)[:2]
    ([13, 14, 15, 0, 4, 3, 7, 16, 1, 0, 17, 2, 3], [([9, 7], [3, 2])])
    """
    size = hops + 1
    turn = 2 + size
    _fits(length, turn + 2 * size * chains)
    names = np.reshape(_distinct(rng, symbols.keys, size * chains, 1), (chains, size)).tolist()
    values = [value for [value] in _distinct(rng, symbols.values, chains, 1)]
    assignments = [
        iter(zip(chain, [value, *chain], strict=False)) for chain, value in zip(names, values, strict=True)
    ]
    order = rng.permutation(np.repeat(np.arange(chains), size))
    items = [list(next(assignments[chain])) for chain in order]
    context = _hide(rng, items, symbols.haystack(rng, "noise", length - turn - 2 * len(items)))
    return Sample(context, [([symbols.mark("trace"), values[0]], names[0])], symbols.keys)


def common_words(rng: np.random.Generator, symbols: Symbols, length: int, *, common: int = 4) -> Sample:
    """Which words stand often in the list? The common ones share 40 % of it, all others the rest.

    Args:
        common: words to find; the answer has them in the order of their first appearance.

    The list holds word 2 four times and no other word more than once. Mark 10 asks for it:

    >>> symbols = Symbols(np.zeros(0, int), first=0, vocab=8)
    >>> common_words(np.random.default_rng(0), symbols, 13, common=1)[:2]
    ([2, 7, 2, 6, 2, 4, 5, 3, 2, 1, 0], [([10], [2])])
    """
    room = length - 1 - common
    often = 2 * room // (5 * common)
    _fits(length, 1 + common + 5 * common)
    rarest = -(-(room - common * often) // (symbols.vocab - common)) if symbols.vocab > common else often
    if rarest >= often:
        raise ValueError(
            f"length {length} needs a larger vocab than {symbols.vocab}: its {common} common words stand "
            f"{often} times, others up to {rarest}"
        )
    words = rng.permutation(np.concatenate([symbols.keys, symbols.values])).tolist()
    rare = np.resize(words[common:], room - common * often).tolist()
    context = rng.permutation(words[:common] * often + rare).tolist()
    answer = sorted(words[:common], key=context.index)
    return Sample(context, [([symbols.mark("common")], answer)], np.array(words))


def frequent_words(
    rng: np.random.Generator,
    symbols: Symbols,
    length: int,
    *,
    ask: int = 3,
    words: int = 8,
    alpha: float = 1.5,
) -> Sample:
    """Which words are the most frequent? How often a word stands in the text falls with its rank as
    rank^-alpha; the first rank is noise, and the answer is the next ones, most frequent first.

    Args:
        ask: words to find.
        words: ranks.
        alpha: steepness. RULER's 2.0 would make ranks equal in a text of 60 words.

    Ranks of 12, 3, 2 and 1 tokens; mark 11 asks for the second and the third:

    >>> symbols = Symbols(np.zeros(0, int), first=0, vocab=8)
    >>> frequent_words(np.random.default_rng(0), symbols, 21, ask=2, words=4)[:2]
    ([13, 13, 4, 13, 13, 2, 13, 13, 13, 13, 13, 13, 3, 2, 13, 4, 13, 2], [([11], [2, 4])])
    """
    room = length - 1 - ask
    share = np.arange(1, words + 1) ** -alpha
    counts = np.floor(room * share / share.sum()).astype(int)
    counts[0] += room - counts.sum()
    if len(set(counts[: ask + 2])) < ask + 2:
        raise ValueError(f"length {length} is too short to tell {ask + 1} ranks apart")
    _holds(symbols, words - 1)
    names = rng.permutation(np.concatenate([symbols.keys, symbols.values]))[: words - 1].tolist()
    context = rng.permutation(np.repeat([symbols.mark("noise 0"), *names], counts)).tolist()
    return Sample(context, [([symbols.mark("frequent")], names[:ask])], np.array(names))


def facts(
    rng: np.random.Generator, symbols: Symbols, length: int, *, hops: int = 1, queries: int | None = 1
) -> Sample:
    """Question answering: what is this relation of this entity, or a further relation of that?

    The context is a list of facts (entity, relation, object): every entity has an object for each
    relation, all different as far as there are values, and every relation holds for each entity. So the
    entity alone and the relation alone leave many objects. With two hops the object of the first fact is
    the entity of the second, and only the last object is the answer.

    Args:
        hops: facts from the entity asked to the answer.
        queries: questions, one after the other, perhaps the same again; None: as many as half of the
            sequence can ask.

    Keys 0 to 3 are relations, 4 to 7 entities. Here the entities 6 and 4 have the relations 3 and 2 each.
    Mark 20 asks for the relation 2 of 6:

    >>> symbols = Symbols(np.zeros(0, int), first=0, vocab=16)
    >>> facts(np.random.default_rng(0), symbols, 16)[:2]
    ([6, 3, 13, 4, 3, 12, 6, 2, 10, 4, 2, 15], [([20, 6, 2], [10])])
    """
    turn = 3 + hops
    queries = queries or max(1, length // (2 * turn))
    room = length - queries * turn
    _fits(length, queries * turn + 3 * hops)
    _holds(symbols, 2 * (RELATIONS + hops))
    entities = rng.permutation(symbols.keys[RELATIONS:])
    # As many relations as entities of a hop, as far as they go: then neither tells much.
    width = min(RELATIONS, isqrt(room // 3 // hops), len(entities) // hops)
    relations = rng.permutation(symbols.keys[:RELATIONS])[:width].tolist()
    groups = np.array_split(entities[: room // 3 // width], hops)
    known = {}
    for hop, subjects in enumerate(groups):
        if hop == 0:
            objects = np.resize(rng.permutation(symbols.values), (len(subjects), width))
        else:
            # A Latin square: no entity and no relation leads to one object twice.
            below = groups[hop - 1]
            objects = below[np.add.outer(np.arange(len(subjects)), np.arange(width)) % len(below)]
        for entity, row in zip(subjects.tolist(), objects.tolist(), strict=True):
            known |= {(entity, relation): found for relation, found in zip(relations, row, strict=True)}
    items = rng.permutation([[*subject, found] for subject, found in known.items()]).tolist()
    context = _hide(rng, items, symbols.haystack(rng, "noise", room - 3 * len(items)))
    turns = []
    for _ in range(queries):
        asked = [int(rng.choice(groups[-1])), *rng.choice(relations, hops).tolist()]
        found = asked[0]
        for relation in asked[1:]:
            found = known[found, relation]
        turns.append(([symbols.mark("fact"), *asked], [found]))
    return Sample(context, turns, symbols.values)


@dataclass(frozen=True)
class Task:
    """One of the thirteen."""

    group: str
    """Its column in Table 6 of arXiv 2507.06457."""
    make: Callable[..., Sample]
    """The generator with its knobs; called with the random stream, the symbols and the length."""
    repeats: bool = False
    """Whether one context can be asked several questions."""


TASKS: dict[str, Task] = {
    "niah_single_1": Task("singlevalue", partial(needles, haystack="noise", keys=2)),
    "niah_single_2": Task("singlevalue", partial(needles, keys=2)),
    "niah_single_3": Task("singlevalue", partial(needles, keys=2, value_size=3)),
    "niah_multikey_1": Task("multikey", partial(needles, keys=4), repeats=True),
    "niah_multikey_2": Task("multikey", partial(needles, haystack="noise", keys=None), repeats=True),
    "niah_multikey_3": Task(
        "multikey", partial(needles, haystack="noise", keys=None, key_size=2, value_size=2), repeats=True
    ),
    "niah_multivalue": Task("multivalue", partial(needles, keys=4, values=4)),
    "niah_multiquery": Task("multiquery", partial(needles, keys=8, queries=4)),
    "vt": Task("vt", variable_tracking),
    "cwe": Task("cwe_fwe", common_words),
    "fwe": Task("cwe_fwe", frequent_words),
    "qa_1": Task("qa", facts, repeats=True),
    "qa_2": Task("qa", partial(facts, hops=2), repeats=True),
}
"""Names and groups as in RULER and Table 6 of arXiv 2507.06457."""
NEEDLES = tuple(name for name in TASKS if name.startswith("niah_"))
"""The eight tasks each symbol of whose answer stands beside its key."""


def chosen(names: Sequence[str] = ()) -> dict[str, Task]:
    """Those of `TASKS` with these names, in the order of `TASKS`; no name stands for all thirteen.

    Raises ``ValueError`` naming an unknown or repeated task and the allowed ones.
    """
    for name in names:
        if name not in TASKS or list(names).count(name) > 1:
            what = "unknown" if name not in TASKS else "repeated"
            raise ValueError(f"{what} recall task {name!r}; allowed: {', '.join(TASKS)}, each once")
    return {name: task for name, task in TASKS.items() if not names or name in names}


def sample(rng: np.random.Generator, symbols: Symbols, name: str, length: int, many: bool = False) -> Sample:
    """A sample of a task; with ``many``, half of the sequence is questions where one context can be asked
    several (training), else there is one question (measurement).

    Raises ``ValueError`` naming an unknown task, or a length too short for it.
    """
    task = chosen([name])[name]
    return task.make(rng, symbols, length, **({"queries": None} if many and task.repeats else {}))


def sequence(sample: Sample) -> tuple[list[int], list[int], float]:
    """``(inputs, labels, chance)`` of a sample: context, then each question with its answer.

    Labels stand at the position before their symbol, as everywhere: the last symbol of a question has
    the first of the answer. ``chance`` is the accuracy of a guess among the values the context shows.
    """
    inputs, labels = list(sample.context), [IGNORED] * len(sample.context)
    for question, answer in sample.turns:
        inputs += question + answer
        labels += [IGNORED] * (len(question) - 1) + answer + [IGNORED]
    return inputs, labels, 1 / len(set(sample.values(sample.context)))


def _distinct(rng: np.random.Generator, alphabet: np.ndarray, count: int, size: int) -> list[list[int]]:
    """``count`` different words of ``size`` symbols, drawn uniformly."""
    total = len(alphabet) ** size
    if count > total:
        raise ValueError(f"{len(alphabet)} symbols make {total} words of {size}; {count} are needed")
    codes = rng.choice(total, count, replace=False)
    digits = codes[:, None] // len(alphabet) ** np.arange(size) % len(alphabet)
    return alphabet[digits].tolist()


def _hide(rng: np.random.Generator, items: list[list[int]], filler: list[int]) -> list[int]:
    """The items, in their order, at random places of the filler."""
    context, last = [], 0
    for item, place in zip(items, np.sort(rng.integers(len(filler) + 1, size=len(items))), strict=True):
        context += filler[last:place] + item
        last = place
    return context + filler[last:]


def _fits(length: int, needed: int) -> None:
    if length < needed:
        raise ValueError(f"length must be at least {needed} for this task; got {length}")


def _holds(symbols: Symbols, needed: int) -> None:
    if symbols.vocab < needed:
        raise ValueError(f"vocab must be at least {needed} for this task; got {symbols.vocab}")

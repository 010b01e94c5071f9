"""Rules that skip a task, run on flat sequences: none beats the floor; one that does the task is right."""

import doctest
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data import floors
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.recall import IGNORED, mqar
from hybrid.data.suite import MARKS, RELATIONS, TASKS, Symbols, sample, sequence

FIRST, VOCAB, LENGTH, TEXTS = 256, 64, 64, 400
SYMBOLS = Symbols(np.arange(5_000) % 256, first=FIRST, vocab=VOCAB)
KEYS = range(FIRST, FIRST + VOCAB // 2)
VALUES = range(FIRST + VOCAB // 2, FIRST + VOCAB)
QUESTIONS = [MARKS.index(mark) for mark in ("ask", "trace", "common", "frequent", "fact")]
SIZES = {"niah_single_3": (1, 3), "niah_multikey_3": (2, 2)}
"""Symbols of a key and of a value, where they are not one each."""

FLOORS = {
    "niah_single_1": 0.58,
    "niah_single_2": 0.58,
    "niah_single_3": 0.58,
    "niah_multikey_1": 0.32,
    "niah_multikey_2": 0.07,
    "niah_multikey_3": 0.12,
    "niah_multivalue": 0.30,
    "niah_multiquery": 0.22,
    "vt": 0.43,
    "cwe": 0.30,
    "fwe": 0.43,
    "qa_1": 0.30,
    "qa_2": 0.38,
}
"""What the floors lie below, at 64 tokens and 64 symbols."""


class Flat:
    """What is read before one symbol of an answer: the context, the question without its mark, and the
    symbols already answered to it; ``before`` are answers to earlier questions."""

    def __init__(self, name, tokens, vocab=VOCAB):
        self.name = name
        starts = [i for i, token in enumerate(tokens) if token - FIRST - vocab in QUESTIONS]
        key, self.size = SIZES.get(name, (1, 1))
        asked = {"c": 0, "f": 0, "v": 1, "n": key, "q": 2 + (name == "qa_2")}[name[0]]
        self.context = tokens[: starts[0]]
        self.question = tokens[starts[-1] + 1 : starts[-1] + 1 + asked]
        self.given = tokens[starts[-1] + 1 + asked :]
        self.before = [s for a, b in pairwise(starts) for s in tokens[a + 1 + asked : b]]
        half, end = FIRST + vocab // 2, FIRST + vocab
        self.kind = set(range(half if name[0] in "nq" else FIRST, half if name == "vt" else end))
        self.shown = [s for s in self.context if s in self.kind]
        self.part = len(self.given) % self.size
        self.bare = [s for s in self.context if FIRST <= s < end]

    def words(self):
        """Values of the text that begin as the one under way does and are not used up, in order."""
        words = [tuple(self.shown[i : i + self.size]) for i in range(0, len(self.shown), self.size)]
        done = self.before + self.given[: len(self.given) - self.part]
        used = {tuple(done[i : i + self.size]) for i in range(0, len(done), self.size)}
        begun = tuple(self.given[len(self.given) - self.part :])
        return [w for w in words if w not in used and w[: self.part] == begun]

    def facts(self):
        return [tuple(self.bare[i : i + 3]) for i in range(0, len(self.bare), 3)]


def oracle(text):
    """Does the task, by parsing the text."""
    context, question, n = text.context, text.question, len(text.given)
    match text.name[0]:
        case "n":
            places = [i for i in range(len(context)) if context[i : i + len(question)] == question]
            found = [s for i in places for s in context[i + len(question) :][: text.size]]
            return found[n]
        case "v":
            wanted = text.given[-1] if n else question[0]
            return next(a for a, b in zip(text.bare[::2], text.bare[1::2], strict=True) if b == wanted)
        case "c":
            common = [word for word, _ in Counter(context).most_common(4)]
            return sorted(common, key=context.index)[n]
        case "f":
            return Counter(text.shown).most_common(3)[n][0]
        case _:
            known = {(e, r): found for e, r, found in text.facts()}
            entity, *relations = question
            for relation in relations:
                entity = known[entity, relation]
            return entity


def pick(rng, symbols):
    """One at random, or nothing."""
    symbols = list(symbols)
    return symbols[rng.integers(len(symbols))] if symbols else None


def objects(text, entity=None, relation=None):
    return [f for e, r, f in text.facts() if entity in (None, e) and relation in (None, r)]


def word(choose):
    """A rule that chooses among whole values and answers with the symbol that is due."""

    def rule(text, rng):
        words = text.words()
        return choose(text, words, rng)[text.part] if words else None

    return rule


def next_in_text(text, words, rng):
    given = text.before + text.given[: len(text.given) - text.part]
    if not given:
        return words[0]
    flat = [tuple(text.shown[i : i + text.size]) for i in range(0, len(text.shown), text.size)]
    last = flat.index(tuple(given[-text.size :]))
    return next((w for w in flat[last + 1 :] if w in words), words[0])


def next_variable(text, rng):
    """The start of any chain, then what is assigned next to a variable."""
    pairs = list(zip(text.bare[::2], text.bare[1::2], strict=False))
    if not text.given:
        return pick(rng, [a for a, b in pairs if b in VALUES])
    places = [a for a, b in pairs if a == text.given[-1] or b in KEYS]
    return next(iter(places[places.index(text.given[-1]) + 1 :]), None)


def after_last(text, rng):
    """A copy of what stood after the last symbol when it stood there before."""
    symbol = (text.question + text.given)[-1:]
    places = [i for i, s in enumerate(text.context[:-1]) if [s] == symbol]
    return text.context[places[-1] + 1] if places else None


ANYWHERE = {
    "any symbol that answers": lambda text, rng: pick(rng, sorted(set(text.shown))),
    "any value": word(lambda text, words, rng: words[rng.integers(len(words))]),
    "the first value": word(lambda text, words, rng: words[0]),
    "the most recent value": word(lambda text, words, rng: words[-1]),
    "the value in the middle": word(lambda text, words, rng: words[len(words) // 2]),
    "the only value": word(lambda text, words, rng: words[0] if len(set(words)) == 1 else [None] * 9),
    "the next value in text order": word(next_in_text),
}
FREQUENT = {"the most frequent value": word(lambda text, words, rng: Counter(words).most_common(1)[0][0])}
COPY = {"a copy after the last occurrence": after_last}
OF_GROUP = {
    "cwe_fwe": COPY,
    "vt": FREQUENT | COPY | {"the next variable": next_variable},
    "qa": FREQUENT
    | COPY
    | {
        "any object of the entity": lambda t, rng: pick(rng, objects(t, t.question[0])),
        "any object of the relation": lambda t, rng: pick(
            rng, [f for f in objects(t, None, t.question[-1]) if f in t.kind]
        ),
        "any first relation": lambda t, rng: pick(
            rng, [f for b in objects(t, t.question[0]) for f in objects(t, b, t.question[-1])]
        ),
        "any first entity": lambda t, rng: pick(
            rng, [f for b in objects(t, None, t.question[1]) for f in objects(t, b, t.question[-1])]
        ),
        "any last relation": lambda t, rng: pick(
            rng, [f for b in objects(t, t.question[0], t.question[1]) for f in objects(t, b)]
        ),
    },
}


def rules(name):
    return ANYWHERE | OF_GROUP.get(TASKS[name].group, FREQUENT)


def texts(name, length=LENGTH, symbols=SYMBOLS):
    rng = np.random.default_rng([1, *name.encode()])
    return [sample(rng, symbols, name, length) for _ in range(TEXTS)]


def right(name, answer, samples):
    """Share of values that a function of the tokens before each symbol gets right as a whole."""
    size = SIZES.get(name, (1, 1))[1]
    shares = []
    for drawn in samples:
        inputs, labels, _ = sequence(drawn)
        places = [i for i, label in enumerate(labels) if label != IGNORED]
        hits = [answer(Flat(name, inputs[: i + 1])) == labels[i] for i in places]
        shares.append(np.mean([all(hits[i : i + size]) for i in range(0, len(hits), size)]))
    return float(np.mean(shares)), float(np.std(shares) / len(shares) ** 0.5)


@pytest.mark.parametrize("name", TASKS)
def test_no_rule_that_skips_the_task_beats_its_floor(name):
    samples = texts(name)
    stated = np.mean([floors.skipped(SYMBOLS, name, drawn) for drawn in samples], axis=0)
    assert stated[0] == pytest.approx(np.mean([sequence(drawn)[2] for drawn in samples]))
    assert stated.max() < FLOORS[name]
    for about, rule in rules(name).items():
        rng = np.random.default_rng(0)
        reached, error = right(name, lambda text, rule=rule, rng=rng: rule(text, rng), samples)
        assert reached <= stated.max() + 4 * error + 1e-9, about


@pytest.mark.parametrize("name", TASKS)
def test_one_that_does_the_task_is_always_right(name):
    assert right(name, oracle, texts(name)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "rule", "stated"),
    [
        ("qa_1", "any object of the entity", 1 / RELATIONS),
        ("qa_2", "any object of the relation", 1 / 3),
        ("qa_2", "any first relation", 1 / 3),
        ("niah_multikey_1", "any value", 1 / 4),
        ("niah_multiquery", "any value", (1 / 8 + 1 / 7 + 1 / 6 + 1 / 5) / 4),
    ],
)
def test_rules_reach_what_a_count_by_hand_says(name, rule, stated):
    """Four relations of an entity, three entities of a relation, eight needles of which four are used up."""
    rng = np.random.default_rng(0)
    reached, error = right(name, lambda text: rules(name)[rule](text, rng), texts(name))
    assert reached == pytest.approx(stated, abs=4 * error)
    exact = np.mean([floors.skipped(SYMBOLS, name, drawn) for drawn in texts(name)], axis=0)
    assert np.abs(exact - stated).min() < 1e-9


def test_facts_of_many_symbols_give_no_entity_and_no_relation_away():
    large = Symbols(np.arange(5_000) % 256, first=FIRST, vocab=256)
    for name in ("qa_1", "qa_2"):
        means = np.mean([floors.skipped(large, name, s) for s in texts(name, 256, large)], axis=0)
        assert means.max() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("length", "pairs"), [(64, 2), (64, 8), (256, 16)])
def test_the_floor_of_recall_is_what_rules_reach(length, pairs):
    inputs, labels, _ = mqar(np.random.default_rng(9), 3_000, length, pairs, 128)
    answers = labels[labels != IGNORED].reshape(-1, pairs)
    values = inputs[:, 1 : 2 * pairs : 2]
    rng, floor = np.random.default_rng(0), floors.recall_floor(length, pairs)
    guesses = {
        "any value": rng.permuted(values, axis=1),
        "the first value": values[:, :1],
        "the most recent value": values[:, -1:],
        "the next value in text order": values,
        "the values from the end": values[:, ::-1],
    }
    reached = {about: (guess == answers).mean() for about, guess in guesses.items()}
    error = 4 * (0.25 / answers.size) ** 0.5
    assert max(reached.values()) <= floor + error
    assert reached["the next value in text order"] == pytest.approx(floor, abs=error)
    assert 1 / pairs <= floor < 1.5 / pairs


@pytest.mark.parametrize(("keys", "size"), [(4, 2), (2, 1), (3, 3)])
def test_passkeys_are_found_by_elimination_as_often_as_their_description_says(keys, size):
    passkeys = Passkeys(keys, size, (80,))
    task = TaskConfig(seq_len=64, pairs=(1,), recall_vocab=VOCAB)
    data = TaskData(task, TrainConfig(batch_size=100), 0)
    names = ("any value", "the first value", "the most recent value", "the next value in text order")
    hits = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for step in range(4):
        batch = passkeys.train_batch(data, step)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            for i in (i for i, label in enumerate(labels) if label != IGNORED):
                text = Flat("niah_multiquery", ids[: i + 1])
                text.size, text.part = size, len(text.given)
                for name in names:
                    hits[name].append((text.part, ANYWHERE[name](text, rng) == labels[i]))
    left = sum(1 / n for n in range(1, keys + 1)) / keys
    stated = (left + size - 1) / size
    for name, found in hits.items():
        assert np.mean([hit for _, hit in found]) <= stated + 0.04, name
    assert np.mean([hit for part, hit in hits["any value"] if part == 0]) == pytest.approx(left, abs=0.05)


def test_the_worked_example_is_true():
    assert doctest.testmod(floors).attempted and not doctest.testmod(floors).failed

"""The thirteen tasks: every sequence answers its own question, found by reading it back."""

import doctest
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data import suite
from hybrid.data.recall import IGNORED
from hybrid.data.suite import MARKS, NEEDLES, RELATIONS, TASKS, Symbols, sample, sequence

TEXT = np.arange(5_000) % 256


def symbols(vocab=64):
    return Symbols(TEXT, first=256, vocab=vocab)


def made(name, length, seed, many=False, vocab=64):
    drawn = sample(np.random.default_rng(seed), symbols(vocab), name, length, many)
    return drawn, *sequence(drawn)


def every_task(test):
    arguments = given(
        length=st.integers(64, 300), seed=st.integers(0, 2**32), vocab=st.sampled_from([32, 64])
    )
    return pytest.mark.parametrize("name", TASKS)(settings(max_examples=25, deadline=None)(arguments(test)))


@every_task
def test_labels_are_the_next_symbol_of_every_answer_and_nothing_else(name, length, seed, vocab):
    drawn, inputs, labels, chance = made(name, length, seed, True, vocab)
    assert len(inputs) == len(labels) == length
    for after, label in zip([*inputs[1:], None], labels, strict=True):
        assert label in (IGNORED, after)
    assert sum(label != IGNORED for label in labels) == sum(len(answer) for _, answer in drawn.turns)
    assert all(0 <= token < 256 + vocab + len(MARKS) for token in inputs)
    assert all(label == IGNORED for label in labels[: len(drawn.context)])
    assert 0 < chance <= 1


@every_task
def test_a_sequence_is_a_function_of_its_seed(name, length, seed, vocab):
    assert made(name, length, seed, False, vocab)[1:] == made(name, length, seed, False, vocab)[1:]
    assert made(name, length, seed, False, vocab)[1:] != made(name, length, seed + 1, False, vocab)[1:]


def occurrences(context, key):
    size = len(key)
    return [i for i in range(len(context) - size + 1) if context[i : i + size] == key]


@pytest.mark.parametrize("name", NEEDLES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_needle_is_read_beside_its_key(name, seed):
    drawn, *_ = made(name, 64, seed, many=True)
    for question, answer in drawn.turns:
        mark, *key = question
        assert mark == symbols().mark("ask")
        found = occurrences(drawn.context, key)
        size = len(answer) // len(found)
        read = [drawn.context[i + len(key) : i + len(key) + size] for i in found]
        assert [symbol for value in read for symbol in value] == answer


@pytest.mark.parametrize(
    ("name", "keys", "values", "key_size", "value_size"),
    [
        ("niah_single_1", 2, 1, 1, 1),
        ("niah_single_3", 2, 1, 1, 3),
        ("niah_multikey_1", 4, 1, 1, 1),
        ("niah_multikey_2", 30, 1, 1, 1),
        ("niah_multikey_3", 14, 1, 2, 2),
        ("niah_multivalue", 4, 4, 1, 1),
        ("niah_multiquery", 8, 1, 1, 1),
    ],
)
def test_needles_hold_as_much_as_their_name_says(name, keys, values, key_size, value_size):
    context = Counter(made(name, 64, 0)[0].context)
    known = set(symbols().keys.tolist())
    assert sum(n for s, n in context.items() if s in known) == keys * values * key_size
    written = set(symbols().values.tolist())
    assert sum(n for s, n in context.items() if s in written) == keys * values * value_size


def test_a_full_haystack_has_a_distractor_for_every_free_key():
    assert made("niah_multikey_2", 300, 0)[3] == 1 / 32


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_chain_of_variables_leads_to_the_value(seed):
    drawn, *_ = made("vt", 64, seed)
    [([_, value], answer)] = drawn.turns
    holds = {value}
    found = []
    for name, source in zip(drawn.context, drawn.context[1:], strict=False):
        if source in holds and name in set(symbols().keys.tolist()):
            holds.add(name)
            found.append(name)
    assert found == answer and len(answer) == 5


@given(seed=st.integers(0, 2**32), length=st.integers(64, 300))
@settings(max_examples=40, deadline=None)
def test_common_words_stand_more_often_than_all_others(seed, length):
    drawn, *_ = made("cwe", length, seed)
    [(_, answer)] = drawn.turns
    counts = Counter(drawn.context)
    assert min(counts.pop(word) for word in answer) > max(counts.values())
    assert answer == sorted(answer, key=drawn.context.index)


@given(seed=st.integers(0, 2**32), length=st.integers(64, 300))
@settings(max_examples=40, deadline=None)
def test_frequent_words_are_the_next_after_the_noise_in_order(seed, length):
    drawn, *_ = made("fwe", length, seed)
    [(_, answer)] = drawn.turns
    ranked = Counter(drawn.context).most_common()
    assert ranked[0][0] == symbols().mark("noise 0")
    assert [word for word, _ in ranked[1:4]] == answer
    assert len({n for _, n in ranked[:5]}) == 5


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_facts_answer_their_questions_in_one_way(name, seed):
    drawn, *_ = made(name, 64, seed, many=True)
    relations = set(symbols().keys[:RELATIONS].tolist())
    facts = {}
    for i, token in enumerate(drawn.context):
        if token in relations:
            subject = (drawn.context[i - 1], token)
            assert subject not in facts
            facts[subject] = drawn.context[i + 1]
    for (_, entity, *asked), [answer] in drawn.turns:
        for relation in asked:
            entity = facts[entity, relation]
        assert entity == answer and answer in symbols().values


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("niah", 64, "unknown recall task 'niah'; allowed: niah_single_1, "),
        ("niah_multiquery", 27, "length must be at least 28 for this task; got 27"),
        ("niah_single_2", 5_100, "an essay of 5093 tokens needs a longer text; this one has 5000"),
        ("fwe", 20, "length 20 is too short to tell 4 ranks apart"),
        ("vt", 36, "length must be at least 37 for this task; got 36"),
    ],
)
def test_bad_input_is_refused_by_name(name, length, message):
    with pytest.raises(ValueError, match=message):
        made(name, length, 0)


def test_examples_in_docstrings():
    assert doctest.testmod(suite).attempted and not doctest.testmod(suite).failed

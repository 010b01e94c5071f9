"""Every generator at the smallest and at odd sizes: it makes what it promises, or names what does not fit."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_floors import FIRST, Flat, oracle

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.recall import IGNORED, mqar
from hybrid.data.suite import MARKS, TASKS, Symbols, sample, sequence

TEXT = np.arange(500) % 256
SHORTEST = {
    "niah_single_1": 7,
    "niah_single_2": 7,
    "niah_single_3": 13,
    "niah_multikey_1": 11,
    "niah_multikey_2": 5,
    "niah_multikey_3": 9,
    "niah_multivalue": 38,
    "niah_multiquery": 28,
    "vt": 37,
    "cwe": 25,
    "fwe": 25,
    "qa_1": 7,
    "qa_2": 11,
}
"""Tokens of a question with its answer and of what it needs in the text, by hand (fwe: by trial)."""
LEAST = {
    "niah_single_1": 4,
    "niah_single_2": 4,
    "niah_single_3": 4,
    "niah_multikey_1": 8,
    "niah_multikey_2": 2,
    "niah_multikey_3": 2,
    "niah_multivalue": 31,
    "niah_multiquery": 16,
    "vt": 30,
    "cwe": 14,
    "fwe": 7,
    "qa_1": 10,
    "qa_2": 12,
}
"""Keys and values together of which a text of 64 tokens can be made."""


def made(name, length, vocab, seed=0, many=False):
    """A sample that is checked: its size, its symbols, and that its questions have these answers."""
    drawn = sample(np.random.default_rng(seed), Symbols(TEXT, FIRST, vocab), name, length, many)
    inputs, labels, chance = sequence(drawn)
    assert len(inputs) == len(labels) == length and drawn.turns and 0 < chance <= 1
    assert all(0 <= token < FIRST + vocab + len(MARKS) for token in inputs)
    for i, label in enumerate(labels):
        if label != IGNORED:
            assert oracle(Flat(name, inputs[: i + 1], vocab)) == label == inputs[i + 1]
    return drawn


@pytest.mark.parametrize("name", TASKS)
@given(length=st.integers(0, 90), vocab=st.integers(0, 70), seed=st.integers(0, 2**32), many=st.booleans())
@settings(deadline=None)
def test_a_task_is_made_or_what_does_not_fit_is_named(name, length, vocab, seed, many):
    try:
        made(name, length, vocab, seed, many)
    except ValueError as error:
        half = f"{vocab // 2}|{vocab - vocab // 2}"
        named = rf"length (must be .* got )?{length}\b|vocab must be .* got {vocab}$|^({half}) symbols make"
        assert re.search(named, str(error)), error


@pytest.mark.parametrize("name", TASKS)
def test_the_shortest_text_is_made_and_a_shorter_one_refused(name):
    made(name, SHORTEST[name], 70)
    with pytest.raises(ValueError, match=f"length.* {SHORTEST[name] - 1}"):
        made(name, SHORTEST[name] - 1, 70)


@pytest.mark.parametrize("name", TASKS)
def test_the_fewest_symbols_are_enough_and_fewer_refused(name):
    made(name, 64, LEAST[name])
    with pytest.raises(ValueError, match=r"vocab|symbols make"):
        made(name, 64, LEAST[name] - 1)


@pytest.mark.parametrize(("length", "vocab"), [(64, 32), (65, 33), (71, 35)])
def test_a_task_of_the_smallest_size_that_a_config_allows_has_all_batches(length, vocab):
    task = TaskConfig(
        seq_len=length,
        recall_vocab=vocab,
        recall_fraction=1.0,
        suite_fraction=1.0,
        pairs=(1, vocab // 2),
        eval_pairs=(1,),
        eval_lengths=(length,),
        eval_sequences=3,
    )
    data = TaskData(task, TrainConfig(batch_size=40), 0)
    assert data.train_batch(0)["input_ids"].shape == (40, length)
    for name in TASKS:
        batches = list(data.suite_eval_batches(name, length))
        assert torch.cat([batch["input_ids"] for batch in batches]).shape == (3, length)


@given(pairs=st.integers(1, 9), extra=st.integers(0, 3), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_recall_of_the_shortest_length_and_fewest_symbols_is_full(pairs, extra, seed):
    inputs, labels, distance = mqar(
        np.random.default_rng(seed), 3, 4 * pairs + extra, pairs, 2 * pairs + extra % 2
    )
    for row, targets, apart in zip(inputs.tolist(), labels.tolist(), distance.tolist(), strict=True):
        known = dict(zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        asked = [i for i, target in enumerate(targets) if target != IGNORED]
        assert sorted(row[i] for i in asked) == sorted(known)
        assert all(targets[i] == known[row[i]] and row[i - apart[i]] == row[i] for i in asked)


@given(st.integers(1, 9), st.integers(0, 80), st.integers(0, 40))
@settings(deadline=None)
def test_recall_is_made_or_what_does_not_fit_is_named(pairs, length, vocab):
    try:
        made = mqar(np.random.default_rng(0), 2, length, pairs, vocab)[0]
    except ValueError as error:
        assert pairs > min(length // 4, vocab // 2)
        assert re.search(rf"pairs must be at most ({length // 4}|{vocab // 2}), .* got {pairs}$", str(error))
    else:
        assert made.shape == (2, length) and pairs <= min(length // 4, vocab // 2)


@given(keys=st.integers(1, 6), size=st.integers(1, 4), odd=st.integers(0, 1))
@settings(deadline=None, max_examples=30)
def test_passkeys_of_the_shortest_length_and_fewest_symbols(keys, size, odd):
    length = 2 * keys * (3 + 2 * size)
    with pytest.raises(ValueError, match=f"need lengths of at least {length}; got {length - 1}"):
        Passkeys(keys, size, (length - 1,), (length,))
    passkeys = Passkeys(keys, size, (length + odd,), (length,))
    task = TaskConfig(seq_len=16, pairs=(1,), recall_vocab=2 * keys + odd, eval_pairs=(1,))
    data = TaskData(task, TrainConfig(batch_size=3), 0)
    batch = passkeys.train_batch(data, 0)
    assert batch["input_ids"].shape == (3, length + odd)
    assert ((batch["labels"] != IGNORED).sum(1) == keys * size).all()
    assert batch["input_ids"].max() == 256 + 2 * keys + odd

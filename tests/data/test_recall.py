"""Multi-query associative recall against its definition, a brute-force reader and zoology's gap law."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from hybrid.data import recall
from hybrid.data.recall import IGNORED, mqar


@st.composite
def tasks(draw):
    """Arguments that hold: one or several loads, odd lengths, odd vocabularies, repeated queries."""
    sequences = draw(st.integers(1, 6))
    vocab = draw(st.integers(2, 40))
    loads = draw(st.lists(st.integers(1, vocab // 2), min_size=sequences, max_size=sequences))
    queries = draw(st.none() | st.integers(1, 20))
    asks = max(loads) if queries is None else queries
    length = 2 * (max(loads) + max(asks, max(loads))) + draw(st.integers(0, 30))
    alpha = draw(st.sampled_from([0.01, 0.5, 1.0]))
    return draw(st.integers(0, 2**32)), length, np.array(loads), vocab, alpha, queries


def make(task):
    seed, length, loads, vocab, alpha, queries = task
    return mqar(np.random.default_rng(seed), len(loads), length, loads, vocab, alpha, queries)


def read(tokens, position):
    """Answer the query at a position by scanning the sequence from its start for the same token."""
    first = next(i for i in range(0, position, 2) if tokens[i] == tokens[position])
    return tokens[first + 1], position - first


@given(tasks())
def test_brute_force_reader_answers_every_query(task):
    inputs, labels, distance = make(task)
    for tokens, targets, gaps in zip(inputs.tolist(), labels.tolist(), distance.tolist(), strict=True):
        for position, target in enumerate(targets):
            if target == IGNORED:
                assert gaps[position] == 0
            else:
                assert read(tokens, position) == (target, gaps[position])


@given(tasks())
def test_pairs_come_first_and_are_asked_as_often_as_promised(task):
    _, length, loads, vocab, _, queries = task
    inputs, labels, _ = make(task)
    assert inputs.shape == labels.shape == (len(loads), length)
    assert inputs.dtype == labels.dtype == np.int64
    for tokens, targets, n in zip(inputs, labels, loads, strict=True):
        keys, values, rest = tokens[: 2 * n : 2], tokens[1 : 2 * n : 2], tokens[2 * n :]
        assert len(set(keys.tolist())) == len(set(values.tolist())) == n
        assert keys.min() >= 0 and keys.max() < vocab // 2 <= values.min() and values.max() < vocab
        assert rest.min(initial=0) >= 0 and rest.max(initial=0) < vocab
        asked = np.flatnonzero(targets != IGNORED)
        assert asked.min() >= 2 * n and not (asked % 2).any()
        if queries is None:
            assert sorted(tokens[asked].tolist()) == sorted(keys.tolist())
        else:
            assert len(asked) == queries and set(tokens[asked].tolist()) <= set(keys.tolist())
            assert (tokens[asked + 1] == targets[asked]).all()
        # A key of the sequence stands in the query region only where it is asked.
        assert set(np.flatnonzero(np.isin(rest, keys)) + 2 * n) == set(asked)


@given(st.integers(0, 2**32))
def test_the_generator_alone_decides(seed):
    first, again, other = (mqar(np.random.default_rng(s), 4, 32, 4, 64)[0] for s in (seed, seed, seed + 1))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_gaps_follow_the_published_law(alpha):
    """Same histogram as `numpy.random.choice(..., replace=False, p)`, which the code of record calls,
    also for the first pair alone: the draw's order matters."""
    length, pairs, draws = 40, 3, 4000
    _, _, distance = mqar(np.random.default_rng(5), draws, length, pairs, 16, alpha)
    row, position = np.nonzero(distance)
    asked = (position - distance[row, position]) // 2
    slots = length // 2 - pairs
    ours = np.zeros((pairs, slots))
    np.add.at(ours, (asked, position // 2 - pairs), 1)

    p = alpha * np.arange(1, slots + 1) ** (alpha - 1)
    rng = np.random.RandomState(6)
    witness = np.zeros_like(ours)
    for _ in range(draws):
        witness[np.arange(pairs), rng.choice(slots, pairs, replace=False, p=p / p.sum())] += 1
    for pair in range(pairs):
        assert chi2_contingency([ours[pair], witness[pair]]).pvalue > 1e-3


def test_the_worked_example_is_true():
    assert doctest.testmod(recall).attempted and not doctest.testmod(recall).failed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1; got 0"),
        ({"pairs": 9}, "pairs must be at most 8, a quarter of length 32; got 9"),
        ({"pairs": np.array([1, 9])}, "pairs must be at most 8, a quarter of length 32; got 9"),
        ({"pairs": 5, "vocab": 8}, "pairs must be at most 4, the number of keys"),
        ({"queries": 13}, "queries must be between 1 and 12 .*; got 13"),
        ({"queries": 0}, "queries must be between 1 and 12 .*; got 0"),
        ({"alpha": 0.0}, "alpha must be positive; got 0.0"),
    ],
)
def test_impossible_tasks_are_refused_by_name(change, message):
    arguments = {"sequences": 2, "length": 32, "pairs": 4, "vocab": 64} | change
    with pytest.raises(ValueError, match=message):
        mqar(np.random.default_rng(0), **arguments)

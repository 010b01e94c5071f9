"""The counter of bytes against the same formula written as a loop, and on text whose entropy is known."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.data.counters import counter_bits


def loop(train, valid, orders):
    """Witten and Bell's method C, one position and one order at a time."""
    after = defaultdict(Counter)
    for size in range(orders + 1):
        for at in range(size, len(train)):
            after[tuple(train[at - size : at])][train[at]] += 1

    def share(context, x):
        if not context:
            return (after[()][x] + 1) / (len(train) + 256)
        found = after.get(context)
        shorter = share(context[1:], x)
        if not found:
            return shorter
        return (found[x] + len(found) * shorter) / (found.total() + len(found))

    places = range(orders, len(valid))
    return {
        order: -sum(math.log2(share(tuple(valid[at - order : at]), valid[at])) for at in places) / len(places)
        for order in range(1, orders + 1)
    }


texts = st.integers(1, 4).flatmap(
    lambda kinds: st.lists(st.integers(0, kinds) | st.just(255), min_size=8, max_size=60)
)


@given(texts, texts, st.integers(1, 7))
def test_it_is_the_formula(train, valid, orders):
    ours = counter_bits(np.array(train), np.array(valid), orders)
    theirs = loop(train, valid, orders)
    assert ours == pytest.approx(theirs, rel=1e-9) and list(ours) == list(range(1, orders + 1))


def test_a_periodic_text_costs_nothing_and_a_random_one_its_entropy():
    rng = np.random.default_rng(0)
    period = np.tile(rng.integers(0, 256, 50), 400)
    assert counter_bits(period[:-999], period[-999:])[6] < 0.05
    noise = rng.integers(0, 4, 40_000)
    assert counter_bits(noise[:-5000], noise[-5000:], 2)[2] == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(9), np.arange(9), 8), "orders must be from 1 to 7 bytes of context; got 8"),
        ((np.arange(9), np.arange(9), 0), "orders must be from 1 to 7"),
        ((np.arange(3), np.arange(9), 4), "train must hold more than 4 bytes; got 3"),
        ((np.arange(9), np.arange(250, 259), 4), "valid must hold ids of bytes; got 250 to 258"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        counter_bits(*arguments)

"""Layouts that look at nothing: even spacing in both phases, and distinct draws."""

from collections import Counter
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_problem import problem, reads_back

from hybrid.config.layout import Layout
from hybrid.selection.drawn import Random, Uniform

SHAPES = st.integers(2, 60).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth - 1)))


@given(SHAPES)
def test_each_group_has_one_full_block_at_its_edge(shape):
    depth, budget = shape
    first, last = (Uniform(phase).layout(budget, depth).full for phase in ("first", "last"))
    assert len(first) == len(last) == budget
    assert first[0] == 0 and last[-1] == depth - 1
    groups = [range(a, b + 1) for a, b in zip(first, last, strict=True)]
    assert [block for group in groups for block in group] == list(range(depth))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


@given(st.integers(2, 8), st.integers(2, 8))
def test_a_budget_that_divides_is_the_period_rule_and_its_mirror(budget, period):
    depth = budget * period
    last = Uniform("last").layout(budget, depth)
    assert last == Layout.from_ratio(f"{period}:1", depth)
    assert str(Uniform("first").layout(budget, depth)) == str(last)[::-1]


def test_the_two_published_phases():
    assert Uniform("first").layout(7, 28).full == (0, 4, 8, 12, 16, 20, 24)
    assert Uniform("last").layout(7, 28).full == (3, 7, 11, 15, 19, 23, 27)


def test_uniform_gives_one_layout_a_budget_and_reads_nothing():
    found = Uniform("first").select(problem(), (2, 1))
    assert found.layouts == {2: [Layout("FFL")], 1: [Layout("FLL")]}
    assert found.scores is None and found.tokens == 0


@pytest.mark.parametrize("phase", ["middle", "", None, 0])
def test_an_unknown_phase_is_refused(phase):
    with pytest.raises(ValueError, match=f"{phase!r}.*first, last"):
        Uniform(phase)


@given(SHAPES, st.integers(5, 9), st.integers(0, 3))
def test_draws_are_distinct_and_as_many_as_there_are(shape, draws, seed):
    depth, budget = shape
    layouts = Random(draws).layouts(budget, depth, seed)
    assert len(layouts) == len(set(layouts)) == min(draws, comb(depth, budget))
    assert all(len(layout) == depth and len(layout.full) == budget for layout in layouts)


def test_draws_depend_on_the_seed_of_the_data_and_on_no_other_budget():
    both = Random().select(problem(8, seed=1), (3, 4)).layouts
    assert both == Random().select(problem(8, seed=1), (4, 3)).layouts
    assert both[3] == Random().select(problem(8, seed=1), (3,)).layouts[3]
    assert both[3] != Random().select(problem(8, seed=2), (3,)).layouts[3]


def test_every_set_is_drawn_equally_often():
    runs = 900
    drawn = [Random().layouts(2, 4, seed) for seed in range(runs)]
    every = {Layout.from_full(full, 4) for full in combinations(range(4), 2)}
    for place in range(5):
        counts = Counter(layouts[place] for layouts in drawn)
        assert counts.keys() == every
        # Five standard deviations of a binomial count with chance 1/6.
        assert all(abs(n - runs / 6) < 5 * (runs * 5 / 36) ** 0.5 for n in counts.values())


@pytest.mark.parametrize("draws", [4, 0, -1, 5.0, True, "5"])
def test_too_few_draws_are_refused(draws):
    with pytest.raises(ValueError, match=f"draws must be a whole number of at least 5; got {draws!r}"):
        Random(draws)


@pytest.mark.parametrize("selector", [Uniform("first"), Uniform(), Random(), Random(7)], ids=str)
def test_impossible_budgets_are_refused_and_specs_read_back(selector):
    assert reads_back(selector)
    for budgets in ((), (0,), (3,), (1, 1), (1.0,)):
        with pytest.raises(ValueError, match="budget"):
            selector.select(problem(), budgets)

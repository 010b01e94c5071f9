"""Every set is measured once, the planted set wins, and ranks count ties fairly."""

from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_problem import PASSKEYS, Counter, planted, problem, reads_back, same, text, weights

from hybrid.config.layout import Layout
from hybrid.data.passkeys import Passkeys
from hybrid.selection.exhaustive import Exhaustive, rank
from hybrid.training.evaluation import passkey_accuracy, text_loss


@pytest.fixture(autouse=True)
def small_text(monkeypatch):
    text(monkeypatch)


def test_every_set_is_measured_as_the_hybrid_that_is_built():
    given = problem(4)
    found = Exhaustive(sequences=5).select(given, (2, 1))
    rows = found.tables["sets"]
    names = [row["layout"] for row in rows]
    assert len(names) == len(set(names))
    every = {frozenset(full) for budget in (1, 2) for full in combinations(range(4), budget)}
    assert {frozenset(Layout(name).full) for name in names} == every
    for row in rows:
        model = given.morphable.hybrid(row["layout"])
        recall = passkey_accuracy(model, given.data, PASSKEYS, 41, 5)[0]["accuracy"]
        assert row["recall"] == pytest.approx(recall) and row["budget"] == row["layout"].count("F")
        loss = text_loss(model, given.data, 5)["loss_bits_per_byte"]
        assert row["loss_bits_per_byte"] == pytest.approx(loss, rel=1e-5)
    for budget, (layout,) in found.layouts.items():
        mine = [row for row in rows if row["budget"] == budget]
        best = max(row["recall"] for row in mine)
        lowest = min(row["loss_bits_per_byte"] for row in mine if row["recall"] == best)
        won = next(row for row in mine if row["layout"] == str(layout))
        assert (won["recall"], won["loss_bits_per_byte"]) == (best, lowest)


def test_the_planted_set_wins(monkeypatch):
    given = planted(monkeypatch, 5, needed=(1, 3))
    found = Exhaustive(sequences=9).select(given, (2, 3))
    table = found.tables["sets"]
    assert found.layouts[2] == [Layout("LFLFL")]
    assert rank(table, "LFLFL") == (1, 10, 0)
    assert {1, 3} <= set(found.layouts[3][0].full)
    perfect = [row["layout"] for row in table if row["recall"] == 1]
    assert sorted(perfect) == sorted(["LFLFL", "FFLFL", "LFFFL", "LFLFF"])
    assert [rank(table, name).place for name in perfect[1:]] == [2, 2, 2]


def test_more_sets_than_allowed_are_refused_before_any_work(monkeypatch):
    given, counter = problem(4), Counter(monkeypatch)
    with pytest.raises(ValueError, match="have 10 sets; allowed: at most 9"):
        Exhaustive(most=9).select(given, (1, 2))
    for budgets in ((), (0,), (4,), (1, 1)):
        with pytest.raises(ValueError, match="budget"):
            Exhaustive(most=1).select(given, budgets)
    many = replace(given, passkeys=Passkeys(keys=17, size=1, lengths=(512,), eval_lengths=(512,)))
    with pytest.raises(ValueError, match="17 passkeys"):
        Exhaustive().select(many, (1,))
    assert counter.tokens == 0
    assert len(Exhaustive(most=10, sequences=1).select(given, (1, 2)).tables["sets"]) == 10


def test_every_token_is_counted_and_no_weight_changes(monkeypatch):
    given, counter = problem(3), Counter(monkeypatch)
    before = weights(given.morphable)
    assert Exhaustive(sequences=2).select(given, (1,)).tokens == counter.tokens > 0
    assert same(before, weights(given.morphable))


def row(layout, recall, loss):
    return {
        "budget": layout.count("F"),
        "layout": layout,
        "recall": recall,
        "loss_bits_per_byte": loss,
    }


def test_ranks_of_a_hand_made_table():
    table = [row("FFL", 1.0, 2.0), row("FLL", 0.5, 3.0), row("LFL", 0.75, 9.0), row("LLF", 0.5, 2.5)]
    assert [rank(table, name) for name in ("LFL", "LLF", "FLL")] == [(1, 3, 0), (2, 3, 0.5), (3, 3, 1)]
    tied = [row("FLL", 0.5, 3.0), row("LFL", 0.5, 3.0), row("LLF", 0.25, 1.0)]
    assert rank(tied, "FLL") == rank(tied, Layout("LFL")) == (1.5, 3, 0.25)
    assert rank(tied, "LLF") == (3, 3, 1)
    with pytest.raises(ValueError, match="layout FFL is not among the 3 sets"):
        rank(tied, "FFL")


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 2.0])), min_size=4, max_size=4)
)
def test_a_place_is_the_mean_over_all_orders_of_those_that_tie(values):
    names = ["FLLL", "LFLL", "LLFL", "LLLF"]
    table = [row(name, *value) for name, value in zip(names, values, strict=True)]
    orders = [
        order
        for order in permutations(range(4))
        if all((-values[a][0], values[a][1]) <= (-values[b][0], values[b][1]) for a, b in pairwise(order))
    ]
    ranks = [rank(table, name) for name in names]
    for index, found in enumerate(ranks):
        assert found.place == pytest.approx(1 + sum(order.index(index) for order in orders) / len(orders))
    assert sum(found.better for found in ranks) / 4 == pytest.approx(0.5)


def test_wrong_settings_are_refused_and_specs_read_back():
    assert reads_back(Exhaustive(most=30, sequences=3))
    for value in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match=f"most must be a whole number.*got {value!r}"):
            Exhaustive(most=value)
        with pytest.raises(ValueError, match=f"sequences must be a whole number.*got {value!r}"):
            Exhaustive(sequences=value)

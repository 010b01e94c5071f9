"""Scores of single blocks: against hybrids that are built, planted mixers and hand-made numbers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_problem import PASSKEYS, TASK, TRAIN, Counter, planted, problem, reads_back, same, text, weights

from hybrid.config.layout import Layout
from hybrid.conversion.distillation import device
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.suite import NEEDLES
from hybrid.selection.base import top
from hybrid.selection.scored import Arranged, HaloRatio, OutputError, RecallAlone, RecallDrop, halo_ratio
from hybrid.training.evaluation import passkey_accuracy, suite_accuracy

SELECTORS = (
    OutputError(),
    OutputError(normalised=True, sequences=3),
    RecallDrop(3),
    RecallAlone(3),
    HaloRatio(3),
)


@pytest.fixture(autouse=True)
def small_text(monkeypatch):
    text(monkeypatch)


def recall_of(model, given, sequences):
    """Percent, by the models' own forward pass."""
    shares = [passkey_accuracy(model, given.data, PASSKEYS, 41, sequences)[0]["accuracy"]]
    for name in NEEDLES:
        shares.append(suite_accuracy(model, given.data, name, TASK.seq_len, sequences)["accuracy"])
    return 100 * sum(shares) / 9


def next_token(model, given, sequences):
    """Percent, token by token."""
    right = []
    for batch in given.data.val_text_batches(sequences):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            guess = model(ids[None].to(device())).logits[0].argmax(-1).tolist()
            right += [a == b for a, b in zip(guess, labels.tolist(), strict=True)]
    return 100 * sum(right) / len(right)


@pytest.mark.parametrize("branch", ["gla", "hgrn"])
def test_a_layout_without_copies_is_the_hybrid_that_is_built(branch):
    given = problem(4, branch)
    ids = given.data.train_batch(0)["input_ids"].to(device())
    for letters in ("FFFF", "LFLF", "FLLL", "LLLL"):
        model = Arranged(given.morphable, Layout(letters))
        expected = given.morphable.hybrid(letters)(ids).logits
        torch.testing.assert_close(model(ids).logits, expected)
        assert model.tokens == ids.numel()


def test_recall_drop_is_the_teacher_less_each_hybrid_that_is_built():
    given = problem(3)
    found = RecallDrop(sequences=12).select(given, (1, 2))
    whole = recall_of(given.morphable.teacher, given, 12)
    parts = [recall_of(given.morphable.hybrid(letters), given, 12) for letters in ("LFF", "FLF", "FFL")]
    assert len({whole, *parts}) == 4
    assert found.scores == pytest.approx([whole - part for part in parts], rel=1e-12)
    assert [row["recall"] for row in found.tables["replaced"]] == pytest.approx([whole, *parts])
    assert [row["block"] for row in found.tables["replaced"]] == [None, 0, 1, 2]
    worst = max(range(3), key=lambda block: whole - parts[block])
    assert found.layouts[1] == [Layout.from_full([worst], 3)]


def test_halo_measures_each_hybrid_that_is_built():
    given = problem(3)
    found = HaloRatio(sequences=7).select(given, (1, 2))
    hybrids = [given.morphable.hybrid(letters) for letters in ("LFF", "FLF", "FFL")]
    recall = [recall_of(model, given, 7) for model in hybrids]
    common = [next_token(model, given, 7) for model in hybrids]
    assert len(set(recall)) == len(set(common)) == 3
    rows = found.tables["replaced"]
    assert [row["recall"] for row in rows] == pytest.approx(recall)
    assert [row["common"] for row in rows] == pytest.approx(common)
    assert found.scores == pytest.approx(halo_ratio(recall, common))


def test_the_ratio_on_hand_made_numbers():
    recall, common = [80.0, 70.0, 60.0, 80.0], [50.0, 46.0, 47.5, 52.0]
    assert halo_ratio(recall, common) == pytest.approx([0, 10 / 6, 20 / 4.5, 0], rel=1e-9)


def test_the_block_with_the_best_common_sense_is_capped_and_always_kept():
    recall, common = [80.0, 79.9, 60.0, 70.0], [50.0, 55.0, 40.0, 54.9]
    scores = halo_ratio(recall, common)
    assert scores[1] == 50 and scores[3] == 50 and scores[2] == pytest.approx(20 / 15)
    assert top(scores, 1) == Layout("LFLL")


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=12))
def test_the_ratio_agrees_with_exact_arithmetic(tenths):
    recall, common = ([pair[side] / 10 for pair in tenths] for side in (0, 1))
    top_recall, top_common = (max(pair[side] for pair in tenths) for side in (0, 1))
    for score, (r, c) in zip(halo_ratio(recall, common), tenths, strict=True):
        lost, paid = top_recall - r, top_common - c
        exact = 0.0 if lost == 0 else 50.0 if paid == 0 else min(50.0, lost / paid)
        assert score == pytest.approx(exact, rel=1e-6)


def test_output_errors_are_those_of_each_mixer_on_the_teachers_stream():
    given = problem(3)
    teacher, student, caught = given.morphable.teacher, given.morphable.student, {}
    for index, block in enumerate(teacher.model.layers):
        block.attn.register_forward_hook(lambda m, args, out, i=index: caught.update({i: (args[0], out[0])}))
    squares = torch.zeros(2, 3)
    batches = list(given.data.val_text_batches(4))
    for batch in batches:
        with torch.no_grad():
            teacher(batch["input_ids"].to(device()))
            for i, (x, y) in caught.items():
                squares[0, i] += (student.model.layers[i].attn(x)[0] - y).square().sum().item()
                squares[1, i] += y.square().sum().item()
    errors = (squares[0] / (4 * TASK.seq_len * 16)).tolist()
    shares = (squares[0] / squares[1]).tolist()
    plain = OutputError(sequences=4).select(given, (1,))
    assert plain.scores == pytest.approx(errors, rel=1e-5)
    assert OutputError(True, 4).select(given, (1,)).scores == pytest.approx(shares, rel=1e-5)
    assert [row["block"] for row in plain.tables["errors"]] == [0, 1, 2]


def test_recall_alone_is_of_the_hybrids_with_one_full_block():
    given = problem(3)
    found = RecallAlone(sequences=5).select(given, (1, 2))
    rows = found.tables["alone"]
    assert [row["block"] for row in rows] == [None, 0, 1, 2]
    for row, layout in zip(rows, ("LLL", "FLL", "LFL", "LLF"), strict=True):
        expected = recall_of(given.morphable.hybrid(layout), given, 5)
        assert row["recall"] == pytest.approx(expected)
    assert found.scores == [row["recall"] for row in rows[1:]]


def test_the_one_block_that_is_needed_brings_recall_back(monkeypatch):
    given = planted(monkeypatch, 4, needed=(2,))
    found = RecallAlone(sequences=6).select(given, (1,))
    assert found.tables["alone"][0]["recall"] < 90 and found.scores[2] == 100
    assert found.layouts[1] == [Layout("LLFL")]


def test_only_silent_mixers_have_an_error(monkeypatch):
    given = planted(monkeypatch, 4, needed=(1, 3))
    scores = OutputError(normalised=True).select(given, (2,)).scores
    assert scores == pytest.approx([0, 1, 0, 1], abs=1e-9)


def test_the_blocks_that_are_needed_lose_recall(monkeypatch):
    given = planted(monkeypatch, 4, needed=(1, 3))
    found = RecallDrop(sequences=6).select(given, (2,))
    assert found.tables["replaced"][0]["recall"] == 100
    assert found.scores[0] == found.scores[2] == 0 and min(found.scores[1], found.scores[3]) > 10
    assert found.layouts[2] == [Layout("LFLF")]


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_every_token_is_counted_and_no_weight_changes(selector, monkeypatch):
    given, counter = problem(2), Counter(monkeypatch)
    before = weights(given.morphable)
    found = selector.select(given, (1,))
    assert found.tokens == counter.tokens > 0
    assert same(before, weights(given.morphable))


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_impossible_budgets_are_refused_before_any_work(selector, monkeypatch):
    assert reads_back(selector)
    given, counter = problem(2), Counter(monkeypatch)
    for budgets in ((), (0,), (2,), (1, 1)):
        with pytest.raises(ValueError, match="budget"):
            selector.select(given, budgets)
    assert counter.tokens == 0


@pytest.mark.parametrize("selector", [RecallDrop(3), RecallAlone(3), HaloRatio(3)], ids=str)
def test_a_teacher_that_cannot_read_the_tasks_is_refused_before_any_work(selector, monkeypatch):
    given, counter = problem(2), Counter(monkeypatch)
    unknown = replace(given, data=TaskData(replace(TASK, suite_fraction=0.0), TRAIN, 0))
    with pytest.raises(ValueError, match=r"suite_fraction.*got 0.0 and 0.5"):
        selector.select(unknown, (1,))
    many = replace(given, passkeys=Passkeys(keys=17, size=1, lengths=(512,), eval_lengths=(512,)))
    with pytest.raises(ValueError, match="17 passkeys"):
        selector.select(many, (1,))
    assert counter.tokens == 0


@pytest.mark.parametrize("kind", [OutputError, RecallDrop, RecallAlone, HaloRatio])
def test_wrong_settings_are_refused(kind):
    for value in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match=f"sequences must be a whole number.*got {value!r}"):
            kind(sequences=value)
    with pytest.raises(ValueError, match="normalised must be True or False; got 'yes'"):
        OutputError(normalised="yes")

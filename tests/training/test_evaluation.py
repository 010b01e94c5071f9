"""Measures: models with planted answers get the scores they deserve."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data.module import TaskData, vocab_size
from hybrid.data.suite import NEEDLES, TASKS
from hybrid.training.evaluation import evaluate, last_word, suite_accuracy

TASK = TaskConfig(
    seq_len=64,
    recall_fraction=0.75,
    suite_fraction=0.5,
    pairs=(1, 2),
    eval_pairs=(2, 4),
    eval_lengths=(64, 128),
    eval_sequences=12,
)
DATA = TaskData(TASK, TrainConfig(batch_size=5, warmup=0), 0)


class Planted(nn.Module):
    """Scores the tokens that a function of the input ids names."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.nothing = answer, nn.Parameter(torch.zeros(1))

    def forward(self, ids):
        chosen = self.answer(ids)
        return SimpleNamespace(logits=30 * nn.functional.one_hot(chosen, vocab_size(TASK)).float())


def next_token(ids):
    """What stands after every position: the answer wherever the sequence shows it."""
    return nn.functional.pad(ids[:, 1:], (0, 1))


def looked_up(ids):
    """The first place where this token stood before another one, as recall over a text does it."""
    rows = []
    for row in ids.tolist():
        first = {}
        for now, after in pairwise(row):
            first.setdefault(now, after)
        rows.append([first.get(token, 0) for token in row])
    return torch.tensor(rows)


@pytest.mark.parametrize("name", TASKS)
def test_the_right_answers_get_one_and_wrong_ones_zero(name):
    assert suite_accuracy(Planted(next_token), DATA, name, 64)["accuracy"] == 1
    assert suite_accuracy(Planted(torch.zeros_like), DATA, name, 64)["accuracy"] == 0


def test_values_of_several_symbols_count_as_a_whole():
    def first_only(ids):
        """Right at the end of the question, wrong inside the answer."""
        return torch.where(ids >= 256 + TASK.recall_vocab // 2, 0, next_token(ids))

    row = suite_accuracy(Planted(first_only), DATA, "niah_single_3", 64)
    assert row["accuracy"] == 0 and row["n"] == 12
    assert row["task"] == "niah_single_3" and row["group"] == "singlevalue"
    assert suite_accuracy(Planted(first_only), DATA, "niah_multivalue", 64)["accuracy"] == 1 / 4
    assert suite_accuracy(Planted(first_only), DATA, "vt", 128)["n"] == 6


@pytest.mark.parametrize("name", TASKS)
def test_a_row_holds_the_best_rule_that_skips_the_task_beside_chance(name):
    """The rules' accuracies, planted: the best mean counts, and chance is the first of them."""
    row = suite_accuracy(Planted(next_token), DATA, name, 64)
    assert 0 < row["chance"] <= row["floor"] < 0.9
    rules = torch.tensor([[0.25, 1.0, 0.0], [0.25, 0.0, 0.5]], dtype=torch.float64)
    batch = next(DATA.suite_eval_batches(name, 64, 2)) | {"skipped": rules}
    planted = SimpleNamespace(suite_eval_batches=lambda *_: iter([batch]))
    row = suite_accuracy(Planted(next_token), planted, name, 64)
    assert (row["chance"], row["floor"]) == (0.25, 0.5)


def test_a_lookup_solves_single_keys_and_not_counting():
    scores = {name: suite_accuracy(Planted(looked_up), DATA, name, 64)["accuracy"] for name in TASKS}
    for name in ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2", "niah_multiquery"):
        assert scores[name] == 1
    assert scores["cwe"] < 0.5 and scores["fwe"] < 0.5 and scores["qa_2"] < 0.5


def test_a_word_is_right_only_as_a_whole():
    assert last_word(Planted(next_token), DATA) == {"last_word": 0.0}

    def true_but_for_the_last(ids):
        """The last letter of a passage is no input, so only the label knows it."""
        labels = next(b["labels"] for b in DATA.last_word_batches() if torch.equal(b["input_ids"], ids))
        return torch.where(labels >= 0, labels, 0)

    assert last_word(Planted(true_but_for_the_last), DATA) == {"last_word": 1.0}


def test_a_text_without_repeated_words_has_no_last_word(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab cd ef gh " * 200)
    task = TaskConfig(corpus=str(path), seq_len=64, pairs=(1,))
    data = TaskData(task, TrainConfig(batch_size=5, warmup=0), 0)
    assert last_word(Planted(next_token), data) == {}


def test_the_summary_is_the_mean_at_the_training_length():
    metrics = evaluate(Planted(looked_up), DATA)
    rows = metrics["suite_by"]
    assert {(row["task"], row["length"]) for row in rows} == {(name, n) for name in TASKS for n in (64, 128)}
    at_home = {row["task"]: row["accuracy"] for row in rows if row["length"] == 64}
    assert metrics["suite"] == pytest.approx(sum(at_home.values()) / 13)
    assert metrics["needle"] == pytest.approx(sum(at_home[name] for name in NEEDLES) / 8)
    assert len(NEEDLES) == 8 and metrics["recall"] == 1
    some = TaskData(replace(DATA.task, suite_tasks=("niah_multikey_2", "vt")), DATA.train, 0)
    of_some = evaluate(Planted(looked_up), some, lengths=(64,))
    assert [row["task"] for row in of_some["suite_by"]] == ["niah_multikey_2", "vt"]
    assert of_some["needle"] == at_home["niah_multikey_2"]
    assert of_some["suite"] == pytest.approx((at_home["niah_multikey_2"] + at_home["vt"]) / 2)
    without = TaskData(replace(DATA.task, suite_tasks=("vt",)), DATA.train, 0)
    assert "needle" not in evaluate(Planted(looked_up), without, lengths=(64,))
    brief = evaluate(Planted(looked_up), DATA, lengths=(64,))
    assert {row["length"] for row in brief["suite_by"]} == {64} and brief["suite"] == metrics["suite"]

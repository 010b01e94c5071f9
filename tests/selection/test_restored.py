"""One block restored at a time: the planted block wins, and a killed distillation goes on bit for bit."""

from dataclasses import replace

import pytest
import torch
from tiny_problem import TRAIN, Counter, planted, problem, reads_back, same, text, weights

from hybrid.config.layout import Layout
from hybrid.conversion.distillation import LitDistill, device
from hybrid.conversion.specs import Stage
from hybrid.data.module import TaskData
from hybrid.selection.restored import Restoration, divergence
from hybrid.training.loop import learning_rate_factor

STAGE = Stage(TRAIN, seq_len=32, recall_fraction=0.0)


@pytest.fixture(autouse=True)
def small_text(monkeypatch):
    text(monkeypatch)


def stage_batches(given):
    return TaskData(STAGE.task(given.data.task), STAGE.train, given.data.seed)


def unseen(data, sequences):
    """Batches of the mixture that follow the last one of the distillation."""
    rows = STAGE.train.batch_size
    return [data.train_batch(STAGE.train.steps + i)["input_ids"] for i in range(-(-sequences // rows))]


def test_the_block_whose_second_mixer_fails_wins(monkeypatch):
    given = planted(monkeypatch, 4, needed=(2,))
    gentle = Stage(replace(TRAIN, lr=1e-5))
    found = Restoration(gentle, sequences=4).select(given, (1, 2))
    rows = found.tables["restored"]
    assert rows[2]["kl_start"] == pytest.approx(0, abs=1e-6) and rows[2]["kl"] < 1e-3
    assert min(row["kl_start"] for row in rows if row["block"] != 2) > 0.1
    assert found.layouts[1] == [Layout("LLFL")] and 2 in found.layouts[2][0].full
    assert found.scores == [-row["kl"] for row in rows]


def test_a_distillation_is_the_textbook_loop():
    """AdamW on the divergence by hand, of the same hybrid on the same batches."""
    given = problem(2)
    found = Restoration(STAGE, sequences=4).select(given, (1,))
    teacher, model = given.morphable.teacher, given.morphable.hybrid("LF")
    data = stage_batches(given)
    decayed = [p for n, p in model.named_parameters() if n.endswith("weight") and p.dim() >= 2]
    others = [p for p in model.parameters() if all(p is not q for q in decayed)]
    groups = [
        {"params": decayed, "weight_decay": TRAIN.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TRAIN.lr, betas=TRAIN.betas, eps=TRAIN.eps)
    for step in range(TRAIN.steps):
        for group in optimizer.param_groups:
            group["lr"] = TRAIN.lr * learning_rate_factor(step, TRAIN)
        ids = data.train_batch(step)["input_ids"].to(device())
        p, q = teacher(ids).logits.softmax(-1), model(ids).logits.softmax(-1)
        optimizer.zero_grad()
        (p * (p / q).log()).sum(-1).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.clip)
        optimizer.step()
    assert found.tables["restored"][1]["kl"] == pytest.approx(
        divergence(teacher, model, unseen(data, 4)), rel=1e-3
    )
    assert found.tables["restored"][1]["kl"] < found.tables["restored"][1]["kl_start"]


def test_the_divergence_is_the_sum_by_hand():
    given = problem(2)
    teacher, model, data = given.morphable.teacher, given.morphable.hybrid("LL"), stage_batches(given)
    total, positions = 0.0, 0
    batches = unseen(data, 4)
    for batch in batches:
        for ids in batch.to(device()):
            p, q = (net(ids[None]).logits[0].double().softmax(-1) for net in (teacher, model))
            for one, other in zip(p, q, strict=True):
                total += sum(a * (a / b).log() for a, b in zip(one, other, strict=True)).item()
                positions += 1
    assert divergence(teacher, model, batches) == pytest.approx(total / positions, rel=1e-4)
    assert positions == 2 * 3 * 32


def test_blocks_are_ranked_by_what_no_hybrid_has_learnt_from(monkeypatch):
    """The mixture of the distillation with its recall, and no batch of it twice."""
    mixed, read = Stage(replace(TRAIN, batch_size=6), recall_fraction=0.5), []
    batch = TaskData.train_batch

    def spied(data, index, *more):
        made = batch(data, index, *more)
        read.append((index, made["is_recall"].sum().item()))
        return made

    monkeypatch.setattr(TaskData, "train_batch", spied)
    Restoration(mixed, sequences=7).select(problem(2), (1,))
    steps = list(range(TRAIN.steps))
    assert [index for index, _ in read] == [TRAIN.steps, TRAIN.steps + 1, *steps, *steps]
    assert all(recall == 3 for _, recall in read)


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 4, 8])
def test_a_killed_selection_goes_on_bit_for_bit(killed_at, monkeypatch, tmp_path):
    whole = Restoration(STAGE, sequences=4).select(problem(2), (1,))
    loss, calls = LitDistill.loss, []

    def dying(module, batch):
        calls.append(1)
        if len(calls) == killed_at + 1:
            raise Killed
        return loss(module, batch)

    monkeypatch.setattr(LitDistill, "loss", dying)
    with pytest.raises(Killed):
        Restoration(STAGE, sequences=4).select(problem(2, folder=tmp_path), (1,))
    calls[:] = [1] * 100
    resumed = Restoration(STAGE, sequences=4).select(problem(2, folder=tmp_path), (1,))
    # A checkpoint falls on every second of the five steps of a block.
    done = killed_at // 5 * 4 + killed_at % 5 // 2 * 2
    assert len(calls) - 100 == 10 - done
    assert resumed.scores == whole.scores and resumed.layouts == whole.layouts
    assert resumed.tables == whole.tables and resumed.curve == whole.curve
    assert resumed.tokens == whole.tokens


def test_the_curve_tells_blocks_apart():
    curve = Restoration(STAGE, sequences=1).select(problem(2), (1,)).curve
    assert [(point["block"], point["step"]) for point in curve] == [
        (block, step) for block in (0, 1) for step in (2, 4, 5)
    ]
    assert all(point["train_loss"] > 0 for point in curve)


def test_every_token_is_counted_and_no_weight_changes(monkeypatch):
    given, counter = problem(2), Counter(monkeypatch)
    before = weights(given.morphable)
    found = Restoration(STAGE, sequences=4).select(given, (1,))
    assert found.tokens == counter.tokens > 0
    assert same(before, weights(given.morphable))
    assert not any(p.requires_grad for p in given.morphable.parameters())


def test_impossible_budgets_and_settings_are_refused_before_any_work(monkeypatch):
    assert reads_back(Restoration(STAGE)) and reads_back(Restoration(Stage(TRAIN), 3))
    given, counter = problem(2), Counter(monkeypatch)
    for budgets in ((), (0,), (2,), (1, 1)):
        with pytest.raises(ValueError, match="budget"):
            Restoration(STAGE).select(given, budgets)
    assert counter.tokens == 0
    for value in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match=f"sequences must be a whole number.*got {value!r}"):
            Restoration(STAGE, value)

"""What is measured on a trained model: text, and recall by load, length, distance and task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.suite import NEEDLES, TASKS
from hybrid.models.hybrid_lm import HybridLM

DISTANCES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Upper edges, in tokens, of the bins of distance between a query and its pair."""


@torch.no_grad()
def text_loss(model: HybridLM, data: TaskData, sequences: int | None = None) -> dict[str, float]:
    """Loss on held-out text, in bits per byte: nats a token / ln 2 / bytes a token."""
    nats, tokens = 0.0, 0
    for batch in data.val_text_batches(sequences):
        ids, labels = (batch[k].to(_device(model)) for k in ("input_ids", "labels"))
        logits = model(ids).logits.float()
        nats += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        tokens += labels.numel()
    return {"loss_bits_per_byte": nats / tokens / math.log(2) / data.corpus.bytes_per_token}


@torch.no_grad()
def last_word(model: HybridLM, data: TaskData, sequences: int | None = None) -> dict[str, float]:
    """Share of held-out passages whose last word is right: each of its tokens is the most likely one
    after the right text. Empty where the text holds no passage of `hybrid.data.words`."""
    right = [
        _right(model, batch).logical_or(batch["labels"] < 0).all(1)
        for batch in data.last_word_batches(sequences)
    ]
    return {"last_word": torch.cat(right).double().mean().item()} if right else {}


@torch.no_grad()
def recall_accuracy(
    model: HybridLM, data: TaskData, length: int, pairs: int, sequences: int | None = None
) -> list[dict]:
    """Share of queries answered exactly (most likely token of the whole vocabulary), at one length
    and load: one row over all distances (``distance`` None) and one for each bin of `DISTANCES`.

    Each row holds ``length``, ``pairs``, ``distance`` (the bin's upper edge in tokens),
    ``accuracy`` in 0..1 and ``n``, the number of queries behind it.
    """
    right, distance = [], []
    for batch in data.recall_eval_batches(length, pairs, sequences):
        asked = batch["labels"] >= 0
        right.append(_right(model, batch)[asked])
        distance.append(batch["distance"][asked])
    rows = _by_distance(torch.cat(right), torch.cat(distance))
    return [{"length": length, "pairs": pairs, **row} for row in rows]


@torch.no_grad()
def passkey_accuracy(
    model: HybridLM, data: TaskData, passkeys: Passkeys, length: int, sequences: int | None = None
) -> list[dict]:
    """Share of the symbols of all passkeys that are the most likely one after the right symbols before
    them, at one length: one row over all distances (``distance`` None) and one for each bin.

    Each row holds ``length``, ``distance`` (the bin's upper edge in tokens), ``accuracy`` and ``n``, the
    number of symbols behind it.
    """
    right, distance = [], []
    for batch in passkeys.eval_batches(data, length, sequences):
        asked = batch["labels"] >= 0
        right.append(_right(model, batch)[asked])
        distance.append(batch["distance"][asked])
    return [{"length": length, **row} for row in _by_distance(torch.cat(right), torch.cat(distance))]


@torch.no_grad()
def suite_accuracy(
    model: HybridLM, data: TaskData, name: str, length: int, sequences: int | None = None
) -> dict:
    """Accuracy on one task of `hybrid.data.suite` at one length: the mean over sequences of the share of
    the values asked that are right. A value is right when each of its symbols is the most likely one after
    the right symbols before it.

    The row holds ``task``, ``group``, ``length``, ``accuracy``, ``chance`` (of a guess among the values
    that the context shows), ``floor`` (of the best rule that skips the task, `hybrid.data.floors`, on the
    same sequences; never below chance) and ``n``, the number of sequences.
    """
    shares, skipped = [], []
    for batch in data.suite_eval_batches(name, length, sequences):
        asked = batch["labels"] >= 0
        values = _right(model, batch)[asked].view(len(asked), -1, batch["size"][0])
        shares.append(values.all(-1).double().mean(1))
        skipped.append(batch["skipped"])
    shares, rules = torch.cat(shares), torch.cat(skipped).mean(0)
    return {
        "task": name,
        "group": TASKS[name].group,
        "length": length,
        "accuracy": shares.mean().item(),
        "chance": rules[0].item(),
        "floor": rules.max().item(),
        "n": shares.numel(),
    }


def evaluate(
    model: HybridLM, data: TaskData, sequences: int | None = None, lengths: Sequence[int] = ()
) -> dict:
    """Everything a task measures.

    Returns, where the task holds text, ``loss_bits_per_byte`` and ``last_word``; where it holds recall,
    ``recall_by`` (the rows of `recall_accuracy` for every length and load that fits: a load of n
    pairs needs 4 n tokens) and ``recall``, the mean of the accuracy over the trained loads at the
    training length (where these are not measured: over all loads, at the shortest measured length);
    where it holds the suite, ``suite_by`` (the rows of `suite_accuracy`), ``suite``, the mean of its tasks
    at that length, and ``needle``, the mean of those among `NEEDLES`.

    `sequences` bounds the sequences behind each number; None is the task's own. `lengths` replaces the
    task's own `eval_lengths`, unless it is empty.
    """
    task, training = data.task, model.training
    lengths = tuple(lengths) or task.eval_lengths
    home = task.home
    model.eval()
    metrics: dict = {}
    if task.recall_fraction < 1:
        metrics |= text_loss(model, data, sequences) | last_word(model, data, sequences)
    if task.recall_fraction > 0:
        rows = [
            row
            for length in lengths
            for pairs in task.eval_pairs
            if 4 * pairs <= length
            for row in recall_accuracy(model, data, length, pairs, sequences)
        ]
        whole = [row for row in rows if row["distance"] is None and row["length"] == home]
        trained = [row for row in whole if row["pairs"] in task.pairs] or whole
        metrics |= {"recall": _mean(trained), "recall_by": rows}
    if task.has_suite:
        rows = [
            suite_accuracy(model, data, name, length, sequences) for length in lengths for name in data.suite
        ]
        whole = [row for row in rows if row["length"] == home]
        metrics |= {"suite": _mean(whole), "suite_by": rows}
        if of_needles := [row for row in whole if row["task"] in NEEDLES]:
            metrics["needle"] = _mean(of_needles)
    model.train(training)
    return metrics


def _by_distance(right: torch.Tensor, distance: torch.Tensor) -> list[dict]:
    """Share of right answers over all distances and in each bin of `DISTANCES`; both tensors [n]."""
    right = right.double()
    rows = [{"distance": None, "accuracy": right.mean().item(), "n": right.numel()}]
    for low, high in zip((0, *DISTANCES), DISTANCES, strict=False):
        inside = (distance > low) & (distance <= high)
        if inside.any():
            rows.append({"distance": high, "accuracy": right[inside].mean().item(), "n": int(inside.sum())})
    return rows


def _mean(rows: list[dict]) -> float:
    return sum(row["accuracy"] for row in rows) / len(rows)


def _right(model: HybridLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, T]: whether the most likely token is the label."""
    return model(batch["input_ids"].to(_device(model))).logits.argmax(-1).cpu() == batch["labels"]


def _device(model: HybridLM) -> torch.device:
    return next(model.parameters()).device

"""What is measured on a trained model: bits per byte of text, and recall by load, length and distance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hybrid.config import TaskConfig
from hybrid.data.module import TaskData
from hybrid.model import HybridLM

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
        ids, labels = (batch[k].to(_device(model)) for k in ("input_ids", "labels"))
        asked = labels >= 0
        right.append((model(ids).logits.argmax(-1) == labels)[asked].cpu())
        distance.append(batch["distance"][asked.cpu()])
    right, distance = torch.cat(right).double(), torch.cat(distance)
    rows = [{"distance": None, "accuracy": right.mean().item(), "n": right.numel()}]
    for low, high in zip((0, *DISTANCES), DISTANCES, strict=False):
        inside = (distance > low) & (distance <= high)
        if inside.any():
            rows.append({"distance": high, "accuracy": right[inside].mean().item(), "n": int(inside.sum())})
    return [{"length": length, "pairs": pairs, **row} for row in rows]


def evaluate(model: HybridLM, data: TaskData, sequences: int | None = None) -> dict:
    """Everything a task measures.

    Returns ``loss_bits_per_byte`` where the task holds text; and, where it holds recall,
    ``recall_by`` (the rows of `recall_accuracy` for every length and load that fits: a load of n
    pairs needs 4 n tokens) and ``recall``, the mean of the accuracy over the trained loads at the
    training length (where these are not measured: over all loads, at the shortest measured length).
    `sequences` bounds the sequences behind each number; None is the task's own.
    """
    task, training = data.task, model.training
    model.eval()
    metrics: dict = {}
    if task.recall_fraction < 1:
        metrics |= text_loss(model, data, sequences)
    if task.recall_fraction > 0:
        rows = [
            row
            for length in task.eval_lengths
            for pairs in task.eval_pairs
            if 4 * pairs <= length
            for row in recall_accuracy(model, data, length, pairs, sequences)
        ]
        metrics |= {"recall": _at_home(task, [r for r in rows if r["distance"] is None]), "recall_by": rows}
    model.train(training)
    return metrics


def _at_home(task: TaskConfig, rows: list[dict]) -> float:
    home = task.seq_len if task.seq_len in task.eval_lengths else min(task.eval_lengths)
    at_length = [r for r in rows if r["length"] == home]
    trained = [r for r in at_length if r["pairs"] in task.pairs] or at_length
    return sum(r["accuracy"] for r in trained) / len(trained)


def _device(model: HybridLM) -> torch.device:
    return next(model.parameters()).device

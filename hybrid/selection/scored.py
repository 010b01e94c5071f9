"""A score for each block by itself: the error of its second mixer, or what is lost when it is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid.config.layout import Layout
from hybrid.conversion.distillation import output_errors
from hybrid.conversion.morphable import Mixed, Morphable
from hybrid.data.module import TaskData
from hybrid.data.suite import NEEDLES
from hybrid.selection.base import Problem, Selection, Selector, by_scores, check_budgets
from hybrid.training.evaluation import passkey_accuracy, suite_accuracy

CAP = 50.0
"""Largest score of a block; HALO's code."""
EPSILON = 1e-10
"""Added to HALO's denominator, which is zero for the block whose common sense is best."""


class Arranged(nn.Module):
    """A morphable in one layout, without a copy of its weights, as `training.evaluation` reads one; counts
    the tokens that it reads."""

    def __init__(self, morphable: Morphable, layout: Layout) -> None:
        super().__init__()
        self.morphable = morphable
        self.gates = torch.tensor([float(letter == "F") for letter in layout])
        self.tokens = 0

    def forward(self, input_ids: Tensor) -> Mixed:
        """input_ids [B, T] -> ``logits`` [B, T, vocab]."""
        self.tokens += input_ids.numel()
        return self.morphable(input_ids, self.gates)


@dataclass(frozen=True)
class OutputError(Selector):
    """The squared error of each second mixer's output on the teacher's own stream over held-out text: what
    stage 1 makes small. A block stays full where the error is large.

    Source: "MSE" among the baselines of KL-guided layer selection, 2512.20569, by its code.
    """

    kind = "output_error"

    normalised: bool = False
    """Divide by the mean square of the attention's output, which differs from block to block."""
    sequences: int = 64
    """Held-out sequences."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)
        if type(self.normalised) is not bool:
            raise ValueError(f"normalised must be True or False; got {self.normalised!r}")

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``errors``: the rows of `output_errors`. Teacher and second mixers count as one pass.

        Raises ``ValueError`` for a budget that the depth cannot meet.
        """
        check_budgets(budgets, problem.morphable.depth)
        rows = output_errors(problem.morphable, problem.data, self.sequences)
        read = sum(batch["input_ids"].numel() for batch in problem.data.val_text_batches(self.sequences))
        scores = [row["error"] / (row["power"] if self.normalised else 1.0) for row in rows]
        return by_scores(scores, budgets, tokens=read, tables={"errors": rows})


@dataclass(frozen=True)
class RecallDrop(Selector):
    """The recall that is lost when a block alone is replaced: s_i = R - R_i, with R of the teacher and R_i of
    the hybrid whose block i alone is linear, both `recall`.

    Source: the mode "jet-nemotron" of HALO's `layer_analysis.py`, thunlp/hybrid-linear-attention.
    """

    kind = "recall_drop"

    sequences: int = 64
    """Texts behind the accuracy on each task."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``replaced``: rows ``block`` (None: the teacher) and ``recall``, in percent.

        Raises ``ValueError`` for a budget that the depth cannot meet, or a teacher that cannot read a task.
        """
        check_budgets(budgets, problem.morphable.depth)
        check_recall(problem)
        rows, tokens = recall_of_each(problem, without, self.sequences)
        scores = [rows[0]["recall"] - row["recall"] for row in rows[1:]]
        return by_scores(scores, budgets, tokens=tokens, tables={"replaced": rows})


@dataclass(frozen=True)
class RecallAlone(Selector):
    """The recall that comes back when a block alone stays full: s_i = `recall` of the hybrid that is linear
    everywhere but in block i, untrained.

    The other end of `RecallDrop`: there all other blocks can stand in for the one that is replaced, here
    none can. It restores one block as `Restoration` does, without its training.
    """

    kind = "recall_alone"

    sequences: int = 64
    """Texts behind the accuracy on each task."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``alone``: rows ``block`` (None: no block is full) and ``recall``, in percent.

        Raises ``ValueError`` for a budget that the depth cannot meet, or a teacher that cannot read a task.
        """
        check_budgets(budgets, problem.morphable.depth)
        check_recall(problem)
        rows, tokens = recall_of_each(problem, alone, self.sequences)
        scores = [row["recall"] for row in rows[1:]]
        return by_scores(scores, budgets, tokens=tokens, tables={"alone": rows})


@dataclass(frozen=True)
class HaloRatio(Selector):
    """HALO's score of a block: recall lost for common sense lost when it alone is replaced (`halo_ratio`).

    HALO measures recall by SQuAD, FDA and SWDE and common sense by HellaSwag and ARC. Small models can do
    neither, so `recall` and `common_sense` stand in.

    Source: HALO, 2601.22156, and its `layer_analysis.py`, thunlp/hybrid-linear-attention.
    """

    kind = "halo_ratio"

    sequences: int = 64
    """Texts behind the accuracy on each task."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``replaced``: rows ``block``, ``recall`` and ``common``, in percent.

        Raises ``ValueError`` for a budget that the depth cannot meet, or a teacher that cannot read a task.
        """
        depth = problem.morphable.depth
        check_budgets(budgets, depth)
        check_recall(problem)
        rows, tokens = [], 0
        for block in range(depth):
            model = Arranged(problem.morphable, without(block, depth))
            measured = {
                "recall": recall(model, problem, self.sequences),
                "common": common_sense(model, problem.data, self.sequences),
            }
            rows.append({"block": block} | measured)
            tokens += model.tokens
        scores = halo_ratio([row["recall"] for row in rows], [row["common"] for row in rows])
        return by_scores(scores, budgets, tokens=tokens, tables={"replaced": rows})


def halo_ratio(recall: Sequence[float], common: Sequence[float]) -> list[float]:
    """``s_i = min(CAP, (max_j R_j - R_i) / (max_j C_j - C_i + EPSILON))``, one number a block.

    The block whose common sense is best has next to nothing below the line: it gets the cap whatever
    it does to recall, unless its recall is the best as well, where it gets 0.

    Args:
        recall: R_i, recall with block i alone replaced.
        common: C_i, common sense with block i alone replaced, on the same scale.

    >>> [round(score, 6) for score in halo_ratio([90.0, 80.0, 60.0], [48.0, 49.0, 50.0])]
    [0.0, 10.0, 50.0]
    """
    best_recall, best_common = max(recall), max(common)
    return [
        min(CAP, (best_recall - r) / (best_common - c + EPSILON)) for r, c in zip(recall, common, strict=True)
    ]


def without(block: int | None, depth: int) -> Layout:
    """The layout in which that block alone is not full; None: all are."""
    return Layout.from_full([index for index in range(depth) if index != block], depth)


def alone(block: int | None, depth: int) -> Layout:
    """The layout in which that block alone is full; None: none is."""
    return Layout.from_full([] if block is None else [block], depth)


def recall_of_each(
    problem: Problem, arranged: Callable[[int | None, int], Layout], sequences: int
) -> tuple[list[dict], int]:
    """`recall` of the layouts of no block and of every block: rows ``block`` and ``recall``; and the tokens
    that were read."""
    rows, tokens, depth = [], 0, problem.morphable.depth
    for block in (None, *range(depth)):
        model = Arranged(problem.morphable, arranged(block, depth))
        rows.append({"block": block, "recall": recall(model, problem, sequences)})
        tokens += model.tokens
    return rows, tokens


def recall(model: nn.Module, problem: Problem, sequences: int) -> float:
    """Mean accuracy in percent over nine tasks, each at its home length: passkeys and the eight `NEEDLES`."""
    data, passkeys = problem.data, problem.passkeys
    shares = [passkey_accuracy(model, data, passkeys, passkeys.eval_lengths[0], sequences)[0]["accuracy"]]
    length = data.task.home
    shares += [suite_accuracy(model, data, name, length, sequences)["accuracy"] for name in NEEDLES]
    return 100 * sum(shares) / len(shares)


def check_recall(problem: Problem) -> None:
    """Raises ``ValueError`` when the teacher has no embedding for a symbol of the tasks of `recall`."""
    task = problem.data.task
    problem.passkeys.check(problem.morphable.teacher.config, task)
    if not task.has_suite:
        raise ValueError(
            "needles need a teacher that was taught the suite: suite_fraction and recall_fraction above 0; "
            f"got {task.suite_fraction} and {task.recall_fraction}"
        )


@torch.no_grad()
def common_sense(model: nn.Module, data: TaskData, sequences: int) -> float:
    """Share of the tokens of held-out text, in percent, that are the most likely one after those before."""
    right, tokens = 0, 0
    device = next(model.parameters()).device
    for batch in data.val_text_batches(sequences):
        labels = batch["labels"].to(device)
        right += (model(batch["input_ids"].to(device)).logits.argmax(-1) == labels).sum().item()
        tokens += labels.numel()
    return 100 * right / tokens


def check_sequences(sequences: int) -> None:
    """Raises ``ValueError`` unless that is a whole number of at least one."""
    if type(sequences) is not int or sequences < 1:
        raise ValueError(f"sequences must be a whole number of at least 1; got {sequences!r}")

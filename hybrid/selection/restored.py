"""One block restored at a time, each hybrid distilled for a short while: KL-guided layer selection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid.config.layout import Layout
from hybrid.conversion.distillation import LitDistill
from hybrid.conversion.specs import Stage
from hybrid.data.module import TaskData
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.base import Problem, Selection, Selector, by_scores, check_budgets
from hybrid.selection.scored import check_sequences
from hybrid.training.loop import LearningCurve, train

PASSES = 4
"""Passes of a distillation a token: the teacher forward, the hybrid forward, and backward, which is two."""


@dataclass(frozen=True)
class Restoration(Selector):
    """Linear everywhere but in block l, distilled to the teacher; the score of the block is minus the KL
    divergence that is left. The lower it is, the more the block matters.

    All parameters of the hybrid learn. Every block's hybrid starts from the same second mixers and reads the
    same batches. The divergence is that of the batches which come after the last one of the distillation:
    the same mixture, which no block's hybrid has learnt from. A score is not renewed once other blocks are
    restored.

    Source: GA-S2 of "Distilling to hybrid attention models via KL-guided layer selection", 2512.20569, and
    its code, fla-org/hybrid-distillation, which lets attention learn faster than the rest
    (`Stage.mixer_lr`).
    """

    kind = "restoration"

    stage: Stage
    """The distillation of each block."""
    sequences: int = 64
    """Sequences that the divergence is measured on, at least; they come in whole batches."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``restored``: rows ``block``, ``kl_start`` and ``kl``, before and after the distillation, in
        nats a token. The curve has the training losses of every ``block``.

        A distillation that was killed goes on from its checkpoint in the problem's folder, and one that had
        ended is not repeated. Raises ``ValueError`` for a budget that the depth cannot meet, and
        `hybrid.training.loop.Diverged` when a loss was not finite.
        """
        morphable = problem.morphable
        check_budgets(budgets, morphable.depth)
        device = next(morphable.parameters()).device
        data = TaskData(self.stage.task(problem.data.task), self.stage.train, problem.data.seed)
        fresh = self.fresh(data)
        rows, curve = [], []
        for block in range(morphable.depth):
            model = morphable.hybrid(Layout.from_full([block], morphable.depth))
            row = {"block": block, "kl_start": divergence(morphable.teacher, model, fresh)}
            course = LearningCurve(lambda module: {})
            folder = problem.folder / f"block_{block}" if problem.folder is not None else None
            lit = LitDistill(morphable.teacher, model, self.stage)
            train(lit, data, course, folder=folder, progress=False)
            # Lightning leaves what it trained on the CPU.
            lit.to(device)
            rows.append(row | {"kl": divergence(morphable.teacher, model, fresh)})
            curve += [{"block": block} | point for point in course.curve]
        return by_scores(
            [-row["kl"] for row in rows],
            budgets,
            tokens=morphable.depth * self._tokens(data, fresh),
            curve=curve,
            tables={"restored": rows},
        )

    def fresh(self, data: TaskData) -> list[Tensor]:
        """The batches [B, T] that the divergence is measured on."""
        first = self.stage.train.steps * self.stage.train.accumulate
        count = -(-self.sequences // data.rows)
        return [data.train_batch(first + index)["input_ids"] for index in range(count)]

    def _tokens(self, data: TaskData, fresh: list[Tensor]) -> int:
        """Of one block: its distillation, and teacher and hybrid on the fresh batches, twice."""
        run = self.stage.train
        measured = sum(ids.numel() for ids in fresh)
        return PASSES * run.steps * run.batch_size * data.task.seq_len + 2 * 2 * measured


@torch.no_grad()
def divergence(teacher: HybridLM, model: HybridLM, batches: Iterable[Tensor]) -> float:
    """Forward KL divergence ``sum_v p(v) (log p(v) - log q(v))`` from the teacher's prediction p to the
    model's q, mean over all positions of the batches of ids [B, T], in nats."""
    device = next(model.parameters()).device
    nats, tokens = 0.0, 0
    for batch in batches:
        ids = batch.to(device)
        q, p = (net(ids).logits.float().log_softmax(-1) for net in (model, teacher))
        nats += F.kl_div(q, p, reduction="sum", log_target=True).item()
        tokens += ids.numel()
    return nats / tokens

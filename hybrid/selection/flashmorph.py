"""FlashMorph: one gate a block, all learnt together, says which attention is needed.

Source: "Morphing into Hybrid Attention Models", 2606.30562, section on joint gate optimisation. Neither
its text nor its code could be read: what "the paper" says below comes from notes that others wrote about
it. What they leave open was decided here, and the string under the field says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hybrid.config import TrainConfig
from hybrid.conversion.morphable import Morphable
from hybrid.data import suite
from hybrid.data.module import TaskData, stream
from hybrid.data.recall import IGNORED
from hybrid.mixers.norms import full_precision
from hybrid.selection.base import Problem, Selection, Selector, by_scores, check_budgets
from hybrid.training.loop import LearningCurve, LitModule, train

TEXTS = ("passkeys", "plain")
UNIT_BATCHES = 4
"""Batches behind the isolated errors, the first ones of the training; the paper has nothing like them."""
GATES = TrainConfig(
    steps=400,
    batch_size=16,
    lr=2e-2,
    warmup=0,
    final=0.1,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    clip=1e6,
    eval_every=20,
)
"""How gates are learnt. The paper: learning rate 2e-2 falling to 2e-3, 20M tokens. Ours: AdamW with
PyTorch's moment decays, the cosine, no warm-up, steps and batch for small models, and no clipping: so high
a bound is never reached, while one within reach would weigh batches by their error."""


@dataclass(frozen=True)
class FlashMorph(Selector):
    """Keep the blocks whose gates stay highest when all of them are pulled towards the second mixer.

    Block l outputs ``a_l * H_full + (1 - a_l) * H_second``; all gates a_l start at 1, the exact teacher.
    Everything but them is frozen. With ``e_l`` the squared distance between a block's mixed output and the
    output of the same block in the teacher's own pass, summed over channels and averaged over answer
    tokens, and L blocks, the loss is

        ``(1 / L) * sum_l e_l / s + lam * sum_l a_l``,  s = 1, or `normalise`'s unit.

    The budget enters only when the gates are rounded: the highest stay full. Scores are the gates.

    `Selection.tokens`: a batch costs two forward passes (teacher, mixed) and one backward, 4 a token. Where
    outputs are not propagated, one pass of the teacher gives both branches and the gradient enters no
    block: 1 a token. The isolated errors of `UNIT_BATCHES` batches cost 1 a token more.
    Tables: ``gates``, rows ``block``, ``gate`` and ``isolated`` (the error of a closed gate alone);
    ``saturation``, one row with the numbers of gates ``closed`` (exactly 0), ``open`` (exactly 1) and
    ``between``, and the ``unit`` s; ``ties``, rows ``budget`` and ``tied``: whether the last chosen block
    and the first one left out have the same gate, so that their order says nothing.

    Decided here, as the notes leave it open: outputs are those of the mixers, before the stream is added;
    answer tokens are the positions that predict a symbol of a passkey; gates are parameters, clamped into
    [0, 1] in place after each step, as in DuoAttention's code (2410.10819), not sigmoids.

    Raises ``ValueError`` for an unknown `texts` and for a `lam` that is negative or not finite.
    """

    kind = "flashmorph"

    train: TrainConfig = GATES
    """Steps, batch, schedule and precision of the gates' training; see `GATES`."""
    lam: float = 1.0
    """Weight of the sum of the gates. The paper: 0.1, with hidden widths from 1024 and s = 1. Ours: 1, in
    `normalise`'s unit, which would leave a block of median error at one half if blocks did not interact."""
    normalise: bool = True
    """Whether s is the median over blocks of the isolated error, divided by L. The paper: no, s = 1. Ours:
    yes, since the error of a block grows with width and activation scale. Without interaction the
    minimiser is ``1 - a_l = min(1, lam * s * L / (2 * isolated_l))``: no `lam` of another model spreads the
    gates of this one, while in this unit a block is closed for good only below ``lam / 2`` medians. One
    unit for all blocks leaves their order to the method."""
    texts: str = "passkeys"
    """ "passkeys", as in the paper, with outputs compared at answer tokens; or "plain", its ablation: as many
    tokens of text without passkeys, compared at all positions."""
    propagate: bool = True
    """Whether a block reads the mixed stream. Ours: yes, as gates learnt jointly need it. False is an
    ablation: every block reads the teacher's stream, and the gates do not know of one another."""

    def __post_init__(self) -> None:
        if self.texts not in TEXTS:
            raise ValueError(f"unknown texts {self.texts!r}; allowed: {', '.join(TEXTS)}")
        if not isinstance(self.lam, (int, float)) or not 0 <= self.lam < math.inf:
            raise ValueError(f"lam must be a finite number from 0; got {self.lam!r}")
        object.__setattr__(self, "lam", float(self.lam))

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Learn the gates, then keep the highest; see `Selector.select`.

        Raises ``ValueError`` for a budget that cannot be met, a teacher that cannot read the passkeys, and,
        with `normalise`, where half of the second mixers make no error at all; `Diverged` when the loss was
        not finite.
        """
        depth = problem.morphable.depth
        check_budgets(budgets, depth)
        problem.passkeys.check(problem.morphable.teacher.config, problem.data.task)
        data = GateTexts(problem, self.train, self.texts)
        isolated = isolated_errors(problem.morphable, data)
        module = LitGates(
            self.train,
            depth,
            partial(block_errors, problem.morphable, propagate=self.propagate),
            self.lam,
            self._unit(isolated),
        )
        curve = LearningCurve(
            lambda module: {f"gate_{i}": gate for i, gate in enumerate(module.gates.tolist())}
        )
        train(module, data, curve, folder=problem.folder, progress=False)
        gates = module.gates.tolist()
        closed, fully = gates.count(0.0), gates.count(1.0)
        ranked = sorted(gates, reverse=True)
        tables = {
            "gates": [
                {"block": i, "gate": gate, "isolated": error}
                for i, (gate, error) in enumerate(zip(gates, isolated.tolist(), strict=True))
            ],
            "saturation": [
                {
                    "closed": closed,
                    "open": fully,
                    "between": depth - closed - fully,
                    "unit": module.unit,
                }
            ],
            "ties": [{"budget": k, "tied": ranked[k - 1] == ranked[k]} for k in budgets],
        }
        batches = self.train.steps * self.train.accumulate
        tokens = (4 if self.propagate else 1) * data.tokens(batches) + data.tokens(UNIT_BATCHES)
        return by_scores(gates, budgets, tokens=tokens, curve=curve.curve, tables=tables)

    def _unit(self, isolated: Tensor) -> float:
        if not self.normalise:
            return 1.0
        unit = isolated.median().item() / len(isolated)
        if not unit > 0:
            raise ValueError(
                "normalise needs second mixers that differ from attention; in half of the blocks or more "
                f"their isolated error is 0: {isolated.tolist()}"
            )
        return unit


class GateTexts(TaskData):
    """Batches of ``input_ids`` [B, T] and ``chosen`` [B, T], True where outputs are compared."""

    def __init__(self, problem: Problem, train: TrainConfig, texts: str) -> None:
        super().__init__(problem.data.task, train, problem.data.seed, problem.data.asked)
        self.passkeys, self.texts = problem.passkeys, texts

    def train_batch(self, index: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        """Batch ``index``: the share of device ``rank`` of ``world``."""
        if self.texts == "passkeys":
            batch = self.passkeys.train_batch(self, index)
            ids, chosen = batch["input_ids"], batch["labels"] != IGNORED
        else:
            rng, length = stream(self.seed, "train", index, *b"plain"), self.passkeys.length(self, index)
            text = suite.Symbols(self.corpus.train, first=0, vocab=0)
            ids = torch.tensor([text.haystack(rng, "essay", length) for _ in range(self.rows)])
            chosen = torch.ones_like(ids, dtype=torch.bool)
        return {"input_ids": ids[rank::world], "chosen": chosen[rank::world]}

    def tokens(self, batches: int) -> int:
        """Tokens of the first so many batches."""
        return self.rows * sum(self.passkeys.length(self, index) for index in range(batches))


class LitGates(LitModule):
    """The gates under training; nothing else is a parameter, is moved, or is saved in a checkpoint.

    Args:
        config: how they are trained.
        depth: L, the number of gates.
        errors: `block_errors` of a morphable model: (input_ids, chosen, gates) -> [L].
        lam: weight of the sum of the gates.
        unit: s, what the mean error is divided by.
    """

    def __init__(
        self,
        config: TrainConfig,
        depth: int,
        errors: Callable[[Tensor, Tensor, Tensor], Tensor],
        lam: float,
        unit: float,
    ) -> None:
        super().__init__(config)
        self.gates = nn.Parameter(torch.ones(depth))
        self.errors, self.lam, self.unit = errors, lam, unit

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        errors = self.errors(batch["input_ids"], batch["chosen"], self.gates)
        return errors.mean() / self.unit + self.lam * self.gates.sum()

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.gates.clamp_(0, 1)


def block_errors(
    morphable: Morphable, input_ids: Tensor, chosen: Tensor, gates: Tensor, propagate: bool = True
) -> Tensor:
    """Squared distance between the mixed outputs and those of the teacher's own pass, by block.

    Args:
        morphable: both branches, frozen.
        input_ids: [B, T].
        chosen: [B, T], True at the positions that count; at least one.
        gates: [L].
        propagate: whether a block reads the mixed stream; else it reads the teacher's.

    Returns:
        [L]: summed over channels, mean over the chosen positions.
    """
    with torch.no_grad():
        if propagate:
            targets = morphable(input_ids, torch.ones_like(gates)).outputs
        else:
            pairs = morphable.teacher_forced(input_ids)
            targets = [full for full, _ in pairs]
    if propagate:
        outputs = morphable(input_ids, gates).outputs
    else:
        outputs = [
            gate * full_precision(full) + (1 - gate) * full_precision(second)
            for gate, (full, second) in zip(gates, pairs, strict=True)
        ]
    return torch.stack(
        [
            (full_precision(output)[chosen] - full_precision(target)[chosen]).square().sum(-1).mean()
            for output, target in zip(outputs, targets, strict=True)
        ]
    )


@torch.no_grad()
def isolated_errors(morphable: Morphable, data: GateTexts) -> Tensor:
    """[L]: `block_errors` of gates that are all closed, each block on the teacher's stream; the mean over
    the first `UNIT_BATCHES` batches."""
    device = morphable.teacher.lm_head.weight.device
    closed = torch.zeros(morphable.depth, device=device)
    batches = (data.train_batch(index) for index in range(UNIT_BATCHES))
    errors = [
        block_errors(morphable, b["input_ids"].to(device), b["chosen"].to(device), closed, propagate=False)
        for b in batches
    ]
    return torch.stack(errors).mean(0).cpu()

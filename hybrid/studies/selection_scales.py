"""The scale dial of layer selection: sizes of the teacher, of every stage and of what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.config import TrainConfig
from hybrid.conversion.specs import Stage
from hybrid.data.passkeys import Passkeys
from hybrid.selection.flashmorph import GATES

SHARES = (1 / 6, 1 / 4, 1 / 2)
"""Budgets: shares of the blocks that stay full; each is rounded to a whole number of blocks."""


@dataclass(frozen=True)
class SelectionScale:
    """Everything the scale dial sets for conversion and selection."""

    depth: int
    """Blocks of the teacher."""
    heads: int
    """Its query heads; as many heads has every linear mixer."""
    kv_heads: int
    """Its key-value heads."""
    teacher_steps: int
    """Optimiser steps of the teacher, on the task of the scale of the same name."""
    eval_sequences: int
    """Sequences behind each number of the teacher's own task."""
    align: Stage
    """Stage 1."""
    distill: Stage
    """Stage 2."""
    finetune: Stage
    """Stage 3: twice the teacher's length."""
    restore: Stage
    """The short distillation of every block by `Restoration`."""
    gates: TrainConfig
    """FlashMorph's gates."""
    learn: Stage
    """ConSA's first stage, masks and weights, on plain text, as published. As many steps as time allows:
    after 120 on a laptop, on the seed of the sweep, most alphas still stood near zero."""
    mask_lr: float
    """Learning rate of ConSA's masks: at 0.2 an alpha of 5 reaches 0 within 25 steps."""
    multiplier_lr: float
    """Learning rate of its multipliers; the laptop's is the largest of those of `study.mask_rates` whose
    rounded masks miss the share by the fewest units, by head and by block together."""
    train: Stage
    """ConSA's second stage, masks fixed, on the teacher's mixture, so that all arms are measured on what they
    were trained on."""
    window: int
    """Tokens of ConSA's window, a quarter of the teacher's length: far below it, or full attention and the
    window are one."""
    passkeys: Passkeys
    """Retrieval texts, measured up to four times the teacher's length."""
    sequences: int
    """Held-out texts behind each number of a selector."""
    seq_len: int | None = None
    """Tokens of the teacher's training sequences; None: those of the scale of the same name. The teacher is
    measured at once, twice and four times this length."""
    gate_lr: float = 0.02
    """Learning rate of scalar gates in place of masks; DuoAttention's."""
    gate_price: float = 0.05
    """Weight of their mean in the loss (`ConsaSpec.l1`). DuoAttention's is 0.05, beside another loss; the
    laptop's is that of `study.mask_rates` under which the gates differ the most."""
    most: int = 500
    """Sets that the exhaustive search may try."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of everything that follows the teacher, of which there is one."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Numbers of full blocks."""
        return tuple(dict.fromkeys(max(1, round(share * self.depth)) for share in SHARES))


def _stage(steps: int, batch_size: int, lr: float, *, final: float = 0.1, **more) -> Stage:
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup=min(20, steps // 4),
        final=final,
        weight_decay=0.0,
        eval_every=max(1, steps // 4),
    )
    return Stage(config, **more)


SELECTION: dict[str, SelectionScale] = {
    "smoke": SelectionScale(
        depth=3,
        heads=4,
        kv_heads=4,
        teacher_steps=10,
        eval_sequences=8,
        align=_stage(4, 8, 1e-3, final=0.01),
        distill=_stage(4, 8, 1e-3),
        finetune=_stage(4, 8, 1e-3, final=1.0, seq_len=128),
        restore=_stage(2, 8, 1e-3),
        gates=replace(GATES, steps=4, batch_size=8, eval_every=2),
        learn=_stage(4, 8, 1e-3, recall_fraction=0.0),
        mask_lr=0.2,
        multiplier_lr=0.05,
        train=_stage(4, 8, 1e-3),
        window=16,
        passkeys=Passkeys(eval_lengths=(64, 128), eval_sequences=8),
        sequences=8,
        seeds=(0,),
    ),
    "laptop": SelectionScale(
        depth=8,
        heads=4,
        kv_heads=4,
        teacher_steps=1800,
        eval_sequences=32,
        align=_stage(300, 24, 3e-3, final=0.01),
        distill=_stage(100, 12, 1e-3),
        finetune=_stage(40, 6, 3e-4, final=1.0, seq_len=128),
        restore=_stage(40, 12, 1e-3),
        gates=replace(GATES, steps=150, batch_size=16, eval_every=15),
        learn=_stage(360, 8, 1e-3, recall_fraction=0.0),
        mask_lr=0.3,
        multiplier_lr=0.05,
        gate_price=0.00625,
        train=_stage(160, 8, 1e-3),
        window=16,
        # One symbol each: a teacher of this size finds a longer passkey and loses its way to the second one.
        passkeys=Passkeys(keys=6, size=1),
        sequences=64,
    ),
    "gpu": SelectionScale(
        depth=12,
        heads=8,
        kv_heads=4,
        teacher_steps=2500,
        eval_sequences=128,
        align=_stage(1000, 64, 1e-3, final=0.01),
        distill=_stage(500, 64, 5e-4),
        finetune=_stage(150, 32, 1e-4, final=1.0, seq_len=1024),
        restore=_stage(150, 64, 5e-4),
        gates=replace(GATES, steps=400, batch_size=32, eval_every=20),
        learn=_stage(600, 64, 5e-4, recall_fraction=0.0),
        mask_lr=0.1,
        multiplier_lr=0.05,
        train=_stage(900, 64, 5e-4),
        window=64,
        passkeys=Passkeys(keys=8, size=3, lengths=(512,), eval_lengths=(512, 1024, 2048), eval_sequences=128),
        sequences=128,
        most=1500,
        seq_len=512,
    ),
}


def selection_scale(name: str) -> SelectionScale:
    """The scale of that name. Raises ``ValueError`` naming the allowed ones."""
    if name not in SELECTION:
        raise ValueError(f"unknown scale {name!r} of layer selection; allowed: {', '.join(SELECTION)}")
    return SELECTION[name]

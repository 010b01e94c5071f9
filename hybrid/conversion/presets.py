"""The published recipes of conversion: how long, on how long sequences and how fast each stage learns.

Numbers are those of the papers and of their public code, per optimiser step over all devices: to fit them
on fewer, raise `TrainConfig.accumulate`. All train on plain text alone: HALO on FineWeb-Edu, RADLADS and
KL-LS on DCLM. Which text is a part of the teacher's task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.checkpoints.checkpoint import CheckpointSpec
from hybrid.config import RunSpec, TrainConfig
from hybrid.config.layout import Layout
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage
from hybrid.data.passkeys import Passkeys


@dataclass(frozen=True)
class Preset:
    """A published recipe of conversion.

    Weight decay is unknown in all of them: none here. AdamW's betas are 0.9 and 0.95 where they are known,
    and here in all.
    """

    source: str
    """The paper's arXiv number."""
    align: Stage
    """Stage 1."""
    distill: Stage
    """Stage 2."""
    finetune: Stage | None
    """Stage 3; None: the recipe has none."""
    unknown: str
    """What the sources at hand leave open, and what stands here for it."""
    drop_rope: bool = False
    """Full attention that stays loses its rotary positions."""

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages there are, by name, in their order."""
        named = {"align": self.align, "distill": self.distill, "finetune": self.finetune}
        return {name: stage for name, stage in named.items() if stage is not None}

    def alignment(self, teacher: RunSpec | CheckpointSpec, branch: str, seed: int = 0) -> AlignSpec:
        """Stage 1 of a teacher with a linear mixer beside every attention."""
        return AlignSpec(teacher, branch, self.align, seed=seed)

    def hybrid(
        self,
        teacher: RunSpec | CheckpointSpec,
        branch: str,
        layout: Layout | str,
        *,
        seed: int = 0,
        passkeys: Passkeys | None = None,
    ) -> HybridSpec:
        """All stages of the hybrid of a layout; ``passkeys`` as in `HybridSpec`."""
        return HybridSpec(
            self.alignment(teacher, branch, seed),
            layout,
            self.distill,
            self.finetune,
            drop_rope=self.drop_rope,
            passkeys=passkeys,
            seed=seed,
        )


def _stage(
    seq_len: int, batch_size: int, lr: float, last: float, *, steps: int, mixer_lr: float | None = None
) -> Stage:
    train = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup=50,
        final=last / lr,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        clip=1.0,
    )
    return Stage(train, seq_len, recall_fraction=0.0, mixer_lr=mixer_lr)


def _steps(tokens: float, seq_len: int, batch_size: int) -> int:
    """Steps that read this many tokens, the last one perhaps a few more."""
    return -int(-tokens // (seq_len * batch_size))


HALO = Preset(
    source="2601.22156",
    align=_stage(512, 32, 1e-3, 1e-5, steps=20_000),
    distill=_stage(512, 96, 1e-4, 1e-5, steps=20_000),
    finetune=_stage(16_384, 128, 1e-5, 1e-5, steps=500),
    drop_rope=True,
    unknown="Warm-up (50 steps), betas and clip (1.0) are known of stage 2: here of all stages.",
)
FLASHMORPH = replace(
    HALO,
    source="2606.30562",
    unknown="Optimiser, batch sizes, warm-up and clip: HALO's, whose lengths, tokens and rates it shares. "
    "Attention loses its positions in the two larger models; of the smaller ones it is unknown.",
)
RADLADS = Preset(
    source="2505.03005",
    align=_stage(512, 32, 1e-3, 1e-5, steps=_steps(100e6, 512, 32)),
    distill=_stage(512, 96, 1e-5, 1e-5, steps=_steps(250e6, 512, 96)),
    finetune=_stage(16_384, 96, 1e-5, 1e-5, steps=_steps(100e6, 16_384, 96)),
    unknown="Stage 2 reads 250M to 700M tokens: here 250M. Batch of stage 3: that of stage 2. Warm-up and "
    "clip: HALO's.",
)
RADLADS_2A = replace(
    RADLADS,
    distill=_stage(4096, 96, 1e-5, 1e-5, steps=_steps(600e6, 4096, 96), mixer_lr=1e-4),
    finetune=None,
    unknown="Batch of step 2a: that of step 2. Its rates fall by a short cosine at 83 to 87 % of training; "
    "to where is unknown, and here they stay. Warm-up and clip: HALO's.",
)
KL_LS = Preset(
    source="2512.20569",
    align=_stage(512, 96, 1e-3, 1e-5, steps=_steps(100e6, 512, 96)),
    distill=_stage(4096, 32, 7e-6, 7e-6, steps=_steps(600e6, 4096, 32), mixer_lr=1e-4),
    finetune=None,
    unknown='Last rate of stage 1: RADLADS\'s. The rate "for attention layers": here of the mixers of all '
    "blocks. Clip is known of stage 2: here of both stages. Warm-up: HALO's. Betas: those of the others. "
    "Whether attention keeps its positions: it does here.",
)

PRESETS = {
    "HALO": HALO,
    "FlashMorph": FLASHMORPH,
    "RADLADS": RADLADS,
    "RADLADS, step 2a": RADLADS_2A,
    "KL-LS": KL_LS,
}
"""Name -> recipe. RADLADS has no full attention left; its step 2a stands in place of stages 2 and 3."""

"""A trained Transformer becomes a hybrid: the specs of its stages, and the config of the student.

Source: HALO (2601.22156), RADLADS (2505.03005) and "Distilling to hybrid attention models via
KL-guided layer selection" (2512.20569) share one protocol of three stages; their sizes are in
`hybrid.conversion.presets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hybrid.checkpoints.checkpoint import CheckpointSpec
from hybrid.config import MIXERS, LinearConfig, ModelConfig, RunSpec, TaskConfig, TrainConfig, WindowConfig
from hybrid.config.checks import above_zero, floats, positive, share
from hybrid.config.layout import Layout
from hybrid.config.specs import Spec, Stretch
from hybrid.data.passkeys import Passkeys
from hybrid.models.mlps import inner_width

WINDOW = "window"
"""The branch that is no linear mixer: attention over a window, by the teacher's own weights."""


@dataclass(frozen=True)
class Stage(Stretch):
    """One stage of a conversion: on which sequences, and how long."""

    train: TrainConfig
    seq_len: int | None = None
    """Tokens of a sequence; None: the teacher's."""
    recall_fraction: float | None = None
    """Share of the sequences that are recall; None: the teacher's; 0 is plain text, as published."""
    mixer_lr: float | None = None
    """Peak learning rate of the mixers of all blocks, on the schedule of the others; None: theirs too."""

    def __post_init__(self) -> None:
        floats(self)
        above_zero(self, "mixer_lr")
        if self.seq_len is not None:
            positive(self, "seq_len")
        if self.recall_fraction is not None:
            share(self, "recall_fraction")

    def task(self, teacher: TaskConfig) -> TaskConfig:
        """The teacher's task at this stage's length and mixture."""
        given = {"seq_len": self.seq_len, "recall_fraction": self.recall_fraction}
        return replace(teacher, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class AlignSpec(Spec):
    """Stage 1: a second mixer beside every attention of a teacher, taught to give the same output."""

    kind = "align"
    rooms = ("models", "data", "training", "conversion")

    teacher: RunSpec | CheckpointSpec
    """The run that trains the teacher, or the checkpoint that holds it."""
    branch: str
    """The second mixer: one of `MIXERS`, or `WINDOW`, by the teacher's own weights, which is not taught."""
    stage: Stage | None = None
    """How it is taught; None: not at all."""
    window: int | None = None
    """Tokens of the window, itself included, if that is the branch."""
    seed: int = 0
    """Seeds the new weights and the order of the data."""

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, RunSpec | CheckpointSpec):
            raise ValueError(f"the teacher must be a run or a checkpoint; got {self.teacher!r}")
        student_config(self.teacher.model, "L" * self.teacher.model.depth, self.branch, self.window)
        if self.branch == WINDOW and self.stage is not None:
            raise ValueError("a window shares the teacher's weights: stage must be None")
        check_stages(self.teacher.task, self.stage)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")


@dataclass(frozen=True)
class HybridSpec(Spec):
    """Stages 2 and 3: the hybrid of a layout learns the teacher's predictions, then longer texts."""

    kind = "hybrid"
    rooms = ("models", "data", "training", "conversion")

    align: AlignSpec
    """Where both branches come from."""
    layout: Layout
    """`F` keeps the teacher's attention; `L`, or `W` for a window, takes the second mixer."""
    distill: Stage | None = None
    """Forward KL divergence from the teacher's predictions; None: left out."""
    finetune: Stage | None = None
    """Cross-entropy on longer sequences; None: left out."""
    drop_rope: bool = False
    """Take the rotary positions out of the attention that stays, as HALO does for long texts."""
    passkeys: Passkeys | None = field(default_factory=Passkeys)
    """What the hybrid is measured on, beside the teacher's task, after every stage; None: on that task alone,
    as for a checkpoint that knows no symbols beside its text."""
    seed: int = 0
    """Seeds the order of the data."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout.parse(self.layout))
        student_config(self.align.teacher.model, self.layout, self.align.branch, self.align.window)
        if self.drop_rope and self.align.branch == WINDOW:
            raise ValueError("a window needs the teacher's rotary positions: drop_rope must be False")
        check_stages(self.align.teacher.task, self.distill, self.finetune)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")


def check_stages(task: TaskConfig, *stages: Stage | None) -> None:
    """Raises ``ValueError`` when the teacher's task cannot have the length or the mixture of a stage."""
    for stage in stages:
        if stage is not None:
            stage.task(task)


def student_config(
    teacher: ModelConfig, layout: Layout | str, branch: str, window: int | None = None
) -> ModelConfig:
    """The config of a hybrid of this teacher: its widths and heads, with the branch in the `L` blocks.

    Every linear head has the shape of a query head of the teacher; a window stands as `W`.

    Raises ``ValueError`` for a teacher that is not all full attention, a layout of another depth, an
    unknown branch, a window without its width, or heads of a shape that the mixer cannot have.
    """
    letters = str(Layout.parse(layout))
    if branch not in (*MIXERS, WINDOW):
        raise ValueError(f"unknown branch {branch!r}; allowed: {', '.join((*MIXERS, WINDOW))}")
    if set(teacher.layout.letters) != {"F"}:
        raise ValueError(f"the teacher must be full attention in every block; got layout {teacher.layout}")
    if len(letters) != teacher.depth:
        raise ValueError(f"the layout must have the teacher's {teacher.depth} blocks; got {letters}")
    if odd := set(letters) - set("FLW"):
        raise ValueError(f"the layout must be of F and L, or W for a window; got {odd.pop()!r} in {letters}")
    if (branch == WINDOW) != (window is not None):
        raise ValueError(f"window is needed if and only if the branch is 'window'; got {window!r}")
    # Whatever the student is, its MLPs are the teacher's.
    mlp = replace(teacher.mlp, size=inner_width(teacher))
    if branch == WINDOW:
        seen = WindowConfig(window, rotary=teacher.attention.rotary)
        return replace(teacher, layout=letters.replace("L", "W"), window=seen, mlp=mlp)
    heads = MIXERS[branch].heads_like(teacher.attention.num_heads, teacher.head_dim)
    return replace(teacher, layout=letters, linear=LinearConfig(branch, **heads), mlp=mlp)

"""A trained Transformer becomes a hybrid: what is carried over, what is new, and how it is taught.

Source: HALO (2601.22156), RADLADS (2505.03005) and "Distilling to hybrid attention models via
KL-guided layer selection" (2512.20569) share one protocol of three stages; their sizes are in
`hybrid.conversion.presets`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybrid.checkpoints.checkpoint import CheckpointSpec
from hybrid.config import MIXERS, LinearConfig, ModelConfig, RunSpec, TaskConfig, TrainConfig, WindowConfig
from hybrid.config.checks import above_zero, floats, positive, share
from hybrid.config.layout import Layout
from hybrid.config.specs import Spec, Stretch
from hybrid.data.passkeys import Passkeys
from hybrid.mixers.base import LinearMixer
from hybrid.mixers.norms import full_precision
from hybrid.models.hybrid_lm import HybridLM
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


@torch.no_grad()
def carry_over(teacher: HybridLM, student: HybridLM) -> list[str]:
    """Copy into the student every weight of the teacher that has a place there.

    Embeddings, norms, MLPs and attention that stays are copied as they are. A linear mixer takes what it says
    of the teacher's projections and short convolutions (`LinearMixer.takes_over`), those of a key-value head
    once for each query head that reads it. Gates and decays keep their start. Linear mixers have no biases
    and no norms of queries and keys, so those of the teacher stay behind.

    Returns the names of the parameters of linear mixers that were taken over. A ``UserWarning`` says where a
    mixer has another shape than the teacher's attention and takes nothing.
    """
    source = dict(teacher.named_parameters())
    linear = {f"model.layers.{i}.attn.": m for i, m in _linear_mixers(student)}
    for name, parameter in student.named_parameters():
        if name in source and not name.startswith(tuple(linear)):
            parameter.copy_(source[name])
    taken = [
        name for prefix, mixer in linear.items() for name in _take_over(prefix, mixer, source, teacher.config)
    ]
    if linear and not taken:
        first = next(iter(linear.values()))
        warnings.warn(
            f"{first.name} takes nothing over from the teacher: none of its parameters has the shape of "
            f"{teacher.config.attention.num_heads} heads of {teacher.config.head_dim} channels; its mixers "
            "start from where they are drawn",
            stacklevel=2,
        )
    return taken


def _linear_mixers(model: HybridLM) -> Iterator[tuple[int, LinearMixer]]:
    for index, block in enumerate(model.model.layers):
        if isinstance(block.attn, LinearMixer):
            yield index, block.attn


def _take_over(
    prefix: str, mixer: LinearMixer, source: dict[str, Tensor], teacher: ModelConfig
) -> Iterator[str]:
    """Copy what a mixer takes over of the attention of that name, and name its parameters."""
    parameters = dict(mixer.named_parameters())
    group = teacher.attention.num_heads // teacher.kv_heads
    for carried in mixer.takes_over():
        found = source.get(prefix + carried.source)
        place = parameters.get(carried.name)
        if found is None or place is None:
            continue
        if group > 1 and carried.source[0] in "kv":
            found = found.unflatten(0, (-1, teacher.head_dim)).repeat_interleave(group, 0).flatten(0, 1)
        if place[carried.rows].shape == found.shape:
            place[carried.rows] = carried.sign * found
            yield prefix + carried.name


def of_mixer(name: str) -> bool:
    """Whether the parameter of that name belongs to a mixer; the bounds that HGRN's mixers share do."""
    return ".attn." in name or name.endswith("lower_bounds")


class Mixed(NamedTuple):
    """What a morphable model returns."""

    logits: Tensor
    """[B, T, vocab]."""
    outputs: list[Tensor]
    """What the mixer of each block added to the stream, [B, T, hidden]."""


class Morphable(nn.Module):
    """A teacher with a second mixer beside every attention; a gate a block says how much of which.

    Embeddings, norms, MLPs and output layer are the teacher's in either case. Everything is frozen but
    the second mixers, and those too where the branch is a window.

    Source: FlashMorph, 2606.30562, the mixed output ``a * H_full + (1 - a) * H_lin`` of its stage 2,
    known at second hand.
    """

    def __init__(self, teacher: HybridLM, branch: str, window: int | None = None) -> None:
        super().__init__()
        self.branch, self.window = branch, window
        self.teacher = teacher.requires_grad_(False)
        self.student = HybridLM(self.config("L" * teacher.config.depth)).requires_grad_(False)
        self.carried = carry_over(teacher, self.student)
        if branch != WINDOW:
            for name, parameter in self.student.named_parameters():
                parameter.requires_grad_(of_mixer(name))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.teacher.config.depth

    def config(self, layout: Layout | str) -> ModelConfig:
        """The config of the hybrid of a layout of `F` and `L`."""
        return student_config(self.teacher.config, layout, self.branch, self.window)

    def forward(self, input_ids: Tensor, gates: Tensor) -> Mixed:
        """The mixed stream, propagated: a block reads what the blocks before it gave, mixed.

        A gate of exactly 1 or 0 that needs no gradient runs one mixer alone.

        Args:
            input_ids: [B, T].
            gates: [depth], the share of full attention in each block.
        """
        stack, shared = self.teacher.model, self.student.model.shared()
        x, outputs = stack.embeddings(input_ids), []

        def mixed(index: int, gate: Tensor, normed: Tensor, state: None) -> tuple[Tensor, None]:
            fixed = not gate.requires_grad
            if fixed and gate == 1:
                y = self.full(index, normed)
            elif fixed and gate == 0:
                y = self.second(index, normed, shared)
            else:
                full, second = self.full(index, normed), self.second(index, normed, shared)
                y = gate * full_precision(full) + (1 - gate) * full_precision(second)
            outputs.append(y)
            return y, None

        for index, (block, gate) in enumerate(zip(stack.layers, gates, strict=True)):
            x, _, _ = block(x, mix=partial(mixed, index, gate))
        return Mixed(self.teacher.lm_head(stack.norm(x)), outputs)

    def teacher_forced(self, input_ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of every block, what full attention and what the second mixer give for the teacher's own
        stream: pairs of [B, T, hidden]. What one block does changes no other."""
        stack, shared = self.teacher.model, self.student.model.shared()
        x, pairs = stack.embeddings(input_ids), []

        def both(index: int, normed: Tensor, state: None) -> tuple[Tensor, None]:
            y = self.full(index, normed)
            pairs.append((y, self.second(index, normed, shared)))
            return y, None

        for index, block in enumerate(stack.layers):
            x, _, _ = block(x, mix=partial(both, index))
        return pairs

    def full(self, index: int, normed: Tensor) -> Tensor:
        """What the teacher's attention of a block gives for a normalised stream [B, T, hidden]."""
        return self.teacher.model.layers[index].attn(normed)[0]

    def second(self, index: int, normed: Tensor, shared: list[dict]) -> Tensor:
        """What the second mixer of a block gives; ``shared`` is `Stack.shared` of the student."""
        return self.student.model.layers[index].attn(normed, **shared[index])[0]

    @torch.no_grad()
    def hybrid(self, layout: Layout | str, *, drop_rope: bool = False) -> HybridLM:
        """A model of its own, all of it trainable, with the teacher's attention in the `F` blocks of the
        layout and the second mixer in the others; ``drop_rope`` takes the positions out of the `F`."""
        config = self.config(layout)
        if drop_rope:
            config = replace(config, attention=replace(config.attention, rotary=None))
        model = HybridLM(config).to(self.teacher.lm_head.weight.device)
        full, second = dict(self.teacher.named_parameters()), dict(self.student.named_parameters())
        letters = str(Layout.parse(layout))
        for name, parameter in model.named_parameters():
            mixer = ".attn." in name and letters[int(name.split(".")[2])] != "F"
            parameter.copy_(second[name] if mixer or name not in full else full[name])
        return model

"""A teacher with a second mixer beside every attention, and the hybrids that come out of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.config.layout import Layout
from hybrid.conversion.carry_over import carry_over, of_mixer
from hybrid.conversion.specs import WINDOW, student_config
from hybrid.mixers.norms import full_precision
from hybrid.models.hybrid_lm import HybridLM


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

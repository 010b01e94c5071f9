"""The block, whatever its letter, and the stack of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.mixers import build_mixer
from hybrid.mixers.norms import RMSNorm, full_precision
from hybrid.models.mlps import build_mlp


class Block(nn.Module):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))``, or one of them alone, as the letter says; `attn` is
    any mixer. A part that the block lacks is None."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        kind = config.layout.kinds[index]
        self.attn_norm = RMSNorm(width, eps) if kind.mixers else None
        self.attn = build_mixer(config, index)
        self.mlp_norm = RMSNorm(width, eps) if kind.mlp else None
        self.mlp = build_mlp(config, index)

    def forward(
        self, x: Tensor, state=None, mix: Callable | None = None, **shared: Tensor
    ) -> tuple[Tensor, tuple | None, Tensor | None]:
        """x [B, T, hidden] -> [B, T, hidden], the mixer's state after it and the MLP's own loss, if any.

        Args:
            x: the residual stream.
            state: of the mixer, after the text before.
            mix: stands in for the mixer, called as it: ``mix(normed, state, **shared) -> (y, state)``.
            shared: what the mixer takes beside its input (`Stack.shared`).
        """
        loss = None
        if self.attn is not None:
            y, state = (mix or self.attn)(self.attn_norm(x), state, **shared)
            x = x + y
        if self.mlp is not None:
            y, loss = self.mlp(self.mlp_norm(x))
            x = x + y
        return x, state, loss


class Stacked(NamedTuple):
    """What a stack of blocks returns."""

    x: Tensor
    """[B, T, hidden], after the final norm."""
    state: list
    """The state of every block after the last token."""
    auxiliary: Tensor | None
    """The sum of the losses that blocks have of their own; None where none has one."""


class Stack(nn.Module):
    """Embeddings, blocks and the final norm.

    Mixers with a lower bound on their forget gate share `lower_bounds` [depth, hidden]: block l's
    bound is the sum of rows 1..l of its softmax over blocks, so the first block's is zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.bounded = [getattr(block.attn, "uses_lower_bound", False) for block in self.layers]
        if any(self.bounded):
            self.lower_bounds = nn.Parameter(torch.zeros(config.depth, config.hidden_size))

    @torch.no_grad()
    def draw(self, slow: bool) -> None:
        """Equal shares, or one of nearly all for the second block: all bounds but the first's are then
        above 0.9 in stacks of a few blocks."""
        if any(self.bounded):
            self.lower_bounds.zero_()
            self.lower_bounds[1:2].fill_(4.0 if slow else 0.0)

    def shared(self) -> list[dict[str, Tensor]]:
        """What the mixer of each block takes beside its input: ``lower_bound`` [hidden] or nothing."""
        if not any(self.bounded):
            return [{} for _ in self.layers]
        share = full_precision(self.lower_bounds).softmax(0)
        bounds = share.cumsum(0) - share[0]
        return [{"lower_bound": bounds[i]} if bounded else {} for i, bounded in enumerate(self.bounded)]

    def forward(self, input_ids: Tensor, state: list | None = None) -> Stacked:
        """input_ids [B, T], and the state after the text before -> see `Stacked`."""
        x, losses = self.embeddings(input_ids), []
        state = [None] * len(self.layers) if state is None else list(state)
        for index, (block, shared) in enumerate(zip(self.layers, self.shared(), strict=True)):
            x, state[index], loss = block(x, state[index], **shared)
            losses += [loss] if loss is not None else []
        return Stacked(self.norm(x), state, sum(losses) if losses else None)

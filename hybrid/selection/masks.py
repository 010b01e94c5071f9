"""Models whose attention is full or cheap by masks, and the ways to set masks of 0 and 1.

Masks form a table [blocks, units]: one unit a block where blocks are chosen, or one a key-value head. 1 is
full attention; 0 is the cheap branch, a window or a linear mixer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig, WindowConfig
from hybrid.conversion.morphable import Morphable
from hybrid.kernels import softmax_attention
from hybrid.mixers.attention import Attention
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.drawn import Uniform


class MaskedAttention(Attention):
    """Full attention and attention over a window, both of the same queries, keys and values, mixed head by
    head: ``z * full + (1 - z) * window``. For whole texts only: it keeps nothing for a continuation.

    Source: ConSA, 2606.18056, known at second hand; that the two outputs are mixed thus is our reading.
    """

    def __init__(self, config: ModelConfig, index: int, window: int) -> None:
        super().__init__(config, index)
        self.window = window
        self.mask = torch.ones(1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: tuple | None) -> tuple[Tensor, tuple]:
        """As in `Attention`, by `mask`, [1] or one number a key-value head, which its query heads share."""
        z = self.mask.repeat_interleave(q.shape[2] // len(self.mask)).unsqueeze(-1)
        full, near = softmax_attention(q, k, v), softmax_attention(q, k, v, window=self.window)
        return z * full + (1 - z) * near, ()


class WindowMasks(nn.Module):
    """A Transformer whose blocks, or key-value heads, see the whole past or a window, as masks say.

    It starts as a copy of the dense model, and all of its weights learn.
    """

    def __init__(self, dense: HybridLM, window: int) -> None:
        super().__init__()
        self.window = window
        self.model = HybridLM(dense.config)
        for index, block in enumerate(self.model.model.layers):
            block.attn = MaskedAttention(dense.config, index, window)
        self.model.to(dense.lm_head.weight).load_state_dict(dense.state_dict())

    def forward(self, input_ids: Tensor, masks: Tensor) -> Tensor:
        """input_ids [B, T], masks [blocks, units] -> logits [B, T, vocab]."""
        for block, mask in zip(self.model.model.layers, masks, strict=True):
            block.attn.mask = mask
        return self.model(input_ids).logits

    def rounded(self, full: Tensor) -> HybridLM:
        """A model of its own for masks of True and False [blocks, units], which computes no branch that it
        does not use: a block with all heads full is `F`, one with some of them `W` with its
        `WindowConfig.full_heads`."""
        rows = full.tolist()
        letters = "".join("F" if all(row) else "W" for row in rows)
        heads = tuple(() if all(row) else tuple(i for i, z in enumerate(row) if z) for row in rows)
        config = replace(
            self.model.config,
            layout=letters,
            window=WindowConfig(
                self.window, heads if any(heads) else None, self.model.config.attention.rotary
            ),
        )
        model = HybridLM(config).to(self.model.lm_head.weight)
        model.load_state_dict(self.model.state_dict())
        return model


class LinearMasks(nn.Module):
    """A Transformer whose blocks have attention or a linear mixer, as masks say; both learn."""

    def __init__(self, morphable: Morphable) -> None:
        super().__init__()
        # Weights of the student outside its mixers stand in no output, so they get no gradient.
        self.morphable = morphable.requires_grad_()

    def forward(self, input_ids: Tensor, masks: Tensor) -> Tensor:
        """input_ids [B, T], masks [blocks, 1] -> logits [B, T, vocab]."""
        return self.morphable(input_ids, masks.squeeze(-1)).logits

    def rounded(self, full: Tensor) -> HybridLM:
        """A model of its own for masks of True and False [blocks, 1]: `F` where True, `L` elsewhere."""
        return self.morphable.hybrid("".join("F" if z else "L" for (z,) in full.tolist()))


def kept(units: int, share: float) -> int:
    """How many of these units stay full at this share of the cheap branch, to the nearest whole number."""
    return units - round(share * units)


def highest(scores: Tensor, share: float, scope: str) -> Tensor:
    """Masks [blocks, units] with the highest scores full, at the share over all units, or over those of each
    block (scope "layer"); of equal ones the earlier comes first."""
    groups = scores if scope == "layer" else scores.reshape(1, -1)
    ranked = groups.argsort(dim=1, descending=True, stable=True)
    full = torch.zeros_like(groups, dtype=torch.bool)
    return full.scatter(1, ranked[:, : kept(groups.shape[1], share)], True).view_as(scores)


def interleaved(blocks: int, units: int, share: float) -> Tensor:
    """Masks [blocks, units] spread evenly at the share, as `Uniform` does it: over the blocks if each is one
    unit, else over the heads of every block alike."""
    count = blocks if units == 1 else units
    letters = Uniform("last").layout(kept(count, share), count)
    even = torch.tensor([letter == "F" for letter in letters])
    return even.unsqueeze(1) if units == 1 else even.expand(blocks, units)

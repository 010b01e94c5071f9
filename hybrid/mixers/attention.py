"""Softmax attention over the whole past (`F`), a window of it (`W`), or each by its own heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import softmax_attention
from hybrid.mixers.base import OF_ATTENTION, Carried, Look, conv_width
from hybrid.mixers.cache import Cache, extended, last
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.norms import RMSNorm
from hybrid.mixers.rotary import rotate

LOOKS = {
    "full": ("Full attention", Look("#000000", "s", "-")),
    "window": ("Sliding window", Look("#646464", "P", ":")),
}
"""What readers call both kinds of attention, and how figures draw them."""


def spans(config: ModelConfig, index: int) -> list[tuple[tuple[int, ...], int | None]]:
    """Key-value heads of attention block `index` that see equally far, with how far: the whole past (None) or
    a window in tokens. Every head is in one of them."""
    every = tuple(range(config.kv_heads))
    if "full" in config.layout.kinds[index].mixers:
        return [(every, None)]
    full = config.window.full_heads[index] if config.window.full_heads else ()
    windowed = tuple(head for head in every if head not in full)
    return [span for span in ((full, None), (windowed, config.window.size)) if span[0]]


def attend_cached(
    q: Tensor, k: Tensor, v: Tensor, past: Cache | None, window: int | None
) -> tuple[Tensor, Cache]:
    """Softmax attention of new tokens to themselves and to the kept ones before them.

    Args:
        q: [B, T, H, K]; k: [B, T, G, K]; v: [B, T, G, V], of the new tokens.
        past: what is kept of earlier tokens; None at a text's beginning.
        window: tokens a query sees, itself included; None is all.

    Returns:
        o [B, T, H, V], and what later tokens may still see: of a window its last tokens.
    """
    cache = extended(past, k.transpose(1, 2), v.transpose(1, 2))
    o = softmax_attention(q, cache.keys.transpose(1, 2), cache.values.transpose(1, 2), window=window)
    return o, cache if window is None else last(cache, window)


class Attention(nn.Module):
    """Causal softmax attention with rotary positions and, if asked, grouped keys and values.

    In a `W` block some key-value heads may see the whole past (`ModelConfig.full_heads`): each head
    then computes and keeps what it sees, and no more.

    Its state is the tails of the short convolutions, the keys and values seen (of heads with a window
    the last `window`) and the number of tokens seen.

    Source: Vaswani et al., 1706.03762, section 3.2; grouped heads: Ainslie et al., 2305.13245;
    a window by head: ConSA, 2606.18056.

    Args:
        config: of the model.
        index: of the block.
        head_dim: channels of one head; None are those of the config.
    """

    def __init__(self, config: ModelConfig, index: int, head_dim: int | None = None) -> None:
        super().__init__()
        heads, hidden, width = config.attention, config.hidden_size, conv_width(config, 0)
        self.head_dim = head_dim or config.head_dim
        self.spans = spans(config, index)
        windowed = "window" in config.layout.kinds[index].mixers
        self.rotary = config.window.rotary if windowed else heads.rotary
        q_width, kv_width, bias = (
            heads.num_heads * self.head_dim,
            config.kv_heads * self.head_dim,
            heads.qkv_bias,
        )
        self.q_proj = nn.Linear(hidden, q_width, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.q_conv1d = ShortConv(q_width, width, silu=width > 0)
        self.k_conv1d = ShortConv(kv_width, width, silu=width > 0)
        self.v_conv1d = ShortConv(kv_width, width, silu=width > 0)
        self.q_norm = RMSNorm(self.head_dim, heads.qk_norm_eps) if heads.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, heads.qk_norm_eps) if heads.qk_norm else nn.Identity()
        self.o_proj = nn.Linear(q_width, hidden, bias=False)

    def takes_over(self) -> tuple[Carried, ...]:
        """What it takes over of softmax attention: all projections, as they are (see `LinearMixer`)."""
        return OF_ATTENTION

    def state_flops(self, length: int) -> float:
        """FLOPs a token spends on scores and weighted values, averaged over a text of `length` tokens: 4 for
        a position seen and a channel of the queries that see it."""
        group = self.q_proj.out_features // self.k_proj.out_features
        seen = sum(len(heads) * _mean_seen(length, window) for heads, window in self.spans)
        return 4 * group * self.head_dim * seen

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        tails, past, seen = state or ((None, None, None), None, 0)
        q, k, v, tails = self.project(x, tails, seen)
        o, past = self.attend(q, k, v, past)
        return self.o_proj(o.flatten(-2)), (tails, past, seen + x.shape[1])

    def project(self, x: Tensor, tails: tuple, seen: int) -> tuple[Tensor, Tensor, Tensor, tuple]:
        """x [B, T, hidden], after `seen` tokens with these tails of the convolutions -> q [B, T, H, K], k and
        v [B, T, G, K], convolved, normalised and turned to their positions, and the tails after it."""
        q, q_tail = self.q_conv1d(self.q_proj(x), tails[0])
        k, k_tail = self.k_conv1d(self.k_proj(x), tails[1])
        v, v_tail = self.v_conv1d(self.v_proj(x), tails[2])
        q, k, v = (p.unflatten(-1, (-1, self.head_dim)) for p in (q, k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            turns = self.rotary.theta, self.rotary.stretch
            q, k = rotate(q, seen, *turns), rotate(k, seen, *turns)
        return q, k, v, (q_tail, k_tail, v_tail)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: tuple | None) -> tuple[Tensor, tuple]:
        """q [B, T, H, K], k and v [B, T, G, K] of the new tokens, and what an earlier call kept ->
        o [B, T, H, K], heads in the order of q, and what the next call needs."""
        if len(self.spans) == 1:
            return attend_cached(q, k, v, past, self.spans[0][1])
        group, outputs, kept = q.shape[2] // k.shape[2], {}, []
        for (heads, window), before in zip(self.spans, past or (None, None), strict=True):
            ours = (_take(q, heads, group), _take(k, heads, 1), _take(v, heads, 1))
            o, cache = attend_cached(*ours, before, window)
            outputs |= zip(heads, o.split(group, dim=2), strict=True)
            kept.append(cache)
        return torch.cat([outputs[head] for head in range(k.shape[2])], dim=2), tuple(kept)


def _mean_seen(length: int, window: int | None) -> float:
    """Positions a causal query sees, itself included, averaged over the sequence."""
    w = min(length, window or length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


def _take(x: Tensor, heads: tuple[int, ...], group: int) -> Tensor:
    """The heads [B, T, group of each, K] of these key-value heads."""
    pieces = x.split(group, dim=2)
    return torch.cat([pieces[head] for head in heads], dim=2)

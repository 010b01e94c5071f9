"""Softmax attention over the whole past (`F`) or a window of it (`W`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import softmax_attention
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.geometry import conv_width
from hybrid.mixers.norms import REFERENCE_EPS, RMSNorm, rotate


class Attention(nn.Module):
    """Causal softmax attention with rotary positions and, if asked, grouped keys and values.

    Its state is the keys and values seen (of a `W` block the last `window`), the tails of the short
    convolutions and the number of tokens seen.

    Source: Vaswani et al., 1706.03762, section 3.2; grouped heads: Ainslie et al., 2305.13245.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        letter = config.layout.letters[index]
        hidden, width = config.hidden_size, conv_width(config, letter)
        self.head_dim = hidden // config.attn_heads
        self.window = config.window if letter == "W" else None
        self.rope_theta = config.rope_theta
        kv_width = config.kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(hidden, kv_width, bias=False)
        self.q_conv1d = ShortConv(hidden, width, silu=width > 0)
        self.k_conv1d = ShortConv(kv_width, width, silu=width > 0)
        self.v_conv1d = ShortConv(kv_width, width, silu=width > 0)
        self.q_norm = RMSNorm(self.head_dim, REFERENCE_EPS) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, REFERENCE_EPS) if config.qk_norm else nn.Identity()
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, k_tail, v_tail), past, seen = state or ((None, None, None), None, 0)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        k, k_tail = self.k_conv1d(self.k_proj(x), k_tail)
        v, v_tail = self.v_conv1d(self.v_proj(x), v_tail)
        q, k, v = (p.unflatten(-1, (-1, self.head_dim)) for p in (q, k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope_theta is not None:
            q, k = rotate(q, seen, self.rope_theta), rotate(k, seen, self.rope_theta)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        o = softmax_attention(q, k, v, window=self.window)
        if self.window is not None and k.shape[1] > self.window:
            k, v = k[:, -self.window :].clone(), v[:, -self.window :].clone()
        return self.o_proj(o.flatten(-2)), ((q_tail, k_tail, v_tail), (k, v), seen + x.shape[1])

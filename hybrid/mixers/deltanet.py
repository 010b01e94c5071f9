"""DeltaNet: a matrix state that replaces what a key holds instead of adding to it."""

from __future__ import annotations

from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.config.geometry import conv_width, linear_heads
from hybrid.kernels import gated_delta
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.norms import RMSNorm, full_precision, l2_norm


class DeltaNet(nn.Module):
    """``S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`` with keys of length one.

    silu follows q, k and v with or without a short convolution. The state holds the tails of the
    convolutions and S.

    Source: Yang et al., 2406.06484, section 3, as flash-linear-attention's ``DeltaNet``.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, width = config.hidden_size, conv_width(config, "L")
        self.heads = linear_heads(config)
        key_width, value_width = self.heads.num * self.heads.k, self.heads.num * self.heads.v
        self.q_proj = nn.Linear(hidden, key_width, bias=False)
        self.k_proj = nn.Linear(hidden, key_width, bias=False)
        self.v_proj = nn.Linear(hidden, value_width, bias=False)
        self.b_proj = nn.Linear(hidden, self.heads.num, bias=False)
        self.q_conv1d = ShortConv(key_width, width)
        self.k_conv1d = ShortConv(key_width, width)
        self.v_conv1d = ShortConv(value_width, width)
        self.o_norm = RMSNorm(self.heads.v, config.norm_eps)
        self.o_proj = nn.Linear(value_width, hidden, bias=False)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, k_tail, v_tail), s = state or ((None, None, None), None)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        k, k_tail = self.k_conv1d(self.k_proj(x), k_tail)
        v, v_tail = self.v_conv1d(self.v_proj(x), v_tail)
        q, k = (l2_norm(p.unflatten(-1, (-1, self.heads.k))) for p in (q, k))
        v = v.unflatten(-1, (-1, self.heads.v))
        beta = full_precision(self.b_proj(x)).sigmoid()
        o, s = gated_delta(q, k, v, beta, None, s)
        return self.o_proj(self.o_norm(o).flatten(-2)), ((q_tail, k_tail, v_tail), s)

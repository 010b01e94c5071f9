"""HGRN-2: HGRN's gate, with the vector state expanded to a matrix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.config.geometry import conv_width, linear_heads
from hybrid.kernels import gated_outer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.hgrn import forget_gate
from hybrid.mixers.norms import REFERENCE_EPS, RMSNorm


class HGRN2(nn.Module):
    """``S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T``: what is not kept is the key.

    One RMSNorm over the full width, no output gate. Short convolutions, if any, come before the gate
    and the activation. The state holds their tails and S.

    Source: Qin et al., 2404.07904, section 3, as flash-linear-attention's ``HGRN2Attention``.
    """

    uses_lower_bound = True

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, width = config.hidden_size, conv_width(config, "L")
        self.heads = linear_heads(config)
        key_width, value_width = self.heads.num * self.heads.k, self.heads.num * self.heads.v
        self.q_proj = nn.Linear(hidden, key_width, bias=False)
        self.f_proj = nn.Linear(hidden, key_width, bias=False)
        self.i_proj = nn.Linear(hidden, value_width, bias=False)
        self.q_conv1d = ShortConv(key_width, width, silu=False)
        self.f_conv1d = ShortConv(key_width, width, silu=False)
        self.i_conv1d = ShortConv(value_width, width, silu=False)
        self.g_norm = RMSNorm(value_width, REFERENCE_EPS)
        self.o_proj = nn.Linear(value_width, hidden, bias=False)

    def forward(self, x: Tensor, state=None, lower_bound: Tensor | None = None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden], lower_bound [hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, f_tail, i_tail), s = state or ((None, None, None), None)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        f, f_tail = self.f_conv1d(self.f_proj(x), f_tail)
        i, i_tail = self.i_conv1d(self.i_proj(x), i_tail)
        log_f, k = forget_gate(f, lower_bound)
        by_head = (-1, self.heads.k)
        o, s = gated_outer(
            F.silu(q).unflatten(-1, by_head),
            k.to(i.dtype).unflatten(-1, by_head),
            i.unflatten(-1, (-1, self.heads.v)),
            log_f.unflatten(-1, by_head),
            s,
        )
        return self.o_proj(self.g_norm(o.flatten(-2))), ((q_tail, f_tail, i_tail), s)

"""HGRN: a gated recurrence on a vector state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.config.geometry import conv_width, linear_heads
from hybrid.kernels import gated_scan
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.norms import GatedRMSNorm, full_precision


def forget_gate(x: Tensor, lower_bound: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gate ``f = bound + (1 - bound) sigmoid(x)`` as its logarithm, and ``1 - f``.

    Args:
        x: [B, T, D], the gate's logits.
        lower_bound: [D], what the block is not allowed to forget below; None is zero.

    Source: HGRN (Qin et al., 2311.04823), section 3.
    """
    write = torch.sigmoid(-full_precision(x))
    if lower_bound is not None:
        write = (1 - lower_bound) * write
    # From 1 - f the logarithm is exact where f is close to 1, the long memories; 1 itself has none.
    return torch.log1p(-write.clamp_max(1 - torch.finfo(write.dtype).eps)), write


class HGRN(nn.Module):
    """``h_t = f_t * h_{t-1} + (1 - f_t) * silu(i_t)``, read through a norm and a swish gate.

    The state is real; the first HGRN paper's is complex. Short convolutions, if any, come before the
    gate and the activation. The state holds their tails and h.

    Source: Qin et al., 2311.04823, section 3, as flash-linear-attention's ``HGRNAttention``.
    """

    uses_lower_bound = True

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, width, channels = config.hidden_size, conv_width(config, "L"), linear_heads(config).v
        self.i_proj = nn.Linear(hidden, channels, bias=False)
        self.f_proj = nn.Linear(hidden, channels, bias=False)
        self.g_proj = nn.Linear(hidden, channels, bias=False)
        self.i_conv1d = ShortConv(channels, width, silu=False)
        self.f_conv1d = ShortConv(channels, width, silu=False)
        self.g_norm = GatedRMSNorm(channels, config.norm_eps)
        self.o_proj = nn.Linear(channels, hidden, bias=False)

    def forward(self, x: Tensor, state=None, lower_bound: Tensor | None = None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden], lower_bound [hidden] -> y [B, T, hidden] and the state after it."""
        (i_tail, f_tail), h = state or ((None, None), None)
        i, i_tail = self.i_conv1d(self.i_proj(x), i_tail)
        f, f_tail = self.f_conv1d(self.f_proj(x), f_tail)
        log_f, write = forget_gate(f, lower_bound)
        o, h = gated_scan((write * F.silu(i)).to(i.dtype), log_f, h)
        return self.o_proj(self.g_norm(o, self.g_proj(x))), ((i_tail, f_tail), h)

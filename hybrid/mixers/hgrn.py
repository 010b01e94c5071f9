"""HGRN: a gated recurrence on a vector state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_scan
from hybrid.mixers.base import Carried, LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import HYBRID, Family
from hybrid.mixers.heads import Heads, no_groups
from hybrid.mixers.norms import GatedRMSNorm, full_precision


def forget_gate(x: Tensor, lower_bound: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gate ``f = bound + (1 - bound) sigmoid(x)`` as its logarithm, and ``1 - f``.

    Args:
        x: [B, T, D], the gate's logits.
        lower_bound: [D or more], what the block is not allowed to forget below; None is zero.

    Source: HGRN (Qin et al., 2311.04823), section 3.
    """
    write = torch.sigmoid(-full_precision(x))
    if lower_bound is not None:
        # Bounds are sums of shares, which rounding may carry above 1.
        write = (1 - lower_bound[: write.shape[-1]]).clamp_min(0) * write
    # From 1 - f the logarithm is exact where f is close to 1, the long memories; 1 itself has none.
    return torch.log1p(-write.clamp_max(1 - torch.finfo(write.dtype).eps)), write


@mixer("hgrn")
class HGRN(LinearMixer):
    """``h_t = f_t * h_{t-1} + (1 - f_t) * silu(i_t)``, read through a norm and a swish gate.

    The state is real; the first HGRN paper's is complex. Short convolutions, if any, come before the
    gate and the activation. The state holds their tails and h.

    Source: Qin et al., 2311.04823, section 3, as flash-linear-attention's ``HGRNAttention``.
    """

    label = "HGRN"
    look = Look("#a039a9", "v", (0, (1, 1)))
    # 1 on the decay, 2 on the input's gate, 1 on the addition and 1 on the gated read-out.
    flops_per_element = 5
    uses_lower_bound = True
    carried = (
        Carried("i_proj.weight", "v_proj.weight"),
        Carried("i_conv1d.weight", "v_conv1d.weight"),
        Carried("o_proj.weight", "o_proj.weight"),
    )
    fla = Family(
        "hgrn",
        "HGRNForCausalLM",
        HYBRID,
        {"expand_ratio": 1, "use_lower_bound": True, "elementwise_affine": True},
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        """A vector state: one head whose value channels are the hidden size and whose key has one channel."""
        no_groups(config.linear)
        for name in ("num_heads", "head_k_dim", "head_v_dim"):
            if (value := getattr(config.linear, name)) is not None:
                raise ValueError(f"hgrn has a vector state and no heads; {name} must be None, got {value}")
        return Heads(1, 1, config.hidden_size)

    @classmethod
    def narrow(cls, heads: Heads) -> Heads:
        if heads.v % 2:
            raise ValueError(f"a mixer beside attention has half the channels; hidden_size is {heads.v}")
        return Heads(1, 1, heads.v // 2)

    @classmethod
    def heads_like(cls, num: int, width: int) -> dict[str, int]:
        return {}

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width, channels = config.hidden_size, conv_width(config, self.reference_conv), self.heads.v
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

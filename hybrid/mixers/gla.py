"""Gated linear attention: a matrix state whose key channels forget at learnt rates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_outer
from hybrid.mixers.base import LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import HYBRID, Family, read_expanded, write_expanded
from hybrid.mixers.heads import Heads, plain_heads
from hybrid.mixers.norms import GatedRMSNorm, full_precision

GATE_RANK = 16
GATE_TEMPERATURE = 16


@mixer("gla")
class GLA(LinearMixer):
    """``S_t = diag(a_t) S_{t-1} + k_t v_t^T`` with ``a_t = sigmoid(low-rank(x_t)) ** (1 / 16)``.

    The state holds the tails of the short convolutions and S.

    Source: Yang et al., 2312.06635, section 4.4, as flash-linear-attention's ``GatedLinearAttention``.
    """

    label = "GLA"
    look = Look("#a90009", "D", "-.")
    flops_per_element = 5
    fla = Family(
        "gla",
        "GLAForCausalLM",
        HYBRID | {"num_heads": 4, "expand_k": 0.5, "expand_v": 1.0},
        {"num_kv_heads": None, "feature_map": None, "use_output_gate": True, "clamp_min": None}
        | {"use_gk": True, "use_gv": False, "elementwise_affine": True, "fuse_norm": True},
        write_expanded,
        read_expanded,
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        return plain_heads(config, 4, config.hidden_size // 2, config.hidden_size)

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
        key_width, value_width = self.heads.num * self.heads.k, self.heads.num * self.heads.v
        self.q_proj = nn.Linear(hidden, key_width, bias=False)
        self.k_proj = nn.Linear(hidden, key_width, bias=False)
        self.v_proj = nn.Linear(hidden, value_width, bias=False)
        self.g_proj = nn.Linear(hidden, value_width, bias=False)
        self.gk_proj = nn.Sequential(
            nn.Linear(hidden, GATE_RANK, bias=False), nn.Linear(GATE_RANK, key_width, bias=True)
        )
        self.q_conv1d = ShortConv(key_width, width, silu=width > 0)
        self.k_conv1d = ShortConv(key_width, width, silu=width > 0)
        self.v_conv1d = ShortConv(value_width, width, silu=width > 0)
        self.g_norm_swish_gate = GatedRMSNorm(self.heads.v, config.norm_eps)
        self.o_proj = nn.Linear(value_width, hidden, bias=False)

    @torch.no_grad()
    def draw(self, slow: bool) -> None:
        """The gate's bias: 0, half of a token left after 16; or 4, where it is slow, after 600."""
        if slow:
            self.gk_proj[1].bias.fill_(4.0)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, k_tail, v_tail), s = state or ((None, None, None), None)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        k, k_tail = self.k_conv1d(self.k_proj(x), k_tail)
        v, v_tail = self.v_conv1d(self.v_proj(x), v_tail)
        log_decay = F.logsigmoid(full_precision(self.gk_proj(x))) / GATE_TEMPERATURE
        q, k, log_decay = (p.unflatten(-1, (-1, self.heads.k)) for p in (q, k, log_decay))
        v, g = (p.unflatten(-1, (-1, self.heads.v)) for p in (v, self.g_proj(x)))
        o, s = gated_outer(q, k, v, log_decay, s)
        return self.o_proj(self.g_norm_swish_gate(o, g).flatten(-2)), ((q_tail, k_tail, v_tail), s)

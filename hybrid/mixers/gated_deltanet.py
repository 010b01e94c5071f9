"""Gated DeltaNet: the delta rule on a state that also decays."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_delta
from hybrid.mixers.base import LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import HYBRID, Family, channels, share
from hybrid.mixers.heads import Heads, no_groups
from hybrid.mixers.norms import GatedRMSNorm, full_precision, l2_norm

STEP_RANGE = (0.001, 0.1)
STEP_FLOOR = 1e-4
RATE_RANGE = (0.0, 16.0)
SLOW_RATE = 1 / 4


def _write(heads: Heads, config: ModelConfig) -> dict:
    return {"num_heads": heads.num, "head_dim": heads.k, "expand_v": share(heads.v, heads.k)}


def _read(c: dict) -> dict:
    v = channels("expand_v", c["head_dim"] * c["expand_v"])
    return {"num_heads": c["num_heads"], "head_k_dim": c["head_dim"], "head_v_dim": v}


@mixer("gated_deltanet")
class GatedDeltaNet(LinearMixer):
    """``S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`` with one decay a head,
    ``a_t = exp(-exp(A_log) * softplus(W x_t + dt_bias))``.

    silu follows q, k and v with or without a short convolution. The state holds the tails of the
    convolutions and S.

    Source: Yang et al., 2412.06464, section 3, as flash-linear-attention's ``GatedDeltaNet``; the
    decay's parametrisation and start are Mamba-2's (Dao and Gu, 2405.21060).
    """

    label = "Gated DeltaNet"
    look = Look("#0b0da3", "*", (0, (6, 2)))
    # It reads the old value first.
    flops_per_element = 7
    reference_conv = 4
    fla = Family(
        "gated_deltanet",
        "GatedDeltaNetForCausalLM",
        HYBRID
        | {"use_short_conv": True, "num_hidden_layers": 21, "num_heads": 6, "head_dim": 256, "expand_v": 2.0},
        {"use_gate": True, "num_v_heads": None, "allow_neg_eigval": False, "output_gate_activation": "swish"},
        _write,
        _read,
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        """Heads of 256 channels that hold three quarters of the hidden size, values twice as wide."""
        given = config.linear
        no_groups(given)
        k = given.head_k_dim or 256
        num = given.num_heads or max(1, round(0.75 * config.hidden_size / k))
        return Heads(num, k, given.head_v_dim or 2 * k)

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
        key_width, value_width = self.heads.num * self.heads.k, self.heads.num * self.heads.v
        self.q_proj = nn.Linear(hidden, key_width, bias=False)
        self.k_proj = nn.Linear(hidden, key_width, bias=False)
        self.v_proj = nn.Linear(hidden, value_width, bias=False)
        self.g_proj = nn.Linear(hidden, value_width, bias=False)
        self.a_proj = nn.Linear(hidden, self.heads.num, bias=False)
        self.b_proj = nn.Linear(hidden, self.heads.num, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.heads.num))
        self.dt_bias = nn.Parameter(torch.empty(self.heads.num))
        self.q_conv1d = ShortConv(key_width, width)
        self.k_conv1d = ShortConv(key_width, width)
        self.v_conv1d = ShortConv(value_width, width)
        self.o_norm = GatedRMSNorm(self.heads.v, config.norm_eps)
        self.o_proj = nn.Linear(value_width, hidden, bias=False)

    @torch.no_grad()
    def draw(self, slow: bool) -> None:
        """Draw the decay's start: rates uniform, or slow; steps uniform in their logarithm."""
        self.A_log.uniform_(*RATE_RANGE).log_()
        if slow:
            self.A_log.fill_(log(SLOW_RATE))
        low, high = STEP_RANGE
        step = torch.empty_like(self.dt_bias).uniform_(log(low), log(high)).exp().clamp_min(STEP_FLOOR)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, k_tail, v_tail), s = state or ((None, None, None), None)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        k, k_tail = self.k_conv1d(self.k_proj(x), k_tail)
        v, v_tail = self.v_conv1d(self.v_proj(x), v_tail)
        q, k = (l2_norm(p.unflatten(-1, (-1, self.heads.k))) for p in (q, k))
        v, g = (p.unflatten(-1, (-1, self.heads.v)) for p in (v, self.g_proj(x)))
        beta = full_precision(self.b_proj(x)).sigmoid()
        step = F.softplus(full_precision(self.a_proj(x)) + full_precision(self.dt_bias))
        o, s = gated_delta(q, k, v, beta, -full_precision(self.A_log).exp() * step, s)
        return self.o_proj(self.o_norm(o, g).flatten(-2)), ((q_tail, k_tail, v_tail), s)

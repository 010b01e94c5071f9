"""Mamba-2: a matrix state with one decay a head, whose step size depends on the token."""

from __future__ import annotations

from math import inf, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_outer
from hybrid.mixers.base import Carried, LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import Family, share
from hybrid.mixers.heads import Heads, divided
from hybrid.mixers.norms import RMSNorm, full_precision

STEP_RANGE = (0.001, 0.1)
STEP_FLOOR = 1e-4
RATE_RANGE = (1.0, 16.0)
SLOW_RATE = 1 / 4


class GateFirstNorm(RMSNorm):
    """``rms(x * silu(gate))`` over each group of channels, then a scale for each channel."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__(width, eps)
        self.groups = groups

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate [..., width] -> [..., width], in the type of x."""
        gated = (full_precision(x) * F.silu(full_precision(gate))).unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(gated, gated.shape[-1:], eps=self.eps).flatten(-2)
        return (full_precision(self.weight) * normed).to(x.dtype)


def _write(heads: Heads, config: ModelConfig) -> dict:
    expand = share(heads.num * heads.v, config.hidden_size)
    groups = config.linear.num_groups or 1
    return {"head_dim": heads.v, "state_size": heads.k, "expand": expand, "n_groups": groups}


def _read(c: dict) -> dict:
    num = divided("head_dim", int(c["expand"] * c["hidden_size"]), c["head_dim"])
    heads = {"num_heads": num, "head_k_dim": c["state_size"], "head_v_dim": c["head_dim"]}
    return heads | ({"num_groups": c["n_groups"]} if c["n_groups"] > 1 else {})


def _in_file(name: str) -> str:
    """fla's names: ``backbone.layers.0.mixer.in_proj.weight``, ``backbone.norm_f.weight``."""
    if name == "model.norm.weight":
        return "backbone.norm_f.weight"
    name = name.replace(".attn_norm.", ".norm.").replace(".attn.", ".mixer.")
    return name.replace("model.", "backbone.", 1) if name.startswith("model.") else name


@mixer("mamba2")
class Mamba2(LinearMixer):
    """``S_t = exp(-A d_t) S_{t-1} + d_t B_t x_t^T`` and ``y_t = S_t^T C_t + D x_t``, with the step
    ``d_t = softplus(W x_t + dt_bias)``: keys are B scaled by the step, queries C, values x.

    One projection gives the gate, x, B, C and the step; one convolution with a bias runs over x, B and C.
    Groups of heads share B and C. The state holds the tail of the convolution and S.

    Source: Dao and Gu, 2405.21060, sections 6 and 7, as transformers' ``Mamba2Mixer``.
    """

    label = "Mamba-2"
    look = Look("#480054", "h", (0, (3, 1, 1, 1)))
    flops_per_element = 5
    reference_conv = 4
    fla = Family(
        "mamba2",
        "Mamba2ForCausalLM",
        {"head_dim": 64, "state_size": 128, "expand": 2.0, "n_groups": 1, "conv_kernel": 4}
        | {"num_hidden_layers": 48, "norm_eps": 1e-5},
        {"use_bias": False, "use_conv_bias": True, "D_has_hdim": False, "hidden_act": "silu"}
        | {"dt_limit": (0.0, inf), "rmsnorm": True, "norm_before_gate": False},
        _write,
        _read,
        conv_key="conv_kernel",
        letters="l",
        in_file=_in_file,
    )

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
        self.groups = config.linear.num_groups or 1
        self.inner = self.heads.num * self.heads.v
        self.shared = self.groups * self.heads.k
        self.in_proj = nn.Linear(hidden, 2 * (self.inner + self.shared) + self.heads.num, bias=False)
        self.conv1d = ShortConv(self.inner + 2 * self.shared, width, bias=True)
        self.dt_bias = nn.Parameter(torch.empty(self.heads.num))
        self.A_log = nn.Parameter(torch.empty(self.heads.num))
        self.D = nn.Parameter(torch.empty(self.heads.num))
        self.norm = GateFirstNorm(self.inner, self.groups, config.norm_eps)
        self.out_proj = nn.Linear(self.inner, hidden, bias=False)

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        """Heads of 64 value channels that hold twice the hidden size, and 128 channels of state."""
        given = config.linear
        v = given.head_v_dim or 64
        num = given.num_heads or divided("head_v_dim", 2 * config.hidden_size, v)
        if given.num_groups is not None and num % given.num_groups:
            raise ValueError(f"num_groups must divide num_heads {num}; got {given.num_groups}")
        return Heads(num, given.head_k_dim or 128, v)

    @torch.no_grad()
    def draw(self, slow: bool) -> None:
        """Draw the decay's start: rates uniform, or slow; steps uniform in their logarithm; D is one."""
        self.A_log.uniform_(*RATE_RANGE).log_()
        if slow:
            self.A_log.fill_(log(SLOW_RATE))
        low, high = STEP_RANGE
        step = torch.empty_like(self.dt_bias).uniform_(log(low), log(high)).exp().clamp_min(STEP_FLOOR)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def takes_over(self) -> tuple[Carried, ...]:
        """Values are x, keys B and queries C, where every head has its own; of the convolution nothing."""
        if self.groups != self.heads.num:
            return (Carried("out_proj.weight", "o_proj.weight"),)
        x, b, c = self.inner, 2 * self.inner, 2 * self.inner + self.shared
        return (
            Carried("in_proj.weight", "v_proj.weight", rows=slice(x, b)),
            Carried("in_proj.weight", "k_proj.weight", rows=slice(b, c)),
            Carried("in_proj.weight", "q_proj.weight", rows=slice(c, c + self.shared)),
            Carried("out_proj.weight", "o_proj.weight"),
        )

    @classmethod
    def heads_like(cls, num: int, width: int) -> dict[str, int]:
        return super().heads_like(num, width) | {"num_groups": num}

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        tail, s = state or (None, None)
        gate, mixed, step = self.in_proj(x).split(
            (self.inner, self.inner + 2 * self.shared, self.heads.num), dim=-1
        )
        mixed, tail = self.conv1d(mixed, tail)
        v, b, c = mixed.split((self.inner, self.shared, self.shared), dim=-1)
        v = v.unflatten(-1, (-1, self.heads.v))
        repeats = self.heads.num // self.groups
        k, q = (part.unflatten(-1, (-1, self.heads.k)).repeat_interleave(repeats, 2) for part in (b, c))
        step = F.softplus(full_precision(step) + full_precision(self.dt_bias))
        k = (full_precision(k) * step.unsqueeze(-1)).to(v.dtype)
        o, s = gated_outer(q, k, v, -full_precision(self.A_log).exp() * step, s, scale=1.0)
        o = o + self.D.unsqueeze(-1) * v
        return self.out_proj(self.norm(o.flatten(-2), gate)), (tail, s)

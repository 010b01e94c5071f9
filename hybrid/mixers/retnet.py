"""RetNet: a matrix state that forgets at a fixed rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_outer
from hybrid.mixers.base import LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import Family, read_expanded, write_expanded
from hybrid.mixers.heads import Heads, plain_heads
from hybrid.mixers.norms import GatedRMSNorm
from hybrid.mixers.rotary import rotate

ROPE_THETA = 10_000.0
MOST_KEYS = 256
"""Key channels of a head that flash-linear-attention's retention takes, at most."""


def _even(heads: Heads) -> Heads:
    if heads.k % 2:
        raise ValueError(f"retnet rotates its keys: head_k_dim must be even; got {heads.k}")
    return heads


@mixer("retnet")
class RetNet(LinearMixer):
    """``S_t = g S_{t-1} + k_t v_t^T`` with ``g = 1 - 2 ** (-5 - head)``, q and k rotated.

    The state holds the tails of the short convolutions, S, and the number of tokens seen.

    Source: Sun et al., 2307.08621, eq. 5-8, as flash-linear-attention's ``MultiScaleRetention``.
    """

    label = "RetNet"
    look = Look("#cd7c06", "^", "--")
    flops_per_element = 5
    # Its values are twice as wide as the model, which the narrower MLP pays for.
    mlp_ratio = 2
    fla = Family(
        "retnet",
        "RetNetForCausalLM",
        {"attn": None, "hidden_ratio": 2, "num_heads": 8, "expand_k": 1.0, "expand_v": 2.0},
        # fla's block does not pass the convolution on to the layer.
        {"use_short_conv": False, "conv_size": 4, "num_kv_heads": None, "feature_map": None}
        | {"use_output_gate": True, "elementwise_affine": True, "fuse_norm": True},
        write_expanded,
        read_expanded,
        lambda heads, config: (
            [f"retnet heads of more than {MOST_KEYS} key channels"] if heads.k > MOST_KEYS else []
        ),
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        return _even(plain_heads(config, 8, config.hidden_size, 2 * config.hidden_size))

    @classmethod
    def narrow(cls, heads: Heads) -> Heads:
        return _even(super().narrow(heads))

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
        key_width, value_width = self.heads.num * self.heads.k, self.heads.num * self.heads.v
        self.q_proj = nn.Linear(hidden, key_width, bias=False)
        self.k_proj = nn.Linear(hidden, key_width, bias=False)
        self.v_proj = nn.Linear(hidden, value_width, bias=False)
        self.g_proj = nn.Linear(hidden, value_width, bias=False)
        self.q_conv1d = ShortConv(key_width, width, silu=width > 0)
        self.k_conv1d = ShortConv(key_width, width, silu=width > 0)
        self.v_conv1d = ShortConv(value_width, width, silu=width > 0)
        self.g_norm_swish_gate = GatedRMSNorm(self.heads.v, config.norm_eps)
        self.o_proj = nn.Linear(value_width, hidden, bias=False)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it."""
        (q_tail, k_tail, v_tail), s, seen = state or ((None, None, None), None, 0)
        q, q_tail = self.q_conv1d(self.q_proj(x), q_tail)
        k, k_tail = self.k_conv1d(self.k_proj(x), k_tail)
        v, v_tail = self.v_conv1d(self.v_proj(x), v_tail)
        q, k = (rotate(p.unflatten(-1, (-1, self.heads.k)), seen, ROPE_THETA) for p in (q, k))
        v, g = (p.unflatten(-1, (-1, self.heads.v)) for p in (v, self.g_proj(x)))
        kind = torch.promote_types(x.dtype, torch.float32)
        head = torch.arange(self.heads.num, dtype=kind, device=x.device)
        log_decay = torch.log1p(-(2.0 ** (-5 - head)))
        o, s = gated_outer(q, k, v, log_decay.expand(*x.shape[:2], -1), s)
        y = self.o_proj(self.g_norm_swish_gate(o, g).flatten(-2))
        return y, ((q_tail, k_tail, v_tail), s, seen + x.shape[1])

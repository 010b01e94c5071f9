"""DeltaNet: a matrix state that replaces what a key holds instead of adding to it."""

from __future__ import annotations

from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_delta
from hybrid.mixers.base import LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import HYBRID, Family, read_expanded, write_expanded
from hybrid.mixers.heads import Heads, plain_heads
from hybrid.mixers.norms import RMSNorm, full_precision, l2_norm


@mixer("deltanet")
class DeltaNet(LinearMixer):
    """``S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`` with keys of length one.

    silu follows q, k and v with or without a short convolution. The state holds the tails of the
    convolutions and S.

    Source: Yang et al., 2406.06484, section 3, as flash-linear-attention's ``DeltaNet``.
    """

    label = "DeltaNet"
    look = Look("#446aff", "X", (0, (5, 1, 1, 1, 1, 1)))
    # It reads the old value first, and has no decay.
    flops_per_element = 6
    reference_conv = 4
    fla = Family(
        "delta_net",
        "DeltaNetForCausalLM",
        HYBRID | {"use_short_conv": True, "num_heads": 16, "expand_k": 1.0, "expand_v": 1.0},
        {"use_gate": False, "use_beta": True, "use_output_norm": True, "qk_norm": "l2"}
        | {"qk_activation": "silu", "allow_neg_eigval": False},
        write_expanded,
        read_expanded,
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        return plain_heads(config, 16, config.hidden_size, config.hidden_size)

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
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

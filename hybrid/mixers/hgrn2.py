"""HGRN-2: HGRN's gate, with the vector state expanded to a matrix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import gated_outer
from hybrid.mixers.base import Carried, LinearMixer, Look, conv_width, mixer
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.fla import HYBRID, Family, channels
from hybrid.mixers.heads import Heads, divided, no_groups
from hybrid.mixers.hgrn import forget_gate
from hybrid.mixers.norms import REFERENCE_EPS, RMSNorm


def _write(heads: Heads, config: ModelConfig) -> dict:
    return {"num_heads": heads.num, "expand_ratio": heads.k}


def _read(c: dict) -> dict:
    # As in fla's layer, a ratio wins over a number of heads.
    if not (c["expand_ratio"] or c["num_heads"]):
        raise ValueError("one of expand_ratio and num_heads must be given; got null for both")
    k = c["expand_ratio"] or channels("num_heads", c["hidden_size"] / c["num_heads"])
    return {"num_heads": channels("expand_ratio", c["hidden_size"] / k), "head_k_dim": k}


def _lacking(heads: Heads, config: ModelConfig) -> list[str]:
    narrow = heads.num * heads.v != config.hidden_size
    return ["hgrn2 values of another width than hidden_size"] if narrow else []


@mixer("hgrn2")
class HGRN2(LinearMixer):
    """``S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T``: what is not kept is the key.

    One RMSNorm over the full width, no output gate. Short convolutions, if any, come before the gate
    and the activation. The state holds their tails and S.

    Source: Qin et al., 2404.07904, section 3, as flash-linear-attention's ``HGRN2Attention``.
    """

    label = "HGRN-2"
    look = Look("#09a862", "o", "-")
    flops_per_element = 5
    uses_lower_bound = True
    # Its key is 1 - sigmoid(f) = sigmoid(-f).
    carried = (
        Carried("q_proj.weight", "q_proj.weight"),
        Carried("f_proj.weight", "k_proj.weight", sign=-1),
        Carried("i_proj.weight", "v_proj.weight"),
        Carried("q_conv1d.weight", "q_conv1d.weight"),
        Carried("f_conv1d.weight", "k_conv1d.weight"),
        Carried("i_conv1d.weight", "v_conv1d.weight"),
        Carried("o_proj.weight", "o_proj.weight"),
    )
    fla = Family(
        "hgrn2",
        "HGRN2ForCausalLM",
        HYBRID | {"num_heads": None, "expand_ratio": 128},
        {"use_lower_bound": True, "elementwise_affine": True},
        _write,
        _read,
        _lacking,
    )

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        """Keys are gates of the hidden size's channels, 128 a head."""
        given, hidden = config.linear, config.hidden_size
        no_groups(given)
        num = given.num_heads or divided("head_k_dim", hidden, given.head_k_dim or 128)
        if given.head_k_dim not in (None, hidden // num):
            raise ValueError(
                f"hgrn2's keys are its gates: head_k_dim must be hidden_size / num_heads = {hidden // num}; "
                f"got {given.head_k_dim}"
            )
        k = given.head_k_dim or divided("num_heads", hidden, num)
        return Heads(num, k, given.head_v_dim or divided("num_heads", hidden, num))

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__(config, heads)
        hidden, width = config.hidden_size, conv_width(config, self.reference_conv)
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

"""What a block does to each token alone: dense MLPs by kind, and the interface of layers of experts."""

from __future__ import annotations

from math import ceil
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import EXPERTS, MIXERS, MLPS, ModelConfig
from hybrid.kernels import device, fused_parts

Fed = tuple[Tensor, Tensor | None]
"""What a layer gives: [B, T, hidden], and a loss of its own that training adds, or None."""


@MLPS.register("swiglu")
class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer, 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, inner_width(config)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Fed:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(fused_parts.swiglu(gate, up) if device.fuses(x) else F.silu(gate) * up), None


@MLPS.register("squared_relu")
class SquaredReLU(nn.Module):
    """``down(relu(up(x)) ** 2)`` (So et al., 2109.08668), as in Nemotron."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, inner_width(config)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Fed:
        return self.down_proj(F.relu(self.up_proj(x)).square()), None


class Experts(nn.Module):
    """Base of the layers of experts, entered into the table by ``@EXPERTS.register(name)`` and built from
    `ModelConfig.experts`. Their loss is what balances the router."""

    active: ClassVar[float] = 1.0
    """Share of the elements of its matrices that a token is multiplied with; a layer sets its own."""

    def forward(self, x: Tensor) -> Fed:
        raise NotImplementedError


def build_mlp(config: ModelConfig, index: int) -> nn.Module | None:
    """What block `index` does to each token alone; None where it does nothing."""
    match config.layout.kinds[index].mlp:
        case "dense":
            return MLPS[config.mlp.kind](config)
        case "experts":
            return EXPERTS[config.experts.kind](config)
    return None


def inner_width(config: ModelConfig) -> int:
    """Inner width of the dense MLP, in channels. Where the config gives none: two thirds of a ratio times the
    hidden size, rounded up to a multiple of 256. The ratio is 4, or that of the linear mixer beside it."""
    if config.mlp.size is not None:
        return config.mlp.size
    ratio = MIXERS[config.linear.mixer].mlp_ratio if config.linear is not None else 4
    return 256 * ceil(int(config.hidden_size * ratio * 2 / 3) / 256)

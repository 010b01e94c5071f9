"""Softmax attention and a linear mixer side by side in one block."""

from __future__ import annotations

from torch import Tensor, nn

from hybrid.config import MIXERS, ModelConfig
from hybrid.mixers.attention import Attention
from hybrid.mixers.norms import RMSNorm


class Parallel(nn.Module):
    """``norm(full(x)) + norm(linear(x))``: both read the same input, on heads of half the width, and each
    has a norm of its own, which makes them equally loud.

    The state is the pair of theirs.

    Source: 2510.04800, intra-layer hybrids, fused by a sum; without norms Falcon-H1, 2507.22448.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        kind = MIXERS[config.linear.mixer]
        self.full = Attention(config, index, config.head_dim // 2)
        self.linear = kind(config, kind.narrow(kind.heads_of(config)))
        self.uses_lower_bound = kind.uses_lower_bound
        self.full_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.linear_norm = RMSNorm(config.hidden_size, config.norm_eps)

    def state_flops(self, length: int) -> float:
        """Those of both, see `LinearMixer`."""
        return self.full.state_flops(length) + self.linear.state_flops(length)

    def forward(self, x: Tensor, state=None, **shared: Tensor) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> y [B, T, hidden] and the state after it; `shared` goes to the linear mixer."""
        before = state or (None, None)
        full, full_state = self.full(x, before[0])
        linear, linear_state = self.linear(x, before[1], **shared)
        return self.full_norm(full) + self.linear_norm(linear), (full_state, linear_state)

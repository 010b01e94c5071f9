"""Normalisation shared by the mixers, in float32 or better."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.kernels import device, fused_parts

REFERENCE_EPS = 1e-5
"""Epsilon of the norms to which flash-linear-attention's layers do not pass their own on: HGRN-2's output
norm and attention's norms of queries and keys (`ModelConfig.qk_norm_eps`). Models trained there depend
on it."""


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is float64: gates and norms are not for bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension, then scale each channel.

    Source: Zhang and Sennrich, 1910.07467, eq. 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def normalised(self, x: Tensor) -> Tensor:
        """[..., width] in full precision."""
        return F.rms_norm(full_precision(x), self.weight.shape, full_precision(self.weight), self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width], in the type of x."""
        if device.fuses(x):
            return fused_parts.rms_norm(x, self.weight, self.eps)
        return self.normalised(x).to(x.dtype)


class GatedRMSNorm(RMSNorm):
    """An RMSNorm whose output is multiplied by ``silu(gate)`` (RetNet, 2307.08621, eq. 8)."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate [..., width] -> [..., width], in the type of x."""
        if device.fuses(x):
            return fused_parts.gated_rms_norm(x, gate, self.weight, self.eps)
        return (self.normalised(x) * F.silu(full_precision(gate))).to(x.dtype)


def l2_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale the last dimension to length one; `eps` is added under the root."""
    if device.fuses(x):
        return fused_parts.l2_norm(x, eps)
    full = full_precision(x)
    return (full * torch.rsqrt(full.square().sum(-1, keepdim=True) + eps)).to(x.dtype)

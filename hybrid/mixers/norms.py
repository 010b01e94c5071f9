"""Normalisation and rotary positions shared by the mixers, in float32 or better."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

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
        return self.normalised(x).to(x.dtype)


class GatedRMSNorm(RMSNorm):
    """An RMSNorm whose output is multiplied by ``silu(gate)`` (RetNet, 2307.08621, eq. 8)."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate [..., width] -> [..., width], in the type of x."""
        return (self.normalised(x) * F.silu(full_precision(gate))).to(x.dtype)


def l2_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale the last dimension to length one; `eps` is added under the root."""
    full = full_precision(x)
    return (full * torch.rsqrt(full.square().sum(-1, keepdim=True) + eps)).to(x.dtype)


class Rotation(Function):
    """``x * cos + swapped(x) * sin``, where swapping exchanges the halves of the last dimension; backward
    turns the other way. Written out by hand it takes half of the time."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).add_(x.roll(x.shape[-1] // 2, -1).mul_(sin))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return (grad * cos).sub_(grad.roll(grad.shape[-1] // 2, -1).mul_(sin)), None, None


def rotate(x: Tensor, start: int, theta: float) -> Tensor:
    """Rotary positions: turn channel pairs (i, i + K/2) by ``position * theta ** (-2i / K)``.

    Args:
        x: [B, T, H, K], K even.
        start: position of the first token.
        theta: base of the frequencies.

    Source: Su et al., 2104.09864, eq. 34, in the half-split order of flash-linear-attention.
    """
    stop = start + x.shape[1]
    cos, sin = (
        table[start:stop] for table in _turns(1 << (stop - 1).bit_length(), x.shape[-1], theta, x.device)
    )
    return Rotation.apply(full_precision(x), cos, sin).to(x.dtype)


@lru_cache(maxsize=8)
def _turns(positions: int, width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine, and sine with the sign of its half, of every position and channel: [positions, 1, width].
    Kept, because all blocks of a model turn by the same angles."""
    with torch.inference_mode(False), torch.no_grad():
        pair = torch.arange(0, width, 2, dtype=torch.float32, device=device)
        position = torch.arange(positions, dtype=torch.float32, device=device)
        angle = torch.outer(position, theta ** (-pair / width)).unsqueeze(1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

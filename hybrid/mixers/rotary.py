"""Rotary positions: queries and keys turned by their place in the text."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import Function

from hybrid.mixers.norms import full_precision


class Rotation(Function):
    """``x * cos + swapped(x) * sin``, where swapping exchanges the halves of the last dimension; backward
    turns the other way, and so can be differentiated again. Written out by hand it takes half of the time."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).add_(x.roll(x.shape[-1] // 2, -1).mul_(sin))

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return Rotation.apply(grad, cos, -sin), None, None


def rotate(
    x: Tensor, start: int, theta: float, stretch: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Turn channel pairs (i, i + K/2) by position times their `rates`, in float32, or float64 where x is.

    Args:
        x: [B, T, H, K], K even.
        start: position of the first token.
        theta, stretch: of `rates`.

    Source: Su et al., 2104.09864, eq. 34, in the half-split order of flash-linear-attention.
    """
    stop = start + x.shape[1]
    full = full_precision(x)
    tables = _turns(1 << (stop - 1).bit_length(), x.shape[-1], theta, stretch, x.device, full.dtype)
    cos, sin = (table[start:stop] for table in tables)
    return Rotation.apply(full, cos, sin).to(x.dtype)


def rates(
    width: int,
    theta: float,
    stretch: tuple[float, float, float, float] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """By how much each channel pair turns from one position to the next, in radians: [width / 2].

    Args:
        width: channels of a head, K.
        theta: base; pair i turns by ``theta ** (-2i / K)``.
        stretch: `ModelConfig.rope_stretch`, ``(factor, low, high, length)``, or None.

    Source: Su et al., 2104.09864, section 3.2; the stretch is Llama 3.1's (2407.21783, section 3.4.2, and
    transformers' ``llama3``).
    """
    rate = theta ** (-torch.arange(0, width, 2, dtype=dtype, device=device) / width)
    if stretch is None:
        return rate
    factor, low, high, length = stretch
    kept = ((length * rate / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return rate * (kept + (1 - kept) / factor)


@cache
def _turns(
    positions: int,
    width: int,
    theta: float,
    stretch: tuple | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Cosine, and sine with the sign of its half, of every position and channel: [positions, 1, width].
    Kept, because all blocks of a model turn by the same angles."""
    with torch.inference_mode(False), torch.no_grad():
        position = torch.arange(positions, dtype=dtype, device=device)
        angle = torch.outer(position, rates(width, theta, stretch, device, dtype)).unsqueeze(1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

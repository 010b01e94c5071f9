"""The short convolution that lets a projection see the tokens just before its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.kernels import device, fused_parts


class ShortConv(nn.Module):
    """Causal depthwise convolution over time; its tail makes it a recurrence.

    A width of 0 is no convolution: no parameter, and only the activation is applied.

    Args:
        channels: D.
        width: tokens seen, W, the current one included.
        silu: apply ``x * sigmoid(x)`` afterwards.
        bias: add a number to each channel.

    Source: as in Mamba (Gu and Dao, 2312.00752), section 3.4, and flash-linear-attention.
    """

    def __init__(self, channels: int, width: int, silu: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.past = max(width - 1, 0)
        self.silu = silu
        self.register_parameter("weight", nn.Parameter(torch.empty(channels, 1, width)) if width else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if width and bias else None)

    def forward(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, D] and the W - 1 inputs before it (None: zeros) -> y [B, T, D], the new tail."""
        before = x.new_zeros(x.shape[0], self.past, x.shape[2]) if tail is None else tail
        if not self.past:
            return F.silu(x) if self.silu else x, before
        after = torch.cat((before, x[:, -self.past :]), dim=1)[:, -self.past :].clone()
        if device.fuses(x) and x.shape[1] > 1:
            return fused_parts.short_conv(x, self.weight.squeeze(1), self.bias, tail, self.silu), after
        seen = torch.cat((before, x), dim=1)
        if x.shape[1] == 1:
            # Decoding: setting up a convolution takes several times as long as one product.
            y = (seen * self.weight.squeeze(1).mT).sum(1, keepdim=True)
            y = y if self.bias is None else y + self.bias
        else:
            # As a 2-D convolution of height one, [B, T, D] already is PyTorch's channels-last order:
            # no copy, and on a CPU several times as fast as the 1-D one.
            image = seen.transpose(1, 2).unsqueeze(2)
            y = (
                F.conv2d(image, self.weight.unsqueeze(2), self.bias, groups=x.shape[2])
                .squeeze(2)
                .transpose(1, 2)
            )
        return F.silu(y) if self.silu else y, after

"""Which tensors Triton kernels take."""

from __future__ import annotations

import torch
from torch import Tensor


def fuses(x: Tensor) -> bool:
    """Whether flash-linear-attention's kernels take a tensor: it lies on a GPU, in float32 or less."""
    return x.is_cuda and x.dtype != torch.float64

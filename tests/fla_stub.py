"""flash-linear-attention's model classes without flash-attn, whose one function PyTorch stands in for."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size=(-1, -1)) -> Tensor:
    """``flash_attn_func`` by its definition: q [B, T, H, K], the last T of S positions, k and v
    [B, S, G, K] -> [B, T, H, K]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    positions = torch.arange(k.shape[2], device=q.device)
    back = positions[-q.shape[2] :, None] - positions
    seen = back >= 0
    if window_size[0] >= 0:
        seen &= back <= window_size[0]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)


def models(monkeypatch):
    """The module ``fla.models``, able to build attention blocks on this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fla.layers.attn
        import fla.models
    monkeypatch.setattr(fla.layers.attn, "flash_attn_func", attention)
    return fla.models

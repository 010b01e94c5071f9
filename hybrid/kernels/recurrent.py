"""The three kernels as the textbook writes them: one step after another.

Slow, and the definition that the other bodies are tested against. Arguments and results are those
of `hybrid.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_type(x: Tensor) -> torch.dtype:
    """The type of states and decays: float32, or float64 where the inputs are float64."""
    return torch.promote_types(x.dtype, torch.float32)


def gated_scan(x: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    kind = accumulation_type(x)
    batch, _, channels = x.shape
    h = x.new_zeros(batch, channels, dtype=kind) if state is None else state.to(kind)
    outputs = []
    for x_t, g_t in zip(x.to(kind).unbind(1), log_decay.to(kind).unbind(1), strict=True):
        h = g_t.exp() * h + x_t
        outputs.append(h)
    return torch.stack(outputs, 1).to(x.dtype), h


def gated_outer(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    s = matrix_state(k, v, state)
    g = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
    outputs = []
    for q_t, k_t, v_t, g_t in _steps(s.dtype, q, k, v, g):
        s = g_t.exp().unsqueeze(-1) * s + _outer(k_t, v_t)
        outputs.append(scale * _read(s, q_t))
    return torch.stack(outputs, 1).to(v.dtype), s


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    s = matrix_state(k, v, state)
    g = torch.zeros_like(beta) if log_decay is None else log_decay
    outputs = []
    for q_t, k_t, v_t, b_t, g_t in _steps(s.dtype, q, k, v, beta.unsqueeze(-1), g[..., None, None]):
        s = g_t.exp() * s
        s = s + _outer(k_t, b_t * (v_t - _read(s, k_t)))
        outputs.append(scale * _read(s, q_t))
    return torch.stack(outputs, 1).to(v.dtype), s


def matrix_state(k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    kind = accumulation_type(k)
    batch, _, heads, width = k.shape
    return k.new_zeros(batch, heads, width, v.shape[-1], dtype=kind) if state is None else state.to(kind)


def _steps(kind: torch.dtype, *tensors: Tensor):
    return zip(*(tensor.to(kind).unbind(1) for tensor in tensors), strict=True)


def _outer(k: Tensor, v: Tensor) -> Tensor:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def _read(s: Tensor, k: Tensor) -> Tensor:
    return (s * k.unsqueeze(-1)).sum(-2)

"""The three kernels as matrix products over chunks, in plain PyTorch.

A sequence is cut into chunks of C tokens. What happens inside a chunk is done for all chunks at
once; only the state is carried from chunk to chunk, by a scan of T / C steps. No exponential of a
positive number is ever taken, so any decay is safe. Memory grows linearly with T.

Arguments and results are those of `hybrid.kernels`. Inside the matrix kernels a sequence is
[N * B * H, C, ...] with N chunks.

Source: GLA (Yang et al., 2312.06635), sections 3 and 4; DeltaNet (Yang et al., 2406.06484), section
3; Gated DeltaNet (Yang et al., 2412.06464), section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybrid.kernels.primitives import (
    AddedProducts,
    ColumnProducts,
    DecayedScores,
    DeltaScan,
    DiagonalScan,
    Products,
    RowProducts,
    UnitLowerInverse,
    VectorScan,
    decays,
)
from hybrid.kernels.recurrent import accumulation_type, matrix_state

CHUNKS = 16, 64
"""Shortest and longest chunk of the matrix kernels, in tokens (a shorter sequence is one chunk).
Between them a chunk is half as long as keys are wide: of all lengths this took the least time."""
SCANNED = 8192
"""Numbers of a step of `gated_scan`, over all sequences, chunks and channels, that are worth a call."""


def gated_scan(x: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    kind = accumulation_type(x)
    batch, length, channels = x.shape
    wanted = min(SCANNED // (batch * channels), math.isqrt(length))
    chunks = 1 << max(0, wanted.bit_length() - 1)
    start = x.new_zeros(batch, channels, dtype=kind) if state is None else state.to(kind)
    h, end = VectorScan.apply(_filled(x.to(kind), chunks), _filled(log_decay.to(kind), chunks), start, chunks)
    return h[:, :length].to(x.dtype), end


def gated_outer(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    like, start = v, matrix_state(k, v, state)
    per_channel = log_decay.dim() == 4
    g = log_decay if per_channel else log_decay.unsqueeze(-1)
    q, k, v, g = (_chunks(x.to(start.dtype), q.shape[-1]) for x in (q, k, v, g))
    q = scale * q

    if per_channel:
        scores, since, until = DecayedScores.apply(q, k, g)
    else:
        decay = decays(g.squeeze(-1))
        scores = RowProducts.apply(q, k) * decay
        since, until = g.cumsum(1).exp(), decay[:, -1].unsqueeze(-1)

    kept, added = _by_chunk(start, since[:, -1].unsqueeze(-1), ColumnProducts.apply(k * until, v))
    before, end = DiagonalScan.apply(kept, added, start.flatten(0, 1))
    o = AddedProducts.apply(Products.apply(scores, v), q * since, before.flatten(0, 1))
    return _join(o, like), end.view_as(start)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    like, start = v, matrix_state(k, v, state)
    g = torch.zeros_like(beta) if log_decay is None else log_decay
    inputs = q, k, v, beta.unsqueeze(-1), g.unsqueeze(-1)
    q, k, v, beta, g = (_chunks(x.to(start.dtype), q.shape[-1]) for x in inputs)
    q = scale * q

    since = g.cumsum(1).exp()
    decay = decays(g.squeeze(-1))
    until = decay[:, -1].unsqueeze(-1)

    # Inside a chunk token i writes beta_i (v_i - what k_i reads), earlier writes included: a
    # triangular system. Solved, it is `written + erased @ S` with S the state before the chunk.
    inverse = UnitLowerInverse.apply(beta * RowProducts.apply(k, k) * decay)
    written = Products.apply(inverse * beta.mT, v)
    erased = Products.apply(inverse * (-beta * since).mT, k)

    kept, keys, written, erased = _by_chunk(start, since[:, -1:], (k * until).mT, written, erased)
    before, end, writes = DeltaScan.apply(kept, keys, written, erased, start.flatten(0, 1))
    scores = RowProducts.apply(q, k) * decay
    o = Products.apply(scores, writes.flatten(0, 1))
    o = AddedProducts.apply(o, q * since, before.flatten(0, 1))
    return _join(o, like), end.view_as(start)


def _by_chunk(start: Tensor, *tensors: Tensor) -> list[Tensor]:
    """[N * B * H, ...] as [N, B * H, ...], with B and H those of the first state."""
    return [x.unflatten(0, (-1, start.shape[0] * start.shape[1])) for x in tensors]


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


def _cut(x: Tensor, size: int) -> Tensor:
    """[B, T, ...] as chunks [N, B, size, ...], `_filled`."""
    return _filled(x, size).unflatten(1, (-1, size)).transpose(0, 1)


def _filled(x: Tensor, multiple: int) -> Tensor:
    """[B, T, ...] up to a multiple of so many tokens with zeros, which neither write to a state nor let it
    decay."""
    missing = -x.shape[1] % multiple
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1) if missing else x


def _chunks(x: Tensor, width: int) -> Tensor:
    """[B, T, H, K] as chunks [N * B * H, C, K]."""
    shortest, longest = CHUNKS
    size = min(max(_power_of_two(width) // 2, shortest), longest, _power_of_two(x.shape[1]))
    return _cut(x, size).transpose(2, 3).flatten(0, 2).contiguous()


def _join(o: Tensor, like: Tensor) -> Tensor:
    """Chunks [N * B * H, C, V] as a sequence like `like`: [B, T, H, V]."""
    batch, length, heads, _ = like.shape
    return o.unflatten(0, (-1, batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length].to(like.dtype)

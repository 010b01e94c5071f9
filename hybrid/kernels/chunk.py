"""The three kernels as matrix products over chunks, in plain PyTorch.

A sequence is cut into chunks of C tokens. What happens inside a chunk is done for all chunks at
once; only the state is carried from chunk to chunk, by a scan of T / C steps. No exponential of a
positive number is ever taken, so any decay is safe. Memory grows linearly with T.

Arguments and results are those of `hybrid.kernels`. Inside, a sequence is [N, B * H, C, ...] with N
chunks.

Source: GLA (Yang et al., 2312.06635), sections 3 and 4; DeltaNet (Yang et al., 2406.06484), section
3; Gated DeltaNet (Yang et al., 2412.06464), section 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid.kernels.primitives import DecayedScores, DiagonalScan, MatrixScan, UnitLowerInverse
from hybrid.kernels.recurrent import accumulation_type, matrix_state

CHUNK = 64
"""Longest chunk of the matrix kernels, in tokens."""


def gated_scan(x: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    kind = accumulation_type(x)
    batch, length, channels = x.shape
    size = _power_of_two(math.isqrt(length))
    added, g = (_cut(tensor.to(kind), size).transpose(0, 2) for tensor in (x, log_decay))
    start = x.new_zeros(batch, channels, dtype=kind) if state is None else state.to(kind)

    inside = DiagonalScan.apply(g.exp(), added, torch.zeros_like(added[0]))[1:]
    kept = g.cumsum(0).exp()
    starts = DiagonalScan.apply(kept[-1].transpose(0, 1), inside[-1].transpose(0, 1), start)
    h = torch.addcmul(inside, kept, starts[:-1].transpose(0, 1))
    return h.permute(1, 2, 0, 3).flatten(1, 2)[:, :length].to(x.dtype), starts[-1]


def gated_outer(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    start = matrix_state(k, v, state)
    join = _joiner(v)
    per_channel = log_decay.dim() == 4
    g = log_decay if per_channel else log_decay.unsqueeze(-1)
    q, k, v, g = (_heads(x, start.dtype) for x in (q, k, v, g))

    since = g.cumsum(-2).exp()
    if per_channel:
        scores = _decayed_scores(q, k, g)
        until = F.pad(g.flip(-2).cumsum(-2).flip(-2)[..., 1:, :], (0, 0, 0, 1)).exp()
    else:
        decay = _decays(g)
        scores = q @ k.mT * decay
        until = decay[..., -1, :].unsqueeze(-1)

    states = DiagonalScan.apply(since[..., -1, :].unsqueeze(-1), (k * until).mT @ v, start.flatten(0, 1))
    o = scores @ v + (q * since) @ states[:-1]
    return join(scale * o), states[-1].view_as(start)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    start = matrix_state(k, v, state)
    join = _joiner(v)
    g = torch.zeros_like(beta) if log_decay is None else log_decay
    q, k, v, beta, g = (_heads(x, start.dtype) for x in (q, k, v, beta.unsqueeze(-1), g.unsqueeze(-1)))

    since = g.cumsum(-2).exp()
    decay = _decays(g)
    until = decay[..., -1, :].unsqueeze(-1)

    # Inside a chunk, what token i writes is beta_i (v_i - what k_i reads), which is a triangular
    # system; its solution is `written - reads @ S` with S the state before the chunk (UT transform).
    overlap = beta * (k @ k.mT) * decay
    inverse = UnitLowerInverse.apply(overlap.tril(-1).flatten(0, 1)).view_as(overlap)
    written, reads = inverse @ (beta * v), inverse @ (beta * since * k)

    keys = (k * until).mT
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    states = MatrixScan.apply(since[..., -1:, :] * eye - keys @ reads, keys @ written, start.flatten(0, 1))
    before = states[:-1]
    o = (q @ k.mT * decay) @ (written - reads @ before) + (q * since) @ before
    return join(scale * o), states[-1].view_as(start)


def _decayed_scores(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    scores = DecayedScores.apply(q.flatten(0, 1), k.flatten(0, 1), g.flatten(0, 1))
    return scores.view(*q.shape[:-1], q.shape[-2])


def _decays(g: Tensor) -> Tensor:
    """The decay from token j of a chunk to token i: [..., C, C], 0 above the diagonal."""
    ones = torch.ones_like(g)
    return _decayed_scores(ones, ones, g)


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


def _cut(x: Tensor, size: int) -> Tensor:
    """[B, T, ...] as chunks [N, B, size, ...]; the last one is filled up with zeros, which neither
    write to a state nor let it decay."""
    missing = -x.shape[1] % size
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1)
    return x.unflatten(1, (-1, size)).transpose(0, 1)


def _heads(x: Tensor, kind: torch.dtype) -> Tensor:
    """[B, T, H, K] as chunks [N, B * H, C, K]."""
    size = min(CHUNK, _power_of_two(x.shape[1]))
    return _cut(x.to(kind), size).transpose(2, 3).contiguous().flatten(1, 2)


def _joiner(v: Tensor):
    """The way back: from chunks [N, B * H, C, V] to the shape and type of v: [B, T, H, V]."""
    batch, length, heads, _ = v.shape

    def join(o: Tensor) -> Tensor:
        o = o.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)
        return o[:, :length].to(v.dtype)

    return join

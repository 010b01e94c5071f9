"""`gated_outer` written by hand in Triton: the kernel of the chapter "Kernels by hand".

No `backend` runs it. It is there to be read and checked: compiled for tensors on a CUDA device, and under
Triton's interpreter, which shows that it is right but not how fast it is, for tensors on a CPU.

One program does one tile of value channels of one head of one sequence. It goes from chunk to chunk
with the state on the chip. The state before every chunk is kept for the backward pass; scores and
decays are computed again. There is one kernel for both kinds of decay: one decay a head is one a
channel, read with a stride of zero.

No exponential of a positive number is taken. Inside a chunk the decay between two tokens is the
product of two factors that meet at a border between them, and the borders come from halving the
chunk: in blocks of 1, 2, 4, ... tokens, queries of an odd block meet keys of the even block before it.

Source: GLA (Yang et al., 2312.06635), sections 3 and 4; Triton (Tillet et al., 2019).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import Function

from hybrid.kernels import _check
from hybrid.kernels.autograd import differentiable_once
from hybrid.kernels.recurrent import matrix_state

CHUNK = 16
"""Tokens of a chunk, a power of two."""
VALUES = 32
"""Value channels of a program, at most."""
WIDEST = 128
"""Key channels that a program can hold, at most."""
SMALLEST = 16
"""Rows and columns of a tile, at least: `tl.dot` takes no fewer."""
FLOOR = tl.constexpr(-1000.0)
"""Stands for all smaller logarithms of decays, minus infinity too: its exponential is zero in every type, and
unlike infinity it may be multiplied by zero."""


@triton.jit
def _dot(a, b):
    # TF32, the default, keeps ten bits of a float32, and sums of logarithms are computed here too.
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _blocks(level, C: tl.constexpr, kind: tl.constexpr):
    """Of a chunk cut into blocks of 2 ** level tokens, three [C, C] matrices. Two are ones and zeros: times
    the logarithms of decays they give those of the decay since the beginning of a token's block, and until
    its end. The third says which query (row) meets which key (column) at the border of their blocks."""
    i, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    block, earlier = i >> level, s >> level
    same, meeting = block == earlier, (block == earlier + 1) & (earlier % 2 == 0)
    return (same & (s <= i)).to(kind), (same & (s > i)).to(kind), meeting


@triton.jit
def _forward(
    q, k, v, g, start, o, states, end, chunks, T, H, K, V, g_row, g_column,
    scale: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, keep: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = 1 << LEVELS
    kind: tl.constexpr = end.dtype.element_ty
    head = tl.program_id(0).to(tl.int64)
    tokens, keys, values = tl.arange(0, C), tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    there_kv = (keys < K)[:, None] & (values < V)[None, :]
    at_kv = keys[:, None] * V + values[None, :]
    since, until, _ = _blocks(LEVELS, C, kind)
    diagonal = tokens[:, None] == tokens[None, :]
    S = tl.load(start + head * K * V + at_kv, mask=there_kv, other=0.0)
    for n in range(chunks):
        t = n * C + tokens
        rows = ((head // H * T + t) * H + head % H)[:, None]
        at_k, at_v = rows * K + keys[None, :], rows * V + values[None, :]
        there_k = (t < T)[:, None] & (keys < K)[None, :]
        there_v = (t < T)[:, None] & (values < V)[None, :]
        qs = tl.load(q + at_k, mask=there_k, other=0.0).to(kind) * scale
        ks = tl.load(k + at_k, mask=there_k, other=0.0).to(kind)
        vs = tl.load(v + at_v, mask=there_v, other=0.0).to(kind)
        gs = tl.load(g + rows * g_row + keys[None, :] * g_column, mask=there_k, other=0.0).to(kind)
        gs = tl.maximum(gs, FLOOR)
        if keep:
            tl.store(states + (head * chunks + n) * K * V + at_kv, S, mask=there_kv)

        scores = tl.where(diagonal, _dot(qs, tl.trans(ks)), 0.0)
        for level in range(LEVELS):
            a, b, meeting = _blocks(level, C, kind)
            late, early = qs * tl.exp(_dot(a, gs)), ks * tl.exp(_dot(b, gs))
            scores += tl.where(meeting, _dot(late, tl.trans(early)), 0.0)

        late, early = qs * tl.exp(_dot(since, gs)), ks * tl.exp(_dot(until, gs))
        tl.store(o + at_v, _dot(late, S) + _dot(scores, vs), mask=there_v)
        S = tl.exp(tl.sum(gs, 0))[:, None] * S + _dot(tl.trans(early), vs)
    tl.store(end + head * K * V + at_kv, S, mask=there_kv)


@triton.jit
def _backward(
    q, k, v, g, states, do, dend, dq, dk, dv, dg, dstart, chunks, T, H, K, V, g_row, g_column,
    scale: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first. What a program's value channels give to the gradients of q, k and g
    goes to a share of its own in [tiles, B, T, H, K]; the shares are added up afterwards."""
    C: tl.constexpr = 1 << LEVELS
    kind: tl.constexpr = dstart.dtype.element_ty
    head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    tokens, keys, values = tl.arange(0, C), tl.arange(0, BK), tile * BV + tl.arange(0, BV)
    there_kv = (keys < K)[:, None] & (values < V)[None, :]
    at_kv = keys[:, None] * V + values[None, :]
    since, until, _ = _blocks(LEVELS, C, kind)
    diagonal = tokens[:, None] == tokens[None, :]
    dS = tl.load(dend + head * K * V + at_kv, mask=there_kv, other=0.0)
    for back in range(chunks):
        n = chunks - 1 - back
        t = n * C + tokens
        rows = ((head // H * T + t) * H + head % H)[:, None]
        at_k, at_v = rows * K + keys[None, :], rows * V + values[None, :]
        there_k = (t < T)[:, None] & (keys < K)[None, :]
        there_v = (t < T)[:, None] & (values < V)[None, :]
        qs = tl.load(q + at_k, mask=there_k, other=0.0).to(kind) * scale
        ks = tl.load(k + at_k, mask=there_k, other=0.0).to(kind)
        vs = tl.load(v + at_v, mask=there_v, other=0.0).to(kind)
        dos = tl.load(do + at_v, mask=there_v, other=0.0).to(kind)
        gs = tl.load(g + rows * g_row + keys[None, :] * g_column, mask=there_k, other=0.0).to(kind)
        gs = tl.maximum(gs, FLOOR)
        S = tl.load(states + (head * chunks + n) * K * V + at_kv, mask=there_kv, other=0.0)

        # What is read from the state before the chunk, and what is written to the state after it.
        by_late, by_early, by_all = (
            tl.exp(_dot(since, gs)),
            tl.exp(_dot(until, gs)),
            tl.exp(tl.sum(gs, 0)),
        )
        dqs, dks = _dot(dos, tl.trans(S)) * by_late, _dot(vs, tl.trans(dS)) * by_early
        dgs = _dot(tl.trans(since), qs * dqs) + _dot(tl.trans(until), ks * dks)
        dgs += (by_all * tl.sum(S * dS, 1))[None, :]
        dvs = _dot(ks * by_early, dS)
        dS = by_all[:, None] * dS + _dot(tl.trans(qs * by_late), dos)

        # What is read from the chunk itself: its scores once more, and their gradients.
        dscores = _dot(dos, tl.trans(vs))
        scores, own = tl.where(diagonal, _dot(qs, tl.trans(ks)), 0.0), tl.where(diagonal, dscores, 0.0)
        dqs, dks = dqs + _dot(own, ks), dks + _dot(tl.trans(own), qs)
        for level in range(LEVELS):
            a, b, meeting = _blocks(level, C, kind)
            by_late, by_early = tl.exp(_dot(a, gs)), tl.exp(_dot(b, gs))
            late, early, met = qs * by_late, ks * by_early, tl.where(meeting, dscores, 0.0)
            scores += tl.where(meeting, _dot(late, tl.trans(early)), 0.0)
            more_q, more_k = _dot(met, early) * by_late, _dot(tl.trans(met), late) * by_early
            dqs, dks = dqs + more_q, dks + more_k
            dgs += _dot(tl.trans(a), qs * more_q) + _dot(tl.trans(b), ks * more_k)
        dvs += _dot(tl.trans(scores), dos)

        share = tile * tl.num_programs(0) * T * K + at_k
        tl.store(dq + share, dqs * scale, mask=there_k)
        tl.store(dk + share, dks, mask=there_k)
        tl.store(dg + share, dgs, mask=there_k)
        tl.store(dv + at_v, dvs, mask=there_v)
    tl.store(dstart + head * K * V + at_kv, dS, mask=there_kv)


class GatedOuter(Function):
    """The two kernels as one function of q, k, v, log decays [B, T, H, K] or [B, T, H, 1], and the state."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, g: Tensor, start: Tensor, scale: float):
        batch, length, heads, width = q.shape
        values, chunks = v.shape[-1], -(-length // CHUNK)
        tile = min(VALUES, max(SMALLEST, triton.next_power_of_2(values)))
        ctx.grid = (batch * heads, -(-values // tile))
        # From one row of decays to the next, and from channel to channel; not from g's strides, since the
        # stride of an axis of length one may be anything.
        steps = g.shape[-1], int(g.shape[-1] == width)
        ctx.sizes = (chunks, length, heads, width, values, *steps)
        ctx.constants = {
            "scale": scale,
            "LEVELS": CHUNK.bit_length() - 1,
            "BK": max(SMALLEST, triton.next_power_of_2(width)),
            "BV": tile,
        }
        keep = any(ctx.needs_input_grad)
        o, end = torch.empty_like(v), torch.empty_like(start)
        states = start.new_empty(batch * heads, chunks if keep else 0, width, values)
        with torch.cuda.device_of(q):
            _forward[ctx.grid](q, k, v, g, start, o, states, end, *ctx.sizes, keep=keep, **ctx.constants)
        ctx.save_for_backward(q, k, v, g, states)
        return o, end

    @staticmethod
    @differentiable_once
    def backward(ctx, do: Tensor, dend: Tensor):
        q, k, v, g, states = ctx.saved_tensors
        do, dend = do.contiguous(), dend.contiguous()
        dq, dk, dg = (states.new_empty(ctx.grid[1], *q.shape) for _ in range(3))
        dv, dstart = torch.empty_like(v), torch.empty_like(dend)
        gradients = dq, dk, dv, dg, dstart
        with torch.cuda.device_of(q):
            _backward[ctx.grid](q, k, v, g, states, do, dend, *gradients, *ctx.sizes, **ctx.constants)
        dq, dk, dg = (
            share.sum(0).sum_to_size(x.shape).to(x.dtype) for share, x in ((dq, q), (dk, k), (dg, g))
        )
        return dq, dk, dv, dg, dstart, None


def gated_outer(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Arguments and results of `hybrid.kernels.gated_outer`, with gradients of all of them.

    Args:
        q, k: [B, T, H, K], K at most `WIDEST`; v: [B, T, H, V]; log_decay: [B, T, H] or [B, T, H, K].
        state: [B, H, K, V], or None for zero.
        scale: of the queries.

    Raises:
        ValueError: for wrong shapes, tensors of several devices, and tensors on a CPU without Triton's
            interpreter.
    """
    if q.dim() != 4 or not 1 <= q.shape[-1] <= WIDEST or not q.numel():
        raise ValueError(
            f"q must have shape [B, T, H, 1 <= K <= {WIDEST}], none of it 0; got {tuple(q.shape)}"
        )
    decay = "BTHK" if log_decay.dim() == 4 else "BTH"
    _check(q=(q, "BTHK"), k=(k, "BTHK"), v=(v, "BTHV"), log_decay=(log_decay, decay), state=(state, "BHKV"))
    devices = sorted({str(x.device) for x in (q, k, v, log_decay, state) if x is not None})
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device; got {', '.join(devices)}")
    if not (q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(
            f"tensors on {devices[0]} need Triton's interpreter: set the environment variable "
            "TRITON_INTERPRET=1 before triton is imported, or move them to a CUDA device"
        )
    q, k, v, log_decay = (x.contiguous() for x in (q, k, v, log_decay))
    g = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
    return GatedOuter.apply(q, k, v, g, matrix_state(k, v, state).contiguous(), scale)

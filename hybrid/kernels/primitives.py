"""Building blocks of the chunked kernels: products, three scans, a triangular inverse, decayed scores.

Each has a hand-written backward pass that costs no more than its forward pass twice, and none ever
takes the exponential of a positive number. Plain products are here too: PyTorch computes their gradients in
bfloat16 where ``backward()`` is called under automatic mixed precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function

from hybrid.kernels.autograd import differentiable_once


class Products(Function):
    """``a @ b`` for two matrices or two batches of matrices."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return grad @ b.mT if of_a else None, a.mT @ grad if of_b else None


class AddedProducts(Function):
    """``x + a @ b`` for x: [batch, M, N], a: [batch, M, K] and b: [batch, K, N]."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.baddbmm(x, a, b)

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):
        a, b = ctx.saved_tensors
        return grad, grad @ b.mT, a.mT @ grad


class RowProducts(Function):
    """``a @ b.mT`` for a: [batch, M, K] and b: [batch, N, K].

    PyTorch's own gradient of b lies in memory transposed, and every sum or product with it that follows
    takes several times as long. So does that of a in `ColumnProducts`.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b.mT

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):
        a, b = ctx.saved_tensors
        return grad @ b, grad.mT @ a


class ColumnProducts(Function):
    """``a.mT @ b`` for a: [batch, K, M] and b: [batch, K, N]."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a.mT @ b

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):
        a, b = ctx.saved_tensors
        return b @ grad.mT, a @ grad


class DiagonalScan(Function):
    """``s_{n+1} = a_n * s_n + x_n`` for n = 0 .. N-1.

    a: [N, ...], broadcast against x: [N, ...]; s_0: [...]. Returns s_0 .. s_{N-1}: [N, ...], and s_N.
    """

    @staticmethod
    def forward(ctx, a: Tensor, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        states = x.new_empty(x.shape[0] + 1, *x.shape[1:])
        states[0] = start
        for n in range(x.shape[0]):
            torch.addcmul(x[n], a[n], states[n], out=states[n + 1])
        ctx.save_for_backward(a, states)
        # A copy: a view kept as a model's state would keep the states of all steps alive.
        return states[:-1], states[-1].clone()

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_before: Tensor, grad_end: Tensor):
        a, states = ctx.saved_tensors
        grad_a, grad_x = states.new_empty(a.shape), torch.empty_like(states[1:])
        grad_x[-1] = grad_end
        for n in reversed(range(a.shape[0])):
            # State by state, while both still are in the processor's cache.
            grad_a[n] = (grad_x[n] * states[n]).sum_to_size(a[n].shape)
            if n:
                torch.addcmul(grad_before[n], a[n], grad_x[n], out=grad_x[n - 1])
        return grad_a, grad_x, torch.addcmul(grad_before[0], a[0], grad_x[0])


class VectorScan(Function):
    """``h_t = exp(g_t) * h_{t-1} + x_t`` along the second dimension.

    x, g: [B, T, D]; h_{-1}: [B, D]; chunks: a divisor of T. Returns h: [B, T, D], and its last: [B, D].

    The gradient of x is a scan too, from the end to the beginning.
    """

    @staticmethod
    def forward(ctx, x: Tensor, g: Tensor, start: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
        a = g.exp()
        h, end = _scan(a, x, start, chunks)
        ctx.chunks = chunks
        ctx.save_for_backward(a, h, start)
        return h, end.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor, grad_end: Tensor):
        a, h, start = ctx.saved_tensors
        later = torch.cat((a[:, 1:], torch.ones_like(a[:, :1])), 1)
        grad_x, _ = _scan(later, grad, grad_end, ctx.chunks, backwards=True)
        grad_g = grad_x * a
        grad_start = grad_g[:, 0].clone()
        grad_g[:, 1:].mul_(h[:, :-1])
        grad_g[:, 0].mul_(start)
        return grad_x, grad_g, grad_start, None


def _scan(a: Tensor, x: Tensor, start: Tensor, chunks: int, backwards: bool = False) -> tuple[Tensor, Tensor]:
    """``h_t = a_t * h_{t-1} + x_t``, or with h_{t+1}, and the last one computed.

    All chunks at once, twice: from zero, which tells how each ends, and from how the one before ended.
    Writing states over again costs less memory than correcting them.
    """
    h, order = torch.empty_like(x), slice(None, None, -1 if backwards else 1)
    steps = [tensor.unflatten(1, (chunks, -1)).unbind(2)[order] for tensor in (a, x, h)]
    state = start.unsqueeze(1)
    if chunks > 1:
        ends = _steps(*steps, torch.zeros_like(state))
        kept = a.unflatten(1, (chunks, -1)).prod(2)
        state = torch.empty_like(ends)
        for n in range(chunks)[order]:
            state[:, n] = start
            start = torch.addcmul(ends[:, n], kept[:, n], start)
    return h, _steps(*steps, state)[:, 0 if backwards else -1]


def _steps(a: Sequence[Tensor], x: Sequence[Tensor], h: Sequence[Tensor], state: Tensor) -> Tensor:
    for a_t, x_t, h_t in zip(a, x, h, strict=True):
        state = torch.addcmul(x_t, a_t, state, out=h_t)
    return state


class DeltaScan(Function):
    """``w_n = u_n + e_n @ s_n`` and ``s_{n+1} = a_n * s_n + k_n @ w_n`` for n = 0 .. N-1.

    a: [N, batch, 1, 1]; k: [N, batch, K, C]; u: [N, batch, C, V]; e: [N, batch, C, K];
    s_0: [batch, K, V]. Returns s_0 .. s_{N-1}, s_N and w_0 .. w_{N-1}.
    """

    @staticmethod
    def forward(ctx, a: Tensor, k: Tensor, u: Tensor, e: Tensor, start: Tensor):
        before, writes = start.new_empty(a.shape[0], *start.shape), torch.empty_like(u)
        state = start
        for n in range(a.shape[0]):
            before[n] = state
            torch.baddbmm(u[n], e[n], state, out=writes[n])
            state = (a[n] * state).baddbmm_(k[n], writes[n])
        ctx.save_for_backward(a, k, e, before, writes)
        return before, state, writes

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_before: Tensor, grad_state: Tensor, grad_writes: Tensor):
        a, k, e, before, writes = ctx.saved_tensors
        grad_a, grad_u = torch.empty_like(a), torch.empty_like(writes)
        # Transposed, as keys come: into rows that do not lie side by side products go one by one.
        grad_k = k.new_empty(k.mT.shape)
        for n in reversed(range(a.shape[0])):
            torch.baddbmm(grad_writes[n], k[n].mT, grad_state, out=grad_u[n])
            torch.bmm(writes[n], grad_state.mT, out=grad_k[n])
            grad_a[n] = torch.linalg.vecdot(grad_state.flatten(1), before[n].flatten(1))[:, None, None]
            grad_state = torch.addcmul(grad_before[n], a[n], grad_state).baddbmm_(e[n].mT, grad_u[n])
        return grad_a, grad_k.mT, grad_u, grad_u @ before.mT, grad_state


class UnitLowerInverse(Function):
    """``(I + L)^-1`` with L the part below the diagonal of [batch, C, C], by forward substitution."""

    @staticmethod
    def forward(ctx, lower: Tensor) -> Tensor:
        one = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        # The solution comes column by column, so that of the transposed system is the one in rows.
        inverse = torch.linalg.solve_triangular(lower.mT, one, upper=True, unitriangular=True).mT
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return (inverse.mT @ grad @ inverse.mT).tril_(-1).neg_()


def decays(g: Tensor) -> Tensor:
    """``D_ij = exp(g_{j+1} + ... + g_i)`` for j <= i, and 0 above the diagonal: what is left at i of j.

    g: [batch, C], at most 0. Returns [batch, C, C]. All sums are one product with a table of zeros and
    ones, so nothing cancels.
    """
    size = g.shape[1]
    position = torch.arange(size, device=g.device)
    later = position.unsqueeze(-1) >= position
    between = (later.unsqueeze(1) & ~later).flatten(0, 1).mT
    # Zero times infinity is no number.
    finite = g.clamp_min(torch.finfo(g.dtype).min / size)
    return Products.apply(finite, between.to(g.dtype)).exp().unflatten(1, (size, size)) * later


class DecayedScores(Function):
    """``A_ij = sum_c q_ic k_jc exp(g_{j+1,c} + ... + g_ic)`` for j <= i, and 0 above the diagonal.

    q, k, g: [batch, C, K], C a power of two, g at most 0. Returns A: [batch, C, C], and, both
    [batch, C, K], the decay from before the first position to each, ``exp(g_1 + ... + g_i)``, and from
    each to the last, ``exp(g_{i+1} + ... + g_C)``.

    By halving: in a block of two halves, queries of the second meet keys of the first, and the
    decay between them is the product of two that meet at the border of the halves. Both are products
    of numbers from 0 to 1, so nothing overflows and nothing cancels.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.diag_embed((q * k).sum(-1))
        since, until = g.exp(), torch.ones_like(g)
        for half, in_late, in_early in _halvings(since, until):
            late, early = _half(q, half, 1) * in_late, _half(k, half, 0) * in_early
            # Products of single rows are slower than what they stand for.
            met = late @ early.mT if half > 1 else (late * early).sum(-1, keepdim=True)
            _quarter(scores, half, 1, 0).copy_(met)
        ctx.save_for_backward(q, k, g)
        return scores, since, until

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor, grad_since: Tensor, grad_until: Tensor):
        q, k, g = ctx.saved_tensors
        grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
        since, until = g.exp(), torch.ones_like(g)
        for half, in_late, in_early in _halvings(since, until):
            quarter = _quarter(grad, half, 1, 0)
            late, early = _half(q, half, 1) * in_late, _half(k, half, 0) * in_early
            to_late = quarter @ early if half > 1 else quarter * early
            to_early = quarter.mT @ late if half > 1 else quarter * late
            _half(grad_q, half, 1).addcmul_(to_late, in_late)
            _half(grad_k, half, 0).addcmul_(to_early, in_early)
        # In the sums G of g, A_ij is q_i k_j exp(G_i - G_j), and the others are exp(G_i) and
        # exp(G_C - G_i).
        past, future = grad_since.mul(since), grad_until.mul(until)
        grad_sums = past.addcmul_(q, grad_q).addcmul_(k, grad_k, value=-1).sub_(future)
        grad_sums[:, -1] += future.sum(1)
        diagonal = grad.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        grad_g = torch.ones_like(grad[0]).triu() @ grad_sums
        return grad_q.addcmul_(diagonal, k), grad_k.addcmul_(diagonal, q), grad_g


def _half(x: Tensor, half: int, which: int) -> Tensor:
    """The first or second halves of the blocks of 2 * half rows of x: [batch, C, K]: a view
    [batch, blocks, half, K]."""
    return x.view(x.shape[0], -1, 2, half, x.shape[-1])[:, :, which]


def _quarter(x: Tensor, half: int, row: int, column: int) -> Tensor:
    """One quarter of each diagonal block of 2 * half rows and columns of x: [batch, C, C]: a view
    [batch, blocks, half, half]."""
    batch, size, _ = x.shape
    by_batch, by_row, by_column = x.stride()
    shape = (batch, size // (2 * half), half, half)
    strides = (by_batch, 2 * half * (by_row + by_column), by_row, by_column)
    return x.as_strided(shape, strides, x.storage_offset() + half * (row * by_row + column * by_column))


def _halvings(since: Tensor, until: Tensor):
    """For halves of 1, 2, 4, ... positions: their length, the decay from the border of the halves to
    each later position, and from each earlier position to the border: [batch, blocks, half, K].

    since, until: [batch, C, K], one position's decay, and ones. Afterwards they hold the decay from
    before the first position to each, and from each to the last.
    """
    half = 1
    while half < since.shape[1]:
        late, early = _half(since, half, 1), _half(until, half, 0)
        yield half, late, early
        early.mul_(late[..., -1:, :])
        late.mul_(_half(since, half, 0)[..., -1:, :])
        half *= 2

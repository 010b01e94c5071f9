"""Building blocks of the chunked kernels: two scans, a triangular inverse, decayed scores.

Each has a hand-written backward pass that costs no more than its forward pass twice, and none ever
takes the exponential of a positive number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable


class DiagonalScan(Function):
    """``s_{n+1} = a_n * s_n + x_n`` for n = 0 .. N-1.

    a: [N, ...], broadcast against x: [N, ...]; s_0: [...]. Returns s_0 .. s_N: [N + 1, ...].
    """

    @staticmethod
    def forward(ctx, a: Tensor, x: Tensor, start: Tensor) -> Tensor:
        states = x.new_empty(x.shape[0] + 1, *x.shape[1:])
        states[0] = start
        for n in range(x.shape[0]):
            torch.addcmul(x[n], a[n], states[n], out=states[n + 1])
        ctx.save_for_backward(a, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        a, states = ctx.saved_tensors
        total = torch.empty_like(states)
        total[-1] = grad[-1]
        for n in reversed(range(a.shape[0])):
            torch.addcmul(grad[n], a[n], total[n + 1], out=total[n])
        return (total[1:] * states[:-1]).sum_to_size(a.shape), total[1:], total[0]


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
    @once_differentiable
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
    """``(I + L)^-1`` with L the part below the diagonal of [batch, C, C], C a power of two.

    By blocks of 1, 2, 4, ...: the inverse of ``[[A, 0], [L, D]]`` is ``[[A', 0], [-D' L A', D']]``
    with ``A'`` and ``D'`` the inverses of A and D. Powers of L, which explode when keys repeat,
    never occur.
    """

    @staticmethod
    def forward(ctx, lower: Tensor) -> Tensor:
        size = lower.shape[-1]
        inverse = torch.eye(size, dtype=lower.dtype, device=lower.device).repeat(lower.shape[0], 1, 1)
        half = 1
        while half < size:
            first, second = _quarter(inverse, half, 0, 0), _quarter(inverse, half, 1, 1)
            _quarter(inverse, half, 1, 0).copy_(second @ _quarter(lower, half, 1, 0) @ first).neg_()
            half *= 2
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return (inverse.mT @ grad @ inverse.mT).tril_(-1).neg_()


class DecayedScores(Function):
    """``A_ij = sum_c q_ic k_jc exp(g_{j+1,c} + ... + g_ic)`` for j <= i, and 0 above the diagonal.

    q, k, g: [batch, C, K], C a power of two, g at most 0. Returns A: [batch, C, C].

    By halving: in a block of two halves, queries of the second meet keys of the first, and the
    decay between them is the product of two that meet at the border of the halves. Both exponents
    are sums of numbers of one sign, so nothing overflows and nothing cancels.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, g)
        scores = torch.diag_embed((q * k).sum(-1))
        for half, since, until in _halvings(g):
            late, early = _half(q, half, 1) * since, _half(k, half, 0) * until
            _quarter(scores, half, 1, 0).copy_(late @ early.mT)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, g = ctx.saved_tensors
        grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
        for half, since, until in _halvings(g):
            quarter = _quarter(grad, half, 1, 0)
            late, early = _half(q, half, 1) * since, _half(k, half, 0) * until
            _half(grad_q, half, 1).addcmul_(quarter @ early, since)
            _half(grad_k, half, 0).addcmul_(quarter.mT @ late, until)
        # A_ij depends on the sums G of g as exp(G_i - G_j), so G_i has q_i's gradient less k_i's.
        grad_sums = q * grad_q - k * grad_k
        diagonal = grad.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return grad_q.addcmul_(diagonal, k), grad_k.addcmul_(diagonal, q), grad_sums.flip(1).cumsum(1).flip(1)


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


def _halvings(g: Tensor):
    """For halves of 1, 2, 4, ... positions: their length, the decay from the border of the halves to
    each later position, and from each earlier position to the border: [batch, blocks, half, K]."""
    since, until = g.clone(), torch.zeros_like(g)
    half = 1
    while half < g.shape[1]:
        yield half, _half(since, half, 1).exp(), _half(until, half, 0).exp()
        _half(until, half, 0).add_(_half(since, half, 1)[..., -1:, :])
        _half(since, half, 1).add_(_half(since, half, 0)[..., -1:, :])
        half *= 2

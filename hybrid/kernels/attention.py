"""Causal softmax attention, full or over a sliding window, with grouped key-value heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "recurrent", "chunk")

QUERY_BLOCK = 512
"""Queries that share one mask when a window is attended to: memory grows with T, not with T x T."""


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal softmax attention: ``o_t = sum_s softmax_s(scale * q_t . k_s) v_s`` over the positions
    ``s <= t`` that lie in the window.

    Args:
        q: [B, T, H, K]; the queries are the last T of the S positions.
        k: [B, S, G, K], v: [B, S, G, V]; S is at least T, and G divides H (grouped key-value heads:
            query head h reads key-value head ``h // (H / G)``).
        window: number of positions a query sees, its own included; None is all.
        scale: of the scores; None is K ** -0.5.
        backend: "recurrent" (the definition, one query after another), "chunk" (PyTorch's
            scaled_dot_product_attention), "auto" (the same).

    Returns:
        o [B, T, H, V], in the type of v.

    Raises:
        ValueError: for a wrong shape, window or backend.

    Source: Vaswani et al., 1706.03762, eq. 1; grouped heads: Ainslie et al., 2305.13245.
    """
    _check(q, k, v, window, backend)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    body = _recurrent if backend == "recurrent" else _sdpa
    return body(q, k, v, window, scale)


def _check(q: Tensor, k: Tensor, v: Tensor, window: int | None, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; allowed: {', '.join(BACKENDS)}")
    if q.dim() != 4:
        raise ValueError(f"q must have shape [B, T, H, K]; got {tuple(q.shape)}")
    b, t, h, width = q.shape
    if k.dim() != 4 or k.shape[0] != b or k.shape[1] < t or h % k.shape[2] or k.shape[3] != width:
        raise ValueError(
            f"k must have shape [{b}, S >= {t}, a divisor of {h}, {width}]; got {tuple(k.shape)}"
        )
    if v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v must have shape [{', '.join(map(str, k.shape[:3]))}, V]; got {tuple(v.shape)}")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be a whole number of at least 1, or None; got {window!r}")


def _recurrent(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
    kind = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[2] // k.shape[2]
    k, v = (tensor.to(kind).repeat_interleave(group, dim=2) for tensor in (k, v))
    past = k.shape[1] - q.shape[1]
    outputs = []
    for t, q_t in enumerate(q.to(kind).unbind(1)):
        stop = past + t + 1
        start = 0 if window is None else max(0, stop - window)
        scores = scale * torch.einsum("bhk,bshk->bhs", q_t, k[:, start:stop])
        outputs.append(torch.einsum("bhs,bshv->bhv", scores.softmax(-1), v[:, start:stop]))
    return torch.stack(outputs, 1).to(q.dtype)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    queries, positions = q.shape[2], k.shape[2]
    past = positions - queries

    def attend(q: Tensor, k: Tensor, v: Tensor, **mask) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped, **mask)

    if window is None or window >= positions:
        if queries == 1:
            return attend(q, k, v).transpose(1, 2)
        if past == 0:
            return attend(q, k, v, is_causal=True).transpose(1, 2)
        if q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and not torch.is_grad_enabled():
            return _after(q, k, v, past, scale).transpose(1, 2)
        return attend(q, k, v, attn_mask=_visible(q, past, 0, positions, positions)).transpose(1, 2)

    outputs = []
    for first in range(0, queries, QUERY_BLOCK):
        block = q[:, :, first : first + QUERY_BLOCK]
        stop = past + first + block.shape[2]
        start = max(0, past + first - window + 1)
        mask = _visible(block, past + first, start, stop, window)
        outputs.append(attend(block, k[:, :, start:stop], v[:, :, start:stop], attn_mask=mask))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _after(q: Tensor, k: Tensor, v: Tensor, past: int, scale: float) -> Tensor:
    """Full attention of the last T of S positions [B, H, T, K] to all, without a gradient.

    The positions before them, which all of them see, and they themselves are attended to separately: a mask
    over all would be most of the time. `scaled_dot_product_attention` keeps the logarithm of each sum of
    exponentials to itself, by which the two are weighted; the operation it calls returns it.
    """
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    # Where nothing is masked, the heads that share a key are more queries of one head.
    by_key = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    before, of_before = attend(by_key, k[:, :, :past], v[:, :, :past], scale=scale)
    before, of_before = before.reshape_as(q), of_before.reshape(q.shape[:3])
    group = q.shape[1] // k.shape[1]
    new_k, new_v = (x[:, :, past:].repeat_interleave(group, dim=1) for x in (k, v))
    among, of_among = attend(q, new_k, new_v, is_causal=True, scale=scale)
    return torch.lerp(among, before, (of_before - of_among).sigmoid().unsqueeze(-1).to(v.dtype))


def _visible(q: Tensor, first: int, start: int, stop: int, window: int) -> Tensor:
    """Which of the positions start..stop the queries at first, first + 1, ... see: [T, stop - start]."""
    query = torch.arange(first, first + q.shape[2], device=q.device).unsqueeze(-1)
    key = torch.arange(start, stop, device=q.device)
    seen = key <= query
    # A window that holds everything hides nothing: half of the comparisons of a large table.
    return seen if window >= stop else seen & (key > query - window)

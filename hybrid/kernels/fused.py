"""The three kernels on a GPU: flash-linear-attention's Triton code.

Arguments and results are those of `hybrid.kernels`. Queries, keys and values are computed in the
type of v, decays and states in float32. Up to `STEPS` tokens without gradients (decoding) run as a
loop inside one GPU kernel, everything else in chunks.

Source: flash-linear-attention (Yang and Zhang, 2024), https://github.com/fla-org/flash-linear-attention.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from hybrid.kernels import device
from hybrid.kernels.autograd import refusing_a_graph

STEPS = 64
"""Longest sequence, in tokens, that is decoded step by step where no gradient is needed."""


def gated_scan(x: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    # The chunked form of this one returns no gradient of the state.
    scan = _operation("hgrn", "fused_recurrent_hgrn", x)
    h, end = scan(x.float(), log_decay.float(), initial_state=_state(state), output_final_state=True)
    return h.to(x.dtype), end


def gated_outer(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    steps = _step_by_step(q)
    if log_decay.dim() == 4:
        outer = _operation("gla", "fused_recurrent_gla" if steps else "chunk_gla", v)
        decay = {"gk" if steps else "g": log_decay.float()}
    else:
        outer = _operation("simple_gla", "fused_recurrent_simple_gla" if steps else "chunk_simple_gla", v)
        decay = {"g": log_decay.float()}
    return outer(
        q.to(v.dtype),
        k.to(v.dtype),
        v,
        **decay,
        scale=scale,
        initial_state=_state(state),
        output_final_state=True,
    )


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    # Without a decay this is also chunk_delta_rule, which refuses float32.
    name = "fused_recurrent_gated_delta_rule" if _step_by_step(q) else "chunk_gated_delta_rule"
    delta = _operation("gated_delta_rule", name, v)
    g = torch.zeros_like(beta) if log_decay is None else log_decay
    return delta(
        q.to(v.dtype),
        k.to(v.dtype),
        v,
        g=g.float(),
        beta=beta.float(),
        scale=scale,
        initial_state=_state(state),
        output_final_state=True,
    )


def imported(module: str, name: str):
    """A function of flash-linear-attention, which refuses gradients of gradients. Raises ``ImportError``
    saying how to install it."""
    try:
        return refusing_a_graph(getattr(import_module(module), name))
    except ImportError as error:
        raise ImportError(
            'backend "fused" needs flash-linear-attention: pip install '
            "'hybrid-linear-attention-book[fused]', or use backend=\"chunk\""
        ) from error


def _operation(module: str, name: str, x: Tensor):
    operation = imported(f"fla.ops.{module}", name)
    if not device.fuses(x):
        raise ValueError(
            'backend "fused" needs CUDA tensors in float32 at most; '
            f'got {x.dtype} on {x.device}: use backend="chunk"'
        )
    return operation


def _step_by_step(q: Tensor) -> bool:
    return q.shape[1] <= STEPS and not torch.is_grad_enabled()


def _state(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.float()

"""What every hand-written backward pass has in common: it is not differentiated again, and keeps its types.

The gradients that a backward pass written out by hand returns know nothing of what they were computed from.
PyTorch's ``once_differentiable`` marks them, but its error lies on no way back to the inputs: it is met by
``backward()``, not by ``torch.autograd.grad(..., inputs)``, and not at all where the incoming gradient is a
constant, as that of a sum is. Second derivatives then are wrong without a word. Here the first pass that is
asked to be differentiable (``create_graph=True``) is the error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A region in which products keep the type of their factors, float32 or float64.

    Automatic mixed precision would make bfloat16 products of them. It does not know devices without
    arithmetic, such as meta.
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def differentiable_once(backward: Callable) -> Callable:
    """Decorator of the ``backward`` of a ``torch.autograd.Function`` that is written out by hand.

    Refuses gradients of gradients, with a ``RuntimeError`` that names the function. Whether or not
    ``backward()`` is called under automatic mixed precision, the pass is computed in the types it is given.
    """
    name = backward.__qualname__.removesuffix(".backward")

    @wraps(backward)
    def guarded(ctx, *gradients: Tensor):
        _refuse_a_graph(name)
        with without_autocast(gradients[0].device):
            return backward(ctx, *gradients)

    return guarded


def refusing_a_graph(function: Callable) -> Callable:
    """A function of another library with a backward pass written by hand, refusing gradients of gradients."""

    @wraps(function)
    def guarded(*args, **kwargs):
        results = function(*args, **kwargs)
        for result in results if isinstance(results, tuple) else (results,):
            if isinstance(result, Tensor) and result.grad_fn is not None:
                result.grad_fn.register_prehook(lambda gradients: _refuse_a_graph(function.__name__))
        return results

    return guarded


def _refuse_a_graph(name: str) -> None:
    # In a backward pass gradients are recorded exactly under create_graph=True.
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the backward pass of {name} is written by hand and cannot be differentiated "
            '(create_graph=True): use backend="recurrent", which can be differentiated any number of times; '
            "a GPU needs float64 too, in which nothing is fused"
        )

"""A GPU's work recorded once and played back: of a small model, kernels take longer to start than to run.

Source: CUDA graphs; https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class _Surface(nn.Module):
    """A loss as a function of tensors alone, beside the parameters that it has gradients for."""

    def __init__(self, model: nn.Module, loss: Callable[[Batch], Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.loss, self.names = model, loss, names
        self.type = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None

    def forward(self, *tensors: Tensor) -> Tensor:
        # A cast that was kept from outside would not be in the recording.
        with torch.autocast("cuda", self.type, enabled=self.type is not None, cache_enabled=False):
            return self.loss(dict(zip(self.names, tensors, strict=True)))


def recorded(model: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch) -> Callable[[Batch], Tensor]:
    """The same loss, its forward and backward pass each started on the GPU by one call.

    What Python does in `loss` happens while it is recorded and never again: it must not depend on a number
    that changes from step to step. Gradients lie where the recording leaves them, and the next pass writes
    over them: they cannot be accumulated over several.

    Args:
        model: what the loss has gradients for, on a GPU.
        loss: of a batch; recorded under the automatic mixed precision of this call.
        batch: a batch to record with; every later one must have its names and shapes.

    Returns:
        A function of a batch: the loss, a number, through which gradients reach `model`.
    """
    names = tuple(batch)
    surface = _Surface(model, loss, names)
    with torch.autocast("cuda", enabled=False):
        play = torch.cuda.make_graphed_callables(
            surface, tuple(batch[name].clone() for name in names), allow_unused_input=True
        )
    return lambda batch: play(*(batch[name] for name in names))

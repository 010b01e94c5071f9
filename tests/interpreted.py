"""flash-linear-attention's Triton kernels on a CPU, in Triton's interpreter.

Nothing of what they compute is replaced. Three things around them are, for which they look for a GPU:
which tensors they take, the search for the fastest variant of a kernel, and counters of loops, which
compiled are tensors and interpreted are numbers.
"""

from __future__ import annotations

import pytest
import torch

from hybrid.kernels import device


class Counter(int):
    """A number that can be asked for another type, as a tensor can."""

    def to(self, dtype) -> Counter:
        return self

    def __mul__(self, other):
        return _counter(super().__mul__(other))

    def __add__(self, other):
        return _counter(super().__add__(other))

    def __sub__(self, other):
        return _counter(super().__sub__(other))


def _counter(number):
    return Counter(number) if type(number) is int else number


def counters(*bounds):
    """``range`` of such numbers."""
    return map(Counter, range(*bounds))


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Run every kernel in the interpreter until `patch` is undone."""
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import GridExecutor

    launch = GridExecutor.__call__

    def first(tuner, *args, **kwargs):
        return tuner.fn.run(*args, **kwargs | tuner.configs[0].all_kwargs())

    def counted(grid, *args, **kwargs):
        grid.fn.__globals__["range"] = counters
        return launch(grid, *args, **kwargs)

    patch.setattr(Autotuner, "run", first)
    patch.setattr(GridExecutor, "__call__", counted)
    patch.setattr(device, "fuses", lambda x: x.dtype != torch.float64)

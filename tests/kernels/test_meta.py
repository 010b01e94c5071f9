"""On the meta device, where tensors have no numbers, everything has the shape and type it has on a CPU."""

from __future__ import annotations

import pytest
import torch
from cases import KERNELS, make, run

from hybrid.kernels import softmax_attention

SHAPE = dict(batch=2, heads=2, width=8, values=5, decay=1.0, seed=0)

TYPES = [torch.float64, torch.float32, torch.bfloat16]
CASES = [
    *((backend, 1, dtype) for backend in ("auto", "recurrent", "chunk") for dtype in TYPES),
    *((backend, 1000, dtype) for backend in ("auto", "chunk") for dtype in TYPES),
    # A step takes longer there than on a CPU.
    ("recurrent", 1000, torch.float32),
]

each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_case = pytest.mark.parametrize(("backend", "length", "dtype"), CASES, ids=str)


def kinds(results):
    return [(tuple(x.shape), x.dtype) for x in results]


@each_kernel
@each_case
def test_kernels(kernel, backend, length, dtype):
    inputs = make(kernel, **SHAPE, length=length, with_state=False, dtype=dtype)
    on_meta = {name: x.to("meta") for name, x in inputs.items()}
    with torch.no_grad():
        actual = KERNELS[kernel](**on_meta, backend=backend)
        expected = KERNELS[kernel](**inputs, backend=backend)
    assert all(x.is_meta for x in actual)
    assert kinds(actual) == kinds(expected)


@each_kernel
@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
def test_gradients_of_kernels(kernel, backend):
    inputs = make(kernel, **SHAPE, length=20, with_state=True, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(kernel, {name: x.to("meta") for name, x in inputs.items()}, backend)
    expected = run(kernel, inputs, backend)
    assert actual.keys() == expected.keys() and all(x.is_meta for x in actual.values())
    assert kinds(actual.values()) == kinds(expected.values())


@each_case
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("past", [0, 3])
def test_attention(backend, length, dtype, window, past):
    shapes = (2, length, 4, 8), (2, length + past, 2, 8), (2, length + past, 2, 8)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            actual = softmax_attention(*(x.to("meta") for x in inputs), window=window, backend=backend)
            expected = softmax_attention(*inputs, window=window, backend=backend)
        assert actual.is_meta and kinds([actual]) == kinds([expected])

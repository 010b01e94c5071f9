"""Wrong shapes, windows and backends are refused, naming the value and what is allowed."""

from __future__ import annotations

import sys

import pytest
import torch
from cases import KERNELS, make

from hybrid.kernels import softmax_attention

SHAPE = dict(batch=2, length=6, heads=2, width=4, values=3, with_state=True, decay=1.0, seed=0)

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@each_kernel
def test_unknown_backend(kernel):
    with pytest.raises(ValueError, match=r"unknown backend 'fast'; allowed: auto, recurrent, chunk, fused"):
        KERNELS[kernel](**make(kernel, **SHAPE, dtype=torch.float32), backend="fast")


@each_kernel
def test_every_wrong_shape_is_named(kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    for name in inputs.keys() - {"x", "q"}:
        wrong = inputs | {name: inputs[name].narrow(1, 0, 1)}
        with pytest.raises(ValueError, match=rf"{name} must have shape \(2, .*; got \(2, 1"):
            KERNELS[kernel](**wrong)


@each_kernel
def test_fused_refuses_a_cpu(kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"needs CUDA tensors in float32 at most; got torch\.float32 on cpu"):
        KERNELS[kernel](**inputs, backend="fused")


@each_kernel
def test_fused_without_flash_linear_attention_says_how_to_get_it(kernel, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "fla"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(ImportError, match=r"hybrid-linear-attention-book\[fused\].*backend=\"chunk\""):
        KERNELS[kernel](**make(kernel, **SHAPE, dtype=torch.float32), backend="fused")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "fused"}, "unknown backend 'fused'; allowed: auto, recurrent, chunk"),
        ({"window": 0}, "window must be .* at least 1.*; got 0"),
        ({"window": 2.0}, "window must be .*; got 2.0"),
        ({"q": torch.zeros(2, 5, 8)}, r"q must have shape \[B, T, H, K\]; got \(2, 5, 8\)"),
        ({"k": torch.zeros(2, 4, 2, 8)}, r"k must have shape \[2, S >= 5, a divisor of 4, 8\]; got \(2, 4,"),
        ({"k": torch.zeros(2, 5, 3, 8)}, r"k must have shape .*; got \(2, 5, 3, 8\)"),
        ({"v": torch.zeros(2, 6, 2, 8)}, r"v must have shape \[2, 5, 2, V\]; got \(2, 6, 2, 8\)"),
    ],
)
def test_attention(change, message):
    arguments = {"q": torch.zeros(2, 5, 4, 8), "k": torch.zeros(2, 5, 2, 8), "v": torch.zeros(2, 5, 2, 8)}
    with pytest.raises(ValueError, match=message):
        softmax_attention(**arguments | change)

"""Wrong shapes, windows and backends are refused, naming the value and what is allowed."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from cases import KERNELS, make, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import kernels
from hybrid.kernels import chunk, device, fused, recurrent, softmax_attention

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


BODIES = st.sampled_from(["auto", "recurrent", "chunk", "fused"])


@each_kernel
@settings(max_examples=30, deadline=None)
@given(shape=shapes, backend=BODIES, axis=st.sampled_from(["batch", "length", "heads", "width", "values"]))
def test_an_axis_of_length_zero_is_named(kernel, shape, backend, axis):
    if kernel == "scan":
        axis = {"heads": "width", "values": "width"}.get(axis, axis)
    inputs = make(kernel, **shape | {axis: 0}, dtype=torch.float32)
    empty = next(tuple(x.shape) for x in inputs.values() if not x.numel())
    message = rf"must have shape \([BTHKVD, ]+\), none of it 0; got {re.escape(str(empty))}"
    with pytest.raises(ValueError, match=message):
        KERNELS[kernel](**inputs, backend=backend)


@each_kernel
@settings(max_examples=30, deadline=None)
@given(
    shape=shapes,
    backend=BODIES,
    kind=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]),
    data=st.data(),
)
def test_types_without_fractions_are_named(kernel, shape, backend, kind, data):
    inputs = make(kernel, **shape, dtype=torch.float32)
    name = data.draw(st.sampled_from(sorted(inputs)))
    with pytest.raises(ValueError, match=rf"{name} must be of a floating-point type; got {kind}"):
        KERNELS[kernel](**inputs | {name: inputs[name].to(kind)}, backend=backend)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "delta"])
@settings(max_examples=30, deadline=None)
@given(
    shape=shapes,
    backend=BODIES,
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    above=st.sampled_from([2.0**-20, 0.5, 30.0, float("inf")]),
    data=st.data(),
)
def test_a_decay_that_grows_is_named(kernel, shape, backend, dtype, above, data):
    inputs = make(kernel, **shape, dtype=dtype)
    place = data.draw(st.integers(0, inputs["log_decay"].numel() - 1))
    inputs["log_decay"].view(-1)[place] = above
    with pytest.raises(ValueError, match=rf"log_decay must be at most 0; got {above}"):
        KERNELS[kernel](**inputs, backend=backend)


@each_kernel
@pytest.mark.parametrize("name", ["q", "k", "v", "beta", "log_decay", "state"])
def test_an_axis_too_many_is_named(kernel, name):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    name = "x" if name not in inputs else name
    if name in inputs:
        with pytest.raises(ValueError, match=rf"{name} must have shape \(.*\); got \(2,"):
            KERNELS[kernel](**inputs | {name: inputs[name].unsqueeze(-1)})


def test_a_kernel_without_a_fused_body_runs_as_chunks_on_a_gpu(monkeypatch):
    monkeypatch.setattr(device, "fuses", lambda x: True)
    for body in (recurrent, chunk):
        monkeypatch.setattr(body, "made_up", lambda x, body=body: body.__name__, raising=False)
    long, short = torch.zeros(1, kernels.SHORT + 1), torch.zeros(1, kernels.SHORT)
    assert kernels._run("made_up", "auto", long) == chunk.__name__
    assert kernels._run("made_up", "auto", short) == recurrent.__name__
    with pytest.raises(ValueError, match=r"made_up has no body 'fused'; allowed: recurrent, chunk$"):
        kernels._run("made_up", "fused", long)
    monkeypatch.setattr(fused, "made_up", lambda x: fused.__name__, raising=False)
    assert kernels._run("made_up", "auto", long) == kernels._run("made_up", "auto", short) == fused.__name__


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

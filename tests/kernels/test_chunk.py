"""The chunked bodies against the definitions: values, states and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from cases import KERNELS, assert_close, make, run, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.kernels import chunk

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

SMALL = dict(batch=2, length=70, heads=2, width=8, values=5, with_state=True, decay=1.0, seed=1)

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@each_kernel
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=60, deadline=None)
@given(shape=shapes)
def test_chunk_is_recurrent(kernel, dtype, shape):
    inputs = make(kernel, **shape, dtype=dtype)
    expected = run(kernel, {name: x.double() for name, x in inputs.items()}, "recurrent")
    actual = run(kernel, inputs, "chunk")
    assert actual["output"].dtype == actual["state"].dtype == dtype
    assert_close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("numbers", [1, 100, 1 << 40])
@pytest.mark.parametrize("length", [1, 3, 64, 130])
@pytest.mark.parametrize("decay", [1.0, math.inf])
def test_a_scan_in_any_number_of_chunks_is_the_loop(monkeypatch, numbers, length, decay):
    monkeypatch.setattr(chunk, "SCANNED", numbers)
    inputs = make("scan", **SMALL | {"length": length, "decay": min(decay, 1.0)}, dtype=torch.float64)
    if decay == math.inf:
        inputs["log_decay"][:, ::3] = -math.inf
    assert_close(run("scan", inputs, "chunk"), run("scan", inputs, "recurrent"), 1e-9)


@each_kernel
@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
@settings(max_examples=30, deadline=None)
@given(shape=shapes, cut=st.floats(0, 1))
def test_the_state_carries_a_sequence_over_a_cut(kernel, backend, shape, cut):
    shape["length"] += 1
    inputs = make(kernel, **shape, dtype=torch.float64)
    state = inputs.pop("state", None)
    at = 1 + int(cut * (shape["length"] - 2))
    whole, end = KERNELS[kernel](**inputs, state=state, backend=backend)
    first, middle = KERNELS[kernel](**{n: x[:, :at] for n, x in inputs.items()}, state=state, backend=backend)
    second, last = KERNELS[kernel](**{n: x[:, at:] for n, x in inputs.items()}, state=middle, backend=backend)
    pieces = {"output": torch.cat([first, second], 1), "state": last}
    assert_close(pieces, {"output": whole, "state": end}, 1e-9)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "scan"])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_the_scale_multiplies_the_output(kernel, scale):
    inputs = make(kernel, **SMALL, dtype=torch.float64)
    output, _ = KERNELS[kernel](**inputs, scale=scale, backend="chunk")
    unscaled, _ = KERNELS[kernel](**inputs, scale=1.0, backend="recurrent")
    torch.testing.assert_close(output, unscaled * (SMALL["width"] ** -0.5 if scale is None else scale))


@each_kernel
def test_bfloat16_inputs_keep_a_float32_state(kernel):
    inputs = make(kernel, **SMALL, dtype=torch.bfloat16)
    chunk, recurrent = run(kernel, inputs, "chunk"), run(kernel, inputs, "recurrent")
    assert chunk["output"].dtype == torch.bfloat16
    assert chunk["state"].dtype == torch.float32
    assert all(x.dtype == torch.bfloat16 for name, x in chunk.items() if name.startswith("gradient"))
    assert_close(chunk, recurrent, 2**-7)
    assert_close({"state": chunk["state"]}, {"state": recurrent["state"]}, 1e-5)


@each_kernel
def test_mixed_precision_leaves_the_products_in_float32(kernel):
    inputs = make(kernel, **SMALL, dtype=torch.float32)
    expected = KERNELS[kernel](**inputs, backend="chunk")
    with torch.autocast("cpu", torch.bfloat16):
        actual = KERNELS[kernel](**inputs, backend="chunk")
    for left, right in zip(actual, expected, strict=True):
        assert torch.equal(left, right)


@each_kernel
def test_steps_of_one_token_are_the_whole(kernel):
    inputs = make(kernel, **SMALL, dtype=torch.float64)
    state = inputs.pop("state")
    whole, end = KERNELS[kernel](**inputs, state=state, backend="recurrent")
    outputs = []
    for t in range(SMALL["length"]):
        step = {name: x[:, t : t + 1] for name, x in inputs.items()}
        output, state = KERNELS[kernel](**step, state=state, backend="chunk")
        outputs.append(output)
    assert_close({"o": torch.cat(outputs, 1), "s": state}, {"o": whole, "s": end}, 1e-9)


@each_kernel
def test_memory_for_the_backward_pass_grows_linearly(kernel):
    def saved_bytes(length: int) -> int:
        seen = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(x)
            return x

        held = []
        shape = SMALL | {"length": length, "width": 64, "values": 64}
        inputs = {n: x.requires_grad_() for n, x in make(kernel, **shape, dtype=torch.float32).items()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            KERNELS[kernel](**inputs, backend="chunk")
        return sum(seen.values())

    assert saved_bytes(4096) < 2.2 * saved_bytes(2048)

"""The Triton bodies against the definitions: compiled on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from cases import KERNELS, assert_close, make, run

ON_A_GPU = torch.cuda.is_available()
# Relative to the largest entry. On a GPU Triton multiplies float32 on tensor cores in TF32 (10 bits);
# interpreted it does not, and what is left is that of a decay's gradient, a difference of sums. The
# interpreter does not know bfloat16.
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 3e-2} if ON_A_GPU else {torch.float32: 1e-3}
# Interpreted, each program of a kernel takes milliseconds for each step.
SHAPE = dict(batch=2, length=33, heads=1, width=16, values=8, with_state=True, decay=1.0, seed=7)
LENGTHS = [1, 17, 65]
if ON_A_GPU:
    SHAPE |= dict(length=200, heads=3, width=64, values=32)
    LENGTHS = [1, 17, 64, 65, 200, 1000]

each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def witness(kernel, inputs):
    return run(kernel, {name: x.double().cpu() for name, x in inputs.items()}, "recurrent")


@each_kernel
@each_type
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("with_state", [False, True])
def test_training(fused_device, kernel, dtype, length, with_state):
    shape = SHAPE | {"length": length, "with_state": with_state}
    inputs = make(kernel, **shape, dtype=dtype, device=fused_device)
    actual = run(kernel, inputs, "fused")
    assert actual["output"].dtype == dtype
    assert actual["state"].dtype == torch.float32
    assert_close({name: x.cpu() for name, x in actual.items()}, witness(kernel, inputs), TOLERANCE[dtype])


@each_kernel
@each_type
@pytest.mark.parametrize("length", [1, 5, 65])
def test_decoding(fused_device, kernel, dtype, length):
    inputs = make(kernel, **SHAPE | {"length": length}, dtype=dtype, device=fused_device)
    with torch.no_grad():
        output, state = KERNELS[kernel](**inputs, backend="fused")
    expected = {name: x for name, x in witness(kernel, inputs).items() if name in ("output", "state")}
    assert_close({"output": output.cpu(), "state": state.cpu()}, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "delta"])
def test_fast_decays(fused_device, kernel):
    inputs = make(kernel, **SHAPE | {"decay": 30.0}, dtype=torch.float32, device=fused_device)
    actual = {name: x.cpu() for name, x in run(kernel, inputs, "fused").items()}
    assert_close(actual, witness(kernel, inputs), TOLERANCE[torch.float32])


@each_kernel
def test_auto_takes_the_fused_body_but_for_float64(fused_device, kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.float32, device=fused_device)
    auto, fused = run(kernel, inputs, "auto"), run(kernel, inputs, "fused")
    assert_close(auto, fused, 1e-6)
    inputs = {name: x.double() for name, x in inputs.items()}
    actual = {name: x.cpu() for name, x in run(kernel, inputs, "auto").items()}
    assert_close(actual, witness(kernel, inputs), 1e-9)


@each_kernel
def test_float64_is_refused(fused_device, kernel):
    with pytest.raises(ValueError, match=r"float32 at most; got torch\.float64"):
        KERNELS[kernel](**make(kernel, **SHAPE, dtype=torch.float64, device=fused_device), backend="fused")

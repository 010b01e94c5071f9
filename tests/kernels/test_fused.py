"""The Triton bodies against the definitions, on a GPU."""

from __future__ import annotations

import pytest
import torch
from cases import KERNELS, assert_close, make, run

TOLERANCE = {
    # relative to the largest entry; Triton multiplies float32 on tensor cores in TF32 (10 bits)
    torch.float32: 5e-3,
    torch.bfloat16: 3e-2,
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

SHAPE = dict(batch=2, length=200, heads=3, width=64, values=32, with_state=True, decay=1.0, seed=7)


def witness(kernel, inputs):
    return run(kernel, {name: x.double().cpu() for name, x in inputs.items()}, "recurrent")


@each_kernel
@each_type
@pytest.mark.parametrize("length", [1, 17, 64, 65, 200, 1000])
@pytest.mark.parametrize("with_state", [False, True])
def test_training(kernel, dtype, length, with_state):
    shape = SHAPE | {"length": length, "with_state": with_state}
    inputs = make(kernel, **shape, dtype=dtype, device="cuda")
    actual = run(kernel, inputs, "fused")
    assert actual["output"].dtype == dtype
    assert actual["state"].dtype == torch.float32
    assert_close({name: x.cpu() for name, x in actual.items()}, witness(kernel, inputs), TOLERANCE[dtype])


@each_kernel
@each_type
@pytest.mark.parametrize("length", [1, 5, 64, 65])
def test_decoding(kernel, dtype, length):
    inputs = make(kernel, **SHAPE | {"length": length}, dtype=dtype, device="cuda")
    with torch.no_grad():
        output, state = KERNELS[kernel](**inputs, backend="fused")
    expected = {name: x for name, x in witness(kernel, inputs).items() if name in ("output", "state")}
    assert_close({"output": output.cpu(), "state": state.cpu()}, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "delta"])
def test_fast_decays(kernel):
    inputs = make(kernel, **SHAPE | {"decay": 30.0}, dtype=torch.float32, device="cuda")
    actual = {name: x.cpu() for name, x in run(kernel, inputs, "fused").items()}
    assert_close(actual, witness(kernel, inputs), TOLERANCE[torch.float32])


@each_kernel
def test_auto_takes_the_fused_body(kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.float32, device="cuda")
    auto, fused = run(kernel, inputs, "auto"), run(kernel, inputs, "fused")
    assert_close(auto, fused, 1e-6)


@each_kernel
def test_chunks_on_the_gpu(kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.float64, device="cuda")
    actual = {name: x.cpu() for name, x in run(kernel, inputs, "chunk").items()}
    assert_close(actual, witness(kernel, inputs), 1e-9)


@each_kernel
def test_float64_is_refused(kernel):
    with pytest.raises(ValueError, match="float32 at most; got float64"):
        KERNELS[kernel](**make(kernel, **SHAPE, dtype=torch.float64, device="cuda"), backend="fused")

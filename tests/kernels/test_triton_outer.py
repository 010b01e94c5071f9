"""The kernel written by hand against the definition: under Triton's interpreter, or compiled on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from cases import assert_close, make, run
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import kernels

if find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)

import triton

from hybrid.kernels import triton_outer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SHAPE = dict(batch=1, length=17, heads=2, width=5, values=3, with_state=True, decay=1.0, seed=2)

both = pytest.mark.parametrize("kernel", ["outer, decay a head", "outer, decay a channel"])


@pytest.fixture(autouse=True, scope="module")
def by_hand():
    """The kernel as a backend, so that it is called just as the bodies it is compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BACKENDS", (*kernels.BACKENDS, "triton_outer"))
        yield


def compare(kernel, inputs, tolerance=1e-10):
    expected = run(kernel, {name: x.double().cpu() for name, x in inputs.items()}, "recurrent", scale=0.3)
    actual = run(kernel, inputs, "triton_outer", scale=0.3)
    assert actual["output"].dtype == inputs["v"].dtype
    assert all(actual[f"gradient of {name}"].dtype == x.dtype for name, x in inputs.items())
    assert_close({name: x.cpu() for name, x in actual.items()}, expected, tolerance)
    return actual


@both
@pytest.mark.parametrize("length", [1, 17, 33])
@pytest.mark.parametrize("with_state", [False, True])
def test_it_is_recurrent_at_odd_lengths(kernel, length, with_state):
    shape = SHAPE | {"length": length, "with_state": with_state}
    compare(kernel, make(kernel, **shape, dtype=torch.float64, device=DEVICE))


@both
@settings(max_examples=6, deadline=None)
@given(
    shape=st.fixed_dictionaries(
        {
            "batch": st.integers(1, 2),
            "length": st.integers(1, 35),
            "heads": st.integers(1, 2),
            "width": st.sampled_from([1, 3, 16, 33]),
            "values": st.sampled_from([1, 16, 35]),
            "with_state": st.booleans(),
            "decay": st.sampled_from([0.0, 0.01, 1.0, 30.0]),
            "seed": st.integers(0, 2**31),
        }
    ),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_it_is_recurrent_for_all_shapes(kernel, shape, dtype):
    compare(kernel, make(kernel, **shape, dtype=dtype, device=DEVICE), TOLERANCE[dtype])


@both
@pytest.mark.parametrize("pattern", ["every step", "every third step", "none", "wiped once"])
def test_any_strength_of_decay_is_safe(kernel, pattern):
    inputs = make(kernel, **SHAPE | {"length": 33, "heads": 1}, dtype=torch.float32, device=DEVICE)
    g = inputs["log_decay"]
    g.zero_()
    if pattern == "every step":
        g.fill_(-30.0)
    elif pattern == "every third step":
        g[:, ::3] = -30.0
    elif pattern == "wiped once":
        g[:, 20] = -torch.inf
    compare(kernel, inputs, TOLERANCE[torch.float32])


@both
@pytest.mark.parametrize("heads", [1, 2])
def test_tensors_may_lie_in_memory_in_any_order(kernel, heads):
    """With one head the stride of that axis says nothing, and PyTorch calls the tensor contiguous."""
    inputs = make(kernel, **SHAPE | {"heads": heads}, dtype=torch.float64, device=DEVICE)
    expected = run(kernel, {name: x.cpu() for name, x in inputs.items()}, "recurrent")
    turned = {
        name: torch.empty(x.transpose(1, 2).shape).to(x).copy_(x.transpose(1, 2)).transpose(1, 2)
        for name, x in inputs.items()
    }
    if heads == 1:
        assert turned["log_decay"].stride(2) > turned["log_decay"].stride(1)
    leaves = {name: x.detach().requires_grad_() for name, x in turned.items()}
    output, state = triton_outer.gated_outer(**leaves, scale=SHAPE["width"] ** -0.5)
    assert_close(
        {"output": output.cpu(), "state": state.cpu()}, {n: expected[n] for n in ("output", "state")}, 1e-10
    )


@both
def test_bfloat16_inputs_keep_a_float32_state(kernel):
    inputs = make(kernel, **SHAPE, dtype=torch.bfloat16, device=DEVICE)
    actual = compare(kernel, inputs, 2**-7)
    assert actual["state"].dtype == torch.float32


def test_states_are_kept_for_gradients_only(monkeypatch):
    inputs = make("outer, decay a head", **SHAPE, dtype=torch.float64, device=DEVICE)
    kept = []
    monkeypatch.setattr(
        triton_outer, "_forward", {(2, 1): lambda *args, keep, **_: kept.append((keep, args[6].shape[1]))}
    )
    for grad in (False, True):
        inputs["q"].requires_grad_(grad)
        triton_outer.gated_outer(**inputs, scale=1.0)
    assert kept == [(False, 0), (True, 2)]


def refused(message, **wrong):
    inputs = make("outer, decay a channel", **SHAPE, dtype=torch.float32, device=DEVICE) | wrong
    with pytest.raises(ValueError, match=message):
        triton_outer.gated_outer(**inputs, scale=1.0)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("q", (1, 17, 2, 129), r"q must have shape \[B, T, H, 1 <= K <= 128\].*; got \(1, 17, 2, 129\)"),
        ("q", (17, 2, 5), r"q must have shape .*; got \(17, 2, 5\)"),
        ("q", (1, 0, 2, 5), r"q must have shape .*; got \(1, 0, 2, 5\)"),
        ("k", (1, 17, 2, 4), r"k must have shape \(1, 17, 2, 5\); got \(1, 17, 2, 4\)"),
        ("v", (1, 16, 2, 3), r"v must have shape \(1, 17, 2, 3\); got \(1, 16, 2, 3\)"),
        ("log_decay", (1, 17, 2, 3), r"log_decay must have shape \(1, 17, 2, 5\); got \(1, 17, 2, 3\)"),
        ("log_decay", (1, 17), r"log_decay must have shape \(1, 17, 2\); got \(1, 17\)"),
        ("state", (1, 2, 3, 5), r"state must have shape \(1, 2, 5, 3\); got \(1, 2, 3, 5\)"),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    refused(message, **{name: torch.zeros(shape, device=DEVICE)})


def test_tensors_of_two_devices_are_named():
    refused("all tensors must be on one device; got .*meta", v=torch.zeros(1, 17, 2, 3, device="meta"))


@pytest.mark.skipif(DEVICE == "cuda", reason="tensors on a GPU need no interpreter")
def test_a_cpu_without_the_interpreter_is_told_what_to_set(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not triton.knobs.runtime.interpret
    refused("tensors on cpu need Triton's interpreter: .* TRITON_INTERPRET=1 before triton is imported")

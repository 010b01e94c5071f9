"""Numbers that break careless chunking: fast decays, saturated gates, repeated keys, long sequences."""

from __future__ import annotations

import pytest
import torch
from cases import KERNELS, assert_close, make, run

SHAPE = dict(batch=2, length=150, heads=2, width=16, values=8, with_state=True, decay=1.0, seed=3)

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def compare(kernel, inputs, tolerance=1e-4):
    expected = run(kernel, {name: x.double() for name, x in inputs.items()}, "recurrent")
    assert_close(run(kernel, inputs, "chunk"), expected, tolerance)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "delta"])
@pytest.mark.parametrize("pattern", ["every step", "every third step", "one step", "half the channels"])
def test_decays_of_thirty_a_step(kernel, pattern):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    decayed(inputs["log_decay"], pattern, -30.0)
    compare(kernel, inputs)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "delta"])
@pytest.mark.parametrize("pattern", ["every step", "every third step", "one step", "half the channels"])
def test_what_is_forgotten_altogether_leaves_no_trace(kernel, pattern):
    inputs = make(kernel, **SHAPE, dtype=torch.float64)
    decayed(inputs["log_decay"], pattern, -torch.inf)
    with torch.no_grad():
        expected = KERNELS[kernel](**inputs, backend="recurrent")
        actual = KERNELS[kernel](**inputs, backend="chunk")
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right)


def decayed(g, pattern, by):
    g.mul_(0.01)
    if pattern == "every step":
        g.fill_(by)
    elif pattern == "every third step":
        g[:, ::3] = by
    elif pattern == "one step":
        g[:, 40] = by
    else:
        g[..., ::2] = by


@pytest.mark.parametrize("kernel", ["delta", "delta, decaying"])
@pytest.mark.parametrize("beta", [0.0, 1.0, "either"])
@pytest.mark.parametrize("keys", ["random", "one", "two in turn", "runs", "none"])
def test_saturated_gates_and_repeated_keys(kernel, beta, keys):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    if "log_decay" in inputs:
        inputs["log_decay"].mul_(0.01)
    k = inputs["k"]
    if keys == "one":
        k[:] = k[:, :1]
    elif keys == "two in turn":
        k[:, ::2], k[:, 1::2] = k[:, :1], k[:, 1:2]
    elif keys == "runs":
        k[:] = k[:, ::50].repeat_interleave(50, 1)
    elif keys == "none":
        k.zero_()
    inputs["beta"] = (
        (inputs["beta"] > 0.5).float() if beta == "either" else torch.full_like(inputs["beta"], beta)
    )
    compare(kernel, inputs)


def test_a_full_write_is_read_back_exactly():
    k = torch.eye(16, dtype=torch.float64)[torch.arange(64) % 16].view(1, 64, 1, 16)
    v = torch.randn(1, 64, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    beta = torch.ones(1, 64, 1, dtype=torch.float64)
    output, state = KERNELS["delta"](k, k, v, beta, scale=1.0, backend="chunk")
    torch.testing.assert_close(output, v)
    torch.testing.assert_close(state[0, 0], v[0, -16:, 0])


@each_kernel
@pytest.mark.parametrize("decay", [0.001, 30.0])
def test_eight_thousand_steps(kernel, decay):
    shape = SHAPE | {"batch": 1, "length": 8192, "heads": 1, "width": 4, "values": 3, "decay": decay}
    inputs = make(kernel, **shape, dtype=torch.float32)
    with torch.no_grad():
        expected = KERNELS[kernel](**{n: x.double() for n, x in inputs.items()}, backend="recurrent")
        actual = KERNELS[kernel](**inputs, backend="chunk")
    for name, left, right in zip(("output", "state"), actual, expected, strict=True):
        assert_close({name: left}, {name: right}, 1e-4)

"""The definitions and the chunked bodies against flash-linear-attention's own reference loops."""

from __future__ import annotations

import importlib

import pytest
import torch
from cases import KERNELS, assert_close, make

SHAPE = dict(batch=2, length=90, heads=3, width=12, values=10, with_state=True, decay=1.0, seed=5)

both = pytest.mark.parametrize("backend", ["recurrent", "chunk"])


def naive(module: str, function: str):
    return getattr(importlib.import_module(f"fla.ops.{module}.naive"), function)


def compare(kernel, inputs, backend, output, state):
    results = KERNELS[kernel](**inputs, backend=backend)
    actual = dict(zip(("output", "state"), results, strict=True))
    assert_close(actual, {"output": output, "state": state}, 1e-5)


@both
def test_hgrn(backend):
    inputs = make("scan", **SHAPE, dtype=torch.float32)
    reference = naive("hgrn", "naive_recurrent_hgrn")
    expected = reference(inputs["x"], inputs["log_decay"], inputs["state"], output_final_state=True)
    compare("scan", inputs, backend, *expected)


@both
def test_gla(backend):
    inputs = make("outer, decay a channel", **SHAPE, dtype=torch.float32)
    reference = naive("gla", "naive_recurrent_gla")
    expected = reference(*inputs.values(), output_final_state=True)
    compare("outer, decay a channel", inputs, backend, *expected)


@both
@pytest.mark.parametrize("form", ["naive_recurrent_simple_gla", "naive_chunk_simple_gla"])
def test_simple_gla(backend, form):
    inputs = make("outer, decay a head", **SHAPE, dtype=torch.float32)
    q, k, v, g, state = inputs.values()
    expected = naive("simple_gla", form)(q, k, v, g, initial_state=state, output_final_state=True)
    compare("outer, decay a head", inputs, backend, *expected)


@both
def test_retention(backend):
    inputs = make("outer, decay a head", **SHAPE | {"with_state": False}, dtype=torch.float32)
    heads = torch.arange(SHAPE["heads"], dtype=torch.float32)
    inputs["log_decay"] = torch.log1p(-(2.0 ** (-5.0 - heads))).expand_as(inputs["log_decay"])
    reference = naive("retention", "naive_retention")
    expected = reference(*(inputs[name].transpose(1, 2) for name in "qkv")).transpose(1, 2)
    output, _ = KERNELS["outer, decay a head"](**inputs, backend=backend)
    assert_close({"output": output}, {"output": expected}, 1e-5)


@both
def test_delta_rule(backend):
    inputs = make("delta", **SHAPE, dtype=torch.float32)
    heads_first = (inputs[name].transpose(1, 2) for name in ("q", "k", "v", "beta"))
    reference = naive("delta_rule", "delta_rule_recurrence")
    output, state = reference(*heads_first, initial_state=inputs["state"])
    compare("delta", inputs, backend, output.transpose(1, 2), state)


@both
@pytest.mark.parametrize("form", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
def test_gated_delta_rule(backend, form):
    inputs = make("delta, decaying", **SHAPE, dtype=torch.float32)
    q, k, v, beta, g, state = inputs.values()
    reference = naive("gated_delta_rule", form)
    expected = reference(q, k, v, beta=beta, g=g, initial_state=state, output_final_state=True)
    compare("delta, decaying", inputs, backend, *expected)

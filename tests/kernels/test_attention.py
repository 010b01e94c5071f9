"""Softmax attention: PyTorch's kernel against the definition, windows, grouped heads, cached keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.kernels import attention, softmax_attention

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def draw(seed, batch, queries, past, groups, per_group, width, values, dtype):
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, queries, groups * per_group, width),
        (batch, queries + past, groups, width),
        (batch, queries + past, groups, values),
    )
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def with_gradients(inputs, **options):
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = softmax_attention(*inputs, **options)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return output, *torch.autograd.grad(output, inputs, weights.to(output))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    queries=st.integers(1, 70),
    past=st.sampled_from([0, 1, 5, 40]),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    width=st.integers(1, 9),
    values=st.integers(1, 9),
    window=st.one_of(st.none(), st.integers(1, 130)),
    block=st.sampled_from([7, 512]),
)
def test_chunk_is_recurrent(
    dtype, seed, batch, queries, past, groups, per_group, width, values, window, block
):
    inputs = draw(seed, batch, queries, past, groups, per_group, width, values, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "QUERY_BLOCK", block)
        actual = with_gradients(inputs, window=window, backend="chunk")
    expected = with_gradients([x.double() for x in inputs], window=window, backend="recurrent")
    for left, right in zip(actual, expected, strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left.double(), right, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    queries=st.integers(1, 70),
    past=st.sampled_from([1, 5, 40, 700]),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    width=st.integers(1, 9),
    sharpness=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_reading_on_without_gradients_is_recurrent(
    dtype, seed, queries, past, groups, per_group, width, sharpness
):
    q, k, v = draw(seed, 2, queries, past, groups, per_group, width, width, dtype)
    q = sharpness * q
    with torch.no_grad():
        actual = softmax_attention(q, k, v)
    expected = softmax_attention(q.double(), k.double(), v.double(), backend="recurrent")
    assert actual.dtype == dtype
    # Sharp scores are off by what their size makes of a rounding error.
    tolerance = TOLERANCE[dtype] * max(1.0, sharpness / 10)
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
def test_masked_softmax_written_out(backend):
    q, k, v = draw(0, 2, 20, 0, 2, 2, 8, 6, torch.float64)
    i = torch.arange(20)
    age = i[:, None] - i
    full = torch.einsum("bthk,bshk->bhts", q, k.repeat_interleave(2, 2)) * 0.5
    full = full.masked_fill((age < 0) | (age >= 7), -torch.inf).softmax(-1)
    expected = torch.einsum("bhts,bshv->bthv", full, v.repeat_interleave(2, 2))
    actual = softmax_attention(q, k, v, window=7, scale=0.5, backend=backend)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_cached_prefix_changes_nothing(backend, window):
    q, k, v = draw(1, 2, 30, 0, 1, 2, 4, 4, torch.float64)
    whole = softmax_attention(q, k, v, window=window, backend=backend)
    first = softmax_attention(q[:, :13], k[:, :13], v[:, :13], window=window, backend=backend)
    kept = 0 if window is None else 13 - (window - 1)
    second = softmax_attention(q[:, 13:], k[:, kept:], v[:, kept:], window=window, backend=backend)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_bfloat16_stays_bfloat16():
    inputs = [x.bfloat16() for x in draw(2, 1, 40, 0, 1, 2, 8, 8, torch.float64)]
    outputs = [softmax_attention(*inputs, backend=backend) for backend in ("chunk", "recurrent")]
    assert all(output.dtype == torch.bfloat16 for output in outputs)
    torch.testing.assert_close(*outputs, atol=2**-6, rtol=2**-6)

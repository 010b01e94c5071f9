"""The functions that chapter 02 defines, for all shapes and decays, against the definition of the kernels."""

import nbformat
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.kernels import gated_delta, gated_outer

CELLS = ("plain", "with-decay", "delta-code")


@pytest.fixture(scope="module")
def chapter():
    """Names that the chapter's cells of functions define."""
    notebook = nbformat.read(ROOT / "notebooks" / "02_linear_attention_three_ways.ipynb", as_version=4)
    names = {"torch": torch}
    for cell in notebook.cells:
        if cell.id in CELLS:
            exec(cell.source, names)
    return names


sizes = st.tuples(*(st.integers(1, most) for most in (40, 6, 5, 50)), st.integers(0, 2**16))


def draw(T, K, V, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(T, n, dtype=torch.float64) for n in (K, K, V))
    return q, torch.nn.functional.normalize(k, dim=-1), v, torch.rand(T, dtype=torch.float64)


def definition(kernel, *tensors):
    o, S = kernel(*(x[None, :, None] for x in tensors), scale=1.0, backend="recurrent")
    return o[0, :, 0], S[0, 0]


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_the_plain_forms_are_one_function(chapter, sizes):
    T, K, V, C, seed = sizes
    q, k, v, share = draw(T, K, V, seed)
    wanted, _ = definition(gated_outer, q, k, v, 0 * share)
    for o in (chapter["parallel"](q, k, v), chapter["recurrent"](q, k, v), chapter["chunked"](q, k, v, C)):
        torch.testing.assert_close(o, wanted, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([1e-3, 1.0, 50.0, 2000.0]))
def test_the_forms_with_decay_are_one_function_and_have_gradients(chapter, sizes, strength):
    T, K, V, C, seed = sizes
    q, k, v, share = draw(T, K, V, seed)
    g = (-strength * share).requires_grad_()
    wanted, end = definition(gated_outer, q, k, v, g)
    (slope,) = torch.autograd.grad(wanted.sum(), g)
    for form in (
        chapter["recurrent_decay"](q, k, v, g),
        chapter["chunked_decay"](q, k, v, g, C),
        (chapter["parallel_decay"](q, k, v, g), end),
    ):
        torch.testing.assert_close(form, (wanted, end), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(torch.autograd.grad(form[0].sum(), g)[0], slope, rtol=1e-8, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_the_delta_rule_in_chunks_is_the_delta_rule(chapter, sizes):
    T, K, V, C, seed = sizes
    q, k, v, beta = draw(T, K, V, seed)
    wanted = definition(gated_delta, q, k, v, beta)
    for form in (
        chapter["delta_recurrent"](q, k, v, beta),
        chapter["delta_chunked"](q, k, v, beta, C),
    ):
        torch.testing.assert_close(form, wanted, rtol=1e-9, atol=1e-9)

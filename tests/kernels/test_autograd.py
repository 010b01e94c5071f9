"""Second derivatives are right or refused; backward passes keep their types, and work under checkpointing."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cases import KERNELS, make
from torch.autograd.function import Function
from torch.utils.checkpoint import checkpoint

import hybrid

PACKAGE = Path(hybrid.__file__).parent
SHAPE = dict(batch=2, length=37, heads=2, width=8, values=5, with_state=True, decay=1.0, seed=11)
LOSSES = {"a sum": torch.sum, "a sum of squares": lambda x: x.square().sum()}
REFUSAL = r'cannot be differentiated \(create_graph=True\): use backend="recurrent"'

each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def differentiated_twice(function, inputs, loss) -> list[torch.Tensor]:
    """Gradients of a function of the gradients of a loss of all results."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    results = function(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    total = sum(LOSSES[loss](result) for result in results)
    first = torch.autograd.grad(total, inputs, create_graph=True, materialize_grads=True)
    again = sum(
        (x * torch.cos(torch.arange(x.numel(), dtype=x.dtype)).view_as(x)).square().sum() for x in first
    )
    # Gradients of what is linear are constants.
    return torch.autograd.grad(again + 0 * total, inputs, materialize_grads=True)


def of_kernel(kernel, backend, names):
    return lambda *tensors: KERNELS[kernel](**dict(zip(names, tensors, strict=True)), backend=backend)


def right_or_refused(function, inputs, loss, expected, name=""):
    """Whether second derivatives are refused, by an error that names the function; else they are right."""
    try:
        actual = differentiated_twice(function, inputs, loss)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=rf"backward pass of \w*{name} .*{REFUSAL}"):
            raise error
        return True
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    return False


@each_kernel
@each_loss
@pytest.mark.parametrize("backend", ["auto", "recurrent", "chunk"])
@pytest.mark.parametrize("length", [1, 8, 37])
def test_second_derivatives_of_kernels_are_the_loops_or_refused(kernel, loss, backend, length):
    inputs = make(kernel, **SHAPE | {"length": length}, dtype=torch.float64)
    expected = differentiated_twice(of_kernel(kernel, "recurrent", inputs), inputs.values(), loss)
    assert any(x.abs().max() > 1e-3 for x in expected)
    refused = right_or_refused(of_kernel(kernel, backend, inputs), inputs.values(), loss, expected)
    assert refused == (backend == "chunk" or (backend == "auto" and length > 8))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [1, 33])
def test_second_derivatives_of_fused_kernels_are_refused(fused_device, kernel, length):
    shape = SHAPE | {"batch": 1, "length": length, "heads": 1}
    inputs = make(kernel, **shape, dtype=torch.float32, device=fused_device)
    for x in inputs.values():
        x.requires_grad_()
    output, state = KERNELS[kernel](**inputs, backend="fused")
    for result in (output, state):
        with pytest.raises(RuntimeError, match=REFUSAL):
            torch.autograd.grad(result.sum(), inputs.values(), create_graph=True, allow_unused=True)


def written_by_hand() -> dict[str, type[Function]]:
    """Every `Function` that a module of the package defines; Triton is for Linux."""
    sources = [path for path in PACKAGE.rglob("*.py") if "(Function):" in path.read_text()]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in sources]
    modules = [import_module(n) for n in names if find_spec("triton") or not n.endswith("triton_outer")]
    return {
        name: item
        for module in modules
        for name, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, Function) and item.__module__ == module.__name__
    }


def scan(a, x, s):
    states = [s]
    for a_n, x_n in zip(a, x, strict=True):
        states.append(a_n * states[-1] + x_n)
    return states


def delta_scan(a, k, u, e, s):
    states, writes = [s], []
    for a_n, k_n, u_n, e_n in zip(a, k, u, e, strict=True):
        writes.append(u_n + e_n @ states[-1])
        states.append(a_n * states[-1] + k_n @ writes[-1])
    return torch.stack(states[:-1]), states[-1], torch.stack(writes)


def scores(q, k, g):
    sums = g.cumsum(1)
    between = (sums.unsqueeze(2) - sums.unsqueeze(1)).exp()
    return (
        torch.einsum("bik,bjk,bijk->bij", q, k, between).tril(),
        sums.exp(),
        (sums[:, -1:] - sums).exp(),
    )


def vector_scan(x, g, s):
    states = scan(g.exp().unbind(1), x.unbind(1), s)[1:]
    return torch.stack(states, 1), states[-1]


def diagonal_scan(a, x, s):
    states = scan(a, x, s)
    return torch.stack(states[:-1]), states[-1]


FORMULAS = {
    "RowProducts": (lambda a, b: a @ b.mT, [(3, 4, 5), (3, 6, 5)]),
    "ColumnProducts": (lambda a, b: a.mT @ b, [(3, 5, 4), (3, 5, 6)]),
    "Products": (torch.matmul, [(3, 4, 5), (3, 5, 6)]),
    "AddedProducts": (lambda x, a, b: x + a @ b, [(3, 4, 6), (3, 4, 5), (3, 5, 6)]),
    "DiagonalScan": (diagonal_scan, [(4, 2, 3, 1), (4, 2, 3, 5), (2, 3, 5)]),
    "VectorScan": (vector_scan, [(2, 6, 3), (2, 6, 3), (2, 3)]),
    "DeltaScan": (delta_scan, [(3, 2, 1, 1), (3, 2, 4, 5), (3, 2, 5, 6), (3, 2, 5, 4), (2, 4, 6)]),
    "UnitLowerInverse": (lambda x: torch.linalg.inv(torch.eye(5) + x.tril(-1)), [(3, 5, 5)]),
    "DecayedScores": (scores, [(3, 4, 5), (3, 4, 5), (3, 4, 5)]),
    "Rotation": (lambda x, c, s: x * c + x.roll(3, -1) * s, [(2, 4, 3, 6), (4, 1, 6), (4, 1, 6)]),
}
"""Every function written by hand: the same in operations that PyTorch differentiates, and shapes."""
EXTRA = {"VectorScan": (2,)}
"""Arguments that are no tensors."""
CONSTANT = {"Rotation": 1}
"""How many of the inputs are differentiated, where not all."""


def test_every_function_is_known():
    # What is written in Triton has inputs of its own, below.
    assert written_by_hand().keys() - {"GatedOuter"} == FORMULAS.keys()


@each_loss
@pytest.mark.parametrize("name", FORMULAS)
def test_second_derivatives_of_functions_are_right_or_refused(name, loss):
    torch.manual_seed(0)
    formula, shapes = FORMULAS[name]
    inputs, count = [-torch.rand(shape, dtype=torch.float64) for shape in shapes], CONSTANT.get(name)
    inputs, constant = inputs[:count], inputs[count:] if count else []
    if constant:
        angle = torch.randn(4, 1, 3, dtype=torch.float64)
        constant = [torch.cat([angle.cos()] * 2, -1), torch.cat((-angle.sin(), angle.sin()), -1)]
    function = written_by_hand()[name]
    expected = differentiated_twice(lambda *x: formula(*x, *constant), inputs, loss)
    refused = right_or_refused(
        lambda *x: function.apply(*x, *constant, *EXTRA.get(name, ())), inputs, loss, expected, name
    )
    assert refused == (name != "Rotation")


def test_second_derivatives_of_the_kernel_written_in_triton_are_refused(fused_device):
    triton_outer = import_module("hybrid.kernels.triton_outer")
    inputs = make("outer, decay a head", **SHAPE, dtype=torch.float64, device=fused_device)
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    output, _ = triton_outer.gated_outer(**inputs, scale=1.0)
    with pytest.raises(RuntimeError, match=rf"backward pass of GatedOuter .*{REFUSAL}"):
        torch.autograd.grad(output.sum(), inputs["k"], create_graph=True)


def trained(kernel, inputs, backend, through=lambda function, *tensors: function(*tensors)):
    """Results and gradients of one backward pass of a sum of squares, through a wrapper of the kernel."""
    tensors = [x.detach().clone().requires_grad_() for x in inputs.values()]
    output, state = through(of_kernel(kernel, backend, inputs), *tensors)
    (output.square().sum() + state.square().sum()).backward()
    return output, state, *(x.grad for x in tensors)


def assert_equal(actual, expected):
    for left, right in zip(actual, expected, strict=True):
        assert left.dtype == right.dtype and torch.equal(left, right)


@each_kernel
@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_gradients_are_the_same(kernel, backend, use_reentrant):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    actual = trained(kernel, inputs, backend, lambda f, *x: checkpoint(f, *x, use_reentrant=use_reentrant))
    assert_equal(actual, trained(kernel, inputs, backend))


@each_kernel
@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 37, 130])
def test_a_backward_pass_under_mixed_precision_gives_the_same_bits(kernel, backend, dtype, length):
    inputs = make(kernel, **SHAPE | {"length": length}, dtype=dtype)
    expected = trained(kernel, inputs, backend)
    with torch.autocast("cpu", torch.bfloat16):
        actual = trained(kernel, inputs, backend)
    assert_equal(actual, expected)


@each_kernel
@pytest.mark.parametrize("backend", ["recurrent", "chunk"])
def test_checkpoints_under_mixed_precision_give_the_same_bits(kernel, backend):
    inputs = make(kernel, **SHAPE, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = trained(kernel, inputs, backend, lambda f, *x: checkpoint(f, *x, use_reentrant=False))
    assert_equal(actual, trained(kernel, inputs, backend))


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_what_backward_accumulates_is_refused_too():
    inputs = make("outer, decay a head", **SHAPE, dtype=torch.float64)
    inputs["k"].requires_grad_()
    output, _ = KERNELS["outer, decay a head"](**inputs, backend="chunk")
    with pytest.raises(RuntimeError, match=REFUSAL):
        output.sum().backward(create_graph=True)


def test_a_gradient_of_the_output_itself_may_be_differentiated():
    inputs = make("scan", **SHAPE, dtype=torch.float64)
    inputs["x"].requires_grad_()
    output, _ = KERNELS["scan"](**inputs, backend="chunk")
    (gradient,) = torch.autograd.grad(output.pow(3).sum(), output, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), output)
    torch.testing.assert_close(second, 6 * output)

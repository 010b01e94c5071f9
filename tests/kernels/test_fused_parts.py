"""What stands around the fused kernels against the PyTorch code that defines it, which float64 takes."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import assert_close
from flat import flat_config

from hybrid.mixers.conv import ShortConv
from hybrid.mixers.norms import GatedRMSNorm, RMSNorm, l2_norm
from hybrid.models.hybrid_lm import IGNORED, row_mean_loss
from hybrid.models.mlps import SwiGLU

ON_A_GPU = torch.cuda.is_available()
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2} if ON_A_GPU else {torch.float32: 1e-4}
each_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def mlp(inner: int) -> SwiGLU:
    return SwiGLU(flat_config("m", hidden_size=8, mlp_size=inner))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def differentiated(function, module, inputs) -> dict[str, torch.Tensor]:
    """Output, and the gradients of inputs and parameters, of a random function of it."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(module, *inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (output * weights.to(output)).sum().backward()
    gradients = {f"gradient of input {i}": x.grad for i, x in enumerate(inputs)}
    return {"output": output} | gradients | {name: p.grad for name, p in module.named_parameters()}


def compare(function, module, inputs, dtype, device):
    """Parameters are float32, as where the forward pass alone is in bfloat16."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    expected = differentiated(function, copy.deepcopy(module).double(), [x.double() for x in inputs])
    actual = differentiated(function, module.to(device), [x.to(device, dtype) for x in inputs])
    assert actual["output"].dtype == dtype
    assert_close({name: x.cpu() for name, x in actual.items()}, expected, TOLERANCE[dtype])


@each_type
@pytest.mark.parametrize("shape", [(2, 5, 32), (1, 3, 2, 17)])
def test_norms(fused_device, dtype, shape):
    x, gate = torch.randn(2, *shape).to(dtype)
    width = shape[-1]
    compare(lambda norm, x: norm(x), RMSNorm(width, 1e-2), [x], dtype, fused_device)
    compare(lambda norm, x, g: norm(x, g), GatedRMSNorm(width, 1e-2), [x, gate], dtype, fused_device)
    compare(lambda _, x: l2_norm(x, 1e-2), torch.nn.Module(), [x], dtype, fused_device)


@each_type
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("width", "length"), [(2, 9), (3, 2), (4, 2), (4, 70)])
def test_short_convolution(fused_device, dtype, silu, width, length):
    x, tail = torch.randn(2, length, 5).to(dtype), torch.randn(2, width - 1, 5).to(dtype)
    conv = ShortConv(5, width, silu)
    compare(lambda conv, x: conv(x)[0], conv, [x], dtype, fused_device)
    conv.zero_grad()
    compare(lambda conv, x, tail: conv(x, tail)[0], conv.cpu(), [x, tail], dtype, fused_device)


@each_type
def test_swiglu(fused_device, dtype):
    with torch.autocast(fused_device, dtype, enabled=dtype != torch.float32):
        compare(lambda mlp, x: mlp(x)[0], mlp(19), [torch.randn(2, 5, 8)], dtype, fused_device)


@each_type
def test_loss(fused_device, dtype):
    logits, labels = torch.randn(3, 7, 33).to(dtype), torch.randint(33, (3, 7))
    labels[0, 2:] = labels[1] = IGNORED
    place = labels.to(fused_device)
    exact = differentiated(lambda _, x: row_mean_loss(x, labels), torch.nn.Module(), [logits.double()])
    ours = differentiated(lambda _, x: row_mean_loss(x, place), torch.nn.Module(), [logits.to(fused_device)])
    assert ours["output"].dtype == torch.float32
    assert_close({name: x.cpu() for name, x in ours.items()}, exact, TOLERANCE[dtype])


def test_the_fused_parts_are_what_runs(fused_device, monkeypatch):
    """So that the comparisons above compare two things."""
    from hybrid.kernels import fused_parts

    ran = []
    for name in ("rms_norm", "gated_rms_norm", "l2_norm", "short_conv", "swiglu", "cross_entropy"):
        body = getattr(fused_parts, name)
        monkeypatch.setattr(fused_parts, name, lambda *a, n=name, f=body: ran.append(n) or f(*a))
    x = torch.randn(1, 3, 8, device=fused_device)
    RMSNorm(8, 1e-6).to(x)(x), GatedRMSNorm(8, 1e-6).to(x)(x, x), l2_norm(x)
    ShortConv(8, 2).to(x)(x), mlp(8).to(x)(x), row_mean_loss(x, torch.ones_like(x[..., 0]).long())
    assert ran == ["rms_norm", "gated_rms_norm", "l2_norm", "short_conv", "swiglu", "cross_entropy"]

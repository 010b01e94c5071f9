"""Random inputs for the kernels, and what a kernel does to them, forwards and backwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from hybrid import kernels

KERNELS = {
    "scan": kernels.gated_scan,
    "outer, decay a head": kernels.gated_outer,
    "outer, decay a channel": kernels.gated_outer,
    "delta": kernels.gated_delta,
    "delta, decaying": kernels.gated_delta,
}

LENGTHS = st.one_of(st.integers(1, 150), st.sampled_from([1, 2, 16, 17, 63, 64, 65, 100, 128, 129]))

shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": LENGTHS,
        "heads": st.integers(1, 3),
        "width": st.sampled_from([1, 2, 3, 5, 8, 16, 33, 70]),
        "values": st.sampled_from([1, 3, 7, 16, 20]),
        "with_state": st.booleans(),
        "decay": st.sampled_from([0.0, 0.01, 1.0, 30.0]),
        "seed": st.integers(0, 2**31),
    }
)


def make(
    kernel: str,
    *,
    batch: int,
    length: int,
    heads: int,
    width: int,
    values: int,
    with_state: bool,
    decay: float,
    seed: int,
    dtype: torch.dtype,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """Arguments of one of `KERNELS` by name; log decays are drawn from [-decay, 0]."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, law=torch.randn) -> torch.Tensor:
        return law(*shape, generator=generator, dtype=torch.float64)

    if kernel == "scan":
        inputs = {
            "x": draw(batch, length, width),
            "log_decay": -decay * draw(batch, length, width, law=torch.rand),
        }
        state = draw(batch, width)
    else:
        q, k, v = (draw(batch, length, heads, n) for n in (width, width, values))
        inputs = {"q": q, "k": F.normalize(k, dim=-1), "v": v}
        state = draw(batch, heads, width, values)
        channels = (width,) if kernel == "outer, decay a channel" else ()
        log_decay = -decay * draw(batch, length, heads, *channels, law=torch.rand)
        if kernel.startswith("delta"):
            inputs["beta"] = draw(batch, length, heads, law=torch.rand)
        if kernel != "delta":
            inputs["log_decay"] = log_decay
    if with_state:
        inputs["state"] = state
    return {name: tensor.to(device, dtype) for name, tensor in inputs.items()}


def run(kernel: str, inputs: dict[str, torch.Tensor], backend: str, **options) -> dict[str, torch.Tensor]:
    """Output, final state and the gradient of every input of a random function of both."""
    inputs = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    output, state = KERNELS[kernel](**inputs, backend=backend, **options)
    generator = torch.Generator().manual_seed(0)
    loss = 0
    for result in (output, state):
        weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        loss = loss + (result * weights.to(result)).sum()
    loss.backward()
    return {"output": output, "state": state} | {f"gradient of {n}": x.grad for n, x in inputs.items()}


def assert_close(actual: dict, expected: dict, tolerance: float) -> None:
    """Every tensor finite and within `tolerance` of the other, relative to its largest entry."""
    assert actual.keys() == expected.keys()
    for name, right in expected.items():
        left = actual[name].double()
        assert left.isfinite().all(), f"{name} is not finite"
        scale = max(right.double().abs().max().item(), 1e-3)
        error = (left - right.double()).abs().max().item() / scale
        assert error <= tolerance, f"{name} differs by {error:.2e} of its largest entry"

"""Time of the kernels, forward and backward, beside their peers.

Peers are the PyTorch forms of the same kernels: flash-linear-attention's `naive` functions, which it
publishes as readable references, the bodies that transformers runs where no GPU kernel is installed, and
PyTorch's own scan.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import unwrap
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from hybrid import kernels
from hybrid.bench import BenchSpec, clock

SHAPE = {"batch": 4, "heads": 4, "width": 64, "values": 64}
"""Sequences, heads, key channels and value channels of every measurement."""

AGREEMENT = 1e-3
"""How far, relative to its largest entry, a peer's output may lie from ours before it is refused."""


def measure(spec: BenchSpec, progress: bool) -> dict:
    """Every kernel, forward and backward in float32, at the spec's lengths.

    Returns:
        ``limits``, see `clock.limits`, and ``kernels``, one row an implementation and length: kernel,
        implementation, length; ms and spread; ratio, its median over that of the fastest peer, below 1
        where it is faster (None without a peer); gflops, a second, counting for everyone the matrix
        products of our chunked body (None where it has none); share, of the rate of a large matrix
        product. A peer that is not installed has None for its numbers.

    Raises:
        ValueError: for a peer whose output is not ours.
    """
    limits = clock.limits(spec.device, spec.repeats)
    peak = clock.rate(limits, "product")
    rows = []
    cases = [(name, length) for length in spec.lengths for name in CASES]
    for name, length in (bar := tqdm(cases, desc="kernels", unit="case", disable=not progress)):
        bar.set_postfix_str(f"{name}, T={length}")
        rows += _case(name, length, spec, peak)
    return {"limits": limits, "kernels": rows}


def _inputs(length: int, device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    b, h, k, v = SHAPE.values()

    def draw(*shape: int) -> Tensor:
        return torch.randn(b, length, *shape, generator=generator)

    inputs = {
        "q": draw(h, k),
        "k": F.normalize(draw(h, k), dim=-1),
        "v": draw(h, v),
        "beta": draw(h).sigmoid(),
        "head_decay": F.logsigmoid(draw(h) + 4),
        "channel_decay": F.logsigmoid(draw(h, k) + 4),
        "x": draw(h * k),
        "x_decay": F.logsigmoid(draw(h * k) + 4),
    }
    return {name: tensor.to(device).requires_grad_() for name, tensor in inputs.items()}


def _peer(module: str, name: str, call: Callable | None = None) -> Callable:
    """A function of another project, imported when it is first called."""

    def peer(*inputs: Tensor) -> Tensor:
        # Unwrapped: transformers would hand its body over to GPU kernels.
        function = unwrap(getattr(import_module(module), name))
        return call(function, *inputs) if call else function(*inputs)[0]

    return peer


def _heads_first(function: Callable, *inputs: Tensor) -> Tensor:
    return function(*(x.transpose(1, 2) for x in inputs))[0].transpose(1, 2)


def _associative(scan: Callable, x: Tensor, log_decay: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + x_t is the composition of affine maps, which is associative."""

    def after(first: tuple, second: tuple) -> tuple:
        return first[0] * second[0], second[0] * first[1] + second[1]

    return scan(after, (log_decay.exp(), x), dim=1, combine_mode="generic")[1]


def _mamba2(scan: Callable, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """Mamba-2 with steps of length one, whose logarithm of the decay is that of each token."""
    steps = torch.ones_like(log_decay)
    return scan(v, steps, log_decay, k, q * q.shape[-1] ** -0.5, MAMBA2_CHUNK)


FLA = "fla.ops.{}.naive".format
TRANSFORMERS = "transformers.models.{0}.modeling_{0}".format
MAMBA2_CHUNK = 64
"""Tokens of a chunk of transformers' Mamba-2; its default, 256, takes longer here."""

CASES = {
    "gated_scan": (
        kernels.gated_scan,
        ("x", "x_decay"),
        {
            "torch associative_scan": _peer(
                "torch._higher_order_ops.associative_scan", "associative_scan", _associative
            )
        },
    ),
    "gated_outer, decay a head": (
        kernels.gated_outer,
        ("q", "k", "v", "head_decay"),
        {
            "fla naive_chunk_simple_gla": _peer(FLA("simple_gla"), "naive_chunk_simple_gla"),
            "transformers mamba2_chunk_scan": _peer(TRANSFORMERS("mamba2"), "mamba2_chunk_scan", _mamba2),
        },
    ),
    "gated_outer, decay a channel": (kernels.gated_outer, ("q", "k", "v", "channel_decay"), {}),
    "gated_delta, no decay": (
        kernels.gated_delta,
        ("q", "k", "v", "beta"),
        {
            "fla delta_rule_chunkwise": _peer(FLA("delta_rule"), "delta_rule_chunkwise", _heads_first),
            "transformers torch_chunk_gated_delta_rule": _peer(
                TRANSFORMERS("qwen3_next"),
                "torch_chunk_gated_delta_rule",
                lambda function, q, k, v, beta: function(q, k, v, g=torch.zeros_like(beta), beta=beta)[0],
            ),
        },
    ),
    "gated_delta": (
        kernels.gated_delta,
        ("q", "k", "v", "beta", "head_decay"),
        {
            "fla naive_chunk_gated_delta_rule": _peer(
                FLA("gated_delta_rule"),
                "naive_chunk_gated_delta_rule",
                lambda function, q, k, v, beta, g: function(q, k, v, g, beta)[0],
            ),
            "transformers torch_chunk_gated_delta_rule": _peer(
                TRANSFORMERS("qwen3_next"),
                "torch_chunk_gated_delta_rule",
                lambda function, q, k, v, beta, g: function(q, k, v, g=g, beta=beta)[0],
            ),
        },
    ),
}
"""For each case: our kernel, the names of its inputs, and its peers."""


def _case(name: str, length: int, spec: BenchSpec, peak: float) -> list[dict]:
    kernel, names, peers = CASES[name]
    everything = _inputs(length, spec.device)
    inputs = [everything[n] for n in names]
    backends = ("chunk", "fused") if spec.device == "cuda" else ("chunk",)
    ours = {f"hybrid {b}": lambda *x, backend=b: kernel(*x, backend=backend)[0] for b in backends}

    expected = ours["hybrid chunk"](*inputs).detach()
    present = ours | {n: peer for n, peer in peers.items() if _agrees(n, peer, inputs, expected)}
    passes = {n: _both_ways(function, inputs, expected) for n, function in present.items()}
    times = clock.in_turn(passes, spec.repeats, spec.device)

    best_peer = min((median(times[n]) for n in peers if n in times), default=None)
    work = _products(passes["hybrid chunk"])
    return [
        {
            "kernel": name,
            "length": length,
            "implementation": n,
            **_numbers(times.get(n), best_peer, work, peak),
        }
        for n in ours | peers
    ]


def _numbers(seconds: list[float] | None, best_peer: float | None, work: int, peak: float) -> dict:
    if seconds is None:
        return dict.fromkeys(("ms", "spread", "ratio", "gflops", "share"))
    middle = median(seconds)
    rate = work / middle if work else None
    return clock.summary(seconds) | {
        "ratio": middle / best_peer if best_peer else None,
        "gflops": rate and rate / 1e9,
        "share": rate and rate / peak,
    }


def _agrees(name: str, function: Callable, inputs: list[Tensor], expected: Tensor) -> bool:
    """Whether a peer is installed; one that computes something else is refused."""
    try:
        output = function(*inputs).detach()
    except ImportError:
        return False
    error = ((output - expected).abs().max() / expected.abs().max()).item()
    if not error <= AGREEMENT:
        raise ValueError(f"{name} differs from our output by {error:.1e} of its largest entry")
    return True


def _both_ways(function: Callable, inputs: list[Tensor], like: Tensor) -> Callable[[], object]:
    cotangent = torch.ones_like(like)
    return lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)


def _products(both_ways: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of one forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        both_ways()
    return counter.get_total_flops()

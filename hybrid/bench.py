"""Time of the kernels, forward and backward, beside their peers in the same run.

Peers are the PyTorch chunk forms that other projects publish as readable references:
flash-linear-attention's `naive` functions and the body that transformers runs where no GPU kernel
is installed. Every repeat times all of them one after another, so a busy machine slows all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import unwrap
from statistics import median, quantiles

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from hybrid import kernels

SHAPE = {"batch": 4, "heads": 4, "width": 64, "values": 64}
"""Sequences, heads, key channels and value channels of every measurement."""

MATRIX = 2048
"""Rows and columns of the matrix product that stands for what the device can do."""

AGREEMENT = 1e-3
"""How far, relative to its largest entry, a peer's output may lie from ours before it is refused."""


def bench_kernels(
    device: str = "cpu", lengths: Iterable[int] = (256, 2048, 8192), repeats: int = 5
) -> list[dict]:
    """Measure every kernel, forward and backward in float32, at the given lengths in tokens.

    Returns:
        One row an implementation and length: kernel, implementation, length, device, threads;
        ms (median) and spread (interquartile range over the median); ratio, its median over that of
        the fastest peer, below 1 where it is faster (None without a peer); gflops, a second, counting
        for everyone the matrix products of our chunked body (None where it has none); share, of the
        rate of a large matrix product. A peer that is not installed has None for its numbers.

    Raises:
        ValueError: for fewer than two repeats, or a peer whose output is not ours.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, to show a spread; got {repeats!r}")
    cases = [(name, length) for length in lengths for name in CASES]
    peak = _matrix_rate(device, repeats)
    rows = []
    for name, length in (bar := tqdm(cases, desc="kernels", unit="case")):
        bar.set_postfix_str(f"{name}, T={length}")
        rows += _bench_case(name, length, device, repeats, peak)
    return rows


def print_table(rows: list[dict]) -> None:
    """Print the rows of `bench_kernels` as a table of plain text."""
    from pandas import DataFrame

    columns = {
        "kernel": "kernel",
        "implementation": "implementation",
        "length": "T",
        "ms": "ms",
        "spread": "spread",
        "ratio": "ratio to best peer",
        "gflops": "GFLOP/s",
        "share": "of a large product",
    }
    table = DataFrame(rows)[list(columns)].rename(columns=columns)
    shares = dict.fromkeys(("spread", "of a large product"), "{:.0%}".format)
    numbers = {"ms": "{:.1f}".format, "ratio to best peer": "{:.2f}".format, "GFLOP/s": "{:.1f}".format}
    print(table.to_string(index=False, na_rep="-", formatters=shares | numbers))


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


FLA = "fla.ops.{}.naive".format
QWEN = "transformers.models.qwen3_next.modeling_qwen3_next"

CASES = {
    "gated_scan": (kernels.gated_scan, ("x", "x_decay"), {}),
    "gated_outer, decay a head": (
        kernels.gated_outer,
        ("q", "k", "v", "head_decay"),
        {"fla naive_chunk_simple_gla": _peer(FLA("simple_gla"), "naive_chunk_simple_gla")},
    ),
    "gated_outer, decay a channel": (kernels.gated_outer, ("q", "k", "v", "channel_decay"), {}),
    "gated_delta, no decay": (
        kernels.gated_delta,
        ("q", "k", "v", "beta"),
        {"fla delta_rule_chunkwise": _peer(FLA("delta_rule"), "delta_rule_chunkwise", _heads_first)},
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
                QWEN,
                "torch_chunk_gated_delta_rule",
                lambda function, q, k, v, beta, g: function(q, k, v, g=g, beta=beta)[0],
            ),
        },
    ),
}
"""For each case: our kernel, the names of its inputs, and its peers."""


def _bench_case(name: str, length: int, device: str, repeats: int, peak: float) -> list[dict]:
    kernel, names, peers = CASES[name]
    everything = _inputs(length, device)
    inputs = [everything[n] for n in names]
    backends = ("chunk", "fused") if torch.device(device).type == "cuda" else ("chunk",)
    ours = {f"hybrid {b}": lambda *x, backend=b: kernel(*x, backend=backend)[0] for b in backends}
    candidates = ours | peers

    expected = ours["hybrid chunk"](*inputs).detach()
    missing = {n for n, function in peers.items() if not _agrees(n, function, inputs, expected)}
    times = {n: [] for n in candidates if n not in missing}
    for repeat in range(repeats + 1):
        for n, seconds in times.items():
            elapsed = _timed(candidates[n], inputs, expected)
            if repeat:
                seconds.append(elapsed)

    best_peer = min((median(times[n]) for n in peers if n in times), default=None)
    work = _products(ours["hybrid chunk"], inputs, expected)
    shared = {"kernel": name, "length": length, "device": device, "threads": torch.get_num_threads()}
    return [
        shared | {"implementation": n} | _numbers(times.get(n), best_peer, work, peak) for n in candidates
    ]


def _numbers(seconds: list[float] | None, best_peer: float | None, work: int, peak: float) -> dict:
    if seconds is None:
        return dict.fromkeys(("ms", "spread", "ratio", "gflops", "share"))
    middle = median(seconds)
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    rate = work / middle if work else None
    return {
        "ms": 1e3 * middle,
        "spread": (high - low) / middle,
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


def _timed(function: Callable, inputs: list[Tensor], like: Tensor) -> float:
    cotangent = torch.ones_like(like)
    _wait(like)
    start = time.perf_counter()
    torch.autograd.grad(function(*inputs), inputs, cotangent)
    _wait(like)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _products(function: Callable, inputs: list[Tensor], like: Tensor) -> int:
    """Floating-point operations of the matrix products of one forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(function(*inputs), inputs, torch.ones_like(like))
    return counter.get_total_flops()


def _matrix_rate(device: str, repeats: int) -> float:
    """Operations a second of one large float32 matrix product on the device."""
    a = torch.randn(MATRIX, MATRIX, device=device)
    seconds = []
    for _ in range(repeats + 1):
        _wait(a)
        start = time.perf_counter()
        a @ a
        _wait(a)
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / median(seconds[1:])

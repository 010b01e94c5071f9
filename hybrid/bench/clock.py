"""Times that can be compared: candidates in turn, and what the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles

import torch

MATRIX = 2048
"""Rows and columns of the matrix product that stands for what the device can do."""
COPIED = 1 << 28
"""Bytes of the copy that stands for what its memory can do."""


def wait(device: str) -> None:
    """Let a GPU finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def in_turn(
    candidates: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, list[float]]:
    """Seconds of every call of every candidate: ``repeats`` rounds after one that warms up. Where a candidate
    has a function ``prepare``, it is called before each of them and not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, function in candidates.items():
            getattr(function, "prepare", _nothing)()
            elapsed = timed(function, device)
            if repeat:
                seconds[name].append(elapsed)
    return seconds


def _nothing() -> None:
    pass


def summary(seconds: list[float]) -> dict[str, float]:
    """``ms``, the median, and ``spread``, the interquartile range over it."""
    middle = median(seconds)
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return {"ms": 1e3 * middle, "spread": (high - low) / middle}


def limits(device: str, repeats: int) -> list[dict]:
    """What the device does at most, a row each: operations a second of a large float32 matrix product,
    and bytes a second, read and written, of a large copy; each in the fastest of its calls."""
    a = torch.randn(MATRIX, MATRIX, device=device)
    source = torch.empty(COPIED // 4, device=device).normal_()
    target = torch.empty_like(source)
    seconds = in_turn({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, repeats, device)
    work = {"product": 2 * MATRIX**3, "copy": 2 * COPIED}
    return [
        {"limit": name, "rate": work[name] / min(times), **summary(times)} for name, times in seconds.items()
    ]


def rate(rows: list[dict], limit: str) -> float:
    """Of the rows of `limits`, the rate of that name."""
    return next(row["rate"] for row in rows if row["limit"] == limit)

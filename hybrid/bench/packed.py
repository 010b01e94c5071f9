"""Several runs on one device at the same time: what all of them do together."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from hybrid.bench import BenchSpec, clock
from hybrid.bench.step import Step, hybrid
from hybrid.config import RunSpec

SIDE_BY_SIDE = {"cpu": (1, 2), "cuda": (1, 2, 4, 8)}
"""Numbers of processes that share a device; on a CPU they share its threads evenly."""
STEPS = 10
"""Steps of each process in a repeat."""


def measure(spec: BenchSpec, run: RunSpec) -> list[dict]:
    """One row a number of processes: processes, threads of each, tokens_per_second of all together, and of
    a step ms and spread. Processes that are not counted are there, and wait."""
    context = multiprocessing.get_context("spawn")
    counts, cores = SIDE_BY_SIDE[spec.device], torch.get_num_threads()
    phases = [(count, max(1, cores // count)) for count in counts]
    starts = [context.Barrier(count) for count in counts]
    workers = {"max_workers": max(counts), "mp_context": context}
    everyone = context.Barrier(max(counts))
    with ProcessPoolExecutor(**workers, initializer=_share, initargs=(everyone, starts)) as pool:
        # One each: none of them ends before all have begun.
        work = [pool.submit(_work, place, spec, run, phases) for place in range(max(counts))]
        found = [future.result() for future in work]
    rows = []
    for phase, (count, threads) in enumerate(phases):
        slowest = [max(times) for times in zip(*(s[phase] for s in found if phase in s), strict=True)]
        numbers = clock.summary([seconds / STEPS for seconds in slowest])
        tokens = count * run.train.batch_size // run.train.accumulate * run.task.seq_len
        rate = 1e3 * tokens / numbers["ms"]
        rows.append({"processes": count, "threads": threads, "tokens_per_second": rate, **numbers})
    return rows


_barriers: dict = {}
"""Of this process: what all wait at, and what those of each phase wait at."""


def _share(everyone, starts: list) -> None:
    _barriers.update(everyone=everyone, starts=starts)


def _work(place: int, spec: BenchSpec, run: RunSpec, phases: list[tuple[int, int]]) -> dict:
    """Phase -> seconds of each repeat, of the phases that this process takes part in. Phases take turns, as
    in `clock.in_turn`, and the first round does not count."""
    everyone, starts = _barriers["everyone"], _barriers["starts"]
    try:
        step, seconds = Step(run, hybrid, spec.device), {}
        step.record()
        step()
        for repeat in range(spec.repeats + 1):
            for phase, (count, threads) in enumerate(phases):
                everyone.wait()
                if place < count:
                    torch.set_num_threads(threads)
                    elapsed = _steps(step, starts[phase], spec.device)
                    if repeat:
                        seconds.setdefault(phase, []).append(elapsed)
        return seconds
    except BaseException:
        for barrier in (everyone, *starts):
            barrier.abort()
        raise


def _steps(step, start, device: str) -> float:
    """Seconds of `STEPS` steps that begin when all processes of the phase are ready."""
    start.wait()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    clock.wait(device)
    return time.perf_counter() - began

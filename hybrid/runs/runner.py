"""Run specs: read what is stored, train what is missing, hand back tables.

A result with status "failed" is a result: it is shown with its message and is trained again only
with ``recompute=True``. A result of older code stays readable and is marked stale.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.config.files import cache, write_atomically
from hybrid.config.specs import Spec
from hybrid.models.cost import parameters
from hybrid.runs import pool, provenance, tables, trainers, versions
from hybrid.runs.store import Result, Store, StoreError

if TYPE_CHECKING:
    import pandas

Trainer = Callable[..., Result]
"""``train(spec, *, checkpoint_dir, progress) -> Result``, as `training.fit.fit`; importable by name."""

CHANNEL_BYTES = 160
"""What the backward pass keeps of a block, in bytes a channel and token."""
PROCESS_BYTES = 2 * 2**30
"""What CUDA and its libraries hold in each process."""


class RunError(RuntimeError):
    """Some runs gave no result; the message names each with the reason."""


def train_one(
    spec: Spec,
    train: Trainer | None = None,
    *,
    recompute: bool = False,
    progress: bool = True,
) -> Result:
    """The stored result of a spec; trained here, in this process, if there is none.

    While a run is trained nobody else trains it: another process that wants it waits and then
    reads the result. Checkpoints lie in `work_folder` until the result is stored, and a killed run
    goes on from there.

    Args:
        spec: what to run.
        train: the trainer; None is that of the spec's kind (`hybrid.runs.trainers`).
        recompute: train even if there is a stored result, and replace it.
        progress: let the trainer draw its progress bar.

    Raises:
        StoreError: before any training if nothing can be written; after it, if the result had to
            be kept elsewhere.
    """
    store = Store()
    train = train or trainers.trainer(spec.kind)
    folder = work_folder(spec)
    if _rank() > 0:
        stored = None if recompute else store.read(spec)
        return stored or train(spec, checkpoint_dir=folder, progress=False)
    if not recompute and (stored := store.read(spec)):
        return stored
    store.probe()
    with _claim(spec):
        if not recompute and (stored := store.read(spec)):
            return stored
        folder.mkdir(parents=True, exist_ok=True)
        provenance.reset_peak_memory()
        result = train(spec, checkpoint_dir=folder, progress=progress)
        if result.spec != spec:
            raise ValueError(f"the trainer returned a result of {result.run_id}, not of {spec.run_id}")
        store.write(result)
        shutil.rmtree(folder.parent, ignore_errors=True)
    return store.read(spec)


def collect(
    specs: Iterable[Spec],
    *,
    workers: int | None = None,
    recompute: bool = False,
    minutes: float | None = None,
    progress: bool = True,
    train: Trainer | None = None,
) -> pandas.DataFrame:
    """One row a spec: stored results are read, missing ones trained, several at a time.

    Every result is stored as it finishes, so whatever ends this call - Ctrl-C, a full disk, a
    killed process - the next one goes on from there.

    Args:
        specs: what to run; a spec given twice is one run.
        workers: processes that train, sharing the GPUs evenly; None is as many as the GPUs' memory and
            the CPU cores allow (`runs_a_gpu`), or one a CPU core where there is no GPU. Processes on
            one GPU take turns; under NVIDIA's Multi-Process Service they compute at the same time.
        recompute: train these specs anew, whatever is stored; teachers and second mixers that they start from
            and that today's code has made are used as they are.
        minutes: stop after this time; 0 reads only. Runs under way are ended, and the next call goes
            on with each from its last checkpoint, of which there is one every `eval_every` steps.
        progress: show how many runs are done and the time left, if any is to be trained.
        train: the trainer; None is that of the spec's kind (`hybrid.runs.trainers`).

    Returns:
        Columns run_id, status ("done", "failed", or "missing" where `minutes` ran out), message, stale
        (`tables.moved`), every field of the spec with `full_blocks` and `depth`,
        and every metric and provenance entry that is one value. A name that is taken already carries
        its group in front, as `provenance_precision`.

    Raises:
        ValueError: `workers` or `minutes` is impossible.
        StoreError: something must be trained but nothing can be written.
        RunError: some runs gave no result; all the others were finished and stored.
    """
    specs = _distinct(specs)
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be a whole number of at least 1, or None; got {workers!r}")
    if minutes is not None and not minutes >= 0:
        raise ValueError(f"minutes must be a number from 0, or None; got {minutes!r}")
    store = Store()
    results = {spec: None if recompute else store.read(spec) for spec in specs}
    missing = [spec for spec, result in results.items() if result is None]
    if missing and minutes != 0:
        store.probe()
        job = partial(train_one, train=train, recompute=recompute, progress=False)
        _train(missing, job, workers, minutes, progress)
    results |= {spec: store.read(spec) for spec in missing}
    return tables.one_row_a_run(results)


def curves(specs: Iterable[Spec]) -> pandas.DataFrame:
    """Learning curves of the stored results of these specs: one row a point, beside the run's columns."""
    return tables.one_row_an_entry([(result, result.curve) for result in _stored(specs)], "curve")


def detail(specs: Iterable[Spec], key: str) -> pandas.DataFrame:
    """A metric that is a table, such as ``"recall_by"``: one row an entry, beside the run's columns.

    Specs without a stored result and runs that failed before they were measured have no rows.
    Raises ``ValueError`` when runs are done and none of them has a table of this name.
    """
    results = _stored(specs)
    done = [result.metrics for result in results if result.status == "done"]
    names = {name for metrics in done for name, value in metrics.items() if isinstance(value, list)}
    if done and key not in names:
        raise ValueError(f"no result has a table {key!r}; there are: {', '.join(sorted(names)) or 'none'}")
    return tables.one_row_an_entry([(result, result.metrics.get(key, [])) for result in results], key)


def write_specs(specs: Iterable[Spec], folder: str | Path) -> list[Path]:
    """Write one ``<run_id>.json`` a spec, for `read_spec`; a file that is there already is left alone."""
    paths = []
    for spec in _distinct(specs):
        path = Path(folder) / f"{spec.run_id}.json"
        if not path.exists():
            write_atomically(path, json.dumps(spec.to_dict(), indent=1) + "\n")
        paths.append(path)
    return paths


def read_spec(path: str | Path) -> Spec:
    """Read a file of `write_specs`. Raises ``ValueError`` naming the file when it is no spec."""
    try:
        return trainers.read(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no run spec: {error}") from error


def work_folder(spec: Spec) -> Path:
    """Where a run keeps its checkpoints, below `cache`.

    Its name ends with the versions of the spec's rooms: a checkpoint of other versions is not resumed.
    """
    return cache() / "runs" / spec.run_id / versions.tag(spec.rooms)


def runs_a_gpu(spec: Spec, memory: int) -> int:
    """How many runs like this one a GPU with `memory` bytes holds side by side, at least one; what starts
    from a run, as a conversion from its teacher, is counted as three of it.

    An upper bound of what a run holds in the largest pass of its own or of a stage: 16 bytes a parameter
    (weights, gradients and two moments in float32), `CHANNEL_BYTES` for each channel, block and token of a
    pass, 10 bytes for each of its logits (bfloat16, their float32 copy and its gradient), and
    `PROCESS_BYTES`.
    """
    model, copies = spec.root.model, 1 if spec.root is spec else 3
    tokens = max(train.batch_size // train.accumulate * task.seq_len for train, task in spec.passes())
    activations = tokens * (CHANNEL_BYTES * model.depth * model.hidden_size + 10 * model.vocab_size)
    each = copies * (16 * parameters(model) + activations) + PROCESS_BYTES
    return max(1, int(0.9 * memory) // each)


@contextmanager
def _claim(spec: Spec) -> Iterator[None]:
    """Hold the run's lock, which the operating system takes back from a process that dies."""
    from filelock import FileLock

    path = work_folder(spec).parent.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire()
    except OSError as error:
        raise StoreError(
            f"checkpoints cannot be written to {path.parent}: {error}; nothing was trained. Make room "
            "or set HYBRID_CACHE to another folder"
        ) from error
    with lock:
        yield


def _rank() -> int:
    """Which process of a distributed run this is; only the first one claims and stores."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def _train(
    specs: list[Spec], job: Callable, workers: int | None, minutes: float | None, progress: bool
) -> None:
    from tqdm import tqdm

    finished, failures = 0, {}
    started = pool.each(job, specs, _environments(workers, specs), minutes=minutes)
    with closing(started), tqdm(total=len(specs), desc="runs", unit="run", disable=not progress) as bar:
        for spec, error in started:
            finished += 1
            bar.update()
            if error is not None:
                failures[spec] = error
    if finished < len(specs):
        warnings.warn(
            f"{len(specs) - finished} of {len(specs)} runs were not finished within {minutes:g} minutes; "
            "the same call goes on with them",
            stacklevel=3,
        )
    if failures:
        lines = [f"{len(failures)} of {finished} runs gave no result; the others are stored:"]
        for spec, error in failures.items():
            lines.append(f"  {spec.run_id} ({spec.title}): {error.strip().splitlines()[-1]}")
        first = next(iter(failures.values())).strip()
        raise RunError("\n".join([*lines, "In full, the first:", first] if "\n" in first else lines))


def _environments(workers: int | None, specs: list[Spec]) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of the CPU cores, its GPU in turn."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [str(i) for i in range(torch.cuda.device_count())]
    if gpus and os.environ.get("CUDA_VISIBLE_DEVICES"):
        gpus = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    if workers is None:
        workers = cores
        if gpus:
            memory = torch.cuda.get_device_properties(0).total_memory
            most = min(runs_a_gpu(spec, memory) for spec in specs)
            workers = len(gpus) * min(most, max(1, cores // len(gpus)))
    workers = min(workers, len(specs))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // workers))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(workers)]


def _stored(specs: Iterable[Spec]) -> list[Result]:
    store = Store()
    return [result for spec in _distinct(specs) if (result := store.read(spec))]


def _distinct(specs: Iterable[Spec]) -> list[Spec]:
    specs = list(dict.fromkeys(specs))
    for spec in specs:
        if not isinstance(spec, Spec):
            raise ValueError(f"specs must be run specs; got {spec!r}")
    return specs

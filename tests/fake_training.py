"""Trainers that cost nothing, importable by worker processes; each leaves a line in $FAKE_LOG."""

import os
import resource
import shutil
import signal
import time
from pathlib import Path

from flat import flat_config

from hybrid.config import RunSpec, TaskConfig, TrainConfig
from hybrid.runs.store import Result, Store
from hybrid.runs.versions import today


def spec(seed=0, **changes):
    return RunSpec(
        flat_config("LLF", hidden_size=16, attn_heads=2), TaskConfig(), TrainConfig(steps=20, warmup=2), seed
    ).with_(**changes)


def result(spec, **changes):
    parts = {
        "metrics": {"recall": 0.5 + spec.seed / 100, "recall_by": [{"pairs": 4, "accuracy": 0.25, "n": 64}]},
        "curve": [{"step": 10, "recall": 0.1}, {"step": 20, "recall": 0.5}],
        "provenance": {"rooms": today(spec.rooms), "seconds": 2.0, "versions": {"python": "3"}},
    }
    return Result(spec.run_id, spec, **{"status": "done", **parts, **changes})


def log(spec, *words):
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(" ".join([str(spec.seed), *map(str, words)]) + "\n")


def logged():
    path = Path(os.environ["FAKE_LOG"])
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def train(spec, *, checkpoint_dir, progress):
    log(spec, "trained")
    return result(spec)


def train_slowly(spec, *, checkpoint_dir, progress):
    time.sleep(1)
    return train(spec, checkpoint_dir=checkpoint_dir, progress=progress)


def train_in_steps(spec, *, checkpoint_dir, progress):
    """20 steps with a checkpoint after each; seed 0 takes its time until somebody stops it."""
    checkpoint = Path(checkpoint_dir) / "last.ckpt"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    log(spec, "from", first, "by", os.getpid())
    for step in range(first, 20):
        checkpoint.write_text(str(step + 1))
        if spec.seed == 0 and first == 0:
            time.sleep(0.1 if step < 3 else 60)
    return result(spec)


def killed_at_seed_1(spec, *, checkpoint_dir, progress):
    if spec.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(spec, checkpoint_dir=checkpoint_dir, progress=progress)


def wrong_at_seed_1(spec, *, checkpoint_dir, progress):
    if spec.seed == 1:
        raise RuntimeError("no such layer")
    return train(spec, checkpoint_dir=checkpoint_dir, progress=progress)


def diverge(spec, *, checkpoint_dir, progress):
    log(spec, "diverged")
    return result(spec, status="failed", message="the loss was not finite at step 3", metrics={})


def report_threads(spec, *, checkpoint_dir, progress):
    log(spec, os.environ["OMP_NUM_THREADS"])
    return result(spec)


def lose_the_store(spec, *, checkpoint_dir, progress):
    """After training, a file lies where the folder of results was."""
    (Path(checkpoint_dir) / "last.ckpt").write_text("20")
    shutil.rmtree(Store().root)
    Store().root.write_text("")
    return result(spec)


def fill_the_disk(spec, *, checkpoint_dir, progress):
    """After training, no file of this process can be written, wherever it lies."""
    (Path(checkpoint_dir) / "last.ckpt").write_text("20")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    return result(spec)

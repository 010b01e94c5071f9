"""Run one selector and store what it found."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from hybrid.conversion.distillation import aligned, device
from hybrid.data.module import TaskData
from hybrid.runs import provenance
from hybrid.runs.store import Result
from hybrid.selection.base import Problem, Selection, SelectSpec
from hybrid.training.evaluation import passkey_accuracy
from hybrid.training.loop import Diverged, number_format, resolved

DATA_SEED = 40_000
"""Added to the seed of a spec: batches that a selector trains on, and what it draws, are not those that its
models were trained with."""


def select(spec: SelectSpec, *, checkpoint_dir: str | Path | None = None, progress: bool = True) -> Result:
    """The trainer of a `SelectSpec`.

    Metrics: ``layouts``, rows ``budget``, ``draw``, ``layout``; ``scores``, rows ``block``, ``score``; the
    method's own tables; ``selection_tokens``; ``teacher_passkey``, the teacher's accuracy on the reported
    passkeys at their home length: what it has not learnt cannot be kept. The seconds are those of the
    selector alone: neither the teacher nor the second mixers, which every selector needs, are in them.

    A selector measures on questions and windows of text of its own (`TaskData`), of the same kinds as those
    that results are reported on. A training whose loss was not finite, stage 1 too, makes the result
    "failed", with no layouts.
    """
    spec.passkeys.check(spec.align.teacher.model, spec.align.teacher.task)
    run, seed = spec.align.teacher, DATA_SEED + spec.seed
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    status, message, seconds, metrics, found = "done", "", 0.0, {}, Selection({})
    try:
        morphable = aligned(spec.align)
        torch.manual_seed(seed)
        with number_format(run.train.precision):
            taught = passkey_accuracy(
                morphable.teacher,
                TaskData(run.task, run.train, seed),
                spec.passkeys,
                spec.passkeys.eval_lengths[0],
            )
            start = time.perf_counter()
            data = TaskData(run.task, run.train, seed, asked="select")
            found = spec.selector.select(Problem(morphable, data, spec.passkeys, folder), spec.budgets)
            if device() == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        metrics = {"teacher_passkey": taught[0]["accuracy"], **found.tables}
    except Diverged as error:
        status, message = "failed", str(error)
    metrics |= {
        "layouts": [
            {"budget": budget, "draw": draw, "layout": str(layout)}
            for budget, layouts in found.layouts.items()
            for draw, layout in enumerate(layouts)
        ],
        "scores": [{"block": i, "score": score} for i, score in enumerate(found.scores or [])],
        "selection_tokens": found.tokens,
    }
    evidence = provenance.collect(
        seconds=seconds, tokens=found.tokens, rooms=spec.rooms, precision=resolved(run.train.precision)
    )
    return Result(spec.run_id, spec, status, message, metrics, found.curve, evidence)

"""Run one selector and store what it found."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from hybrid import provenance
from hybrid.data.module import TaskData
from hybrid.distillation import aligned, device
from hybrid.evaluation import passkey_accuracy
from hybrid.selection.base import Problem, SelectSpec
from hybrid.store import Result

DATA_SEED = 40_000
"""Added to the seed of a spec: a selector reads other batches than those its models were trained on."""


def select(spec: SelectSpec, *, checkpoint_dir: str | Path | None = None, progress: bool = True) -> Result:
    """The trainer of a `SelectSpec`.

    Metrics: ``layouts``, rows ``budget``, ``draw``, ``layout``; ``scores``, rows ``block``, ``score``; the
    method's own tables; ``selection_tokens``; ``teacher_passkey``, the teacher's accuracy on the passkeys at
    their home length: what it has not learnt cannot be kept. The seconds are those of the selector alone:
    neither the teacher nor the second mixers, which every selector needs, are in them.
    """
    morphable = aligned(spec.align)
    run = spec.align.teacher
    data = TaskData(run.task, run.train, DATA_SEED + spec.seed)
    spec.passkeys.check(run.model, run.task)
    home = spec.passkeys.eval_lengths[0]
    taught = passkey_accuracy(morphable.teacher, data, spec.passkeys, home)[0]["accuracy"]
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    torch.manual_seed(DATA_SEED + spec.seed)
    start = time.perf_counter()
    found = spec.selector.select(Problem(morphable, data, spec.passkeys, folder), spec.budgets)
    if device() == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    metrics = {
        "layouts": [
            {"budget": budget, "draw": draw, "layout": str(layout)}
            for budget, layouts in found.layouts.items()
            for draw, layout in enumerate(layouts)
        ],
        "scores": [{"block": i, "score": score} for i, score in enumerate(found.scores or [])],
        "selection_tokens": found.tokens,
        "teacher_passkey": taught,
        **found.tables,
    }
    evidence = provenance.collect(seconds=seconds, tokens=found.tokens, layer=spec.layer)
    return Result(spec.run_id, spec, "done", "", metrics, found.curve, evidence)

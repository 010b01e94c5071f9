"""ConSA: masks choose full attention by block or by head, and learn with the weights, at a given share.

Source: ConSA, 2606.18056. The paper itself was not at hand: its method is known from notes of others, and
what they leave open is a field here, or a constant, that says so. The arms it is compared with - dense, a
rule, scalar gates with L1 - start from the same model and see the same batches.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hybrid.checkpoints.checkpoint import save
from hybrid.conversion.distillation import LitFinetune, after_stage, aligned, device, stage_tokens
from hybrid.conversion.morphable import Morphable
from hybrid.data.module import TaskData
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import provenance
from hybrid.runs.store import Result
from hybrid.selection.consa_spec import LEARNT, ConsaSpec
from hybrid.selection.lagrangian import LitL1, LitLagrangian, LitMasked
from hybrid.selection.masks import LinearMasks, WindowMasks, interleaved
from hybrid.training.evaluation import evaluate
from hybrid.training.loop import Diverged, LearningCurve, LitModule, number_format, resolved, train

LEARNERS: dict[str, type[LitMasked]] = dict(zip(LEARNT, (LitLagrangian, LitL1), strict=True))
DATA_SEED = {"learn": 50_000, "train": 60_000}
"""Added to the seed of a spec: no stage sees the batches that its model was trained on."""


def masked_model(morphable: Morphable, spec: ConsaSpec) -> WindowMasks | LinearMasks:
    """The dense model with both branches and masks, all weights learning."""
    if spec.align.branch == "window":
        return WindowMasks(morphable.teacher, spec.align.window)
    return LinearMasks(morphable)


def consa(
    spec: ConsaSpec,
    *,
    checkpoint_dir: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """The trainer of a `ConsaSpec`; the model at its end is saved into the folder ``weights``, if given.

    Metrics: everything of `evaluate` on the dense model's task at the end; and

    - ``stages``: rows ``stage`` ("dense" before, "learn" with masks rounded, "train"),
      ``loss_bits_per_byte``, ``passkey`` (accuracy at the first of the passkeys' `eval_lengths`);
    - ``passkey_by``: the rows of `passkey_accuracy` at each of them, beside their ``stage``;
    - ``masks``: one row a unit: ``block``; ``head``, None where the unit is a block; ``alpha``, for l1 the
      gate, None where nothing is learnt; ``z``, 1 if it is full in stage 2; ``top``, 1 if it were full by
      keeping exactly the share with the highest alpha;
    - ``pattern``: rows ``block``, ``letter``, ``full`` (share of its key-value heads that are full), and
      ``layout``;
    - ``expected``, ``rounded``, ``ranked``: share of the cheap branch in expectation, after rounding, and by
      ``top``; ``gap``, the largest distance of an expected share from the target; ``reached``, the first
      step at which it was below 0.01, and ``held``, the step since when it stayed there. None where the
      method has no such number.

    A stage whose loss was not finite, also that of the second mixers, makes the result "failed". A run that
    finds its checkpoints goes on from them, in either stage.
    """
    root, run = Path(checkpoint_dir) if checkpoint_dir is not None else None, spec.align.teacher
    data = TaskData(run.task, run.train, run.seed)
    stages, by, curve, seconds, tokens = [], [], [], 0.0, 0
    status, message = "done", ""
    metrics = dict.fromkeys(("expected", "ranked", "gap", "reached", "held"))

    def measure(name: str, model: HybridLM) -> None:
        scores, rows = after_stage(model, data, spec.passkeys)
        stages.append({"stage": name} | scores)
        by.extend({"stage": name} | row for row in rows)
        model.train()

    def teach(name: str, module: LitModule, course: LearningCurve) -> None:
        nonlocal seconds, tokens
        stage, folder = getattr(spec, name), root / name if root is not None else None
        batches = TaskData(stage.task(run.task), stage.train, DATA_SEED[name] + spec.seed)
        train(module, batches, course, folder=folder, progress=progress)
        module.to(device())
        seconds += course.seconds
        tokens += stage_tokens(run, stage)
        curve.extend({"stage": name} | point for point in course.curve)

    try:
        masked = masked_model(aligned(spec.align), spec)
        measure("dense", masked.rounded(torch.ones(spec.shape, dtype=torch.bool)))
        if spec.method in LEARNT:
            module = LEARNERS[spec.method](masked, spec)
            teach("learn", module, LearningCurve(lambda module: module.measure()))
            metrics |= control(module) | tables(spec, module.chosen(), module)
            model = masked.rounded(module.chosen())
        else:
            full = fixed(spec)
            metrics |= tables(spec, full, None)
            model = masked.rounded(full)
            teach("learn", LitFinetune(model, spec.learn), LearningCurve(lambda module: {}))
        measure("learn", model)
        teach("train", LitFinetune(model, spec.train), LearningCurve(lambda module: {}))
        measure("train", model)
        with number_format(run.train.precision):
            metrics |= evaluate(model, data)
        if weights is not None:
            save(model, weights)
    except Diverged as error:
        status, message = "failed", str(error)
    metrics |= {"stages": stages, "passkey_by": by}
    if stages:
        metrics["passkey"] = stages[-1]["passkey"]
    evidence = provenance.collect(
        seconds=seconds, tokens=tokens, rooms=spec.rooms, precision=resolved(run.train.precision)
    )
    return Result(spec.run_id, spec, status, message, metrics, curve, evidence)


def fixed(spec: ConsaSpec) -> Tensor:
    """The masks of a method that learns none, True and False [blocks, units]."""
    if spec.method == "dense":
        return torch.ones(spec.shape, dtype=torch.bool)
    if spec.method == "given":
        return torch.tensor([[letter == "F"] for letter in spec.given])
    return interleaved(*spec.shape, spec.share)


def control(module: LitMasked) -> dict:
    """How well learnt masks met the share; see `consa`."""
    measured = module.measure()
    ranked = 1 - module.highest().float().mean().item()
    found = {"expected": measured["expected"], "ranked": ranked}
    if not isinstance(module, LitLagrangian):
        return found
    steps = {name: int(getattr(module, name)) for name in ("reached", "held")}
    return found | {"gap": measured["gap"]} | {k: step if step >= 0 else None for k, step in steps.items()}


def tables(spec: ConsaSpec, full: Tensor, module: LitMasked | None) -> dict:
    """The tables of masks and blocks, and the share that they come to; see `consa`."""
    rows = []
    for block, unit in torch.cartesian_prod(*map(torch.arange, spec.shape)).tolist():
        row = {"block": block, "head": unit if spec.units == "head" else None, "alpha": None}
        row |= {"z": int(full[block, unit]), "top": int(full[block, unit])}
        if module is not None:
            row |= {"alpha": module.scores()[block, unit].item(), "top": int(module.highest()[block, unit])}
        rows.append(row)
    cheap = "W" if spec.align.branch == "window" else "L"
    letters = ["F" if bool(row.all()) else cheap for row in full]
    shares = full.float().mean(1).tolist()
    return {
        "masks": rows,
        "pattern": [
            {"block": i, "letter": letter, "full": share}
            for i, (letter, share) in enumerate(zip(letters, shares, strict=True))
        ],
        "layout": "".join(letters),
        "rounded": 1 - full.float().mean().item(),
    }

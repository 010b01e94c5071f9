"""The three stages of a conversion: align the outputs, distil the predictions, train on longer texts."""

from __future__ import annotations

import json
import time
import warnings
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor

from hybrid.checkpoints.checkpoint import CheckpointSpec, fetch, fingerprint, load, save
from hybrid.config import RunSpec
from hybrid.conversion.carry_over import of_mixer
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage
from hybrid.data.module import TaskData, vocab_size
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import provenance
from hybrid.runs.kept_weights import kept
from hybrid.runs.store import Result, Store
from hybrid.training import fit
from hybrid.training.evaluation import evaluate, passkey_accuracy, text_loss
from hybrid.training.loop import Diverged, LearningCurve, LitModule, number_format, resolved, train

WEIGHTS, CURVE = "student.safetensors", "curve.json"
DATA_SEED = {"align": 10_000, "distill": 20_000, "finetune": 30_000}
"""Added to the seed of a spec: no stage sees the batches that its teacher was trained on."""


class LitStage(LitModule):
    """A stage under training; its mixers learn at its `mixer_lr`, if it has one, on the same schedule.

    Source: RADLADS, 2505.03005, step 2a; 2512.20569, its second stage.
    """

    steady = True

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.train)
        self.mixer_lr = stage.mixer_lr

    def parameter_groups(self) -> list[dict]:
        groups = super().parameter_groups()
        if self.mixer_lr is None:
            return groups
        mixers = {id(p) for name, p in self.named_parameters() if of_mixer(name)}
        split = []
        for group in groups:
            inside = [p for p in group["params"] if id(p) in mixers]
            others = [p for p in group["params"] if id(p) not in mixers]
            split += [group | {"params": others}, group | {"params": inside, "lr": self.mixer_lr}]
        return split


class LitAlign(LitStage):
    """Stage 1: the mean over blocks of the squared error between a second mixer's output and attention's,
    both on the teacher's own stream; all blocks in one pass, none reads another's.

    Source: HALO, 2601.22156, its first stage; RADLADS, 2505.03005, step 1.
    """

    def __init__(self, morphable: Morphable, stage: Stage) -> None:
        super().__init__(stage)
        self.morphable = morphable

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        pairs = self.morphable.teacher_forced(batch["input_ids"])
        return torch.stack([F.mse_loss(second, full) for full, second in pairs]).mean()


class LitDistill(LitStage):
    """Stage 2: forward KL divergence, ``sum_v p(v) (log p(v) - log q(v))`` from the teacher's prediction p
    to the hybrid's q, mean over all positions, in nats.

    Source: HALO, 2601.22156, its second stage; RADLADS, 2505.03005, step 2.
    """

    def __init__(self, teacher: HybridLM, model: HybridLM, stage: Stage) -> None:
        super().__init__(stage)
        # A function, not a module: Lightning neither moves nor saves what is not taught.
        self.target, self.model = torch.no_grad()(teacher.forward), model

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        p = self.target(ids).logits.float().log_softmax(-1).flatten(0, 1)
        out = self.model(ids)
        q = out.logits.float().log_softmax(-1).flatten(0, 1)
        loss = F.kl_div(q, p, reduction="batchmean", log_target=True)
        return loss if out.auxiliary is None else loss + out.auxiliary


class LitFinetune(LitStage):
    """Stage 3: cross-entropy of the next token, as in training, on longer sequences."""

    def __init__(self, model: HybridLM, stage: Stage) -> None:
        super().__init__(stage)
        self.model = model

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(batch["input_ids"], labels=batch["labels"]).objective


def teacher(spec: RunSpec | CheckpointSpec) -> HybridLM:
    """The model that teaches, in float32: `trained` here, or `read` from a checkpoint."""
    return {"run": trained, "checkpoint": read}[spec.kind](spec)


def read(spec: CheckpointSpec) -> HybridLM:
    """The model of a checkpoint, in float32.

    Raises ``ValueError`` when it has no embedding for every id of its task, or when the weights or the
    config that lie there now are not those of the spec, and what `hybrid.checkpoints.checkpoint.load` raises.
    """
    needed = vocab_size(spec.task)
    if spec.model.vocab_size < needed:
        raise ValueError(f"the task needs a vocab_size of at least {needed}; got {spec.model.vocab_size}")
    folder = fetch(spec.source, spec.revision)
    if (found := fingerprint(folder)) != spec.fingerprint:
        raise ValueError(f"{spec.source} must hold weights of fingerprint {spec.fingerprint}; got {found}")
    model = load(folder, device=device(), dtype=torch.float32)
    if model.config != spec.model:
        raise ValueError(f"{spec.source} must hold a model of {spec.model}; got {model.config}")
    return model


def measure(
    spec: CheckpointSpec, *, checkpoint_dir: str | Path | None = None, progress: bool = True
) -> Result:
    """The trainer of a `CheckpointSpec`, of which nothing is left to train: everything of `evaluate` on its
    task, and ``parameters``. The seconds are those of measuring."""
    model = read(spec)
    start = time.perf_counter()
    with number_format(spec.train.precision):
        metrics = evaluate(model, TaskData(spec.task, spec.train, spec.seed))
    metrics["parameters"] = sum(p.numel() for p in model.parameters())
    evidence = provenance.collect(
        seconds=time.perf_counter() - start,
        tokens=0,
        rooms=spec.rooms,
        precision=resolved(spec.train.precision),
    )
    return Result(spec.run_id, spec, "done", "", metrics, [], evidence)


def trained(spec: RunSpec) -> HybridLM:
    """The trained model of a run, trained now if its weights are not kept; its result is stored too, if
    there is none.

    Raises ``ValueError`` when its training diverged.
    """

    def make(folder: Path, checkpoints: Path) -> None:
        with warnings.catch_warnings():
            # Only this package reads these weights.
            warnings.filterwarnings("ignore", "saved as model_type")
            result = fit.fit(spec, checkpoint_dir=checkpoints, weights=folder, progress=False)
        # A stored result stays: this may be another machine.
        if Store().read(spec) is None:
            Store().write(result)
        if result.status != "done":
            raise ValueError(f"the run {spec.run_id} cannot be a teacher: {result.message}")

    return load(kept(spec, make), device=device())


def aligned(spec: AlignSpec, progress: bool = False) -> Morphable:
    """The teacher with its second mixers, taught now if their weights are not kept; all of it frozen."""
    source = teacher(spec.teacher)
    # After the teacher, whose training, if it happens now, draws from the same stream.
    torch.manual_seed(spec.seed)
    morphable = Morphable(source, spec.branch, spec.window).to(device())

    def make(folder: Path, checkpoints: Path) -> None:
        data = stage_data(spec.teacher, spec.stage, "align", spec.seed)
        curve = LearningCurve(lambda module: {})
        train(LitAlign(morphable, spec.stage), data, curve, folder=checkpoints, progress=progress)
        folder.mkdir()
        save_model(morphable.student, folder / WEIGHTS)
        (folder / CURVE).write_text(json.dumps(curve.state_dict()))

    if spec.stage is not None:
        folder = kept(spec, make)
        morphable.to(device())
        load_model(morphable.student, folder / WEIGHTS, device=device())
    return morphable.requires_grad_(False).eval()


def align(spec: AlignSpec, *, checkpoint_dir: str | Path | None = None, progress: bool = True) -> Result:
    """Run stage 1 and return its result; the weights are kept for `aligned`.

    Metrics: ``errors``, one row a block with ``error``, the mean squared error of the second mixer on
    held-out sequences, and ``power``, the mean square of the attention's output; ``error``, the mean over
    blocks of their ratio. A training whose loss was not finite makes the result "failed".
    """
    precision = resolved(spec.teacher.train.precision)
    try:
        morphable = aligned(spec, progress)
    except Diverged as error:
        evidence = provenance.collect(seconds=0.0, tokens=0, rooms=spec.rooms, precision=precision)
        return Result(spec.run_id, spec, "failed", str(error), {}, [], evidence)
    state, tokens = {"curve": [], "seconds": 0.0}, 0
    if spec.stage is not None:
        state = json.loads((kept(spec, lambda *_: None) / CURVE).read_text())
        tokens = stage_tokens(spec.teacher, spec.stage)
    rows = output_errors(morphable, TaskData(spec.teacher.task, spec.teacher.train, spec.seed))
    metrics = {
        "errors": rows,
        "error": sum(row["error"] / row["power"] for row in rows) / len(rows),
        "carried": len(morphable.carried),
    }
    evidence = provenance.collect(
        seconds=state["seconds"], tokens=tokens, rooms=spec.rooms, precision=precision
    )
    return Result(spec.run_id, spec, "done", "", metrics, state["curve"], evidence)


@torch.no_grad()
def output_errors(morphable: Morphable, data: TaskData, sequences: int | None = None) -> list[dict]:
    """Block by block, on the teacher's own stream over held-out text: ``block``, ``error`` and ``power``, the
    mean square of the difference of the two outputs and of attention's."""
    sums = torch.zeros(2, morphable.depth, dtype=torch.float64)
    count = 0
    for batch in data.val_text_batches(sequences):
        ids = batch["input_ids"].to(device())
        count += len(ids)
        with number_format(data.train.precision):
            for index, (full, second) in enumerate(morphable.teacher_forced(ids)):
                for row, part in enumerate((full - second, full)):
                    sums[row, index] += len(ids) * part.float().square().mean().item()
    means = (sums / count).tolist()
    return [{"block": i, "error": e, "power": p} for i, (e, p) in enumerate(zip(*means, strict=True))]


def convert(
    spec: HybridSpec,
    *,
    checkpoint_dir: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Run stages 2 and 3 of a layout, save the model into the folder ``weights`` if one is given, and return
    the result: everything of `evaluate` on the teacher's task at the end, and before and after each stage

    - ``stages``: rows ``stage`` ("converted", "distill", "finetune"), ``loss_bits_per_byte``,
      ``passkey`` (accuracy at the first of the passkeys' `eval_lengths`), if there are passkeys;
    - ``passkey_by``: the rows of `passkey_accuracy` at each of them, beside their ``stage``.

    A stage whose loss was not finite, stage 1 too, makes the result "failed".

    Raises ``ValueError`` when the teacher cannot read the passkeys.
    """
    if spec.passkeys is not None:
        spec.passkeys.check(spec.align.teacher.model, spec.align.teacher.task)
    root, run = Path(checkpoint_dir) if checkpoint_dir is not None else None, spec.align.teacher
    data = TaskData(run.task, run.train, run.seed)
    stages, by, curve, seconds, tokens = [], [], [], 0.0, 0
    status, message, metrics = "done", "", {}

    def measure(name: str, model: HybridLM) -> None:
        scores, rows = after_stage(model, data, spec.passkeys)
        stages.append({"stage": name} | scores)
        by.extend({"stage": name} | row for row in rows)

    try:
        morphable = aligned(spec.align)
        model = morphable.hybrid(spec.layout, drop_rope=spec.drop_rope)
        modules = {
            "distill": partial(LitDistill, morphable.teacher, model),
            "finetune": partial(LitFinetune, model),
        }
        measure("converted", model)
        for name, module in modules.items():
            if (stage := getattr(spec, name)) is None:
                continue
            course = LearningCurve(lambda module: {})
            folder = root / name if root is not None else None
            batches = stage_data(run, stage, name, spec.seed)
            model.train()
            train(module(stage), batches, course, folder=folder, progress=progress)
            model.to(device())
            seconds += course.seconds
            tokens += stage_tokens(run, stage)
            curve.extend({"stage": name} | point for point in course.curve)
            measure(name, model)
        with number_format(run.train.precision):
            metrics = evaluate(model, data)
        if weights is not None:
            save(model, weights)
    except Diverged as error:
        status, message = "failed", str(error)
    metrics |= {"stages": stages, "passkey_by": by}
    if stages and "passkey" in stages[-1]:
        metrics["passkey"] = stages[-1]["passkey"]
    evidence = provenance.collect(
        seconds=seconds, tokens=tokens, rooms=spec.rooms, precision=resolved(run.train.precision)
    )
    return Result(spec.run_id, spec, status, message, metrics, curve, evidence)


def after_stage(model: HybridLM, data: TaskData, passkeys: Passkeys | None) -> tuple[dict, list[dict]]:
    """What is measured after every stage: `text_loss` and ``passkey``, the accuracy at the first of the
    passkeys' lengths, if there are passkeys; and the rows of `passkey_accuracy` at each length."""
    model.eval()
    with number_format(data.train.precision):
        rows = [
            row
            for length in (passkeys.eval_lengths if passkeys is not None else ())
            for row in passkey_accuracy(model, data, passkeys, length)
        ]
        loss = text_loss(model, data)
    return ({"passkey": rows[0]["accuracy"]} if rows else {}) | loss, rows


def stage_data(run: RunSpec, stage: Stage, name: str, seed: int) -> TaskData:
    """The batches of a stage: the teacher's mixture at the stage's length, in an order of its own."""
    return TaskData(stage.task(run.task), stage.train, DATA_SEED[name] + seed)


def stage_tokens(run: RunSpec, stage: Stage) -> int:
    """Tokens that a stage reads."""
    return stage.train.steps * stage.train.batch_size * stage.task(run.task).seq_len


def device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"

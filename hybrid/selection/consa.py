"""ConSA: masks choose full attention by block or by head, and learn with the weights, at a given share.

Source: ConSA, 2606.18056. The paper itself was not at hand: its method is known from notes of others, and
what they leave open is a field here, or a constant, that says so. The arms it is compared with - dense, a
rule, scalar gates with L1 - start from the same model and see the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from hybrid.config.layout import Layout
from hybrid.config.specs import Spec
from hybrid.conversion.conversion import AlignSpec, Morphable, Stage
from hybrid.conversion.distillation import LitFinetune, after_stage, aligned, device, stage_tokens
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import provenance
from hybrid.runs.store import Result
from hybrid.selection.lagrangian import LitL1, LitLagrangian, LitMasked
from hybrid.selection.masks import LinearMasks, WindowMasks, interleaved, kept
from hybrid.training.evaluation import evaluate
from hybrid.training.loop import Diverged, LearningCurve, LitModule, number_format, resolved, train

UNITS = ("layer", "head")
SCOPES = ("all", "layer")
_LEARNING = ("scope", "mask_lr", "multiplier_lr", "ramp", "phi_cap", "l1")
UNUSED = {
    "lagrangian": ("l1", "given"),
    "l1": ("multiplier_lr", "ramp", "phi_cap", "given"),
    "rule": (*_LEARNING, "given"),
    "given": (*_LEARNING, "units"),
    "dense": (*_LEARNING, "units", "share", "given"),
}
"""Method -> the fields that it does not read; they must stand at their default: a run has one name."""
LEARNT: dict[str, type[LitMasked]] = {"lagrangian": LitLagrangian, "l1": LitL1}
DATA_SEED = {"learn": 50_000, "train": 60_000}
"""Added to the seed of a spec: no stage sees the batches that its model was trained on."""


@dataclass(frozen=True)
class ConsaSpec(Spec):
    """One arm: masks of a dense model are chosen while it trains on, then they are fixed and it trains on."""

    kind = "consa"
    rooms = ("models", "data", "training", "conversion", "selection")

    align: AlignSpec
    """The dense model, its `teacher`, which here teaches nothing; and the cheap branch, a window or a linear
    mixer. The published branch is a window over texts of 8,192 tokens; its width is not known to us."""
    learn: Stage
    """Stage 1: weights and masks learn together. Published: 128 x 8,192 tokens a step, about 1,000 steps."""
    train: Stage
    """Stage 2: masks are rounded and fixed, the weights learn on. Published: 20 or 100 times the tokens."""
    units: str = "layer"
    """What has a mask: "layer", every block, or "head", every key-value head; "head" needs a window."""
    scope: str = "all"
    """What must meet the share: "all" units together, or the heads of each "layer" on their own."""
    share: float | None = None
    """Share of the units that take the cheap branch, between 0 and 1; None if and only if dense."""
    method: str = "lagrangian"
    """How masks are set: "lagrangian" (ConSA); "l1", scalar gates with L1, then ranked; "rule", full
    attention at even distances, over the blocks or over the heads of every block; "given", the blocks of
    `given`; "dense", full attention everywhere. Where nothing is learnt, stage 1 has as many tokens, with
    the masks of stage 2."""
    given: Layout | None = None
    """Blocks that something else chose, such as FlashMorph's gates: `F` is full, any other letter cheap."""
    mask_lr: float = 0.1
    """Constant learning rate of the alphas or gates, by AdamW like the weights. Published: not known to us.
    At 0.01 an alpha of 5 cannot come down to 0 within 500 steps, as AdamW moves it by no more a step."""
    multiplier_lr: float = 0.02
    """Constant learning rate of the multipliers' ascent, by AdamW too. Published: not known to us."""
    ramp: float = 0.5
    """Share of stage 1 over which the target rises from 0 to `share`. Published: not known to us."""
    phi_cap: float = 10.0
    """Most that phi may be: its gradient is a square, so ascent can only raise it. Published: not known."""
    l1: float = 0.05
    """Weight of the mean of the scalar gates in the loss; DuoAttention's."""
    passkeys: Passkeys = field(default_factory=Passkeys)
    """What the models are measured on, beside the teacher's task, before and after every stage."""
    seed: int = 0
    """Seeds the noise of the masks and the order of the data."""

    def __post_init__(self) -> None:
        for name, allowed in (("method", tuple(UNUSED)), ("units", UNITS), ("scope", SCOPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for part in fields(self):
            if part.name in UNUSED[self.method] and getattr(self, part.name) != part.default:
                raise ValueError(
                    f"{self.method} does not read {part.name}: leave it at {part.default!r}; "
                    f"got {getattr(self, part.name)!r}"
                )
        if self.units == "head" and self.align.branch != "window":
            raise ValueError(f"units 'head' needs the branch 'window'; got branch {self.align.branch!r}")
        if self.scope == "layer" and self.units == "layer":
            raise ValueError("scope 'layer' is for the heads of a block: units must be 'head'; got 'layer'")
        if self.method != "dense":
            self._check_share()
        if self.method == "given":
            self._check_given()
        for name in ("mask_lr", "multiplier_lr", "phi_cap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)!r}")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp must be between 0 and 1; got {self.ramp!r}")
        if not self.l1 >= 0:
            raise ValueError(f"l1 must be at least 0; got {self.l1!r}")
        for name in ("learn", "train"):
            length = getattr(self, name).task(self.align.teacher.task).seq_len
            if self.align.window is not None and self.align.window >= length:
                raise ValueError(
                    f"the window must be below the {length} tokens of a sequence of {name}, or it is full "
                    f"attention; got {self.align.window}"
                )
        if self.method in LEARNT and self.learn.train.precision == "bf16-true":
            raise ValueError(
                "masks learn in float32: precision of learn must not be bf16-true; allowed: auto, "
                "32-true, bf16-mixed"
            )
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")

    def _check_share(self) -> None:
        if not isinstance(self.share, float) or not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, both excluded; got {self.share!r}")
        blocks, units = self.shape
        each = self.scope == "layer" or (self.method == "rule" and self.units == "head")
        count = units if each else blocks * units
        if not 0 < kept(count, self.share) < count:
            raise ValueError(f"share must leave some of {count} units full and some not; got {self.share!r}")

    def _check_given(self) -> None:
        depth = self.align.teacher.model.depth
        layout = None if self.given is None else Layout.parse(self.given)
        object.__setattr__(self, "given", layout)
        full = kept(depth, self.share)
        if layout is None or len(layout) != depth or len(layout.full) != full:
            raise ValueError(
                f"given must be a layout of {depth} blocks, {full} of them F at a share of {self.share}; "
                f"got {layout}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks, and units of each."""
        model = self.align.teacher.model
        return model.depth, model.kv_heads if self.units == "head" else 1


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
            module = LEARNT[spec.method](masked, spec)
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
            model.save_pretrained(weights)
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

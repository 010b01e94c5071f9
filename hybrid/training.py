"""One LightningModule, and `fit`: a spec goes in, a result comes out."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from hybrid import provenance, sharding
from hybrid.config import RunSpec, TrainConfig
from hybrid.data.corpus import vocab_size
from hybrid.data.module import TaskData
from hybrid.evaluation import evaluate, home_length
from hybrid.model import HybridLM
from hybrid.store import Result

CURVE_SEQUENCES = 32
"""Sequences behind each point of a learning curve; the last point and the metrics use the task's own."""


class Diverged(ArithmeticError):
    """The training loss was NaN or infinite."""


def learning_rate_factor(step: int, train: TrainConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to a tenth."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    progress = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


class LitHybridLM(L.LightningModule):
    """A `HybridLM` under training: loss, optimiser and schedule of a spec."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        self.spec = spec
        self.model: HybridLM | None = None
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)

    def configure_model(self) -> None:
        """Build the network under Lightning's device and precision, as sharded strategies need."""
        if self.model is None:
            torch.manual_seed(self.spec.seed)
            self.model = HybridLM(self.spec.model)
            sharding.shard(self.model, self.device_mesh)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = self.model(batch["input_ids"], labels=batch["labels"]).loss
        finite, unknown = torch.isfinite(loss.detach()), self.first_bad_step < 0
        self.first_bad_step = torch.where(~finite & unknown, self.global_step, self.first_bad_step)
        if self.spec.train.skip_nonfinite:
            self.first_bad_step = torch.where(finite, -1, self.first_bad_step)
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        if self.spec.train.skip_nonfinite and not torch.isfinite(norm):
            # AdamW leaves a parameter without a gradient, and its moments, as they are.
            optimizer.zero_grad()

    def configure_optimizers(self) -> dict:
        train = self.spec.train
        matrices = [p for name, p in self.named_parameters() if name.endswith("weight") and p.dim() >= 2]
        chosen = set(map(id, matrices))
        vectors = [p for p in self.parameters() if id(p) not in chosen]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": train.weight_decay},
                {"params": vectors, "weight_decay": train.weight_decay if train.decay == "all" else 0.0},
            ],
            lr=train.lr,
            betas=train.betas,
            eps=train.eps,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, train)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LearningCurve(Callback):
    """Measure the model every `eval_every` steps, stop a diverged run, and time the training alone.

    The curve and the clock travel in the checkpoint, so a resumed run goes on with both.
    """

    def __init__(self, data: TaskData) -> None:
        self.data = data
        self.curve: list[dict] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, module: LitHybridLM) -> None:
        self.clock = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: LitHybridLM, outputs, batch, index) -> None:
        step, train = trainer.global_step, module.spec.train
        fresh = not self.curve or self.curve[-1]["step"] != step
        if step == 0 or not fresh or (step % train.eval_every and step != train.steps):
            return
        bad = int(trainer.strategy.reduce(module.first_bad_step.float(), reduce_op="max"))
        self.seconds += time.perf_counter() - self.clock
        if bad >= 0:
            raise Diverged(f"the training loss was not finite at step {bad} of {train.steps}")
        point = {"step": step, "train_loss": float(trainer.callback_metrics["loss"])}
        with trainer.precision_plugin.forward_context():
            measured = evaluate(module.model, self.data, CURVE_SEQUENCES, (home_length(self.data.task),))
        self.curve.append(point | {k: v for k, v in measured.items() if not isinstance(v, list)})
        self.clock = time.perf_counter()

    def state_dict(self) -> dict:
        return {"curve": self.curve, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.curve, self.seconds = state["curve"], state["seconds"]


def fit(
    spec: RunSpec,
    *,
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Train the model of a spec, measure it, and return the result.

    Args:
        spec: what to train, on what, how, from which seed.
        devices, num_nodes, strategy: passed to Lightning's Trainer ("fsdp": see `hybrid.sharding`);
            they change where a run is computed, not what it is, so they are no part of the spec.
            The batch is shared out.
        checkpoint_dir: where checkpoints and the CSV log go. A run that finds its own checkpoint
            there goes on from it: on a CPU the weights end bit-equal to an uninterrupted run's.
        progress: draw a progress bar.

    Returns:
        A result with status "done"; or "failed", with the reason, if the loss was not finite.

    Raises:
        ValueError: the model's vocabulary is smaller than the task's.
    """
    needed = vocab_size(spec.task)
    if spec.model.vocab_size < needed:
        raise ValueError(f"the task needs a vocab_size of at least {needed}; got {spec.model.vocab_size}")
    _quiet()
    L.seed_everything(spec.seed, verbose=False)
    data = TaskData(spec.task, spec.train, spec.seed)
    module, curve = LitHybridLM(spec), LearningCurve(data)
    callbacks: list[Callback] = [curve]
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder,
                filename="last",
                every_n_train_steps=spec.train.eval_every,
                enable_version_counter=False,
            )
        )
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=max(1, spec.train.steps // 100)))
    trainer = L.Trainer(
        max_steps=spec.train.steps,
        max_epochs=1,
        devices=devices,
        num_nodes=num_nodes,
        strategy=sharding.strategy(strategy),
        precision=_precision(spec.train.precision),
        accumulate_grad_batches=spec.train.accumulate,
        gradient_clip_val=spec.train.clip,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="log", version="") if folder is not None else False,
        log_every_n_steps=max(1, min(10, spec.train.eval_every)),
        enable_checkpointing=folder is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    last = folder / "last.ckpt" if folder is not None else None
    resume = str(last) if last is not None and last.exists() else None
    status, message, metrics = "done", "", {}
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume)
        # Lightning leaves the model of a GPU on the CPU.
        module.model.to(trainer.strategy.root_device)
        with trainer.precision_plugin.forward_context():
            metrics = evaluate(module.model, data)
    except Diverged as error:
        status, message = "failed", str(error)
    if spec.task.recall_fraction < 1:
        metrics["corpus_fingerprint"] = data.corpus.fingerprint
    metrics["parameters"] = sum(p.numel() for p in module.model.parameters())
    tokens = spec.train.steps * spec.train.batch_size * spec.task.seq_len
    evidence = provenance.collect(
        seconds=curve.seconds,
        tokens=tokens,
        precision=trainer.precision,
        devices=trainer.world_size,
    )
    return Result(spec.run_id, spec, status, message, metrics, curve.curve, evidence)


def _precision(name: str) -> str:
    if name != "auto":
        return name
    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


def _quiet() -> None:
    """Silence Lightning's hints about hardware and workers; its warnings about results stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    for hint in (".*does not have many workers.*", ".*LeafSpec.*", ".*not empty.*"):
        warnings.filterwarnings("ignore", hint)

"""The training loop that every kind of training shares: optimiser, schedule, clipping, curve and resume."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from hybrid.config import TrainConfig
from hybrid.training import sharding
from hybrid.training.cuda_graphs import recorded


class Diverged(ArithmeticError):
    """The training loss was NaN or infinite."""


def learning_rate_factor(step: int, train: TrainConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to `final`."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    progress = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    return train.final + (1 - train.final) / 2 * (1 + math.cos(math.pi * progress))


class LitModule(L.LightningModule):
    """Parameters under training by AdamW; a subclass says with which `loss`."""

    steady = False
    """Whether Python does the same in `loss` at every step, so that one GPU alone may play it back."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.played: dict[torch.Size, Callable[[dict[str, Tensor]], Tensor]] = {}
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)
        self.register_buffer("step_loss", torch.tensor(0.0), persistent=False)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """A number to make small."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = self.played_back(batch) if self.plays_back() else self.loss(batch)
        finite, unknown = torch.isfinite(loss.detach()), self.first_bad_step < 0
        self.first_bad_step = torch.where(~finite & unknown, self.global_step, self.first_bad_step)
        if self.config.skip_nonfinite:
            self.first_bad_step = torch.where(finite, -1, self.first_bad_step)
        first = index % self.config.accumulate == 0
        self.step_loss = (0.0 if first else self.step_loss) + loss.detach() / self.config.accumulate
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def plays_back(self) -> bool:
        """Whether `loss` is recorded: on one GPU, with nothing sharded and no gradients accumulated."""
        alone = self.trainer.world_size == 1 and self.device_mesh is None and self.device.type == "cuda"
        return self.steady and alone and self.config.accumulate == 1

    def played_back(self, batch: dict[str, Tensor]) -> Tensor:
        """`loss`, recorded at the first batch of a shape (`hybrid.training.cuda_graphs`)."""
        shape = next(iter(batch.values())).shape
        if shape not in self.played:
            self.played[shape] = recorded(self, self.loss, batch)
        return self.played[shape](batch)

    def on_train_end(self) -> None:
        # A recording holds the memory it was made in.
        self.played.clear()

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        if self.config.skip_nonfinite and not torch.isfinite(norm):
            # AdamW leaves a parameter without a gradient, and its moments, as they are.
            optimizer.zero_grad()

    def parameter_groups(self) -> list[dict]:
        """AdamW's groups of the parameters that learn: matrices decay, vectors only if asked to."""
        train = self.config
        learnt = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        matrices = [p for name, p in learnt if name.endswith("weight") and p.dim() >= 2]
        chosen = set(map(id, matrices))
        vectors = [p for _, p in learnt if id(p) not in chosen]
        return [
            {"params": matrices, "weight_decay": train.weight_decay},
            {"params": vectors, "weight_decay": train.weight_decay if train.decay == "all" else 0.0},
        ]

    def configure_optimizers(self) -> dict:
        train = self.config
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), lr=train.lr, betas=train.betas, eps=train.eps, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, train)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LearningCurve(Callback):
    """Measure every `eval_every` steps, stop a diverged run, and time the training alone.

    The curve and the clock travel in the checkpoint, so a resumed run goes on with both.
    """

    def __init__(self, measure: Callable[[LitModule], dict]) -> None:
        self.measure = measure
        self.curve: list[dict] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, module: LitModule) -> None:
        self.clock = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: LitModule, outputs, batch, index) -> None:
        step, train = trainer.global_step, module.config
        fresh = not self.curve or self.curve[-1]["step"] != step
        if step == 0 or not fresh or (step % train.eval_every and step != train.steps):
            return
        bad = int(trainer.strategy.reduce(module.first_bad_step.float(), reduce_op="max"))
        self.seconds += time.perf_counter() - self.clock
        if bad >= 0:
            raise Diverged(f"the training loss was not finite at step {bad} of {train.steps}")
        loss = trainer.strategy.reduce(module.step_loss, reduce_op="mean")
        point = {"step": step, "train_loss": float(loss)}
        with number_format(train.precision):
            measured = self.measure(module)
        self.curve.append(point | {k: v for k, v in measured.items() if not isinstance(v, list)})
        self.clock = time.perf_counter()

    def state_dict(self) -> dict:
        return {"curve": self.curve, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.curve, self.seconds = state["curve"], state["seconds"]


def train(
    module: LitModule,
    data: L.LightningDataModule,
    curve: LearningCurve,
    *,
    folder: str | Path | None = None,
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    progress: bool = True,
) -> L.Trainer:
    """Train a module for its steps; one that finds its own checkpoint in `folder` goes on from it.

    Args:
        module: what to train, and by its `config` how.
        data: the batches.
        curve: measures on the way, and tells the seconds afterwards.
        folder: where checkpoints and the CSV log go; None: none are kept.
        devices, num_nodes, strategy: passed to Lightning's Trainer ("fsdp": see `hybrid.training.sharding`).
        progress: draw a progress bar.

    Raises `Diverged` when the loss was not finite.
    """
    _quiet()
    config = module.config
    callbacks: list[Callback] = [curve]
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder,
                filename="last",
                every_n_train_steps=config.eval_every,
                enable_version_counter=False,
            )
        )
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=max(1, config.steps // 100)))
    trainer = L.Trainer(
        max_steps=config.steps,
        max_epochs=1,
        devices=devices,
        num_nodes=num_nodes,
        strategy=sharding.strategy(strategy),
        precision=resolved(config.precision),
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="log", version="") if folder is not None else False,
        log_every_n_steps=max(1, min(10, config.eval_every)),
        enable_checkpointing=folder is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    last = Path(folder) / "last.ckpt" if folder is not None else None
    resume = str(last) if last is not None and last.exists() else None
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return trainer


def number_format(precision: str) -> AbstractContextManager:
    """In which a model computes that is trained with this `TrainConfig.precision`: it is measured in it."""
    if resolved(precision) != "bf16-mixed":
        return nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


def resolved(precision: str) -> str:
    """A `TrainConfig.precision` with "auto" decided by the machine."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


def _quiet() -> None:
    """Silence Lightning's hints about hardware and workers; its warnings about results stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    for hint in (".*does not have many workers.*", ".*LeafSpec.*", ".*not empty.*"):
        warnings.filterwarnings("ignore", hint)

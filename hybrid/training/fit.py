"""`fit`: a spec goes in, a language model is trained and measured, a result comes out."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from hybrid.checkpoints.checkpoint import save
from hybrid.config import RunSpec
from hybrid.data.corpus import vocab_size
from hybrid.data.module import TaskData
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import provenance
from hybrid.runs.store import Result
from hybrid.training import sharding
from hybrid.training.evaluation import evaluate
from hybrid.training.loop import Diverged, LearningCurve, LitModule, number_format, resolved, train

CURVE_SEQUENCES = 32
"""Sequences behind each point of a learning curve, at most."""
CURVE_SHARE = 4
"""And at most one in so many of those behind the metrics."""


class LitHybridLM(LitModule):
    """A `HybridLM` under training: loss, optimiser and schedule of a spec."""

    steady = True

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec.train)
        self.spec = spec
        self.model: HybridLM | None = None

    def configure_model(self) -> None:
        """Build the network under Lightning's device and precision, as sharded strategies need."""
        if self.model is None:
            torch.manual_seed(self.spec.seed)
            self.model = HybridLM(self.spec.model)
            sharding.shard(self.model, self.device_mesh)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(batch["input_ids"], labels=batch["labels"]).objective


def fit(
    spec: RunSpec,
    *,
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    checkpoint_dir: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Train the model of a spec, measure it, and return the result.

    Args:
        spec: what to train, on what, how, from which seed.
        devices, num_nodes, strategy: passed to Lightning's Trainer ("fsdp": see `hybrid.training.sharding`);
            they change where a run is computed, not what it is, so they are no part of the spec.
            The batch is shared out.
        checkpoint_dir: where checkpoints and the CSV log go. A run that finds its own checkpoint
            there goes on from it: on a CPU the weights end bit-equal to an uninterrupted run's.
        weights: folder the trained model is saved into; None: only its measurements stay.
        progress: draw a progress bar.

    Returns:
        A result with status "done"; or "failed", with the reason, if the loss was not finite.

    Raises:
        ValueError: the model's vocabulary is smaller than the task's.
    """
    needed = vocab_size(spec.task)
    if spec.model.vocab_size < needed:
        raise ValueError(f"the task needs a vocab_size of at least {needed}; got {spec.model.vocab_size}")
    L.seed_everything(spec.seed, verbose=False)
    data = TaskData(spec.task, spec.train, spec.seed)
    module = LitHybridLM(spec)
    sequences = min(CURVE_SEQUENCES, max(1, spec.task.eval_sequences // CURVE_SHARE))
    curve = LearningCurve(lambda module: _point(evaluate(module.model, data, sequences, [spec.task.home])))
    spread = {"devices": devices, "num_nodes": num_nodes, "strategy": strategy}
    # Text is read, or refused, before the clock of the training starts.
    fingerprint = data.corpus.fingerprint if spec.task.reads_text else None
    counter = data.counter_bits
    status, message, metrics = "done", "", {}
    try:
        trainer = train(module, data, curve, folder=checkpoint_dir, progress=progress, **spread)
        # Lightning leaves the model of a GPU on the CPU.
        module.model.to(trainer.strategy.root_device)
        with number_format(spec.train.precision):
            metrics = evaluate(module.model, data)
        if weights is not None:
            save(module.model, weights)
    except Diverged as error:
        status, message = "failed", str(error)
    if fingerprint is not None:
        metrics["corpus_fingerprint"] = fingerprint
    if counter is not None:
        metrics["counter_bits_per_byte"] = counter
    metrics["parameters"] = sum(p.numel() for p in module.model.parameters())
    tokens = spec.train.steps * spec.train.batch_size * spec.task.seq_len
    evidence = provenance.collect(
        seconds=curve.seconds,
        tokens=tokens,
        rooms=spec.rooms,
        precision=resolved(spec.train.precision),
        devices=module.trainer.world_size,
    )
    return Result(spec.run_id, spec, status, message, metrics, curve.curve, evidence)


def _point(metrics: dict) -> dict:
    """What a learning curve keeps beside the metrics that are one number: recall at each load."""
    loads = [row for row in metrics.get("recall_by", []) if row["distance"] is None]
    return metrics | {f"recall_{row['pairs']}": row["accuracy"] for row in loads}

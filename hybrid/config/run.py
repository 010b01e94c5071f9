"""What a training run is: a model, its task, its training and a seed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from hybrid.config.model import ModelConfig
from hybrid.config.specs import Spec
from hybrid.config.task import TaskConfig
from hybrid.config.train import TrainConfig


@dataclass(frozen=True)
class RunSpec(Spec):
    """A frozen description of one training run."""

    kind = "run"
    rooms = ("models", "data", "training")

    model: ModelConfig
    task: TaskConfig
    train: TrainConfig
    seed: int = 0
    """Seeds initialisation, data order and recall sequences; whole number from 0."""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")

    @property
    def title(self) -> str:
        """A few words for messages and tables."""
        return f"{self.model.mixer_name} {self.model.layout}, seed {self.seed}"

    def with_(self, **changes) -> RunSpec:
        """A copy with fields of any part changed: ``spec.with_(lr=3e-4, seed=1)``."""
        parts = {"model": self.model, "task": self.task, "train": self.train}
        for name, part in parts.items():
            mine = {k: changes.pop(k) for k in list(changes) if k in {f.name for f in fields(part)}}
            parts[name] = replace(part, **mine)
        seed = changes.pop("seed", self.seed)
        if changes:
            raise ValueError(f"no part of a run spec has a field {next(iter(changes))!r}")
        return RunSpec(**parts, seed=seed)

"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.config.checks import above_zero, floats, from_zero, numbers, positive, share

DECAYS = ("matrices", "all")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: AdamW with linear warm-up and a cosine down to a share of the peak."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Sequences an optimiser step sees, over all devices and passes."""
    accumulate: int = 1
    """Forward and backward passes an optimiser step is cut into."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    final: float = 0.1
    """Learning rate of the last step, as a share of the peak; 1 is a constant rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay."""
    decay: str = "matrices"
    """What it decays: "matrices" (weight matrices; not norms, biases, decays and bounds) or "all"
    parameters, as the published training code does."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    eps: float = 1e-8
    """AdamW's summand in the denominator; the published training code has 1e-15."""
    clip: float = 1.0
    """Largest gradient norm."""
    skip_nonfinite: bool = False
    """Leave a step out whose gradient norm is not finite, as the published training code does. The
    run then counts as diverged only if its loss is not finite at a point of the learning curve."""
    precision: str = "auto"
    """Lightning's precision; "auto" is bf16-mixed on a GPU and 32-true elsewhere."""
    eval_every: int = 100
    """Steps between two points of the learning curve."""

    def __post_init__(self) -> None:
        floats(self)
        betas = numbers(self, "betas")
        if len(betas) != 2 or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1; got {self.betas!r}")
        object.__setattr__(self, "betas", tuple(map(float, betas)))
        positive(self, "steps", "batch_size", "accumulate", "eval_every")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}; got {self.accumulate}")
        if not isinstance(self.warmup, int) or not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must be between 0 and steps {self.steps}; got {self.warmup!r}")
        above_zero(self, "lr", "eps", "clip")
        from_zero(self, "weight_decay")
        share(self, "final")
        if self.decay not in DECAYS:
            raise ValueError(f"unknown decay {self.decay!r}; allowed: {', '.join(DECAYS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; allowed: {', '.join(PRECISIONS)}")

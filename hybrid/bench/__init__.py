"""Speed and memory, measured beside what others do in the same run: kernels, training, decoding, start.

All candidates of a measurement take turns: every repeat runs each of them once, so a busy machine slows
all alike. The first round warms up and does not count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from hybrid.config.specs import Spec

if TYPE_CHECKING:
    from hybrid.runs.store import Result

SUBJECTS = {
    "kernels": "each kernel, forward and backward",
    "train": "whole training steps, their parts, the loop around them, several runs side by side",
    "decode": "reading a text and adding a token to it, and the bytes that takes",
    "start": "what passes before anything is computed",
}
"""What can be measured; each is a module of this package with a function ``measure(spec)``."""
DEVICES = ("cpu", "cuda")
LONG = tuple(1024 * 2**n for n in range(8))
LENGTHS = {
    "kernels": {"smoke": (64,), "laptop": (256, 2048, 8192), "gpu": (256, 2048, 8192), "paper": (4096,)},
    "decode": {"smoke": (64, 128), "laptop": LONG[:6], "gpu": LONG, "paper": LONG},
}
"""Lengths, in tokens, of `plan`."""


@dataclass(frozen=True)
class BenchSpec(Spec):
    """One measurement. A result is that of the machine its provenance names; another machine's replaces it.

    Raises ``ValueError`` naming an unknown subject, scale or device, too few repeats, or lengths that the
    subject does not have.
    """

    kind = "bench"
    rooms = ("models", "data", "training", "bench")
    seed: ClassVar[int] = 0
    """As of other specs; inputs are drawn from it."""

    subject: str
    """One of `SUBJECTS`."""
    scale: str = "laptop"
    """Whose models are trained and decoded."""
    device: str = "cpu"
    """One of `DEVICES`."""
    repeats: int = 4
    """Rounds that count, at least two: they show a spread."""
    lengths: tuple[int, ...] = ()
    """Tokens, ascending; of kernels and of decoding alone."""

    def __post_init__(self) -> None:
        from hybrid.studies.scales import SCALES

        for name, allowed in (("subject", SUBJECTS), ("scale", SCALES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if type(self.repeats) is not int or self.repeats < 2:
            raise ValueError(f"repeats must be at least 2, to show a spread; got {self.repeats!r}")
        object.__setattr__(self, "lengths", tuple(self.lengths))
        if bool(self.lengths) != (self.subject in ("kernels", "decode")):
            raise ValueError(f"lengths belong to kernels and decode; {self.subject} got {self.lengths}")
        if any(type(n) is not int or n < 1 for n in self.lengths) or list(self.lengths) != sorted(
            set(self.lengths)
        ):
            raise ValueError(f"lengths must be whole numbers from 1, ascending; got {self.lengths}")


def plan(scale_name: str) -> list[BenchSpec]:
    """The measurements of a scale, one a subject; on a GPU from scale gpu on. Smoke has no start, which is
    minutes of waiting for new processes.

    Raises ``ValueError`` naming an unknown scale.
    """
    from hybrid.studies.scales import scale

    scale(scale_name)
    device = "cuda" if scale_name in ("gpu", "paper") else "cpu"
    return [
        BenchSpec(
            subject,
            scale_name,
            device,
            2 if scale_name == "smoke" else 4,
            LENGTHS.get(subject, {}).get(scale_name, ()),
        )
        for subject in SUBJECTS
        if (subject, scale_name) != ("start", "smoke")
    ]


def measure(spec: BenchSpec, *, checkpoint_dir=None, progress: bool = True) -> Result:
    """Carry out a measurement: every metric is a table, a row a candidate.

    Times are in milliseconds, ``ms`` their median over the repeats and ``spread`` the interquartile
    range over the median.

    Raises ``ValueError`` where the device is not there.
    """
    import torch

    from hybrid.runs import provenance
    from hybrid.runs.store import Result

    if spec.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' is not there; allowed here: cpu")
    started = time.perf_counter()
    torch.manual_seed(spec.seed)
    tables = import_module(f"hybrid.bench.{spec.subject}").measure(spec, progress)
    evidence = provenance.collect(
        seconds=time.perf_counter() - started,
        tokens=0,
        rooms=spec.rooms,
        threads=torch.get_num_threads(),
    )
    return Result(spec.run_id, spec, "done", metrics=tables, provenance=evidence)

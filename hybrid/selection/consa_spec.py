"""The arms of ConSA's study: how masks are set, on which units, at which share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from hybrid.config.layout import Layout
from hybrid.config.specs import Spec
from hybrid.conversion.specs import AlignSpec, Stage
from hybrid.data.passkeys import Passkeys
from hybrid.selection.masks import kept

LEARNT = ("lagrangian", "l1")
"""Methods whose masks learn."""
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

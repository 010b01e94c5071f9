"""The one dial: what smoke, laptop, gpu and paper mean for a model, its task and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid.config import (
    MIXERS,
    AttentionConfig,
    LessonConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RunSpec,
    StartConfig,
    TaskConfig,
    TrainConfig,
)
from hybrid.config.layout import Layout
from hybrid.data.corpus import vocab_size
from hybrid.models.cost import match_parameters, parameters
from hybrid.studies.paper import Paper

MAIN_MIXER = "gated_deltanet"
"""The linear mixer where one stands for all: in benchmarks, and in conversions."""
ARMS = {"matched": 4, "published": "reference"}
"""Arms of the grid and their short convolution (`ModelConfig.conv`). "matched": every mixer sees the three
tokens before; "published": only the mixers whose reference has a convolution do."""


@dataclass(frozen=True)
class Scale:
    """Everything the scale dial sets for one grid of small language models."""

    depth: int
    """Blocks of a model."""
    hidden_size: int
    """Channels of the residual stream."""
    heads: int
    """Heads of every mixer with a matrix state, and of full attention."""
    ratios: tuple[str, ...]
    """Ratio labels that the depth can express, fewest full blocks first."""
    start: StartConfig
    """How parameters are drawn."""
    task: TaskConfig
    train: TrainConfig
    rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rate by mixer, and of "full" attention; where none is named, that of `train`."""
    sweep_steps: int | None = None
    """Steps of a run that rates are chosen by; None: as many as of the others."""
    mlp_multiple: int = 1
    """Matched widths of the MLP are multiples of this."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the grid."""

    def __post_init__(self) -> None:
        if not isinstance(self.depth, int) or self.depth < 1:
            raise ValueError(f"depth must be a positive number of blocks; got {self.depth!r}")

    def model(self, mixer: str, layout: Layout, arm: str = "matched") -> ModelConfig:
        """A model of the grid: matrix states of all mixers have the same shape, and the MLP's width is set so
        that every model of a scale and arm holds the parameters of the full-attention one within 2 %.

        In the arm "matched" every mixer, full attention included, gets the same short convolution; in the
        arm "published" each has what its reference has. Raises ``ValueError`` naming an unknown arm.
        """
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}; allowed: {', '.join(ARMS)}")

        def build(mixer: str, layout: Layout) -> ModelConfig:
            heads = MIXERS[mixer].heads_like(self.heads, self.hidden_size // self.heads)
            return ModelConfig(
                layout=layout,
                linear=LinearConfig(mixer, **heads),
                attention=AttentionConfig(self.heads),
                mlp=MLPConfig(size=3 * self.hidden_size),
                vocab_size=vocab_size(self.task),
                hidden_size=self.hidden_size,
                conv=ARMS[arm],
                start=self.start,
            )

        MIXERS.check(mixer)
        full = build(mixer, Layout.from_ratio("full", self.depth))
        if layout == full.layout:
            return full
        return match_parameters(build(mixer, layout), parameters(full), self.mlp_multiple)

    def specs(
        self, mixers: Sequence[str], ratios: Sequence[str], seeds: Sequence[int], arm: str
    ) -> list[RunSpec]:
        """The runs of a grid, seed by seed; a full-attention model is one run a seed."""
        layouts = [Layout.from_ratio(ratio, self.depth) for ratio in ratios]
        return self.runs(mixers, layouts, seeds, arm)

    def runs(
        self, mixers: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], arm: str = "matched"
    ) -> list[RunSpec]:
        """The runs of these layouts, seed by seed; a full-attention model is one run a seed."""
        configs = dict.fromkeys(self.model(mixer, layout, arm) for mixer in mixers for layout in layouts)
        return [
            RunSpec(config, self.task, replace(self.train, lr=self.rate(config)), seed)
            for seed in seeds
            for config in configs
        ]

    def resized(self, depth: int | None, steps: int | None) -> Scale:
        """The same scale with another depth or number of steps, where one is given."""
        train = self.train
        if steps is not None:
            train = replace(train, steps=steps, warmup=min(train.warmup, steps))
        return replace(self, depth=self.depth if depth is None else depth, train=train)

    def rate(self, config: ModelConfig) -> float:
        """Peak learning rate of a model: that of its linear mixer, if it holds one."""
        return self.rates.get(config.mixer_name, self.train.lr)


SMOKE = Scale(
    depth=2,
    hidden_size=32,
    heads=2,
    ratios=("pure", "2:1", "full"),
    start=StartConfig.mimetic(32),
    task=TaskConfig(
        corpus="stdlib:[p-t]*.py",
        seq_len=64,
        pairs=(1, 2, 4),
        queries=8,
        recall_fraction=0.75,
        suite_fraction=0.5,
        recall_vocab=64,
        eval_pairs=(2, 4),
        eval_lengths=(64, 128),
        eval_sequences=8,
    ),
    train=TrainConfig(steps=10, batch_size=8, warmup=2, eval_every=5, lr=4e-3),
)
SMOKE_RECALL = replace(SMOKE, task=replace(SMOKE.task, recall_fraction=1.0, suite_fraction=0.0))
LAPTOP = Scale(
    depth=6,
    hidden_size=64,
    heads=4,
    ratios=("pure", "6:1", "3:1", "2:1", "full"),
    start=StartConfig.mimetic(64),
    task=TaskConfig(
        seq_len=256,
        recall_fraction=1.0,
        pairs=(4, 8, 16, 32, 64),
        queries=64,
        recall_vocab=128,
        lesson=LessonConfig(0.4, 64, (1, 2, 4, 8), 20),
        eval_pairs=(4, 8, 16, 32, 64),
        eval_lengths=(256, 512, 1024),
        eval_sequences=64,
    ),
    train=TrainConfig(steps=600, batch_size=6, lr=4e-3, warmup=30, final=0.05, eval_every=40),
    rates={
        "full": 8e-3,
        "hgrn": 8e-3,
        "retnet": 8e-3,
        "gla": 8e-3,
        "hgrn2": 8e-3,
        "deltanet": 1.6e-2,
        "gated_deltanet": 8e-3,
        "mamba2": 8e-3,
    },
    sweep_steps=480,
    seeds=(10, 11, 12),
)
GPU = Scale(
    depth=24,
    hidden_size=128,
    heads=2,
    ratios=("pure", "24:1", "12:1", "6:1", "3:1", "full"),
    start=StartConfig(0.03),
    task=TaskConfig(
        seq_len=256,
        recall_fraction=0.85,
        pairs=(1, 2, 4, 8, 16, 32),
        queries=80,
        suite_fraction=0.5,
        recall_vocab=256,
        eval_pairs=(8, 16, 32, 64, 128),
        eval_lengths=(256, 512, 1024),
    ),
    train=TrainConfig(steps=2500, batch_size=64, lr=2e-3, warmup=200, eval_every=250),
    mlp_multiple=8,
)


def _started(size: Scale, seq_len: int, **train) -> Scale:
    """The grid of the starts: the first steps of a recall grid alone, short sequences of few pairs."""
    task = replace(
        size.task,
        seq_len=seq_len,
        recall_fraction=1.0,
        suite_fraction=0.0,
        pairs=(1, 2, 4, 8),
        queries=20,
        lesson=None,
        eval_pairs=(4, 8),
        eval_lengths=(seq_len,),
    )
    return replace(size, ratios=("pure", "full"), task=task, train=replace(size.train, **train))


SCALES: dict[str, dict[str, Scale | Paper]] = {
    "smoke": {
        "mixture": SMOKE,
        "recall": SMOKE_RECALL,
        "recall_deep": replace(SMOKE_RECALL, depth=4, ratios=("pure", "4:1", "full")),
        "text": replace(SMOKE, task=replace(SMOKE.task, recall_fraction=0.0, suite_fraction=0.0)),
        "start": _started(SMOKE, 64),
    },
    "laptop": {
        "recall": LAPTOP,
        "recall_deep": replace(LAPTOP, depth=12, ratios=("pure", "12:1", "6:1", "3:1", "full")),
        "text": replace(
            LAPTOP,
            ratios=("pure", "3:1", "full"),
            task=TaskConfig(
                corpus="stdlib:[p-t]*.py",
                seq_len=128,
                recall_fraction=0.0,
                eval_lengths=(128,),
                eval_sequences=512,
            ),
            train=TrainConfig(steps=500, batch_size=12, lr=4e-3, warmup=30, final=0.05, eval_every=50),
            rates={
                "full": 8e-3,
                "hgrn": 1.6e-2,
                "retnet": 8e-3,
                "gla": 8e-3,
                "hgrn2": 1.6e-2,
                "deltanet": 1.6e-2,
                "gated_deltanet": 1.6e-2,
            },
            sweep_steps=300,
        ),
        "start": replace(_started(LAPTOP, 64, steps=300, batch_size=12, eval_every=20), seeds=(10, 11, 12)),
        "mixture": replace(
            LAPTOP,
            start=StartConfig(0.05),
            task=TaskConfig(
                seq_len=64,
                recall_fraction=0.85,
                pairs=(1, 2, 4, 8),
                queries=20,
                suite_fraction=0.5,
                recall_vocab=64,
                eval_pairs=(2, 4, 8, 16, 32),
                eval_lengths=(64, 128, 256),
                eval_sequences=128,
            ),
            train=TrainConfig(steps=1800, batch_size=24, lr=3e-3, warmup=100, eval_every=225),
            rates={},
            sweep_steps=None,
            seeds=(0, 1, 2),
        ),
    },
    "gpu": {"mixture": GPU},
    "paper": {"mixture": Paper()},
}
"""Scale -> its grids by name; "mixture" has text and recall on the same weights, as in the paper, and stands
for each that a scale does not have."""


def scale(name: str, study: str = "mixture") -> Scale | Paper:
    """The grid of that name at a scale. Raises ``ValueError`` naming the allowed scales and grids."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; allowed: {', '.join(SCALES)}")
    known = sorted({study for grids in SCALES.values() for study in grids})
    if study not in known:
        raise ValueError(f"unknown grid {study!r}; allowed: {', '.join(known)}")
    return SCALES[name].get(study, SCALES[name]["mixture"])

"""Which runs a chapter needs: the one scale dial, and a function a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid.config import MIXERS, ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.cost import match_parameters, parameters
from hybrid.data.corpus import vocab_size
from hybrid.layout import Layout

SWEEP_SEED = 1000
"""Learning rates are compared on this seed, which no reported number uses."""
ARMS = {"matched": 4, "published": "reference"}
"""Arms of the grid and their short convolution (`ModelConfig.conv`). "matched": every mixer sees the three
tokens before; "published": only the mixers whose reference has a convolution do."""


@dataclass(frozen=True)
class Scale:
    """Everything the scale dial sets for the small language models of the studies."""

    depth: int
    """Blocks of a model."""
    hidden_size: int
    """Channels of the residual stream."""
    heads: int
    """Heads of every mixer with a matrix state, and of full attention."""
    ratios: tuple[str, ...]
    """Ratio labels that the depth can express, fewest full blocks first."""
    init_std: float
    """Standard deviation of every matrix at the start. The published 0.02 is made for widths above
    1,000; narrow models of every mixer find recall much later with it."""
    task: TaskConfig
    train: TrainConfig
    rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rate by mixer, and of "full" attention; where none is named, that of `train`."""

    def rate(self, config: ModelConfig) -> float:
        """Peak learning rate of a model: that of its linear mixer, if it holds one."""
        kind = config.mixer if "L" in config.layout.letters else "full"
        return self.rates.get(kind, self.train.lr)

    def __post_init__(self) -> None:
        if not isinstance(self.depth, int) or self.depth < 1:
            raise ValueError(f"depth must be a positive number of blocks; got {self.depth!r}")


SCALES: dict[str, Scale] = {
    "smoke": Scale(
        depth=2,
        hidden_size=32,
        heads=2,
        ratios=("pure", "2:1", "full"),
        init_std=0.05,
        task=TaskConfig(
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
    ),
    "laptop": Scale(
        depth=6,
        hidden_size=64,
        heads=4,
        ratios=("pure", "6:1", "3:1", "2:1", "full"),
        init_std=0.05,
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
        train=TrainConfig(steps=1800, batch_size=24, lr=6e-3, warmup=100, eval_every=225),
    ),
    "gpu": Scale(
        depth=24,
        hidden_size=256,
        heads=4,
        ratios=("pure", "24:1", "12:1", "6:1", "3:1", "full"),
        init_std=0.02,
        task=TaskConfig(
            seq_len=512,
            pairs=(1, 2, 4, 8, 16, 32, 64),
            queries=128,
            recall_vocab=512,
            eval_pairs=(16, 32, 64, 128),
            eval_lengths=(512, 1024, 2048),
        ),
        train=TrainConfig(steps=3000, batch_size=64, lr=1e-3, warmup=200),
    ),
}


def scale(name: str) -> Scale:
    """The scale of that name. Raises ``ValueError`` naming the allowed ones."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; allowed: {', '.join(SCALES)}")
    return SCALES[name]


def model(size: Scale, mixer: str, layout: Layout, arm: str = "matched") -> ModelConfig:
    """A model of the grid: matrix states of all mixers have the same shape, and the MLP's width is set so
    that every model of a scale and arm holds the parameters of the full-attention one within 2 %.

    In the arm "matched" every mixer, full attention included, gets the same short convolution; in the
    arm "published" each has what its reference has. Raises ``ValueError`` naming an unknown arm.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; allowed: {', '.join(ARMS)}")

    def build(mixer: str, layout: Layout) -> ModelConfig:
        head = size.hidden_size // size.heads
        heads = {"num_heads": size.heads, "head_k_dim": head, "head_v_dim": head}
        return ModelConfig(
            layout=layout,
            mixer=mixer,
            vocab_size=vocab_size(size.task),
            hidden_size=size.hidden_size,
            mlp_size=3 * size.hidden_size,
            attn_heads=size.heads,
            conv=ARMS[arm],
            init_std=size.init_std,
            **({} if mixer == "hgrn" else heads),
        )

    full = build("gated_deltanet", Layout.from_ratio("full", size.depth))
    if layout == full.layout:
        return full
    return match_parameters(build(mixer, layout), parameters(full))


def grid(
    scale_name: str = "laptop",
    mixers: Sequence[str] = MIXERS,
    ratios: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    arm: str = "matched",
    depth: int | None = None,
    steps: int | None = None,
) -> list[RunSpec]:
    """The systematic study: pure, hybrid and full models of several mixers, on text and recall at once
    (arXiv 2507.06457, section 4), seed by seed.

    Empty `ratios`, and `depth` and `steps` of ``None``, are the scale's own; each mixer has its own
    learning rate (`Scale.rates`). A full-attention model holds no linear mixer, so it is trained
    once a seed whatever the number of mixers.
    Raises ``ValueError`` naming an unknown scale, mixer, ratio, seed or arm before anything is trained.
    """
    size = scale(scale_name)
    _listed("mixers", mixers, lambda m: m in MIXERS, ", ".join(MIXERS))
    _listed("seeds", seeds, lambda s: type(s) is int and 0 <= s != SWEEP_SEED, "whole numbers from 0")
    if depth is not None or steps is not None:
        size = _resized(size, depth, steps)
    ratios = list(ratios) or [r for r in size.ratios if _fits(r, size.depth)]
    layouts = [Layout.from_ratio(ratio, size.depth) for ratio in ratios]
    configs = dict.fromkeys(model(size, mixer, layout, arm) for mixer in mixers for layout in layouts)
    return [
        RunSpec(config, size.task, replace(size.train, lr=size.rate(config)), seed)
        for seed in seeds
        for config in configs
    ]


def grid_published(scale_name: str = "laptop") -> list[RunSpec]:
    """The grid's second arm, each mixer with the convolution of its reference, on one seed."""
    return grid(scale_name, seeds=(0,), arm="published")


def learning_rate_sweep(scale_name: str = "laptop") -> list[RunSpec]:
    """What `Scale.rates` were chosen from: the pure model of every mixer and full attention, at half
    the scale's common rate, at it and at twice it, on `SWEEP_SEED`."""
    rate = scale(scale_name).train.lr
    specs = grid(scale_name, ratios=("pure", "full"), seeds=(0,))
    return [s.with_(lr=r, seed=SWEEP_SEED) for r in (rate / 2, rate, rate * 2) for s in specs]


def ratio_labels(depth: int) -> dict[str, str]:
    """Layout -> label, for the labels from 2:1 that a depth can express under the period rule, "pure"
    and "full".

    >>> ratio_labels(6)
    {'LLLLLL': 'pure', 'FFFFFF': 'full', 'LFLFLF': '2:1', 'LLFLLF': '3:1', 'LLLLLF': '6:1'}
    """
    labels = ["pure", "full", *(f"{period}:1" for period in range(2, depth + 1))]
    return {str(Layout.from_ratio(label, depth)): label for label in labels if _fits(label, depth)}


STUDIES: dict[str, Callable[[str], list[RunSpec]]] = {
    "grid": grid,
    "grid_published": grid_published,
    "learning_rates": learning_rate_sweep,
}


def study(name: str, scale_name: str) -> list[RunSpec]:
    """The runs of a study at a scale. Raises ``ValueError`` naming the allowed studies and scales."""
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; allowed: {', '.join(STUDIES)}")
    return STUDIES[name](scale_name)


def _resized(size: Scale, depth: int | None, steps: int | None) -> Scale:
    if steps is not None:
        warmup = min(size.train.warmup, steps)
        size = replace(size, train=replace(size.train, steps=steps, warmup=warmup))
    return size if depth is None else replace(size, depth=depth)


def _fits(ratio: str, depth: int) -> bool:
    try:
        Layout.from_ratio(ratio, depth)
    except ValueError:
        return False
    return True


def _listed(name: str, values: Sequence, allowed: Callable, words: str) -> None:
    if isinstance(values, str) or not len(values):
        raise ValueError(f"{name} must be a list that is not empty; got {values!r}; allowed: {words}")
    for value in values:
        if not allowed(value):
            raise ValueError(f"unknown value {value!r} in {name}; allowed: {words}")
        if list(values).count(value) > 1:
            raise ValueError(f"{name} holds {value!r} more than once")

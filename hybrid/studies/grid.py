"""Which runs a chapter needs: a function a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from hybrid.config import RunSpec, StartConfig
from hybrid.config.layout import Layout
from hybrid.config.start import START_PARTS
from hybrid.studies.scales import ARMS, scale

MIXERS = ("hgrn", "retnet", "gla", "hgrn2", "deltanet", "gated_deltanet")
"""The mixers of the grid: the paper's, in its order. That a mixer exists does not put it here."""
BESIDE = ("mamba2",)
"""Mixers that the grid of recall holds beside them; no claim of the paper is about them."""
SWEEP_SEED = 1000
"""Learning rates are compared on this seed, which no reported number uses."""
FACTORS = (1, 2, 4, 8)
"""What is compared: these multiples of the grid's common rate."""


def grid(
    scale_name: str = "laptop",
    study: str = "mixture",
    mixers: Sequence[str] = MIXERS,
    ratios: Sequence[str] = (),
    seeds: Sequence[int] = (),
    arm: str = "matched",
    depth: int | None = None,
    steps: int | None = None,
) -> list[RunSpec]:
    """The systematic study: pure, hybrid and full models of several mixers (arXiv 2507.06457, section 4),
    seed by seed, on what the grid `study` of `SCALES` trains on.

    Empty `ratios` and `seeds`, and `depth` and `steps` of ``None``, are the scale's own; each mixer
    has its own learning rate (`Scale.rates`). A full-attention model holds no linear mixer, so it is
    trained once a seed whatever the number of mixers.
    Raises ``ValueError`` naming an unknown scale, grid, mixer, ratio, seed or arm before anything is trained.
    """
    size = scale(scale_name, study).resized(depth, steps)
    known = (*MIXERS, *BESIDE)
    _listed("mixers", mixers, lambda m: m in known, ", ".join(known))
    seeds = seeds if len(seeds) else size.seeds
    reported = f"whole numbers from 0, but for {SWEEP_SEED}, on which learning rates were chosen"
    _listed("seeds", seeds, lambda s: type(s) is int and 0 <= s != SWEEP_SEED, reported)
    _listed("arm", [arm], lambda a: a in ARMS, ", ".join(ARMS))
    ratios = list(ratios) or [r for r in size.ratios if _fits(r, size.depth)]
    return size.specs(mixers, ratios, seeds, arm)


def learning_rate_sweep(
    scale_name: str = "laptop", study: str = "mixture", mixers: Sequence[str] = MIXERS
) -> list[RunSpec]:
    """What `Scale.rates` were chosen from: the pure model of every mixer and full attention, at `FACTORS`
    times the grid's common rate, on `SWEEP_SEED`."""
    size = replace(scale(scale_name, study), rates={})
    size = size.resized(None, size.sweep_steps)
    specs = size.specs(mixers, ("pure", "full"), (SWEEP_SEED,), "matched")
    return [s.with_(lr=factor * s.train.lr) for factor in FACTORS for s in specs]


DEEP = ("retnet", "hgrn2", "gated_deltanet")
"""Mixers of the deeper grid: a fixed decay, a learnt one, and the delta rule with one."""
PLACED = ("retnet", "gated_deltanet")
"""Mixers among whose blocks one full block is moved."""


def starts(scale_name: str = "laptop", seeds: Sequence[int] = ()) -> dict[str, list[RunSpec]]:
    """What each part of the start does: start -> the pure model of every mixer and full attention, trained
    with it. "reference" is the libraries' start, "mimetic" the grid's, the others are it without one part."""
    size = scale(scale_name, "start")
    mimetic = StartConfig.mimetic(size.hidden_size)
    arms = {"reference": StartConfig(), "mimetic": mimetic}
    arms |= {part: replace(mimetic, **{part: False}) for part in START_PARTS}
    return {
        name: replace(size, start=start).specs(
            (*MIXERS, *BESIDE), ("pure", "full"), seeds or size.seeds, "matched"
        )
        for name, start in arms.items()
    }


def places(scale_name: str = "laptop", seeds: Sequence[int] = ()) -> list[RunSpec]:
    """The recall grid's models with one full block, at every place that it can have."""
    size = scale(scale_name, "recall")
    layouts = [Layout("L" * at + "F" + "L" * (size.depth - 1 - at)) for at in range(size.depth)]
    return size.runs(PLACED, layouts, seeds or size.seeds)


def ratio_labels(depth: int) -> dict[str, str]:
    """Layout -> label, for the labels from 2:1 that a depth can express under the period rule, "pure"
    and "full".

    >>> ratio_labels(6)
    {'LLLLLL': 'pure', 'FFFFFF': 'full', 'LFLFLF': '2:1', 'LLFLLF': '3:1', 'LLLLLF': '6:1'}
    """
    labels = ["pure", "full", *(f"{period}:1" for period in range(2, depth + 1))]
    return {str(Layout.from_ratio(label, depth)): label for label in labels if _fits(label, depth)}


STUDIES: dict[str, Callable[[str], list[RunSpec]]] = {
    "recall": partial(grid, study="recall", mixers=(*MIXERS, *BESIDE)),
    "recall_rates": partial(learning_rate_sweep, study="recall", mixers=(*MIXERS, *BESIDE)),
    "text": partial(grid, study="text"),
    "text_rates": partial(learning_rate_sweep, study="text"),
    "recall_published": partial(grid, study="recall", arm="published"),
    "recall_deep": partial(grid, study="recall_deep", mixers=DEEP),
    "recall_places": places,
    "start": lambda scale_name: [spec for arm in starts(scale_name).values() for spec in arm],
    "mixture": grid,
    "mixture_published": partial(grid, arm="published"),
    "mixture_rates": learning_rate_sweep,
}
"""The studies of this file by name: a scale goes in, its runs come out."""


def every(name: str, scale_name: str) -> list[RunSpec]:
    """All specs of one of `STUDIES`."""
    return STUDIES[name](scale_name)


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

"""Which runs a chapter needs: a function a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hybrid.config import MIXERS, RunSpec
from hybrid.layout import Layout
from hybrid.scales import ARMS, scale
from hybrid.specs import Spec

SWEEP_SEED = 1000
"""Learning rates are compared on this seed, which no reported number uses."""


def grid(
    scale_name: str = "laptop",
    mixers: Sequence[str] = MIXERS,
    ratios: Sequence[str] = (),
    seeds: Sequence[int] = (),
    arm: str = "matched",
    depth: int | None = None,
    steps: int | None = None,
) -> list[RunSpec]:
    """The systematic study: pure, hybrid and full models of several mixers, on text and recall at once
    (arXiv 2507.06457, section 4), seed by seed.

    Empty `ratios` and `seeds`, and `depth` and `steps` of ``None``, are the scale's own; each mixer
    has its own learning rate (`Scale.rates`). A full-attention model holds no linear mixer, so it is
    trained once a seed whatever the number of mixers.
    Raises ``ValueError`` naming an unknown scale, mixer, ratio, seed or arm before anything is trained.
    """
    size = scale(scale_name).resized(depth, steps)
    _listed("mixers", mixers, lambda m: m in MIXERS, ", ".join(MIXERS))
    seeds = seeds if len(seeds) else size.seeds
    reported = f"whole numbers from 0, but for {SWEEP_SEED}, on which learning rates were chosen"
    _listed("seeds", seeds, lambda s: type(s) is int and 0 <= s != SWEEP_SEED, reported)
    _listed("arm", [arm], lambda a: a in ARMS, ", ".join(ARMS))
    ratios = list(ratios) or [r for r in size.ratios if _fits(r, size.depth)]
    return size.specs(mixers, ratios, seeds, arm)


def grid_published(scale_name: str = "laptop") -> list[RunSpec]:
    """The grid's second arm: each mixer with the convolution of its reference."""
    return grid(scale_name, arm="published")


def learning_rate_sweep(scale_name: str = "laptop") -> list[RunSpec]:
    """What `Scale.rates` were chosen from: the pure model of every mixer and full attention, at the
    scale's common rate and at twice it, on `SWEEP_SEED`."""
    size = replace(scale(scale_name), rates={})
    specs = size.specs(MIXERS, ("pure", "full"), (SWEEP_SEED,), "matched")
    return [s.with_(lr=factor * s.train.lr) for factor in (1, 2) for s in specs]


def ratio_labels(depth: int) -> dict[str, str]:
    """Layout -> label, for the labels from 2:1 that a depth can express under the period rule, "pure"
    and "full".

    >>> ratio_labels(6)
    {'LLLLLL': 'pure', 'FFFFFF': 'full', 'LFLFLF': '2:1', 'LLFLLF': '3:1', 'LLLLLF': '6:1'}
    """
    labels = ["pure", "full", *(f"{period}:1" for period in range(2, depth + 1))]
    return {str(Layout.from_ratio(label, depth)): label for label in labels if _fits(label, depth)}


def _of_selection(part: str) -> Callable[[str], list[Spec]]:
    """A part of the study of layer selection, imported when it is asked for: it brings PyTorch along."""

    def specs(scale_name: str) -> list[Spec]:
        from hybrid.selection import study

        return study.every(part, scale_name)

    return specs


STUDIES: dict[str, Callable[[str], list[Spec]]] = {
    "grid": grid,
    "grid_published": grid_published,
    "learning_rates": learning_rate_sweep,
    "alignment": _of_selection("alignment"),
    "selection": _of_selection("selection"),
    "conversion": _of_selection("conversion"),
    "consa": _of_selection("consa"),
    "mask_rates": _of_selection("mask_rates"),
}
"""Name of a study -> its specs at a scale. What a conversion trains follows from stored selections."""


NEEDED_BY: dict[str, tuple[str, ...]] = {
    "07_language_modeling": ("grid",),
    "08_recall": ("grid",),
    "09_pareto": ("grid",),
    "10_published_against_ours": ("grid",),
    "12_converting_a_transformer": ("alignment",),
    "13_scoring_layers": ("alignment", "selection"),
    "14_flashmorph": ("alignment", "selection"),
    "15_consa": ("alignment", "selection"),
    "16_selection_compared": ("alignment", "selection"),
}
"""Chapter -> the studies that are run before it. What follows from a selection it trains itself, if it is not
stored; of other studies it shows what is there."""


def study(name: str, scale_name: str) -> list[Spec]:
    """The runs of a study at a scale. Raises ``ValueError`` naming the allowed studies and scales."""
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; allowed: {', '.join(STUDIES)}")
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

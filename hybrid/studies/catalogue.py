"""Every study by its name, and which of them a chapter needs."""

from __future__ import annotations

from importlib import import_module

from hybrid.config.specs import Spec

STUDIES = {
    **dict.fromkeys(("recall", "recall_rates", "recall_published", "recall_deep"), "grid"),
    **dict.fromkeys(("recall_places", "start", "text", "text_rates"), "grid"),
    **dict.fromkeys(("mixture", "mixture_published", "mixture_rates"), "grid"),
    **dict.fromkeys(("alignment", "selection", "conversion", "consa", "mask_rates"), "selection"),
}
"""Name of a study -> the file of this folder that lists its specs, imported when they are asked for: the
names alone need no PyTorch. What a conversion trains follows from stored selections."""

NEEDED_BY: dict[str, tuple[str, ...]] = {
    "07_language_modeling": ("text",),
    "08_recall": ("recall",),
    "09_pareto": ("recall", "text"),
    "10_published_against_ours": ("recall", "text"),
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
    return import_module(f"hybrid.studies.{STUDIES[name]}").every(name, scale_name)

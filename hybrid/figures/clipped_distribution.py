"""The figure of a distribution on [0, 1] that has masses at both ends, sampled beside computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from hybrid.figures import INK, PAGE_WIDTH

AWAY = 0.06
"""How far beyond their end the masses stand, so that no bin hides them."""


def clipped_distribution(
    samples: Mapping[str, np.ndarray],
    above: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    means: Mapping[str, float],
    *,
    xlabel: str,
    bins: int = 20,
) -> Figure:
    """Share of samples in each of `bins` equal bins inside (0, 1), and at exactly 0 and 1; one panel a name.

    Bars are sampled: tinted inside, hatched for the masses, which stand beside the interval. Dots are
    computed, and so is the dashed line, the mean.

    Args:
        samples: name -> values in [0, 1].
        above: name -> P(z > t) as a function of levels t in [0, 1).
        means: name -> E[z].

    Raises ``ValueError`` naming a value outside [0, 1], or when there is no panel.
    """
    if not samples:
        raise ValueError("no samples to draw")
    for name, values in samples.items():
        if values.min() < 0 or values.max() > 1:
            worst = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"samples lie between 0 and 1; got {worst:g} of {name!r}")
    edges = np.linspace(0, 1, bins + 1)
    centres, width = (edges[1:] + edges[:-1]) / 2, 1 / bins
    figure = Figure(figsize=(PAGE_WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(1, len(samples), sharey=True, squeeze=False)[0]
    for ax, (name, values) in zip(axes, samples.items(), strict=True):
        inside = values[(values > 0) & (values < 1)]
        shares = np.histogram(inside, edges)[0] / len(values)
        masses = [(values == end).mean() for end in (0, 1)]
        ax.bar(centres, shares, width, color="#c9d4f5", ec="#446aff", lw=0.6, label="sampled, inside (0, 1)")
        ends = {"color": "white", "ec": INK, "hatch": "////", "lw": 0.9, "label": "sampled, exactly 0 or 1"}
        ax.bar([-AWAY, 1 + AWAY], masses, width, **ends)
        # The last level is just below 1, where what is left is the mass at 1.
        levels = above[name](np.append(edges[:-1], 1 - 1e-9))
        computed = [1 - levels[0], *(levels[:-1] - levels[1:]), levels[-1]]
        places = [-AWAY, *centres, 1 + AWAY]
        ax.plot(places, computed, "o", color=INK, ms=3.5, label="computed")
        ax.axvline(means[name], color="#a90009", ls="--", lw=1.3, label="mean, computed")
        ax.set(title=name, xlabel=xlabel, xticks=[0, 0.5, 1], xlim=(-2 * AWAY, 1 + 2 * AWAY))
    axes[0].set_ylabel("Share of the values")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure

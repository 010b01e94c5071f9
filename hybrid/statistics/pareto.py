"""Pareto fronts: what no other model beats on everything at once, and how sure that is over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.statistics.intervals import drawn_means

DIRECTIONS = {"high": 1.0, "low": -1.0}
"""What is better on an axis, and the sign that makes it so."""


def pareto_front(points: np.ndarray, better: Sequence[str]) -> np.ndarray:
    """Which points are on the Pareto front: those that no other point dominates.

    A point dominates another if it is at least as good on every axis and better on one. So equal points do
    not dominate each other and are on the front together. A point with a NaN is not comparable: it is
    never on the front and dominates nobody.

    Args:
        points: [..., N, D], N points with D values; leading dimensions are sets of points of their own.
        better: "high" or "low" for each of the D axes.

    Returns:
        [..., N] booleans.

    Raises ``ValueError`` for another direction, or not one direction an axis.
    """
    signs = _signs(better)
    points = np.asarray(points, dtype=float)
    if points.ndim < 2 or points.shape[-1] != len(signs):
        raise ValueError(f"points must be [..., N, {len(signs)}], one value a direction; got {points.shape}")
    mine = (points * signs)[..., :, None, :]
    other = (points * signs)[..., None, :, :]
    dominated = ((other >= mine).all(-1) & (other > mine).any(-1)).any(-1)
    return ~dominated & ~np.isnan(points).any(-1)


def front_share(samples: np.ndarray, better: Sequence[str], *, draws: int = 2000) -> np.ndarray:
    """How often each point is on the front when the means over repetitions are drawn anew.

    Means are drawn as in `intervals.bootstrap`: what a seed does to several models together stays
    together, and a single mean is spread as Student's t says. Plain resampling of three seeds with
    replacement would be too sure: it never leaves their range.

    Args:
        samples: [R, N, D], one row a repetition; an axis without noise holds the same value in each.
        better: "high" or "low" for each of the D axes.
        draws: number of draws.

    Returns:
        [N] shares between 0 and 1.

    Raises ``ValueError`` for fewer than two repetitions, values that are not finite, or as `pareto_front`.
    """
    samples = np.asarray(samples, dtype=float)
    if samples.ndim != 3 or len(samples) < 2:
        raise ValueError(f"samples must be [R, N, D] with R of at least 2; got {samples.shape}")
    return pareto_front(drawn_means(samples, draws), better).mean(axis=0)


def _signs(better: Sequence[str]) -> np.ndarray:
    for one in better:
        if one not in DIRECTIONS:
            raise ValueError(f"unknown direction {one!r}; allowed: {', '.join(DIRECTIONS)}, one an axis")
    return np.array([DIRECTIONS[one] for one in better])

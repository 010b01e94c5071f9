"""Means over independent repetitions, with their 95 % interval and their number.

The repetitions of this book are seeds, three to ten of them, and that decides the method. A percentile
or BCa bootstrap of a mean never leaves the range of its values, and three values lie on one side of the
middle of their distribution one time in four: at n = 3 such an interval can cover at most 75 %, at n = 5
about 94 %. Resampled standard errors do not help, for one resample in nine of three values has none.
So a mean gets Student's t interval, and whatever is computed from several means gets `bootstrap`, which
draws those means as Student's t says and keeps the seeds paired; for a mean the two are the same.

An interval describes other seeds under the same settings: the noise of finite test sets is in it as far
as seeds do not share their test questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

SHARES = ("accuracy", "recall", "suite", "needle", "last_word")
"""Columns of every table of runs that are shares of right answers, between 0 and 1."""
ANY = (-np.inf, np.inf)


def interval(
    values: Sequence[float], level: float = 0.95, bounds: tuple[float, float] = ANY
) -> tuple[float, float, float]:
    """Mean and Student's t confidence interval of independent values: ``(mean, low, high)``.

    Args:
        values: one a repetition.
        level: how often such an interval covers the true mean, where values are normal.
        bounds: least and largest possible value, such as ``(0, 1)`` of a share. What lies beyond is cut
            off; the true mean is never there, so that the interval covers it exactly as often.

    Shares are not normal. Simulated at n = 3, the interval covers the mean of a U-shaped distribution 89 % of
    the time, and that of seeds of which two in five are late by far only 72 %; at n = 5 it is 93 % and 91 %.
    Intervals on an arcsine scale do little better for the first, no better for the second, and do
    not exist for differences. With one value low and high are NaN: one run says nothing about its
    spread. Equal values have an interval without width: what no run has shown, no interval can hold.

    Raises ``ValueError`` for no value, one that is not finite or out of bounds, or a level outside (0, 1).
    """
    values = _checked(values, level, bounds).ravel()
    mean = float(values.mean())
    if values.size == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * stats.sem(values)
    return mean, float(max(mean - half, bounds[0])), float(min(mean + half, bounds[1]))


def bootstrap(
    samples: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = 0.95,
    bounds: tuple[float, float] = ANY,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of several means, with its interval over repetitions: ``(value, low, high)``.

    A multiplier bootstrap. Every draw adds to the means the deviations of the repetitions, each times
    one random factor that is the same for all means, so that what a seed does to two of them together
    stays together. The factors are normal, divided by the root of a chi-square over its ``n - 1`` degrees of
    freedom: a statistic that is linear in the means gets Student's t interval, at every n.

    Args:
        samples: [N, ...], one row a repetition.
        statistic: maps means [..., draws last dropped] as a stack [D, ...] to [D] numbers.
        bounds: least and largest possible mean; draws beyond are set to them.
        draws: D, the number of draws.
        seed: of the draws; the same samples give the same interval.

    Raises ``ValueError`` for fewer than two repetitions, and as `interval` does.
    Source: the multiplier (wild) bootstrap, Mammen 1993; the scale is that of the multivariate t.
    """
    samples = _checked(samples, level, bounds)
    drawn = statistic(np.clip(drawn_means(samples, draws, seed), *bounds))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(statistic(samples.mean(axis=0)[None])[0]), float(low), float(high)


def drawn_means(samples: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Means over repetitions, drawn anew as `bootstrap` says: [N, ...] -> [draws, ...].

    Raises ``ValueError`` for fewer than two repetitions, or values that are not finite.
    """
    samples = _checked(samples)
    n = len(samples)
    if n < 2:
        raise ValueError(f"a bootstrap needs at least two repetitions; got {n}")
    mean = samples.mean(axis=0)
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((draws, n)) / np.sqrt(rng.chisquare(n - 1, (draws, 1)) / (n - 1))
    return mean + np.tensordot(factors, samples - mean, axes=1) / np.sqrt(n * (n - 1))


def written(
    values: Sequence[float], digits: int = 3, bounds: tuple[float, float] = ANY, signed: bool = False
) -> str:
    """Mean, 95 % interval and number of the values that are there, for a table or a sentence.

    >>> written([0.5, 0.6, 0.7])
    '0.600 [0.352, 0.848], n = 3'
    >>> written([0.5, float("nan")], digits=2, signed=True)
    '+0.50, n = 1'
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return "-"
    mean, low, high = interval(values, bounds=bounds)
    sign = "+" if signed else ""
    spread = f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if values.size > 1 else ""
    return f"{mean:{sign}.{digits}f}{spread}, n = {values.size}"


def kendall(pairs: np.ndarray) -> np.ndarray:
    """Kendall's rank correlation of two lists, for a stack of them: [D, 2, M] -> [D].

    The share of pairs of items that both lists put in the same order, minus the share that they put in
    opposite orders; a tie counts for neither (Kendall's tau-a). 0.5 is three pairs of four in the same order.
    """
    first, second = np.triu_indices(pairs.shape[-1], k=1)
    signs = np.sign(pairs[..., first] - pairs[..., second])
    return signs.prod(axis=-2).mean(axis=-1)


def summary(df: pd.DataFrame, by: Sequence[str], y: str) -> pd.DataFrame:
    """One row a group: columns ``by``, then ``mean``, ``low``, ``high``, ``n`` of column ``y``.

    Rows without a finite ``y`` (failed runs) are not counted in ``n``; a group of only such rows has
    n 0 and NaN. Intervals of `SHARES` stay between 0 and 1.
    Raises ``ValueError`` naming a missing column, or for an empty table.
    """
    check_columns(df, *by, y)
    bounds = (0.0, 1.0) if y in SHARES else ANY
    rows = []
    for key, group in df.groupby(list(by), sort=False, observed=True):
        values = group[y].astype(float)
        values = values[np.isfinite(values)]
        numbers = interval(values, bounds=bounds) if len(values) else (np.nan,) * 3
        rows.append((*key, *numbers, len(values)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def check_columns(df: pd.DataFrame, *names: str) -> None:
    """Raise ``ValueError`` naming a column that the table lacks, or saying that it has no row."""
    for name in names:
        if name not in df.columns:
            raise ValueError(f"no column {name!r}; the table has {', '.join(map(str, df.columns))}")
    if df.empty:
        raise ValueError("the table is empty")


def _checked(values, level: float = 0.95, bounds: tuple[float, float] = ANY) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("an interval needs at least one value; got none")
    if not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite values; got {values[~np.isfinite(values)][0]}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level!r}")
    outside = values[(values < bounds[0]) | (values > bounds[1])]
    if outside.size:
        raise ValueError(f"values must lie between {bounds[0]:g} and {bounds[1]:g}; got {outside[0]}")
    return values

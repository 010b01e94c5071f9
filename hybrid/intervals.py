"""Means over independent repetitions, with their 95 % interval and their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and confidence interval of independent values: ``(mean, low, high)``.

    Student's t interval, at every n: with the three to ten seeds of this book a bootstrap is too
    narrow. With one value low and high are NaN: one run says nothing about its spread.
    Raises ``ValueError`` for no value, a value that is not finite, or a level outside (0, 1).
    """
    values = np.asarray(values, dtype=float).ravel()
    if not values.size:
        raise ValueError("an interval needs at least one value; got none")
    if not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite values; got {values[~np.isfinite(values)][0]}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level!r}")
    mean = float(values.mean())
    if values.size == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * stats.sem(values)
    return mean, float(mean - half), float(mean + half)


def summary(df: pd.DataFrame, by: Sequence[str], y: str) -> pd.DataFrame:
    """One row a group: columns ``by``, then ``mean``, ``low``, ``high``, ``n`` of column ``y``.

    Rows without a finite ``y`` (failed runs) are not counted in ``n``; a group of only such rows has
    n 0 and NaN. Raises ``ValueError`` naming a missing column, or for an empty table.
    """
    check_columns(df, *by, y)
    rows = []
    for key, group in df.groupby(list(by), sort=False, observed=True):
        values = group[y].astype(float)
        values = values[np.isfinite(values)]
        numbers = interval(values) if len(values) else (np.nan,) * 3
        rows.append((*key, *numbers, len(values)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def check_columns(df: pd.DataFrame, *names: str) -> None:
    """Raise ``ValueError`` naming a column that the table lacks, or saying that it has no row."""
    for name in names:
        if name not in df.columns:
            raise ValueError(f"no column {name!r}; the table has {', '.join(map(str, df.columns))}")
    if df.empty:
        raise ValueError("the table is empty")

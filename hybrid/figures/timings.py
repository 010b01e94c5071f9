"""Times of several candidates at several tasks: a dot each, with its spread, on a logarithmic axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hybrid.figures import NEUTRAL, PAGE_WIDTH
from hybrid.statistics.intervals import check_columns

OURS = ("#0b0da3", "*")
"""Colour and marker of the first candidate; the others are grey."""
ROW_INCHES = 0.36


def timings(df: pd.DataFrame, task: str, candidate: str, panel: str, *, unit: str = "ms") -> Figure:
    """Median times, one panel a value of ``panel``, one row a task, one marker a candidate.

    Args:
        df: one row a task, candidate and panel, with columns ``ms`` and ``spread``, the interquartile range
            over the median, which is drawn as a bar where it is wider than the marker. Rows without a
            time are left out. The first candidate stands out.
        unit: what the axis says.

    Raises ``ValueError`` naming a missing column, an empty table, or a time that is not positive.
    """
    check_columns(df, task, candidate, panel, "ms", "spread")
    df = df.dropna(subset=["ms"])
    if not (df["ms"] > 0).all():
        raise ValueError(f"a logarithmic axis needs positive times; got {df['ms'].min()}")
    tasks, candidates, panels = (list(df[column].unique()) for column in (task, candidate, panel))
    looks = [OURS, *((color, marker) for color, marker, _ in NEUTRAL)]
    height = 1.1 + ROW_INCHES * len(tasks) + 0.2 * len(candidates) / 2
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, title in zip(axes, panels, strict=True):
        for place, name in enumerate(candidates):
            rows = df[(df[panel] == title) & (df[candidate] == name)]
            color, marker = looks[place % len(looks)]
            at = [tasks.index(value) for value in rows[task]]
            half = rows["ms"] * rows["spread"] / 2
            size = 10 if place == 0 else 6.5
            drawn = {"fmt": marker, "ms": size, "color": color, "mec": "white", "mew": 0.5, "label": name}
            ax.errorbar(rows["ms"], at, xerr=half, lw=1.2, capsize=2, zorder=4 - (place > 0), **drawn)
        ax.set(xscale="log", title=title)
        ax.set_yticks(np.arange(len(tasks)), tasks)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if _narrow(df, panel, title) else (1,)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylim(len(tasks) - 0.5, -0.5)
    axes[len(axes) // 2].set_xlabel(unit)
    handles, labels = [], []
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    figure.legend(
        handles, labels, title="median; bar: interquartile range", loc="outside lower center", ncols=2
    )
    return figure


def _narrow(df: pd.DataFrame, panel: str, title) -> bool:
    """Whether one panel spans so little that powers of ten alone would leave it without a tick."""
    times = df.loc[df[panel] == title, "ms"]
    return times.max() < 30 * times.min()

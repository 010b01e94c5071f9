"""One style for every figure of the book, and one function per kind of figure.

Each function takes numbers and returns a matplotlib ``Figure``. Colour never carries meaning alone:
every mixer and every family has its colour, marker and line style, the same on every page. The
colours keep a CIELAB distance of 25 or more from each other, also for the three dichromatic
simulations of Machado et al. (2009), and a contrast of 3:1 or more against white.

Figures are opaque white cards with dark ink, drawn as SVG: the theme's dark mode dims such a card and
leaves it legible, while a transparent one would change its contrast with the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hybrid.config import MIXERS
from hybrid.mixers.attention import LOOKS
from hybrid.statistics.intervals import ANY, SHARES, check_columns, interval, summary

INK = "#222222"
PAGE_WIDTH = 7.4
"""Inches; about the width of the text column at 96 pixels an inch."""
PANELS = 3
"""Panels side by side, at most."""
DRAW_POINTS_BELOW = 5
"""With fewer values than this behind a mean, every value is drawn."""
BAND_FROM = 3
"""With fewer values than this behind a mean no interval is drawn: that of two values fills the page."""


@dataclass(frozen=True)
class Look:
    """How one mixer or family is drawn."""

    label: str
    color: str
    marker: str
    dash: str | tuple = "-"


class MixerStyle(Mapping[str, Look]):
    """The look of "full" attention, of a "window" and of every mixer, which says it in its own file."""

    def __getitem__(self, name: str) -> Look:
        label, look = LOOKS[name] if name in LOOKS else (MIXERS[name].label, MIXERS[name].look)
        return Look(label, *look)

    def __iter__(self) -> Iterator[str]:
        return iter([*LOOKS, *MIXERS])

    def __len__(self) -> int:
        return len(LOOKS) + len(MIXERS)


MIXER_STYLE = MixerStyle()

FAMILY_STYLE = {
    "softmax": Look("Softmax attention", "#000000", "s", "-"),
    "vector": Look("Vector state", "#a039a9", "v", (0, (1, 1))),
    "outer": Look("Matrix state, outer product", "#cd7c06", "^", "--"),
    "delta": Look("Matrix state, delta rule", "#0b0da3", "o", "-"),
}

NEUTRAL = (
    ("#222222", "s", "-"),
    ("#6e6e6e", "o", "--"),
    ("#8c8c8c", "D", ":"),
    ("#222222", "^", "-."),
    ("#6e6e6e", "X", (0, (6, 2))),
    ("#8c8c8c", "v", (0, (5, 1, 1, 1, 1, 1))),
)
"""Colour, marker and line style of lines that are neither a mixer nor a family, in order."""


def style() -> None:
    """Set seaborn and matplotlib to the book's style; in Jupyter, draw SVG. Call once a page."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
            **dict.fromkeys(
                ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
            ),
            **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 10),
            **dict.fromkeys(
                ("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 9
            ),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
            "axes.grid": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "lines.markersize": 6.5,
            "savefig.dpi": 200,
        },
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    set_matplotlib_formats("svg")


def curves_with_interval(
    df: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    *,
    xlabel: str,
    ylabel: str,
    panel: str | None = None,
    bounds: tuple[float, float] | None = None,
    references: pd.DataFrame | None = None,
) -> Figure:
    """Mean of ``y`` against ``x``, one line a ``hue``, with its 95 % interval (`interval`) where `BAND_FROM`
    values or more stand behind it.

    Args:
        df: one row a run. With fewer than five values behind a mean every value is drawn as a dot.
        hue: names of mixers and families have their look and label; others are drawn in greys.
        panel: a column with one panel a value, side by side, `PANELS` a row.
        bounds: least and largest possible ``y``; an interval that goes beyond is cut off there.
        references: thin grey lines such as a prediction, in a table with the same columns.

    The legend states n. Raises ``ValueError`` naming a missing column or an empty table.
    """
    check_columns(df, x, y, hue, *([panel] if panel else []))
    titles = df[panel].unique() if panel else [""]
    rows = -(-len(titles) // PANELS)
    figure = Figure(figsize=(PAGE_WIDTH, 1.3 + 2.6 * rows), layout="constrained")
    columns = -(-len(titles) // rows)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[len(titles) :]:
        ax.remove()
    for place, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        _curves(ax, df[df[panel] == title] if panel else df, x, y, hue)
        if references is not None:
            lines = references[references[panel] == title] if panel else references
            for (label, line), dash in zip(lines.groupby(hue, sort=False), ("-", ":", "--"), strict=False):
                ax.plot(line[x], line[y], color="#555555", linestyle=dash, lw=1.1, label=label)
        ax.set(title=title, ylabel="" if place % columns else ylabel)
        if place + columns >= len(titles):
            ax.set_xlabel(xlabel)
        _bound(ax, bounds)
    _legend(figure, axes[: len(titles)], _n(summary(df, [c for c in (panel, x, hue) if c], y)))
    return figure


def line_by_length(
    df: pd.DataFrame, length: str, y: str, hue: str, *, ylabel: str, xlabel: str = "Sequence length (tokens)"
) -> Figure:
    """``y`` (FLOPs, seconds, bytes) against sequence length, both axes logarithmic, one line a ``hue``.

    Looks, intervals and dots as in `curves_with_interval`; a straight line of slope one is linear cost.
    Raises ``ValueError`` for a missing column or a value that is not positive.
    """
    check_columns(df, length, y, hue)
    for column in (length, y):
        if (df[column] <= 0).any():
            raise ValueError(f"a logarithmic axis needs positive {column}; got {df[column].min()}")
    figure = Figure(figsize=(PAGE_WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    _curves(ax, df, length, y, hue)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    if df[y].max() < 100 * df[y].min():
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    ticks = sorted(df[length].unique())
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 10)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t / 1024:g}k" if t >= 1024 else f"{t:g}"))
    _legend(figure, [ax], _n(summary(df, [length, hue], y)))
    return figure


def by_full_blocks(
    df: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    x: str = "full_blocks",
    hue: str = "mixer",
    baseline: pd.DataFrame | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    xlabel: str = "Full-attention blocks",
) -> Figure:
    """Metrics of hybrids against their number of full blocks: one panel a metric, one line a mixer.

    Args:
        df: one row a run, with columns ``x``, ``hue`` and the metrics; one dot a run below five runs.
        metrics: column -> axis label, such as ``{"recall": "Recall accuracy"}``.
        bounds: metric -> its least and largest possible value; intervals beyond are cut off there.
        baseline: the runs of full attention; drawn as a horizontal line with a band for its interval.

    Raises ``ValueError`` naming a missing column or an empty table.
    """
    check_columns(df, x, hue, *metrics)
    figure = Figure(figsize=(PAGE_WIDTH, 4.1), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        if baseline is not None:
            check_columns(baseline, metric)
            look = MIXER_STYLE["full"]
            limits = (0.0, 1.0) if metric in SHARES else ANY
            mean, low, high = interval(baseline[metric].dropna(), bounds=limits)
            ax.axhline(mean, color=look.color, lw=1.3, label=f"{look.label} (all blocks)")
            if len(baseline) >= BAND_FROM:
                ax.axhspan(low, high, color=look.color, alpha=0.12, lw=0)
            if 1 < len(baseline) < DRAW_POINTS_BELOW:
                at = np.full(len(baseline), df[x].max() + 0.3)
                ax.plot(at, baseline[metric], look.marker, color=look.color, ms=3.5, alpha=0.7)
        _curves(ax, df, x, metric, hue)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel=xlabel, ylabel=label)
        _bound(ax, (bounds or {}).get(metric))
    _legend(figure, axes, _n(pd.concat([summary(df, [x, hue], metric) for metric in metrics])))
    return figure


def _bound(ax, bounds: tuple[float, float] | None) -> None:
    if bounds:
        margin = 0.03 * (bounds[1] - bounds[0])
        ax.set_ylim(bounds[0] - margin, bounds[1] + margin)


def _curves(ax, df: pd.DataFrame, x: str, y: str, hue: str) -> None:
    neutral = cycle(NEUTRAL)
    for name, group in df.groupby(hue, sort=False, observed=True):
        look = MIXER_STYLE.get(name) or FAMILY_STYLE.get(name) or Look(str(name), *next(neutral))
        line = summary(group, [x], y).sort_values(x)
        drawn = {"color": look.color, "marker": look.marker, "linestyle": look.dash, "label": look.label}
        ax.plot(line[x], line["mean"], mec="white", zorder=3, **drawn)
        band = line[["low", "high"]].where(line["n"] >= BAND_FROM)
        ax.fill_between(line[x], band["low"], band["high"], color=look.color, alpha=0.15, lw=0)
        if 1 < line["n"].max() < DRAW_POINTS_BELOW:
            ax.plot(group[x], group[y], look.marker, color=look.color, ms=3, alpha=0.55, mew=0)


def _n(table: pd.DataFrame) -> str:
    low, high = table["n"].min(), table["n"].max()
    if high == 1:
        return "one value a point"
    drawn = "mean" if high < BAND_FROM else "mean, 95 % interval"
    if low < BAND_FROM <= high:
        drawn += f" from {BAND_FROM} values on"
    return f"{drawn}, n = {low}" + (f" to {high}" if high > low else "")


def _legend(figure: Figure, axes, title: str) -> None:
    entries = {}
    for ax in axes:
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    place = {"loc": "outside lower center", "ncols": min(len(entries), 4), "handlelength": 3.2}
    figure.legend(list(entries.values()), list(entries), title=title, **place)

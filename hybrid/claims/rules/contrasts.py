"""What the runs of a study are compared on: means of cells, seed by seed, and whether they may be compared.

A table of *observations* has one row a run and metric: ``metric``, ``arm``, ``mixer`` ("full" for full
attention), ``label`` (ratio label), ``full_blocks``, ``depth``, ``seed``, ``value`` (NaN where the run is
missing or failed), ``chance`` (what guessing gives; NaN for a metric of text, such as a loss) and
``floor`` (what the best rule that skips the task gives, see `hybrid.data.floors`; where it is absent or NaN,
chance counts). "Chance" below is the larger of the two. A metric of text has ``bits`` in place of them, the
run's loss in bits per byte, and ``counter``, that of the best counter of bytes on the same text
(`hybrid.data.counters`; NaN where it is not known).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from hybrid.config import MIXERS
from hybrid.papers.published import paper_mixers
from hybrid.statistics.intervals import ANY
from hybrid.studies.scales import ARMS

if TYPE_CHECKING:
    import pandas

LEARNT = 0.95
"""Accuracy of full attention at the training length from which a task counts."""
LEFT = 1.5
"""How far above chance, as a factor, a mixer must have come before its layouts count, see `near_chance`."""
CLEAR = 0.05
"""And by how much at least: 1.5 times a chance near zero is still near zero."""
SEEDS = 3
"""Fewest paired seeds from which anything is decided."""
LAYOUTS = ("pure", "hybrids", "linear", "fewest", "densest", "full")
PRINTED = 3
"""Most models whose missing seeds are named."""
NAMES = {name: kind.label for name, kind in MIXERS.items()}


class Undecided(Exception):
    """A comparison that the runs do not allow; the message is the reason."""


@dataclass(frozen=True)
class Cells:
    """Which runs a number is the mean of."""

    layouts: str = "hybrids"
    """One of "pure"; "hybrids" (some blocks full); "linear" (these and pure); "fewest" and "densest" hybrid;
    "full"; or a ratio label such as "3:1"."""
    mixers: tuple[str, ...] = ()
    """Averaged; empty are all there are. Without meaning for full attention."""
    arm: str = ""
    """Either "matched" or "published"; empty is the rule's."""
    metric: str = ""
    """Column of the runs; empty is the rule's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixers", tuple(self.mixers))
        if self.layouts not in LAYOUTS and not self.layouts.endswith(":1"):
            raise ValueError(f"unknown layouts {self.layouts!r}; allowed: {', '.join(LAYOUTS)}, or r:1")
        for mixer in self.mixers:
            if mixer not in MIXERS:
                raise ValueError(f"unknown mixer {mixer!r}; allowed: {', '.join(MIXERS)}")
        if self.arm and self.arm not in ARMS:
            raise ValueError(f"unknown arm {self.arm!r}; allowed: {', '.join(ARMS)}")

    def within(self, other: Cells) -> Cells:
        """These cells, with what they leave open taken from `other`."""
        return replace(
            self,
            mixers=self.mixers or other.mixers,
            arm=self.arm or other.arm,
            metric=self.metric or other.metric,
        )

    def words(self) -> str:
        """Such as "HGRN-2 at 3:1"; the arm and the metric only where they are set."""
        who = "full attention" if self.layouts == "full" else mixer_words(self.mixers)
        at = {
            "full": "",
            "pure": " with no full block",
            "hybrids": " over all hybrids",
            "linear": " over all layouts but full",
            "fewest": " with the fewest full blocks",
            "densest": " in its densest hybrid",
        }.get(self.layouts, f" at {self.layouts}")
        more = ", ".join(x for x in (self.metric, self.arm and f"{self.arm} arm") if x)
        return who + at + (f" ({more})" if more else "")

    def rows(self, runs: pandas.DataFrame) -> pandas.DataFrame:
        """The observations of these cells. Raises `Undecided` naming a layout that no run has."""
        found = runs[((runs["metric"] == self.metric) & (runs["arm"] == self.arm)).to_numpy()]
        full = found["mixer"] == "full"
        if self.layouts == "full":
            found = found[full]
        else:
            found = found[~full & found["mixer"].isin(self.mixers or paper_mixers())]
            blocks = found["full_blocks"]
            hybrids = blocks[blocks > 0]
            match self.layouts:
                case "pure":
                    found = found[blocks == 0]
                case "hybrids":
                    found = found[blocks > 0]
                case "fewest":
                    found = found[blocks == hybrids.min()]
                case "densest":
                    found = found[blocks == hybrids.max()]
                case "linear":
                    pass
                case label:
                    found = found[found["label"] == label]
        if found.empty:
            raise Undecided(f"no run of {self.words()} at this scale")
        return found


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means, one value a seed that every mean holds."""

    name: str
    values: np.ndarray
    missing: str = ""
    """Seeds that some cell lacks, by name."""
    note: str = ""
    """What was left out."""
    means: np.ndarray | None = None
    """[N, terms]: the mean of every term, seed by seed."""
    attainable: tuple[float, float] = ANY
    """Least and largest mean it could have with the subtracted terms as they are and any others."""
    bounds: tuple[float, float] = ANY
    """Least and largest value it can take."""


def crossed(runs: pandas.DataFrame, first: Cells, second: Cells) -> list[tuple[Cells, Cells]]:
    """Every pair of one mixer of the first cells and one of the second; full attention is one."""

    def singles(side: Cells) -> list[Cells]:
        if side.layouts == "full":
            return [side]
        return [replace(side, mixers=(mixer,)) for mixer in side.mixers or _mixers(runs)]

    return list(product(singles(first), singles(second)))


def contrast(runs: pandas.DataFrame, name: str, terms: Sequence[tuple[float, Cells]]) -> Contrast:
    """The sum of ``weight * mean over cells``, seed by seed.

    Where all terms are about the same mixers, those that have not left chance are left out, by name:
    they were not trained long enough to tell their layouts apart. Terms about different mixers need one
    mixer that has left chance.
    Raises `Undecided` with the reason: baseline undertrained, all near chance, or fewer than `SEEDS` seeds.
    """
    cells = [cells for _, cells in terms]
    check_learnt(runs, cells)
    terms, note = _off_chance(runs, terms)
    seeds, missing = matrix(runs, [cells for _, cells in terms])
    check_seeds(len(seeds), missing)
    weights = np.array([weight for weight, _ in terms])
    ranges = [(0.0, 1.0) if _chance(runs, cells.metric) is not None else ANY for _, cells in terms]
    return Contrast(name, seeds @ weights, missing, note, seeds, *limits(seeds, weights, ranges))


def limits(
    means: np.ndarray, weights: np.ndarray, ranges: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What a weighted sum of means could be: `Contrast.attainable` and `Contrast.bounds`.

    Args:
        means: [N, terms].
        weights: [terms], none of them zero.
        ranges: least and largest value of each term.
    """
    added = weights > 0
    # A row a term: its least and its largest contribution.
    ends = np.sort(np.asarray(ranges, dtype=float) * weights[:, None], axis=1)
    fixed = float(weights[~added] @ means.mean(axis=0)[~added])
    return tuple(fixed + ends[added].sum(axis=0)), tuple(ends.sum(axis=0))


def matrix(runs: pandas.DataFrame, cells: Sequence[Cells]) -> tuple[np.ndarray, str]:
    """Mean of each of the cells for every seed that all hold: [N, cells]; and what is missing, in words.

    Raises ``ValueError`` when two runs of one seed stand in the same cell.
    """
    tables = [some.rows(runs).sort_values(["mixer", "full_blocks", "seed"]) for some in cells]
    every = sorted({seed for rows in tables for seed in rows["seed"]})
    means, missing = np.full((len(every), len(cells)), np.nan), {}
    for column, (some, rows) in enumerate(zip(cells, tables, strict=True)):
        models: dict[str, dict] = {}
        place = ("mixer", "label", "seed", "value")
        for mixer, label, seed, value in zip(*(rows[name] for name in place), strict=True):
            name = "full attention" if mixer == "full" else f"{NAMES[mixer]} {label}"
            if seed in models.setdefault(name, {}):
                raise ValueError(f"several runs of one seed in {some.words()}")
            models[name][seed] = value
        values = np.array([[model.get(seed, np.nan) for model in models.values()] for seed in every])
        means[:, column] = values.mean(axis=1)
        missing |= {
            name: [str(seed) for seed, value in zip(every, line, strict=True) if np.isnan(value)]
            for name, line in zip(models, values.T, strict=True)
            if np.isnan(line).any()
        }
    words = [
        f"seed{'s' * (len(gone) > 1)} {', '.join(gone)} of {name}" for name, gone in sorted(missing.items())
    ]
    more = f", and of {len(words) - PRINTED} more models" if len(words) > PRINTED else ""
    return means[~np.isnan(means).any(axis=1)], ", ".join(words[:PRINTED]) + more


def check_seeds(paired: int, missing: str) -> None:
    """Raise `Undecided`, naming what is missing, where fewer than `SEEDS` seeds are paired."""
    if paired < SEEDS:
        raise Undecided(
            f"{paired} paired seed{'s' * (paired != 1)}, {SEEDS} needed; missing: {missing or 'other seeds'}"
        )


def check_learnt(runs: pandas.DataFrame, cells: Sequence[Cells]) -> None:
    """Raise `Undecided` where full attention has not learnt what the cells are about: what a baseline did not
    learn cannot show what its rivals lack. A task is learnt from `LEARNT`, text where the loss is below that
    of the best counter of bytes. Every seed must have learnt it, the worst one too: a mean below the counter
    can hold a seed that has learnt no more than which bytes follow which, and so can the means of its rivals.

    Where both arms are compared, full attention of the matched arm is the baseline: it shows that the task
    can be learnt within the budget, and one that fails without the convolution is a result, not a flaw.
    """
    arms = {some.arm for some in cells}
    arm = "matched" if "matched" in arms else "published"
    for metric in dict.fromkeys(some.metric for some in cells):
        full = runs[(runs["metric"] == metric) & (runs["arm"] == arm) & (runs["mixer"] == "full")]
        full = full[full["value"].notna()]
        if full.empty:
            raise Undecided(f"baseline unknown: no finished run of full attention ({metric}, {arm} arm)")
        if _chance(runs, metric) is None:
            bits, counter = against_counter(full)
            if bits >= counter:
                raise Undecided(
                    f"text undertrained: full attention {bits:.3f} bits a byte, counter {counter:.3f}"
                )
        elif (lowest := full["value"].min()) < LEARNT:
            raise Undecided(
                f"baseline undertrained: lowest {metric} of full attention {lowest:.3f} "
                f"over {len(full)} seeds, below {LEARNT}"
            )


def against_counter(full: pandas.DataFrame) -> tuple[float, float]:
    """Loss in bits per byte of the seed that does worst beside the counter of its text, and the counter's.
    Raises `Undecided` where a result does not hold the counter."""
    known = full.reindex(columns=["bits", "counter"])
    if known.isna().any(axis=None):
        raise Undecided(
            f"text unguarded: {known.isna().any(axis=1).sum()} of {len(full)} results of full attention "
            "do not say what a counter of bytes reaches"
        )
    worst = known.iloc[(known["bits"] - known["counter"]).to_numpy().argmax()]
    return float(worst["bits"]), float(worst["counter"])


def left_chance(runs: pandas.DataFrame, metric: str, mixer: str, arms: Sequence[str]) -> bool:
    """Whether some layout of the mixer is, on average over seeds, clearly above chance, see `near_chance`.
    True for a metric of text."""
    chance = _chance(runs, metric)
    if chance is None:
        return True
    rows = runs[(runs["metric"] == metric) & (runs["mixer"] == mixer) & runs["arm"].isin(arms)]
    best = rows.groupby(["arm", "full_blocks"])["value"].mean().max()
    return bool(best >= near_chance(chance))


def near_chance(chance: float) -> float:
    """Values below this are near chance: `LEFT` times chance, but at most half-way from chance to 1, since
    1.5 times a large chance may be out of reach; and always `CLEAR` above chance."""
    return chance + max(CLEAR, min((LEFT - 1) * chance, (1 - chance) / 2))


def chance_of(runs: pandas.DataFrame, metric: str) -> float:
    """What guessing or a rule that skips the task gives. Raises `Undecided` for a metric without it."""
    chance = _chance(runs, metric)
    if chance is None:
        raise Undecided(f"no run says what guessing gives in {metric}")
    return chance


def mixer_words(mixers: Sequence[str]) -> str:
    """Names of mixers as a reader knows them."""
    return ", ".join(NAMES[mixer] for mixer in mixers) if mixers else "all mixers"


def _chance(runs: pandas.DataFrame, metric: str) -> float | None:
    known = runs[runs["metric"] == metric].reindex(columns=["chance", "floor"]).max(axis=1).dropna()
    return None if known.empty else float(known.mean())


def _off_chance(runs: pandas.DataFrame, terms: Sequence[tuple[float, Cells]]) -> tuple[list, str]:
    """The terms without mixers near chance, and these by name."""
    linear = [cells for _, cells in terms if cells.layouts != "full"]
    arms = {cells.arm for cells in linear}
    named = [cells.mixers or _mixers(runs) for cells in linear]
    metrics = {cells.metric for _, cells in terms}
    near = [
        mixer
        for mixer in dict.fromkeys(m for mixers in named for m in mixers)
        if not any(left_chance(runs, metric, mixer, tuple(arms)) for metric in metrics)
    ]
    if near and set(near) == {m for mixers in named for m in mixers}:
        raise Undecided(f"still near chance: {mixer_words(near)}")
    if not near or len(set(named)) > 1:
        return list(terms), ""
    kept = tuple(mixer for mixer in named[0] if mixer not in near)
    return [(weight, replace(cells, mixers=kept)) for weight, cells in terms], (
        f"left out, near chance: {mixer_words(near)}"
    )


def _mixers(runs: pandas.DataFrame) -> tuple[str, ...]:
    there = set(runs["mixer"])
    return tuple(mixer for mixer in paper_mixers() if mixer in there)

"""Stored selections, follow-ups and masks as the rules of claims read them; nothing is trained.

One row a value: ``study``, ``name`` of a selector or an arm, ``at`` (share of full blocks, or of cheap
units), ``seed``, ``metric``, ``value``.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from math import comb, log2
from typing import TYPE_CHECKING

from hybrid.claims.rules.contrasts import LEARNT
from hybrid.runs.store import Result, Store
from hybrid.selection.exhaustive import rank
from hybrid.studies import selection
from hybrid.studies.selection_scales import SHARES, selection_scale

if TYPE_CHECKING:
    import pandas

    from hybrid.selection.consa_spec import ConsaSpec

COLUMNS = ("study", "name", "at", "seed", "metric", "value")
LAMBDAS = ("FlashMorph", "half lambda", "double lambda")


def observed(scale_name: str) -> pandas.DataFrame:
    """All observations of layer selection at a scale.

    Of a selector, for each budget, as means over the layouts where it drew several:

    - ``better``: the share of all sets that the exhaustive search found better than its own, undistilled;
    - ``passkey`` and ``loss`` with ``converted``, ``distill`` and ``finetune``: before the follow-up, and
      after each of its stages; ``passkey far``: after it, at the longest measured length;
    - ``overlap seeds``: the mean Jaccard index with its choices on the other seeds, and of FlashMorph
      ``overlap lambda``: with those of half and double lambda;
    - at share 0, ``log2 tokens`` and ``log2 seconds`` of the selection itself.

    Of an arm of ConSA, for each share: ``loss``, ``passkey`` and ``passkey far`` after the second stage;
    ``gap``; ``miss``, by `missed`; and ``middle``.

    A row with the metric ``untaught`` says that the teacher has not learnt its passkeys.
    """
    import pandas

    rows = [*_selections(scale_name), *_masks(scale_name)]
    return pandas.DataFrame(rows, columns=COLUMNS)


def _selections(scale_name: str) -> list[tuple]:
    size, store = selection_scale(scale_name), Store()
    shares = {max(1, round(share * size.depth)): share for share in reversed(SHARES)}
    every = selection.selections(scale_name)
    found = {
        name: {
            spec.seed: (spec, result)
            for spec in specs
            if (result := store.read(spec)) and result.status == "done"
        }
        for name, specs in every.items()
    }
    truth = {seed: result.metrics["sets"] for seed, (_, result) in found["exhaustive"].items()}
    compared = selection.selectors(scale_name)
    rows = []
    for name, seeds in found.items():
        for seed, (spec, result) in seeds.items():

            def row(at: float, metric: str, values: list, name=name, seed=seed) -> None:
                if values:
                    rows.append(("selection", name, at, seed, metric, sum(values) / len(values)))

            evidence = result.provenance
            row(0.0, "log2 tokens", [log2(max(1, result.metrics["selection_tokens"]))])
            row(0.0, "log2 seconds", [log2(max(1e-3, evidence["seconds"]))])
            for budget, share in shares.items():
                chosen = layouts(result, budget)
                if seed in truth and spec.align.branch == selection.BRANCH:
                    row(share, "better", [rank(truth[seed], layout).better for layout in chosen])
                others = [layouts(r, budget) for s, (_, r) in seeds.items() if s != seed]
                row(share, "overlap seeds", [jaccard(chosen[0], other[0]) for other in others])
                if name == "FlashMorph":
                    variants = [found[other].get(seed) for other in LAMBDAS if other != name]
                    row(
                        share,
                        "overlap lambda",
                        [jaccard(chosen[0], layouts(one[1], budget)[0]) for one in variants if one],
                    )
                if name not in compared:
                    continue
                after = [store.read(selection.follow_up(size, spec, layout)) for layout in chosen]
                if all(one and one.status == "done" for one in after):
                    for metric in _STAGED:
                        row(share, metric, [_staged(one, metric) for one in after])
                    row(share, "passkey far", [_far(one) for one in after])
    return rows + _untaught(scale_name, store)


def _masks(scale_name: str) -> list[tuple]:
    store, rows = Store(), []
    for name, specs in _arms(scale_name).items():
        for spec in specs:
            result = store.read(spec)
            if result is None or result.status != "done":
                continue
            metrics = result.metrics
            values = {
                "loss": metrics["loss_bits_per_byte"],
                "passkey": metrics["passkey"],
                "passkey far": _far(result),
                "middle": middle([row["full"] for row in metrics["pattern"]]),
            }
            if spec.share is not None:
                values["miss"] = missed(spec, metrics)
            if metrics.get("gap") is not None:
                values["gap"] = metrics["gap"]
            shares = selection.CHEAP_SHARES if spec.share is None else (spec.share,)
            rows += [
                ("consa", name, share, spec.seed, metric, value)
                for share in shares
                for metric, value in values.items()
            ]
    return rows


def _arms(scale_name: str) -> dict[str, list[ConsaSpec]]:
    """`study.masks` and, of the seeds whose selections are stored, `study.given`."""
    arms = selection.masks(scale_name)
    for seed in selection_scale(scale_name).seeds:
        with suppress(selection.NotStored):
            for name, specs in selection.given(scale_name, [seed]).items():
                arms[name] = arms.get(name, []) + specs
    return arms


def layouts(result: Result, budget: int) -> list[str]:
    """The layouts that a stored selection holds for a budget, in the order drawn."""
    return [row["layout"] for row in result.metrics["layouts"] if row["budget"] == budget]


def jaccard(one: str, other: str) -> float:
    """Overlap of the full blocks of two layouts: those in both over those in either.

    >>> jaccard("FFLL", "LFFL")
    0.3333333333333333
    """
    a, b = ({i for i, letter in enumerate(layout) if letter == "F"} for layout in (one, other))
    return len(a & b) / len(a | b)


def jaccard_by_chance(full: int, depth: int) -> float:
    """Mean Jaccard index of two sets of so many blocks of that depth, both drawn at random.

    >>> round(jaccard_by_chance(1, 8), 3), round(jaccard_by_chance(4, 8), 3)
    (0.125, 0.356)
    """
    shared = range(max(0, 2 * full - depth), full + 1)
    ways = {both: comb(full, both) * comb(depth - full, full - both) for both in shared}
    return sum(n * both / (2 * full - both) for both, n in ways.items()) / comb(depth, full)


def overlaps(chosen: dict[str, str]) -> dict[tuple[str, str], float]:
    """Jaccard index of every pair of names, each with its layout."""
    return {(a, b): jaccard(chosen[a], chosen[b]) for a, b in combinations(chosen, 2)}


def missed(spec: ConsaSpec, metrics: dict) -> float:
    """Units by which the rounded masks miss their share; where each block has a constraint of its own, those
    of the worst block."""
    full = [row["z"] for row in metrics["masks"]]
    size = spec.shape[1] if spec.scope == "layer" else len(full)
    groups = [full[start : start + size] for start in range(0, len(full), size)]
    return max(abs(size - sum(group) - spec.share * size) for group in groups)


def middle(full: list[float]) -> float:
    """Mean share of full attention in the middle third of the blocks less that in the bottom third; where the
    depth has no thirds, the middle takes the rest.

    >>> middle([0.0, 0.0, 1.0, 1.0, 0.5, 0.0])
    1.0
    """
    third = len(full) // 3
    bottom, centre = full[:third], full[third : len(full) - third]
    return sum(centre) / len(centre) - sum(bottom) / len(bottom)


_STAGED = tuple(
    f"{metric} {stage}" for metric in ("passkey", "loss") for stage in ("converted", "distill", "finetune")
)


def _staged(result: Result, metric: str) -> float:
    what, _, stage = metric.partition(" ")
    row = next(row for row in result.metrics["stages"] if row["stage"] == stage)
    return row["passkey" if what == "passkey" else "loss_bits_per_byte"]


def _far(result: Result) -> float:
    """Accuracy on passkeys over all distances at the longest length, after the last stage."""
    rows = [row for row in result.metrics["passkey_by"] if row["distance"] is None]
    last = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    return max(last, key=lambda row: row["length"])["accuracy"]


def _untaught(scale_name: str, store: Store) -> list[tuple]:
    """A row for each study if the teacher's accuracy on the passkeys is below `LEARNT`."""
    specs = [spec for specs in selection.selections(scale_name).values() for spec in specs]
    results = filter(None, map(store.read, specs))
    taught = [result.metrics["teacher_passkey"] for result in results if result.status == "done"]
    if not taught or taught[0] >= LEARNT:
        return []
    why = f"the teacher reads {taught[0]:.2f} of its passkeys"
    return [(name, why, 0.0, 0, "untaught", taught[0]) for name in ("selection", "consa")]

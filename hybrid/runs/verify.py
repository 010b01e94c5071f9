"""Whether today's code still gives the stored results of older code: recompute some, compare every digit."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path

from hybrid.config import RunSpec
from hybrid.config.files import cache
from hybrid.config.specs import Spec
from hybrid.runs import provenance, registry, runner, tables
from hybrid.runs.provenance import Verification
from hybrid.runs.store import Result, Store
from hybrid.studies.catalogue import study

COMPARED = ("status", "message", "metrics", "curve")
"""The parts of a result that its code decides."""


@dataclass(frozen=True)
class Comparison:
    """A stored result beside the one of today's code."""

    stored: Result
    """As the store has it."""
    again: Result | None
    """Recomputed; None where the time did not suffice."""

    @cached_property
    def differences(self) -> list[tuple[str, float]]:
        """Name and relative difference of every value that differs, in the order of the stored result."""
        pairs = ((part, getattr(self.stored, part), getattr(self.again, part)) for part in COMPARED)
        return [found for pair in pairs for found in differences(*pair)]

    @property
    def equal(self) -> bool:
        """Recomputed, and the same to the last stored digit."""
        return self.again is not None and not self.differences

    def __str__(self) -> str:
        if self.again is None:
            return "not recomputed yet"
        if self.equal:
            return "equal"
        largest, first = max(d for _, d in self.differences), self.differences[0][0]
        return f"differs by up to {largest:.1e}, first in {first}"

    def origins(self) -> str:
        """Device and versions of both results, where they differ."""
        then, now = (
            {"device": result.provenance.get("device")} | result.provenance.get("versions", {})
            for result in (self.stored, self.again)
        )
        unlike = [name for name in then | now if then.get(name) != now.get(name)]
        stated = [f"{name} {then.get(name)} then, {now.get(name)} now" for name in unlike]
        return "; ".join(stated) or "on the same device with the same versions"


@dataclass(frozen=True)
class Report:
    """What `verify` found; as a string, the table and what follows from it."""

    comparisons: list[Comparison]
    """One for each older source hash and variety."""
    records: dict[str, Path]
    """Older source hash -> the record that its results count as today's."""

    @property
    def differs(self) -> bool:
        """Whether a recomputed run gave another number."""
        return bool(self._unequal)

    @property
    def _unequal(self) -> list[Comparison]:
        return [c for c in self.comparisons if c.again is not None and not c.equal]

    def __str__(self) -> str:
        import pandas

        if not self.comparisons:
            return "no stored result of this study at this scale is stale"
        rows = [
            {
                "run": c.stored.run_id,
                "code": c.stored.provenance.get("source_hash"),
                "family": tables.variety(c.stored),
                "what": c.stored.spec.title,
                "outcome": c,
            }
            for c in self.comparisons
        ]
        lines = [pandas.DataFrame(rows).astype(str).to_string(index=False)]
        lines += [f"{c.stored.run_id}: {c.origins()}" for c in self._unequal]
        for old, group in _by_code(self.comparisons).items():
            if old in self.records:
                lines.append(f"{old} counts as {_today(group)}: {self.records[old]}")
            else:
                equal = sum(c.equal for c in group)
                lines.append(f"{old}: {equal} of {len(group)} equal; nothing is recorded")
        return "\n".join(lines)


def verify(
    study_name: str,
    scale_name: str,
    *,
    workers: int | None = None,
    minutes: float | None = None,
    progress: bool = True,
    train: runner.Trainer | None = None,
) -> Report:
    """Recompute stale results of a study, one of each variety, and compare them with the stored ones.

    The stored results stay as they are. Where all recomputed runs of an older source hash are equal,
    a record says so, and results of that hash and of these varieties are stale no longer. A call that is
    killed, or that `minutes` ends, is continued by the next one.

    Args:
        study_name: as in `hybrid.studies.catalogue.study`.
        scale_name: as in `hybrid.studies.catalogue.study`.
        workers: as in `hybrid.runs.runner.collect`; each run gets as many threads as it had.
        minutes: as in `hybrid.runs.runner.collect`.
        progress: as in `hybrid.runs.runner.collect`.
        train: as in `hybrid.runs.runner.collect`.

    Raises:
        ValueError: an unknown study or scale, or impossible `workers` or `minutes`.
        StoreError: nothing can be written.
        RunError: some runs gave no result.
    """
    chosen = choose(study(study_name, scale_name))
    store = Store(_folder())
    threads = {r.run_id: provenance.threads(r.provenance.get("device", "")) for r in chosen}
    runner.collect(
        [result.spec for result in chosen],
        workers=workers,
        minutes=minutes,
        progress=progress,
        train=partial(_train_alike, train=train, threads=threads),
        store=store,
    )
    comparisons = [Comparison(result, _again(store, result.spec)) for result in chosen]
    records = {
        old: _record(old, group).write()
        for old, group in _by_code(comparisons).items()
        if all(c.equal for c in group)
    }
    return Report(comparisons, records)


def choose(specs: Iterable[Spec]) -> list[Result]:
    """Of the stale results of these specs, one for each source hash and variety (`tables.variety`).

    Preferred are runs that did not diverge, then those of a machine like this one, since another one gives
    other digits, then models of several kinds of blocks, then the run that was trained last, which is the
    most likely to be of this machine where the name of one does not tell.
    """
    store, stale = Store(), tables.staleness()
    found = [result for spec in specs if (result := store.read(spec)) and stale(result)]
    found.sort(key=lambda result: result.run_id)
    found.sort(key=lambda result: result.provenance.get("date", ""), reverse=True)
    here = _machine(provenance.device_name())

    def preference(result: Result) -> tuple:
        run = result.spec
        one_kind = not isinstance(run, RunSpec) or len(set(run.model.layout.letters)) == 1
        elsewhere = _machine(result.provenance.get("device", "")) != here
        return result.status != "done", elsewhere, one_kind

    best: dict[tuple[str, str], Result] = {}
    for result in sorted(found, key=preference):
        best.setdefault((result.provenance.get("source_hash", ""), tables.variety(result)), result)
    return [best[key] for key in sorted(best)]


def differences(name: str, stored, again) -> Iterator[tuple[str, float]]:
    """Name and relative difference of every value of two nests of JSON types that is not written alike.

    The difference of two numbers is relative to the larger one; where a value is no number, or is
    missing on one side, it is infinite.

    >>> list(differences("metrics", {"recall": 0.5, "by": [1, 2]}, {"recall": 0.5, "by": [1, 4]}))
    [('metrics.by[1]', 0.5)]
    """
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in stored | again:
            yield from differences(f"{name}.{key}", stored.get(key, _ABSENT), again.get(key, _ABSENT))
    elif isinstance(stored, list) and isinstance(again, list):
        for i, pair in enumerate(zip_longest(stored, again, fillvalue=_ABSENT)):
            yield from differences(f"{name}[{i}]", *pair)
    # Written form, in which 0.0 and -0.0, 1 and 1.0 differ, as they do in the stored file.
    elif repr(stored) != repr(again):
        numbers = all(type(value) in (int, float) for value in (stored, again))
        larger = max(abs(stored), abs(again)) if numbers else math.inf
        yield name, (abs(stored - again) / (larger or 1.0) if numbers else math.inf)


_ABSENT = object()


def _folder() -> Path:
    """Where recomputed results lie: what another machine, library or code gave lies elsewhere."""
    machine = _machine(provenance.device_name())
    about = json.dumps([provenance.LOADED["selection"], machine, provenance.versions()])
    return cache() / "verify" / hashlib.sha256(about.encode()).hexdigest()[:12]


def _machine(device: str) -> str:
    """A `provenance.device_name` without the number of threads."""
    return device.partition(",")[0]


def _train_alike(
    spec: Spec, *, train: runner.Trainer | None, threads: dict[str, int | None], **options
) -> Result:
    """Train with the number of threads of the stored result, on which the last digits may depend."""
    train = train or registry.trainer(spec.kind)
    if count := threads[spec.run_id]:
        import torch

        torch.set_num_threads(count)
    return train(spec, **options)


def _again(store: Store, spec: Spec) -> Result | None:
    result = store.read(spec)
    if result and result.provenance.get("source_hash") != provenance.LOADED[spec.layer]:
        warnings.warn(f"the code changed while {spec.run_id} was recomputed: it does not count", stacklevel=3)
        store.path(spec).unlink()
        return None
    return result


def _by_code(comparisons: list[Comparison]) -> dict[str, list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.stored.provenance.get("source_hash", ""), []).append(comparison)
    return groups


def _today(comparisons: list[Comparison]) -> str:
    """Today's hash of the layer that the results of one older hash rest on."""
    return provenance.LOADED[comparisons[0].stored.spec.layer]


def _record(old: str, comparisons: list[Comparison]) -> Verification:
    return Verification(
        old=old,
        new=_today(comparisons),
        runs={tables.variety(c.stored): c.stored.run_id for c in comparisons},
        devices=sorted({c.again.provenance.get("device", "") for c in comparisons}),
        versions=provenance.versions(),
        **provenance.commit(comparisons[0].stored.spec.layer),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )

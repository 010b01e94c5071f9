"""Golden trajectories: first losses and a few outputs of tiny runs, stored, to see when code changes numbers.

Every kind of run belongs to a room with a version (`hybrid.runs.versions`), and there is one small file a
kind in ``tests/golden``; the runs are those of `golden_runs`. Stored are the numbers of a CPU: in float64,
in which processors with other vector instructions agree to many digits, but for a training as it is by
default, in float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hybrid.config.files import home, write_atomically
from hybrid.runs import versions
from hybrid.runs.versions import moved
from hybrid.studies.golden_runs import KINDS, Numbers

DIGITS = 12
"""Significant digits that are stored: more would differ from machine to machine."""


def folder() -> Path:
    """Where the stored numbers lie, one file a kind."""
    return home() / "tests" / "golden"


class Row(NamedTuple):
    """One run beside the stored one."""

    kind: str
    run: str
    outcome: str
    """ "equal", "changed", or where only one of the two is there "not stored" or "made no more"."""
    difference: float
    """The largest one, relative to the largest number of its list; infinite where they cannot be compared."""
    tolerance: float


@dataclass(frozen=True)
class Report:
    """What `check` or `write` found; as a string, the table and what follows from it."""

    rows: list[Row]
    advice: list[str]
    """A sentence for each kind whose numbers are not the stored ones."""

    @property
    def changed(self) -> bool:
        """Whether something must be done."""
        return bool(self.advice)

    def __str__(self) -> str:
        import pandas

        table = pandas.DataFrame(self.rows, columns=Row._fields)
        for name in ("difference", "tolerance"):
            table[name] = table[name].map("{:.0e}".format)
        return "\n".join([table.to_string(index=False), *self.advice])


def check(kinds: Sequence[str] = ()) -> Report:
    """Compare today's numbers with the stored ones; no kinds are all.

    Raises ``ValueError`` for an unknown kind or a file that holds no golden numbers, and
    ``FileNotFoundError`` where there is none.
    """
    names = _known(kinds)
    stored = {name: _stored(name) for name in names}
    rows = [row for name in names for row in _compared(name, stored[name]["runs"], _made(name))]
    return Report(rows, _advice(rows, {name: file["rooms"] for name, file in stored.items()}))


def write(kinds: Sequence[str] = ()) -> Report:
    """Store today's numbers, in place of stored ones whose version has moved since; no kinds are all.

    Raises ``ValueError`` for an unknown kind, a file that holds no golden numbers, or numbers that changed
    while no version of their rooms has moved. Then no file is written.
    """
    names = _known(kinds)
    stored = {name: _stored(name) for name in names if _path(name).exists()}
    made = {name: _made(name) for name in names}
    held = {
        name: file["rooms"] for name, file in stored.items() if not moved(KINDS[name].rooms, file["rooms"])
    }
    rows = [row for name in held for row in _compared(name, stored[name]["runs"], made[name])]
    if refused := _advice([row for row in rows if row.outcome == "changed"], held):
        raise ValueError(
            "\n".join(
                ["nothing is written (where the runs themselves are others, delete the file):", *refused]
            )
        )
    for name, runs in made.items():
        entries = [f"  {json.dumps(run)}: {json.dumps(numbers)}" for run, numbers in runs.items()]
        rooms = json.dumps(versions.today(KINDS[name].rooms))
        text = f'{{\n "rooms": {rooms},\n "runs": {{\n' + ",\n".join(entries) + "\n }\n}\n"
        write_atomically(_path(name), text)
    return Report([row for name in names for row in _compared(name, made[name], made[name])], [])


def _known(kinds: Sequence[str]) -> list[str]:
    for name in kinds:
        if name not in KINDS:
            raise ValueError(f"unknown kind of golden run {name!r}; allowed: {', '.join(KINDS)}")
    return [name for name in KINDS if name in kinds or not kinds]


def _path(name: str) -> Path:
    return folder() / f"{name}.json"


def _stored(name: str) -> dict[str, dict]:
    path, command = _path(name), f"`python -m hybrid golden {name} --write`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for part in ("rooms", "runs"):
            if not isinstance(found, dict) or not isinstance(found.get(part), dict):
                raise ValueError(f"it needs {part!r}, a JSON object")
    except FileNotFoundError:
        raise FileNotFoundError(f"no golden numbers in {path}; {command} stores today's") from None
    except ValueError as error:
        raise ValueError(
            f"{path} holds no golden numbers: {error}; take it from git again, or delete it and {command}"
        ) from None
    return found


def _made(name: str) -> dict[str, Numbers]:
    runs = {}
    for run, numbers in KINDS[name].runs():
        runs[run] = {part: [_rounded(value) for value in values] for part, values in numbers.items()}
    return runs


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _compared(name: str, stored: dict[str, Any], made: dict[str, Numbers]) -> Iterator[Row]:
    tolerance = KINDS[name].tolerance
    for run in stored | made:
        if run not in stored or run not in made:
            outcome, largest = "not stored" if run in made else "made no more", math.inf
        else:
            largest = difference(stored[run], made[run])
            outcome = "equal" if largest <= tolerance else "changed"
        yield Row(name, run, outcome, largest, tolerance)


def difference(stored: object, made: Numbers) -> float:
    """The largest difference of two floats, relative to the largest of their list; infinite where names,
    words, whole numbers or lengths differ, or a float is not finite.

    >>> difference({"loss": [4.0, 2.0]}, {"loss": [4.0, 1.0]})
    0.25
    >>> difference({"layout": ["FLL"]}, {"layout": ["LFL"]})
    inf
    """
    if stored == made:
        return 0.0
    if not isinstance(stored, dict) or stored.keys() != made.keys():
        return math.inf
    return max(_distance(stored[part], made[part]) for part in made)


def _distance(stored: object, made: list) -> float:
    if stored == made:
        return 0.0
    numbers = isinstance(stored, list) and all(type(value) is float for value in [*stored, *made])
    if not numbers or len(stored) != len(made) or not all(map(math.isfinite, [*stored, *made])):
        return math.inf
    return max(abs(a - b) for a, b in zip(stored, made, strict=True)) / max(map(abs, [*stored, *made]))


def _advice(rows: Iterable[Row], rooms: dict[str, dict]) -> list[str]:
    """What to do about the rows that are not equal. The room to blame is the lowest of those that the numbers
    rest on and whose own numbers changed."""
    rows = [row for row in rows if row.outcome != "equal"]
    at_fault = {KINDS[row.kind].rooms[-1] for row in rows if row.outcome == "changed"}
    found = []
    for name in dict.fromkeys([*(row.kind for row in rows), *rooms]):
        runs = {row.run: row.outcome for row in rows if row.kind == name}
        renew = f"`python -m hybrid golden {name} --write`"
        if since := moved(KINDS[name].rooms, rooms[name]):
            found.append(f"the stored numbers of {name} are of other versions ({'; '.join(since)}): {renew}")
            continue
        if changed := [run for run, outcome in runs.items() if outcome == "changed"]:
            room = next(room for room in KINDS[name].rooms if room in at_fault)
            which = f"{name} ({'; '.join(changed)})"
            found.append(
                f"numbers of {which} changed: mend it, or raise VERSION in {room} and say why, then {renew}"
            )
        if others := [f"{run} is {outcome}" for run, outcome in runs.items() if outcome != "changed"]:
            found.append(f"of {name}, {'; '.join(others)}: {renew}")
    return found

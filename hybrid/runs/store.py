"""The store of results: one small JSON file a run, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import uuid
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

from hybrid.config.files import home, write_atomically
from hybrid.config.specs import Spec
from hybrid.runs import trainers

STATUSES = ("done", "failed")
PROBE_BYTES = 1 << 18
"""What must fit into the store before a run is trained: far more than one result takes."""
TABLE = "columns"
"""Key under which the columns of a table are stored."""
ABANDONED_SECONDS = 3600
"""Age at which a temporary file is the remains of a killed process."""


class StoreError(OSError):
    """Results cannot be written; the message names the path, the reason and the way out."""


class StoreWarning(UserWarning):
    """A stored file is no result of the spec it is named after, and counts as missing."""


@dataclass(frozen=True)
class Result:
    """What one run leaves.

    Raises ``ValueError`` for an unknown status or a `run_id` that is not the spec's.
    """

    run_id: str
    """`Spec.run_id` of the spec."""
    spec: Spec
    """What was run."""
    status: str
    """ "done", or "failed" where training diverged."""
    message: str = ""
    """Why the run failed."""
    metrics: dict = field(default_factory=dict)
    """Numbers measured at the end; tables are lists of dicts, one a row."""
    curve: list[dict] = field(default_factory=list)
    """The same numbers along the training, one dict a point."""
    provenance: dict = field(default_factory=dict)
    """`hybrid.runs.provenance.collect`."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}; allowed: {', '.join(STATUSES)}")
        if self.run_id != self.spec.run_id:
            raise ValueError(f"run_id must be the spec's, {self.spec.run_id}; got {self.run_id!r}")

    def to_json(self) -> str:
        """Text of a stored file: numbers to six significant digits, NaN and infinities as null, and tables
        as ``{"columns": {name: values}}``, a third as long as a dict a row."""
        parts = {
            "run_id": self.run_id,
            "status": self.status,
            "message": self.message,
            "spec": self.spec.to_dict(),
            "metrics": {name: _columns(item) for name, item in _plain(self.metrics).items()},
            "provenance": _plain(self.provenance),
            "curve": _columns(_plain(self.curve)),
        }
        return _lines(parts) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The inverse of `to_json`; parts it does not know are left out.

        Raises ``ValueError`` saying what is wrong with the text.
        """
        parts = json.loads(text, object_hook=_rows)
        types = {"run_id": str, "status": str, "message": str, "spec": dict}
        types |= {"metrics": dict, "curve": list, "provenance": dict}
        for name, kind in types.items():
            if not isinstance(parts, dict) or not isinstance(parts.get(name), kind):
                raise ValueError(f"a result needs {name!r}, a JSON {kind.__name__}")
        try:
            spec = trainers.read(parts["spec"])
        except (TypeError, AttributeError) as error:
            raise ValueError(f"its spec cannot be read: {error}") from error
        return cls(**{name: parts[name] for name in types} | {"spec": spec})


def _plain(value):
    """JSON types of a nest of dicts, lists, strings and numbers (also of NumPy and PyTorch)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    number = float(value) if isinstance(value, Real) else value.item()
    if isinstance(number, float):
        return float(f"{number:.6g}") if math.isfinite(number) else None
    return number


def _columns(value):
    """A list of dicts with the same keys as its columns; anything else as it is."""
    rows = isinstance(value, list) and len(value) > 1 and all(isinstance(row, dict) for row in value)
    if not rows or not value[0] or any(list(row) != list(value[0]) for row in value):
        return value
    return {TABLE: {name: [row[name] for row in value] for name in value[0]}}


def _rows(value: dict):
    """The inverse of `_columns`."""
    if list(value) != [TABLE] or not isinstance(value[TABLE], dict):
        return value
    columns = value[TABLE]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _lines(value, indent: str = "") -> str:
    """JSON with a line for each list or dict that holds no other dict, as a row of a table: a line
    for every number would take half as much again."""
    line = json.dumps(value, allow_nan=False)
    if "{" not in line[1:]:
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        entries = [f"{json.dumps(key)}: {_lines(item, deeper)}" for key, item in value.items()]
    else:
        entries = [_lines(item, deeper) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(entries) + f"\n{indent}{closing}"


class Store:
    """A folder of results, ``<root>/runs/<run_id>.json``, shared by any number of processes.

    ``root`` is $HYBRID_RESULTS, or else `book/results` of the checkout.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("HYBRID_RESULTS") or home() / "book" / "results")

    def path(self, spec: Spec) -> Path:
        """Where the result of a spec is kept."""
        return self.root / "runs" / f"{spec.run_id}.json"

    def read(self, spec: Spec) -> Result | None:
        """The stored result of a spec, or None.

        A file that is cut short, is no result, or is the result of another spec is named in a
        `StoreWarning` and counts as missing.
        """
        path = self.path(spec)
        try:
            result = Result.from_json(path.read_text(encoding="utf-8"))
            if result.spec != spec:
                raise ValueError("it is the result of another spec")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is passed over: {error}", StoreWarning, stacklevel=2)
            return None
        return result

    def write(self, result: Result) -> Path:
        """Store a result, in place of an older one, and return its path.

        Raises `StoreError` when it cannot be written; the result then lies in the system's folder
        for temporary files, at the path the message names.
        """
        path, text = self.path(result.spec), result.to_json()
        try:
            write_atomically(path, text)
        except OSError as error:
            try:
                rescue = Path(tempfile.mkdtemp(prefix="hybrid-result-")) / path.name
                write_atomically(rescue, text)
                kept = f"the result is kept in {rescue}; move it to {path}"
            except OSError as second:
                kept = f"nor to {tempfile.gettempdir()}: {second}; its checkpoint is kept"
            raise StoreError(f"the result cannot be written to {path}: {error}; {kept}") from error
        return path

    def probe(self) -> None:
        """Write and remove a file, and remains of killed processes, before anything is trained.

        Raises `StoreError` naming the folder when results cannot be written.
        """
        folder = self.root / "runs"
        probe = folder / f".probe.{uuid.uuid4().hex}.tmp"
        try:
            write_atomically(probe, " " * PROBE_BYTES)
            probe.unlink()
            for remains in folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if remains.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                        remains.unlink()
        except OSError as error:
            raise StoreError(
                f"results cannot be written to {folder}: {error}; nothing was trained. Make room or "
                "set HYBRID_RESULTS to another folder"
            ) from error

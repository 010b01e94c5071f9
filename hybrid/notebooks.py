"""Chapters as programs: their typed parameters, their execution, and the two boxes they show.

The `parameters` cell of a chapter is the only place that names its parameters, their types, their
defaults and their help. A value that does not fit is refused before a kernel is started.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid.boxes import Box, chapter_command, duration, memory
from hybrid.store import Store, home, write_atomically

if TYPE_CHECKING:
    import pandas

SOURCES = home() / "notebooks"
"""Where the chapters' sources lie."""
CHAPTERS = home() / "book" / "chapters"
"""Where executed chapters and the records of their execution are generated."""
TYPES: dict[str, type | tuple[type, type]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list[str]": (list, str),
    "list[int]": (list, int),
}
"""The types a parameter may have, as written in the `parameters` cell."""
SCALES = ("smoke", "laptop", "gpu", "paper")
"""Values of the parameter `scale`; not every chapter can run at all of them."""
_CONSTANTS = {"True": True, "False": False}
_chapter: str | None = None


class Parameter(NamedTuple):
    """One line of the `parameters` cell, ``name: type = default  # help``."""

    name: str
    type: str
    default: Any
    help: str


class ChapterFailed(RuntimeError):
    """A cell raised; the message names the notebook, the cell, the error and the copy that was kept."""


def parameters(path: str | Path) -> list[Parameter]:
    """The parameters of a notebook, in the order of its `parameters` cell.

    Raises ``FileNotFoundError`` for a missing notebook, and ``ValueError`` naming the notebook and the
    parameter when there is not exactly one such cell, or a line of it has no type of `TYPES` or a
    default of another type.
    """
    import papermill

    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("[!.]*.ipynb"))) or "none"
        raise FileNotFoundError(f"no notebook {path}; notebooks there: {known}")
    cells = [c for c in _read(path).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path} must have exactly one cell tagged 'parameters'; got {len(cells)}")
    inspected = papermill.inspect_notebook(path)
    found = []
    for line in ast.parse(cells[0].source).body:
        name = ast.unparse(line.target if isinstance(line, ast.AnnAssign) else line.targets[0])
        kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else None
        if kind not in TYPES or name not in inspected:
            raise ValueError(
                f"parameter {name} of {path} must be written `name: type = value  # help`, without a "
                f"second '=', with a type of {', '.join(TYPES)}; got {ast.unparse(line)!r}"
            )
        default = _typed(name, kind, ast.literal_eval(line.value))
        found.append(Parameter(name, kind, default, inspected[name]["help"]))
    return found


def parse_parameters(assignments: Sequence[str]) -> dict[str, Any]:
    """Values of a command line, such as ``["scale=laptop", "seeds=[0,1]", "lr=3e-4"]``.

    A value is read as JSON; quotes around words may be left out, so ``[pure,3:1]`` is a list of two
    strings. Raises ``ValueError`` naming an assignment that cannot be read or a name given twice.
    """
    import yaml

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"a parameter is given as name=value; got {assignment!r}")
        if name in values:
            raise ValueError(f"parameter {name} is given more than once")
        try:
            values[name] = _scalars(yaml.load(text, Loader=yaml.BaseLoader))
        except yaml.YAMLError as error:
            raise ValueError(f"the value of parameter {name} cannot be read; got {text!r}") from error
    return values


def check_parameters(path: str | Path, values: dict[str, Any]) -> dict[str, Any]:
    """The given values in the types that the notebook declares.

    Raises ``ValueError`` naming an unknown parameter with the allowed ones, a value of another type, or
    one that `check` refuses.
    """
    declared = {p.name: p for p in parameters(path)}
    for name in values:
        if name not in declared:
            raise ValueError(
                f"unknown parameter {name!r} of {Path(path).stem}; allowed: {', '.join(declared) or 'none'}"
            )
    values = {name: _typed(name, declared[name].type, value) for name, value in values.items()}
    check(**values)
    return values


def check(**values) -> None:
    """Refuse values of the parameters that every chapter shares; parameters of other names pass.

    Raises ``ValueError`` for a `scale` that is not in `SCALES`, and for `seeds` that are not a list of
    different whole numbers from 0.
    """
    if "scale" in values and values["scale"] not in SCALES:
        raise ValueError(f"parameter scale must be one of {', '.join(SCALES)}; got {values['scale']!r}")
    seeds = values.get("seeds", [0])
    if not (
        isinstance(seeds, (list, tuple))
        and seeds
        and all(type(seed) is int and seed >= 0 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    ):
        raise ValueError(f"parameter seeds must be a list of different whole numbers from 0; got {seeds!r}")


def execute(source: str | Path, destination: str | Path, parameters: dict[str, Any] | None = None) -> Path:
    """Execute a notebook in its own folder and keep the executed copy at `destination`.

    The copy appears when every cell has run. It holds the source, its outputs and the cell with the
    given parameters, and no times or paths, so that equal outputs give equal files. The record of the
    execution is written beside it as JSON, and as measured cost into the store of results where the
    store has none for this chapter, scale and kind of device.

    Raises:
        FileNotFoundError, ValueError: as `check_parameters`, before anything is run.
        ChapterFailed: a cell raised; the notebook up to there is kept as ``<destination>.failed.ipynb``.
    """
    import papermill

    source, destination = Path(source).resolve(), Path(destination).resolve()
    values = check_parameters(source, parameters or {})
    destination.parent.mkdir(parents=True, exist_ok=True)
    failed = destination.with_suffix(".failed.ipynb")
    temporary = destination.with_name(f".{destination.stem}.{os.getpid()}.ipynb")
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            source,
            temporary,
            values,
            cwd=source.parent,
            progress_bar=sys.stderr.isatty(),
        )
        seconds = time.perf_counter() - started
        _clean(temporary)
        os.replace(temporary, destination)
    except Exception as error:
        if not temporary.exists():
            raise
        os.replace(temporary, failed)
        raise ChapterFailed(
            f"{source.name} failed {_where(error)}; up to there it is kept in {failed}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    _record(destination, seconds, measured=set(values) <= {"scale"})
    return destination


def strip(path: str | Path) -> Path:
    """Remove outputs, execution counts and tool metadata from a notebook, in place."""
    notebook = _read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return _write(path, notebook)


def costs(chapter: str) -> Box:
    """What executing a chapter took, at every scale and on every kind of device it was measured on.

    The first cell of a chapter calls it, which also says which chapter `provenance` speaks of.

    Args:
        chapter: file name of the notebook without its ending.
    """
    global _chapter
    _chapter = chapter
    header = ["Scale", "Device", "This page", "Peak memory", "Its runs, trained one by one", "Measured"]
    rows = []
    for path in sorted((Store().root / "chapters").glob(f"{chapter}.*.json")):
        record = json.loads(path.read_text())
        training = duration(record["training_seconds"]) if record["runs"] else "no runs"
        cells = [record["parameters"].get("scale", "-"), record["device"], duration(record["seconds"])]
        rows.append([*cells, memory(record["peak_memory_bytes"]), training, record["date"][:10]])
    return Box("What it costs to run", rows or [["Not measured yet."]], header if rows else None)


def provenance(*, runs: pandas.DataFrame | None = None, **parameters) -> Box:
    """Where the numbers of a page come from; the last line of a chapter calls it.

    Args:
        runs: the table of `hybrid.runs.collect`, where the chapter has one.
        parameters: the chapter's parameters with the values it ran with.

    Raises ``ValueError`` when the chapter has not called `costs`, which names it.
    """
    import torch

    from hybrid import provenance as evidence

    if _chapter is None:
        raise ValueError("provenance() speaks of the chapter that costs(name) named; call costs first")
    record = {
        "chapter": _chapter,
        "parameters": parameters,
        "runs": [] if runs is None else list(runs["run_id"]),
        "training_seconds": 0.0 if runs is None else float(runs["seconds"].sum()),
        "source_hash": evidence.LOADED,
        **evidence.commit(),
        "versions": evidence.versions(),
        "device": evidence.device_name(),
        "kind": "gpu" if torch.cuda.is_available() else "cpu",
        "peak_memory_bytes": evidence.peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    commit = record["commit"] or "not in a git checkout"
    rows = [
        ["Command", chapter_command(_chapter, parameters)],
        ["Executed", record["date"]],
        ["Device", record["device"]],
        ["Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["Commit", commit + (", with changes" if record["dirty"] else "")],
        ["Source hash", record["source_hash"]],
    ]
    if runs is not None:
        rows.append(["Runs", f"{len(runs)}: {', '.join(record['runs'])}"])
    return Box("Where this page comes from", rows, record=record)


def evidence_of(path: str | Path) -> dict | None:
    """The record that `provenance` left in an executed notebook; None where it was not called."""
    for cell in _read(path).cells:
        for output in cell.get("outputs", []):
            if "hybrid" in output.get("metadata", {}):
                return output.metadata["hybrid"]
    return None


def _record(executed: Path, seconds: float, *, measured: bool) -> None:
    record = evidence_of(executed)
    if record is None:
        return
    text = json.dumps({**record, "seconds": round(seconds, 1)}, indent=1) + "\n"
    write_atomically(executed.with_suffix(".json"), text)
    scale = record["parameters"].get("scale", "default")
    cost = Store().root / "chapters" / f"{record['chapter']}.{scale}.{record['kind']}.json"
    if measured and not cost.exists():
        write_atomically(cost, text)


def _scalars(value):
    if isinstance(value, list):
        return [_scalars(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return _CONSTANTS.get(value, value)


def _typed(name: str, kind: str, value):
    wanted = TYPES[kind]
    if isinstance(wanted, tuple):
        fits = isinstance(value, (list, tuple)) and all(type(item) is wanted[1] for item in value)
        value = list(value) if fits else value
    elif wanted is float and type(value) is int:
        fits, value = True, float(value)
    else:
        fits = type(value) is wanted
    if not fits:
        raise ValueError(f"parameter {name} must be of type {kind}; got {value!r}")
    return value


def _where(error: Exception) -> str:
    cell = f"in cell {error.cell_index + 1} of the notebook" if hasattr(error, "cell_index") else ""
    message = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else str(error)
    return f"{cell} with {message}".strip()


def _clean(path: Path) -> None:
    notebook = _read(path)
    for index, cell in enumerate(notebook.cells):
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = f"injected-parameters-{index}"
    _write(path, notebook)


def _read(path: str | Path):
    import nbformat

    return nbformat.read(path, as_version=4)


def _write(path: str | Path, notebook) -> Path:
    import nbformat

    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    write_atomically(Path(path), nbformat.writes(notebook) + "\n")
    return Path(path)

"""Chapters as programs: their execution, and the two boxes they show about themselves."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.book.chapter_facts import Box, chapter_command, duration, memory, moment
from hybrid.book.parameters import check, check_parameters, parse_parameters
from hybrid.config.files import home, write_atomically
from hybrid.runs.store import Store

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CHAPTERS",
    "SOURCES",
    "ChapterFailed",
    "check",
    "check_parameters",
    "costs",
    "evidence_of",
    "execute",
    "parse_parameters",
    "provenance",
    "strip",
]
SOURCES = home() / "notebooks"
"""Where the chapters' sources lie."""
CHAPTERS = home() / "book" / "chapters"
"""Where executed chapters and the records of their execution are generated."""


class ChapterFailed(RuntimeError):
    """A cell raised; the message names the notebook, the cell, the error and the copy that was kept."""


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
    from traitlets.config import Config

    source, destination = Path(source).resolve(), Path(destination).resolve()
    values = check_parameters(source, parameters or {})
    destination.parent.mkdir(parents=True, exist_ok=True)
    failed = destination.with_suffix(".failed.ipynb")
    temporary = destination.with_name(f".{destination.stem}.{os.getpid()}.ipynb")
    sockets = tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True)
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            source,
            temporary,
            values,
            cwd=source.parent,
            progress_bar=sys.stderr.isatty(),
            # Sockets that other users of the machine cannot reach, and no ports to compete for.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets.name}/ipc"}),
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
        sockets.cleanup()
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

    Args:
        chapter: file name of the notebook without its ending.
    """
    header = ["Scale", "Device", "This page", "Peak memory", "Its runs, trained one by one", "Measured"]
    rows = []
    for path in sorted((Store().root / "chapters").glob(f"{chapter}.*.json")):
        record = json.loads(path.read_text())
        training = duration(record["training_seconds"]) if record["runs"] else "no runs"
        cells = [record["parameters"].get("scale", "-"), record["device"], duration(record["seconds"])]
        rows.append([*cells, memory(record["peak_memory_bytes"]), training, record["date"][:10]])
    return Box("What it costs to run", rows or [["Not measured yet."]], header if rows else None)


def provenance(chapter: str, *, runs: pandas.DataFrame | None = None, **parameters) -> Box:
    """Where the numbers of a page come from; the last line of a chapter calls it.

    Args:
        chapter: file name of the notebook without its ending.
        runs: the table of `hybrid.runs.runner.collect`, where the chapter has one.
        parameters: the chapter's parameters with the values it ran with.
    """
    import pandas
    import torch

    from hybrid.runs import provenance as evidence
    from hybrid.runs import versions

    table = pandas.DataFrame(runs).reindex(columns=["run_id", "seconds"])
    record = {
        "chapter": chapter,
        "parameters": parameters,
        "runs": list(table["run_id"]),
        "training_seconds": float(table["seconds"].sum()),
        "rooms": versions.today(versions.ROOMS),
        **evidence.commit(),
        "versions": evidence.versions(),
        "device": evidence.device_name(),
        "kind": "gpu" if torch.cuda.is_available() else "cpu",
        "peak_memory_bytes": evidence.peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    commit = record["commit"] or "not in a git checkout"
    rows = [
        ["Command", chapter_command(chapter, parameters)],
        ["Executed", moment(record["date"])],
        ["Device", record["device"]],
        ["Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["Commit", commit + (", with changes" if record["dirty"] else "")],
        ["Versions of the code", versions.stated(record["rooms"])],
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


def picture(path: str | Path, name: str, destination: str | Path) -> Path:
    """Write a figure of an executed notebook into a file of its own, as SVG.

    Args:
        path: the executed notebook.
        name: the figure's label, such as "fig-recall-main".
        destination: the file to write.

    Raises ``ValueError`` naming the figures there are.
    """
    found = {}
    for cell in _read(path).cells:
        label = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        drawn = [
            o.data["image/svg+xml"] for o in cell.get("outputs", []) if "image/svg+xml" in o.get("data", {})
        ]
        if label and drawn:
            found[label] = drawn[-1]
    if name not in found:
        raise ValueError(f"no figure {name!r} in {path}; there are: {', '.join(found) or 'none'}")
    write_atomically(Path(destination), found[name])
    return Path(destination)


def _record(executed: Path, seconds: float, *, measured: bool) -> None:
    record = evidence_of(executed)
    if record is None:
        return
    text = json.dumps({**record, "seconds": round(seconds, 1)}, indent=1) + "\n"
    write_atomically(executed.with_suffix(".json"), text)
    scale = record["parameters"].get("scale", "default")
    cost = Store().root / "chapters" / f"{record['chapter']}.{scale}.{record['kind']}.json"
    if measured and (not cost.exists() or _other_runs(json.loads(cost.read_text()), record)):
        write_atomically(cost, text)


def _other_runs(stored: dict, record: dict) -> bool:
    """Whether the same page rests on other runs than when it was measured."""
    return stored["parameters"] == record["parameters"] and stored["runs"] != record["runs"]


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

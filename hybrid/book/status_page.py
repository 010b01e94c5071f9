"""The status page: what every chapter and every stored run rests on, read from their own records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hybrid.book import notebooks
from hybrid.book.chapter_facts import duration, moment
from hybrid.config.files import home, write_atomically
from hybrid.runs import tables, versions
from hybrid.runs.store import Result, Store

PAGE = home() / "book" / "status.md"
_HEAD = """# Status

This page is generated from the records that chapters and runs leave when they are executed. Each part of the
code that decides numbers has a version, raised where its numbers change. A run is *stale* when a version has
moved since it was trained: it stays readable, and its numbers are no longer what the code gives.
"""


def write(path: str | Path = PAGE, chapters: str | Path = notebooks.CHAPTERS) -> Path:
    """Write the page over all chapters and stored runs, in MyST Markdown, and return its path.

    Args:
        path: where the page goes.
        chapters: folder of the executed chapters with their records.
    """
    runs, unreadable = _runs(Store().root / "runs")
    names = sorted(source.stem for source in notebooks.SOURCES.glob("[0-9]*.ipynb"))
    parts = [
        _HEAD,
        "## Chapters\n",
        table(
            ["Chapter", "Scale", "Executed", "Time", "Device", "Runs", "Stale runs", "Failed runs"],
            [_chapter(name, Path(chapters), runs) for name in names],
        ),
        "## Stored runs\n",
        _summary(runs),
    ]
    failed = [run for run in runs.values() if run.status == "failed"]
    if failed:
        rows = [[r.run_id, r.spec.title, r.message] for r in failed]
        parts += ["### Failed\n", table(["Run", "What", "Why"], rows)]
    if unreadable:
        parts += ["### Unreadable files\n", table(["File", "Why"], unreadable)]
    write_atomically(Path(path), "\n".join(parts))
    return Path(path)


def _chapter(name: str, folder: Path, runs: dict[str, Result]) -> list:
    if (folder / f"{name}.failed.ipynb").exists():
        return [f"`{name}`", "", "failed", *[""] * 5]
    try:
        record = json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        return [f"`{name}`", "", "not executed", *[""] * 5]
    used = [runs[run] for run in record["runs"] if run in runs]
    return [
        f"{{doc}}`{folder.name}/{name}`",
        record["parameters"].get("scale", ""),
        moment(record["date"]),
        duration(record["seconds"]),
        record["device"],
        len(record["runs"]),
        sum(bool(tables.moved(run)) for run in used),
        sum(run.status == "failed" for run in used),
    ]


def _summary(runs: dict[str, Result]) -> str:
    if not runs:
        return "No run is stored.\n"
    groups: dict[tuple, list[Result]] = {}
    for run in runs.values():
        device, since = run.provenance.get("device", ""), "; ".join(tables.moved(run))
        groups.setdefault((_code(run), since, device), []).append(run)
    rows = []
    for (code, since, device), members in sorted(groups.items()):
        dates = sorted(run.provenance.get("date", "")[:10] for run in members)
        seconds = sum(run.provenance.get("seconds") or 0 for run in members)
        failed = sum(run.status == "failed" for run in members)
        rows.append(
            [code, since, device, len(members), failed, f"{dates[0]} to {dates[-1]}", duration(seconds)]
        )
    header = ["Versions", "Changed since", "Device", "Runs", "Failed", "Trained", "Time, one by one"]
    return table(header, rows)


def _code(run: Result) -> str:
    """The versions of the code that made a run."""
    rooms = run.provenance.get("rooms")
    return versions.stated(rooms) if isinstance(rooms, dict) else "none"


def _runs(folder: Path) -> tuple[dict[str, Result], list[list[str]]]:
    runs, unreadable = {}, []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            runs[path.stem] = Result.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            unreadable.append([f"`{path.name}`", str(error)])
    return runs, unreadable


def table(header: list[str], rows: Iterable[list]) -> str:
    """A table in Markdown; cells are shown as text, and a bar or a line break in one does no harm."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"

"""Versions of the code that decides numbers: one a room, raised by hand where its numbers change.

A room says in its file ``VERSION`` what each version changed, a line each: ``2  what changed``. Code that
gives the same numbers, however it is rewritten, keeps its version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOMS = ("models", "data", "training", "conversion", "selection", "bench")
"""Folders of the package with a version, the lower ones first; that of `models` covers mixers and kernels."""


def read(path: Path) -> tuple[str, ...]:
    """What each version changed, from version 1 on, as a file ``VERSION`` says it.

    Raises ``ValueError`` naming the file where it is empty or no UTF-8 text, and the line too where a line is
    not its number, counted up from 1, and what changed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    if not lines:
        raise ValueError(f"{path} is empty; its first line must be '1  what changed'")
    found = []
    for number, line in enumerate(lines, 1):
        said = re.fullmatch(rf"{number}\s+(\S.*)", line)
        if said is None:
            raise ValueError(f"{path}, line {number} must be '{number}  what changed'; got {line!r}")
        found.append(said[1].rstrip())
    return tuple(found)


HISTORY = {room: read(PACKAGE / room / "VERSION") for room in ROOMS}
"""`read` of every room when this process started: the code it runs, even if files are edited."""


def history(room: str) -> list[str]:
    """What each version of a room changed, from version 1 on. Raises ``ValueError`` naming the rooms."""
    if room not in HISTORY:
        raise ValueError(f"unknown room {room!r}; allowed: {', '.join(HISTORY)}")
    return list(HISTORY[room])


def version(room: str) -> int:
    """The version of a room, from 1. Raises ``ValueError`` naming the rooms."""
    return len(history(room))


def today(rooms: Iterable[str]) -> dict[str, int]:
    """Room -> its version."""
    return {room: version(room) for room in rooms}


def tag(rooms: Iterable[str]) -> str:
    """The versions of rooms as a part of a file name, such as ``models1-data1-training1``."""
    return "-".join(f"{room}{number}" for room, number in today(rooms).items())


def stated(rooms: Mapping[str, int]) -> str:
    """Versions as a reader sees them, such as ``models 1, data 1``."""
    return ", ".join(f"{room} {number}" for room, number in rooms.items())


def moved(rooms: Iterable[str], then: object) -> list[str]:
    """How the versions of rooms differ today from what they were ``then``, a sentence a room that moved.

    Args:
        rooms: what a result rests on.
        then: room -> version, as the result has it; anything else is of no known version.
    """
    if not isinstance(then, dict):
        return ["of code without versions"]
    found = []
    for room, number in today(rooms).items():
        old = then.get(room)
        if type(old) is not int or old < 1:
            found.append(f"{room} ? -> {number}: its version is not known")
        elif old != number:
            what = "; ".join(history(room)[old:]) or "made by newer code"
            found.append(f"{room} {old} -> {number}: {what}")
    return found

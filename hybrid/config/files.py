"""Where the project's files lie, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def home() -> Path:
    """The checkout this package lies in; the working directory where it was installed elsewhere."""
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "book").is_dir() else Path.cwd()


def cache() -> Path:
    """Where unfinished work, kept weights and token shards lie: $HYBRID_CACHE, or else `_build` of the
    checkout."""
    return Path(os.environ.get("HYBRID_CACHE") or home() / "_build")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers, and a process killed half-way, see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

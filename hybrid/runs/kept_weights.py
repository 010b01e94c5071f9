"""Trained weights that later work starts from: kept below the cache, made anew where they are missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from hybrid.config.files import cache
from hybrid.config.specs import Spec
from hybrid.runs.versions import tag


def kept(spec: Spec, make: Callable[[Path, Path], None]) -> Path:
    """The folder with the weights of a spec; made by ``make(folder, checkpoints)`` if there is none.

    One process makes them while the others wait. They appear whole or not at all; a process that is
    killed leaves its checkpoints, from which the next one goes on. Their name ends with the
    versions of the spec's rooms: weights of other versions are not used.
    """
    from filelock import FileLock

    root = cache() / "weights"
    folder = root / f"{spec.run_id}-{tag(spec.rooms)}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            half, checkpoints = folder.with_suffix(".half"), folder.with_suffix(".work")
            shutil.rmtree(half, ignore_errors=True)
            make(half, checkpoints)
            half.rename(folder)
            shutil.rmtree(checkpoints, ignore_errors=True)
    return folder

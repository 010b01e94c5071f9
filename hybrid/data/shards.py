"""A text too big for memory: its token ids in two files, written shard by shard, read through a memory map.

A folder holds ``train.bin`` and ``valid.bin``, token ids one after another, and ``shards.json``, which
says how far each shard reaches. A shard counts from the moment that file names it, which is after its
tokens are on the disk. What a killed process wrote beyond that is cut off, and the next one goes on there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid.config.files import write_atomically


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded documents in order, those held out for validation apart."""

    train: np.ndarray
    """Training tokens, 1-D."""
    valid: np.ndarray
    """Validation tokens, 1-D."""
    train_bytes: int
    """UTF-8 bytes of the training documents."""
    valid_bytes: int
    """UTF-8 bytes of the validation documents."""
    position: tuple[int, int]
    """Where the next document is: in which file, counted from 0, and after how many others."""


class Reach(NamedTuple):
    """How far all shards up to one go: the fields of a `Text` with numbers of tokens in place of tokens."""

    train: int = 0
    valid: int = 0
    train_bytes: int = 0
    valid_bytes: int = 0
    file: int = 0
    documents: int = 0


def stored(
    folder: Path,
    dtype: np.dtype,
    wanted: int,
    shards: Callable[[int, tuple[int, int]], Iterator[Text]],
    fingerprint: Callable[[Text], str],
) -> tuple[Text, str]:
    """The text of a folder, mapped, and its fingerprint; what is missing is written first.

    One process writes, and any others that want the same text wait for it.

    Args:
        folder: of this text alone.
        dtype: of a token id.
        wanted: tokens of the whole text, at most.
        shards: ``shards(done, position)`` yields what follows the first ``done`` tokens.
        fingerprint: of the whole text; called once, when all of it is on the disk.

    Raises:
        ValueError: before anything is read, if the disk has no room for the tokens.
    """
    reaches, known = _whole(folder, dtype)
    if known is None:
        from filelock import FileLock

        folder.mkdir(parents=True, exist_ok=True)
        # Hundreds of ranks may wait for hours on one file server.
        with FileLock(folder / "lock").acquire(poll_interval=1):
            reaches, known = _whole(folder, dtype)
            if known is None:
                _write(folder, dtype, wanted, shards, reaches)
                known = fingerprint(_mapped(folder, dtype, reaches))
                _record(folder, reaches, known)
    return _mapped(folder, dtype, reaches), known


def _write(folder: Path, dtype: np.dtype, wanted: int, shards: Callable, reaches: list[Reach]) -> None:
    """Add the missing shards to the files and to ``reaches``."""
    from tqdm import tqdm

    reach = reaches[-1] if reaches else Reach()
    done = reach.train + reach.valid
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{side}.bin", "ab")) for side in ("train", "valid")]
        for file, tokens in zip(files, reach, strict=False):
            file.truncate(tokens * dtype.itemsize)
        needed, free = (wanted - done) * dtype.itemsize, shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"corpus_tokens={wanted} needs {needed / 1e9:.1f} GB more in {folder}, which has "
                f"{free / 1e9:.1f} GB free; ask for fewer tokens or set HYBRID_CACHE to another folder"
            )
        bar = stack.enter_context(
            tqdm(total=wanted, initial=done, desc="tokens", unit="tok", unit_scale=True)
        )
        for shard in shards(done, (reach.file, reach.documents)):
            for file, tokens in zip(files, (shard.train, shard.valid), strict=True):
                file.write(tokens)
                file.flush()
                os.fsync(file.fileno())
            reach = Reach(
                reach.train + len(shard.train),
                reach.valid + len(shard.valid),
                reach.train_bytes + shard.train_bytes,
                reach.valid_bytes + shard.valid_bytes,
                *shard.position,
            )
            reaches.append(reach)
            _record(folder, reaches)
            bar.update(len(shard.train) + len(shard.valid))


def _record(folder: Path, reaches: list[Reach], fingerprint: str | None = None) -> None:
    content = {"fingerprint": fingerprint, "fields": Reach._fields, "shards": reaches}
    write_atomically(folder / "shards.json", json.dumps(content) + "\n")


def _whole(folder: Path, dtype: np.dtype) -> tuple[list[Reach], str | None]:
    """The shards that the files hold in full, and the fingerprint if they are the whole text."""
    try:
        content = json.loads((folder / "shards.json").read_text(encoding="utf-8"))
        held = [(folder / f"{side}.bin").stat().st_size // dtype.itemsize for side in ("train", "valid")]
    except FileNotFoundError:
        return [], None
    reaches = [Reach(*numbers) for numbers in content["shards"]]
    whole = [reach for reach in reaches if reach.train <= held[0] and reach.valid <= held[1]]
    return whole, content["fingerprint"] if whole == reaches else None


def _mapped(folder: Path, dtype: np.dtype, reaches: list[Reach]) -> Text:
    reach = reaches[-1]

    def side(name: str, size: int) -> np.ndarray:
        # A file of no bytes cannot be mapped.
        mapped = np.memmap(folder / f"{name}.bin", dtype, "r", shape=size) if size else np.empty(0, dtype)
        return mapped.view(np.ndarray)

    train, valid = side("train", reach.train), side("valid", reach.valid)
    return Text(train, valid, reach.train_bytes, reach.valid_bytes, (reach.file, reach.documents))

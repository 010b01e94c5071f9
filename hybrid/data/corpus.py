"""Text as one long array of token ids: the standard library, local files, or a hub data set."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from hybrid import hub
from hybrid.config import TaskConfig
from hybrid.data.suite import MARKS

MOST_TOKENS = 50_000_000
"""Tokens read from a corpus, at most; reading stops after the document that reaches it."""
VALIDATION_PERCENT = 10
"""Share of the documents held out for validation, chosen by a hash of their name."""
END = b"\0"
"""Ends a document of a byte corpus; source text never holds it."""
OUTSIDE = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3"}
    | {"test", "tests", "tkinter", "turtledemo", "encodings", "pydoc_data"}
)
"""Folders of the standard library that the corpus leaves out: what is not part of it, what Linux
distributions ship separately (so that the same Python version gives the same text), and generated
tables (encodings, pydoc_data), which are not written by people."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of a text, split by document; read-only arrays of the smallest integer type that fits."""

    train: np.ndarray
    """Training tokens, 1-D."""
    valid: np.ndarray
    """Validation tokens, 1-D; no document is in both."""
    vocab_size: int
    """Number of token ids."""
    bytes_per_token: float
    """UTF-8 bytes of text a validation token stands for; turns nats a token into bits a byte."""
    fingerprint: str
    """Sixteen hexadecimal digits of the SHA-256 of all tokens."""


def vocab_size(task: TaskConfig) -> int:
    """Number of ids a model of the task needs: the text's, then the recall symbols' if it has recall,
    then the marks' of the suite if it has that."""
    recall = task.recall_vocab if task.recall_fraction > 0 else 0
    return text_vocab(task) + recall + (len(MARKS) if task.has_suite else 0)


def text_vocab(task: TaskConfig) -> int:
    """Number of ids of the text; recall symbols start here."""
    return 256 if task.tokenizer == "bytes" else len(_tokenizer(task.tokenizer))


def pieces(task: TaskConfig) -> list[str]:
    """The text of every id; one that begins a word begins with a space where the tokenizer marks that."""
    if task.tokenizer == "bytes":
        return [chr(byte) for byte in range(256)]
    tokenizer = _tokenizer(task.tokenizer)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [name.replace("▁", " ").replace("Ġ", " ") for name in names]


def load_corpus(task: TaskConfig) -> Corpus:
    """Read, encode and split the task's text; kept in memory, so that later runs share it.

    Documents are text files, or rows of a parquet, JSON-lines or hub data set (column ``text``). A
    hash of a document's name (a file's relative path, a row's text) decides whether it is held out
    for validation. Where that leaves one side empty, as with a single file, the last
    `VALIDATION_PERCENT` of the tokens are held out instead.

    Raises ``FileNotFoundError`` for a path or glob without files, ``ConnectionError`` at once when a
    hub is named but cannot be reached, ``ValueError`` for a file or data set without text.
    """
    return _load(task.corpus, task.tokenizer)


@functools.cache
def _load(source: str, tokenizer: str) -> Corpus:
    documents = _documents(source)
    encode, vocab = _encoder(tokenizer)
    sides = {"train": [], "valid": []}
    text_bytes = {"train": 0, "valid": 0}
    total = 0
    while total < MOST_TOKENS and (batch := list(islice(documents, 64))):
        for (name, text), tokens in zip(batch, encode([text for _, text in batch]), strict=True):
            side = "valid" if _held_out(name) else "train"
            sides[side].append(tokens)
            text_bytes[side] += len(text.encode()) + (len(END) if tokenizer == "bytes" else 0)
            total += len(tokens)
    if not total:
        raise ValueError(f"corpus {source!r} holds no text")
    dtype = np.min_scalar_type(vocab - 1)
    parts = {side: np.concatenate([np.empty(0, dtype), *tokens]) for side, tokens in sides.items()}
    train, valid = parts["train"], parts["valid"]
    bytes_per_token = text_bytes["valid"] / len(valid) if len(valid) else 0.0
    if not len(train) or not len(valid):
        everything = np.concatenate([train, valid])
        train, valid = np.split(everything, [total * (100 - VALIDATION_PERCENT) // 100])
        bytes_per_token = sum(text_bytes.values()) / total
    digest = hashlib.sha256(f"{vocab} {len(train)} ".encode())
    for part in (train, valid):
        digest.update(part.tobytes())
        part.setflags(write=False)
    return Corpus(train, valid, vocab, bytes_per_token, digest.hexdigest()[:16])


def _held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < VALIDATION_PERCENT


def _documents(source: str) -> Iterator[tuple[str, str]]:
    """Pairs (name, text), in a fixed order."""
    if source == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        inside = (p for p in root.rglob("*.py") if OUTSIDE.isdisjoint(p.relative_to(root).parts[:-1]))
        # _sysconfigdata and sitecustomize describe one machine, not the language.
        files = sorted(p for p in inside if not p.name.startswith(("_sysconfigdata", "sitecustomize")))
        if not files:
            raise FileNotFoundError(f"this Python has no library sources in {root}; name a text file instead")
        return _files(files, root)
    if source.startswith("hub:"):
        _, name, *subset = source.split(":")
        return _hub(name, *subset)
    path = Path(source).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"corpus {source!r} is a folder; name its files, as in {source}/**/*.txt")
    files = [path] if path.is_file() else []
    files = files or sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise FileNotFoundError(
            f"no file matches corpus {source!r}; allowed: 'stdlib', a path or glob of text, .parquet or "
            "JSON-lines files, 'hub:NAME', 'hub:NAME:SUBSET'"
        )
    return _files(files, Path(os.path.commonpath([p.parent for p in files])))


def _files(files: list[Path], root: Path) -> Iterator[tuple[str, str]]:
    tables = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
    for path in files:
        if path.suffix in tables:
            from datasets import load_dataset

            kind = tables[path.suffix]
            rows = load_dataset(kind, data_files=str(path), split="train", streaming=True)
            yield from _rows(rows, str(path))
        else:
            try:
                yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _hub(name: str, subset: str | None = None) -> Iterator[tuple[str, str]]:
    _require_hub(f"corpus 'hub:{name}'")
    from datasets import load_dataset

    return _rows(load_dataset(name, subset, split="train", streaming=True), f"hub:{name}")


def _rows(rows, source: str) -> Iterator[tuple[str, str]]:
    for row in rows:
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{source} needs a column 'text' of strings; it has {', '.join(row)}")
        yield row["text"], row["text"]


def _encoder(name: str):
    """A function from a list of texts to a list of 1-D token arrays, and the number of ids."""
    if name == "bytes":
        return lambda texts: [np.frombuffer(text.encode() + END, np.uint8) for text in texts], 256
    tokenizer = _tokenizer(name)
    dtype = np.min_scalar_type(len(tokenizer) - 1)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def encode(texts: list[str]) -> list[np.ndarray]:
        rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row + end, dtype) for row in rows]

    return encode, len(tokenizer)


@functools.cache
def _tokenizer(name: str):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        if Path(name).exists():
            raise
        _require_hub(f"tokenizer {name!r}")
    return AutoTokenizer.from_pretrained(name)


def _require_hub(wanted: str) -> None:
    """Refuse at once when the hub cannot be reached; its client would retry for half a minute."""
    if reason := hub.unreachable():
        raise ConnectionError(
            f"{wanted} needs the Hugging Face hub, but {reason}; without a network use "
            "corpus='stdlib' with tokenizer='bytes' (the default), or local files"
        )

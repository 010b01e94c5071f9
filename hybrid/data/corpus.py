"""Text as one long array of token ids: the standard library, local files, or a hub data set."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from hybrid.config import TaskConfig
from hybrid.config.files import cache
from hybrid.data import hub, shards
from hybrid.data.shards import Text
from hybrid.data.suite import MARKS

SHARD_TOKENS = 50_000_000
"""Tokens held in memory, at most, but for the documents that reach it; a text of more lies on disk."""
VALIDATION_PERCENT = 10
"""Share of the documents held out for validation, chosen by a hash of their name. A task that wants n
times `SHARD_TOKENS` holds out one n-th of it, so that the validation text grows no further."""
END = b"\0"
"""Ends a document of a byte corpus; source text never holds it."""
OUTSIDE = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3"}
    | {"test", "tests", "tkinter", "turtledemo", "encodings", "pydoc_data"}
)
"""Folders of the standard library that the corpus leaves out: what is not part of it, what Linux
distributions ship separately (so that the same Python version gives the same text), and generated
tables (encodings, pydoc_data), which are not written by people."""
TABLES = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""Kind of the files whose rows are documents."""

Reader = Callable[[], Iterator[tuple[str, str]]]


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


def end_token(task: TaskConfig) -> int | None:
    """Id that ends a document; None where the tokenizer has none."""
    return END[0] if task.tokenizer == "bytes" else _tokenizer(task.tokenizer).eos_token_id


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
    `VALIDATION_PERCENT` of the tokens are held out instead (or the n-th part of it, as there).

    A task that wants more than `SHARD_TOKENS` gets memory-mapped arrays of files that are written once
    (`hybrid.data.shards`), below $HYBRID_CACHE or else `_build` of the checkout. A warning tells when the
    text ends before it has as many tokens.

    Raises ``FileNotFoundError`` for a path or glob without files, ``ConnectionError`` at once when a
    hub is named but cannot be reached, ``ValueError`` for a file or data set without text and for
    tokens that the disk has no room for.
    """
    return _load(task.corpus, task.tokenizer, task.corpus_tokens)


@functools.cache
def _load(source: str, tokenizer: str, wanted: int) -> Corpus:
    vocab = _encoder(tokenizer)[1]
    parts = partial(_shards, source, _readers(source), tokenizer, wanted)
    if wanted <= SHARD_TOKENS:
        return _corpus(next(parts()), vocab, wanted)
    text, fingerprint = shards.stored(
        _folder(source, tokenizer, wanted),
        np.min_scalar_type(vocab - 1),
        wanted,
        parts,
        lambda text: _corpus(text, vocab, wanted).fingerprint,
    )
    if (size := len(text.train) + len(text.valid)) < wanted:
        warnings.warn(f"corpus {source!r} ends after {size} of corpus_tokens={wanted}", stacklevel=3)
    return _corpus(text, vocab, wanted, fingerprint)


def _corpus(text: Text, vocab: int, wanted: int, fingerprint: str | None = None) -> Corpus:
    train, valid = text.train, text.valid
    if len(train) and len(valid):
        bytes_per_token = text.valid_bytes / len(valid)
    else:
        everything, base = train if len(train) else valid, _validation_base(wanted)
        train, valid = np.split(everything, [len(everything) * (base - VALIDATION_PERCENT) // base])
        bytes_per_token = (text.train_bytes + text.valid_bytes) / len(everything)
    digest = hashlib.sha256(f"{vocab} {len(train)} ".encode())
    for part in (train, valid):
        if fingerprint is None:
            digest.update(part)
        part.setflags(write=False)
    return Corpus(train, valid, vocab, bytes_per_token, fingerprint or digest.hexdigest()[:16])


def _validation_base(wanted: int) -> int:
    """Of so many documents, `VALIDATION_PERCENT` are held out."""
    return 100 * max(1, wanted // SHARD_TOKENS)


def _shards(
    source: str,
    readers: list[Reader],
    tokenizer: str,
    wanted: int,
    done: int = 0,
    position: tuple[int, int] = (0, 0),
) -> Iterator[Text]:
    """What follows the first ``done`` tokens, in pieces of `SHARD_TOKENS`, up to ``wanted`` in all."""
    documents = _documents(readers, position)
    encode, vocab = _encoder(tokenizer)
    dtype = np.min_scalar_type(vocab - 1)
    base = _validation_base(wanted)
    while done < wanted:
        sides = {"train": [np.empty(0, dtype)], "valid": [np.empty(0, dtype)]}
        text_bytes = {"train": 0, "valid": 0}
        size, most = 0, min(SHARD_TOKENS, wanted - done)
        while size < most and (batch := list(islice(documents, 64))):
            encoded = encode([text for _, _, text in batch])
            for (_, name, text), tokens in zip(batch, encoded, strict=True):
                side = "valid" if _hash(name) % base < VALIDATION_PERCENT else "train"
                sides[side].append(tokens)
                text_bytes[side] += len(text.encode()) + (len(END) if tokenizer == "bytes" else 0)
                size += len(tokens)
            position = batch[-1][0]
        if not size:
            if not done:
                raise ValueError(f"corpus {source!r} holds no text")
            return
        done += size
        yield Text(*map(np.concatenate, sides.values()), *text_bytes.values(), position)


def _hash(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def _folder(source: str, tokenizer: str, wanted: int) -> Path:
    """Where the tokens of a big text lie; named by what they depend on, of files the size and time too."""
    folder = Path(tokenizer)
    files = [] if source.startswith("hub:") else _paths(source)
    files = files + sorted(folder.iterdir()) if folder.is_dir() else files
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = hashlib.sha256(repr((source, tokenizer, wanted, known)).encode()).hexdigest()[:12]
    return cache() / "corpora" / name


def _documents(
    readers: list[Reader], position: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], str, str]]:
    """Position after it, name and text of every document from a position on, in a fixed order."""
    first, skipped = position
    for file, read in enumerate(readers[first:], first):
        for count, (name, text) in enumerate(islice(read(), skipped, None), skipped + 1):
            yield (file, count), name, text
        skipped = 0


def _readers(source: str) -> list[Reader]:
    """A function for each file of a corpus, in order, that yields the name and text of its documents."""
    if source.startswith("hub:"):
        _, name, *subset = source.split(":")
        _require_hub(f"corpus 'hub:{name}'")
        from datasets import load_dataset

        rows = load_dataset(name, *(subset or [None]), split="train", streaming=True)
        count = rows.num_shards
        return [partial(_rows, rows.shard(count, index), f"hub:{name}") for index in range(count)]
    paths = _paths(source)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return [partial(_file, path, root) for path in paths]


def _paths(source: str) -> list[Path]:
    name, _, pattern = source.partition(":")
    if name == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        inside = (
            p for p in root.glob(pattern or "**/*.py") if OUTSIDE.isdisjoint(p.relative_to(root).parts[:-1])
        )
        # _sysconfigdata and sitecustomize describe one machine, not the language.
        files = sorted(p for p in inside if not p.name.startswith(("_sysconfigdata", "sitecustomize")))
        if not files:
            raise FileNotFoundError(
                f"this Python has no library sources {pattern or '**/*.py'} in {root}; "
                "name a text file instead"
            )
        return files
    path = Path(source).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"corpus {source!r} is a folder; name its files, as in {source}/**/*.txt")
    files = [path] if path.is_file() else []
    files = files or sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise FileNotFoundError(
            f"no file matches corpus {source!r}; allowed: 'stdlib', 'stdlib:GLOB', a path or glob of text, "
            ".parquet or JSON-lines files, 'hub:NAME', 'hub:NAME:SUBSET'"
        )
    return files


def _file(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    if kind := TABLES.get(path.suffix):
        from datasets import load_dataset

        return _rows(load_dataset(kind, data_files=str(path), split="train", streaming=True), str(path))
    try:
        return iter([(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


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

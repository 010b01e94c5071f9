"""Batches of a task: text windows and recall sequences in one stream, with exact resume."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data import floors, suite
from hybrid.data.corpus import SHARD_TOKENS, Corpus, end_token, load_corpus, pieces, text_vocab, vocab_size
from hybrid.data.counters import counter_bits
from hybrid.data.recall import IGNORED, mqar
from hybrid.data.words import repeated_words

__all__ = ["TaskData", "TrainBatches", "stream", "vocab_size"]

PURPOSES = {"train": 0, "eval": 1, "select": 2}
PIECE = 2**24
"""Tokens that are searched for ends of documents at a time."""
EVAL_SEED = 20_250_701
"""Seeds every evaluation set, so that all models answer the same questions."""


def stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """An independent random stream for every (seed, purpose, index), the purpose one of `PURPOSES`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose], *index)))


class TaskData(LightningDataModule):
    """The text and recall sequences of a `TaskConfig`, for one run.

    Batches are dicts of ``input_ids`` [B, T] and ``labels`` [B, T] (int64; the label is the target *of*
    its position, -100 where there is none) and ``is_recall`` [B] (bool). Text ids are the corpus's;
    recall ids come after them.

    Evaluation batches depend on the task and on ``asked`` alone, never on the seed of the run: "eval" are
    the questions and windows of text that results are measured on, "select" are others of the same kinds
    (windows as far as the text holds others), for whoever chooses something by measuring.

    Raises ``ValueError`` naming an unknown task of the suite.
    """

    def __init__(self, task: TaskConfig, train: TrainConfig, seed: int, asked: str = "eval") -> None:
        super().__init__()
        if asked not in ("eval", "select"):
            raise ValueError(f"unknown asked {asked!r}; allowed: eval, select")
        self.suite = suite.chosen(task.suite_tasks) if task.has_suite else {}
        self.task, self.train, self.seed, self.asked = task, train, seed, asked
        self.rows = train.batch_size // train.accumulate

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The text. Raises ``ValueError`` when a side is shorter than one window."""
        corpus = load_corpus(self.task)
        for side in ("train", "valid"):
            if (size := len(getattr(corpus, side))) <= self.task.seq_len:
                raise ValueError(
                    f"seq_len must be below the {size} {side} tokens of corpus {self.task.corpus!r}; "
                    f"got {self.task.seq_len}"
                )
        return corpus

    @property
    def counter_bits(self) -> float | None:
        """Bits per byte of the best counter of 1 to 6 bytes of context (`hybrid.data.counters`), from the
        training text, on the held-out text. None where no text is trained on, its tokens are no bytes, or it
        is too long for the memory.
        """
        task = self.task
        if task.recall_fraction == 1 or task.tokenizer != "bytes" or task.corpus_tokens > SHARD_TOKENS:
            return None
        return _best_counter(self.corpus)

    def train_dataloader(self) -> TrainBatches:
        """The training batches of this device, in order.

        Raises ``ValueError`` when the devices cannot share the rows of a step evenly.
        """
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.rows % world:
            raise ValueError(
                f"batch_size / accumulate = {self.rows} rows must divide among the devices; got {world}"
            )
        return TrainBatches(self, self.train.steps * self.train.accumulate, rank, world)

    def train_batch(self, index: int, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
        """Training batch ``index`` of device ``rank`` of ``world``: its share of the rows of the step.

        The step's rows are a pure function of the spec, so a run is the same run on any number of
        devices and with any `accumulate`. Shares are taken in turn, each with its part of the recall.
        """
        step, part = divmod(index, self.train.accumulate)
        share, shares = part * world + rank, self.train.accumulate * world
        return {name: rows[share::shares] for name, rows in self._step(step).items()}

    def _step(self, step: int) -> dict[str, torch.Tensor]:
        """All rows of an optimiser step, recall first; in a lesson, more and shorter ones.

        Where `recall_fraction` is no whole number of rows, the step draws whether it rounds up or down; each
        recall row draws its load, or its task."""
        task, rows = self.task, self.train.batch_size
        if task.lesson is not None and step < round(task.lesson.share * self.train.steps):
            task = task.first()
            rows *= self.task.seq_len // task.seq_len
        rng = stream(self.seed, "train", step)
        recall_rows = int(task.recall_fraction * rows + rng.random())
        suite_rows = int(task.suite_fraction * recall_rows + rng.random()) if task.has_suite else 0
        parts = []
        if suite_rows < recall_rows:
            loads = rng.choice(task.pairs, recall_rows - suite_rows)
            inputs, labels, _ = mqar(
                rng, len(loads), task.seq_len, loads, task.recall_vocab, queries=task.queries
            )
            parts.append(self._recall(inputs, labels))
        if suite_rows:
            names = rng.choice(list(self.suite), suite_rows)
            symbols = self._symbols(self.corpus.train)
            parts.append(
                self._suite([suite.sample(rng, symbols, name, task.seq_len, many=True) for name in names])
            )
        if recall_rows < rows:
            begins, held = self._held
            drawn = rng.integers(held[-1], size=rows - recall_rows)
            span = np.searchsorted(held, drawn, side="right")
            starts = begins[span] + drawn - np.append(0, held)[span]
            parts.append(self._text(self.corpus.train, starts, task.seq_len))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @functools.cached_property
    def _held(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each span of the training text begins that a window must not leave, and how many windows lie
        in it and in those before: the whole text, or every document.

        Raises ``ValueError`` when the tokenizer marks no end of a document, or no document holds a window.
        """
        task, text = self.task, self.corpus.train
        ends = np.array([len(text)])
        if task.packing == "document":
            if (mark := end_token(task)) is None:
                raise ValueError(
                    f"packing 'document' needs a tokenizer with an end mark; {task.tokenizer!r} has none"
                )
            # Piece by piece, since a text may be larger than the memory.
            offsets = range(0, len(text), PIECE)
            marked = [at + 1 + np.flatnonzero(text[at : at + PIECE] == mark) for at in offsets]
            ends = np.union1d(np.concatenate(marked), ends)
        begins = np.append(0, ends[:-1])
        held = np.cumsum(np.maximum(ends - begins - task.seq_len, 0))
        if not held[-1]:
            raise ValueError(
                f"packing 'document' needs a document of more than seq_len tokens; got {task.seq_len}, and "
                f"the longest has {(ends - begins).max()}"
            )
        return begins, held

    def val_text_batches(self, sequences: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """Windows of the validation text that share no target, spread evenly over it.

        As many as ``sequences`` (None: `eval_sequences`), or as the text holds.
        """
        length = self.task.seq_len
        held = (len(self.corpus.valid) - 1) // length
        count = min(sequences or self.task.eval_sequences, held)
        for chosen in _chunks(self._spread(count, held) * length, self.rows):
            yield self._text(self.corpus.valid, chosen, length)

    def last_word_batches(self, sequences: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """Windows of the validation text, spread evenly over it, that end with a word they held before
        (`hybrid.data.words`); labels are those of the last word's tokens alone.

        As many as ``sequences`` (None: `eval_sequences`), or as the text holds.
        """
        size = self.task.seq_len + 1
        words = self._last_words
        count = min(sequences or self.task.eval_sequences, len(words))
        for chosen in _chunks(self._spread(count, len(words)), self.rows):
            starts, ends = words[chosen].T
            windows = self.corpus.valid[ends[:, None] + np.arange(-size, 0)].astype(np.int64)
            last = np.arange(-size, 0) >= (starts - ends)[:, None]
            labels = np.where(last, windows, IGNORED)
            yield _batch(windows[:, :-1], labels[:, 1:], recall=False)

    def _spread(self, count: int, total: int) -> np.ndarray:
        """That many of 0..total-1 at even distances; for choosing, those half-way between."""
        return (2 * np.arange(count) + (self.asked == "select")) * total // max(1, 2 * count)

    @functools.cached_property
    def _last_words(self) -> np.ndarray:
        size = self.task.seq_len + 1
        words = repeated_words(self.corpus.valid, pieces(self.task), size)
        return words[words[:, 1] >= size]

    def recall_eval_batches(
        self, length: int, pairs: int, sequences: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The first ``sequences`` (None: `eval_sequences`) questions of one length and load; of lengths above
        the training length about as many tokens.

        These batches also hold ``distance`` [B, T], the tokens between a query and its pair.
        Raises ``ValueError`` when the length cannot hold the pairs.
        """
        task = self.task
        rng = stream(EVAL_SEED, self.asked, length, pairs)
        asked = sequences or task.eval_sequences
        made = mqar(rng, task.eval_sequences, length, pairs, task.recall_vocab)
        for rows in _chunks(np.arange(self._as_many_tokens(asked, length)), self.rows):
            inputs, labels, distance = (part[rows] for part in made)
            yield self._recall(inputs, labels) | {"distance": torch.from_numpy(distance)}

    def suite_eval_batches(
        self, name: str, length: int, sequences: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Questions of one task of the suite, one a sequence, at one length.

        The training length gets ``sequences`` (None: `eval_sequences`), a longer one about as many tokens.
        These batches also hold ``skipped`` [B, rules], the accuracy on each row of the rules that skip the
        task (`hybrid.data.floors`), chance first, and ``size`` [B], the symbols of one value of an answer.
        Raises ``ValueError`` naming an unknown task, or when the length is too short for it.
        """
        rng = stream(EVAL_SEED, self.asked, length, *name.encode())
        left = self._as_many_tokens(sequences or self.task.eval_sequences, length)
        while left > 0:
            size = min(left, self.rows)
            left -= size
            symbols = self._symbols(self.corpus.valid)
            samples = [suite.sample(rng, symbols, name, length) for _ in range(size)]
            skipped = [floors.skipped(symbols, name, sample) for sample in samples]
            yield self._suite(samples) | {
                "skipped": torch.tensor(skipped, dtype=torch.float64),
                "size": torch.tensor([sample.size for sample in samples]),
            }

    def _as_many_tokens(self, sequences: int, length: int) -> int:
        """How many sequences of a length above the training length hold as many tokens; at least one."""
        return max(1, sequences * self.task.seq_len // max(self.task.seq_len, length))

    def _symbols(self, text: np.ndarray) -> suite.Symbols:
        return suite.Symbols(text, text_vocab(self.task), self.task.recall_vocab)

    def _suite(self, samples: Sequence[suite.Sample]) -> dict[str, torch.Tensor]:
        inputs, labels, _ = zip(*map(suite.sequence, samples), strict=True)
        return _batch(np.array(inputs), np.array(labels), recall=True)

    def _text(self, tokens: np.ndarray, starts: np.ndarray, length: int) -> dict[str, torch.Tensor]:
        windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        return _batch(windows[:, :-1], windows[:, 1:], recall=False)

    def _recall(self, inputs: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
        first = text_vocab(self.task)
        return _batch(inputs + first, np.where(labels == IGNORED, IGNORED, labels + first), recall=True)


class TrainBatches:
    """The training batches of one device in order; counts those handed out, so that it can resume.

    Lightning stores `state_dict` in the checkpoint's fit loop and gives it back on resume. The length
    is known, so that Lightning fetches no batch ahead of the count.
    """

    def __init__(self, data: TaskData, length: int, rank: int, world: int) -> None:
        self.data, self.length, self.rank, self.world = data, length, rank, world
        self.consumed = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while self.consumed < self.length:
            self.consumed += 1
            yield self.data.train_batch(self.consumed - 1, self.rank, self.world)

    def state_dict(self) -> dict[str, int]:
        """The number of batches handed out."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches already handed out."""
        self.consumed = state["consumed"]


@functools.cache
def _best_counter(corpus: Corpus) -> float:
    # Runs of one process share their corpus (`load_corpus`), and counting takes seconds.
    return min(counter_bits(corpus.train, corpus.valid).values())


def _batch(inputs: np.ndarray, labels: np.ndarray, recall: bool) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.from_numpy(np.ascontiguousarray(inputs)),
        "labels": torch.from_numpy(np.ascontiguousarray(labels)),
        "is_recall": torch.full((len(inputs),), recall),
    }


def _chunks(items: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (items[start : start + size] for start in range(0, len(items), size))

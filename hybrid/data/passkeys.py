"""Several passkeys in one text, all asked at its end: the data that retrieval gates are learnt on.

Source: FlashMorph, 2606.30562, section on synthetic data, known at second hand; it is the task of
DuoAttention (2410.10819, code of record mit-han-lab/duo-attention), whose ten passkeys of 32 words
stand in a book. Here a key and each part of a passkey is one symbol, as in `hybrid.data.suite`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hybrid.config import ModelConfig, TaskConfig
from hybrid.data import suite
from hybrid.data.corpus import text_vocab
from hybrid.data.module import TaskData, stream

EVAL_SEED = 20_260_629
"""Seeds the questions of every measurement, so that all models answer the same ones."""


@dataclass(frozen=True)
class Passkeys:
    """How many passkeys, how long, in texts of which lengths.

    All K keys are asked, and each symbol is read with the right ones before it. So a rule that reads no key
    gets far: of n passkeys that are left it names one in n, and the first symbol of a passkey tells the
    others. That makes ``(1 + 1/2 + ... + 1/K) / K`` of the first symbols and nearly all others.
    """

    keys: int = 4
    """Passkeys in a text; all of them are asked, in random order."""
    size: int = 2
    """Symbols of a passkey."""
    lengths: tuple[int, ...] = (64,)
    """Lengths of the texts that gates are learnt on, in tokens, questions included; each batch draws one."""
    eval_lengths: tuple[int, ...] = (64, 128, 256)
    """Lengths at which models are measured; the first is home."""
    eval_sequences: int = 64
    """Texts behind each measured number."""

    def __post_init__(self) -> None:
        for name in ("keys", "size", "eval_sequences"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
        # Question, key and answer at the end; key and passkey in the text; and as much text again.
        least = 2 * self.keys * (3 + 2 * self.size)
        for name in ("lengths", "eval_lengths"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values:
                raise ValueError(
                    f"{name} must hold at least one length: without passkeys no gate can be learnt"
                )
            if short := [v for v in values if type(v) is not int or v < least]:
                raise ValueError(
                    f"{self.keys} passkeys of {self.size} symbols need {name} of at least {least}; "
                    f"got {short[0]!r}"
                )

    def check(self, model: ModelConfig, task: TaskConfig) -> None:
        """Raises ``ValueError`` when the task has too few symbols for these passkeys, or the model no
        embedding for the mark that asks."""
        half = task.recall_vocab // 2
        if self.keys > half:
            raise ValueError(
                f"{self.keys} passkeys of {self.size} symbols need a recall_vocab of at least "
                f"{2 * self.keys}; got {task.recall_vocab}"
            )
        needed = text_vocab(task) + task.recall_vocab + 1
        if model.vocab_size < needed:
            raise ValueError(
                f"passkeys need a model with a vocab_size of at least {needed}; got {model.vocab_size}"
            )

    def train_batch(self, data: TaskData, step: int) -> dict[str, torch.Tensor]:
        """Batch ``step`` of the texts that gates are learnt on, made of the training text of ``data``."""
        rng, length = self._drawn(data, step)
        return self._batch(rng, data, data.corpus.train, length, data.rows)

    def length(self, data: TaskData, step: int) -> int:
        """Tokens of a text of batch ``step``."""
        return self._drawn(data, step)[1]

    def _drawn(self, data: TaskData, step: int) -> tuple[np.random.Generator, int]:
        rng = stream(data.seed, "train", step, *b"passkeys")
        return rng, int(rng.choice(self.lengths))

    def eval_batches(
        self, data: TaskData, length: int, sequences: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Texts of one length made of the validation text, the same for every model and seed; others where
        the data is ``asked`` for choosing."""
        rng = stream(EVAL_SEED, data.asked, length, self.keys, self.size)
        left = self.eval_sequences if sequences is None else sequences
        while left > 0:
            size = min(left, data.rows)
            left -= size
            yield self._batch(rng, data, data.corpus.valid, length, size)

    def _batch(
        self, rng: np.random.Generator, data: TaskData, text: np.ndarray, length: int, rows: int
    ) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``labels`` [rows, length], and ``distance`` [rows, length]: tokens from a
        passkey's symbol in the text to the position that has it as its label, 0 elsewhere."""
        symbols = suite.Symbols(text, text_vocab(data.task), data.task.recall_vocab)
        made = []
        for _ in range(rows):
            sample = suite.needles(
                rng, symbols, length, keys=self.keys, queries=self.keys, value_size=self.size
            )
            inputs, labels, _ = suite.sequence(sample)
            made.append((inputs, labels, _distances(sample)))
        ids, labels, distance = (torch.from_numpy(np.array(part)) for part in zip(*made, strict=True))
        return {"input_ids": ids, "labels": labels, "distance": distance}


def _distances(sample: suite.Sample) -> list[int]:
    """Passkeys may share symbols, so each is found by its key, which stands in the text once."""
    distances = [0] * len(sample.context)
    for (*mark, key), passkey in sample.turns:
        asked = len(distances) + len(mark)
        here = sample.context.index(key) + 1
        distances += [0] * len(mark) + [asked - here] * len(passkey) + [0]
    return distances

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

from hybrid.data import suite
from hybrid.data.corpus import text_vocab
from hybrid.data.module import TaskData, stream
from hybrid.data.recall import IGNORED

EVAL_SEED = 20_260_629
"""Seeds the questions of every measurement, so that all models answer the same ones."""


@dataclass(frozen=True)
class Passkeys:
    """How many passkeys, how long, in texts of which lengths."""

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

    def train_batch(self, data: TaskData, step: int) -> dict[str, torch.Tensor]:
        """Batch ``step`` of the texts that gates are learnt on, made of the training text of ``data``."""
        rng = stream(data.seed, "train", step, *b"passkeys")
        length = int(rng.choice(self.lengths))
        return self._batch(rng, data, data.corpus.train, length, data.rows)

    def eval_batches(
        self, data: TaskData, length: int, sequences: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Texts of one length made of the validation text, the same for every model and seed."""
        rng = stream(EVAL_SEED, "eval", length, self.keys, self.size)
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
            made.append((inputs, labels, _distances(sample.context, inputs, labels)))
        ids, labels, distance = (torch.from_numpy(np.array(part)) for part in zip(*made, strict=True))
        return {"input_ids": ids, "labels": labels, "distance": distance}


def _distances(context: list[int], inputs: list[int], labels: list[int]) -> list[int]:
    """Values are all different, so the first place of a label in the context is that of its passkey."""
    return [0 if y == IGNORED else t - context.index(y) for t, y in enumerate(labels)]

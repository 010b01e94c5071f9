"""A counter of bytes: the text model that a trained one has to beat before its loss says anything."""

from __future__ import annotations

import numpy as np

BITS = 8
LONGEST = 7
"""Bytes of a context, at most: with the byte after it they fill a word of 64 bits."""


def counter_bits(train: np.ndarray, valid: np.ndarray, orders: int = 6) -> dict[int, float]:
    """Bits per byte on held-out text of counters of 1 to `orders` bytes of context.

    The probability of a byte x after a context c of n bytes, with the counts of the training text, is
    ``(count(c x) + kinds(c) p(x after the last n - 1 bytes of c)) / (count(c) + kinds(c))``, where kinds(c)
    is how many different bytes followed c; after no byte at all, its frequency, with one added to each of the
    256 counts. A context that was never seen leaves the shorter one as it is.

    Source: Witten and Bell, IEEE Transactions on Information Theory 37(4), 1991, method C, interpolated.

    Args:
        train, valid: ids below 256, [N].
        orders: longest context, in bytes.

    Raises ``ValueError`` for ids that are no bytes, or a context longer than `LONGEST` or than the text.
    """
    if not 1 <= orders <= LONGEST:
        raise ValueError(f"orders must be from 1 to {LONGEST} bytes of context; got {orders}")
    for name, text in (("train", train), ("valid", valid)):
        if len(text) <= orders:
            raise ValueError(f"{name} must hold more than {orders} bytes; got {len(text)}")
        if text.min() < 0 or text.max() >= 1 << BITS:
            raise ValueError(f"{name} must hold ids of bytes; got {text.min()} to {text.max()}")
    # Every order is measured on the same bytes, those with a whole context before them.
    counts = np.bincount(train, minlength=1 << BITS) + 1
    share = counts[valid[orders:]] / counts.sum()
    bits = {}
    for order in range(1, orders + 1):
        grams, times = np.unique(_packed(train, order + 1), return_counts=True)
        contexts, first = np.unique(grams >> BITS, return_index=True)
        kinds, seen = np.diff(np.append(first, len(grams))), np.add.reduceat(times, first)
        asked = _packed(valid, order + 1)[orders - order :]
        hits, known = _found(grams, times, asked), _found(contexts, seen, asked >> BITS)
        new = _found(contexts, kinds, asked >> BITS)
        share = np.where(known > 0, (hits + new * share) / np.maximum(known + new, 1), share)
        bits[order] = float(-np.log2(share).mean())
    return bits


def _packed(text: np.ndarray, size: int) -> np.ndarray:
    """[N - size + 1]: every run of `size` bytes as one number, its first byte the highest."""
    words = np.zeros(len(text) - size + 1, dtype=np.uint64)
    for offset in range(size):
        words = words << np.uint64(BITS) | text[offset : offset + len(words)].astype(np.uint64)
    return words


def _found(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key that is asked, 0 where there is none; keys are sorted."""
    at = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)

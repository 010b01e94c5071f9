"""Multi-query associative recall: which value was written beside this key?

Task: Arora et al., "Zoology" (arXiv 2312.04927); the code of record is ``multiquery_ar`` in
``zoology/data/multiquery_ar.py`` of HazyResearch/zoology.
"""

from __future__ import annotations

import numpy as np

IGNORED = -100
"""Label of a position that is not a query; PyTorch's cross-entropy leaves it out."""


def mqar(
    rng: np.random.Generator,
    sequences: int,
    length: int,
    pairs: int | np.ndarray,
    vocab: int,
    alpha: float = 0.01,
    queries: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences of key-value pairs followed by queries: ``(inputs, labels, distance)``, int64.

    All three are ``[sequences, length]``. A sequence with n pairs starts with
    ``key value key value ...`` (2n tokens, keys all different, values all different). The rest is
    filler with queries at even offsets: a query is one of the keys, and its label is the key's value,
    *at the query's own position*. Every other label is `IGNORED`. ``distance`` is the number of tokens
    from a key in the pairs to its query, and 0 where there is no query.

    Gaps from the pairs to the queries, counted in slots of two tokens i = 1, 2, ..., are drawn
    without replacement with p(i) proportional to alpha i^(alpha - 1): near 0 they are nearly uniform
    in the logarithm of i, at 1 uniform.

    Keys are the ids below ``vocab // 2``, values the others. Two details differ from the code of
    record, whose vocabulary is 8,192 and must exceed the length. Id 0 is a key like any
    other, since no slot is left empty. Filler is random, but never a key of its own sequence, so that a
    key stands in the query region only where it is asked; with 8,192 ids chance alone makes it nearly so.

    Parameters
    ----------
    pairs: number of pairs n, one for all sequences or an array ``[sequences]``.
    vocab: number of recall ids, keys and values together.
    queries: None asks each key once, as published. A number asks that many times a sequence, each
        time for a key drawn uniformly with replacement, and writes the value after every query:
        filler there would contradict the pair when the key is asked again.

    Raises ``ValueError`` when the keys or the length cannot hold the pairs and their queries.

    One sequence with two pairs. Keys are 0 to 3, values 4 to 7. The pairs (3, 5) and (0, 6) come
    first; 3 is asked at position 4 and 0 at position 8, four and six tokens after they were written:

    >>> inputs, labels, distance = mqar(np.random.default_rng(4), 1, length=10, pairs=2, vocab=8)
    >>> print(inputs[0])
    [3 5 0 6 3 6 4 6 0 4]
    >>> print(labels[0])
    [-100 -100 -100 -100    5 -100 -100 -100    6 -100]
    >>> print(distance[0])
    [0 0 0 0 4 0 0 0 6 0]
    """
    half = vocab // 2
    loads = np.broadcast_to(np.asarray(pairs, dtype=np.int64), (sequences,))
    asks = loads if queries is None else np.full_like(loads, queries)
    _check(length, loads, half, alpha, queries)

    ids = np.arange(vocab)
    keys = rng.permuted(np.broadcast_to(ids[:half], (sequences, half)), axis=1)
    values = rng.permuted(np.broadcast_to(ids[half:], (sequences, vocab - half)), axis=1)
    symbols = np.concatenate([keys, values], axis=1)

    filler = rng.integers(loads[:, None], vocab, size=(sequences, length))
    inputs = np.take_along_axis(symbols, filler, axis=1)
    row, pair = np.nonzero(np.arange(loads.max()) < loads[:, None])
    inputs[row, 2 * pair] = symbols[row, pair]
    inputs[row, 2 * pair + 1] = symbols[row, half + pair]

    # The largest of log p(i) + Gumbel noise are exactly a draw without replacement, in drawing order.
    gaps = np.arange(1, length // 2 + 1)
    score = (alpha - 1) * np.log(gaps) + rng.gumbel(size=(sequences, len(gaps)))
    score[gaps > length // 2 - loads[:, None]] = -np.inf
    drawn = np.argsort(-score, axis=1)

    row, ask = np.nonzero(np.arange(asks.max()) < asks[:, None])
    asked = ask if queries is None else rng.integers(loads[row])
    position = 2 * (loads[row] + drawn[row, ask])
    labels = np.full_like(inputs, IGNORED)
    distance = np.zeros_like(inputs)
    inputs[row, position] = symbols[row, asked]
    if queries is not None:
        inputs[row, position + 1] = symbols[row, half + asked]
    labels[row, position] = symbols[row, half + asked]
    distance[row, position] = position - 2 * asked
    return inputs, labels, distance


def _check(length: int, loads: np.ndarray, keys: int, alpha: float, queries: int | None) -> None:
    least, most = loads.min(), loads.max()
    if least < 1:
        raise ValueError(f"pairs must be at least 1; got {least}")
    if most > keys:
        raise ValueError(f"pairs must be at most {keys}, the number of keys (vocab // 2); got {most}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive; got {alpha!r}")
    if queries is None and most > length // 4:
        raise ValueError(f"pairs must be at most {length // 4}, a quarter of length {length}; got {most}")
    if queries is not None and not 1 <= queries <= length // 2 - most:
        raise ValueError(
            f"queries must be between 1 and {length // 2 - most} (every second token of length {length} "
            f"after {most} pairs); got {queries}"
        )

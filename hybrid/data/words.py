"""The last word of a passage, as LAMBADA asks for it, from any tokenised text.

LAMBADA (Paperno et al., arXiv 1606.06031) asks for the last word of passages chosen by people such that
the word can be guessed from the whole passage and not from its last sentence. No people chose here:
a passage counts where its last word has stood in it before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_LETTERS = 4
"""Letters of a word that is asked for."""


def repeated_words(tokens: np.ndarray, pieces: Sequence[str], window: int) -> np.ndarray:
    """Words that stood shortly before as well: ``[words, 2]``, where each starts and ends (exclusive).

    A word is a run of tokens of letters, digits and underscores; a token that begins with a space
    begins a word. It counts if it has `LEAST_LETTERS` letters or more and all of an earlier
    occurrence lies in the ``window`` tokens that end with it.

    Args:
        tokens: 1-D ids.
        pieces: text of every id.
        window: tokens.

    >>> text = "spam and eggs, more spam and ham"
    >>> found = repeated_words(np.frombuffer(text.encode(), np.uint8), [chr(i) for i in range(256)], 40)
    >>> [text[start:end] for start, end in found]
    ['spam']
    """
    bare = [piece.removeprefix(" ") for piece in pieces]
    letters = np.array([len(b) if b and all(c.isalnum() or c == "_" for c in b) else 0 for b in bare])
    opens = np.array([piece.startswith(" ") for piece in pieces])
    inside = letters[tokens] > 0
    begins = inside & (opens[tokens] | ~np.concatenate([[False], inside[:-1]]))
    ends = inside & np.concatenate([begins[1:] | ~inside[1:], [True]])
    written = np.concatenate([[0], np.cumsum(letters[tokens])])
    seen: dict[tuple, int] = {}
    found = []
    for start, end in zip(np.flatnonzero(begins), np.flatnonzero(ends) + 1, strict=True):
        if written[end] - written[start] < LEAST_LETTERS:
            continue
        word = tuple(tokens[start:end].tolist())
        if seen.get(word, -1) >= max(0, end - window):
            found.append((start, end))
        seen[word] = start
    return np.array(found, dtype=np.int64).reshape(-1, 2)

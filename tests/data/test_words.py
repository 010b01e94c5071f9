"""Last words: found by an independent reading of the text with regular expressions."""

import doctest
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data import words
from hybrid.data.module import TaskData
from hybrid.data.words import repeated_words

BYTES = [chr(byte) for byte in range(256)]


def by_regex(text, window):
    found = []
    for match in re.finditer(r"\w+", text, re.ASCII):
        start, end = match.span()
        passage = text[max(0, end - window) : start]
        # A word cut by the start of the window is no earlier occurrence.
        cut = max(0, end - window)
        whole = cut == 0 or not re.match(r"\w", text[cut - 1], re.ASCII)
        earlier = [m.start() for m in re.finditer(r"\w+", passage, re.ASCII) if m.group() == match.group()]
        if not whole:
            earlier = [place for place in earlier if place > 0]
        if end - start >= 4 and earlier:
            found.append((start, end))
    return found


@given(st.text("ab_ .1\n", max_size=200), st.integers(1, 80))
def test_agrees_with_regular_expressions(text, window):
    tokens = np.frombuffer(text.encode(), np.uint8)
    assert [tuple(word) for word in repeated_words(tokens, BYTES, window)] == by_regex(text, window)


def test_a_token_with_a_space_begins_a_word():
    pieces = [" spam", "mer", ",", "spam", " "]
    found = repeated_words(np.array([0, 1, 0, 1, 2, 3, 1, 4, 3, 1]), pieces, 10)
    assert found.tolist() == [[2, 4], [8, 10]]


def test_docstring():
    assert doctest.testmod(words).attempted and not doctest.testmod(words).failed


@pytest.mark.parametrize("length", [32, 128])
def test_passages_end_with_a_word_they_held(length):
    task = TaskConfig(seq_len=length, pairs=(1,), eval_sequences=40)
    batches = list(TaskData(task, TrainConfig(batch_size=16, warmup=0), 0).last_word_batches())
    assert sum(len(batch["labels"]) for batch in batches) == 40
    for batch in batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            asked = labels != -100
            word = bytes(labels[asked].tolist())
            assert re.fullmatch(rb"\w{4,}", word) and asked.nonzero().flatten().diff().eq(1).all()
            assert asked[-1] and torch.equal(ids[1:][asked[:-1]], labels[:-1][asked[:-1]])
            passage = bytes(ids.tolist())[: -len(word) + 1 or None]
            assert re.search(rb"(?<!\w)" + word + rb"(?!\w)", passage)

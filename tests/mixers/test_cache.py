"""What attention keeps: any order of continuations reads as if each had its own copy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.mixers.cache import SPARE, extended, last


def new(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, length, 4, generator=generator) for _ in range(2)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=12))
@torch.no_grad()
def test_a_tree_of_texts_keeps_every_text(branches):
    """Each step continues one of the texts so far; all of them stay what they were."""
    texts = [(extended(None, *new(3, 0)), new(3, 0))]
    for seed, (which, length) in enumerate(branches, start=1):
        cache, plain = texts[which % len(texts)]
        more = new(length, seed)
        joined = [torch.cat(pair, 2) for pair in zip(plain, more, strict=True)]
        texts.append((extended(cache, *more), joined))
    for cache, (keys, values) in texts:
        assert torch.equal(cache.keys, keys) and torch.equal(cache.values, values)


@torch.no_grad()
def test_memory_is_shared_and_hardly_larger_than_needed():
    cache, moved = extended(None, *new(1000, 0)), 0
    for seed in range(200):
        before = cache.keys.data_ptr()
        cache = extended(cache, *new(1, seed))
        moved += cache.keys.data_ptr() != before
        held = cache.keys.untyped_storage().nbytes()
        assert held <= (1 + 1 / SPARE) * cache.keys.nbytes
    assert cache.keys.shape[2] == 1200 and moved <= 200 * SPARE / 1000 + 1


def test_gradients_reach_all_pieces():
    pieces = [[x.requires_grad_() for x in new(length, length)] for length in (5, 1, 2)]
    cache = None
    for piece in pieces:
        cache = extended(cache, *piece)
    (cache.keys.square().sum() + cache.values.sum()).backward()
    for k, v in pieces:
        assert torch.equal(k.grad, 2 * k) and torch.equal(v.grad, torch.ones_like(v))


def test_a_text_read_in_inference_mode_goes_on_outside():
    with torch.inference_mode():
        cache = extended(extended(None, *new(4, 0)), *new(1, 1))
    with torch.no_grad():
        after = extended(cache, *new(1, 2))
    assert torch.equal(after.keys, torch.cat([new(n, s)[0] for n, s in ((4, 0), (1, 1), (1, 2))], 2))


@pytest.mark.parametrize("count", [1, 6, 7, 9])
@torch.no_grad()
def test_the_last_tokens_do_not_keep_the_others_alive(count):
    cache = last(extended(extended(None, *new(5, 0)), *new(2, 1)), count)
    whole = torch.cat((new(5, 0)[0], new(2, 1)[0]), 2)
    assert torch.equal(cache.keys, whole[:, :, -count:])
    if count < 7:
        assert cache.keys.untyped_storage().nbytes() == cache.keys.nbytes

"""Keys and values of the tokens seen, in memory with room for the next ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPARE = 64
"""Memory that has to grow gets a 64th more tokens than it needs: tokens are then moved about 64 times
on average, however long the text, and 1.6 % of the memory is empty at most."""


class Room:
    """Memory that the caches of one text share. Each of them is its first tokens."""

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        self.keys, self.values, self.used = keys, values, used


class Cache(NamedTuple):
    """What attention keeps. The keys and values of a head lie side by side, as reading them needs."""

    keys: Tensor
    """[B, G, S, K]"""
    values: Tensor
    """[B, G, S, V]"""
    room: Room | None
    """Where they lie; None: nowhere with room for more."""


def extended(past: Cache | None, k: Tensor, v: Tensor) -> Cache:
    """A cache with more tokens; `past` stays what it is.

    The new tokens are written behind the old ones. Where another continuation of the same text has been
    written there, or gradients are needed, all of it is copied.

    Args:
        past: of the tokens before; None at a text's beginning.
        k: [B, G, T, K]; v: [B, G, T, V].
    """
    if past is None:
        return Cache(k, v, None)
    old, room = past.keys.shape[2], past.room
    size = old + k.shape[2]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, past.keys, past.values)):
        return Cache(torch.cat((past.keys, k), 2), torch.cat((past.values, v), 2), None)
    # Tensors of inference mode cannot be written to outside of it.
    outside = past.keys.is_inference() and not torch.is_inference_mode_enabled()
    if room is None or room.used != old or room.keys.shape[2] < size or outside:
        room = Room(_roomy(past.keys, size), _roomy(past.values, size), old)
    for memory, new in ((room.keys, k), (room.values, v)):
        memory[:, :, old:size] = new
    room.used = size
    return Cache(room.keys[:, :, :size], room.values[:, :, :size], room)


def last(cache: Cache, count: int) -> Cache:
    """The cache of the last tokens alone, `count` or fewer, without the memory of the others."""
    if cache.keys.shape[2] <= count:
        return cache
    return Cache(cache.keys[:, :, -count:].clone(), cache.values[:, :, -count:].clone(), None)


def _roomy(x: Tensor, size: int) -> Tensor:
    """A copy of x [B, G, S, K] with memory for `size` tokens and some more."""
    memory = x.new_empty(*x.shape[:2], size + size // SPARE, x.shape[3])
    memory[:, :, : x.shape[2]] = x
    return memory

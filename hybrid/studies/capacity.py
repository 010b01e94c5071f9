"""How many pairs a matrix state can hold: what can be proved, and what a rule does by itself on random keys.

A state of K key and V value channels answers a query q with ``S^T q``, which is linear in q. So it returns
any n values exactly only for queries that are linearly independent, of which there are at most K. The
answers of H heads, added up by an output projection, are linear in H K channels: at most H K pairs come back
exactly, and that many do if each pair is written into one head (`exact_pairs`). What a rule reaches in one
pass depends on the keys:

* orthonormal keys: adding outer products is exact, and so is the delta rule with a strength of 1;
* any others: adding returns ``v_j`` and the crosstalk ``sum_i (k_i^T k_j) v_i`` of all other pairs; the delta
  rule returns the last pair exactly, and each write disturbs those before it as far as keys overlap.

For random unit keys ``E (k_i^T k_j)^2 = 1 / K``, so that values of equal length come back with a
signal-to-noise ratio of ``K / (n - 1)`` when they are added (`signal_to_noise`).

Sources: Schlag et al., 2102.11174, section 4 (at most K associations; the delta rule); Arora et al.,
2402.18668 (what a state recalls, traded for its size). The rest follows from the lines above.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid.kernels import gated_delta, gated_outer

RULES = ("additive", "delta")


def exact_pairs(channels: int, heads: int = 1) -> int:
    """The most pairs that ``heads`` heads of ``channels`` key channels return exactly, for any values."""
    return channels * heads


def signal_to_noise(channels: int, pairs: int) -> float:
    """Mean square of a value over that of its crosstalk: ``pairs`` of random unit keys, added up."""
    return channels / (pairs - 1) if pairs > 1 else inf


def read_back(rule: str, keys: Tensor, values: Tensor, log_decay: Sequence[float] | None = None) -> Tensor:
    """Write pairs in their order with the package's kernels, then ask each of them with its own key.

    Args:
        rule: "additive", or "delta" with a strength of 1.
        keys: [B, n, H, K]; values: [B, n, H, V].
        log_decay: of every head from one pair to the next, at most 0; None is no decay.

    Returns:
        what the state after the last pair answers, [B, n, H, V].

    Raises ``ValueError`` naming an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; allowed: {', '.join(RULES)}")
    heads = keys.shape[2]
    decay = keys.new_tensor([0.0] * heads if log_decay is None else log_decay).expand(keys.shape[:3])
    if rule == "additive":
        _, state = gated_outer(keys, keys, values, decay)
    else:
        _, state = gated_delta(keys, keys, values, torch.ones_like(decay), decay)
    return torch.einsum("bnhk,bhkv->bnhv", keys, state)


def share_right(
    rule: str,
    pairs: int,
    channels: int,
    heads: int,
    symbols: int,
    log_decay: Sequence[float] | None = None,
    draws: int = 256,
    seed: int = 0,
) -> float:
    """Share of pairs that a rule returns without any training: random unit keys, a fresh one in every head,
    written one after the other into ``heads`` square states and read back as the nearest of all values.

    A value is a random unit vector in each head, one for each of ``symbols``; the pairs of a sequence have
    different values, as in the task. The nearest value is the one with the largest inner product over all
    heads, so that a common factor, such as what decays after the last pair, changes nothing.

    Args:
        rule, log_decay: as `read_back`.
        pairs: n, at most `symbols`.
        channels: K = V, of one head.
        draws: sequences.
        seed: of the draws.

    Raises ``ValueError`` for an unknown rule, or more pairs than symbols.
    """
    if pairs > symbols:
        raise ValueError(f"pairs must be at most the number of symbols, {symbols}; got {pairs}")
    random = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=random), dim=-1)

    codebook = unit(symbols, heads, channels)
    keys = unit(draws, pairs, heads, channels)
    written = torch.rand(draws, symbols, generator=random).argsort(1)[:, :pairs]
    answers = read_back(rule, keys, codebook[written], log_decay)
    nearest = torch.einsum("bnhv,shv->bns", answers, codebook).argmax(-1)
    return (nearest == written).double().mean().item()

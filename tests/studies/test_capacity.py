"""What a state can hold: the rules against algebra, and against loops that know no kernel."""

import numpy as np
import pytest
import torch

from hybrid.studies.capacity import RULES, exact_pairs, read_back, share_right, signal_to_noise


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(drawn(*shape, seed=seed), dim=-1)


def by_hand(rule, keys, values, decay=1.0):
    """[n, K] and [n, V] -> [n, V], pair by pair."""
    state = np.zeros((keys.shape[1], values.shape[1]))
    for key, value in zip(keys, values, strict=True):
        state *= decay
        old = state.T @ key if rule == "delta" else 0
        state += np.outer(key, value - old)
    return keys @ state


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_pairs_come_back_as_a_loop_writes_them(rule, decay):
    keys, values = unit(2, 9, 3, 5), drawn(2, 9, 3, 4, seed=1)
    found = read_back(rule, keys, values, [np.log(decay)] * 3)
    for b in range(2):
        for h in range(3):
            expected = by_hand(rule, keys[b, :, h].numpy(), values[b, :, h].numpy(), decay)
            np.testing.assert_allclose(found[b, :, h].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_orthonormal_keys_are_returned_exactly_up_to_the_bound(rule, channels):
    keys = torch.linalg.qr(drawn(channels, channels))[0].view(1, channels, 1, channels)
    values = drawn(1, channels, 1, 3, seed=1)
    assert exact_pairs(channels) == channels
    torch.testing.assert_close(read_back(rule, keys, values), values, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("channels", "heads"), [(4, 1), (4, 3), (16, 4)])
def test_heads_that_share_the_pairs_hold_the_bound_and_no_state_holds_one_more(channels, heads):
    most = exact_pairs(channels, heads)
    values = drawn(most + 1, 2, seed=1)
    # Each pair in one head: a head's keys are zero for the pairs of the others, and answers are added.
    one_head = torch.eye(most, dtype=torch.float64).view(1, most, heads, channels)
    written = values[None, :most, None].expand(1, most, heads, 2)
    torch.testing.assert_close(read_back("additive", one_head, written).sum(2)[0], values[:most])
    # The best linear map from all channels of all heads, found by least squares.
    stacked = drawn(most + 1, most)
    best = torch.linalg.lstsq(stacked, values).solution
    assert (stacked @ best - values).abs().max() > 1e-3
    within = torch.linalg.lstsq(stacked[:most], values[:most]).solution
    torch.testing.assert_close(stacked[:most] @ within, values[:most], atol=1e-8, rtol=0)


@pytest.mark.parametrize(("channels", "pairs"), [(16, 2), (16, 17), (8, 64)])
def test_crosstalk_of_random_keys_is_as_strong_as_derived(channels, pairs):
    keys, values = unit(3000, pairs, 1, channels), unit(3000, pairs, 1, channels, seed=1)
    noise = (read_back("additive", keys, values) - values).square().sum(-1).mean().item()
    assert 1 / noise == pytest.approx(signal_to_noise(channels, pairs), rel=0.05)
    assert signal_to_noise(channels, 1) == float("inf")


def test_the_delta_rule_returns_the_last_pair_exactly_and_disturbs_the_others():
    keys, values = unit(4, 10, 2, 6), drawn(4, 10, 2, 6, seed=1)
    error = (read_back("delta", keys, values) - values).norm(dim=-1).amax((0, 2))
    assert error[-1] < 1e-10 and error[:-1].min() > 1e-3


def test_the_share_of_a_rule_is_that_of_sequences_drawn_without_kernels():
    channels, heads, symbols, pairs = 8, 2, 20, 12
    rng = np.random.default_rng(5)
    codebook = rng.standard_normal((symbols, heads, channels))
    codebook /= np.linalg.norm(codebook, axis=-1, keepdims=True)
    for rule in RULES:
        right = []
        for _ in range(400):
            keys = rng.standard_normal((pairs, heads, channels))
            keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
            chosen = rng.permutation(symbols)[:pairs]
            read = [by_hand(rule, keys[:, h], codebook[chosen, h]) for h in range(heads)]
            scores = sum(read[h] @ codebook[:, h].T for h in range(heads))
            right.append((scores.argmax(1) == chosen).mean())
        found = [share_right(rule, pairs, channels, heads, symbols, seed=seed) for seed in range(8)]
        assert np.mean(found) == pytest.approx(np.mean(right), abs=0.06)


def test_few_pairs_are_all_right_and_many_are_not():
    for rule in RULES:
        assert share_right(rule, 1, 16, 4, 64) == 1.0
        shares = [share_right(rule, pairs, 16, 4, 64) for pairs in (2, 16, 64)]
        assert shares == sorted(shares, reverse=True) and shares[-1] < 0.9
    # A delta rule of full strength erases what overlaps with a new key: on random keys it holds less.
    assert share_right("delta", 32, 16, 4, 64) < share_right("additive", 32, 16, 4, 64) - 0.2
    decayed = share_right("additive", 32, 16, 4, 64, [-0.5] * 4)
    assert decayed < share_right("additive", 32, 16, 4, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [(("hebbian", 2, 4, 1, 8), "rule 'hebbian'; allowed: additive, delta"), (("delta", 9, 4, 1, 8), "got 9")],
)
def test_impossible_questions_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        share_right(*given)

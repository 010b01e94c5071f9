"""The start: each part changes its own parameters, in every mixer, and nothing else."""

import math
from dataclasses import fields, replace

import pytest
import torch

from hybrid.config import MIXERS, AttentionConfig, LinearConfig, MLPConfig, ModelConfig, StartConfig
from hybrid.config.start import START_PARTS
from hybrid.models.hybrid_lm import HybridLM

WIDTH, DEPTH = 64, 4
RELATED = {
    "full": ("k_proj.weight", "q_proj.weight", 1),
    "retnet": ("k_proj.weight", "q_proj.weight", 1),
    "gla": ("k_proj.weight", "q_proj.weight", 1),
    "deltanet": ("k_proj.weight", "q_proj.weight", 1),
    "gated_deltanet": ("k_proj.weight", "q_proj.weight", 1),
    # Its key is 1 - sigmoid(f) = sigmoid(-f).
    "hgrn2": ("f_proj.weight", "q_proj.weight", -1),
}
"""Where queries and keys are matrices of their own: key, query and the sign between them."""
LEARNT = ("hgrn", "gla", "hgrn2", "gated_deltanet", "mamba2")
"""Mixers whose decay is learnt."""


def model(name, seed=0, **parts):
    full = name == "full"
    linear = None if full else LinearConfig(name, **MIXERS[name].heads_like(4, WIDTH // 4))
    config = ModelConfig(
        "F" * DEPTH if full else "L" * DEPTH,
        linear,
        AttentionConfig(4),
        mlp=MLPConfig(size=96),
        vocab_size=128,
        hidden_size=WIDTH,
        conv=4,
        start=StartConfig(0.1, **parts),
    )
    torch.manual_seed(seed)
    return HybridLM(config)


def parameters(name, **parts):
    return {key: p.detach().clone() for key, p in model(name, **parts).named_parameters()}


def changed(name, **parts):
    plain, other = parameters(name), parameters(name, **parts)
    return {key for key in plain if not torch.equal(plain[key], other[key])}


EVERY = ("full", *MIXERS)


@pytest.mark.parametrize("name", EVERY)
def test_unit_embeddings_are_embeddings_of_size_one_and_nothing_else(name):
    assert changed(name, unit_embeddings=True) == {"model.embeddings.weight"}
    drawn = parameters(name, unit_embeddings=True)["model.embeddings.weight"]
    assert drawn.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", EVERY)
def test_neighbours_are_the_convolutions(name):
    found = changed(name, neighbours=True)
    assert found and all("conv1d.weight" in key for key in found)
    drawn = parameters(name, neighbours=True)
    taps = torch.cat([drawn[key].flatten() for key in found])
    assert taps.mean().item() == pytest.approx(0.3, abs=0.03)
    assert taps.std().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("name", EVERY)
def test_scaled_branches_double_queries_and_keys_and_divide_what_writes(name):
    plain, scaled = parameters(name), parameters(name, scaled_branches=True)
    factors = {key: (scaled[key] / plain[key]) for key in plain if not torch.equal(plain[key], scaled[key])}
    writes = 1 / math.sqrt(2 * DEPTH)
    for key, factor in factors.items():
        found = set(factor.flatten().mul(1e4).round().int().tolist())
        allowed = {10_000, 20_000} if key.endswith("in_proj.weight") else {20_000}
        if key.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            allowed = {round(writes * 1e4)}
        assert found == allowed, key
    assert sum("down_proj" in key for key in factors) == DEPTH
    assert len(factors) == DEPTH * {"hgrn": 2, "mamba2": 3}.get(name, 4)


@pytest.mark.parametrize("name", RELATED)
def test_related_keys_are_the_queries(name):
    key, query, sign = RELATED[name]
    drawn = parameters(name, related_keys=True)
    for block in range(DEPTH):
        prefix = f"model.layers.{block}.attn."
        assert torch.equal(drawn[prefix + key], sign * drawn[prefix + query])
    assert changed(name, related_keys=True) == {f"model.layers.{b}.attn.{key}" for b in range(DEPTH)}


def test_related_keys_of_mamba2_are_rows_of_its_one_projection():
    drawn, plain = parameters("mamba2", related_keys=True), parameters("mamba2")
    # gate, x, B and C of as many channels each: keys are B, queries C.
    gate, x, b, c = drawn["model.layers.0.attn.in_proj.weight"][: 4 * WIDTH].split(WIDTH)
    was = plain["model.layers.0.attn.in_proj.weight"][: 4 * WIDTH].split(WIDTH)
    assert torch.equal(b, c) and torch.equal(c, was[3])
    assert torch.equal(gate, was[0]) and torch.equal(x, was[1]) and not torch.equal(b, was[2])


def test_hgrn_has_no_keys_to_relate():
    assert changed("hgrn", related_keys=True) == set()


def test_keys_of_fewer_heads_stay_as_drawn():
    config = replace(model("full").config, attention=AttentionConfig(4, num_kv_heads=2))
    drawn = []
    for related in (False, True):
        torch.manual_seed(0)
        drawn.append(HybridLM(replace(config, start=StartConfig(0.1, related_keys=related))))
    for one, other in zip(*(m.parameters() for m in drawn), strict=True):
        assert torch.equal(one, other)


def kept(lm, tokens=200):
    """Share of what the last block's state held that it still holds."""
    block, shared = lm.model.layers[-1].attn, lm.model.shared()[-1]
    if hasattr(block, "b_proj"):
        # The delta rule erases by its keys; without them it only decays.
        block.k_proj.weight.zero_()
    x = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    states = [block(x[:, :1], **shared)[1]]
    *tails, s = states[0]
    ends = [block(x, (*tails, amount * torch.ones_like(s)), **shared)[1][-1] for amount in (1e-3, 0)]
    return ((ends[0] - ends[1]) / 1e-3).mean().item()


@pytest.mark.parametrize("name", LEARNT)
def test_long_memories_keep_more(name):
    with torch.no_grad():
        short, long = kept(model(name)), kept(model(name, long_memory=True))
    assert long > max(2 * short, 0.05)
    own = {"gla": "gk_proj.1.bias", "hgrn": "lower_bounds", "hgrn2": "lower_bounds"}.get(name, "A_log")
    found = changed(name, long_memory=True)
    assert found and all(key.endswith(own) for key in found)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LEARNT])
def test_where_no_decay_is_learnt_memories_stay(name):
    assert changed(name, long_memory=True) == set()


def test_mimetic_is_every_part():
    start = StartConfig.mimetic(64)
    assert tuple(f.name for f in fields(start))[1:] == START_PARTS
    assert all(getattr(start, part) is True for part in START_PARTS)
    assert start.std == 0.125 and StartConfig.mimetic(256).std == 0.0625


def test_bad_starts_are_refused_by_name():
    with pytest.raises(ValueError, match="related_keys must be True or False; got 1"):
        StartConfig(related_keys=1)
    with pytest.raises(ValueError, match="tie_embeddings must be False where embeddings start at 1"):
        ModelConfig("F", tie_embeddings=True, start=StartConfig(unit_embeddings=True))

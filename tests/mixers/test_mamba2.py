"""Mamba-2 against transformers' own layer: the same weights, forward, gradients and decoding."""

import pytest
import torch
from flat import flat_config
from transformers import DynamicCache
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from hybrid.config import MIXERS

HIDDEN, HEADS, STATE, WIDTH = 24, 6, 10, 8
TOLERANCE = 2e-5


def pair(groups: int, seed: int = 0):
    """Our layer and theirs, with the same weights."""
    config = flat_config(
        "l",
        "mamba2",
        hidden_size=HIDDEN,
        num_heads=HEADS,
        head_k_dim=STATE,
        head_v_dim=WIDTH,
        num_groups=groups,
        norm_eps=1e-5,
    )
    torch.manual_seed(seed)
    ours = MIXERS["mamba2"](config)
    for name, parameter in ours.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if name == "norm.weight":
            parameter.data += 1
    theirs = Mamba2Mixer(
        Mamba2Config(
            num_heads=HEADS,
            head_dim=WIDTH,
            hidden_size=HIDDEN,
            state_size=STATE,
            expand=2,
            n_groups=groups,
            num_hidden_layers=1,
            chunk_size=16,
        ),
        layer_idx=0,
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 17, 61])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_layer_and_its_gradients_are_transformers(groups, length):
    ours, theirs = pair(groups)
    x = torch.randn(2, length, HIDDEN)
    grad, results = torch.randn(2, length, HIDDEN), []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        y = layer(given)
        y = y[0] if isinstance(y, tuple) else y
        layer.zero_grad()
        y.backward(grad)
        results.append({"y": y, "x": given.grad} | {n: p.grad for n, p in layer.named_parameters()})
    for name, expected in results[1].items():
        found = results[0][name]
        scale = expected.abs().max().clamp_min(1e-3)
        assert (found - expected).abs().max() < TOLERANCE * scale, name


@pytest.mark.parametrize("prompt", [1, 5, 16, 19])
@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_decoding_goes_on_as_transformers_does(groups, prompt):
    ours, theirs = pair(groups, seed=1)
    x = torch.randn(2, prompt + 6, HIDDEN)
    cache, state = DynamicCache(config=theirs_config(groups)), None
    for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, prompt + 6))]:
        y, state = ours(x[:, start:stop], state)
        expected = theirs(x[:, start:stop], cache_params=cache)
        assert torch.allclose(y, expected, atol=1e-5, rtol=1e-4)


def theirs_config(groups: int) -> Mamba2Config:
    return Mamba2Config(
        num_heads=HEADS,
        head_dim=WIDTH,
        hidden_size=HIDDEN,
        state_size=STATE,
        expand=2,
        n_groups=groups,
        num_hidden_layers=1,
    )


def test_groups_of_heads_must_divide_them():
    with pytest.raises(ValueError, match="num_groups must divide num_heads 6; got 4"):
        flat_config("l", "mamba2", hidden_size=HIDDEN, num_heads=6, head_v_dim=8, num_groups=4)

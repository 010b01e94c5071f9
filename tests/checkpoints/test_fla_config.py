"""Configs to and from flash-linear-attention, against its installed classes and the released sizes."""

import inspect
import json
import warnings

import pytest
import torch
from fla_stub import models
from flat import flat_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid.checkpoints.fla_config import (
    SPEC,
    WITHOUT_EFFECT,
    NotExpressible,
    defaults,
    families,
    from_fla,
    to_fla,
)
from hybrid.config import MIXERS, ModelConfig
from hybrid.mixers.base import conv_width
from hybrid.models.cost import parameters
from hybrid.models.hybrid_lm import HybridLM
from hybrid.models.mlps import inner_width


@pytest.fixture
def fla(monkeypatch):
    return models(monkeypatch)


@pytest.mark.parametrize("name", sorted(families()))
def test_table_of_defaults_is_that_of_the_installed_classes(fla, name):
    family = families()[name]
    cls = getattr(fla, family.architecture).config_class
    assert cls.model_type == name
    signature = inspect.signature(cls.__init__).parameters.values()
    theirs = {p.name: p.default for p in signature if p.default is not inspect.Parameter.empty}
    assert {key: theirs[key] for key in defaults(family)} == defaults(family)
    assert theirs.keys() - defaults(family).keys() <= WITHOUT_EFFECT


def test_table_of_attention_defaults_is_that_of_the_installed_parser(fla):
    from fla.models.configuration_utils import parse_attention_config

    filled = parse_attention_config({"layers": [0], "num_heads": 2}, num_hidden_layers=1)
    assert filled == {"layers": [0], "num_heads": 2} | SPEC | {"num_kv_heads": 2}


GDN = {"model_type": "gated_deltanet", "num_hidden_layers": 2}
ATTN = {"layers": [1], "num_heads": 4}
REFUSED = {
    "model type": ({"model_type": "rwkv7"}, "rwkv7.*allowed: delta_net, gated_deltanet"),
    "no model type": ({}, "model_type None"),
    "no gate": (GDN | {"use_gate": False}, "use_gate=False.*allowed: True"),
    "value heads": (GDN | {"num_v_heads": 12}, "num_v_heads=12"),
    "negative eigenvalues": (GDN | {"allow_neg_eigval": True}, "allow_neg_eigval=True"),
    "feature map": ({"model_type": "gla", "feature_map": "relu"}, "feature_map='relu'"),
    "clamp": ({"model_type": "gla", "clamp_min": -3}, "clamp_min=-3"),
    "grouped keys": ({"model_type": "retnet", "num_kv_heads": 2}, "num_kv_heads=2"),
    "query norm": ({"model_type": "delta_net", "qk_norm": "sum"}, "qk_norm='sum'.*'l2'"),
    "expanded state": ({"model_type": "hgrn", "expand_ratio": 2}, "expand_ratio=2"),
    "no bias": ({"model_type": "transformer", "qkv_bias": 1}, "qkv_bias must be bool; got 1"),
    "no bias in a hybrid": (GDN | {"attn": ATTN | {"qkv_bias": 1}}, "qkv_bias must be bool; got 1"),
    "one bias": (GDN | {"attn": [ATTN, ATTN | {"layers": [0], "qkv_bias": True}]}, "theta and qkv_bias"),
    "norm in a hybrid": (GDN | {"attn": ATTN | {"qk_norm": True}}, "qk_norm.*"),
    "no heads": (GDN | {"attn": {"layers": [1]}}, "num_heads"),
    "layer outside": (GDN | {"attn": ATTN | {"layers": [2]}}, r"0\.\.1.*2"),
    "layer twice": (GDN | {"attn": [ATTN, ATTN]}, "distinct"),
    "two kinds": (GDN | {"attn": [ATTN, {"layers": [0], "num_heads": 8}]}, "same num_heads"),
    "odd width of convolution": (GDN | {"attn": ATTN, "conv_size": 3}, "conv_size=3"),
    "broken channels": ({"model_type": "gla", "expand_k": 0.3001}, "expand_k"),
    "text for a number": (GDN | {"num_heads": "6"}, "num_heads must be int; got '6'"),
    "no layers": (GDN | {"num_hidden_layers": 0}, "num_hidden_layers"),
    "ratio that does not divide": ({"model_type": "hgrn2", "expand_ratio": 100}, "expand_ratio"),
}


@pytest.mark.parametrize("given_, message", REFUSED.values(), ids=REFUSED.keys())
def test_unsupported_configs_are_refused_by_name(given_, message):
    with pytest.raises(ValueError, match=message):
        from_fla(given_)


def test_unknown_keys_are_named_and_as_many_groups_as_heads_is_no_grouping():
    with pytest.warns(UserWarning, match="gdn_norm_eps"):
        from_fla(GDN | {"gdn_norm_eps": 1e-5})
    assert from_fla(GDN | {"num_v_heads": 6}) == from_fla(GDN)


@pytest.mark.parametrize("name", sorted(families()))
def test_an_empty_config_is_flas_default_model(fla, name):
    config = from_fla({"model_type": name})
    rename = families()[name].in_file
    cls = getattr(fla, families()[name].architecture)
    with torch.device("meta"):
        theirs, ours = cls(cls.config_class()), HybridLM(config)
    shapes = {key: p.shape for key, p in theirs.named_parameters()}
    assert {rename(key): p.shape for key, p in ours.named_parameters()} == shapes
    assert parameters(config) == sum(p.numel() for p in theirs.parameters())


RELEASED = {
    "model_type": "gated_deltanet",
    "architectures": ["GatedDeltaNetForCausalLM"],
    "attn_mode": "chunk",
    "expand_v": 1,
    "head_dim": 256,
    "hidden_act": "swish",
    "max_position_embeddings": 2048,
    "norm_eps": 1e-06,
    "num_hidden_layers": 24,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.50.0",
    "use_gate": True,
    "use_short_conv": True,
    "vocab_size": 32000,
}
"""The form of the released Gated DeltaNets, with the keys of early 2025 (2507.06457's checkpoints)."""


def test_released_hybrid(fla):
    layers = list(range(2, 24, 3))
    attn = {"layers": layers, "num_heads": 16, "num_kv_heads": None, "window_size": None}
    given_ = RELEASED | {"hidden_size": 1024, "intermediate_size": 2816, "num_heads": 4, "attn": attn}
    config = from_fla(given_)
    assert config == flat_config(
        layout="LLF" * 8,
        mixer="gated_deltanet",
        vocab_size=32_000,
        hidden_size=1024,
        mlp_size=2816,
        num_heads=4,
        head_k_dim=256,
        head_v_dim=256,
        attn_heads=16,
        attn_kv_heads=16,
    )
    cls = fla.GatedDeltaNetForCausalLM
    with torch.device("meta"):
        ours, theirs = HybridLM(config), cls(cls.config_class(**given_))
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) == parameters(config)


def test_released_pure_model_has_the_published_size():
    given_ = RELEASED | {"hidden_size": 2048, "intermediate_size": 5632, "num_heads": 8, "attn": None}
    with torch.device("meta"):
        model = HybridLM(from_fla(given_))
    legacy = 24 * 8
    # 5,865,376,000 bytes of float32 shards, attn.D of every block included.
    assert sum(p.numel() for p in model.parameters()) + legacy == 5_865_376_000 // 4 == 1_466_344_000


@st.composite
def configs(draw):
    mixer = draw(st.sampled_from(sorted(MIXERS)))
    layout = draw(st.text("l" if mixer == "mamba2" else "LFW", min_size=1, max_size=6))
    hidden = draw(st.sampled_from((48, 64, 96, 192)))
    heads = {}
    if mixer == "hgrn2":
        heads["num_heads"] = draw(st.sampled_from([n for n in range(1, 9) if hidden % n == 0]))
    elif mixer != "hgrn":
        heads = {name: draw(st.integers(1, 60)) for name in ("num_heads", "head_k_dim", "head_v_dim")}
    if mixer == "retnet":
        heads["head_k_dim"] *= 2
    if mixer == "mamba2":
        heads["num_groups"] = draw(st.sampled_from([n for n in (1, 2, 3) if heads["num_heads"] % n == 0]))
    attn_heads = draw(st.sampled_from((1, 2, 4, 8)))
    return flat_config(
        layout=layout,
        mixer=mixer,
        vocab_size=draw(st.integers(1, 999)),
        hidden_size=hidden,
        mlp_size=draw(st.none() | st.integers(1, 999)),
        attn_heads=attn_heads,
        attn_kv_heads=draw(st.none() | st.sampled_from([n for n in (1, 2, 4, 8) if attn_heads % n == 0])),
        window=draw(st.integers(1, 99)) if "W" in layout else None,
        rope_theta=draw(st.none() | st.floats(1, 1e7)),
        qk_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        conv=draw(st.sampled_from(("reference", "none", 2, 4, 5))),
        tie_embeddings=draw(st.booleans()),
        norm_eps=draw(st.sampled_from((1e-5, 1e-6))),
        init_std=draw(st.floats(0, 1)),
        **heads,
    )


def meaning(config: ModelConfig) -> tuple:
    """Everything a config decides, with what no block of its layout reads left out."""
    letters = config.layout.letters
    heads, kind = config.attention, config.linear and MIXERS[config.linear.mixer]
    return (
        letters,
        kind and (kind, kind.heads_of(config), config.linear.num_groups or 1),
        heads and (heads.num_heads, config.kv_heads, heads.qk_norm, heads.qkv_bias),
        config.layout.uses("full") and heads.rotary,
        config.window,
        [conv_width(config, kind.reference_conv if letter in "Ll" else 0) for letter in letters],
        (config.mlp and inner_width(config), config.vocab_size, config.hidden_size),
        (config.tie_embeddings, config.norm_eps, config.start),
    )


@settings(max_examples=300, deadline=None)
@given(configs())
def test_translation_is_its_own_inverse(config):
    letters, heads = set(config.layout.letters), config.attention
    linear, attention, mixer = config.linear is not None, heads is not None, config.mixer_name
    turned = heads and heads.rotary and (config.window is None or config.window.rotary)
    expressible = (
        (linear or len(letters) == 1)
        and (letters == {"l"} if mixer == "mamba2" else "l" not in letters)
        and not (attention and (isinstance(config.conv, int) or not turned))
        and not (linear and attention and heads.qk_norm)
        and not (mixer == "retnet" and isinstance(config.conv, int))
        and not (mixer == "mamba2" and config.conv == "none")
    )
    if not expressible:
        with pytest.raises(NotExpressible):
            to_fla(config)
        return
    written = json.loads(json.dumps(to_fla(config)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = from_fla(written)
    assert meaning(read) == meaning(config)
    assert to_fla(read) == written
    assert from_fla(to_fla(read)) == read


@given(st.integers(1, 512), st.integers(1, 1024))
@example(49, 1)
def test_fla_cuts_the_expansion_down_to_the_same_width(k, v):
    config = flat_config(layout="L", num_heads=1, head_k_dim=k, head_v_dim=v, hidden_size=64)
    assert int(k * to_fla(config)["expand_v"]) == v

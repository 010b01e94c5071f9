"""Hugging Face's own families with plain full attention: their configs and tensors, as this model's.

transformers itself is not imported; a test compares the tables with its installed classes.
Source: transformers 5, ``models/*/configuration_*.py`` and ``modeling_*.py``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybrid.checkpoints.fla_config import WITHOUT_EFFECT
from hybrid.config import AttentionConfig, MLPConfig, ModelConfig, RotaryConfig, StartConfig
from hybrid.mixers.rotary import rates
from hybrid.models.hybrid_lm import HybridLM

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Keys that a config must have."""
OPTIONAL = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
"""Keys that may be missing, with what transformers then takes."""
FIXED = {"hidden_act": "silu", "attention_bias": False, "quantization_config": None}
"""Keys with the only value that `HybridLM` computes."""
FULL = "full_attention"
"""The only kind of block."""
ROPE_THETA = 10_000.0
"""Base of the rotary positions where a config names none."""
TOP_LEVEL, NESTED = ("rope_theta", "partial_rotary_factor"), ("rope_parameters", "rope_scaling")
"""Where a config speaks of rotary positions: keys, and keys that hold an object; these win."""
ROPE_TYPES = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Kinds of rotary positions that `HybridLM` computes, with the keys that make `RotaryConfig.stretch`."""
PARTS = {
    "embeddings": "embed_tokens",
    "attn_norm": "input_layernorm",
    "attn": "self_attn",
    "mlp_norm": "post_attention_layernorm",
}
"""Parts of a parameter's name here -> in these families; the others are the same."""
FREQUENCIES = "rotary_emb.inv_freq"
"""A table that old checkpoints hold though the config gives it; checked, then left out."""


@dataclass(frozen=True)
class Family:
    """One model type of transformers."""

    fixed: dict
    """Keys with the only value that `HybridLM` computes, besides `FIXED`."""
    optional: dict = field(default_factory=dict)
    """What transformers takes for missing keys where that is not the value of `OPTIONAL`."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias."""
    qk_norm: bool = False
    """Whether queries and keys are normalised."""


NO_WINDOW = {"use_sliding_window": False}
FAMILIES = {
    "llama": Family({"mlp_bias": False, "sliding_window": None}),
    "qwen2": Family(NO_WINDOW, {"num_key_value_heads": 32}, qkv_bias=True),
    "qwen3": Family(NO_WINDOW, {"num_key_value_heads": 32, "head_dim": 128}, qk_norm=True),
}
"""transformers' model types, by name."""
UNREAD = WITHOUT_EFFECT | {"attention_dropout", "pretraining_tp", "max_window_layers", "sliding_window"}
"""Keys that choose a program or a tokenizer, or belong to training or to windows that are not in use."""


def from_huggingface(given: dict) -> ModelConfig:
    """The model that a config.json of these families describes: full attention in every block.

    Keys that are missing take transformers' defaults; keys that change nothing known are named in a
    warning. Raises ``ValueError`` naming an unknown model type, a missing size, or a value that
    `HybridLM` does not compute: rotary positions of other types than `ROPE_TYPES`, sliding windows, other
    biases or activations.
    """
    name = given.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"unknown model_type {name!r}; allowed: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    if missing := [key for key in SIZES if key not in given]:
        raise ValueError(f"a {name} config needs {', '.join(SIZES)}; missing {', '.join(missing)}")
    fixed = FIXED | family.fixed
    for key, only in fixed.items():
        if given.get(key, only) != only:
            raise ValueError(f"{name} with {key}={given[key]!r} is not supported; allowed: {only!r}")
    if others := set(given.get("layer_types") or ()) - {FULL}:
        raise ValueError(f"{name} with layer_types {sorted(others)} is not supported; allowed: {FULL!r}")
    read = {*SIZES, *OPTIONAL, *fixed, "layer_types", *TOP_LEVEL, *NESTED}
    if unread := sorted(given.keys() - read - UNREAD):
        warnings.warn(f"keys of the {name} config that were not read: {', '.join(unread)}", stacklevel=2)
    c = OPTIONAL | family.optional | given
    c["rope_theta"], stretch = _rope(given)
    for key in ("rms_norm_eps", "initializer_range", "rope_theta"):
        value = c[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{name} config: {key} must be a positive number; got {value!r}")
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    norms = {"qk_norm": True, "qk_norm_eps": c["rms_norm_eps"]} if family.qk_norm else {}
    return ModelConfig(
        "F" * c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        hidden_size=hidden,
        mlp=MLPConfig(size=c["intermediate_size"]),
        attention=AttentionConfig(
            num_heads=heads,
            num_kv_heads=None if kv_heads == heads else kv_heads,
            head_dim=None if c["head_dim"] in (None, hidden / heads) else c["head_dim"],
            qkv_bias=family.qkv_bias,
            rotary=RotaryConfig(c["rope_theta"], stretch),
            **norms,
        ),
        tie_embeddings=c["tie_word_embeddings"],
        norm_eps=c["rms_norm_eps"],
        start=StartConfig(c["initializer_range"]),
    )


def _rope(given: dict) -> tuple[float, tuple | None]:
    """Base and stretch of a `RotaryConfig`, which transformers 4 and 5 write in different places."""
    rope = {"rope_theta": ROPE_THETA} | {key: given[key] for key in TOP_LEVEL if key in given}
    for key in NESTED:
        rope |= given.get(key) or {}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    if kind not in ROPE_TYPES:
        allowed = ", ".join(ROPE_TYPES)
        raise ValueError(f"rotary positions of rope_type {kind!r} are not supported; allowed: {allowed}")
    if (part := rope.pop("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(f"partial_rotary_factor={part!r} is not supported; allowed: 1.0")
    theta, keys = rope.pop("rope_theta"), ROPE_TYPES[kind]
    if keys and "max_position_embeddings" in given:
        rope.setdefault(keys[-1], given["max_position_embeddings"])
    if missing := [key for key in keys if key not in rope]:
        raise ValueError(f"rope_type {kind!r} needs {', '.join(keys)}; missing {', '.join(missing)}")
    if more := {key: value for key, value in rope.items() if key not in keys}:
        allowed = ", ".join(keys) or "none"
        raise ValueError(f"rope_type {kind!r} with {more} is not supported; allowed: {allowed}")
    return theta, tuple(rope[key] for key in keys) or None


def renamed(tensors: dict[str, Tensor], model: HybridLM) -> dict[str, Tensor]:
    """The tensors of a checkpoint of these families under the names of this model's parameters.

    Every tensor is used once. Raises ``ValueError`` naming, as the file does, those that are missing or
    left over.
    """
    ours = {_in_file(name): name for name, _ in model.named_parameters(remove_duplicate=False)}
    needed = {_in_file(name) for name, _ in model.named_parameters()}
    tables = {name for name, tensor in tensors.items() if _is_table(name, tensor, model.config)}
    if left := sorted(tensors.keys() - ours.keys() - tables):
        raise ValueError(f"tensors that the model has no place for: {', '.join(left)}")
    if missing := sorted(needed - tensors.keys()):
        raise ValueError(f"missing tensors: {', '.join(missing)}")
    return {ours[name]: tensor for name, tensor in tensors.items() if name not in tables}


def _in_file(name: str) -> str:
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def _is_table(name: str, tensor: Tensor, config: ModelConfig) -> bool:
    """Whether it is the table of frequencies that the config gives; stored ones may be rounded."""
    table = rates(config.head_dim, config.attention.rotary.theta, config.attention.rotary.stretch)
    known = name.endswith(FREQUENCIES) and tensor.shape == table.shape
    return known and torch.allclose(tensor.float(), table, rtol=1e-2)

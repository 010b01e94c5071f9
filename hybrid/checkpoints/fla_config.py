"""flash-linear-attention's model configs, to and from `ModelConfig`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import gcd

from hybrid.checkpoints.fla_families import (
    FAMILIES,
    HYBRID,
    MAY_BE_NONE,
    MOST_RETNET_KEYS,
    SAME,
    SPEC,
    TYPE_OF,
    WITHOUT_EFFECT,
    Family,
)
from hybrid.config import ModelConfig
from hybrid.config.geometry import conv_width, linear_heads, mlp_size
from hybrid.mixers.norms import REFERENCE_EPS


class NotExpressible(ValueError):
    """flash-linear-attention has no config for a model; `reasons` names every part it lacks."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("flash-linear-attention cannot express " + "; ".join(reasons))
        self.reasons = tuple(reasons)


def to_fla(config: ModelConfig) -> dict:
    """The config.json with which flash-linear-attention builds the same model.

    Raises `NotExpressible` naming every part that fla's model classes do not have.
    """
    letters = config.layout.letters
    uniform = letters in ("F" * config.depth, "W" * config.depth)
    name = TYPE_OF[None if uniform else config.mixer]
    family = FAMILIES[name]
    if reasons := _reasons(config, family):
        raise NotExpressible(reasons)
    written = {
        "model_type": name,
        "architectures": [family.architecture],
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.depth,
        "intermediate_size": mlp_size(config),
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    } | family.fixed
    attention = {"num_heads": config.attn_heads, "num_kv_heads": config.kv_heads, "qkv_bias": config.qkv_bias}
    windows = {"F": None, "W": config.window}
    specs = [
        attention | {"layers": layers, "window_size": window, "rope_theta": config.rope_theta}
        for letter, window in windows.items()
        if (layers := [i for i, there in enumerate(letters) if there == letter])
    ]
    if family.mixer is None:
        (spec,) = specs
        del spec["layers"]
        return written | spec | {"qk_norm": config.qk_norm}
    width = conv_width(config, "L")
    return (
        {"use_short_conv": width > 0, "conv_size": width or HYBRID["conv_size"]}
        | written
        | family.write(linear_heads(config), config.hidden_size)
        | {"attn": specs if len(specs) > 1 else specs[0] if specs else None}
    )


def _reasons(config: ModelConfig, family: Family) -> list[str]:
    """What the model has and fla's classes do not."""
    blocks = set(config.layout.letters)
    attention, linear = bool(blocks - {"L"}), "L" in blocks
    heads = linear_heads(config) if linear else None
    lacking = {
        f"blocks of kind {', '.join(sorted(blocks - set('FWL')))}": blocks - set("FWL"),
        "full and sliding-window blocks without a linear one": len(blocks) > 1 and not linear,
        "heads of one block that see differently far (full_heads)": config.full_heads,
        "a short convolution on attention": attention and conv_width(config, "F"),
        "attention without rotary positions": attention and config.rope_theta is None,
        "stretched rotary positions (rope_stretch)": attention and config.rope_stretch is not None,
        "attention heads of another width than hidden_size / attn_heads (attn_head_dim)": (
            attention and config.head_dim * config.attn_heads != config.hidden_size
        ),
        "qk_norm beside a linear mixer": config.qk_norm and attention and linear,
        f"qk_norm with another qk_norm_eps than {REFERENCE_EPS}": (
            config.qk_norm and attention and config.qk_norm_eps != REFERENCE_EPS
        ),
        f"a short convolution on {config.mixer}": (
            linear and conv_width(config, "L") and "use_short_conv" in family.fixed
        ),
        f"retnet heads of more than {MOST_RETNET_KEYS} key channels": (
            linear and config.mixer == "retnet" and heads.k > MOST_RETNET_KEYS
        ),
        "hgrn2 values of another width than hidden_size": (
            linear and config.mixer == "hgrn2" and heads.num * heads.v != config.hidden_size
        ),
    }
    return [reason for reason, here in lacking.items() if here]


def from_fla(given: dict) -> ModelConfig:
    """The model that a config.json of flash-linear-attention describes, all widths written out.

    Keys that are missing take fla's defaults; keys that fla 0.6.0 does not know are named in a
    warning. Raises ``ValueError`` naming an unknown model type, a value that `HybridLM` does not
    compute, or attention blocks that differ in more than their window.
    """
    name = given.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"unknown model_type {name!r}; allowed: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    c = family.defaults | {key: given[key] for key in family.defaults if key in given}
    if unread := sorted(given.keys() - c.keys() - WITHOUT_EFFECT):
        warnings.warn(f"keys of the {name} config that were not read: {', '.join(unread)}", stacklevel=2)
    for key in {"num_kv_heads", "num_v_heads"} & family.fixed.keys():
        c[key] = None if c[key] == c["num_heads"] else c[key]
    for key, default in family.defaults.items():
        _check(name, key, c[key], default, only=key in family.fixed | SAME)
    depth, hidden = c["num_hidden_layers"], c["hidden_size"]
    if family.mixer is None:
        spec = {key: c[key] for key in ("num_heads", *SPEC)} | {"layers": list(range(depth))}
        fields = {"qk_norm": c["qk_norm"], **_attention(spec, depth)}
    else:
        # A pure model has no attention heads to read; any number that fits will do.
        fields = {"attn_heads": gcd(16, hidden // 2), **_attention(c["attn"], depth)}
        fields |= {"mixer": family.mixer, **family.read(c)}
    inner = 256 * -(-int(hidden * (c["hidden_ratio"] or 4) * 2 / 3) // 256)
    config = ModelConfig(
        vocab_size=c["vocab_size"],
        hidden_size=hidden,
        mlp_size=c["intermediate_size"] or inner,
        tie_embeddings=c["tie_word_embeddings"],
        norm_eps=c["norm_eps"],
        init_std=c["initializer_range"],
        **fields,
    )
    linear_heads(config)
    width = c["conv_size"] if c.get("use_short_conv") else 0
    wanted = [width if letter == "L" else 0 for letter in config.layout]
    for conv in ("reference", "none", max(width, 2)):
        candidate = replace(config, conv=conv)
        if [conv_width(candidate, letter) for letter in config.layout] == wanted:
            return candidate
    raise ValueError(
        f"{name} with use_short_conv={c['use_short_conv']} and conv_size={width} in layout {config.layout} "
        "is not supported: beside attention a mixer has its published convolution or none"
    )


def _check(name: str, key: str, value, default, only: bool) -> None:
    if only:
        if value != default:
            raise ValueError(f"{name} with {key}={value!r} is not supported; allowed: {default!r}")
    elif isinstance(default, (bool, int, float)) and not (value is None and key in MAY_BE_NONE):
        kinds = {bool: (bool,), int: (int,), float: (int, float)}[type(default)]
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise ValueError(f"{name} config: {key} must be {kinds[-1].__name__}; got {value!r}")
        if value < (type(default) is int):
            raise ValueError(f"{name} config: {key} must be positive; got {value!r}")


def _attention(attn: dict | list | None, depth: int) -> dict:
    """Layout and attention fields of `ModelConfig`, from the value of fla's `attn`."""
    specs = [attn] if isinstance(attn, dict) else attn or []
    letters, kinds, windows = ["L"] * depth, set(), set()
    for spec in specs:
        allowed = ["layers", "num_heads", *SPEC]
        if not isinstance(spec, dict) or set(spec) - set(allowed) or not {"layers", "num_heads"} <= set(spec):
            raise ValueError(
                f"attn entries need layers and num_heads; allowed besides: {', '.join(SPEC)}; got {spec!r}"
            )
        spec = SPEC | spec
        _check("attn", "qkv_bias", spec["qkv_bias"], False, only=False)
        _check("attn", "rope_theta", spec["rope_theta"], 1.0, only=False)
        for layer in spec["layers"]:
            if layer not in range(depth) or letters[layer] != "L":
                raise ValueError(f"attn layers must be distinct and in 0..{depth - 1}; refused at {layer!r}")
            letters[layer] = "F" if spec["window_size"] is None else "W"
            windows |= {spec["window_size"]} - {None}
            kv_heads = spec["num_kv_heads"] or spec["num_heads"]
            kinds.add((spec["num_heads"], kv_heads, spec["rope_theta"], spec["qkv_bias"]))
    if len(kinds) > 1 or len(windows) > 1:
        raise ValueError(
            "all attention blocks must have the same num_heads, num_kv_heads, rope_theta and qkv_bias, and "
            f"all sliding ones the same window_size; got {sorted(kinds)} and windows {sorted(windows)}"
        )
    fields = {"layout": "".join(letters), "window": next(iter(windows), None)}
    for heads, kv_heads, theta, bias in kinds:
        fields |= {"attn_heads": heads, "attn_kv_heads": kv_heads, "rope_theta": theta, "qkv_bias": bias}
    return fields

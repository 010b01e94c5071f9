"""flash-linear-attention's model configs, to and from `ModelConfig`.

What a config says of a linear mixer is said by the mixer (`LinearMixer.fla`); here stands what all model
types have in common, and the Transformer.

Source: flash-linear-attention 0.6.0, ``fla/models/*/configuration_*.py``.
"""

from __future__ import annotations

import warnings

from hybrid.config import (
    MIXERS,
    AttentionConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RotaryConfig,
    StartConfig,
    WindowConfig,
)
from hybrid.mixers.base import conv_width
from hybrid.mixers.fla import Family
from hybrid.mixers.norms import REFERENCE_EPS
from hybrid.models.mlps import inner_width

COMMON = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "norm_eps": 1e-6,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
"""fla's values of the keys every family reads."""
WITH_MLP = {"hidden_ratio": 4, "intermediate_size": None}
"""Keys of the families whose blocks have an MLP."""
SAME = {"hidden_act": "swish", "attnres_block_size": None}
"""Keys of these families whose other values `HybridLM` does not compute."""
SPEC = {"num_kv_heads": None, "qkv_bias": False, "window_size": None, "rope_theta": 10_000.0}
"""fla's values of the optional keys of one entry of `attn`; `layers` and `num_heads` are required."""
WITHOUT_EFFECT = frozenset(
    {"model_type", "architectures", "auto_map", "_name_or_path", "transformers_version", "dtype"}
    | {"torch_dtype", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "attn_mode"}
    | {"max_position_embeddings", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy"}
    | {"fuse_linear_cross_entropy", "use_l2warp", "chunk_size", "residual_in_fp32"}
    | {"conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "rescale_prenorm_residual"}
)
"""Keys that choose a program, a start or a tokenizer, not what a trained model computes."""
MAY_BE_NONE = frozenset({"hidden_ratio", "expand_ratio"})
"""Numbers that fla works out where they are null."""
TRANSFORMER = Family(
    "transformer",
    "TransformerForCausalLM",
    {
        "num_heads": 32,
        "num_kv_heads": None,
        "window_size": None,
        "rope_theta": 10_000.0,
        "qk_norm": False,
        "qkv_bias": False,
    },
    {"elementwise_affine": True},
)


class NotExpressible(ValueError):
    """flash-linear-attention has no config for a model; `reasons` names every part it lacks."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("flash-linear-attention cannot express " + "; ".join(reasons))
        self.reasons = tuple(reasons)


def families() -> dict[str, Family]:
    """fla's model types by name: those of the mixers, and the Transformer."""
    every = [kind.fla for kind in MIXERS.values() if kind.fla is not None] + [TRANSFORMER]
    return {family.model_type: family for family in every}


def defaults(family: Family) -> dict:
    """fla's defaults of all keys that a family knows."""
    with_mlp = WITH_MLP | SAME if _has_mlp(family) else {}
    return COMMON | with_mlp | family.fixed | family.keys


def family_of(config: ModelConfig) -> Family:
    """The family that a model is written as. Raises `NotExpressible` for a mixer that fla's models lack."""
    if config.linear is None:
        return TRANSFORMER
    kind = MIXERS[config.linear.mixer]
    if kind.fla is None:
        raise NotExpressible([f"a model of {kind.name}"])
    return kind.fla


def to_fla(config: ModelConfig) -> dict:
    """The config.json with which flash-linear-attention builds the same model.

    Raises `NotExpressible` naming every part that fla's model classes do not have.
    """
    family = family_of(config)
    if reasons := _reasons(config, family):
        raise NotExpressible(reasons)
    written = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.depth,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.start.std,
    } | {key: value for key, value in family.fixed.items() if not isinstance(value, tuple)}
    if config.mlp is not None:
        written["intermediate_size"] = inner_width(config)
    if config.linear is not None:
        kind = MIXERS[config.linear.mixer]
        width = conv_width(config, kind.reference_conv)
        if "use_short_conv" in family.keys:
            written = {"use_short_conv": width > 0, "conv_size": width or family.keys["conv_size"]} | written
        if family.conv_key:
            written[family.conv_key] = width
        written |= family.write(kind.heads_of(config), config)
    if "attn" not in family.keys and config.attention is None:
        return written
    specs = _attention_specs(config)
    if family is TRANSFORMER:
        (spec,) = specs
        del spec["layers"]
        return written | spec | {"qk_norm": config.attention.qk_norm}
    return written | {"attn": specs if len(specs) > 1 else specs[0] if specs else None}


def _attention_specs(config: ModelConfig) -> list[dict]:
    """Entries of `attn`, one a kind of attention block."""
    found = []
    for part, size in (("full", None), ("window", config.window and config.window.size)):
        layers = [i for i, kind in enumerate(config.layout.kinds) if kind.mixers == (part,)]
        if layers:
            rotary = config.attention.rotary if part == "full" else config.window.rotary
            found.append(
                {
                    "num_heads": config.attention.num_heads,
                    "num_kv_heads": config.kv_heads,
                    "qkv_bias": config.attention.qkv_bias,
                    "layers": layers,
                    "window_size": size,
                    "rope_theta": rotary.theta,
                }
            )
    return found


def _reasons(config: ModelConfig, family: Family) -> list[str]:
    """What the model has and fla's classes do not."""
    letters, attention, linear = config.layout.letters, config.attention, config.linear
    kind = MIXERS[linear.mixer] if linear else None
    rotary = [config.window.rotary] if config.window else []
    rotary += [attention.rotary] if config.layout.uses("full") else []
    foreign = sorted(set(letters) - set(family.letters))
    lacking = {
        f"blocks of kind {', '.join(foreign)} in a model of type {family.model_type}": foreign,
        "full and sliding-window blocks without a linear one": len(set(letters)) > 1 and not linear,
        "an MLP of another kind than swiglu": config.mlp and config.mlp.kind != "swiglu",
        "heads of one block that see differently far (full_heads)": config.window
        and config.window.full_heads,
        "a short convolution on attention": attention and conv_width(config, 0),
        "attention without rotary positions": attention and not all(rotary),
        "stretched rotary positions (stretch)": any(turns and turns.stretch for turns in rotary),
        "attention heads of another width than hidden_size / num_heads (head_dim)": (
            attention and config.head_dim * attention.num_heads != config.hidden_size
        ),
        "qk_norm beside a linear mixer": attention and attention.qk_norm and linear,
        f"qk_norm with another qk_norm_eps than {REFERENCE_EPS}": (
            attention and attention.qk_norm and attention.qk_norm_eps != REFERENCE_EPS
        ),
    }
    if linear:
        width = conv_width(config, kind.reference_conv)
        lacking[f"a short convolution on {kind.name}"] = width and "use_short_conv" in family.fixed
        lacking[f"{kind.name} without a convolution"] = family.conv_key and not width
        lacking |= dict.fromkeys(family.lacking(kind.heads_of(config), config), True)
    return [reason for reason, here in lacking.items() if here]


def from_fla(given: dict) -> ModelConfig:
    """The model that a config.json of flash-linear-attention describes, all widths written out.

    Keys that are missing take fla's defaults; keys that fla 0.6.0 does not know are named in a
    warning. Raises ``ValueError`` naming an unknown model type, a value that `HybridLM` does not
    compute, or attention blocks that differ in more than their window.
    """
    name, known = given.get("model_type"), families()
    if name not in known:
        raise ValueError(f"unknown model_type {name!r}; allowed: {', '.join(known)}")
    family = known[name]
    preset = defaults(family)
    c = preset | {key: given[key] for key in preset if key in given}
    if unread := sorted(given.keys() - c.keys() - WITHOUT_EFFECT):
        warnings.warn(f"keys of the {name} config that were not read: {', '.join(unread)}", stacklevel=2)
    for key in {"num_kv_heads", "num_v_heads"} & family.fixed.keys():
        c[key] = None if c[key] == c["num_heads"] else c[key]
    for key, default in preset.items():
        _check(name, key, c[key], default, only=key in family.fixed | SAME)
    depth, hidden = c["num_hidden_layers"], c["hidden_size"]
    if family is TRANSFORMER:
        spec = {key: c[key] for key in ("num_heads", *SPEC)} | {"layers": list(range(depth))}
        fields = _attention(spec, depth, "L", c["qk_norm"])
    else:
        fields = _attention(c.get("attn"), depth, family.letters[0], False)
        (mixer,) = (kind.name for kind in MIXERS.values() if kind.fla is family)
        fields["linear"] = LinearConfig(mixer, **family.read(c))
    if _has_mlp(family):
        inner = 256 * -(-int(hidden * (c["hidden_ratio"] or 4) * 2 / 3) // 256)
        fields["mlp"] = MLPConfig(size=c["intermediate_size"] or inner)
    return ModelConfig(
        vocab_size=c["vocab_size"],
        hidden_size=hidden,
        tie_embeddings=c["tie_word_embeddings"],
        norm_eps=c["norm_eps"],
        start=StartConfig(c["initializer_range"]),
        conv=_conv(name, family, c, fields),
        **fields,
    )


def _conv(name: str, family: Family, c: dict, fields: dict) -> int | str:
    """`ModelConfig.conv` for the widths that fla's keys give: a mixer's, and none on attention."""
    if family is TRANSFORMER:
        return "reference"
    reference = MIXERS[fields["linear"].mixer].reference_conv
    width = c[family.conv_key] if family.conv_key else c["conv_size"] if c["use_short_conv"] else 0
    if width == reference:
        return "reference"
    if not width:
        return "none"
    if set(fields["layout"]) == {family.letters[0]} and width > 1:
        return width
    raise ValueError(
        f"{name} with use_short_conv={c['use_short_conv']} and conv_size={width} in layout "
        f"{fields['layout']} is not supported: beside attention a mixer has its published convolution or none"
    )


def _has_mlp(family: Family) -> bool:
    return family.letters[0].isupper()


def _check(name: str, key: str, value, default, only: bool) -> None:
    if only:
        if _from_json(value) != default:
            raise ValueError(f"{name} with {key}={value!r} is not supported; allowed: {default!r}")
    elif isinstance(default, (bool, int, float)) and not (value is None and key in MAY_BE_NONE):
        kinds = {bool: (bool,), int: (int,), float: (int, float)}[type(default)]
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise ValueError(f"{name} config: {key} must be {kinds[-1].__name__}; got {value!r}")
        if value < (type(default) is int):
            raise ValueError(f"{name} config: {key} must be positive; got {value!r}")


def _from_json(value):
    """A value as fla's classes have it: JSON knows no tuples, and transformers writes infinity in words."""
    if isinstance(value, dict) and "__float__" in value:
        return float(value["__float__"])
    return tuple(map(_from_json, value)) if isinstance(value, list) else value


def _attention(attn: dict | list | None, depth: int, linear: str, qk_norm: bool) -> dict:
    """Layout, attention and window of a `ModelConfig`, from the value of fla's `attn`; the blocks that it
    does not name are `linear`."""
    specs = [attn] if isinstance(attn, dict) else attn or []
    letters, kinds, windows = [linear] * depth, set(), set()
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
            if layer not in range(depth) or letters[layer] != linear:
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
    fields = {"layout": "".join(letters)}
    for heads, kv_heads, theta, bias in kinds:
        rotary = RotaryConfig(theta)
        fields["attention"] = AttentionConfig(heads, kv_heads, None, bias, qk_norm, rotary=rotary)
        if windows:
            fields["window"] = WindowConfig(windows.pop(), rotary=rotary)
    return fields

"""flash-linear-attention's model families: their configs' keys and defaults, and how they say heads.

fla itself is not imported (that needs triton); a test compares the tables with the installed classes.
Source: flash-linear-attention 0.6.0, ``fla/models/*/configuration_*.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nextafter

from hybrid.config.geometry import Heads

COMMON = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "hidden_ratio": 4,
    "intermediate_size": None,
    "norm_eps": 1e-6,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
"""fla's values of the keys every family reads."""
SAME = {"hidden_act": "swish", "attnres_block_size": None}
"""Keys of every family whose other values `HybridLM` does not compute."""
HYBRID = {"attn": None, "use_short_conv": False, "conv_size": 4}
"""Keys of every family with a linear mixer."""
SPEC = {"num_kv_heads": None, "qkv_bias": False, "window_size": None, "rope_theta": 10_000.0}
"""fla's values of the optional keys of one entry of `attn`; `layers` and `num_heads` are required."""
WITHOUT_EFFECT = frozenset(
    {"model_type", "architectures", "auto_map", "_name_or_path", "transformers_version", "dtype"}
    | {"torch_dtype", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "attn_mode"}
    | {"max_position_embeddings", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy"}
    | {"fuse_linear_cross_entropy", "use_l2warp"}
)
"""Keys that choose a program or a tokenizer, not what the model computes."""
MAY_BE_NONE = frozenset({"hidden_ratio", "expand_ratio"})
"""Numbers that fla works out where they are null."""
MOST_RETNET_KEYS = 256
"""fla's retention takes no wider heads."""


def _share(part: int, whole: int) -> float:
    """The number fla multiplies by `whole` and cuts down to an integer to get `part`."""
    share = part / whole
    return share if int(whole * share) == part else nextafter(share, inf)


def _channels(key: str, width: float) -> int:
    """Channels of one head, refused by the name of the key they come from unless whole."""
    if abs(width - round(width)) > 1e-6:
        raise ValueError(f"{key} must give every head a whole number of channels; got {width}")
    return round(width)


def _write_expanded(heads: Heads, hidden: int) -> dict:
    return {
        "num_heads": heads.num,
        "expand_k": _share(heads.num * heads.k, hidden),
        "expand_v": _share(heads.num * heads.v, hidden),
    }


def _read_expanded(c: dict) -> dict:
    num, hidden = c["num_heads"], c["hidden_size"]
    k, v = (_channels(key, hidden * c[key] / num) for key in ("expand_k", "expand_v"))
    return {"num_heads": num, "head_k_dim": k, "head_v_dim": v}


def _write_head_dim(heads: Heads, hidden: int) -> dict:
    return {"num_heads": heads.num, "head_dim": heads.k, "expand_v": _share(heads.v, heads.k)}


def _read_head_dim(c: dict) -> dict:
    v = _channels("expand_v", c["head_dim"] * c["expand_v"])
    return {"num_heads": c["num_heads"], "head_k_dim": c["head_dim"], "head_v_dim": v}


def _write_ratio(heads: Heads, hidden: int) -> dict:
    return {"num_heads": heads.num, "expand_ratio": heads.k}


def _read_ratio(c: dict) -> dict:
    # As in fla's layer, a ratio wins over a number of heads.
    if not (c["expand_ratio"] or c["num_heads"]):
        raise ValueError("one of expand_ratio and num_heads must be given; got null for both")
    k = c["expand_ratio"] or _channels("num_heads", c["hidden_size"] / c["num_heads"])
    return {"num_heads": _channels("expand_ratio", c["hidden_size"] / k), "head_k_dim": k}


@dataclass(frozen=True)
class Family:
    """One model type of fla."""

    architecture: str
    """Name of fla's model class."""
    keys: dict
    """fla's defaults of the keys this family reads besides `COMMON`."""
    fixed: dict
    """Keys with the only value that `HybridLM` computes, which is fla's default."""
    mixer: str | None = None
    """Our name of the linear mixer; None: the Transformer."""
    write: Callable[[Heads, int], dict] = lambda heads, hidden: {}
    """Heads and hidden size -> fla's keys."""
    read: Callable[[dict], dict] = lambda c: {}
    """fla's keys -> fields of `ModelConfig`."""

    @property
    def defaults(self) -> dict:
        """fla's defaults of all keys this family knows."""
        return COMMON | SAME | self.fixed | self.keys


EXPANDED = {"write": _write_expanded, "read": _read_expanded}
RATIO = {"write": _write_ratio, "read": _read_ratio}
FAMILIES = {
    "hgrn": Family(
        "HGRNForCausalLM",
        HYBRID,
        {"expand_ratio": 1, "use_lower_bound": True, "elementwise_affine": True},
        "hgrn",
    ),
    "retnet": Family(
        "RetNetForCausalLM",
        {"attn": None, "hidden_ratio": 2, "num_heads": 8, "expand_k": 1.0, "expand_v": 2.0},
        # fla's block does not pass the convolution on to the layer.
        {"use_short_conv": False, "conv_size": 4, "num_kv_heads": None, "feature_map": None}
        | {"use_output_gate": True, "elementwise_affine": True, "fuse_norm": True},
        "retnet",
        **EXPANDED,
    ),
    "gla": Family(
        "GLAForCausalLM",
        HYBRID | {"num_heads": 4, "expand_k": 0.5, "expand_v": 1.0},
        {"num_kv_heads": None, "feature_map": None, "use_output_gate": True, "clamp_min": None}
        | {"use_gk": True, "use_gv": False, "elementwise_affine": True, "fuse_norm": True},
        "gla",
        **EXPANDED,
    ),
    "hgrn2": Family(
        "HGRN2ForCausalLM",
        HYBRID | {"num_heads": None, "expand_ratio": 128},
        {"use_lower_bound": True, "elementwise_affine": True},
        "hgrn2",
        **RATIO,
    ),
    "delta_net": Family(
        "DeltaNetForCausalLM",
        HYBRID | {"use_short_conv": True, "num_heads": 16, "expand_k": 1.0, "expand_v": 1.0},
        {"use_gate": False, "use_beta": True, "use_output_norm": True, "qk_norm": "l2"}
        | {"qk_activation": "silu", "allow_neg_eigval": False},
        "deltanet",
        **EXPANDED,
    ),
    "gated_deltanet": Family(
        "GatedDeltaNetForCausalLM",
        HYBRID
        | {"use_short_conv": True, "num_hidden_layers": 21, "num_heads": 6, "head_dim": 256, "expand_v": 2.0},
        {"use_gate": True, "num_v_heads": None, "allow_neg_eigval": False, "output_gate_activation": "swish"},
        "gated_deltanet",
        write=_write_head_dim,
        read=_read_head_dim,
    ),
    "transformer": Family(
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
    ),
}
"""fla's model types, by name."""
TYPE_OF = {family.mixer: name for name, family in FAMILIES.items()}

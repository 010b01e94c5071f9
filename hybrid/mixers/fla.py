"""How a mixer is written in flash-linear-attention's model configs.

fla itself is not imported (that needs triton); a test compares what the mixers say with the installed
classes.

Source: flash-linear-attention 0.6.0, ``fla/models/*/configuration_*.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nextafter

from hybrid.config import ModelConfig
from hybrid.mixers.heads import Heads

HYBRID = {"attn": None, "use_short_conv": False, "conv_size": 4}
"""fla's defaults of the keys that most families with a linear mixer read."""


@dataclass(frozen=True)
class Family:
    """One model type of fla."""

    model_type: str
    """Its name in a config.json."""
    architecture: str
    """Name of fla's model class."""
    keys: dict
    """fla's defaults of the keys this family reads besides those of all families."""
    fixed: dict
    """Keys with the only value that `HybridLM` computes, which is fla's default."""
    write: Callable[[Heads, ModelConfig], dict] = lambda heads, config: {}
    """Heads and config -> fla's keys."""
    read: Callable[[dict], dict] = lambda c: {}
    """fla's keys -> fields of `LinearConfig`."""
    lacking: Callable[[Heads, ModelConfig], list[str]] = lambda heads, config: []
    """Heads and config -> what fla's layer does not have, in words."""
    conv_key: str | None = None
    """Key that holds the width of its convolution where it always has one; None: `HYBRID` says it."""
    letters: str = "LFW"
    """Blocks that its models are made of, the linear one first."""
    in_file: Callable[[str], str] = str
    """Name of a parameter here -> in fla's files."""


def share(part: int, whole: int) -> float:
    """The number fla multiplies by `whole` and cuts down to an integer to get `part`."""
    quotient = part / whole
    return quotient if int(whole * quotient) == part else nextafter(quotient, inf)


def channels(key: str, width: float) -> int:
    """Channels of one head, refused by the name of the key they come from unless whole."""
    if abs(width - round(width)) > 1e-6:
        raise ValueError(f"{key} must give every head a whole number of channels; got {width}")
    return round(width)


def write_expanded(heads: Heads, config: ModelConfig) -> dict:
    """Keys of the families that give widths as multiples of the hidden size."""
    return {
        "num_heads": heads.num,
        "expand_k": share(heads.num * heads.k, config.hidden_size),
        "expand_v": share(heads.num * heads.v, config.hidden_size),
    }


def read_expanded(c: dict) -> dict:
    """The inverse of `write_expanded`."""
    num, hidden = c["num_heads"], c["hidden_size"]
    k, v = (channels(key, hidden * c[key] / num) for key in ("expand_k", "expand_v"))
    return {"num_heads": num, "head_k_dim": k, "head_v_dim": v}

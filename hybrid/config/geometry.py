"""Heads and widths of a config, with the reference implementation's values where none are given."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from hybrid.config import ModelConfig

DELTA_RULE = ("deltanet", "gated_deltanet")


class Heads(NamedTuple):
    """Heads of a linear mixer: their number, and key and value channels of one head."""

    num: int
    k: int
    v: int


def linear_heads(config: ModelConfig) -> Heads:
    """Heads of the linear mixer of `config`.

    Defaults are those of flash-linear-attention's configs; Gated DeltaNet's 256-channel heads hold
    three quarters of the hidden size. HGRN has a vector state: one head whose value channels are the
    hidden size and whose key has one channel.
    Raises ``ValueError`` naming the field when a width cannot be divided among the heads.
    """
    h = config.hidden_size
    if config.mixer == "hgrn":
        given = {n: getattr(config, n) for n in ("num_heads", "head_k_dim", "head_v_dim")}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"hgrn has a vector state and no heads; {name} must be None, got {value}")
        return Heads(1, 1, h)
    if config.mixer == "hgrn2" and config.num_heads is None and config.head_k_dim:
        num = _divided("head_k_dim", h, config.head_k_dim)
    elif config.mixer == "hgrn2":
        num = config.num_heads or _divided("head_k_dim", h, 128)
    elif config.mixer == "gated_deltanet":
        num = config.num_heads or max(1, round(0.75 * h / (config.head_k_dim or 256)))
    else:
        num = config.num_heads or {"retnet": 8, "gla": 4, "deltanet": 16}[config.mixer]
    k_width = {"gla": h // 2}.get(config.mixer, h)
    v_width = {"retnet": 2 * h}.get(config.mixer, h)
    if config.mixer == "gated_deltanet":
        k = config.head_k_dim or 256
        return Heads(num, k, config.head_v_dim or 2 * k)
    if config.mixer == "hgrn2" and config.head_k_dim not in (None, h // num):
        raise ValueError(
            f"hgrn2's keys are its gates: head_k_dim must be hidden_size / num_heads = {h // num}; "
            f"got {config.head_k_dim}"
        )
    return Heads(
        num,
        config.head_k_dim or _divided("num_heads", k_width, num),
        config.head_v_dim or _divided("num_heads", v_width, num),
    )


def mlp_size(config: ModelConfig) -> int:
    """Inner width of the SwiGLU MLP: two thirds of `ratio` times the hidden size, rounded up to a
    multiple of 256, with ratio 4 (2 for RetNet, whose values are twice as wide)."""
    if config.mlp_size is not None:
        return config.mlp_size
    ratio = 2 if config.mixer == "retnet" else 4
    return 256 * ceil(int(config.hidden_size * ratio * 2 / 3) / 256)


def conv_width(config: ModelConfig, letter: str) -> int:
    """Width of the short convolution of a block; 0 is no convolution."""
    if config.conv == "reference":
        return 4 if letter == "L" and config.mixer in DELTA_RULE else 0
    return 0 if config.conv == "none" else int(config.conv)


def _divided(name: str, width: int, by: int) -> int:
    if width % by:
        raise ValueError(f"{name} must divide {width} channels; got {by}")
    return width // by

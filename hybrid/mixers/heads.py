"""Heads of a linear mixer, read off a config."""

from __future__ import annotations

from typing import NamedTuple

from hybrid.config import LinearConfig, ModelConfig


class Heads(NamedTuple):
    """Heads of a linear mixer: their number, and key and value channels of one head."""

    num: int
    k: int
    v: int


def plain_heads(config: ModelConfig, num: int, k_width: int, v_width: int) -> Heads:
    """Heads that share the widths of keys and values among them; fields that are given win.

    Raises ``ValueError`` where a width cannot be divided, or for groups of heads.
    """
    given = config.linear
    no_groups(given)
    num = given.num_heads or num
    return Heads(
        num,
        given.head_k_dim or divided("num_heads", k_width, num),
        given.head_v_dim or divided("num_heads", v_width, num),
    )


def no_groups(given: LinearConfig) -> None:
    """Refuse groups of heads for a mixer whose every head has its own queries and keys."""
    if given.num_groups is not None:
        raise ValueError(
            f"{given.mixer} has no groups of heads; num_groups must be None, got {given.num_groups}"
        )


def divided(name: str, width: int, by: int) -> int:
    """`width` over `by`; refused by the name of the field unless it is whole."""
    if width % by:
        raise ValueError(f"{name} must divide {width} channels; got {by}")
    return width // by

"""What a model costs, read off its config without building it: parameters, FLOPs, bytes.

A FLOP is one multiplication or one addition of real numbers, so a matrix product of an ``m x n``
matrix with a vector is ``2 m n`` of them. Counts are of the forward pass, per token of one sequence.
Norms, activations and rotary positions are left out: they grow with a width, not with a product of two.
So are the exponentials of the softmax: one for each head and position seen, beside ``4 d / H`` FLOPs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hybrid.config import ModelConfig
from hybrid.config.geometry import conv_width, linear_heads, mlp_size
from hybrid.mixers.gla import GATE_RANK

PASSES = {"hgrn": 5, "retnet": 5, "gla": 5, "hgrn2": 5, "deltanet": 6, "gated_deltanet": 7}
"""FLOPs a linear mixer spends on each element of its state, per token.

Decay 1, outer product 1, addition 1 and read-out 2 make 5. The delta rule reads the old value
first (2) and needs no decay: 6; with a decay, 7. HGRN's vector spends 1 on the decay, 2 on the input's
gate, 1 on the addition and 1 on the gated read-out.
"""

TOLERANCE = 0.02
"""Largest relative difference at which two parameter counts are called matched."""


class _Mixer(NamedTuple):
    """What a mixer of one block is made of, in numbers of channels."""

    matrices: tuple[tuple[int, int], ...]
    convolved: int
    vectors: int
    state: int


def _mixer(config: ModelConfig, letter: str) -> _Mixer:
    h = config.hidden_size
    if letter != "L":
        head = config.head_dim
        q, kv = config.attn_heads * head, config.kv_heads * head
        vectors = 2 * head * config.qk_norm + (q + 2 * kv) * config.qkv_bias
        return _Mixer(((h, q), (h, kv), (h, kv), (q, h)), q + 2 * kv, vectors, 0)
    heads, k, v = linear_heads(config)
    keys, values = heads * k, heads * v
    q_k_v_o = ((h, keys), (h, keys), (h, values), (values, h))
    gate, scalars = (h, values), (h, heads)
    all_three, state = 2 * keys + values, heads * k * v
    match config.mixer:
        case "hgrn":
            return _Mixer(((h, h),) * 4, 2 * h, h, h)
        case "retnet":
            return _Mixer((*q_k_v_o, gate), all_three, v, state)
        case "gla":
            decay = ((h, GATE_RANK), (GATE_RANK, keys))
            return _Mixer((*q_k_v_o, gate, *decay), all_three, keys + v, state)
        case "hgrn2":
            return _Mixer(q_k_v_o, all_three, values, state)
        case "deltanet":
            return _Mixer((*q_k_v_o, scalars), all_three, v, state)
        case "gated_deltanet":
            return _Mixer((*q_k_v_o, gate, scalars, scalars), all_three, 2 * heads + v, state)


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the model; the values sum to `parameters`."""
    h, depth = config.hidden_size, config.depth
    mixers = [(_mixer(config, letter), conv_width(config, letter)) for letter in config.layout]
    lower_bounds = config.mixer in ("hgrn", "hgrn2") and "L" in config.layout.letters
    return {
        "embeddings": config.vocab_size * h,
        "mixers": sum(sum(i * o for i, o in m.matrices) + m.vectors for m, _ in mixers),
        "convolutions": sum(width * m.convolved for m, width in mixers),
        "mlps": depth * 3 * h * mlp_size(config),
        "norms": (2 * depth + 1) * h,
        "lower bounds": depth * h * lower_bounds,
        "head": 0 if config.tie_embeddings else config.vocab_size * h,
    }


def parameters(config: ModelConfig) -> int:
    """Number of parameters of the model, shared ones counted once."""
    return sum(parameters_by_part(config).values())


def match_parameters(config: ModelConfig, target: int, multiple: int = 1) -> ModelConfig:
    """The config with the `mlp_size`, a multiple of ``multiple``, that brings its parameters closest to
    `target`. Tensor cores are fast on multiples of 8, and on multiples of 64 at the paper's widths.

    Raises ``ValueError`` when the closest count is more than 2 % off, as when the rest of the model
    alone is larger than the target.
    """
    least = parameters(replace(config, mlp_size=multiple))
    per_step = 3 * config.hidden_size * config.depth * multiple
    matched = replace(config, mlp_size=multiple * max(1, 1 + round((target - least) / per_step)))
    if abs(parameters(matched) - target) > TOLERANCE * target:
        raise ValueError(
            f"no mlp_size brings {config.mixer} {config.layout} within {TOLERANCE:.0%} of {target:,} "
            f"parameters; closest: {parameters(matched):,} at mlp_size {matched.mlp_size}"
        )
    return matched


def _mean_seen(length: int, window: int | None) -> float:
    """Positions a causal query sees, itself included, averaged over the sequence."""
    w = min(length, window or length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


def flops_by_part(config: ModelConfig, length: int) -> dict[str, float]:
    """FLOPs per token of each part, averaged over the positions of a sequence of `length` tokens.

    "state" is what the mixer does with its memory: scores and weighted values of softmax attention, 4
    for a position seen and a channel of the queries that see it, or `PASSES` over the state of a linear
    mixer, computed as the recurrence says. The other parts do not depend on the length.
    Raises ``ValueError`` for a length below 1.
    """
    _check_length(length)
    parts = dict.fromkeys(("projections", "convolutions", "state", "mlps", "head"), 0.0)
    for index, letter in enumerate(config.layout):
        m = _mixer(config, letter)
        parts["projections"] += 2 * sum(i * o for i, o in m.matrices)
        parts["convolutions"] += 2 * conv_width(config, letter) * m.convolved
        if letter == "L":
            parts["state"] += PASSES[config.mixer] * m.state
        for heads, window in config.spans(index):
            channels = config.attn_heads // config.kv_heads * config.head_dim * len(heads)
            parts["state"] += 4 * channels * _mean_seen(length, window)
    parts["mlps"] = config.depth * 6 * config.hidden_size * mlp_size(config)
    parts["head"] = 2 * config.hidden_size * config.vocab_size
    return parts


def mixer_flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs per token of the mixers of all blocks: projections, convolutions and state."""
    parts = flops_by_part(config, length)
    return parts["projections"] + parts["convolutions"] + parts["state"]


def flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs per token of the whole model, averaged over a sequence of `length` tokens.

    A training step costs about three times as many: the backward pass has two products for
    every one of the forward pass.
    """
    return sum(flops_by_part(config, length).values())


def state_bytes(config: ModelConfig, dtype_bytes: int = 2) -> int:
    """Bytes that decoding one sequence keeps at any length.

    The linear mixers' states, always float32, and the last inputs of the short
    convolutions of every block, `dtype_bytes` a number.
    """
    total = 0
    for letter in config.layout:
        m = _mixer(config, letter)
        total += 4 * m.state + dtype_bytes * max(0, conv_width(config, letter) - 1) * m.convolved
    return total


def cache_bytes(config: ModelConfig, length: int, dtype_bytes: int = 2) -> int:
    """Bytes of the keys and values of one sequence after `length` tokens, `dtype_bytes` a number.

    They grow with the length in heads that see the whole past and stop at the window in the others.
    Decoding needs these and `state_bytes`. Raises ``ValueError`` for a length below 1.
    """
    _check_length(length)
    width = 2 * config.head_dim
    spans = [span for index in range(config.depth) for span in config.spans(index)]
    return dtype_bytes * width * sum(len(heads) * min(length, window or length) for heads, window in spans)


def table7_flops(mixer: str, length: int, d_model: int = 2048, heads: int = 8) -> float:
    """FLOPs per token of one layer as the paper counts them: its constant times the state's size.

    Square heads are assumed, ``d_k = d_v = d_model / heads``, and projections are left out.
    Raises ``ValueError`` for a mixer that is not in the table.
    Source: 2507.06457 v1, Table 7 (v2, Table 4), from `book/published/table7_flops.csv`.
    """
    from hybrid.papers.published import table

    _check_length(length)
    rows = table("table7_flops").set_index("mixer")
    if mixer not in rows.index:
        raise ValueError(f"no mixer {mixer!r} in Table 7; there are: {', '.join(rows.index)}")
    row = rows.loc[mixer]
    if row["cost_in_sequence_length"] == "quadratic":
        return 2.0 * length * d_model
    state = d_model**2 / heads if row["flops_per_token_per_layer_formula"].endswith("/H") else d_model
    return float(row["passes_constant_k"]) * state


def _check_length(length: int) -> None:
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"length must be a whole number of at least 1; got {length!r}")

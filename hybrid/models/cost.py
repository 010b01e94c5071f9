"""What a model costs, read off the model itself, built without memory: parameters, FLOPs, bytes.

The model is built on PyTorch's meta device, where tensors have shapes and no numbers. Its parameters are
counted, its matrices say what a projection costs, and the state that a mixer gives after some tokens is
measured. Only what a mixer spends on its state is declared, by the mixer (``state_flops``).

A FLOP is one multiplication or one addition of real numbers, so a matrix product of an ``m x n``
matrix with a vector is ``2 m n`` of them. Counts are of the forward pass, per token of one sequence.
Norms, activations and rotary positions are left out: they grow with a width, not with a product of two.
So are the exponentials of the softmax: one for each head and position seen, beside ``4 d / H`` FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.mixers.cache import Cache
from hybrid.mixers.conv import ShortConv
from hybrid.models.block import Block
from hybrid.models.hybrid_lm import HybridLM

TOLERANCE = 0.02
"""Largest relative difference at which two parameter counts are called matched."""
BY_BYTES = {2: torch.bfloat16, 4: torch.float32}
"""Bytes of a number -> type of a model's parameters."""


@lru_cache(maxsize=256)
def outline(config: ModelConfig, dtype: torch.dtype = torch.float32) -> HybridLM:
    """The model of a config without its numbers: on the meta device."""
    with torch.device("meta"):
        return HybridLM(config).to(dtype)


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the model; the values sum to `parameters`."""
    model = outline(config)
    blocks = list(model.model.layers)
    norms = [block.attn_norm for block in blocks] + [block.mlp_norm for block in blocks]
    convolutions = sum(_count(part) for block in blocks for part in _convolutions(block.attn))
    return {
        "embeddings": _count(model.model.embeddings),
        "mixers": sum(_count(block.attn) for block in blocks) - convolutions,
        "convolutions": convolutions,
        "mlps": sum(_count(block.mlp) for block in blocks),
        "norms": sum(map(_count, norms)) + _count(model.model.norm),
        "lower bounds": sum(p.numel() for p in model.model.parameters(recurse=False)),
        "head": 0 if config.tie_embeddings else _count(model.lm_head),
    }


def parameters(config: ModelConfig) -> int:
    """Number of parameters of the model, shared ones counted once."""
    return _count(outline(config))


def match_parameters(config: ModelConfig, target: int, multiple: int = 1) -> ModelConfig:
    """The config with the width of the MLP, a multiple of ``multiple``, that brings its parameters closest to
    `target`. Tensor cores are fast on multiples of 8, and on multiples of 64 at the paper's widths.

    Raises ``ValueError`` when the closest count is more than 2 % off, as when the rest of the model
    alone is larger than the target, and for a model without a dense MLP.
    """
    if config.mlp is None:
        raise ValueError(f"no block of layout {config.layout} has an MLP whose width could be matched")

    def sized(size: int) -> ModelConfig:
        return replace(config, mlp=replace(config.mlp, size=size))

    least = parameters(sized(multiple))
    per_step = parameters(sized(2 * multiple)) - least
    matched = sized(multiple * max(1, 1 + round((target - least) / per_step)))
    if abs(parameters(matched) - target) > TOLERANCE * target:
        raise ValueError(
            f"no MLP brings {config.mixer_name} {config.layout} within {TOLERANCE:.0%} of {target:,} "
            f"parameters; closest: {parameters(matched):,} at width {matched.mlp.size}"
        )
    return matched


def flops_by_part(config: ModelConfig, length: int) -> dict[str, float]:
    """FLOPs per token of each part, averaged over the positions of a sequence of `length` tokens.

    "state" is what the mixers do with their memory, see their ``state_flops``. The other parts do not depend
    on the length. Raises ``ValueError`` for a length below 1.
    """
    _check_length(length)
    model = outline(config)
    parts = dict.fromkeys(("projections", "convolutions", "state", "mlps", "head"), 0.0)
    for block in model.model.layers:
        if block.attn is not None:
            parts["projections"] += 2 * _matrices(block.attn)
            parts["convolutions"] += 2 * sum(c.weight.numel() for c in _convolutions(block.attn))
            parts["state"] += block.attn.state_flops(length)
        if block.mlp is not None:
            parts["mlps"] += 2 * _matrices(block.mlp) * getattr(block.mlp, "active", 1)
    parts["head"] = 2 * model.lm_head.weight.numel()
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
    """Bytes that decoding one sequence keeps at any length: the linear mixers' states, always float32, and
    the last inputs of the short convolutions of every block, `dtype_bytes` a number."""
    return _memory(config, 1, dtype_bytes)[0]


def cache_bytes(config: ModelConfig, length: int, dtype_bytes: int = 2) -> int:
    """Bytes of the keys and values of one sequence after `length` tokens, `dtype_bytes` a number.

    They grow with the length in heads that see the whole past and stop at the window in the others.
    Decoding needs these and `state_bytes`. Raises ``ValueError`` for a length below 1.
    """
    _check_length(length)
    return _memory(config, length, dtype_bytes)[1]


@torch.no_grad()
def _memory(config: ModelConfig, length: int, dtype_bytes: int) -> tuple[int, int]:
    """Bytes of all states and of all caches after a text of `length` tokens: those of every kind of block are
    measured on one of its kind."""
    if dtype_bytes not in BY_BYTES:
        allowed = ", ".join(map(str, BY_BYTES))
        raise ValueError(f"dtype_bytes must be one of {allowed}; got {dtype_bytes!r}")
    dtype = BY_BYTES[dtype_bytes]
    model, known, totals = outline(config, dtype), {}, [0, 0]
    text = torch.empty(1, length, config.hidden_size, dtype=dtype, device="meta")
    heads = (config.window and config.window.full_heads) or [()] * config.depth
    for index, (block, shared) in enumerate(zip(model.model.layers, model.model.shared(), strict=True)):
        kind = config.layout.letters[index], heads[index]
        if kind not in known:
            known[kind] = _bytes_of(block, text, shared)
        totals = [total + more for total, more in zip(totals, known[kind], strict=True)]
    return tuple(totals)


def _bytes_of(block: Block, text: Tensor, shared: dict[str, Tensor]) -> tuple[int, int]:
    if block.attn is None:
        return 0, 0

    def after(tokens: int) -> tuple[int, int]:
        _, state = block.attn(text[:, :tokens], None, **shared)
        found = {cached: [] for cached in (False, True)}
        for tensor, cached in _tensors(state):
            found[cached].append(tensor.numel() * tensor.element_size())
        return sum(found[False]), sum(found[True])

    # What a second token does not make larger no token does: most of a long text need not be read.
    one, two = after(1), after(2)
    return one if one == two else after(text.shape[1])


def _tensors(state, cached: bool = False) -> Iterator[tuple[Tensor, bool]]:
    """The tensors of a nested state, each with whether it lies in a cache of keys and values."""
    if isinstance(state, Tensor):
        yield state, cached
    elif isinstance(state, Cache):
        yield from ((state.keys, True), (state.values, True))
    elif isinstance(state, tuple):
        for part in state:
            yield from _tensors(part, cached)


def _convolutions(part: nn.Module | None) -> list[ShortConv]:
    found = part.modules() if part is not None else ()
    return [module for module in found if isinstance(module, ShortConv) and module.weight is not None]


def _matrices(part: nn.Module) -> int:
    """Elements of the matrices that a token is multiplied with."""
    return sum(module.weight.numel() for module in part.modules() if isinstance(module, nn.Linear))


def _count(part: nn.Module | None) -> int:
    return sum(p.numel() for p in part.parameters()) if part is not None else 0


def _check_length(length: int) -> None:
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"length must be a whole number of at least 1; got {length!r}")

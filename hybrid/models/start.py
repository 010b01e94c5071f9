"""How the parameters of a model are drawn: by `StartConfig`, one rule for every mixer."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from hybrid.config import StartConfig
from hybrid.mixers.conv import ShortConv

NEIGHBOURS = (0.3, 0.3)
"""Mean and standard deviation of short convolutions that pass their neighbours on."""


@torch.no_grad()
def draw(model: nn.Module, start: StartConfig, depth: int) -> None:
    """Draw every parameter anew.

    Matrices, convolutions and embeddings are normal with the standard deviation of `start`, norms one and
    biases zero. A part of the model with parameters that start otherwise draws them in its ``draw(slow)``,
    slow where memories are to start long. Which parameters are queries, keys and outputs, a mixer says by
    what it takes over of softmax attention. Each part of the start changes its own parameters alone: those
    that it leaves are what the same seed gives without it.

    Args:
        model: a `HybridLM`.
        start: how.
        depth: blocks of the model.
    """
    laws = {}
    if start.unit_embeddings:
        laws[model.model.embeddings.weight] = (0.0, 1.0)
    if start.neighbours:
        convs = (part for part in model.modules() if isinstance(part, ShortConv))
        laws |= {conv.weight: NEIGHBOURS for conv in convs if conv.weight is not None}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(*laws.get(parameter, (0.0, start.std)))
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, part in model.named_modules():
        if hasattr(part, "draw"):
            part.draw(slow=start.long_memory)
        if hasattr(part, "takes_over"):
            _start_mixer(part, start, depth)
        if start.scaled_branches and name.endswith(".mlp.down_proj"):
            part.weight.div_(sqrt(2 * depth))


def _start_mixer(mixer: nn.Module, start: StartConfig, depth: int) -> None:
    """Scale and relate the projections of a mixer."""
    parameters, found = dict(mixer.named_parameters()), {}
    for carried in mixer.takes_over():
        if carried.source.endswith("_proj.weight"):
            found[carried.source[0]] = (parameters[carried.name][carried.rows], carried.sign)
    if start.scaled_branches:
        for role, factor in (("q", 2.0), ("k", 2.0), ("o", 1 / sqrt(2 * depth))):
            if role in found:
                found[role][0].mul_(factor)
    if start.related_keys and {"q", "k"} <= set(found):
        (query, sign), (key, other) = found["q"], found["k"]
        if query.shape == key.shape:
            key.copy_(sign * other * query)

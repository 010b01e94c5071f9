"""What a hybrid takes over from the Transformer it is made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from hybrid.config import ModelConfig
from hybrid.mixers.base import LinearMixer
from hybrid.models.hybrid_lm import HybridLM


@torch.no_grad()
def carry_over(teacher: HybridLM, student: HybridLM) -> list[str]:
    """Copy into the student every weight of the teacher that has a place there.

    Embeddings, norms, MLPs and attention that stays are copied as they are. A linear mixer takes what it says
    of the teacher's projections and short convolutions (`LinearMixer.takes_over`), those of a key-value head
    once for each query head that reads it. Gates and decays keep their start. Linear mixers have no biases
    and no norms of queries and keys, so those of the teacher stay behind.

    Returns the names of the parameters of linear mixers that were taken over. A ``UserWarning`` says where a
    mixer has another shape than the teacher's attention and takes nothing.
    """
    source = dict(teacher.named_parameters())
    linear = {f"model.layers.{i}.attn.": m for i, m in _linear_mixers(student)}
    for name, parameter in student.named_parameters():
        if name in source and not name.startswith(tuple(linear)):
            parameter.copy_(source[name])
    taken = [
        name for prefix, mixer in linear.items() for name in _take_over(prefix, mixer, source, teacher.config)
    ]
    if linear and not taken:
        first = next(iter(linear.values()))
        warnings.warn(
            f"{first.name} takes nothing over from the teacher: none of its parameters has the shape of "
            f"{teacher.config.attention.num_heads} heads of {teacher.config.head_dim} channels; its mixers "
            "start from where they are drawn",
            stacklevel=2,
        )
    return taken


def _linear_mixers(model: HybridLM) -> Iterator[tuple[int, LinearMixer]]:
    for index, block in enumerate(model.model.layers):
        if isinstance(block.attn, LinearMixer):
            yield index, block.attn


def _take_over(
    prefix: str, mixer: LinearMixer, source: dict[str, Tensor], teacher: ModelConfig
) -> Iterator[str]:
    """Copy what a mixer takes over of the attention of that name, and name its parameters."""
    parameters = dict(mixer.named_parameters())
    group = teacher.attention.num_heads // teacher.kv_heads
    for carried in mixer.takes_over():
        found = source.get(prefix + carried.source)
        place = parameters.get(carried.name)
        if found is None or place is None:
            continue
        if group > 1 and carried.source[0] in "kv":
            found = found.unflatten(0, (-1, teacher.head_dim)).repeat_interleave(group, 0).flatten(0, 1)
        if place[carried.rows].shape == found.shape:
            place[carried.rows] = carried.sign * found
            yield prefix + carried.name


def of_mixer(name: str) -> bool:
    """Whether the parameter of that name belongs to a mixer; the bounds that HGRN's mixers share do."""
    return ".attn." in name or name.endswith("lower_bounds")

"""What every linear mixer is: a module, and what the rest of the package asks of its kind."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from hybrid.config import MIXERS, ModelConfig
from hybrid.mixers.fla import Family
from hybrid.mixers.heads import Heads

mixer = MIXERS.register
"""``@mixer(name)`` over a class enters it into the table of mixers."""


class Look(NamedTuple):
    """How a mixer is drawn: the same on every page."""

    color: str
    marker: str
    dash: str | tuple = "-"


class Carried(NamedTuple):
    """A tensor of softmax attention that a mixer can start from."""

    name: str
    """The mixer's parameter."""
    source: str
    """Attention's, with one head a query head."""
    sign: int = 1
    """-1 where the mixer's formula takes the negative of what attention computes."""
    rows: slice = slice(None)
    """The part of the parameter that it fills."""


OF_ATTENTION = tuple(
    Carried(f"{role}_{part}.weight", f"{role}_{part}.weight")
    for role, parts in (("q", 2), ("k", 2), ("v", 2), ("o", 1))
    for part in ("proj", "conv1d")[:parts]
)
"""The projections of softmax attention and their short convolutions, under their own names."""


class LinearMixer(nn.Module):
    """Base of the linear mixers: ``forward(x, state=None) -> (y, state)``, x and y [B, T, hidden].

    The state is a nested tuple of tensors and whole numbers; None is "nothing seen yet". Passing a text in
    pieces, with the state of one piece given to the next, equals passing it whole. A mixer whose parameters
    do not start as every other matrix, norm or bias does draws them in ``draw(slow)``, slow where memories
    are to start long; one with a lower bound on its forget gate takes ``lower_bound`` beside x and state.

    Args:
        config: of the model.
        heads: of this block; None are those of the config.
    """

    name: ClassVar[str]
    """What a config calls it; set by `mixer`."""
    label: ClassVar[str]
    """What a reader calls it."""
    look: ClassVar[Look]
    """How figures draw it."""
    flops_per_element: ClassVar[int]
    """FLOPs that a token spends on each element of the state, computed as the recurrence says."""
    reference_conv: ClassVar[int] = 0
    """Width of its short convolution as published; 0 is none."""
    mlp_ratio: ClassVar[float] = 4
    """Published ratio of the MLP beside it, see `hybrid.models.mlps.inner_width`."""
    uses_lower_bound: ClassVar[bool] = False
    """Whether its forget gate has a lower bound, shared by all blocks."""
    fla: ClassVar[Family | None] = None
    """flash-linear-attention's model type, if it has one."""
    carried: ClassVar[tuple[Carried, ...]] = OF_ATTENTION
    """What it takes over from softmax attention whose heads have the shape of its own."""

    def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
        super().__init__()
        self.heads = self.heads_of(config) if heads is None else heads

    @classmethod
    def heads_of(cls, config: ModelConfig) -> Heads:
        """Heads of a config, with the reference implementation's values where none are given.

        Raises ``ValueError`` naming the field when a width cannot be divided among the heads.
        """
        raise NotImplementedError

    @classmethod
    def narrow(cls, heads: Heads) -> Heads:
        """Heads of half the width, for a block that holds attention beside the mixer.

        Raises ``ValueError`` for an odd number of channels.
        """
        for name, width in (("head_k_dim", heads.k), ("head_v_dim", heads.v)):
            if width % 2:
                raise ValueError(f"a mixer beside attention has heads of half the width; {name} is {width}")
        return Heads(heads.num, heads.k // 2, heads.v // 2)

    @classmethod
    def heads_like(cls, num: int, width: int) -> dict[str, int]:
        """Fields of a `LinearConfig` whose heads have the shape of attention's, for a model that is made of a
        Transformer or compared with one."""
        return {"num_heads": num, "head_k_dim": width, "head_v_dim": width}

    def takes_over(self) -> tuple[Carried, ...]:
        """What this layer takes over: `carried`, unless it depends on the heads."""
        return self.carried

    def state_flops(self, length: int) -> float:
        """FLOPs a token spends on the memory, averaged over a text of `length` tokens."""
        return self.flops_per_element * self.heads.num * self.heads.k * self.heads.v

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        raise NotImplementedError


def conv_width(config: ModelConfig, reference: int) -> int:
    """Width of the short convolution of a mixer that is published with `reference`; 0 is no convolution."""
    if config.conv == "reference":
        return reference
    return 0 if config.conv == "none" else int(config.conv)

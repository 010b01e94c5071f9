"""How a model's parameters are drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hybrid.config.checks import flags, floats, from_zero


@dataclass(frozen=True)
class StartConfig:
    """How the parameters of a model are drawn.

    As it is: every matrix, convolution and embedding normal with one standard deviation, decays as their
    mixer's reference draws them. This is the "reference" start, that of the libraries.

    Each further part is one thing that a small model otherwise has to find before it can recall, which takes
    most of a short training; some mixers never do. `mimetic` is all of them. That keys start as queries,
    and memories long, is mimetic initialisation (Trockman et al., 2410.11135: state space models that start
    like attention); unit embeddings, scaled branches and neighbours are this book's. The parts favour
    matching keys with values: they are for studies of what a memory holds, in models of a few blocks, and
    not how any published system starts.
    """

    std: float = 0.02
    """Standard deviation of the normal distribution of every matrix."""
    unit_embeddings: bool = False
    """Draw token embeddings with a standard deviation of 1, the size that a norm gives them: what a block
    adds is small beside the token, so that the token is still there for the blocks above."""
    scaled_branches: bool = False
    """Draw queries and keys twice as large, so that they tell tokens apart from the first step, and what
    writes to the residual stream smaller by the root of the number of branches, ``sqrt(2 depth)``."""
    related_keys: bool = False
    """Start keys as the queries: a token looks for itself. Where the key is one minus a gate, the gate starts
    as the negative of the queries."""
    neighbours: bool = False
    """Draw short convolutions around 0.3, with a standard deviation of 0.3: a key passes on to the value
    beside it from the first step."""
    long_memory: bool = False
    """Start decays that are learnt near one: some of what is written is then still there after hundreds of
    tokens, where most reference starts forget within tens."""

    @classmethod
    def mimetic(cls, hidden_size: int) -> StartConfig:
        """All parts, with a standard deviation of 1/8 at 64 channels, which falls with their root."""
        return cls(0.125 * (64 / hidden_size) ** 0.5, **dict.fromkeys(START_PARTS, True))

    def __post_init__(self) -> None:
        floats(self)
        from_zero(self, "std")
        flags(self, *START_PARTS)


START_PARTS = tuple(f.name for f in fields(StartConfig) if f.name != "std")
"""The parts of the mimetic start."""

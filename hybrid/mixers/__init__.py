"""What mixes tokens in a block: one file a mixer, projections and gates around one kernel.

A mixer is a module ``Mixer(config, index)`` with ``forward(x, state=None) -> (y, state)``, x and y
[B, T, hidden]. The state is a nested tuple of tensors and whole numbers; None is "nothing seen yet".
Passing a text in pieces, with the state of one piece given to the next, equals passing it whole.
Parameter names, shapes and formulas are those of flash-linear-attention. A mixer with parameters
that do not start as every other matrix, norm or bias does draws them in ``reset_parameters()``; one
with a lower bound on its forget gate says ``uses_lower_bound = True`` and takes ``lower_bound``.
"""

from __future__ import annotations

from torch import nn

from hybrid.config import ModelConfig
from hybrid.mixers.attention import Attention
from hybrid.mixers.deltanet import DeltaNet
from hybrid.mixers.gated_deltanet import GatedDeltaNet
from hybrid.mixers.gla import GLA
from hybrid.mixers.hgrn import HGRN
from hybrid.mixers.hgrn2 import HGRN2
from hybrid.mixers.retnet import RetNet

MIXERS = {
    "hgrn": HGRN,
    "retnet": RetNet,
    "gla": GLA,
    "hgrn2": HGRN2,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
}


def build_mixer(config: ModelConfig, index: int) -> nn.Module:
    """The mixer of block `index`: the config's linear mixer for `L`, attention for `F` and `W`."""
    kind = MIXERS[config.mixer] if config.layout.letters[index] == "L" else Attention
    return kind(config, index)

"""What mixes tokens in a block: one file a linear mixer, projections and gates around one kernel.

`base` says what a linear mixer is; ``@mixer(name)`` enters one into the table that configs, cost,
checkpoints, figures and tests read, and nothing outside its file knows its name. Parameter names, shapes and
formulas are those of flash-linear-attention. `attention` is softmax attention, `parallel` both side by side.
"""

from __future__ import annotations

from torch import nn

from hybrid.config import MIXERS, ModelConfig
from hybrid.mixers.attention import Attention
from hybrid.mixers.parallel import Parallel


def build_mixer(config: ModelConfig, index: int) -> nn.Module | None:
    """What mixes tokens in block `index`; None where nothing does."""
    match config.layout.kinds[index].mixers:
        case ():
            return None
        case ("linear",):
            return MIXERS[config.linear.mixer](config)
        case ("full", "linear"):
            return Parallel(config, index)
        case _:
            return Attention(config, index)

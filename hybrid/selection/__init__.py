"""Choosing the blocks that keep full attention: one interface (`base`), one file a family of methods.

`Uniform` and `Random` look at nothing; `OutputError`, `RecallDrop`, `RecallAlone` and `HaloRatio` score each
block by itself; `Restoration` distils once a block; `Exhaustive` tries every set; `FlashMorph` learns all
gates. `consa` learns masks together with the weights, so it is no selector but a training.
"""

from hybrid.selection.drawn import Random, Uniform
from hybrid.selection.exhaustive import Exhaustive
from hybrid.selection.flashmorph import FlashMorph
from hybrid.selection.restored import Restoration
from hybrid.selection.scored import HaloRatio, OutputError, RecallAlone, RecallDrop

__all__ = [
    "Exhaustive",
    "FlashMorph",
    "HaloRatio",
    "OutputError",
    "Random",
    "RecallAlone",
    "RecallDrop",
    "Restoration",
    "Uniform",
]

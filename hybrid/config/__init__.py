"""What a run is: frozen descriptions of a model, its task and its training.

Every field is documented by the string below it. A wrong value is refused here, where it enters,
with the offending value and the allowed ones.
"""

from hybrid.config.model import MIXERS, ModelConfig
from hybrid.config.run import RunSpec
from hybrid.config.task import TaskConfig
from hybrid.config.train import DECAYS, PRECISIONS, TrainConfig

__all__ = ["DECAYS", "MIXERS", "PRECISIONS", "ModelConfig", "RunSpec", "TaskConfig", "TrainConfig"]

"""What a run is: frozen descriptions of a model, its task and its training.

Every field is documented by the string below it. A wrong value is refused here, where it enters,
with the offending value and the allowed ones.
"""

from hybrid.config.layout import Layout
from hybrid.config.model import (
    AttentionConfig,
    ExpertsConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RotaryConfig,
    WindowConfig,
)
from hybrid.config.registry import EXPERTS, MIXERS, MLPS
from hybrid.config.run import RunSpec
from hybrid.config.start import StartConfig
from hybrid.config.task import LessonConfig, TaskConfig
from hybrid.config.train import DECAYS, PRECISIONS, TrainConfig

__all__ = [
    "DECAYS",
    "EXPERTS",
    "MIXERS",
    "MLPS",
    "PRECISIONS",
    "AttentionConfig",
    "ExpertsConfig",
    "Layout",
    "LessonConfig",
    "LinearConfig",
    "MLPConfig",
    "ModelConfig",
    "RotaryConfig",
    "RunSpec",
    "StartConfig",
    "TaskConfig",
    "TrainConfig",
    "WindowConfig",
]

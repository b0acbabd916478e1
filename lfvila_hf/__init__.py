"""LF-VILA, long-form video-language pre-training, for the Hugging Face ecosystem.

Importing the package registers configuration, models and processors with transformers' Auto classes, and the LoRA
targets with PEFT. The files of this folder itself (`*_lfvila.py`) travel with a checkpoint as remote code; the folders
do not.
"""

from __future__ import annotations

from lfvila_hf.configuration_lfvila import LFVilaConfig, LFVilaTextConfig, LFVilaVideoConfig
from lfvila_hf.modeling_lfvila import (
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaPreTrainedModel,
    LFVilaTextModel,
    LFVilaVideoModel,
)

__all__ = [
    "LFVilaConfig",
    "LFVilaForMultipleChoice",
    "LFVilaForPreTraining",
    "LFVilaForQuestionAnswering",
    "LFVilaForVideoClassification",
    "LFVilaModel",
    "LFVilaPreTrainedModel",
    "LFVilaTextConfig",
    "LFVilaTextModel",
    "LFVilaVideoConfig",
    "LFVilaVideoModel",
]

"""LF-VILA, long-form video-language pre-training, for the Hugging Face ecosystem.

Importing the package registers configuration, models and processors with transformers' Auto classes, and the LoRA
targets with PEFT. The files of this folder itself (`*_lfvila.py`) travel with a checkpoint as remote code; the folders
do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

# The class under this name at the top of transformers is a placeholder wherever torchvision is missing; this one works.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

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
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_processing_lfvila import LFVilaVideoProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

if TYPE_CHECKING:
    from lfvila_hf.inference import encode_paragraphs, encode_videos
    from lfvila_hf.training import LFVilaTrainer, LFVilaTrainingArguments

__version__ = "0.1.0.dev0"

# Names whose modules pull in the Trainer and data loading; they are imported when first asked for.
_LAZY = {
    "LFVilaTrainer": "lfvila_hf.training",
    "LFVilaTrainingArguments": "lfvila_hf.training",
    "encode_paragraphs": "lfvila_hf.inference",
    "encode_videos": "lfvila_hf.inference",
}


def __getattr__(name: str) -> Any:
    """Import a lazy name."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the module, those not imported yet among them."""
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Make the Auto classes of transformers know ours; doing it twice does no harm."""
    for config, model in (
        (LFVilaConfig, LFVilaModel),
        (LFVilaVideoConfig, LFVilaVideoModel),
        (LFVilaTextConfig, LFVilaTextModel),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    for auto_class, head in (
        (AutoModelForPreTraining, LFVilaForPreTraining),
        (AutoModelForVisualQuestionAnswering, LFVilaForQuestionAnswering),
        (AutoModelForMultipleChoice, LFVilaForMultipleChoice),
        (AutoModelForVideoClassification, LFVilaForVideoClassification),
    ):
        auto_class.register(LFVilaConfig, head, exist_ok=True)
    AutoProcessor.register(LFVilaConfig, LFVilaProcessor, exist_ok=True)
    AutoVideoProcessor.register(LFVilaConfig, LFVilaVideoProcessor, exist_ok=True)


_register()


__all__ = [
    "LFVilaConfig",
    "LFVilaForMultipleChoice",
    "LFVilaForPreTraining",
    "LFVilaForQuestionAnswering",
    "LFVilaForVideoClassification",
    "LFVilaModel",
    "LFVilaPreTrainedModel",
    "LFVilaProcessor",
    "LFVilaTextConfig",
    "LFVilaTextModel",
    "LFVilaTrainer",
    "LFVilaTrainingArguments",
    "LFVilaVideoConfig",
    "LFVilaVideoError",
    "LFVilaVideoModel",
    "LFVilaVideoProcessor",
    "encode_paragraphs",
    "encode_videos",
]

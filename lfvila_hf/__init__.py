"""LF-VILA, long-form video-language pre-training, for the Hugging Face ecosystem.

Importing the package registers configuration, models and processors with transformers' Auto classes, its pipelines
with `transformers.pipeline`, and the targets and heads of LoRA adapters with PEFT. The files of this folder itself
(`*_lfvila.py`) travel with a checkpoint as remote code: `save_pretrained` and `push_to_hub` copy them beside the
weights. The folders do not.
"""

from __future__ import annotations

import contextlib
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
from transformers.pipelines import PIPELINE_REGISTRY

from lfvila_hf.configuration_lfvila import LFVilaConfig, LFVilaTextConfig, LFVilaVideoConfig
from lfvila_hf.hub.adapters import register_with_peft
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
from lfvila_hf.pipeline_lfvila import LFVilaVideoQuestionAnsweringPipeline, LFVilaVideoTextRetrievalPipeline
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
    """Make transformers and PEFT know what is ours; doing it twice does no harm."""
    for config, model in (
        (LFVilaConfig, LFVilaModel),
        (LFVilaVideoConfig, LFVilaVideoModel),
        (LFVilaTextConfig, LFVilaTextModel),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
    for auto_class, head in (
        (AutoModelForPreTraining, LFVilaForPreTraining),
        (AutoModelForVisualQuestionAnswering, LFVilaForQuestionAnswering),
        (AutoModelForMultipleChoice, LFVilaForMultipleChoice),
        (AutoModelForVideoClassification, LFVilaForVideoClassification),
    ):
        auto_class.register(LFVilaConfig, head, exist_ok=True)
        head.register_for_auto_class(auto_class.__name__)
    AutoProcessor.register(LFVilaConfig, LFVilaProcessor, exist_ok=True)
    LFVilaProcessor.register_for_auto_class("AutoProcessor")
    AutoVideoProcessor.register(LFVilaConfig, LFVilaVideoProcessor, exist_ok=True)
    LFVilaVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    for task, pipeline_class, model_class in (
        ("video-text-retrieval", LFVilaVideoTextRetrievalPipeline, AutoModel),
        ("video-question-answering", LFVilaVideoQuestionAnsweringPipeline, AutoModelForVisualQuestionAnswering),
    ):
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=model_class, type="multimodal")
    with contextlib.suppress(ImportError):  # adapters are optional
        register_with_peft()


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

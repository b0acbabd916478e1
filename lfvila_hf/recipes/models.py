# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Model and processor of a recipe: from a checkpoint, from a 2-D Swin and a BERT, or new.

A checkpoint of pre-training serves every task: parts that the task adds start anew, parts that it does not need are
left out, both of which transformers lists. T, K, M and L come from the arguments, which the yaml sets as released; a
model that was trained with another T is resized.
"""

from __future__ import annotations

from typing import Any

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaProcessor,
    LFVilaVideoProcessor,
)
from lfvila_hf.recipes.arguments import RecipeArguments
from lfvila_hf.recipes.tasks import TASKS

CLASSES: dict[str, Any] = {
    "contrastive": LFVilaForPreTraining,
    "fusion": LFVilaForPreTraining,
    "retrieval": LFVilaModel,
    "question_answering": LFVilaForQuestionAnswering,
    "multiple_choice": LFVilaForMultipleChoice,
    "classification": LFVilaForVideoClassification,
}


def build_model(arguments: RecipeArguments, tokenizer: Any = None) -> tuple[Any, LFVilaProcessor]:
    """Model and processor of a task.

    Args:
        arguments: Of the recipe.
        tokenizer: For a new model; otherwise the one that the arguments name.

    Raises:
        ValueError: Where there is neither a checkpoint nor a preset nor towers, or M does not fit the checkpoint.
    """
    kind = TASKS[arguments.task].kind
    model_class = CLASSES[kind]
    if kind == "retrieval" and arguments.rerank_top_k:
        model_class = LFVilaForPreTraining  # the VTM head is there
    if arguments.model_name_or_path:
        fields = _task_fields(arguments)
        config = LFVilaConfig.from_pretrained(arguments.model_name_or_path, **fields)
        model = model_class.from_pretrained(arguments.model_name_or_path, config=config)
        processor = LFVilaProcessor.from_pretrained(arguments.model_name_or_path)
    else:
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        model = _new_model(model_class, arguments, len(tokenizer))
        processor = LFVilaProcessor(LFVilaVideoProcessor(), tokenizer)
    if model.config.num_frames != arguments.num_frames:
        model.set_num_frames(arguments.num_frames)
    text = model.config.text_config
    if TASKS[arguments.task].kind != "classification":
        tokens = arguments.paragraph_max_sentences * arguments.max_sentence_length
        if arguments.paragraph_max_sentences > text.max_sentences or tokens > text.max_position_embeddings:
            raise ValueError(
                f"the model reads up to {text.max_sentences} sentences and {text.max_position_embeddings} tokens of a "
                f"paragraph, got paragraph_max_sentences={arguments.paragraph_max_sentences} times "
                f"max_sentence_length={arguments.max_sentence_length}"
            )
    model.config.video_config.num_clips = arguments.num_clips
    height, width = model.config.video_config.image_size
    video_processor: Any = processor.video_processor
    video_processor.size = {"height": height, "width": width}
    video_processor.num_frames = arguments.num_frames
    video_processor.num_clips = arguments.num_clips
    video_processor.flip_probability = arguments.flip_probability
    processor.max_sentences = arguments.paragraph_max_sentences
    processor.max_sentence_length = arguments.max_sentence_length
    return model, processor


def _new_model(model_class: Any, arguments: RecipeArguments, vocabulary: int) -> Any:
    fields = _task_fields(arguments)
    if arguments.swin or arguments.bert:
        return model_class.from_pretrained_towers(arguments.swin, arguments.bert, **fields)
    if arguments.preset is None:
        raise ValueError("give --model_name_or_path, --swin with --bert, or --preset base or tiny for a new model")
    video: dict[str, Any] = {"num_frames": arguments.num_frames, "num_clips": arguments.num_clips}
    if arguments.preset == "tiny":
        per_clip = max(arguments.num_frames // arguments.num_clips, 1)
        video["temporal_windows"] = [
            *(min(window, per_clip) for window in (2, 4, 4)),
            *(max(arguments.num_frames // part, 1) for part in (2, 2, 1)),
        ]
    make = LFVilaConfig.tiny if arguments.preset == "tiny" else LFVilaConfig.base
    return model_class(make(video_config=video, text_config={"vocab_size": vocabulary}, **fields))


def _task_fields(arguments: RecipeArguments) -> dict[str, Any]:
    """Fields of `LFVilaConfig` that the task decides."""
    task = TASKS[arguments.task]
    fields: dict[str, Any] = {}
    if task.kind in ("question_answering", "classification"):
        fields["num_labels"] = arguments.num_labels or task.num_labels
    if task.kind == "retrieval":
        fields["temporal_alignment"] = arguments.temporal_alignment
        fields["training_phase"] = "contrastive"
        if arguments.mtc_loss_weight is None:
            fields["mtc_loss_weight"] = 0.0
    for name in ("mtc_loss_weight", "span_loss_weight"):
        if getattr(arguments, name) is not None:
            fields[name] = getattr(arguments, name)
    return fields


__all__ = ["CLASSES", "build_model"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Model and processor of a recipe: from a checkpoint, from a 2-D Swin and a BERT, or new.

A checkpoint of pre-training serves every task. Parts that the task adds start anew and parts that it does not need are
left out; transformers lists both. T, K, M and L come from the arguments, which the yaml sets as released. A model that
was trained with another T is resized.
"""

from __future__ import annotations

from typing import Any

from lfvila_hf import LFVilaConfig, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.recipes.recipe_arguments import RecipeArguments
from lfvila_hf.recipes.tasks import TASKS


def build_model(
    arguments: RecipeArguments, model_class: Any, tokenizer: Any = None, **fields: Any
) -> tuple[Any, LFVilaProcessor]:
    """Build model and processor.

    Args:
        arguments: Arguments of the recipe.
        model_class: Class of the model.
        tokenizer: Tokenizer of a new model. Defaults to the one that the arguments name.
        **fields: Fields of `LFVilaConfig` that the task sets. The arguments' loss weights win over them.

    Raises:
        ValueError: There is neither a checkpoint nor a preset nor towers, or M does not fit the checkpoint.
    """
    weights = {name: getattr(arguments, name) for name in ("mtc_loss_weight", "span_loss_weight")}
    fields |= {name: value for name, value in weights.items() if value is not None}
    if arguments.model_name_or_path:
        config = LFVilaConfig.from_pretrained(arguments.model_name_or_path, **fields)
        model = model_class.from_pretrained(arguments.model_name_or_path, config=config)
        processor = LFVilaProcessor.from_pretrained(arguments.model_name_or_path)
    else:
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        model = _new_model(model_class, arguments, len(tokenizer), fields)
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


def _new_model(model_class: Any, arguments: RecipeArguments, vocabulary: int, fields: dict[str, Any]) -> Any:
    """Build a model from pre-trained towers, or with random weights."""
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


__all__ = ["build_model"]

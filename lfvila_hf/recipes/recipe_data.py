# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Data of a recipe: annotation files (prepared or generated), skip policy, frame cache, training dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lfvila_hf.data.datasets import RowReader, StreamedDataset, VideoTextDataset
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.recipes.recipe_arguments import RecipeArguments


class RecipeFiles(NamedTuple):
    """Files of a recipe."""

    train: Path
    """Annotations to train on."""
    test: Path
    """Annotations to evaluate."""
    videos: Path
    """Folder of the videos."""
    tokenizer: Any
    """Tokenizer for generated sentences; `None` for prepared data."""


def recipe_files(arguments: RecipeArguments, output_dir: str | os.PathLike[str] | None) -> RecipeFiles:
    """Find the prepared annotations of a recipe, or generate videos with annotations in the task's format.

    Args:
        arguments: Arguments of the recipe.
        output_dir: Folder of the run, below which videos are generated.
    """
    if not arguments.generated_videos:
        folder, videos = Path(arguments.data_dir or ""), Path(arguments.video_dir or "")
        train, test = (folder / f"{split}.jsonl" for split in (arguments.train_split, arguments.eval_split))
        return RecipeFiles(train, test, videos, None)

    from accelerate import PartialState
    from transformers import BertTokenizer

    from lfvila_hf.shapetales.story_tasks import make_task_data

    count = arguments.generated_videos
    with PartialState().main_process_first():
        made = make_task_data(Path(output_dir or "") / "generated", arguments.task, count, max(count // 3, 8))
    vocabulary = {token: number for number, token in enumerate(made.vocabulary)}
    tokenizer = BertTokenizer(vocab=vocabulary)
    return RecipeFiles(made.data_dir / "train.jsonl", made.data_dir / "test.jsonl", made.video_dir, tokenizer)


def skip_log(arguments: RecipeArguments) -> SkipLog:
    """Make a counter of rows or videos that cannot be used, with the recipe's policy."""
    return SkipLog(arguments.on_error, arguments.max_skip_fraction)  # type: ignore[arg-type]  # checked by SkipLog


def frame_cache(arguments: RecipeArguments) -> FrameStore | None:
    """Open the cache of decoded frames; `None` without `--frame_cache`."""
    if not arguments.frame_cache:
        return None
    return FrameStore(arguments.frame_cache, max_bytes=int(arguments.frame_cache_gib * 2**30))


def training_dataset(rows: Any, reader: RowReader, arguments: RecipeArguments) -> VideoTextDataset | StreamedDataset:
    """Make the dataset of decoded samples; a stream with `--streaming`."""
    if arguments.streaming:
        return StreamedDataset(rows, reader, skip_log(arguments))
    return VideoTextDataset(rows, reader, skip_log(arguments))


def shuffled_labels(rows: Any, seed: int) -> Any:
    """Shuffle the labels of rows, or their sentences if they have no labels.

    Raises:
        ValueError: Paragraphs differ in their number of sentences.
    """
    column = "label" if "label" in rows.column_names else "sentences"
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    values = list(rows[column])
    if column == "sentences" and len({len(paragraph) for paragraph in values}) > 1:
        raise ValueError("paragraphs of different lengths cannot take each other's place: leave --shuffle_labels out")
    return rows.remove_columns(column).add_column(column, [values[place] for place in order])


__all__ = ["RecipeFiles", "frame_cache", "recipe_files", "shuffled_labels", "skip_log", "training_dataset"]

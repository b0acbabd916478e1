# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Rows, data sets and collators of a recipe, from prepared annotations or generated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset, StreamedDataset, VideoTextDataset
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.recipes.arguments import RecipeArguments
from lfvila_hf.recipes.tasks import COLLATORS, TASKS


@dataclass
class RecipeData:
    """Rows of a recipe.

    Attributes:
        arguments: Of the recipe.
        train: Training rows; a stream where the arguments say so; None where nothing is trained.
        test: Rows to evaluate; None where nothing is evaluated.
        seed: Seed of every random choice.
        tokenizer: Made for generated data, else None.
        skips: Reports of rows that were left out, by split.
    """

    arguments: RecipeArguments
    train: Any
    test: Any
    seed: int
    tokenizer: Any
    skips: dict[str, SkipLog]

    def training_set(self, processor: Any) -> Any:
        """Jittered frames, random crops and flips."""
        reader = self._reader(processor, training=True)
        if self.arguments.streaming:
            return StreamedDataset(self.train, reader, self._skips())
        return self._dataset(reader, self.train)

    def test_set(self, processor: Any, view: int = 0) -> VideoTextDataset:
        """One temporal view of the evaluation rows."""
        if TASKS[self.arguments.task].kind in ("contrastive", "fusion"):
            return self._dataset(self._reader(processor, training=False), self.test)
        views = (view, self.arguments.eval_views)
        return self._dataset(self._reader(processor, training=False, views=views), self.test)

    def collator(self, processor: Any) -> Any:
        """Samples to batches of the task."""
        kind = TASKS[self.arguments.task].kind
        if kind in COLLATORS:
            return COLLATORS[kind](processor)
        masked = self.arguments.mlm_probability if kind == "fusion" else 0.0
        return LFVilaCollator(processor, mlm_probability=masked, seed=self.seed)

    def _reader(self, processor: Any, **options: Any) -> Any:
        cache = None
        if self.arguments.frame_cache:
            size = int(self.arguments.frame_cache_gib * 2**30)
            cache = FrameStore(self.arguments.frame_cache, max_bytes=size)
        return TASKS[self.arguments.task].reader(processor, seed=self.seed, frame_cache=cache, **options)

    def _dataset(self, reader: Any, rows: Any) -> VideoTextDataset:
        if TASKS[self.arguments.task].kind in ("contrastive", "fusion"):
            dataset = PreTrainingDataset.__new__(PreTrainingDataset)  # its own __init__ would make a second reader
            VideoTextDataset.__init__(dataset, rows, reader, self._skips())
            return dataset
        return VideoTextDataset(rows, reader, self._skips())

    def _skips(self) -> SkipLog:
        return SkipLog(self.arguments.on_error, self.arguments.max_skip_fraction)  # type: ignore[arg-type]  # checked there


def load_data(
    arguments: RecipeArguments,
    output_dir: str | os.PathLike[str],
    seed: int,
    *,
    train: bool = True,
    evaluate: bool = True,
) -> RecipeData:
    """Rows of a recipe's task.

    Args:
        arguments: Of the recipe.
        output_dir: Where generated videos are made.
        seed: Seed of the run.
        train: Whether training rows are needed.
        evaluate: Whether rows to evaluate are needed.

    Raises:
        ValueError: Where an annotation is missing or a row cannot be used.
    """
    tokenizer: Any = None
    splits = arguments.train_split, arguments.eval_split
    if arguments.generated_videos:
        folder, videos, tokenizer = _generated(arguments, Path(output_dir))
        splits = "train", "test"
    else:
        folder, videos = Path(arguments.data_dir or ""), Path(arguments.video_dir or "")
    skips = {split: SkipLog(arguments.on_error, arguments.max_skip_fraction) for split in splits}  # type: ignore[arg-type]  # checked there
    options = _load_options(arguments)
    load = TASKS[arguments.task].load
    train_rows: Any = None
    if train:
        path = folder / f"{splits[0]}.jsonl"
        train_rows = load(path, videos, streaming=arguments.streaming, skips=skips[splits[0]], **options)
    if arguments.task == "activitynet_qa":
        options["allow_outside"] = True
    test_rows: Any = None
    if evaluate:
        test_rows = load(folder / f"{splits[1]}.jsonl", videos, skips=skips[splits[1]], **options)
    if train and arguments.shuffle_labels:
        if arguments.streaming:
            raise ValueError("shuffle_labels needs all rows at once, so no streaming")
        train_rows = shuffled_labels(train_rows, seed)
    return RecipeData(arguments, train_rows, test_rows, seed, tokenizer, skips)


def shuffled_labels(rows: Any, seed: int) -> Any:
    """The same rows with each other's labels (or, where they have none, each other's sentences)."""
    column = "label" if "label" in rows.column_names else "sentences"
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    values = list(rows[column])
    if column == "sentences" and len({len(paragraph) for paragraph in values}) > 1:
        raise ValueError("paragraphs of different lengths cannot take each other's place")
    return rows.remove_columns(column).add_column(column, [values[place] for place in order])


def _generated(arguments: RecipeArguments, output: Path) -> tuple[Path, Path, Any]:
    from accelerate import PartialState
    from transformers import BertTokenizer

    from lfvila_hf.shapetales.tasks import make_task_data

    count = arguments.generated_videos
    with PartialState().main_process_first():
        made = make_task_data(output / "generated", arguments.task, count, max(count // 3, 8))
    vocabulary = {token: number for number, token in enumerate(made.vocabulary)}
    return made.data_dir, made.video_dir, BertTokenizer(vocab=vocabulary)


def _load_options(arguments: RecipeArguments) -> dict[str, Any]:
    labels = arguments.num_labels
    if arguments.task == "activitynet_qa":
        return {"num_answers": labels or TASKS[arguments.task].num_labels}
    if TASKS[arguments.task].kind == "classification" and labels:
        return {"num_labels": labels}
    return {}


__all__ = ["RecipeData", "load_data", "shuffled_labels"]

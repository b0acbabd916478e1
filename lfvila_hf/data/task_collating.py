# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Samples of the tasks to model inputs: one collator per task, on top of `LFVilaCollator`.

Letters: B videos, N answers, M sentences, L tokens, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .collating import IGNORED, LFVilaCollator
from .datasets import VideoTextSample
from .task_annotations import OUTSIDE_VOCABULARY
from .task_datasets import span_targets


class TaskCollator(LFVilaCollator):
    """Samples with a class each; without text it serves video classification.

    Args:
        processor: `LFVilaProcessor`.
        return_ids: Also give `sample_ids`, a list of strings, which models do not take.
    """

    def __init__(self, processor: Any, return_ids: bool = False) -> None:
        super().__init__(processor, return_ids=return_ids)

    def __call__(self, samples: Sequence[VideoTextSample | None]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            `pixel_values_videos` `(B, T, 3, H, W)`, `labels` `(B,)` (-100 where no class is right), and what `text`
            and `targets` add.

        Raises:
            ValueError: Where every sample of the batch was skipped, or samples differ in shape.
        """
        kept = [sample for sample in samples if sample is not None]
        if not kept:
            raise ValueError(
                f"all {len(samples)} samples of a batch were skipped, at least one is needed: take larger batches, or "
                "go on with the data set's without_skipped()"
            )
        labels = torch.tensor([sample.row["label"] for sample in kept])
        batch: dict[str, Any] = {
            **self.text(kept),
            "pixel_values_videos": self._pixels(kept),
            "labels": labels.masked_fill(labels == OUTSIDE_VOCABULARY, IGNORED),
            **self.targets(kept),
        }
        if self.return_ids:
            batch["sample_ids"] = [sample.id for sample in kept]
        return batch

    def text(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`; nothing for videos without text."""
        return {}

    def targets(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """What the loss needs besides `labels`."""
        return {}

    def _encode(self, paragraphs: list[Any]) -> dict[str, torch.Tensor]:
        encoded = self.processor(text=paragraphs)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class VideoClassificationCollator(TaskCollator):
    """`pixel_values_videos` and `labels` (COIN, LVU)."""


class QuestionAnsweringCollator(TaskCollator):
    """Question and subtitles as sentences: `input_ids` and `attention_mask` `(B, M, L)` (ActivityNet-QA, VIOLIN)."""

    def text(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Sentences of every sample."""
        return self._encode([list(sample.sentences) for sample in samples])


class MultipleChoiceCollator(TaskCollator):
    """Question, answer, subtitles for every answer: `input_ids` `(B, N, M, L)`; `span_targets` `(B, T)` (How2QA)."""

    def text(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Every sample's sentences, once with each answer."""
        paragraphs = []
        for sample in samples:
            question, *subtitles = sample.sentences
            paragraphs.append([[question, answer, *subtitles] for answer in sample.row["answers"]])
        return self._encode(paragraphs)

    def targets(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Frames inside the span; all of them where span or duration is not known. The model weighs both sides."""
        targets = []
        for sample in samples:
            start, end = sample.row["span_start"], sample.row["span_end"]
            if sample.duration is None:
                start = end = None
            targets.append(span_targets(start, end, sample.duration or 1.0, len(sample.pictures)))
        return {"span_targets": torch.stack(targets)}  # (B, T)


__all__ = ["MultipleChoiceCollator", "QuestionAnsweringCollator", "TaskCollator", "VideoClassificationCollator"]

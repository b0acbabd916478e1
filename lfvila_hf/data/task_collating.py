# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Collators of the tasks, on top of `LFVilaCollator`.

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
    """Collator of samples with a class each; base class of the tasks.

    Args:
        processor: `LFVilaProcessor`.
        return_ids: Also return `sample_ids`, a list of strings, which models do not take.
    """

    def __init__(self, processor: Any, return_ids: bool = False) -> None:
        super().__init__(processor, return_ids=return_ids)

    def __call__(self, samples: Sequence[VideoTextSample | None]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            `pixel_values_videos` `(B, T, 3, H, W)`, `labels` `(B,)` (-100 if no class is right), and the tensors of
            `text` and `targets`.

        Raises:
            ValueError: Every sample of the batch was skipped, or samples differ in shape.
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
        """Return `input_ids` and `attention_mask`; nothing for videos without text."""
        return {}

    def targets(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Return targets of the loss besides `labels`."""
        return {}

    def _encode(self, paragraphs: list[Any]) -> dict[str, torch.Tensor]:
        encoded = self.processor(text=paragraphs)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class VideoClassificationCollator(TaskCollator):
    """Collator of video classification: `pixel_values_videos` and `labels` (COIN, LVU)."""


class QuestionAnsweringCollator(TaskCollator):
    """Collator of question and subtitles as sentences: `input_ids` `(B, M, L)` (ActivityNet-QA, VIOLIN)."""

    def text(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Encode the sentences of every sample."""
        return self._encode([list(sample.sentences) for sample in samples])


class MultipleChoiceCollator(TaskCollator):
    """Collator of question, answer, subtitles for each answer: `input_ids` `(B, N, M, L)`, `span_targets` (How2QA)."""

    def text(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Encode the sentences of every sample, once with each answer."""
        paragraphs = []
        for sample in samples:
            question, *subtitles = sample.sentences
            paragraphs.append([[question, answer, *subtitles] for answer in sample.row["answers"]])
        return self._encode(paragraphs)

    def targets(self, samples: Sequence[VideoTextSample]) -> dict[str, torch.Tensor]:
        """Return `span_targets` `(B, T)`: 1 inside the span, and everywhere if span or duration is unknown."""
        targets = []
        for sample in samples:
            start, end = sample.row["span_start"], sample.row["span_end"]
            if sample.duration is None:
                start = end = None
            targets.append(span_targets(start, end, sample.duration or 1.0, len(sample.pictures)))
        return {"span_targets": torch.stack(targets)}  # (B, T)


__all__ = ["MultipleChoiceCollator", "QuestionAnsweringCollator", "TaskCollator", "VideoClassificationCollator"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Readers of the tasks: rows of `task_annotations` in, decoded samples out.

A reader turns one row into a `VideoTextSample` whose sentences are the question and the subtitles (released order:
question, answer, subtitles). The answers of a multiple choice stay in the sample's row, and `task_collating` inserts
them. If there are more subtitles than the model has room for, neighbours with the fewest characters are joined; the
question is not. Map-style: `VideoTextDataset(rows, reader, skips)`; streamed: `StreamedDataset(rows, reader, skips)`.

**Temporal views.** With `views=(v, V)` a reader takes the v-th of V interleaved sets of T frames: frames v, v + V, ...
of `uniform_indices(n, V * T)`. Each set spans the whole video, V = 1 is the released sampling, and the answers of all
views are averaged (`recipes.recipe_evaluation`). Without a frame store every view decodes V * T frames and keeps its T.

Letters: T frames, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..processing_lfvila import merge_sentences
from ..video_reading_lfvila import VideoFrames, uniform_indices
from .annotations import AnnotationError
from .cached_reading import CachedVideoReader, VideoSegments
from .datasets import RetrievalReader, RowReader, VideoTextSample
from .frame_store import FrameStore

SPAN_TOLERANCE = 1.0
"""Seconds that a span may end after its video; annotations are rounded, and tools disagree about the last frame."""


class ViewReader(CachedVideoReader):
    """`CachedVideoReader` of one of V interleaved temporal views.

    Args:
        video_processor: `LFVilaVideoProcessor`.
        frame_cache: Store of decoded frames; it holds the V * T frames of all views. By default every read decodes.
        view: v, from 0.
        num_views: V.

    Raises:
        ValueError: v is not below V.
    """

    def __init__(self, video_processor: Any, frame_cache: FrameStore | None, view: int, num_views: int) -> None:
        if not 0 <= view < num_views:
            raise ValueError(f"view={view} must lie in 0 to {num_views - 1} for {num_views} views")
        super().__init__(video_processor, frame_cache)
        self.view = view
        self.num_views = num_views

    def read(self, source: str | Sequence[str] | VideoSegments, *, training: bool, seed: int) -> VideoFrames:
        """Read one video as `CachedVideoReader` does; in evaluation, of a whole video, only the frames of the view.

        Raises:
            ValueError: V is above 1, and it is for training or the video is given as clip files.
        """
        if self.num_views == 1:
            return super().read(source, training=training, seed=seed)
        if training or not isinstance(source, str):
            raise ValueError("several temporal views are for the evaluation of whole videos")
        count = self.num_views * self.video_processor.num_frames
        if self.frame_cache is not None:
            video = self.stored_frames(source, count, "video")
            wanted = uniform_indices(video.info.total_num_frames, count)[self.view :: self.num_views]
            frames = video.take(wanted)
            return replace(frames, frames=self._evaluation_geometry(frames.frames.float()))  # (T, 3, H, W)
        read = self.video_processor.read_pictures(source, training=False, seed=seed, num_frames=count)
        kept = slice(self.view, None, self.num_views)
        times = None if read.times is None else read.times[kept]
        return replace(read, frames=read.frames[kept], times=times, indices=read.indices[kept])  # (T, 3, H, W)

    def fill(self, source: str | Sequence[str] | VideoSegments) -> None:
        """Put a video into the store with the V * T frames of all views."""
        if isinstance(source, str):
            self.stored_frames(source, self.num_views * self.video_processor.num_frames, "video")
        else:
            super().fill(source)


class TaskReader(RowReader):
    """Base class of the readers of the tasks.

    Args:
        processor: `LFVilaProcessor`; its `max_sentences` bounds the question, an answer and subtitles together.
        views: `(v, V)`: evaluation reads view v of V temporal views.
        options: As for `RowReader`.
    """

    columns: tuple[str, ...] = ("id", "place", "video")

    def __init__(self, processor: Any, *, views: tuple[int, int] = (0, 1), **options: Any) -> None:
        super().__init__(processor, **options)
        self.pictures = ViewReader(processor.video_processor, options.get("frame_cache"), *views)
        self.max_sentences = processor.max_sentences

    def select(self, row: dict[str, Any], key: int) -> tuple[str, Sequence[str]]:
        """Return the video and no text."""
        return row["video"], ()


class ViewedRetrievalReader(RetrievalReader):
    """`RetrievalReader` with temporal views.

    Args:
        processor: `LFVilaProcessor`.
        views: `(v, V)`.
        options: As for `RowReader`.
    """

    def __init__(self, processor: Any, *, views: tuple[int, int] = (0, 1), **options: Any) -> None:
        super().__init__(processor, **options)
        self.pictures = ViewReader(processor.video_processor, options.get("frame_cache"), *views)


class ClassificationReader(TaskReader):
    """Reader of rows of `load_classification`: the video, without any sentence."""

    columns = (*TaskReader.columns, "label")


class QuestionAnsweringReader(TaskReader):
    """Reader of rows of `load_activitynet_qa` and `load_violin`: question, then subtitles.

    Raises:
        ValueError: A row has subtitles, and the processor's `max_sentences` leaves no room besides the question.
    """

    columns = (*TaskReader.columns, "question", "subtitles", "label")
    own_sentences = 1
    """Number of sentences that are no subtitles."""

    def select(self, row: dict[str, Any], key: int) -> tuple[str, Sequence[str]]:
        """Return the video, and the question with as many subtitles as there is room for."""
        return row["video"], [row["question"], *self._subtitles(row)]

    def _subtitles(self, row: dict[str, Any]) -> list[str]:
        texts = [subtitle["text"] for subtitle in row["subtitles"]]
        room = self.max_sentences - self.own_sentences
        if texts and room < 1:
            raise ValueError(
                f"{row['place']} has subtitles, and the processor's max_sentences={self.max_sentences} leaves no room "
                f"for them: expected at least {self.own_sentences + 1}"
            )
        return merge_sentences(texts, room) if texts else []


class MultipleChoiceReader(QuestionAnsweringReader):
    """Reader of rows of `load_how2qa`: question, room for an answer, subtitles. Spans are checked against the video."""

    columns = (*QuestionAnsweringReader.columns, "answers", "span_start", "span_end")
    own_sentences = 2

    def __call__(self, row: dict[str, Any], epoch: int) -> VideoTextSample:
        """Decode one row.

        Raises:
            AnnotationError: The span begins after the end of the video or ends more than a second after it.
            LFVilaVideoError: Names the video, and the row it belongs to.
        """
        sample = super().__call__(row, epoch)
        start, end, duration = row["span_start"], row["span_end"], sample.duration
        if start is not None and duration is not None and (start >= duration or end > duration + SPAN_TOLERANCE):
            raise AnnotationError(
                row["place"],
                f"the span [{start:g}, {end:g}] of {row['id']!r} lies outside its video of {duration:.2f} seconds",
            )
        return sample


def span_targets(start: float | None, end: float | None, duration: float, num_frames: int) -> torch.Tensor:
    """Mark the frames of T that lie in the span of a question, as the release does (`how2qa_dataset.py`).

    The ends of the span, as fractions of the duration, are rounded to frames. At least one frame is inside; all are
    if the span is not known.

    Args:
        start: Second; None if it is not known.
        end: Second.
        duration: Seconds of the video.
        num_frames: T.

    Returns:
        `(T,)` int64, 1 inside.
    """
    targets = torch.zeros(num_frames, dtype=torch.int64)
    if start is None or end is None:
        return targets + 1
    first = min(round(min(max(start / duration, 0.0), 1.0) * num_frames), num_frames - 1)
    last = round(min(max(end / duration, 0.0), 1.0) * num_frames)
    targets[first : min(max(last, first + 1), num_frames)] = 1
    return targets


__all__ = [
    "ClassificationReader",
    "MultipleChoiceReader",
    "QuestionAnsweringReader",
    "TaskReader",
    "ViewReader",
    "ViewedRetrievalReader",
    "span_targets",
]

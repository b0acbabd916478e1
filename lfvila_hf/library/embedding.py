# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Videos to rows of an index: decode, embed, one table per video.

What a video's rows are depends on the file, the checkpoint and the settings, and on nothing else: batches are never
made of segments of two videos. So a run that was killed and went on, one with another number of processes, and one on a
cluster write the same numbers.

Decoding runs ahead in threads (`lfvila_hf.data.batch_decoding`) while the model works. `Stopwatch` says where the time
of the calling thread goes: waiting for frames, in the model, or elsewhere.

Letters: N segments, T frames, K clips, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch

from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.library.segments import SegmentFrames, SegmentReader, SegmentRule, SegmentTask, thumbnail
from lfvila_hf.library.table import FileStamp, make_rows
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import normalize_pixels
from lfvila_hf.video_reading_lfvila import LFVilaVideoError


@dataclass
class Stopwatch:
    """Seconds by what they were spent on.

    Args:
        seconds: "decode" (waiting for frames at the model's size), "model", "thumbnails", "write", "finish", ...
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside under that name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class VideoFile:
    """One video to be indexed.

    Args:
        path: As the table names it.
        file: Where it is.
        stamp: Of the file, before it is read.
    """

    path: str
    file: str
    stamp: FileStamp


class SegmentEncoder:
    """A model and its processor, put to work on files.

    Args:
        model: An `LFVilaModel`, or a model that has one as `.model`. Put in evaluation mode.
        processor: Its `LFVilaProcessor`.
        rule: How videos are cut.
        batch_size: Segments in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
        **options: Settings of the video processor, such as `isolated=True`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        rule: SegmentRule | None = None,
        batch_size: int = 8,
        num_workers: int = 1,
        **options: Any,
    ) -> None:
        self.model = towers_of(model).eval()
        self.reader = SegmentReader(processor.video_processor, rule, batch_size, **options)
        self.num_workers = num_workers
        self.watch = Stopwatch()

    def encode_files(self, files: Iterable[VideoFile]) -> Iterator[tuple[VideoFile, pa.Table | LFVilaVideoError]]:
        """The rows of every file, or why it cannot be used, in order."""
        tasks = self._tasks(files)
        decoded = decode_videos(tasks, num_workers=self.num_workers, read=self._read)
        parts: list[tuple[SegmentTask, torch.Tensor, torch.Tensor | None, list[list[float]], list[bytes]]] = []
        failed = ""
        while True:
            with self.watch("decode"):
                item: Any = next(decoded, None)
            if item is None:
                return
            work, answer = item[1]
            if work.video.path == failed:
                continue  # a later part of a video that could not be read
            if isinstance(answer, LFVilaVideoError):
                failed, parts = work.video.path, []
                yield work.video, answer
                continue
            parts.append((work.task, *self.embed(answer), answer.times, self._thumbnails(answer)))
            if work.task.last:
                yield work.video, self._rows(work.video, parts)
                parts = []

    def embed(self, frames: SegmentFrames) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Segment features `(N, D)` and clip features `(N, K, D)` of one task, on the CPU in float32."""
        with self.watch("model"), torch.inference_mode():
            pixels = normalize_pixels(frames.pictures, self.reader.settings)  # (N, T, 3, H, W)
            output = self.model.get_video_features(pixels.to(self.model.device), return_dict=True)
            clips = output.clip_embeds
            return output.video_embeds.float().cpu(), None if clips is None else clips.float().cpu()

    def _tasks(self, files: Iterable[VideoFile]) -> Iterator[_Work]:
        for video in files:
            try:
                yield from (_Work(video, task) for task in self.reader.plan(video.file))
            except LFVilaVideoError as error:
                yield _Work(video, error)

    def _read(self, work: _Work) -> Any:
        if isinstance(work.task, LFVilaVideoError):
            return work, work.task
        try:
            return work, self.reader.read(work.task)
        except LFVilaVideoError as error:
            return work, error

    def _thumbnails(self, frames: SegmentFrames) -> list[bytes]:
        with self.watch("thumbnails"):
            return [thumbnail(pictures[len(pictures) // 2]) for pictures in frames.pictures]

    def _rows(self, video: VideoFile, parts: list[Any]) -> pa.Table:
        spans = [span for task, *_ in parts for span in task.spans]
        times = [row for part in parts for row in part[3]]
        clips = [part[2] for part in parts if part[2] is not None]
        clip_embeddings = torch.cat(clips).numpy() if clips else None  # (N, K, D)
        clip_times = None
        if clip_embeddings is not None:
            step = self.reader.num_frames // clip_embeddings.shape[1]
            clip_times = [[*row[::step], max(end, row[-1])] for row, (_, end) in zip(times, spans, strict=True)]
        return make_rows(
            path=video.path,
            stamp=video.stamp,
            duration=float(parts[0][0].info.duration),
            spans=spans,
            segment_embeddings=torch.cat([part[1] for part in parts]).numpy(),  # (N, D)
            clip_embeddings=clip_embeddings,
            clip_times=clip_times,
            thumbnails=[picture for part in parts for picture in part[4]],
        )


@dataclass(frozen=True)
class _Work:
    """A task with the file it belongs to, or the reason why the file has none."""

    video: VideoFile
    task: Any

    @property
    def name(self) -> str:
        """How messages name it."""
        return self.video.file


def towers_of(model: Any) -> LFVilaModel:
    """The `LFVilaModel` that is or is in a model.

    Raises:
        ValueError: There is none, or it has no projections.
    """
    towers = model if isinstance(model, LFVilaModel) else getattr(model, "model", None)
    if not isinstance(towers, LFVilaModel) or towers.video_projection is None or towers.text_projection is None:
        raise ValueError(
            f"searching needs an LFVilaModel (or a model that holds one) with text and video projections, "
            f"got {type(model).__name__}"
        )
    return towers

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embed videos: decode ahead in threads, encode in batches, one list of segments a video.

The segments of a video depend on the file, the encoder and the settings alone: batches never hold two videos. So a
resumed run, several processes and a cluster give the same rows. `Stopwatch` says where the calling thread's time goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.search.segments import Segment, SegmentReader, SegmentRule, Task, TaskFrames, VideoFile, thumbnail
from lfvila_hf.video_reading_lfvila import LFVilaVideoError


@dataclass
class Stopwatch:
    """Seconds by what they were spent on.

    Args:
        seconds: "decode" (waiting for frames), "model", "thumbnails", "write", "finish", "total".
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Part(NamedTuple):
    """Result of one task: vectors `(N, D)`, clips `(K, D)` of N segments, their seconds and pictures."""

    vectors: np.ndarray
    clips: list[np.ndarray]
    seconds: list[list[float]]
    pictures: list[torch.Tensor]


class VideoEmbedder:
    """An encoder put to work on files.

    Args:
        encoder: The encoder.
        rule: Rule by which videos are cut.
        batch_size: Segments or clips in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
        isolated: Decode in processes of their own.
    """

    def __init__(
        self,
        encoder: StoryEncoder,
        rule: SegmentRule | None = None,
        batch_size: int = 8,
        num_workers: int = 1,
        isolated: bool = False,
    ) -> None:
        self.encoder = encoder
        self.reader = SegmentReader(encoder, rule or SegmentRule(), batch_size, isolated)
        self.num_workers = num_workers
        self.watch = Stopwatch()

    def embed(self, files: Iterable[VideoFile]) -> Iterator[tuple[VideoFile, float, list[Segment] | LFVilaVideoError]]:
        """Yield every file with its duration and its segments, or why it cannot be used, in order."""
        decoded = decode_videos(self._tasks(files), num_workers=self.num_workers, read=self._read)
        parts: list[_Part] = []
        failed = None
        while True:
            with self.watch("decode"):
                item: Any = next(decoded, None)
            if item is None:
                return
            video, task, read = item[1]
            if video == failed:
                continue  # a later part of a video that could not be read
            try:
                if isinstance(read, LFVilaVideoError):
                    raise read
                parts.append(self._encode(read))
            except ValueError as error:  # also of the encoder, such as features that are not finite
                failed, parts = video, []
                yield (
                    video,
                    0.0,
                    error if isinstance(error, LFVilaVideoError) else LFVilaVideoError(video.name, str(error)),
                )
                continue
            if task.first + len(task.spans) == task.total:
                yield video, float(task.info.duration), self._segments(float(task.info.duration), parts)
                parts = []

    def _tasks(self, files: Iterable[VideoFile]) -> Iterator[tuple[VideoFile, Task | LFVilaVideoError]]:
        for video in files:
            try:
                yield from ((video, task) for task in self.reader.plan(video))
            except LFVilaVideoError as error:
                yield video, error

    def _read(self, work: tuple[VideoFile, Task | LFVilaVideoError]) -> tuple[VideoFile, Any, Any]:
        video, task = work
        if isinstance(task, LFVilaVideoError):
            return video, task, task
        try:
            return video, task, self.reader.read(task)
        except LFVilaVideoError as error:
            return video, task, error

    def _encode(self, read: TaskFrames) -> _Part:
        vectors, clips = [], []
        with self.watch("model"):
            for start in range(0, len(read.frames), self.reader.batch_size):
                some = slice(start, start + self.reader.batch_size)
                if self.encoder.num_frames:
                    one, parts = self.encoder.encode_segments(read.frames[some])
                    vectors.append(one)
                    clips += [] if parts is None else [parts]
                else:
                    vectors.append(self.encoder.encode_clips(read.frames[some], read.seconds[some]))
        return _Part(torch.cat(vectors).numpy(), [k for one in clips for k in one.numpy()], read.seconds, read.pictures)

    def _segments(self, duration: float, parts: list[_Part]) -> list[Segment]:
        """The segments of a video from the parts of its tasks."""
        vectors = np.concatenate([part.vectors for part in parts])
        pictures = [picture for part in parts for picture in part.pictures]
        with self.watch("thumbnails"):
            if not self.encoder.num_frames:
                edges, windows = self.reader.rule.windows(duration, self.reader.clip_seconds)
                times = edges.tolist()
                return [
                    Segment(times[a], times[b], times[a : b + 1], vectors[a:b], None, thumbnail(pictures[(a + b) // 2]))
                    for a, b in windows
                ]
            clips = [one for part in parts for one in part.clips] or [vectors[:0]] * len(vectors)
            seconds = [row for part in parts for row in part.seconds]
            return [
                Segment(start, end, _clip_times(times, end, len(own)), own, vector, thumbnail(picture))
                for (start, end), times, own, vector, picture in zip(
                    self.reader.rule.cut(duration), seconds, clips, vectors, pictures, strict=True
                )
            ]


def _clip_times(seconds: list[float], end: float, clips: int) -> list[float]:
    """Seconds at which the clips of a segment begin, and the end of the last; none without clips."""
    return [*seconds[:: len(seconds) // clips], max(end, seconds[-1])] if clips else []

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
from typing import Any

import numpy as np
import torch

from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.search.segments import (
    Segment,
    SegmentReader,
    SegmentRule,
    Task,
    TaskFrames,
    VideoFile,
    thumbnail,
)
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


@dataclass(frozen=True)
class _Work:
    """A task, or the reason why a video has none."""

    video: VideoFile
    task: Task | LFVilaVideoError

    @property
    def name(self) -> str:
        """Name of the file, for messages of the decoder pool."""
        return self.video.name


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
        decoded = decode_videos(self._work(files), num_workers=self.num_workers, read=self._read)
        parts: list[Any] = []
        failed = None
        while True:
            with self.watch("decode"):
                item: Any = next(decoded, None)
            if item is None:
                return
            work, answer = item[1]
            if work.video == failed:
                continue  # a later part of a video that could not be read
            if isinstance(answer, LFVilaVideoError):
                failed, parts = work.video, []
                yield work.video, 0.0, answer
                continue
            parts.append(self._encode(answer))
            if work.task.first + len(work.task.spans) == work.task.total:
                yield work.video, float(work.task.info.duration), self._segments(float(work.task.info.duration), parts)
                parts = []

    def _work(self, files: Iterable[VideoFile]) -> Iterator[_Work]:
        for video in files:
            try:
                yield from (_Work(video, task) for task in self.reader.plan(video))
            except LFVilaVideoError as error:
                yield _Work(video, error)

    def _read(self, work: _Work) -> tuple[_Work, TaskFrames | LFVilaVideoError]:
        if isinstance(work.task, LFVilaVideoError):
            return work, work.task
        try:
            return work, self.reader.read(work.task)
        except LFVilaVideoError as error:
            return work, error

    def _encode(self, read: TaskFrames) -> tuple[Any, Any, list[list[float]], list[torch.Tensor]]:
        """Vectors of one task's segments or clips `(N, D)`, clips of segments `(N, K, D)`, seconds and pictures."""
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
        return torch.cat(vectors).numpy(), torch.cat(clips).numpy() if clips else None, read.seconds, read.pictures

    def _segments(self, duration: float, parts: list[Any]) -> list[Segment]:
        """The segments of a video from the parts of its tasks."""
        vectors = np.concatenate([part[0] for part in parts])
        pictures = [picture for part in parts for picture in part[3]]
        if self.encoder.num_frames:
            clips = np.concatenate([part[1] for part in parts]) if parts[0][1] is not None else None
            return self._whole(duration, vectors, clips, [row for part in parts for row in part[2]], pictures)
        edges, windows = self.reader.rule.windows(duration, self.reader.clip_seconds)
        with self.watch("thumbnails"):
            jpegs = [thumbnail(pictures[(first + last) // 2]) for first, last in windows]
        return [
            Segment(float(edges[a]), float(edges[b]), edges[a : b + 1].tolist(), vectors[a:b], None, jpeg)
            for (a, b), jpeg in zip(windows, jpegs, strict=True)
        ]

    def _whole(self, duration: float, vectors: Any, clips: Any, seconds: Any, pictures: Any) -> list[Segment]:
        with self.watch("thumbnails"):
            jpegs = [thumbnail(picture) for picture in pictures]
        segments = []
        for number, (start, end) in enumerate(self.reader.rule.cut(duration)):
            times: list[float] = []
            if clips is not None:
                step = len(seconds[number]) // clips.shape[1]
                times = [*seconds[number][::step], max(end, seconds[number][-1])]
            own = clips[number] if clips is not None else np.zeros((0, vectors.shape[1]), np.float32)
            segments.append(Segment(start, end, times, own, vectors[number], jpegs[number]))
        return segments

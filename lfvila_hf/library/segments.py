# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Long videos cut into overlapping long segments, and the frames of each segment.

LF-VILA reads T frames of one long video (LF-VILA-8M: at least four clips of 13 s on average). A video of an hour is
more than that, so it is searched as segments of `SegmentRule.seconds`, each `overlap` of it shared with the next, so
that no moment is only ever seen at an edge. All segments of a video are equally long: the last one ends where the video
ends. A video that is not longer than a segment is one segment, and its frames are those that the processor takes of a
whole video (`linspace(0, n - 1, T)`), so its embedding is that of `encode_videos`.

Memory: one task is a batch of segments, T small pictures each, whatever the length of the video.

Letters: T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from lfvila_hf.video_processing_lfvila import VideoGeometry, VideoSettings, resize_pictures
from lfvila_hf.video_reading_lfvila import VideoInfo, probe_video, read_frames
from lfvila_hf.video_sources_lfvila import LFVilaVideoError, require_av

THUMBNAIL_WIDTH = 320
MAX_OVERLAP = 0.95


@dataclass(frozen=True)
class SegmentRule:
    """How long videos are cut.

    Args:
        seconds: Length of a segment. The default is about what the released model was pre-trained on.
        overlap: Part of a segment that the next one repeats, from 0 to 0.95.
    """

    seconds: float = 60.0
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"segments must be longer than 0 seconds, got {self.seconds}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ValueError(f"the overlap of segments must lie in 0 to {MAX_OVERLAP}, got {self.overlap}")

    def count(self, duration: float) -> int:
        """Count the segments of a video of that many seconds."""
        if duration <= self.seconds:
            return 1
        return math.ceil(round((duration - self.seconds) / (self.seconds * (1 - self.overlap)), 6)) + 1

    def cut(self, duration: float) -> list[tuple[float, float]]:
        """Start and end second of every segment of a video of that many seconds."""
        if duration <= self.seconds:
            return [(0.0, duration)]
        hop = self.seconds * (1 - self.overlap)
        starts = [min(number * hop, duration - self.seconds) for number in range(self.count(duration))]
        return [(start, start + self.seconds) for start in starts[:-1]] + [(starts[-1], duration)]


@dataclass(frozen=True)
class SegmentTask:
    """Some neighbouring segments of one video, read at once.

    Args:
        path: The video file.
        info: What is known of it.
        first: Number of the first segment.
        spans: Start and end second of each.
        last: Whether these are the video's last ones.
    """

    path: str
    info: VideoInfo
    first: int
    spans: tuple[tuple[float, float], ...]
    last: bool


@dataclass(frozen=True)
class SegmentFrames:
    """The pictures of one task.

    Args:
        pictures: `(segments, T, 3, H, W)` float32 in 0 ... 255, at the model's size.
        times: The second of every frame, `(segments, T)`.
    """

    pictures: torch.Tensor
    times: list[list[float]]


class SegmentReader:
    """Plans and reads the segments of videos.

    Args:
        video_processor: An `LFVilaVideoProcessor`; its T, size, geometry, decoder and limits are used.
        rule: How videos are cut.
        batch_size: Segments of one task.
        **options: Further settings of the video processor, such as `isolated=True`.
    """

    def __init__(
        self, video_processor: Any, rule: SegmentRule | None = None, batch_size: int = 8, **options: Any
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        known = video_processor.valid_kwargs.__annotations__
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"{type(video_processor).__name__} does not know the settings {unknown}")
        self.rule = rule or SegmentRule()
        self.batch_size = batch_size
        self.settings = VideoSettings({name: getattr(video_processor, name, None) for name in known} | options)
        self.num_frames: int = self.settings["num_frames"]

    def plan(self, path: str) -> Iterator[SegmentTask]:
        """The tasks of one video, in order. Looks at the file once.

        Raises:
            LFVilaVideoError: The video cannot be used.
        """
        info = probe_video(path, limits=self.settings["limits"])
        if not info.duration or info.duration <= 0:
            raise LFVilaVideoError(path, "it has no length in seconds, so there is nothing to search in it")
        if info.duration > self.rule.seconds and self.rule.count(info.duration) > info.total_num_frames:
            reason = f"its time stamps claim {info.duration:.0f} s for {info.total_num_frames} frames"
            raise LFVilaVideoError(path, f"{reason}: that is less than a frame for each segment")
        spans = self.rule.cut(info.duration)
        for first in range(0, len(spans), self.batch_size):
            some = tuple(spans[first : first + self.batch_size])
            yield SegmentTask(path, info, first, some, last=first + len(some) == len(spans))

    def read(self, task: SegmentTask) -> SegmentFrames:
        """The frames of a task.

        Raises:
            LFVilaVideoError: The video cannot be used.
        """
        settings, frames = self.settings, self.num_frames
        wish: dict[str, Any] = {"num_frames": frames, "sampling": "uniform"}
        if task.spans != ((0.0, task.info.duration),):
            wish = {"times": [second for span in task.spans for second in self.seconds(span, task.info)]}
        read = read_frames(
            task.path,
            **wish,
            size=settings.decoder_size(),
            transform=VideoGeometry(settings, None),
            limits=settings["limits"],
            num_threads=settings["num_decoding_threads"],
            accept_truncated=settings["accept_truncated"],
            isolated=settings["isolated"],
        )
        assert read.times is not None  # files know their seconds
        pictures = read.frames.unflatten(0, (len(task.spans), frames))  # (segments, T, 3, H, W)
        times = [read.times[start : start + frames] for start in range(0, len(read.times), frames)]
        return SegmentFrames(pictures, times)

    def seconds(self, span: tuple[float, float], info: VideoInfo) -> list[float]:
        """The T seconds that are looked at in a segment: evenly from its start to its last frame."""
        start, end = span
        interval = 1 / info.fps if info.fps else 0.0
        return np.linspace(start, max(end - interval, start), self.num_frames).tolist()

    def whole(self, path: str) -> SegmentTask:
        """A task of the whole video as one segment.

        Raises:
            LFVilaVideoError: The video cannot be used.
        """
        first = next(iter(self.plan(path)))
        return replace(first, spans=((0.0, float(first.info.duration or 0.0)),), last=True)


def thumbnail(picture: torch.Tensor) -> bytes:
    """One picture `(3, H, W)` in 0 ... 255 as a JPEG at most `THUMBNAIL_WIDTH` pixels wide."""
    require_av()
    import av

    height, width = picture.shape[1:]
    if width > THUMBNAIL_WIDTH:
        picture = resize_pictures(picture.float(), (max(round(height * THUMBNAIL_WIDTH / width), 1), THUMBNAIL_WIDTH))
    array = picture.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = array.shape[1], array.shape[0], "yuvj444p"
    codec.options = {"qmin": "2", "qmax": "4"}
    codec.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuvj444p", dst_color_range="JPEG")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])

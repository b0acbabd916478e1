# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""One source video into the clip files of its spans: few frames, small pictures, short groups of pictures.

LF-VILA was trained on clips at 3 frames per second, "in order to reduce the data reading overhead"; the released
cutter copies packets and so begins at whatever key frame is near. Here a clip is exact: for a span [s, e) at rate r its
frame j is the one that is on screen at second `s + j / r`, for all `ceil((e - s) * r)` of them (to half a millisecond,
as some containers round). Seconds count from the container's start, as in `video_reading_lfvila`, and the frames are
those of the package's reader: `decoding_plans` lists them, plans the seeks, leaves out what nothing refers to, and
starts over with a dearer table where a file is not as it says.

A frame goes from the decoder through one scaling (YUV to YUV) straight into the encoders of the clips that want it, so
memory is one encoder per clip that is open at that second. Each clip is then read again with the package's reader,
every frame of it, before it gets its name.

The output is H.264, `yuv420p`, limited range, upright (a rotation is applied), without sound, a key frame every
`gop_seconds` and no B-frames: to read a frame of it costs a seek and at most a group. One thread; a pool of processes
(`cutting_jobs`) uses the cores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lfvila_hf.video_decoding_lfvila import FrameTable, check_picture_size, decoding_plans, display_orientation
from lfvila_hf.video_reading_lfvila import read_frames
from lfvila_hf.video_sources_lfvila import (
    Deadline,
    LFVilaVideoError,
    StaleTableError,
    VideoLimits,
    VideoSource,
    av,
    require_av,
    video_errors,
)

FULL_RANGE = 2
CLOCK_ERROR = Fraction(1, 2000)
"""Seconds by which a frame may begin late and still count as on screen: containers with a clock of 1 ms round."""


class ClipWish(NamedTuple):
    """A clip that is to be cut: its id, and its span in milliseconds."""

    clip_id: str
    start: int
    end: int


@dataclass(frozen=True)
class CutParameters:
    """What clip files are like.

    Args:
        fps: Frames per second, as a fraction such as "3" or "30000/1001".
        height: Height of the upright picture in pixels, even; the width follows, rounded to an even number.
        crf: Quality of x264, 0 (lossless) to 51.
        preset: Speed of x264.
        gop_seconds: Seconds between key frames.
        end_tolerance: Seconds by which a span may end after the video; the clip is then as much shorter.
        max_seconds: Wall seconds that one source video may take.
    """

    fps: str = "3"
    height: int = 240
    crf: int = 23
    preset: str = "veryfast"
    gop_seconds: float = 1.0
    end_tolerance: float = 0.5
    max_seconds: float = 3600.0

    def __post_init__(self) -> None:
        try:
            rate = Fraction(self.fps)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"fps must be a number or a fraction, got {self.fps!r}") from None
        if not 0 < rate <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, got {self.fps}")
        if self.height < 2 or self.height % 2:
            raise ValueError(f"height must be an even number of pixels, got {self.height}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must lie in 0 to 51, got {self.crf}")
        for name in ("gop_seconds", "max_seconds"):
            if not 0 < getattr(self, name) < 1e6:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.end_tolerance < 1e6:
            raise ValueError(f"end_tolerance must be 0 or more, got {self.end_tolerance}")

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.fps)


class CutClip(NamedTuple):
    """What became of one clip.

    Attributes:
        clip_id: The clip.
        frames: Frames in the file; 0 where there is none.
        bytes: Size of the file.
        reason: Why there is no file; "" where there is one.
    """

    clip_id: str
    frames: int
    bytes: int
    reason: str


def cut_video(
    source: str | os.PathLike[str],
    wishes: Sequence[ClipWish],
    folder: Path,
    parameters: CutParameters,
    unfinished: Path | None = None,
) -> list[CutClip]:
    """Cut the clips of one video.

    Args:
        source: The video file.
        wishes: Its clips; their ids must be plain file names.
        folder: Where the clip files go; must exist.
        parameters: What they are like.
        unfinished: Where files are written before they are checked, on the same file system; `folder` by default.

    Returns:
        One result per wish, in order. A clip whose span the video does not have is a result with a reason.

    Raises:
        LFVilaVideoError: Where the video cannot be used at all.
        ImportError: Without PyAV.
    """
    require_av()
    limits = VideoLimits(max_seconds=parameters.max_seconds, max_output_bytes=None)
    opened = VideoSource(source, limits)
    cutter = _ClipCutter(opened.name, limits, wishes, unfinished or folder, parameters)
    try:
        with closing(decoding_plans(opened, Deadline(opened.name, limits.max_seconds))) as plans:
            for plan in plans:
                indices = cutter.choose(plan.table)
                if not indices:
                    break
                try:
                    for index, frame in plan.frames(plan.groups(indices)[0]):
                        cutter.write(frame, index)
                    break
                except StaleTableError:
                    continue
        opened.check_unchanged()
        cutter.finish()
    except BaseException:
        cutter.abandon()
        raise
    finally:
        opened.close()
    return [cutter.result(wish, folder) for wish in wishes]


def frame_times(wish: ClipWish, rate: Fraction, end: Fraction | None = None) -> list[Fraction]:
    """The second of every frame of a clip; those at or after `end` left out."""
    start = Fraction(wish.start, 1000)
    count = math.ceil((Fraction(wish.end, 1000) - start) * rate)
    times = [start + number / rate for number in range(count)]
    return times if end is None else [time for time in times if time < end]


def check_clip(path: Path, frames: int, size: tuple[int, int], rate: Fraction) -> None:
    """Read a clip file with the package's reader, every frame.

    Args:
        path: The file.
        frames: How many there must be.
        size: Height and width.
        rate: Frames per second.

    Raises:
        LFVilaVideoError: Where it is not as it must be.
    """
    read = read_frames(path, transform=lambda picture: torch.tensor(picture.shape[1:]))
    if len(read) != frames:
        raise LFVilaVideoError(str(path), f"the clip has {len(read)} frames, {frames} were written")
    if not (read.frames == torch.tensor(size)).all():
        raise LFVilaVideoError(str(path), f"the clip's pictures are not of {size[1]} x {size[0]} pixels")
    late = max(abs(second - number / rate) for number, second in enumerate(read.times or []))
    if late > 0.001:
        raise LFVilaVideoError(str(path), f"a frame of the clip is {float(late):.3f} s from its place")


class _ClipCutter:
    """Takes the frames as they are decoded and writes each into the clips that want it."""

    def __init__(
        self, source: str, limits: VideoLimits, wishes: Sequence[ClipWish], unfinished: Path, parameters: CutParameters
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.source = source
        self.limits = limits
        self._reformatter: Any = VideoReformatter()
        self.wishes = wishes
        self.unfinished = unfinished
        self.parameters = parameters
        self.jobs: list[_Job] = []
        self.reasons: dict[str, str] = {}
        self._wanted: dict[int, list[_Job]] = {}

    def choose(self, table: FrameTable) -> list[int]:
        """The frames that any clip wants. Called anew where the decoder starts over with another table."""
        self.abandon()
        self.reasons, self._wanted = {}, {}
        end = table.end * table.time_base - table.second_zero
        for wish in self.wishes:
            if Fraction(wish.end, 1000) > end + Fraction(self.parameters.end_tolerance):
                self.reasons[wish.clip_id] = (
                    f"beyond_file: it ends at {wish.end / 1000:g} s, the video at {float(end):g} s"
                )
                continue
            times = frame_times(wish, self.parameters.rate, end)
            if not times:
                self.reasons[wish.clip_id] = f"beyond_file: it begins at {wish.start / 1000:g} s, where the video ends"
                continue
            job = _Job(wish, self.unfinished, self.parameters, _indices(table, times))
            self.jobs.append(job)
            for index in np.unique(job.indices).tolist():
                self._wanted.setdefault(index, []).append(job)
        return sorted(self._wanted)

    def write(self, frame: Any, index: int) -> None:
        """Give a wanted frame to its clips. Frames come in the order of time, each once."""
        check_picture_size(self.source, frame.height, frame.width, self.limits)
        with video_errors(self.source):
            scaled = self._scaled(frame)
            for job in self._wanted[index]:
                job.write(scaled, index)

    def finish(self) -> None:
        """Close and check every clip."""
        for job in self.jobs:
            try:
                job.close()
                check_clip(job.path, len(job.indices), job.size, self.parameters.rate)
            except LFVilaVideoError as error:
                self.reasons[job.wish.clip_id] = f"bad_output: {error.reason}"
                job.discard()

    def abandon(self) -> None:
        """Throw away what was written so far."""
        for job in self.jobs:
            job.discard()
        self.jobs = []

    def result(self, wish: ClipWish, folder: Path) -> CutClip:
        """Give a clip its name, and say what became of it."""
        if wish.clip_id in self.reasons:
            return CutClip(wish.clip_id, 0, 0, self.reasons[wish.clip_id])
        job = next(job for job in self.jobs if job.wish == wish)
        folder.mkdir(exist_ok=True)
        os.replace(job.path, folder / wish.clip_id)
        return CutClip(wish.clip_id, len(job.indices), os.path.getsize(folder / wish.clip_id), "")

    def _scaled(self, frame: Any) -> Any:
        """A frame upright, in the size and format of the clips."""
        rotation, mirrored = display_orientation(frame)
        quarter_turns = round(rotation / 90) % 4
        height, width = (frame.width, frame.height) if quarter_turns % 2 else (frame.height, frame.width)
        target = self.parameters.height
        size = (target, max(2, round(width * target / height / 2) * 2))
        full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        if quarter_turns or mirrored:
            stored = size[::-1] if quarter_turns % 2 else size
            pixels = self._reformatter.reformat(frame, stored[1], stored[0], "rgb24", threads=1).to_ndarray()
            pixels = np.rot90(pixels, quarter_turns)  # (height, width, 3)
            pixels = pixels[:, ::-1] if mirrored else pixels
            frame, full = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"), False
        scaled = self._reformatter.reformat(
            frame,
            width=size[1],
            height=size[0],
            format="yuv420p",
            interpolation="BICUBIC",
            src_color_range=FULL_RANGE if full else None,
            dst_color_range="MPEG" if full else None,
            threads=1,
        )
        scaled.pict_type = av.video.frame.PictureType.NONE
        return scaled


class _Job:
    """One clip file on its way.

    Args:
        wish: The clip.
        folder: Where to write.
        parameters: What it is like.
        indices: Number of the source frame of each of its frames, ascending.
    """

    def __init__(self, wish: ClipWish, folder: Path, parameters: CutParameters, indices: np.ndarray) -> None:
        self.wish = wish
        self.indices = indices
        self.path = folder / f"{os.getpid()}.{wish.clip_id}"
        self.parameters = parameters
        self.size = (0, 0)
        self._container: Any = None
        self._stream: Any = None
        self._written = 0

    def write(self, frame: Any, index: int) -> None:
        """Encode a frame as often as it is on screen at a time of the clip; close after the last."""
        if self._container is None:
            self._open(frame)
        if self.size != (frame.height, frame.width):
            reason = f"the picture size changes to {frame.width} x {frame.height} inside {self.wish.clip_id}"
            raise LFVilaVideoError(self.wish.clip_id, reason)
        while self._written < len(self.indices) and self.indices[self._written] == index:
            frame.pts, frame.time_base = self._written, 1 / self.parameters.rate
            self._container.mux(self._stream.encode(frame))
            self._written += 1
        if self._written == len(self.indices):
            self.close()

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = self._stream = None

    def discard(self) -> None:
        """Close and delete the file."""
        if self._container is not None:
            self._container.close()
            self._container = self._stream = None
        self.path.unlink(missing_ok=True)

    def _open(self, frame: Any) -> None:
        self.size = (frame.height, frame.width)
        options = {
            "preset": self.parameters.preset,
            "crf": str(self.parameters.crf),
            "g": str(max(round(self.parameters.gop_seconds * self.parameters.rate), 1)),
            "bf": "0",
            "sc_threshold": "0",
        }
        self._container = av.open(str(self.path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=self.parameters.rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = frame.width, frame.height, "yuv420p"
        self._stream.codec_context.time_base = 1 / self.parameters.rate
        self._stream.codec_context.thread_count = 1


def _indices(table: FrameTable, times: Sequence[Fraction]) -> np.ndarray:
    """The frame on screen at each second."""
    ticks = np.array([(table.second_zero + time + CLOCK_ERROR) // table.time_base for time in times], dtype=np.int64)
    return np.maximum(np.searchsorted(table.pts, ticks, side="right") - 1, 0)

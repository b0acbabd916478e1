# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Cutting of one source video into the clip files of its spans: low frame rate, small frames, short GOPs.

LF-VILA was trained on clips at 3 frames per second, "in order to reduce the data reading overhead". The released cutter
copies packets, so its clips begin at whatever key frame is near. Here a clip is exact: for a span [s, e) at rate r its
frame j is the one on screen at second `s + j / r`, for all `ceil((e - s) * r)` of them (to half a millisecond, because
some containers round). Seconds count from the container's start, as in `video_reading_lfvila`. Frames come from the
package's reader: `decoding_plans` lists them once for all clips, plans the seeks, skips what nothing refers to, and
starts over with a full scan if a file is not as its tables say.

A frame goes from the decoder through one scaling (YUV to YUV) into the encoders of the clips that want it, so memory is
one encoder per clip that is open at that second. Each clip is then read again with the package's reader, every frame of
it, before it gets its name.

The output is H.264, `yuv420p`, limited range, upright (a rotation is applied), with square pixels, without sound, a key
frame every `gop_seconds` and no B-frames: reading a frame costs a seek and at most one GOP. One thread; a pool of
processes (`cutting_jobs`) uses the cores.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
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
MAX_PIXEL_ASPECT = 10
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
LEAST_FREE_BYTES = 2**20
"""Free bytes below which a clip that cannot be read again counts as a victim of a full disk."""


class ClipWish(NamedTuple):
    """A clip to cut: its id, and its span in milliseconds."""

    clip_id: str
    start: int
    end: int


@dataclass(frozen=True)
class CutParameters:
    """Parameters of clip files.

    Args:
        fps: Frames per second, as a fraction such as "3" or "30000/1001".
        height: Height of the upright picture in pixels, even. The width follows, rounded to an even number.
        crf: Quality of x264, 0 (lossless) to 51.
        preset: Speed of x264.
        gop_seconds: Seconds between key frames.
        end_tolerance: Seconds by which a span may end after the video; the clip is then shorter.
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
    """Result of one clip.

    Attributes:
        clip_id: The clip.
        frames: Number of frames in the file; 0 without a file.
        bytes: Size of the file.
        reason: Reason why there is no file; "" if there is one.
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
        wishes: Its clips; their ids must be file names.
        folder: Folder of the clip files; must exist.
        parameters: Parameters of the clip files.
        unfinished: Folder of files that are not checked yet, on the same file system. Defaults to `folder`.

    Returns:
        One result per wish, in order. A clip whose span lies outside the video, or in which the size of the picture
        changes, is a result with a reason.

    Raises:
        LFVilaVideoError: If the video cannot be used at all.
        OSError: If a clip cannot be written, as on a full disk.
        ImportError: If PyAV is not installed.
    """
    require_av()
    limits = VideoLimits(max_seconds=parameters.max_seconds, max_output_bytes=None)
    opened = VideoSource(source, limits)
    cutter = _ClipCutter(opened.name, limits, wishes, unfinished or folder, parameters)
    try:
        with contextlib.closing(decoding_plans(opened, Deadline(opened.name, limits.max_seconds))) as plans:
            for plan in plans:
                indices = cutter.choose(plan.table, plan.session.stream.sample_aspect_ratio)
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
    """Compute the second of every frame of a clip before `end`."""
    start = Fraction(wish.start, 1000)
    count = math.ceil((Fraction(wish.end, 1000) - start) * rate)
    times = [start + number / rate for number in range(count)]
    return times if end is None else [time for time in times if time < end]


def check_clip(path: Path, frames: int, size: tuple[int, int], rate: Fraction) -> None:
    """Check a clip file by reading every frame with the package's reader.

    Args:
        path: The file.
        frames: Expected number of frames.
        size: Expected height and width.
        rate: Expected frames per second.

    Raises:
        LFVilaVideoError: If it differs.
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
    """Writer of decoded frames into the clips that want them."""

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
        self._pixel_aspect = Fraction(1)

    def choose(self, table: FrameTable, pixel_aspect: Fraction | None = None) -> list[int]:
        """Choose the frames that any clip wants. Called again if the decoder starts over with another table.

        Args:
            table: All frames.
            pixel_aspect: Width of a stored pixel over its height. Defaults to 1; absurd values count as 1.
        """
        self.abandon()
        self.reasons, self._wanted = {}, {}
        self._pixel_aspect = (
            pixel_aspect if pixel_aspect and 1 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT else Fraction(1)
        )
        self._table = table
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
            job = _Job(wish, self.unfinished, self.parameters, np.array([table.index_at(time) for time in times]))
            self.jobs.append(job)
            for index in np.unique(job.indices).tolist():
                self._wanted.setdefault(index, []).append(job)
        return sorted(self._wanted)

    def write(self, frame: Any, index: int) -> None:
        """Write a wanted frame into its clips. Frames come in order of time, each once."""
        check_picture_size(self.source, frame.height, frame.width, self.limits)
        with video_errors(self.source):
            scaled = self._scaled(frame)
        size = (scaled.height, scaled.width)
        for job in self._wanted[index]:
            if job.wish.clip_id in self.reasons:
                continue
            if job.size not in (None, size):
                # The other clips of the video are fine, so only this one is given up.
                second = self._table.seconds(index)
                self.reasons[job.wish.clip_id] = (
                    f"size_changes: the picture of {self.source} becomes {frame.width} x {frame.height} at {second:g} s"
                )
                job.discard()
                continue
            with _output_errors(job.path):
                job.write(scaled, index)

    def finish(self) -> None:
        """Close and check every clip."""
        for job in self.jobs:
            if job.wish.clip_id in self.reasons:
                continue
            try:
                with _output_errors(job.path):
                    job.close()
                check_clip(job.path, len(job.indices), job.size or (0, 0), self.parameters.rate)
            except LFVilaVideoError as error:
                _check_space(job.path)
                self.reasons[job.wish.clip_id] = f"bad_output: {error.reason}"
                job.discard()

    def abandon(self) -> None:
        """Delete the files written so far."""
        for job in self.jobs:
            job.discard()
        self.jobs = []

    def result(self, wish: ClipWish, folder: Path) -> CutClip:
        """Give a clip its name, and return its result."""
        if wish.clip_id in self.reasons:
            return CutClip(wish.clip_id, 0, 0, self.reasons[wish.clip_id])
        job = next(job for job in self.jobs if job.wish == wish)
        folder.mkdir(exist_ok=True)
        os.replace(job.path, folder / wish.clip_id)
        return CutClip(wish.clip_id, len(job.indices), os.path.getsize(folder / wish.clip_id), "")

    def _scaled(self, frame: Any) -> Any:
        """Convert a frame to the size and format of the clips, upright."""
        rotation, mirrored = display_orientation(frame)
        quarter_turns = round(rotation / 90) % 4
        shown = frame.width * self._pixel_aspect  # in square pixels
        height, width = (shown, frame.height) if quarter_turns % 2 else (frame.height, shown)
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
    """One clip file being written.

    Args:
        wish: The clip.
        folder: Folder to write to.
        parameters: Parameters of the file.
        indices: Index of the source frame of each of its frames, ascending.
    """

    def __init__(self, wish: ClipWish, folder: Path, parameters: CutParameters, indices: np.ndarray) -> None:
        self.wish = wish
        self.indices = indices
        self.path = folder / f"{os.getpid()}.{wish.clip_id}"
        self.parameters = parameters
        self.size: tuple[int, int] | None = None
        self._container: Any = None
        self._stream: Any = None
        self._written = 0

    def write(self, frame: Any, index: int) -> None:
        """Encode a frame for every time of the clip at which it is on screen; close after the last."""
        if self._container is None:
            self._open(frame)
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
            with contextlib.suppress(OSError):  # the end of a file that nobody wants, perhaps on a full disk
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


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Tell a full disk, which ends the run, from a clip that cannot be encoded."""
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in FULL_DISK:
            raise _no_space(path, error.errno) from error
        _check_space(path)
        raise LFVilaVideoError(str(path), f"it cannot be encoded: {error.strerror}") from error


def _check_space(path: Path) -> None:
    """Raise the error of a full disk if there is hardly any space left: a muxer may hide it."""
    if shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES:
        raise _no_space(path, errno.ENOSPC)


def _no_space(path: Path, number: int) -> OSError:
    return OSError(number, f"{os.strerror(number)}: free some and run it again to resume", str(path))

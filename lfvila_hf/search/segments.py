# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Files and segments: find videos, cut them, read the frames of a cut.

A video longer than `SegmentRule.seconds` becomes overlapping segments of equal length, evenly spaced. An encoder that
reads whole segments (LF-VILA) gets T frames of each. For any other encoder the video is cut into clips of equal length,
each is read and embedded once, and segments are windows over the clips.

Files are opened once, by descriptor: nothing that replaces a file or a folder on the way by a link is followed below
the root. What a file claims about its length is bounded here, before anything is allocated by it.

Letters: N segments or clips, F frames of a clip, T frames of a segment, H W pixels.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoInfo, VideoLimits, probe_video, read_frames

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .ogg .ogv "
    ".rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
MAX_OVERLAP = 0.95
MAX_VIDEO_SECONDS = 100 * 3600.0
MAX_SEGMENTS = 20_000
TASK_BYTES = 2**28
"""Prepared frames that one read may hold; a file is opened and its table of frames made once a read."""
THUMBNAIL_WIDTH = 320
CHANGED = "the file changed or went away while it was read; the next run looks again"


# -- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoFile:
    """One video file to be indexed.

    Args:
        path: Name in the library: relative to its root with `/`, or absolute.
        root: The library's folder, "" for absolute names.
        size: Bytes of the file.
        mtime_ns: Time of its last change.
    """

    path: str
    root: str
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """Its path on disk."""
        return os.path.join(self.root, self.path)


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used.

    Args:
        path: Name in the library.
        reason: What is wrong.
        file_size: Bytes of the file when it was read, 0 if it could not be opened.
        file_mtime_ns: Time of its last change then.
    """

    path: str
    reason: str
    file_size: int = 0
    file_mtime_ns: int = 0


def open_video(root: str, path: str) -> int:
    """Open a video of a library and return its descriptor.

    Args:
        root: The library's folder; no link is followed below it. "" for an absolute path, whose folder must be named
            without links.
        path: Name in the library.

    Raises:
        LFVilaVideoError: There is no regular file, or the way to it leads over a link.
    """
    folder, parts = (root, PurePath(path).parts) if root else (os.path.dirname(path), (os.path.basename(path),))
    if not root and (not os.path.isabs(path) or os.path.realpath(folder) != folder):
        raise LFVilaVideoError(path, "its folder was replaced by a link")
    if not parts or any(part in ("..", "/", "") for part in parts):
        raise LFVilaVideoError(path, "its name leads out of the library's folder")
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
    follow = getattr(os, "O_NOFOLLOW", 0)
    place = -1
    try:
        place = os.open(folder, flags)
        for number, part in enumerate(parts):
            kind = getattr(os, "O_NONBLOCK", 0) if number == len(parts) - 1 else getattr(os, "O_DIRECTORY", 0)
            place, before = os.open(part, flags | follow | kind, dir_fd=place), place
            os.close(before)
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise LFVilaVideoError(path, "this is no regular file")
        return place
    except (OSError, LFVilaVideoError) as error:
        if place >= 0:
            os.close(place)
        if isinstance(error, LFVilaVideoError):
            raise
        link = os.path.islink(os.path.join(folder, *parts)) or getattr(error, "errno", 0) in (20, 40, 62)
        reason = "it is a link, or lies behind one" if link else f"it cannot be opened ({error.strerror or error})"
        raise LFVilaVideoError(path, reason) from error


def find_videos(sources: str | os.PathLike[str] | Iterable[Any], root: str) -> tuple[list[VideoFile], list[Problem]]:
    """List the videos of files and folders in order of their names, each once, and those that cannot be used.

    Args:
        sources: A file, a folder or a list of them. A file that is named is a video whatever its suffix.
        root: Folder that names are relative to, "" for absolute names.

    Raises:
        LFVilaVideoError: A source is not there.
        ValueError: A source lies outside the root.
    """
    items = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found: dict[str, VideoFile] = {}
    problems: dict[str, Problem] = {}
    for item in (os.fspath(one) for one in items):
        if not os.path.lexists(item):
            raise LFVilaVideoError(item, "no such file or folder")
        for file in _walk(item) if os.path.isdir(item) else [item]:
            name = library_name(file, root)
            try:
                name.encode("utf-8")
                descriptor = open_video(root, name)
                status = os.fstat(descriptor)
                os.close(descriptor)
                found[name] = VideoFile(name, root, status.st_size, status.st_mtime_ns)
            except UnicodeEncodeError:
                name = name.encode("utf-8", "backslashreplace").decode()
                problems[name] = Problem(name, "its name is not valid UTF-8: rename it")
            except LFVilaVideoError as error:
                problems[name] = Problem(name, error.reason)
    return [found[name] for name in sorted(found)], [problems[name] for name in sorted(problems)]


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield os.path.join(parent, name)


def library_name(file: str, root: str) -> str:
    """The name of a file in a library.

    Raises:
        ValueError: It is outside the root.
    """
    # The folder may have been named through a link: its own real name counts. A link in the place of the file stays.
    place = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(file))), os.path.basename(file))
    if not root:
        return place
    if not place.startswith(root.rstrip(os.sep) + os.sep):
        raise ValueError(f"the video {file} is outside the library's folder {root}")
    return PurePath(os.path.relpath(place, root)).as_posix()


# -- cuts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentRule:
    """Rule by which videos are cut.

    Args:
        seconds: Length of a segment. Defaults to 60, about what the released LF-VILA was pre-trained on.
        overlap: Part of a segment that the next one repeats, from 0 to 0.95. Defaults to 0.5.
        clip_seconds: Length of a clip, for encoders that read clips. Defaults to the encoder's.
    """

    seconds: float = 60.0
    overlap: float = 0.5
    clip_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"segments must be longer than 0 seconds, got {self.seconds}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ValueError(f"the overlap of segments must lie in 0 to {MAX_OVERLAP}, got {self.overlap}")
        if not (math.isfinite(self.clip_seconds) and self.clip_seconds >= 0):
            raise ValueError(f"clips must be longer than 0 seconds, got {self.clip_seconds}")

    def count(self, duration: float) -> int:
        """Number of segments of a video of that many seconds."""
        if duration <= self.seconds:
            return 1
        return math.ceil(round((duration - self.seconds) / (self.seconds * (1 - self.overlap)), 6)) + 1

    def cut(self, duration: float) -> list[tuple[float, float]]:
        """Start and end second of every segment: equally long, evenly spaced, at most one hop apart."""
        count = self.count(duration)
        if count == 1:
            return [(0.0, duration)]
        starts = np.linspace(0.0, duration - self.seconds, count).tolist()
        return [(start, start + self.seconds) for start in starts[:-1]] + [(starts[-1], duration)]

    def windows(self, duration: float, clip_seconds: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Edges `(N + 1,)` of the clips of a video, and the first and last clip (excluded) of each segment."""
        clips = max(round(duration / clip_seconds), 1)
        long = min(max(round(self.seconds / clip_seconds), 1), clips)
        hop = max(round(long * (1 - self.overlap)), 1)
        count = math.ceil((clips - long) / hop) + 1
        firsts = np.unique(np.linspace(0, clips - long, count).round().astype(int)).tolist()
        return np.linspace(0.0, duration, clips + 1), [(first, first + long) for first in firsts]


@dataclass(frozen=True)
class Segment:
    """One segment of a video with its vectors.

    Args:
        start: Second at which it starts.
        end: Second at which it ends.
        clip_times: K + 1 seconds at which its clips begin, and the end of the last; empty without clips.
        clips: `(K, D)`, K may be 0.
        vector: `(D,)` of the whole segment, or `None`.
        thumbnail: JPEG.
    """

    start: float
    end: float
    clip_times: list[float]
    clips: np.ndarray
    vector: np.ndarray | None
    thumbnail: bytes


@dataclass(frozen=True)
class Task:
    """Some seconds of one video, read at once.

    Args:
        video: The video.
        info: What is known of it.
        spans: Start and end second of each of N segments or clips.
        total: Segments or clips of the whole video.
        first: Number of the first one.
    """

    video: VideoFile
    info: VideoInfo
    spans: tuple[tuple[float, float], ...]
    total: int
    first: int


@dataclass(frozen=True)
class TaskFrames:
    """Prepared frames of a task.

    Args:
        frames: `(N, F, ...)`, as the encoder prepares them.
        seconds: Second of every frame, N rows.
        pictures: Small picture of the middle frame of each, uint8 `(3, h, w)`.
    """

    frames: torch.Tensor
    seconds: list[list[float]]
    pictures: list[torch.Tensor]


class SegmentReader:
    """Plans and reads the tasks of videos for one encoder.

    Args:
        encoder: The encoder.
        rule: Rule by which videos are cut.
        batch_size: Segments or clips in one pass of the model.
        isolated: Decode in a process of its own.
        limits: Bounds of a video.
    """

    def __init__(
        self,
        encoder: StoryEncoder,
        rule: SegmentRule,
        batch_size: int = 8,
        isolated: bool = False,
        limits: VideoLimits | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.encoder, self.rule, self.batch_size, self.isolated = encoder, rule, batch_size, isolated
        self.limits = limits or VideoLimits()
        self.per_span = encoder.num_frames or encoder.frames_per_clip
        self.clip_seconds = rule.clip_seconds or encoder.clip_seconds

    def plan(self, video: VideoFile) -> Iterator[Task]:
        """The tasks of one video, in order; the file is opened once for its length.

        Raises:
            LFVilaVideoError: The video cannot be used, or claims to be longer than is believed.
        """
        with opened(video) as source:
            info = probe_video(source, limits=self.limits)
        duration = float(info.duration or 0)
        if not 0 < duration <= MAX_VIDEO_SECONDS:
            expected = f"more than 0 and at most {MAX_VIDEO_SECONDS:g} s are believed"
            raise LFVilaVideoError(video.name, f"it claims to be {duration:g} s long, {expected}")
        if self.encoder.num_frames:
            total, unit = self.rule.count(duration), "segments"
        else:
            total, unit = max(round(duration / self.clip_seconds), 1), "clips"
        if total > min(MAX_SEGMENTS, max(info.total_num_frames, 1)):
            raise LFVilaVideoError(
                video.name,
                f"its {duration:g} s make {total} {unit}, but it has {info.total_num_frames} frames "
                f"(at most one of {unit} a frame, and {MAX_SEGMENTS} in all)",
            )
        if self.encoder.num_frames:
            spans = self.rule.cut(duration)
        else:
            spans = list(pairwise(self.rule.windows(duration, self.clip_seconds)[0].tolist()))
        sample = self.encoder.prepare(torch.zeros(3, info.height, info.width, dtype=torch.uint8))
        size = sample.numel() * sample.element_size() * self.per_span
        step = max(TASK_BYTES // max(size, 1) // self.batch_size, 1) * self.batch_size
        for first in range(0, total, step):
            yield Task(video, info, tuple(spans[first : first + step]), total, first)

    def read(self, task: Task) -> TaskFrames:
        """Read the frames of a task.

        Raises:
            LFVilaVideoError: The video cannot be used, or changed since it was listed.
        """
        wish: dict[str, Any] = {"num_frames": self.per_span, "sampling": "uniform"}
        if task.total > 1 or not self.encoder.num_frames:
            wish = {"times": [second for span in task.spans for second in self.seconds(span, task.info)]}
        packing = _Packing(self.encoder)
        with opened(task.video) as source:
            read = read_frames(source, **wish, transform=packing, limits=self.limits, isolated=self.isolated)
        frames, pictures = packing.unpack(read.frames)
        count = self.per_span
        seconds = [list(read.times[start : start + count]) for start in range(0, len(read.indices), count)]  # type: ignore[index]  # files know their seconds
        return TaskFrames(frames.unflatten(0, (-1, count)), seconds, [one[count // 2] for one in pictures.split(count)])

    def seconds(self, span: tuple[float, float], info: VideoInfo) -> list[float]:
        """The seconds that are looked at in a span.

        Segments: evenly from the start to the last frame. Clips: the middles of F equal parts.
        """
        start, end = span
        if self.encoder.num_frames:
            return np.linspace(start, max(end - (1 / info.fps if info.fps else 0.0), start), self.per_span).tolist()
        return (start + (np.arange(self.per_span) + 0.5) / self.per_span * (end - start)).tolist()


class _Packing:
    """Packs the prepared picture and a small one into one row, so that neither is decoded twice."""

    def __init__(self, encoder: StoryEncoder) -> None:
        self.encoder = encoder
        self.shape: torch.Size | None = None
        self.small: torch.Size | None = None

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        prepared = self.encoder.prepare(picture)
        step = max(picture.shape[2] // THUMBNAIL_WIDTH, 1)
        small = picture[:, ::step, ::step]
        self.shape, self.small = prepared.shape, small.shape
        return torch.cat([prepared.flatten(), small.flatten().to(prepared.dtype)])

    def unpack(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.shape is not None and self.small is not None
        cut = self.shape.numel()
        return rows[:, :cut].unflatten(1, self.shape), rows[:, cut:].unflatten(1, self.small)


@contextmanager
def opened(video: VideoFile) -> Iterator[str]:
    """A source for `read_frames` that stays the file that was opened, whatever happens to its name.

    Raises:
        LFVilaVideoError: It cannot be opened, is not the file that was listed, or cannot be read inside; it is named by
            its path, not by its descriptor.
    """
    descriptor = open_video(video.root, video.path)
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (video.size, video.mtime_ns):
            raise LFVilaVideoError(video.name, CHANGED)
        held = f"/proc/{os.getpid()}/fd/{descriptor}"
        yield held if os.path.exists(held) else video.name
    except LFVilaVideoError as error:
        reason = CHANGED if "the file changed while it was read" in error.reason else error.reason
        raise LFVilaVideoError(video.name, reason, error.position) from error
    finally:
        os.close(descriptor)


def thumbnail(picture: torch.Tensor) -> bytes:
    """Encode one picture `(3, H, W)` in 0 to 255 as a JPEG at most `THUMBNAIL_WIDTH` pixels wide."""
    from PIL import Image

    image, file = Image.fromarray(picture.byte().permute(1, 2, 0).numpy()), io.BytesIO()
    image.thumbnail((THUMBNAIL_WIDTH, picture.shape[1]))
    image.save(file, "JPEG", quality=85)
    return file.getvalue()

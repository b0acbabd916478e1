# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Checks of the videos of a folder: `find_videos`, `check_videos`.

Design note. Every file is decoded in a separate process (`isolated`), so no file can take the check down. Several run
at a time, in threads that only wait for those processes. A quick check decodes frames spread over the video, the first
and the last among them, and finds the faults that training would find. A full one decodes every frame. Memory:
one pixel per decoded frame, and one row per file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..video_reading_lfvila import LFVilaVideoError, VideoLimits, read_frames
from ..video_sources_lfvila import VIDEO_EXTENSIONS
from .batch_decoding import decode_videos

SUFFIXES = frozenset(VIDEO_EXTENSIONS)
"""Endings of file names that are taken for videos."""

Status = Literal["ok", "odd", "broken"]


@dataclass(frozen=True)
class CheckedVideo:
    """Result of the check of one file.

    Attributes:
        path: The file.
        status: "ok"; "odd": it can be used, but see `notes`; "broken": it cannot.
        reason: Reason why it cannot be used, "" otherwise.
        position: Place of the fault in the video, as far as known.
        notes: Oddities (damage, made up time stamps).
        bytes: Size of the file; `None` if it is not known.
        frames: Frames in the video; `None` of a broken one, like all below.
        seconds: Duration.
        width: Of the upright picture.
        height: Of the upright picture.
        fps: Mean frames per second.
        codec: Its name.
        container: Its name.
        rotation: Degrees counter-clockwise by which pictures are turned.
        variable_rate: Whether the time between frames changes.
        took: Seconds that the check took.
    """

    path: str
    status: Status
    reason: str = ""
    position: str | None = None
    notes: tuple[str, ...] = ()
    bytes: int | None = None
    frames: int | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    codec: str | None = None
    container: str | None = None
    rotation: int | None = None
    variable_rate: bool | None = None
    took: float = 0.0


def find_videos(folder: str | os.PathLike[str], *, every_file: bool = False) -> list[Path]:
    """List the videos in a folder and its sub-folders, sorted by name; links to folders are not followed.

    Args:
        folder: Folder to search.
        every_file: Take files of every name, not only those that end like videos.

    Raises:
        OSError: A folder cannot be listed.
        ValueError: There is no video.
    """

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or not os.path.isdir(folder):  # else a sub-folder has just gone
            raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=complain):
        folders.sort()
        found += [Path(place) / name for name in names if every_file or Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"no {'file' if every_file else 'video file'} was found in {os.fspath(folder)}")
    return sorted(found)


def check_videos(
    paths: Iterable[str | os.PathLike[str]],
    *,
    num_frames: int | None = 32,
    num_workers: int | None = None,
    limits: VideoLimits | None = None,
    isolated: bool | None = None,
) -> Iterator[CheckedVideo]:
    """Read every file and report what is wrong with it.

    Args:
        paths: The files.
        num_frames: Number of frames decoded of each, spread from the first to the last; `None` decodes all.
        num_workers: Number of files read at the same time. Defaults to the number of cores, at most 8.
        limits: Limits of size and time of one video.
        isolated: Decode in separate processes. Defaults to true on POSIX systems.

    Yields:
        One row per file, in the order of `paths`.
    """
    options: dict[str, Any] = {"limits": limits, "isolated": os.name == "posix" if isolated is None else isolated}
    if num_frames is not None:
        options["num_frames"] = num_frames
    for _, row in decode_videos(paths, num_workers=num_workers, read=check_video, **options):
        yield row


def check_video(path: str | os.PathLike[str], **options: Any) -> CheckedVideo:
    """Check one file.

    Args:
        path: The file.
        options: Arguments of `read_frames`; without `num_frames` every frame is decoded.
    """
    name = os.fspath(path)
    start = time.monotonic()
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = None
    try:
        # Small pictures, because they come from another process and nobody looks at them.
        info = read_frames(path, size=(8, 8), **options).metadata
    except LFVilaVideoError as error:
        took = round(time.monotonic() - start, 3)
        return CheckedVideo(name, "broken", error.reason, error.position, bytes=size, took=took)
    return CheckedVideo(
        path=name,
        status="odd" if info.notes else "ok",
        notes=info.notes,
        bytes=size,
        frames=info.total_num_frames,
        seconds=info.duration,
        width=info.width,
        height=info.height,
        fps=info.fps,
        codec=info.codec,
        container=info.container,
        rotation=info.rotation,
        variable_rate=info.variable_rate,
        took=round(time.monotonic() - start, 3),
    )


def summary(rows: Iterable[CheckedVideo]) -> dict[str, Any]:
    """Return counts and all rows, as JSON can carry them."""
    rows = list(rows)
    counts = {status: sum(row.status == status for row in rows) for status in ("ok", "odd", "broken")}
    return {"files": len(rows), **counts, "videos": [asdict(row) for row in rows]}


def table(rows: Iterable[CheckedVideo]) -> str:
    """Format rows as lines of text: status, file, and fault or properties."""
    lines = [(row.status, _printable(row.path), _printable(_words(row))) for row in rows]
    widths = [max((len(line[column]) for line in lines), default=0) for column in (0, 1)]
    return "\n".join(f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}  {line[2]}".rstrip() for line in lines)


def _words(row: CheckedVideo) -> str:
    if row.status == "broken":
        return f"at {row.position}: {row.reason}" if row.position else row.reason
    if row.status == "odd":
        return "; ".join(row.notes)
    fps = "" if row.fps is None else f", {row.fps:.3g} per second"
    seconds = "" if row.seconds is None else f", {row.seconds:.2f} s"
    return f"{row.codec} {row.width} x {row.height}, {row.frames} frames{seconds}{fps}"


def _printable(text: str) -> str:
    """Escape a text to one line; names of files may hold anything."""
    readable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in readable)


__all__ = ["SUFFIXES", "CheckedVideo", "check_video", "check_videos", "find_videos", "summary", "table"]

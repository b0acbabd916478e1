# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Decoded frames on disk, in one memory-mapped file per data set: `FrameStore`.

    FOLDER/frames.u8      the pictures of all videos, one after the other
    FOLDER/index.jsonl    a header, then one line per `put`: file, settings, place of its pictures
    FOLDER/lock           held while something is appended

Decode each video once and train many epochs on it. An entry belongs to a path, to the size and the time of change (in
nanoseconds) of that file, and to the settings that decide which pixels are stored. If any of these differs, the entry
is not used and the video is decoded again.

Safety. Pictures are appended with `write`, never through the map, so a full disk is an error and not a bus error. The
line of the index follows its pictures. A killed run therefore leaves at most pictures without a line, which the next
writer overwrites, and half a line, which the next writer cuts off. Every entry has a CRC-32, which each process checks
when it first uses the entry. Any number of processes and threads may read and fill one store at the same time. A
process notices that the folder was deleted or made anew, and forgets the entries of the earlier files.

A store does not forget: pictures of changed files and of other settings stay until the folder is deleted. When
`max_bytes` is reached, further videos are decoded every time, and a warning says so once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import mmap
import os
import stat
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..video_reading_lfvila import VideoFrames, VideoInfo

logger = logging.getLogger(__name__)

FORMAT = 3
"""Version of the files. A store of another version is made anew."""

HEADER = json.dumps({"frame_store": FORMAT}).encode()
"""First line of the index."""

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds of a file."""


@dataclass(frozen=True)
class StoredVideo:
    """Some frames of one video, each with its number and second.

    Attributes:
        pictures: `(N, 3, h, w)` uint8, in memory or mapped from disk.
        indices: `(N,)` ascending frame numbers in a full sequential decode.
        seconds: Time of each frame in seconds from the first frame of the video.
        info: Properties of the video; width and height are those of the file.
    """

    pictures: np.ndarray
    indices: np.ndarray
    seconds: Sequence[float]
    info: VideoInfo

    def positions(self, wanted: Sequence[int]) -> list[int]:
        """Find the stored frames nearest to the wanted frame numbers; of two equally near ones the earlier."""
        right = np.searchsorted(self.indices, wanted).clip(max=len(self.indices) - 1)
        left = (right - 1).clip(min=0)
        target = np.asarray(wanted)
        nearer_left = np.abs(target - self.indices[left]) <= np.abs(self.indices[right] - target)
        return np.where(nearer_left, left, right).tolist()

    def take(self, wanted: Sequence[int]) -> VideoFrames:
        """Copy the stored frames nearest to the wanted frame numbers: `frames (T, 3, h, w)` uint8."""
        positions = self.positions(wanted)
        return VideoFrames(
            frames=torch.from_numpy(self.pictures[positions]),
            times=[float(self.seconds[position]) for position in positions],
            indices=[int(self.indices[position]) for position in positions],
            metadata=self.info,
        )


@dataclass
class _Entry:
    """One line of the index."""

    stamp: Stamp
    offset: int
    shape: tuple[int, int, int, int]
    crc: int
    indices: np.ndarray
    seconds: list[float]
    info: VideoInfo
    is_checked: bool = False

    @property
    def end(self) -> int:
        return self.offset + int(np.prod(self.shape))


class FrameStore:
    """Decoded frames of a data set on disk, shared by processes and runs.

    If the folder cannot be written, a warning says so and frames that are stored already are still read.

    Args:
        folder: Folder of the store; it is created.
        max_bytes: Maximum size of the stored pictures. Defaults to 20 GiB.
        frames_per_video: Number of uniform frames stored of a long video, besides the T frames of evaluation.
            Defaults to 4 T.
        resolution: `"reduced"` stores pictures at the first evaluation size (5/4 of the target), `"crop"` at a smaller
            size for training alone, `"source"` at the size of the file; see `cached_reading`.

    Attributes:
        hits: Number of videos found in the store, in this process.
        misses: Number of videos that were looked up and not found, in this process.

    Raises:
        ValueError: `max_bytes` is below 1, `frames_per_video` below 2, the resolution is unknown, or the folder holds
            an `index.jsonl` of something else.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_bytes: int = 20 * 2**30,
        frames_per_video: int | None = None,
        resolution: Literal["reduced", "crop", "source"] = "reduced",
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        if frames_per_video is not None and frames_per_video < 2:
            raise ValueError(f"frames_per_video must be at least 2, got {frames_per_video}")
        if resolution not in ("reduced", "crop", "source"):
            raise ValueError(f'resolution must be "reduced", "crop" or "source", got {resolution!r}')
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self.frames_per_video = frames_per_video
        self.resolution = resolution
        self.hits = 0
        self.misses = 0
        self._writable = True
        self._lock = threading.Lock()
        self._forget()
        try:
            self._create()
        except OSError as error:
            self._stop_writing(f"cannot be written ({error.strerror})")

    def get(self, path: str, settings: Mapping[str, Any]) -> StoredVideo | None:
        """Look up a video.

        Args:
            path: File of the video.
            settings: Everything that decides which pixels are stored, as JSON can carry it.

        Returns:
            Its frames, mapped from disk, or `None` if it is not stored, has changed since, or is damaged on disk.
        """
        key = _key(path, settings)
        with self._lock:
            with suppress(OSError):  # then nothing is known
                self._read_index()
            entry = self._entries.get(key)
            if entry is None or entry.stamp != file_stamp(path):
                self.misses += 1
                return None
            pictures = self._mapped(entry)
            if pictures is None:
                logger.warning("frame store %s: the frames of %s are damaged, decoding them again", self.folder, path)
                del self._entries[key]
                self.misses += 1
                return None
            self.hits += 1
            return StoredVideo(pictures, entry.indices, entry.seconds, entry.info)

    def put(self, path: str, settings: Mapping[str, Any], video: StoredVideo, stamp: Stamp) -> None:
        """Append the frames of a video, unless they are stored already.

        A full disk, or a folder that was deleted, is a warning, after which nothing more is written.

        Args:
            path: File of the video.
            settings: As for `get`.
            video: Its frames.
            stamp: `file_stamp(path)` from before the file was decoded.
        """
        from filelock import FileLock

        if not self._writable:
            return
        pictures = np.ascontiguousarray(video.pictures)
        key = _key(path, settings)
        fields = {
            "key": key,
            "stamp": stamp,
            "shape": pictures.shape,
            "crc": zlib.crc32(pictures.data),
            "indices": video.indices.tolist(),
            "seconds": [float(second) for second in video.seconds],
            "info": asdict(video.info),
        }
        try:
            with self._lock, FileLock(self.folder / "lock"):
                self._read_index()
                stored = self._entries.get(key)
                if stored is not None and stored.stamp == stamp:  # another process was faster
                    return
                offset = self._end
                if offset + pictures.nbytes > self.max_bytes:
                    self._stop_writing(f"has reached max_bytes={self.max_bytes}")
                    return
                try:
                    _write_at(self._frames_file, offset, pictures)
                    _write_at(self._index_file, self._read_to, f"{json.dumps({**fields, 'offset': offset})}\n".encode())
                except OSError:
                    os.truncate(self._index_file, self._read_to)
                    os.truncate(self._frames_file, offset)
                    raise
                self._read_index()
        except OSError as error:
            reason = "disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            self._stop_writing(f"cannot be written ({reason})")

    def size(self) -> int:
        """Return the number of bytes of stored pictures."""
        with self._lock, suppress(OSError):
            self._read_index()
        return self._end

    def __len__(self) -> int:
        with self._lock, suppress(OSError):
            self._read_index()
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets a copy reads the index and maps the files itself.
        own = ("_lock", "_entries", "_map", "_index_map", "_identity", "_read_to", "_end")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._forget()

    @property
    def _frames_file(self) -> Path:
        return self.folder / "frames.u8"

    @property
    def _index_file(self) -> Path:
        return self.folder / "index.jsonl"

    def _forget(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._map: np.ndarray | None = None
        # Never read. While it is mapped, no other file gets the number of a deleted index, so `_identity` tells.
        self._index_map: mmap.mmap | None = None
        self._identity: tuple[int, int] | None = None
        self._read_to = 0
        self._end = 0

    def _create(self) -> None:
        """Make an empty store, unless there is one of this version.

        Raises:
            OSError: The folder cannot be written.
            ValueError: It holds an index of something else.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            try:
                with self._index_file.open("rb") as file:
                    found = file.readline()
            except FileNotFoundError:
                found = b""
            if found == HEADER + b"\n" and self._frames_file.exists():
                return
            if found and b'"frame_store"' not in found:
                raise ValueError(f"{self._index_file} is not of a frame store. Give the store another folder")
            if found:
                logger.warning("frame store %s is of another version: it is made anew", self.folder)
            elif (self.folder / "bytes_in_use").exists():
                logger.warning("%s also holds a frame cache of an earlier version, which may be deleted", self.folder)
            for file_name in (self._index_file, self._frames_file):
                # Removed and not emptied: another process may have mapped it.
                file_name.unlink(missing_ok=True)
            self._frames_file.touch()
            self._index_file.write_bytes(HEADER + b"\n")

    def _stop_writing(self, reason: str) -> None:
        if self._writable:
            logger.warning("frame store %s %s: further videos are decoded every time", self.folder, reason)
        self._writable = False

    def _read_index(self) -> None:
        """Take in the complete lines that were appended since the last time, or all lines of an index made anew.

        Raises:
            OSError: The index is gone, cannot be read, or is of another version. All entries are forgotten.
        """
        try:
            with self._index_file.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._read_to:
                    self._forget()
                header = file.readline()
                if header != HEADER + b"\n":
                    raise OSError(errno.EINVAL, "its index is of another version")
                if self._identity is None:
                    self._index_map = mmap.mmap(file.fileno(), len(header), access=mmap.ACCESS_READ)
                    self._identity = (status.st_dev, status.st_ino)
                    self._read_to = len(header)
                file.seek(self._read_to)
                new, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            self._forget()
            raise
        for line in new.splitlines():
            try:
                fields = json.loads(line)
                info = VideoInfo(**{**fields["info"], "notes": tuple(fields["info"]["notes"])})
                entry = _Entry(
                    stamp=tuple(fields["stamp"]),
                    offset=fields["offset"],
                    shape=tuple(fields["shape"]),
                    crc=fields["crc"],
                    indices=np.asarray(fields["indices"]),
                    seconds=fields["seconds"],
                    info=info,
                )
                if not len(entry.indices) == len(entry.seconds) == entry.shape[0] or len(entry.shape) != 4:
                    raise ValueError("its parts differ in length")
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                logger.warning("frame store %s: a line of the index is damaged (%s)", self.folder, error)
                with suppress(OSError):  # nothing that it named is overwritten
                    self._end = max(self._end, os.stat(self._frames_file).st_size)
                continue
            self._entries[fields["key"]] = entry
            self._end = max(self._end, entry.end)
        self._read_to += len(new) + len(newline)

    def _mapped(self, entry: _Entry) -> np.ndarray | None:
        """Map the pictures of an entry, `(N, 3, h, w)`; `None` if they are not those that were written."""
        if self._map is None or len(self._map) < entry.end:
            try:
                with self._frames_file.open("rb") as file:
                    self._map = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            except (OSError, ValueError):  # gone or empty
                return None
        data = self._map[entry.offset : entry.end]
        if len(data) != entry.end - entry.offset:
            return None
        if not entry.is_checked:
            if zlib.crc32(data.data) != entry.crc:
                return None
            entry.is_checked = True
        return data.reshape(entry.shape)


def file_stamp(path: str) -> Stamp | None:
    """Return size and time of change of a regular file; `None` if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _key(path: str, settings: Mapping[str, Any]) -> str:
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return f"{fingerprint} {os.path.abspath(path)}"


def _write_at(path: Path, offset: int, data: Any) -> None:
    """Write at a place of a file and cut off what stood behind it."""
    with path.open("r+b", buffering=0) as file:
        file.truncate(offset)
        file.seek(offset)
        view = memoryview(data).cast("B")
        while len(view):
            view = view[file.write(view) :]


__all__ = ["FrameStore", "StoredVideo", "file_stamp"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames decoded once and kept on disk: `FrameCache`, for training many epochs on the same videos.

Design note. One entry per video file (or clip file) holds uint8 pictures and what the reader said about the video. Its
name is a hash of the file's content and everything that decides which pixels are in it, so that a changed file or
another setting is another entry, never a wrong frame, and a file that was moved or copied is the same one. A video is
hashed when it is first seen; what came out is kept under its path, size and time of change, so that later reads only
ask for these. The entry is a `.npy` array `(N, 3, h, w)`, opened as a memory map of which only the wanted frames are
read, then a JSON description with a CRC-32 per frame; a damaged entry is made again.

Which frames are held of a video of n frames, for a model that takes T:

- a clip file (pre-training): the T/K frames `clip_indices(n, T/K)`, which training and evaluation both take. Exact.
- a whole video with n <= `frames_per_video` (default 4 T): all n. Exact.
- a longer one: the T frames of `uniform_indices(n, T)`, so that evaluation is exact, and besides them
  `frames_per_video` uniform ones, of which jittered training takes the nearest: at most
  `(n - 1) / (2 (frames_per_video - 1))` (rounded up) frames beside the one asked for, an eighth of the distance of two
  sampled frames by default.

Which pixels: with `resolution="reduced"` pictures are scaled to the first evaluation size (240 x 428 for a target of
192 x 320, so that a training crop of 0.8 of the area has enough pixels) and rounded to whole numbers. Evaluation scales
to that size anyway, so a pixel differs by at most half a grey level of 255; training crops of the scaled picture, which
blurs slightly. Pictures that are not larger than that, and all with `resolution="source"`, are kept as they are, and
then every pixel is exact.

Disk is bounded by `max_bytes`, all processes together; the entries unused for longest go first. With a bound below the
size of the data every epoch evicts what the next one needs: choose it above, or do without. Processes share a folder
safely: an entry appears under its name complete, and sizes are counted under a lock.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..video_reading_lfvila import VideoFrames, VideoInfo, describe_source, read_frames, uniform_indices

logger = logging.getLogger(__name__)

FORMAT = 2
"""Part of every name: entries of another format are not found."""

HASH_LENGTH = 40
"""Digits of the hashes in names."""

TOUCH_SECONDS = 60.0
"""An entry's time of last use is written at most this often."""

STALE_SECONDS = 3600.0
"""An unfinished file older than this was left by a process that died."""

FULL_FRACTION = 0.9
"""Eviction goes on until this part of `max_bytes` is in use, so that it does not run for every new entry."""


@dataclass(frozen=True)
class CachedVideo:
    """The held frames of one video.

    Attributes:
        pictures: `(N, 3, h, w)` uint8, in memory or mapped from disk.
        indices: `(N,)` ascending numbers of these frames in a full sequential decode.
        seconds: Their seconds from the first frame of the video.
        info: What is known of the video; width and height are those of the file.
        checksums: CRC-32 of each frame; `None` where the frames were decoded just now.
    """

    pictures: np.ndarray
    indices: np.ndarray
    seconds: list[float]
    info: VideoInfo
    checksums: list[int] | None = None

    def positions(self, wanted: Sequence[int]) -> list[int]:
        """Where in `indices` the frames nearest to the wanted ones are; the earlier of two equally near."""
        right = np.searchsorted(self.indices, wanted).clip(max=len(self.indices) - 1)
        left = (right - 1).clip(min=0)
        target = np.asarray(wanted)
        nearer_left = np.abs(target - self.indices[left]) <= np.abs(self.indices[right] - target)
        return np.where(nearer_left, left, right).tolist()

    def take(self, wanted: Sequence[int]) -> VideoFrames:
        """The frames nearest to the wanted ones, `(T, 3, h, w)` uint8, each with its true second and number.

        Raises:
            DamagedEntryError: Where the bytes on disk are not those that were written.
        """
        positions = self.positions(wanted)
        frames = self.pictures[positions]  # (T, 3, h, w)
        if self.checksums is not None:
            for frame, position in zip(frames, positions, strict=True):
                if zlib.crc32(frame) != self.checksums[position]:
                    raise DamagedEntryError(f"frame {position} of the entry for {self.info.source}")
        return VideoFrames(
            frames=torch.from_numpy(frames),
            times=[self.seconds[position] for position in positions],
            indices=[int(self.indices[position]) for position in positions],
            metadata=self.info,
        )


class DamagedEntryError(Exception):
    """A file of the cache does not hold what was written to it. `FrameCache.read` makes it again."""


class FrameCache:
    """Decoded frames on disk, shared by processes and runs.

    Args:
        folder: Where; made if missing. It may be shared by data sets and settings, whose entries differ in name.
        max_bytes: Disk in use at most, by all processes together.
        frames_per_video: Frames held of a long video besides those of evaluation; 4 T where left out.
        resolution: `"reduced"` or `"source"`, see the top of this file.

    Attributes:
        hits: Reads that found their entry, in this process.
        misses: Reads that decoded, in this process.

    Raises:
        ValueError: For numbers below 1 or an unknown resolution.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_bytes: int = 20 * 2**30,
        frames_per_video: int | None = None,
        resolution: Literal["reduced", "source"] = "reduced",
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        if frames_per_video is not None and frames_per_video < 2:
            raise ValueError(f"frames_per_video must be at least 2, got {frames_per_video}")
        if resolution not in ("reduced", "source"):
            raise ValueError(f'resolution must be "reduced" or "source", got {resolution!r}')
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes = max_bytes
        self.frames_per_video = frames_per_video
        self.resolution = resolution
        self.hits = 0
        self.misses = 0
        self._warned = False

    def read(
        self,
        source: Any,
        choose: Callable[[int], Sequence[int]],
        *,
        num_frames: int,
        rule: Literal["video", "clip"],
        reduced_size: tuple[int, int],
        resize: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor],
        **options: Any,
    ) -> VideoFrames:
        """Frames of one video, from the cache or through it.

        Args:
            source: Path of a file on this machine.
            choose: From the number of frames n, the wanted frames.
            num_frames: T of a whole video, T / K of a clip file.
            rule: What `choose` is for: `"video"` (uniform or jittered) or `"clip"`.
            reduced_size: Height and width of held pictures where `resolution` is `"reduced"`.
            resize: Scales a float picture `(3, H, W)` to a height and width.
            options: For `read_frames`.

        Returns:
            `frames (T, 3, h, w)` uint8 with their true seconds and numbers.

        Raises:
            LFVilaVideoError: Where the video cannot be used.
            ValueError: Where the source is not such a path.
        """
        if not isinstance(source, (str, os.PathLike)) or "://" in os.fspath(source):
            raise ValueError(
                f"a frame cache holds frames of files on this machine, expected a path, got {source!r:.80}"
            )
        path = os.path.abspath(os.fspath(source))
        held = max(self.frames_per_video or 4 * num_frames, num_frames)
        what = {
            "rule": rule,
            "num_frames": num_frames,
            "frames_per_video": None if rule == "clip" else held,
            "size": list(reduced_size) if self.resolution == "reduced" else None,
            "accept_truncated": bool(options.get("accept_truncated")),
            "decoder_size": list(options["size"]) if options.get("size") else None,
        }
        entry = self._entry(path, what)
        frames = None if entry is None else self._take(entry, choose)
        if frames is not None:
            self.hits += 1
            # another file of the same content may have been the first
            return replace(frames, metadata=replace(frames.metadata, source=describe_source(source)))
        self.misses += 1
        size = reduced_size if self.resolution == "reduced" else None
        video = _decode(source, num_frames, held, rule, size, resize, options)
        if entry is not None and self._entry(path, what) == entry:  # the file is still the one that was named
            self._write(entry, video)
        return video.take(choose(video.info.total_num_frames))

    def size(self) -> int:
        """Bytes in use by entries."""
        return sum(entry.stat().st_size for entry in self._entries())

    def __len__(self) -> int:
        return sum(1 for _ in self._entries())

    def _entries(self) -> Iterator[Path]:
        return self.folder.glob("??/*.npy")

    def _entry(self, path: str, what: dict[str, Any]) -> Path | None:
        """File of an entry; `None` where there is no such file, which the reader shall say in its own words."""
        try:
            content = self._content(path)
        except (OSError, ValueError):
            return None
        name = _hash_of({"format": FORMAT, "content": content, **what})
        return self.folder / name[:2] / f"{name}.npy"

    def _content(self, path: str) -> str:
        """Hash of a file's content, made once for each path, size and time of change.

        Raises:
            OSError: Where the file cannot be read.
            ValueError: Where it is no regular file, or changes meanwhile.
        """
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        known = self.folder / "contents" / _hash_of([path, status.st_size, status.st_mtime_ns])
        try:
            content = known.read_text()
            if len(content) == HASH_LENGTH:
                return content
        except FileNotFoundError:
            pass
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        after = os.stat(path)
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise ValueError(f"{path} changed while it was read")
        content = digest.hexdigest()[:HASH_LENGTH]
        known.parent.mkdir(exist_ok=True)
        unfinished = self.folder / f"{uuid.uuid4().hex}.unfinished"
        unfinished.write_text(content)
        os.replace(unfinished, known)
        return content

    def _take(self, entry: Path, choose: Callable[[int], Sequence[int]]) -> VideoFrames | None:
        """Frames of an entry; `None` where it is missing, or damaged and therefore removed."""
        video = self._open(entry)
        if video is None:
            return None
        try:
            frames = video.take(choose(video.info.total_num_frames))
        except DamagedEntryError as error:
            logger.warning("the frame cache is damaged: %s; decoding again", error)
            entry.unlink(missing_ok=True)
            return None
        self._touch(entry)
        return frames

    def _open(self, entry: Path) -> CachedVideo | None:
        try:
            pictures = np.lib.format.open_memmap(entry, mode="r")
            with entry.open("rb") as file:
                file.seek(pictures.offset + pictures.nbytes)
                described = json.loads(file.read())
            info = VideoInfo(**{**described["info"], "notes": tuple(described["info"]["notes"])})
            indices = np.asarray(described["indices"])
            if not len(indices) == len(described["seconds"]) == len(described["checksums"]) == len(pictures):
                raise ValueError("the description does not fit the pictures")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the frame cache is damaged: %s cannot be read (%s); decoding again", entry, error)
            entry.unlink(missing_ok=True)
            return None
        return CachedVideo(pictures, indices, described["seconds"], info, described["checksums"])

    def _touch(self, entry: Path) -> None:
        """Write down that an entry was used, now and then. Evicted by another process meanwhile is fine."""
        try:
            if time.time() - entry.stat().st_mtime > TOUCH_SECONDS:
                os.utime(entry)
        except FileNotFoundError:
            pass

    def _write(self, entry: Path, video: CachedVideo) -> None:
        description = {
            "info": asdict(video.info),
            "indices": video.indices.tolist(),
            "seconds": video.seconds,
            "checksums": [zlib.crc32(picture) for picture in video.pictures],
        }
        tail = json.dumps(description).encode()
        size = video.pictures.nbytes + len(tail) + 128  # 128: the header of a .npy file of this kind
        if size > self.max_bytes:
            if not self._warned:
                logger.warning(
                    "%s takes %d bytes, more than the max_bytes=%d of the frame cache: it is decoded every time",
                    video.info.source,
                    size,
                    self.max_bytes,
                )
                self._warned = True
            return
        entry.parent.mkdir(exist_ok=True)
        unfinished = self.folder / f"{uuid.uuid4().hex}.unfinished"
        try:
            with unfinished.open("wb") as file:
                np.lib.format.write_array(file, video.pictures, allow_pickle=False)
                file.write(tail)
            self._publish(unfinished, entry)
        finally:
            unfinished.unlink(missing_ok=True)

    def _publish(self, unfinished: Path, entry: Path) -> None:
        """Give a finished file its name, after making room for it."""
        from filelock import FileLock

        ledger = self.folder / "bytes_in_use"
        size = unfinished.stat().st_size
        with FileLock(self.folder / "lock"):
            if entry.exists():  # another process was faster
                return
            try:
                used = int(ledger.read_text())
            except (FileNotFoundError, ValueError):
                used = self.size()
            if used + size > self.max_bytes:
                used = self._evict(math.floor(self.max_bytes * FULL_FRACTION) - size)
            # Counted before it appears: a process that dies in between leaves the count too high, never too low, and
            # the next eviction counts afresh.
            ledger.write_text(str(used + size))
            os.replace(unfinished, entry)

    def _evict(self, target: int) -> int:
        """Remove what was unused for longest until at most `target` bytes are left; gives how many are."""
        for left_over in self.folder.glob("*.unfinished"):
            if time.time() - left_over.stat().st_mtime > STALE_SECONDS:
                left_over.unlink(missing_ok=True)
        entries = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry) for entry in self._entries())
        used = sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if used <= target:
                break
            entry.unlink(missing_ok=True)
            used -= size
        return used


def _hash_of(value: Any) -> str:
    """A name that differs for different values of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:HASH_LENGTH]


def _decode(
    source: Any,
    num_frames: int,
    held: int,
    rule: str,
    size: tuple[int, int] | None,
    resize: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor],
    options: dict[str, Any],
) -> CachedVideo:
    def reduce(picture: torch.Tensor) -> torch.Tensor:
        if size is None or picture.shape[1] * picture.shape[2] <= size[0] * size[1]:
            return picture
        return resize(picture.float(), size).round().to(torch.uint8)  # (3, h, w)

    if rule == "clip":
        read = read_frames(source, num_frames=num_frames, sampling="clip", transform=reduce, **options)
    else:
        count = read_frames(source, indices=[0], **options).metadata.total_num_frames
        wanted = range(count) if count <= held else {*uniform_indices(count, held), *uniform_indices(count, num_frames)}
        read = read_frames(source, indices=sorted(wanted), transform=reduce, **options)
    indices, first = np.unique(read.indices, return_index=True)  # a short clip repeats frames
    assert read.times is not None  # a file knows its seconds
    return CachedVideo(
        pictures=read.frames.numpy()[first],
        indices=indices,
        seconds=[read.times[place] for place in first],
        info=read.metadata,
    )


__all__ = ["CachedVideo", "DamagedEntryError", "FrameCache"]

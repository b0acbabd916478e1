# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Parallel decoding of many videos, in order: `decode_videos`.

    for position, frames in decode_videos(paths, num_frames=32, size=(192, 320), num_workers=2):
        ...                                     # frames (T, 3, H, W) of paths[position]

Design note. A pool of threads, one video per thread: FFmpeg works without Python's interpreter lock, and one decoder
per video wastes no work on splitting one. The queue is a window over the sources: at most `num_workers + prefetch`
videos are being decoded or wait for the caller, and a source is only asked for when there is room, so that sources may
be an endless stream and memory does not depend on their number.

A decoding thread takes the interpreter lock back several times per packet. Beside a thread that is busy in pure Python
each of these can wait for the switch interval (5 ms), which makes decoding some 70 times slower. So the pool's own
threads never spin, and the switch interval is lowered while a pool is at work. Pass `isolated=True` if the caller
tokenises or parses between two videos: decoders are then separate processes, and the threads only wait.

Training does not need this: the worker processes of a torch `DataLoader` (`dataloader_num_workers`) decode ahead of the
step. It is for encoding, indexing and checking many videos in one process.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from ..video_reading_lfvila import (
    LFVilaVideoError,
    VideoFrames,
    describe_source,
    is_frame_source,
    read_clips,
    read_frames,
)
from ..video_sources_lfvila import STOP
from .skipping import SkipLog

SWITCH_INTERVAL = 1e-4
"""Seconds after which a busy Python thread gives way while a pool decodes; Python's own 5 ms is too long for that."""

T = TypeVar("T")

_interval_lock = threading.Lock()
_intervals: list[float] = []


@overload
def decode_videos(
    sources: Iterable[Any],
    *,
    num_workers: int | None = None,
    prefetch: int = 2,
    skips: SkipLog | None = None,
    read: None = None,
    **options: Any,
) -> Iterator[tuple[int, VideoFrames]]: ...


@overload
def decode_videos(
    sources: Iterable[Any],
    *,
    num_workers: int | None = None,
    prefetch: int = 2,
    skips: SkipLog | None = None,
    read: Callable[..., T],
    **options: Any,
) -> Iterator[tuple[int, T]]: ...


def decode_videos(
    sources: Iterable[Any],
    *,
    num_workers: int | None = None,
    prefetch: int = 2,
    skips: SkipLog | None = None,
    read: Callable[..., Any] | None = None,
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Read many videos, some at the same time, and give them out in order.

    Args:
        sources: Anything that `read_frames` takes, or lists of clip files; read lazily, one at a time.
        num_workers: Number of videos decoded at the same time. Defaults to the number of cores, at most 8.
        prefetch: Number of decoded videos that may wait for the caller besides.
        skips: Policy for videos that cannot be used. By default they raise.
        read: Called as `read(source, **options)` in a worker's thread, such as a processor's
            `video_processor.read_pictures`. Defaults to `read_frames`, or `read_clips` for a list of clip files.
        options: Arguments of `read`. `isolated=True` decodes in separate processes.

    Yields:
        The position in `sources` and the frames, in the order of `sources`, without those that were skipped.

    Raises:
        LFVilaVideoError: A video cannot be used and the policy is to raise.
        ValueError: For numbers that make no sense, or where too many videos are skipped.
    """
    workers = num_workers if num_workers is not None else min(os.cpu_count() or 1, 8)
    if workers < 1 or prefetch < 0:
        raise ValueError(f"num_workers must be at least 1 and prefetch at least 0, got {num_workers} and {prefetch}")
    if skips is not None and skips.total is None and isinstance(sources, Sized):
        skips.total = len(sources)
    return _decode(iter(sources), workers, workers + prefetch, skips, read or _read_any, options)


def _decode(
    sources: Iterator[Any],
    workers: int,
    window: int,
    skips: SkipLog | None,
    read: Callable[..., T],
    options: dict[str, Any],
) -> Iterator[tuple[int, T]]:
    stop = threading.Event()
    waiting: deque[tuple[int, str, Future[T]]] = deque()

    def work(source: Any) -> T:
        STOP.set(stop)
        return read(source, **options)

    with _short_switch_interval(), ThreadPoolExecutor(workers, "lfvila-decoding") as pool:
        try:
            for position in itertools.count():
                while len(waiting) < window:
                    try:
                        source = next(sources)
                    except StopIteration:
                        break
                    waiting.append((position + len(waiting), describe_source(source), pool.submit(work, source)))
                if not waiting:
                    return
                place, name, future = waiting.popleft()
                try:
                    frames = future.result()
                except LFVilaVideoError as error:
                    if skips is None:
                        raise
                    skips.handle(error, sample=name, place=f"video {place}", rows_read=place + 1)
                else:
                    del future  # or the window would hold it beside the caller
                    yield place, frames
                    del frames
        finally:
            stop.set()  # whatever is being decoded ends between two packets
            pool.shutdown(wait=False, cancel_futures=True)


def _read_any(source: Any, **options: Any) -> VideoFrames:
    """Read one video, or one that is stored as clip files."""
    if isinstance(source, (list, tuple)) and not is_frame_source(source):
        return read_clips(source, **options)
    return read_frames(source, **options)


@contextmanager
def _short_switch_interval() -> Iterator[None]:
    """Lower the switch interval while a pool is at work, and put it back after the last of them."""
    with _interval_lock:
        _intervals.append(sys.getswitchinterval())
        sys.setswitchinterval(min(SWITCH_INTERVAL, _intervals[0]))
    try:
        yield
    finally:
        with _interval_lock:
            before = _intervals[0]
            _intervals.pop()
            if not _intervals:
                sys.setswitchinterval(before)


__all__ = ["decode_videos"]

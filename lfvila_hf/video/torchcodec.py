# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Decoding with torchcodec in place of PyAV, on request: `read_frames(..., backend="torchcodec")`.

torchcodec's exact mode scans the packets of a file and applies rotation itself, so the frames are the same ones; the
chroma upsampling and the rounding of its colour conversion are its own. Memory: all wanted frames at full size at once.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..video_decoding_lfvila import FrameTable, VideoSession, check_picture_size
from ..video_reading_lfvila import (
    FrameSelection,
    ReadOptions,
    VideoFrames,
    VideoInfo,
    check_output,
    stack_pictures,
)
from ..video_sources_lfvila import Deadline, LFVilaVideoError, VideoSource, video_errors

# A clock that is fine enough for seconds given as floating point numbers.
TICKS_PER_SECOND = 1_000_000


def read_with_torchcodec(
    name: str,
    source: VideoSource | Any,
    selection: FrameSelection,
    options: ReadOptions,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> VideoFrames:
    """Read the selected frames with torchcodec.

    Args:
        name: The video as a person would name it.
        source: The opened source, or a torchcodec `VideoDecoder`, whose seconds count from its first frame.
        selection: The frames; not by seconds, as only the length of the table is known up front.
        options: `size` is resized to bilinearly with antialiasing; pixels, frames and output bytes are limited.
        transform: Called with each `(3, H, W)` uint8 picture; its result is kept.

    Raises:
        ImportError: Without torchcodec.
        LFVilaVideoError: If torchcodec cannot read the video.
        ValueError: For a frame that the video does not have.
    """
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]  # an optional package
    except (ImportError, RuntimeError) as error:  # it raises RuntimeError where its FFmpeg libraries are missing
        raise ImportError("backend='torchcodec' needs torchcodec and FFmpeg: `pip install torchcodec`") from error
    limits = options.limits
    with video_errors(name):
        is_opened = isinstance(source, VideoSource)
        late = _seconds_before_pictures(source) if is_opened else 0.0
        decoder: Any = VideoDecoder(source.handle(), seek_mode="exact", num_ffmpeg_threads=1) if is_opened else source
        metadata = decoder.metadata
        count = int(metadata.num_frames or 0)
        if count == 0:
            raise LFVilaVideoError(name, "no frame of it can be decoded")
        if limits.max_frames is not None and count > limits.max_frames:
            raise LFVilaVideoError(name, f"{count} frames are above the limit of {limits.max_frames} (max_frames)")
        check_picture_size(name, metadata.height, metadata.width, limits)
        begin, end = float(metadata.begin_stream_seconds), float(metadata.end_stream_seconds)
    if limits.max_duration is not None and end - begin > limits.max_duration:
        reason = f"its time stamps claim {end - begin:.0f} s, above the limit of {limits.max_duration:g} s"
        raise LFVilaVideoError(name, f"{reason} (max_duration)")
    indices = selection.resolve(name, _even_table(count, end - begin))
    check_output(name, 3 * metadata.height * metadata.width, len(indices), limits)
    wanted = sorted(set(indices))
    with video_errors(name):
        batch = decoder.get_frames_at([0, *wanted])  # the first one for the start of the clock
    pictures = batch.data[1:]  # (N, 3, H, W)
    height, width = int(pictures.shape[2]), int(pictures.shape[3])
    if options.size is not None:
        pictures = functional.interpolate(
            pictures, size=options.size, mode="bilinear", antialias=True, align_corners=False
        )
    kept = dict(zip(wanted, pictures if transform is None else map(transform, pictures), strict=True))
    seconds = (batch.pts_seconds - batch.pts_seconds[0]).numpy()
    table = _even_table(count, end - float(batch.pts_seconds[0]))
    table.pts[[0, *wanted]] = np.rint(seconds * TICKS_PER_SECOND)
    return VideoFrames(
        frames=stack_pictures(name, [kept[index] for index in indices], indices),
        times=[late + table.seconds(index) for index in indices],
        indices=indices,
        metadata=VideoInfo(
            source=name,
            total_num_frames=count,
            duration=late + table.duration,
            fps=table.fps,
            width=width,
            height=height,
            codec=str(metadata.codec),
            pixel_format=str(getattr(metadata, "pixel_format", None) or ""),
            backend="torchcodec",
        ),
        decoded_frames=len(wanted),
    )


def _seconds_before_pictures(source: VideoSource) -> float:
    """Read how many seconds after the container's start the pictures begin."""
    with source.open() as container:
        session = VideoSession(source, container, Deadline(source.name, None))
        first = session.stream.start_time
        start = None if first is None else session.start(first)
        return 0.0 if start is None else float(first * session.time_base - start)


def _even_table(count: int, seconds: float) -> FrameTable:
    end = max(round(seconds * TICKS_PER_SECOND), count)
    pts = np.linspace(0, end, count, endpoint=False).astype(np.int64)
    return FrameTable(pts, Fraction(1, TICKS_PER_SECOND), end, "torchcodec")

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Features of hours of video, one segment in memory at a time: `encode_long_video`, `encode_long_frames`.

Every feature equals that of a single pass over all T frames; `lfvila_hf.streaming` says why. With `temporal_shift`,
segments overlap by as many frames as the features between the borders depend on (`frames_needed`). A smaller overlap
is cheaper but inexact near the borders, and `clip_is_exact` marks those clips.

Memory: pixels of at most two segments and two chunks of frames, the grids of a segment and its overlap, the activations
of one segment, D numbers per clip, and a few bytes per frame of the file. The pixels do not grow with the length.

Letters: T frames, N clips of the video, P tokens per frame, H W pixels, D width.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lfvila_hf.configuration_lfvila import LFVilaVideoConfig
from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.streaming import (
    SECONDS_PER_FRAME,
    FeatureStage,
    FeatureStream,
    frames_needed,
    overlap_needed,
    segment_alignment,
    video_settings,
)
from lfvila_hf.video_processing_lfvila import VideoGeometry, normalize_pixels
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, describe_source, probe_video, read_frames

SEGMENT_FRAMES = 128
"""Frames of a segment, without its overlap."""
CHUNK_FRAMES = 32
"""Frames decoded at once."""


@dataclass
class LongVideoEmbeddings:
    """Features of one long video; `LFVilaModel.similarity` takes them.

    Args:
        video_embeds: `(1, D)`, L2-normalised.
        clip_embeds: `(1, N, D)`, L2-normalised; `None` without `temporal_alignment`.
        clip_is_exact: `(N,)` bool, whether the clip's feature equals that of a single pass, up to rounding.
        video_is_exact: Whether the video's feature does.
        num_frames: T. The last clip is shorter if T is not a multiple of the frames of a clip.
        times: Time of every frame in seconds; `None` for frames given as tensors.
    """

    video_embeds: torch.Tensor
    clip_embeds: torch.Tensor | None
    clip_is_exact: torch.Tensor
    video_is_exact: bool
    num_frames: int
    times: list[float] | None = None


# -- frames to features ----------------------------------------------------------------------------------------------


def encode_long_frames(
    model: LFVilaModel,
    chunks: Iterable[torch.Tensor],
    segment_frames: int = SEGMENT_FRAMES,
    overlap: int | None = None,
    frames_per_clip: int | None = None,
    dtype: torch.dtype | None = None,
) -> LongVideoEmbeddings:
    """Embed a stream of frames of any length.

    Args:
        model: An `LFVilaModel`; it is in evaluation mode during the call.
        chunks: Normalised frames in order, `(t, 3, H, W)` each, of any t.
        segment_frames: Frames of a segment, a multiple of `segment_alignment(config)`. Defaults to 128.
        overlap: Additional frames on either side of a segment, a multiple of `segment_alignment(config)`. Defaults to
            `overlap_needed(config)`, which is 0 without `temporal_shift`.
        frames_per_clip: Frames of a clip. Defaults to `num_frames // num_clips` of the configuration.
        dtype: Half precision for autocast, as for `encode_videos`. Defaults to `None`.

    Returns:
        Features of the video and of its clips.

    Raises:
        ValueError: There is no frame, a size is no multiple, or the model has no video projection.
    """
    stream = FeatureStream(model, frames_per_clip, segment_frames, overlap, dtype)
    clips = []
    for chunk in chunks:
        stream.hold(chunk)
        clips.append(stream.advance())
    rest, video = stream.finish()
    exact = torch.tensor(_exact_frames(model.config.video_config, stream.num_frames, stream.upper))  # (T,)
    # Windows up to the clip level are not shifted.
    of_clips = torch.ones_like(exact) if stream.clips_come_early else exact
    clip_is_exact = torch.stack([part.all() for part in of_clips.split(stream.frames_per_clip)])  # (N,)
    embeds = None if model.clip_projection is None else torch.cat([*clips, rest])[None]  # (1, N, D)
    return LongVideoEmbeddings(video, embeds, clip_is_exact, bool(exact.all()), stream.num_frames)


def _exact_frames(config: LFVilaVideoConfig, total: int, passes: FeatureStage) -> list[bool]:
    """Return for each of `total` frames whether the pass that gave its feature read all that it depends on."""
    if passes.overlap >= overlap_needed(config):
        return [True] * total
    last = max((total - passes.overlap) // passes.hop, 0) * passes.hop  # first frame of the last pass
    exact = []
    for place in range(total):
        first = min(place // passes.hop * passes.hop, last)
        before = passes.before_last if place >= last else passes.overlap
        start, stop = frames_needed(config, place, place + 1)
        exact.append(start >= first - before and (place >= last or stop <= first + passes.hop + passes.overlap))
    return exact


# -- files to frames -------------------------------------------------------------------------------------------------


def encode_long_video(
    model: LFVilaModel,
    processor: Any,
    video: Any,
    seconds_per_frame: float = SECONDS_PER_FRAME,
    segment_frames: int = SEGMENT_FRAMES,
    overlap: int | None = None,
    frames_per_clip: int | None = None,
    num_workers: int = 1,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> LongVideoEmbeddings:
    """Embed one video of any length, decoding ahead of the model.

    Args:
        model: An `LFVilaModel`; it is in evaluation mode during the call.
        processor: `LFVilaProcessor` of the model; its frame size, geometry, decoder and limits are used, its
            `num_frames` is not.
        video: A file, as `read_frames` takes it.
        seconds_per_frame: Seconds between two frames; the first is at 0. Defaults to 1.675, as in pre-training.
        segment_frames: See `encode_long_frames`.
        overlap: See `encode_long_frames`.
        frames_per_clip: See `encode_long_frames`; a clip lasts `frames_per_clip * seconds_per_frame` seconds.
        num_workers: Chunks of the file decoded at the same time, ahead of the model. Defaults to 1.
        dtype: See `encode_long_frames`.
        **kwargs: Settings of the video processor for this call, such as `isolated=True`.

    Returns:
        Features of the video and of its clips, with the time of every frame.

    Raises:
        ValueError: See `encode_long_frames`; or a setting is unknown.
        LFVilaVideoError: The video cannot be decoded, or has no length in seconds.
    """
    if not (math.isfinite(seconds_per_frame) and seconds_per_frame > 0):
        raise ValueError(f"seconds_per_frame must be above 0, got {seconds_per_frame}")
    settings = video_settings(processor.video_processor, kwargs)
    seconds = frame_seconds(video, seconds_per_frame, settings)
    pieces = [seconds[first : first + CHUNK_FRAMES] for first in range(0, len(seconds), CHUNK_FRAMES)]
    times: list[float] = []

    def read(piece: _Piece) -> Any:
        return read_frames(
            video,
            times=piece.seconds,
            size=settings.decoder_size(),
            transform=VideoGeometry(settings, None),
            limits=settings["limits"],
            num_threads=settings["num_decoding_threads"],
            accept_truncated=settings["accept_truncated"],
            backend=settings["decoder"],
            isolated=settings["isolated"],
        )

    def chunks() -> Iterator[torch.Tensor]:
        work = (_Piece(describe_source(video), piece) for piece in pieces)
        for _, frames in decode_videos(work, num_workers=num_workers, prefetch=1, read=read):
            times.extend(frames.times)
            yield normalize_pixels(frames.frames, settings)  # (t, 3, H, W)
            release_freed_memory()

    found = encode_long_frames(model, chunks(), segment_frames, overlap, frames_per_clip, dtype)
    found.times = times
    return found


def release_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    Pictures at full size are freed between small ones that stay for a while. So glibc's heap gets holes, and resident
    memory grows over hours although nothing is held.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@dataclass(frozen=True)
class _Piece:
    """Times to decode at once, in seconds, and the video's name for messages."""

    name: str
    seconds: list[float]


def frame_seconds(video: Any, seconds_per_frame: float, settings: Any) -> list[float]:
    """List the times of the frames to take: every `seconds_per_frame` from 0 to the last frame.

    Args:
        video: A file, as `read_frames` takes it.
        seconds_per_frame: Seconds between two frames.
        settings: Settings of the video processor.

    Returns:
        Times in seconds.

    Raises:
        LFVilaVideoError: The video cannot be decoded, or has no length in seconds.
    """
    info = probe_video(video, limits=settings["limits"])
    if not info.duration or info.duration <= 0:
        raise LFVilaVideoError(video, "it has no length in seconds, so frames cannot be taken at a rate")
    last = info.duration - (1 / info.fps if info.fps else 0.0)
    return [number * seconds_per_frame for number in range(int(max(last, 0.0) / seconds_per_frame) + 1)]


__all__ = [
    "SECONDS_PER_FRAME",
    "LongVideoEmbeddings",
    "encode_long_frames",
    "encode_long_video",
    "frames_needed",
    "overlap_needed",
    "segment_alignment",
]

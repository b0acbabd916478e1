# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Features of hours of video, one segment in memory at a time: `encode_long_video`, `encode_long_frames`.

A single pass over all T frames of a long video needs memory for all of them. But no information crosses a border
between temporal windows. If a *segment* begins and ends at multiples of all window lengths (32 frames at the released
size, 64 once windows have grown), its features do not depend on frames outside. So the video is encoded segment by
segment, and every feature equals that of a single pass. The remainder at the end is encoded with the last segment.

With `temporal_shift`, windows above the clip level reach across those borders. Then segments overlap by as many frames
as the features between the borders depend on (`frames_needed`), and features still equal those of a single pass. A
smaller overlap is cheaper but inexact near the borders, and `clip_is_exact` marks those clips.

Memory: pixels of at most `segment_frames`, twice the overlap, one alignment (`segment_alignment`) and two chunks of
frames, the activations of one segment, and D numbers per clip. It does not grow with the length of the video.

Letters: T frames, N clips of the video, P tokens per frame, H W pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lfvila_hf.configuration_lfvila import LFVilaVideoConfig
from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.inference import autocast_if, eval_mode
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import VideoGeometry, VideoSettings, normalize_pixels
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, describe_source, probe_video, read_frames

SECONDS_PER_FRAME = 13.4 / 8
"""Seconds of video per frame in pre-training: clips of 13.4 s on average, 8 frames each."""
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


# -- dependencies between frames -------------------------------------------------------------------------------------


def segment_alignment(config: LFVilaVideoConfig) -> int:
    """Return the least common multiple of all temporal windows in frames; segments begin at multiples of it."""
    return math.lcm(*config.temporal_windows)


def frames_needed(
    config: LFVilaVideoConfig, start: int, stop: int, level: int | None = None, total: int | None = None
) -> tuple[int, int]:
    """Find the frames that the features of some frames depend on, in one pass over a video longer than every window.

    Args:
        config: Configuration of the video tower.
        start: First frame of the features.
        stop: One past their last frame.
        level: Level that the features come from. Defaults to the last level.
        total: T, an upper limit of the result. Defaults to no limit.

    Returns:
        First frame and one past the last frame that are needed.
    """
    last = len(config.temporal_windows) - 1 if level is None else level
    for number in range(last, -1, -1):
        window = config.temporal_windows[number]
        for block in range(config.depths[number] - 1, -1, -1):
            shift = window // 2 if config.shifts_in_time(number) and block % 2 else 0
            start = max((start + shift) // window * window - shift, 0)
            stop = -(-(stop + shift) // window) * window - shift
            stop = stop if total is None else min(stop, total)
    return start, stop


def overlap_needed(config: LFVilaVideoConfig) -> int:
    """Compute the exact overlap: frames before and after a segment that its features depend on.

    Args:
        config: Configuration of the video tower.

    Returns:
        A multiple of `segment_alignment(config)`; 0 without `temporal_shift`.
    """
    alignment = segment_alignment(config)
    far = 1000 * alignment  # far from the start of the video, which would cut the result
    start, stop = frames_needed(config, far, far + alignment)
    return -(-max(far - start, stop - far - alignment) // alignment) * alignment


# -- frames to features ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    """One pass over a part of the video; the end of a range is one past its last frame.

    Args:
        start: First frame that is encoded, overlap included.
        stop: End of the frames that are encoded.
        first: First frame whose features are kept.
        end: End of the frames whose features are kept.
        is_last: Whether the video ends with this segment.
        pixels: Frames `start` to `stop`, `(t, 3, H, W)`.
    """

    start: int
    stop: int
    first: int
    end: int
    is_last: bool
    pixels: torch.Tensor

    def holds(self, config: LFVilaVideoConfig, level: int | None) -> list[bool]:
        """Return for every kept frame whether the segment holds all frames that its features depend on."""
        needed = [frames_needed(config, place, place + 1, level) for place in range(self.first, self.end)]
        return [start >= self.start and (stop <= self.stop or self.is_last) for start, stop in needed]


def _segments(chunks: Iterable[torch.Tensor], hop: int, overlap: int, alignment: int) -> Iterator[_Segment]:
    """Cut a stream of frames `(t, 3, H, W)` into segments; the last one also holds the remainder."""
    buffer: list[torch.Tensor] = []
    start = seen = first = 0
    for chunk in chunks:
        buffer.append(chunk)
        seen += len(chunk)
        while seen >= first + hop + overlap + alignment:
            held = torch.cat(buffer)  # frames from `start` on
            end = first + hop
            yield _Segment(start, end + overlap, first, end, False, held[: end + overlap - start])
            kept = max(end - overlap, 0)
            buffer, start, first = [held[kept - start :].clone()], kept, end
    if seen > first:
        yield _Segment(start, seen, first, seen, True, torch.cat(buffer))


class _Sums:
    """Sums of frame features per clip and over the video, on the CPU in float64."""

    def __init__(self, frames_per_clip: int) -> None:
        self.frames_per_clip = frames_per_clip
        self.clips: list[torch.Tensor] = []
        self.counts: list[int] = []
        self.exact: list[bool] = []
        self.video: torch.Tensor | None = None
        self.video_is_exact = True

    def add(self, segment: _Segment, frames: torch.Tensor, clips: torch.Tensor, exact: list[bool]) -> None:
        """Add the kept frames of a segment.

        Args:
            segment: The segment.
            frames: Features of the last level, `(end - first, D)`.
            clips: Features of the level that clip features come from, `(end - first, D)`.
            exact: For every frame, whether its clip feature equals that of a single pass.
        """
        total = frames.double().sum(0)
        self.video = total if self.video is None else self.video + total
        for place, value in zip(range(segment.first, segment.end), clips.double(), strict=True):
            if place // self.frames_per_clip == len(self.clips):
                self.clips.append(torch.zeros_like(value))
                self.counts.append(0)
                self.exact.append(True)
            self.clips[-1] += value
            self.counts[-1] += 1
            self.exact[-1] &= exact[place - segment.first]


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
    config = model.config.video_config
    alignment = segment_alignment(config)
    overlap = overlap_needed(config) if overlap is None else overlap
    clip = config.num_frames // config.num_clips if frames_per_clip is None else frames_per_clip
    for name, value, least in (("segment_frames", segment_frames, 1), ("overlap", overlap, 0)):
        if value < least or value % alignment:
            raise ValueError(
                f"{name} must be a multiple of {alignment} (the least common multiple of the temporal windows "
                f"{config.temporal_windows}) and at least {least * alignment}, got {value}"
            )
    if clip < 1:
        raise ValueError(f"frames_per_clip must be at least 1, got {clip}")
    if model.video_projection is None:
        raise ValueError(
            "this model was built without a video projection, so there are no video features; build it with "
            "add_projections=True"
        )
    early = model.config.clip_feature_source == "clip_level"
    level = config.clip_level if early else None
    sums, seen = _Sums(clip), 0
    for segment in _segments(chunks, segment_frames, overlap, alignment):
        with eval_mode(model), autocast_if(dtype, model.device):
            output = model.video_model(segment.pixels[None].to(model.device), return_dict=True)
            frames = output.tokens[0].mean(1)  # (t, D)
            clips = model.video_model.pool(output.clip_hidden_state)[0].mean(1) if early else frames
        kept = slice(segment.first - segment.start, segment.end - segment.start)
        sums.add(segment, frames[kept].float().cpu(), clips[kept].float().cpu(), segment.holds(config, level))
        sums.video_is_exact &= all(segment.holds(config, None))
        seen = segment.end
    if sums.video is None:
        raise ValueError("the video has no frames, at least one is expected")
    with eval_mode(model):
        video = _project(model.video_projection, (sums.video / seen)[None])  # (1, D)
        embeds = None
        if model.clip_projection is not None:
            means = torch.stack([value / count for value, count in zip(sums.clips, sums.counts, strict=True)])
            embeds = _project(model.clip_projection, means)[None]  # (1, N, D)
    return LongVideoEmbeddings(video, embeds, torch.tensor(sums.exact), sums.video_is_exact, seen)


def _project(projection: Any, features: torch.Tensor) -> torch.Tensor:
    """Project and L2-normalise features; the result is on the CPU in float32."""
    weight = projection.weight
    return F.normalize(projection(features.to(weight.device, weight.dtype)).float(), dim=-1).cpu()


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
    settings = _settings(processor.video_processor, kwargs)
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

    found = encode_long_frames(model, chunks(), segment_frames, overlap, frames_per_clip, dtype)
    found.times = times
    return found


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


def _settings(video_processor: Any, given: dict[str, Any]) -> VideoSettings:
    known = video_processor.valid_kwargs.__annotations__
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"{type(video_processor).__name__} does not know the settings {unknown}; it has {sorted(known)}"
        )
    return VideoSettings({name: getattr(video_processor, name, None) for name in known} | given)

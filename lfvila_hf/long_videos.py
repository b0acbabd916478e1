# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Hours of video, one segment in memory at a time: `encode_long_video`, `encode_long_frames`.

A tower that is given all T frames of a long video at once needs memory for all of them. Its windows end somewhere,
though: nothing of a stretch of time that all temporal windows divide (32 frames of the released size, 64 once windows
have grown) depends on frames outside it. So the video is read in *segments* that begin at multiples of that stretch,
and every feature is the one that a single pass over all T frames would have given. The remainder at the end goes with
the segment before it, where the windows that it does not fill are filled as in a single pass.

With `temporal_shift`, windows above the clip level reach across those borders. Then neighbouring segments overlap by as
many frames as the features in between depend on (`frames_needed`), and are still those of a single pass. A smaller
overlap is cheaper and no longer exact near the borders: `clip_is_exact` says where.

Memory: pixels of `segment_frames`, twice the overlap, one stretch and two chunks of frames at most, what the tower
makes of them, and D numbers per clip; not the length of the video.

Letters: T frames, N clips of the whole video, P tokens per frame, H W pixels, D width.
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
from lfvila_hf.inference import computing_in, evaluating
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import VideoGeometry, VideoSettings, normalize_pixels
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, describe_source, probe_video, read_frames

SECONDS_PER_FRAME = 13.4 / 8
"""What a frame stood for in pre-training: clips of 13.4 s in the mean, 8 frames of each."""
SEGMENT_FRAMES = 128
CHUNK_FRAMES = 32
"""Frames decoded in one go."""


@dataclass
class LongVideoEmbeddings:
    """Features of one long video; `LFVilaModel.similarity` takes them.

    Attributes:
        video_embeds: `(1, D)`, L2-normalised.
        clip_embeds: `(1, N, D)`, L2-normalised; `None` without `temporal_alignment`.
        clip_is_exact: `(N,)`, whether the clip's feature is that of a single pass over the whole video (to rounding).
        video_is_exact: the same of the video's feature.
        num_frames: T. The last clip is shorter where T is not a multiple of a clip's frames.
        times: the second of every frame; `None` for frames that were given as tensors.
    """

    video_embeds: torch.Tensor
    clip_embeds: torch.Tensor | None
    clip_is_exact: torch.Tensor
    video_is_exact: bool
    num_frames: int
    times: list[float] | None = None


# -- what depends on what --------------------------------------------------------------------------------------------


def stretch_of(config: LFVilaVideoConfig) -> int:
    """Frames that all temporal windows divide: segments begin at multiples of it."""
    return math.lcm(*config.temporal_windows)


def frames_needed(
    config: LFVilaVideoConfig, start: int, stop: int, level: int | None = None, total: int | None = None
) -> tuple[int, int]:
    """Which frames the features of some frames depend on, in one pass over a video longer than every window.

    Args:
        config: of the video tower.
        start: first frame.
        stop: one past the last frame.
        level: whose output is meant; the last level's where not given.
        total: T; frames beyond it are not needed. Without it, the video goes on for ever.

    Returns:
        The first frame and one past the last one.
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
    """Frames that a segment must see before and after those it answers for, a multiple of `stretch_of`."""
    stretch = stretch_of(config)
    far = 1000 * stretch  # where no border of the video is near
    start, stop = frames_needed(config, far, far + stretch)
    return -(-max(far - start, stop - far - stretch) // stretch) * stretch


# -- frames to features ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    """Frames `start` to `stop` in one pass, which answers for those from `first` to `end`."""

    start: int
    stop: int
    first: int
    end: int
    is_last: bool
    pixels: torch.Tensor

    def holds(self, config: LFVilaVideoConfig, level: int | None) -> list[bool]:
        """Of every frame that the segment answers for, whether it holds all that the frame's features depend on."""
        needed = [frames_needed(config, place, place + 1, level) for place in range(self.first, self.end)]
        return [start >= self.start and (stop <= self.stop or self.is_last) for start, stop in needed]


def _segments(chunks: Iterable[torch.Tensor], hop: int, overlap: int, stretch: int) -> Iterator[_Segment]:
    """Cut a stream of frames `(t, 3, H, W)`; the last segment takes what would be too short alone."""
    buffer: list[torch.Tensor] = []
    start = seen = first = 0
    for chunk in chunks:
        buffer.append(chunk)
        seen += len(chunk)
        while seen >= first + hop + overlap + stretch:
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
        """Features `(frames, D)` of the last level and of the clips' level, for frames first ... end of a segment."""
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
        model: an `LFVilaModel`; it is put in evaluation mode for the call.
        chunks: normalised frames in order, `(t, 3, H, W)` each, of any t.
        segment_frames: frames that one pass answers for, a multiple of `stretch_of(config)`.
        overlap: frames that it sees besides on either side, a multiple as well; `overlap_needed(config)` where not
            given, which is 0 without `temporal_shift`.
        frames_per_clip: frames of a clip; T / K of the configuration where not given.
        dtype: compute in half precision by autocast, as for `encode_videos`.

    Raises:
        ValueError: there is no frame, sizes are no multiples, or the model has no video projection.
    """
    config = model.config.video_config
    stretch = stretch_of(config)
    overlap = overlap_needed(config) if overlap is None else overlap
    clip = config.num_frames // config.num_clips if frames_per_clip is None else frames_per_clip
    for name, value, least in (("segment_frames", segment_frames, 1), ("overlap", overlap, 0)):
        if value < least or value % stretch:
            raise ValueError(
                f"{name} must be a multiple of {stretch}, which all temporal windows {config.temporal_windows} divide, "
                f"got {value}"
            )
    if clip < 1:
        raise ValueError(f"frames_per_clip must be positive, got {clip}")
    if model.video_projection is None:
        raise ValueError("this model was built without a video projection, there are no video features")
    early = model.config.clip_feature_source == "clip_level"
    level = config.clip_level if early else None
    sums, seen = _Sums(clip), 0
    for segment in _segments(chunks, segment_frames, overlap, stretch):
        with evaluating(model), computing_in(dtype, model.device):
            output = model.video_model(segment.pixels[None].to(model.device), return_dict=True)
            frames = output.tokens[0].mean(1)  # (t, D)
            clips = model.video_model.pool(output.clip_hidden_state)[0].mean(1) if early else frames
        kept = slice(segment.first - segment.start, segment.end - segment.start)
        sums.add(segment, frames[kept].float().cpu(), clips[kept].float().cpu(), segment.holds(config, level))
        sums.video_is_exact &= all(segment.holds(config, None))
        seen = segment.end
    if sums.video is None:
        raise ValueError("the video has no frames, at least one is expected")
    with evaluating(model):
        video = _project(model.video_projection, (sums.video / seen)[None])  # (1, D)
        embeds = None
        if model.clip_projection is not None:
            means = torch.stack([value / count for value, count in zip(sums.clips, sums.counts, strict=True)])
            embeds = _project(model.clip_projection, means)[None]  # (1, N, D)
    return LongVideoEmbeddings(video, embeds, torch.tensor(sums.exact), sums.video_is_exact, seen)


def _project(projection: Any, features: torch.Tensor) -> torch.Tensor:
    """Projected and L2-normalised features, on the CPU in float32."""
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
        model: an `LFVilaModel`; it is put in evaluation mode for the call.
        processor: its `LFVilaProcessor`; frame size, geometry, decoder and limits are used, `num_frames` is not.
        video: a file, as `read_frames` takes it.
        seconds_per_frame: how often a frame is taken, from second 0 on.
        segment_frames: see `encode_long_frames`.
        overlap: see `encode_long_frames`.
        frames_per_clip: see `encode_long_frames`; a clip lasts `frames_per_clip * seconds_per_frame`.
        num_workers: stretches of the file decoded ahead at the same time.
        dtype: see `encode_long_frames`.
        **kwargs: settings of the video processor for this call, such as `isolated=True`.

    Raises:
        ValueError: see `encode_long_frames`, or a setting that is not known.
        LFVilaVideoError: the video cannot be used, or has no length in seconds.
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
    """Some seconds of a video."""

    name: str
    seconds: list[float]


def frame_seconds(video: Any, seconds_per_frame: float, settings: Any) -> list[float]:
    """The seconds at which frames are taken: every `seconds_per_frame` from 0 to the last frame.

    Raises:
        LFVilaVideoError: the video cannot be used, or has no length in seconds.
    """
    info = probe_video(video, limits=settings["limits"])
    if not info.duration or info.duration <= 0:
        raise LFVilaVideoError(video, "it has no length in seconds, so frames cannot be taken at a rate")
    last = info.duration - (1 / info.fps if info.fps else 0.0)
    return [number * seconds_per_frame for number in range(int(max(last, 0.0) / seconds_per_frame) + 1)]


def _settings(video_processor: Any, given: dict[str, Any]) -> VideoSettings:
    known = video_processor.valid_kwargs.__annotations__
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{type(video_processor).__name__} does not know the settings {unknown}")
    return VideoSettings({name: getattr(video_processor, name, None) for name in known} | given)

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames of a video as tensors: `read_frames`, `read_clips`, `probe_video`.

This is the one door through which the processor, the loaders, the index and the corpus tools get pixels. Whatever the
source (a file, bytes, an open file, an address, an array, a list of pictures) the answer is the same: `VideoFrames`,
uint8 `(T, 3, H, W)` with the true second of each frame, counted from the first one.

The parts: `video_sources_lfvila` (what a video can be, limits, the one error), `video_tables_lfvila` (when each frame
is shown), `video_sampling_lfvila` (which frames are taken), `video_decoding_lfvila` (getting them, and what bounds
memory), `video_pictures_lfvila` (RGB and upright), `video_isolation_lfvila` (in a process of its own),
`video_torchcodec_lfvila` (the other decoder) and `video_arrays_lfvila`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .video_arrays_lfvila import array_of_frames, is_frame_source, to_uint8
from .video_decoding_lfvila import DecodedVideo, checked_indices, decode_video
from .video_isolation_lfvila import close_decoder_processes, run_isolated
from .video_pictures_lfvila import PictureMaker
from .video_sampling_lfvila import FrameWish, clip_indices, draw_jitter, jittered_indices, uniform_indices
from .video_sources_lfvila import (
    CallerError,
    Deadline,
    LFVilaVideoError,
    VideoLimits,
    VideoSource,
    describe_source,
)
from .video_tables_lfvila import FrameTable
from .video_torchcodec_lfvila import decode_with_torchcodec, is_torchcodec_decoder

__all__ = [
    "LFVilaVideoError",
    "VideoFrames",
    "VideoInfo",
    "VideoLimits",
    "clip_indices",
    "close_decoder_processes",
    "describe_source",
    "is_frame_source",
    "jittered_indices",
    "probe_video",
    "read_clips",
    "read_frames",
    "uniform_indices",
]

BACKENDS = ("pyav", "torchcodec")


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video.

    Args:
        source: The video as a person would name it.
        total_num_frames: Frames in it, as a full decode would give.
        duration: Seconds from the first frame to the end of the last; `None` for an array whose rate is not known.
        fps: Mean frames per second; `None` for an array whose rate is not known.
        width: Pixels of the upright picture.
        height: Pixels of the upright picture.
        rotation: Degrees counter-clockwise by which the stored pictures were turned.
        variable_rate: Whether the time between frames changes by more than a tick of rounding.
        codec: Name of the codec, "" for an array.
        container: Name of the container format, "" for an array.
        pixel_format: Name of the stored pixel format, "" for an array.
        backend: What decoded it, "pyav" or "torchcodec", "" for an array.
        notes: What is odd about it, in words (damage, made up time stamps); empty for a sound file.
    """

    source: str
    total_num_frames: int
    duration: float | None
    fps: float | None
    width: int
    height: int
    rotation: int = 0
    variable_rate: bool = False
    codec: str = ""
    container: str = ""
    pixel_format: str = ""
    backend: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoFrames:
    """Frames read from one video.

    Args:
        frames: `(T, 3, H, W)` uint8, or whatever `transform` made of each picture, stacked.
        times: The second of each frame, counted from the first frame of the video; `None` for an array whose rate is
            not known.
        indices: The number of each frame in a full sequential decode.
        metadata: What is known of the video.
        decoded_frames: How many frames the decoder had to give out, wanted or not.
    """

    frames: torch.Tensor
    times: list[float] | None
    indices: list[int]
    metadata: VideoInfo
    decoded_frames: int = 0

    def __len__(self) -> int:
        return len(self.indices)


def read_frames(
    source: Any,
    *,
    num_frames: int | None = None,
    indices: Sequence[int] | None = None,
    times: Sequence[float] | None = None,
    sampling: str = "uniform",
    generator: torch.Generator | None = None,
    size: tuple[int, int] | None = None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    fps: float | None = None,
    input_data_format: str | None = None,
    limits: VideoLimits | None = None,
    num_threads: int = 1,
    accept_truncated: bool = False,
    backend: str = "pyav",
    isolated: bool = False,
) -> VideoFrames:
    """Read some frames of one video. Without `num_frames`, `indices` and `times`: all of them.

    Args:
        source: A path, bytes, an open binary file, an address, a `datasets` video value (`{"path": ..., "bytes":
            ...}`), an array or tensor `(T, 3, H, W)` or `(T, H, W, 3)` (uint8, or float in 0 ... 1), or a list of
            pictures (arrays `(H, W, 3)` or `(3, H, W)`, or PIL images).
        num_frames: How many frames, T, chosen by `sampling`.
        indices: Or: which frames, as numbers in a full sequential decode.
        times: Or: the frames on screen at these seconds, counted from the first frame.
        sampling: "uniform", "jittered" or "clip": the rule of `uniform_indices`, `jittered_indices`, `clip_indices`.
        generator: Randomness of "jittered".
        size: Height and width to scale to while decoding (bilinear, in the colour conversion); arrays are left as
            they are.
        transform: Called with each kept `(3, H, W)` uint8 picture, so that only its result is held in memory.
        fps: Frames per second of an array or a list; without it such a source has no times.
        input_data_format: "channels_first" or "channels_last" for an array of which both could be true.
        limits: What the video may cost; `VideoLimits()` if left out.
        num_threads: Decoders at work at once, for one long video.
        accept_truncated: Take a file whose end is missing for the part that is there (noted in the metadata).
        backend: "pyav", or "torchcodec" where that is installed (then without `times`).
        isolated: Decode in a process of its own, which may crash, hang or run out of memory without harm to this one.

    Returns:
        The frames in the order asked for, with their seconds and numbers.

    Raises:
        LFVilaVideoError: where the video cannot be used.
        ValueError: for arguments that make no sense, or a frame that the video does not have.
        ImportError: where a file has to be decoded and PyAV (or torchcodec) is missing.
    """
    limits = limits or VideoLimits()
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torchcodec" and times is not None:
        raise ValueError("torchcodec does not tell which frame a second belongs to: use the backend 'pyav' with times")
    wish = FrameWish(
        num_frames=num_frames,
        indices=None if indices is None else [int(index) for index in indices],
        times=None if times is None else [float(second) for second in times],
        sampling=sampling,
        jitter=draw_jitter(generator) if sampling == "jittered" else None,
    )
    if is_frame_source(source):
        array = array_of_frames(source, input_data_format)
        if times is not None and fps is None:
            raise ValueError("an array of frames has no seconds of its own: give fps with times")
        return _frames_of_array(array, wish, transform, fps, describe_source(source))
    request = _Request(wish, size, limits, num_threads, accept_truncated, backend)
    if isolated:
        return _read_isolated(source, request, transform)
    return _read_here(source, request, transform)


def read_clips(sources: Sequence[Any], *, num_frames: int, **options: Any) -> VideoFrames:
    """Read one long video that is stored as K clip files: T / K frames of each, seconds counted on the joined video.

    Args:
        sources: The K clips in order, each anything that `read_frames` takes.
        num_frames: Frames wanted of the whole, T; must be a multiple of K.
        options: Passed to `read_frames`.

    Returns:
        `frames (T, 3, H, W)`; `times` and `indices` run on over the clips, and the metadata is that of the joined
        video.

    Raises:
        ValueError: where T is not a multiple of K, or there is no clip.
        LFVilaVideoError: where a clip cannot be used, or the clips' pictures differ in size.
    """
    if not sources:
        raise ValueError("a video given as clip files needs at least one clip, got none")
    if num_frames % len(sources):
        raise ValueError(
            f"{num_frames} frames cannot be shared by {len(sources)} clip files: a multiple of {len(sources)} is needed"
        )
    parts = [read_frames(clip, num_frames=num_frames // len(sources), sampling="clip", **options) for clip in sources]
    times: list[float] | None = []
    indices: list[int] = []
    seconds, frames_before = 0.0, 0
    for part in parts:
        if times is not None and part.times is not None and part.metadata.duration is not None:
            times.extend(seconds + second for second in part.times)
            seconds += part.metadata.duration
        else:
            times = None
        indices.extend(frames_before + index for index in part.indices)
        frames_before += part.metadata.total_num_frames
    known = times is not None
    info = replace(
        parts[0].metadata,
        source=" + ".join(part.metadata.source for part in parts),
        total_num_frames=frames_before,
        duration=seconds if known else None,
        fps=frames_before / seconds if known and seconds > 0 else None,
        variable_rate=any(part.metadata.variable_rate for part in parts),
        notes=tuple(note for part in parts for note in part.metadata.notes),
    )
    return VideoFrames(
        frames=_stack(info.source, [frame for part in parts for frame in part.frames], indices),
        times=times,
        indices=indices,
        metadata=info,
        decoded_frames=sum(part.decoded_frames for part in parts),
    )


def probe_video(source: Any, *, limits: VideoLimits | None = None) -> VideoInfo:
    """What a video is: exact frame count, duration, size, rotation.

    It decodes one frame, so an answer means that the video can be decoded.

    Args:
        source: Anything that `read_frames` takes.
        limits: What the video may cost.

    Raises:
        LFVilaVideoError: where the video cannot be used.
    """
    return read_frames(source, indices=[0], limits=limits).metadata


@dataclass(frozen=True)
class _Request:
    """The arguments of `read_frames` that can travel to another process."""

    wish: FrameWish
    size: tuple[int, int] | None
    limits: VideoLimits
    num_threads: int
    accept_truncated: bool
    backend: str


def _read_here(source: Any, request: _Request, transform: Callable[[torch.Tensor], torch.Tensor] | None) -> VideoFrames:
    limits = request.limits
    name = describe_source(source)
    opened: VideoSource | None = None
    try:
        if is_torchcodec_decoder(source) and not hasattr(source, "_hf_encoded"):
            decoded = decode_with_torchcodec(name, source, request.wish, limits, request.size, transform)
        else:
            opened = VideoSource(source, limits)
            if request.backend == "torchcodec":
                decoded = decode_with_torchcodec(name, opened.handle(), request.wish, limits, request.size, transform)
            else:
                decoded = decode_video(
                    opened,
                    request.wish,
                    PictureMaker(name, limits, request.size, transform),
                    Deadline(name, limits.max_seconds),
                    num_threads=request.num_threads,
                    accept_truncated=request.accept_truncated,
                )
            opened.check_unchanged()
    except CallerError as wrapped:
        raise wrapped.cause from None
    finally:
        if opened is not None:
            opened.close()
    return VideoFrames(
        frames=_stack(name, [decoded.pictures[index] for index in decoded.indices], decoded.indices),
        times=[decoded.table.seconds(index) for index in decoded.indices],
        indices=decoded.indices,
        metadata=_info(name, decoded),
        decoded_frames=decoded.decoded_frames,
    )


def _read_isolated(
    source: Any, request: _Request, transform: Callable[[torch.Tensor], torch.Tensor] | None
) -> VideoFrames:
    """As `_read_here`, with the decoding in another process and the transform in this one."""
    name = describe_source(source)
    opened = VideoSource(source, request.limits)
    try:
        portable = opened.portable()
    finally:
        opened.close()
    pictures: list[torch.Tensor] = []

    def keep(picture: torch.Tensor) -> None:
        pictures.append(picture if transform is None else transform(picture))

    fields = {**vars(request), "wish": vars(request.wish), "limits": vars(request.limits)}
    answer = run_isolated(name, {"source": portable, "request": fields}, keep, request.limits)
    try:
        frames = [pictures[number] for number in answer["order"]]
        known = {**answer["metadata"], "source": name, "notes": tuple(map(str, answer["metadata"]["notes"]))}
        info = VideoInfo(**known)
        times, indices = [float(second) for second in answer["times"]], [int(index) for index in answer["indices"]]
        if not len(frames) == len(times) == len(indices) or not frames:
            raise ValueError("its parts differ in length")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise LFVilaVideoError(name, f"the decoder process gave no proper answer: {error!r:.80}") from error
    return VideoFrames(_stack(name, frames, indices), times, indices, info, answer["decoded_frames"])


def answer_request(message: dict[str, Any], send_picture: Callable[[torch.Tensor], None]) -> dict[str, Any]:
    """Read frames on behalf of another process; `video_isolation_lfvila` calls this in the child.

    Args:
        message: `source` (a path or bytes) and `request` (the fields of a reading request).
        send_picture: Takes each kept picture.

    Returns:
        Fields that JSON can carry: `order` (which sent picture is which frame), `times`, `indices`, `metadata` and
        `decoded_frames`.
    """
    fields = dict(message["request"])
    request = _Request(**{**fields, "wish": FrameWish(**fields["wish"]), "limits": VideoLimits(**fields["limits"])})
    sent = 0

    def number(picture: torch.Tensor) -> torch.Tensor:
        nonlocal sent
        send_picture(picture)
        sent += 1
        return torch.tensor([sent - 1])

    read = _read_here(message["source"], request, number)
    return {
        "order": read.frames[:, 0].tolist(),
        "times": read.times,
        "indices": read.indices,
        "metadata": vars(read.metadata),
        "decoded_frames": read.decoded_frames,
    }


def _info(name: str, decoded: DecodedVideo) -> VideoInfo:
    table = decoded.table
    height, width = decoded.stored_size
    if round(decoded.rotation / 90) % 2:
        height, width = width, height
    steps = np.diff(table.pts)
    return VideoInfo(
        source=name,
        total_num_frames=len(table),
        duration=table.duration,
        fps=len(table) / table.duration if table.duration > 0 else None,
        width=width,
        height=height,
        rotation=decoded.rotation,
        variable_rate=table.origin != "torchcodec" and bool(len(steps)) and int(steps.max() - steps.min()) > 1,
        codec=decoded.codec,
        container=decoded.container,
        pixel_format=decoded.pixel_format,
        backend="torchcodec" if table.origin == "torchcodec" else "pyav",
        notes=tuple(decoded.notes),
    )


def _stack(name: str, pictures: list[torch.Tensor], indices: Sequence[int]) -> torch.Tensor:
    for picture, index in zip(pictures, indices, strict=True):
        if picture.shape != pictures[0].shape:
            raise LFVilaVideoError(
                name,
                f"the picture size changes from {tuple(pictures[0].shape)} to {tuple(picture.shape)}; "
                "give size=(height, width) to scale all of them",
                f"frame {index}",
            )
    return torch.stack(pictures)  # (T, 3, H, W)


def _frames_of_array(
    array: torch.Tensor,
    wish: FrameWish,
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
    fps: float | None,
    name: str,
) -> VideoFrames:
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    count = len(array)
    table = FrameTable(np.arange(count, dtype=np.int64), 1 / Fraction(fps or 1), count, "array")
    try:
        indices = checked_indices(name, wish, table)
    except CallerError as wrapped:
        raise wrapped.cause from None
    frames = to_uint8(array[indices], name)  # (T, 3, H, W)
    if transform is not None:
        frames = _stack(name, [transform(frame) for frame in frames], indices)
    return VideoFrames(
        frames=frames,
        times=None if fps is None else [table.seconds(index) for index in indices],
        indices=indices,
        metadata=VideoInfo(
            source=name,
            total_num_frames=count,
            duration=None if fps is None else table.duration,
            fps=fps,
            width=array.shape[3],
            height=array.shape[2],
        ),
    )

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames of a video as tensors: `read_frames`, `read_clips`, `probe_video`, and the rules that choose frames.

This is the one door through which the processor, the loaders, the index and the corpus tools get pixels. Whatever the
source (a file, bytes, an open file, an address, an array, a list of pictures) the answer is the same: `VideoFrames`,
uint8 `(T, 3, H, W)` with the true second of each frame, counted from the first one.

The sampling rules are those of the released LF-VILA code: `linspace(0, n - 1, T)` truncated to integers in
evaluation, both ends jittered by up to one interval in training, and `linspace(0, n, T / K + 1)[:-1]` inside each of
K clip files. A video that is shorter than T frames repeats frames, as truncation makes it.

How frames are found and what bounds memory and time is described in `video_decoding_lfvila` and `video_sources_lfvila`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .video_decoding_lfvila import DecodedVideo, PictureMaker, decode_video
from .video_sources_lfvila import (
    Deadline,
    LFVilaVideoError,
    VideoLimits,
    VideoSource,
    describe_source,
)
from .video_tables_lfvila import FrameTable

__all__ = [
    "LFVilaVideoError",
    "VideoFrames",
    "VideoInfo",
    "VideoLimits",
    "clip_indices",
    "describe_source",
    "is_frame_source",
    "jittered_indices",
    "probe_video",
    "read_clips",
    "read_frames",
    "uniform_indices",
]

SAMPLINGS = ("uniform", "jittered", "clip")


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


def uniform_indices(num_available: int, num_frames: int) -> list[int]:
    """The released evaluation rule: `linspace(0, n - 1, T)` truncated to integers.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T. More than n repeats frames.
    """
    _check_counts(num_available, num_frames)
    return np.linspace(0, num_available - 1, num_frames).astype(int).tolist()


def jittered_indices(num_available: int, num_frames: int, generator: torch.Generator | None = None) -> list[int]:
    """The released training rule: the uniform one, both ends moved inwards by up to one interval `n // (T - 1)`.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T.
        generator: Where the two random numbers come from; torch's global one if left out.
    """
    _check_counts(num_available, num_frames)
    interval = min(num_available // max(num_frames - 1, 1), (num_available - 1) // 2)
    start, cut = torch.randint(0, interval + 1, (2,), generator=generator).tolist()
    return np.linspace(start, num_available - 1 - cut, num_frames).astype(int).tolist()


def clip_indices(num_available: int, frames_per_clip: int) -> list[int]:
    """The released rule inside one clip file: `linspace(0, n, T / K + 1)[:-1]` truncated to integers.

    Args:
        num_available: Frames in the clip file, n.
        frames_per_clip: Frames wanted of it, T / K.
    """
    _check_counts(num_available, frames_per_clip)
    return np.linspace(0, num_available, frames_per_clip + 1)[:-1].astype(int).tolist()


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

    Returns:
        The frames in the order asked for, with their seconds and numbers.

    Raises:
        LFVilaVideoError: where the video cannot be used.
        ValueError: for arguments that make no sense, or a frame that the video does not have.
        ImportError: where a file has to be decoded and PyAV is missing.
    """
    limits = limits or VideoLimits()
    if sum(wanted is not None for wanted in (num_frames, indices, times)) > 1:
        raise ValueError("give one of num_frames, indices and times")
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")

    def choose(table: FrameTable) -> Sequence[int]:
        if times is not None:
            return [_index_at(table, second) for second in times]
        return _choose(len(table), num_frames, indices, sampling, generator)

    if is_frame_source(source):
        array = _array_of_frames(source, input_data_format)
        if times is not None and fps is None:
            raise ValueError("an array of frames has no seconds of its own: give fps with times")
        return _frames_of_array(array, choose, transform, fps, describe_source(source))

    opened = VideoSource(source, limits)
    make_picture = PictureMaker(opened.name, limits, size, transform)
    decoded = decode_video(
        opened,
        choose,
        make_picture,
        Deadline(opened.name, limits.max_seconds),
        num_threads=num_threads,
        accept_truncated=accept_truncated,
    )
    opened.check_unchanged()
    return VideoFrames(
        frames=_stack(opened.name, [decoded.pictures[index] for index in decoded.indices], decoded.indices),
        times=[decoded.table.seconds(index) for index in decoded.indices],
        indices=decoded.indices,
        metadata=_info(opened.name, decoded),
        decoded_frames=decoded.decoded_frames,
    )


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


def is_frame_source(source: Any) -> bool:
    """Whether a source is frames already: a four-axis array, or a list of three-axis arrays or PIL images."""
    if isinstance(source, (list, tuple)):
        return bool(source) and all(_is_picture(item) for item in source)
    return getattr(source, "ndim", None) == 4


def _is_picture(item: Any) -> bool:
    return getattr(item, "ndim", None) == 3 or (hasattr(item, "convert") and hasattr(item, "getbands"))


def _check_counts(num_available: int, num_frames: int) -> None:
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"sampling needs at least 1 frame of at least 1, got {num_frames} of {num_available}")


def _choose(
    count: int,
    num_frames: int | None,
    indices: Sequence[int] | None,
    sampling: str,
    generator: torch.Generator | None,
) -> Sequence[int]:
    if indices is not None:
        return indices
    if num_frames is None:
        return range(count)
    if sampling == "uniform":
        return uniform_indices(count, num_frames)
    if sampling == "jittered":
        return jittered_indices(count, num_frames, generator)
    if sampling == "clip":
        return clip_indices(count, num_frames)
    raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}")


def _index_at(table: FrameTable, second: float) -> int:
    if not 0 <= second <= table.duration:
        raise ValueError(f"second {second:g} was asked for, the video runs from 0 to {table.duration:g} s")
    return table.index_at(second)


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
        variable_rate=bool(len(steps)) and int(steps.max() - steps.min()) > 1,
        codec=decoded.codec,
        container=decoded.container,
        pixel_format=decoded.pixel_format,
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
    choose: Callable[[FrameTable], Sequence[int]],
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
    fps: float | None,
    name: str,
) -> VideoFrames:
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    count = len(array)
    table = FrameTable(np.arange(count, dtype=np.int64), 1 / Fraction(fps or 1), count, "array")
    indices = [int(index) for index in choose(table)]
    for index in indices:
        if not 0 <= index < count:
            raise ValueError(f"frame {index} was asked for, {name} has the frames 0 to {count - 1}")
    frames = _to_uint8(array[indices], name)  # (T, 3, H, W)
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


def _array_of_frames(source: Any, input_data_format: str | None) -> torch.Tensor:
    """Any array of frames as a tensor `(T, 3, H, W)` of its own type."""
    if isinstance(source, (list, tuple)):
        pictures = [torch.as_tensor(np.asarray(_rgb(picture))) for picture in source]
        shapes = sorted({tuple(picture.shape) for picture in pictures})
        if len(shapes) > 1:
            raise LFVilaVideoError(describe_source(source), f"its frames differ in shape: {shapes[0]} and {shapes[1]}")
        array = torch.stack(pictures)
    else:
        array = source if isinstance(source, torch.Tensor) else torch.as_tensor(np.asarray(source))
    name = describe_source(source)
    if len(array) == 0:
        raise LFVilaVideoError(name, "it has no frame")
    first, last = array.shape[1] == 3, array.shape[3] == 3
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {input_data_format!r}")
    if first and last and input_data_format is None:
        raise ValueError(f"{name} could be (T, 3, H, W) or (T, H, W, 3): give input_data_format")
    if first and input_data_format != "channels_last":
        return array
    if last and input_data_format != "channels_first":
        return array.permute(0, 3, 1, 2)  # (T, 3, H, W)
    raise LFVilaVideoError(name, "frames must be (T, 3, H, W) or (T, H, W, 3), with 3 channels")


def _rgb(picture: Any) -> Any:
    return picture.convert("RGB") if hasattr(picture, "getbands") else picture


def _to_uint8(array: torch.Tensor, name: str) -> torch.Tensor:
    if array.dtype == torch.uint8:
        return array.cpu()
    if not array.dtype.is_floating_point:
        raise LFVilaVideoError(name, f"frames must be uint8 or float in 0 to 1, got {array.dtype}")
    array = array.cpu().float()
    low, high = array.min().item(), array.max().item()
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise LFVilaVideoError(name, f"frames of floats must lie in 0 to 1, got {low:g} to {high:g}")
    return (array * 255).round().to(torch.uint8)

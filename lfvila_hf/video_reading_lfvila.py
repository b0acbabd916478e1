# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames of a video as tensors: `read_frames`, `read_clips`, `probe_video`.

The processor, the data sets, the index and the corpus tools get pixels here and nowhere else. The answer to any source
(a file, bytes, an open file, an address, an array, a list of pictures) is `VideoFrames`: uint8 `(T, 3, H, W)` with the
true second of each frame.

A video goes one way: source (`video_sources_lfvila`) -> table of frames -> indices (`FrameSelection.resolve`, here) ->
decode -> upright RGB (`video_decoding_lfvila`) -> resize and normalise (`video_processing_lfvila`).

*Sampling.* In evaluation the released LF-VILA code takes `linspace(0, n - 1, T)`. In training it moves both ends
inwards by up to one interval. Of each of K clip files it takes `linspace(0, n, T / K + 1)[:-1]`. All are truncated to
integers, so a video that is shorter than T frames repeats frames.

*Arrays.* Nothing is guessed: floats must lie in 0 to 1, a shape that could be read in two ways needs
`input_data_format`, and frames have no seconds unless their rate is given.

Two opt-in parts are in the folder `video` of the package and do not travel with a checkpoint: decoding in a process of
its own, and torchcodec.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .video_decoding_lfvila import DecodingPlan, FrameConverter, FrameTable, decoding_plans
from .video_sources_lfvila import (
    Deadline,
    LFVilaVideoError,
    StaleTableError,
    VideoLimits,
    VideoSource,
    describe_source,
)

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

logger = logging.getLogger(__name__)

BACKENDS = ("pyav", "torchcodec")
SAMPLINGS = ("uniform", "jittered", "clip")
# Frames that may be asked for by their number, T.
MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Args:
        source: The video as a person would name it.
        total_num_frames: Frames in it, as a full decode would give.
        duration: Seconds from the container's start to the end of the last frame; `None` for an array whose rate is
            not known.
        fps: Mean frames per second; `None` for an array whose rate is not known.
        width: Pixels of the upright picture.
        height: Pixels of the upright picture.
        rotation: Degrees counter-clockwise by which the stored pictures were turned.
        variable_rate: True if the time between frames changes by more than a tick of rounding.
        codec: Name of the codec, "" for an array.
        container: Name of the container format, "" for an array.
        pixel_format: Name of the stored pixel format, "" for an array.
        backend: Decoder, "pyav" or "torchcodec", "" for an array.
        notes: Oddities, in words (damage, made up time stamps); empty for a sound file.
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
        times: The second of each frame, counted from the container's start, which is that of the sound if the pictures
            begin later; `None` for an array whose rate is not known.
        indices: The number of each frame in a full sequential decode.
        metadata: Properties of the video.
        decoded_frames: Number of frames that the decoder had to give out, wanted or not.
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
    """Read frames of one video: all of them, or those that `num_frames`, `indices` or `times` select.

    Args:
        source: A path, bytes, an open binary file, an address, a `datasets` video value (`{"path": ..., "bytes":
            ...}`), an array or tensor `(T, 3, H, W)` or `(T, H, W, 3)` (uint8, or float in 0 ... 1), or a list of
            pictures (arrays `(H, W, 3)` or `(3, H, W)`, or PIL images).
        num_frames: Number of frames, T, chosen by `sampling`.
        indices: Or: which frames, as numbers in a full sequential decode.
        times: Or: the frames on screen at these seconds, counted from the container's start.
        sampling: "uniform", "jittered" or "clip": the rule of `uniform_indices`, `jittered_indices`, `clip_indices`.
        generator: Randomness of "jittered".
        size: Height and width to scale to while decoding (bilinear, in the colour conversion); arrays are left as
            they are.
        transform: Called with each kept `(3, H, W)` uint8 picture, so that only its result is held in memory.
        fps: Frames per second of an array or a list; without it such a source has no times.
        input_data_format: "channels_first" or "channels_last" for an array of which both could be true.
        limits: Limits of the cost. Defaults to `VideoLimits()`.
        num_threads: Decoders at work at once, for one long video.
        accept_truncated: Take a file whose end is missing for the part that is there (noted in the metadata).
        backend: "pyav", or "torchcodec" if that is installed (then without `times`).
        isolated: Decode in a process of its own, which may crash, hang or run out of memory without harm to this one.

    Returns:
        The frames in the order asked for, with their seconds and numbers.

    Raises:
        LFVilaVideoError: if the video cannot be used.
        ValueError: for arguments that make no sense, or a frame that the video does not have.
        ImportError: if a file has to be decoded and PyAV (or torchcodec) is missing.
    """
    limits = limits or VideoLimits()
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torchcodec" and times is not None:
        raise ValueError("torchcodec does not tell which frame a second belongs to: use the backend 'pyav' with times")
    selection = FrameSelection(
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
        return _read_array(array, selection, transform, fps, describe_source(source), limits)
    options = ReadOptions(size, limits, num_threads, accept_truncated, backend)
    if isolated:
        return _opt_in("isolation", "isolated=True").read_isolated(source, selection, options, transform)
    return read_selected(source, selection, options, transform)


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
        ValueError: if T is not a multiple of K, or there is no clip.
        LFVilaVideoError: if a clip cannot be used, or the clips' pictures differ in size.
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
        frames=stack_pictures(info.source, [frame for part in parts for frame in part.frames], indices),
        times=times,
        indices=indices,
        metadata=info,
        decoded_frames=sum(part.decoded_frames for part in parts),
    )


def probe_video(source: Any, *, limits: VideoLimits | None = None) -> VideoInfo:
    """Read the properties of a video: exact frame count, duration, size, rotation.

    One frame is decoded, so an answer means that the video can be decoded.

    Args:
        source: Anything that `read_frames` takes.
        limits: Limits of the cost. Defaults to `VideoLimits()`.

    Raises:
        LFVilaVideoError: if the video cannot be used.
    """
    return read_frames(source, indices=[0], limits=limits).metadata


def close_decoder_processes() -> None:
    """End the idle decoder processes of `isolated=True` in this process; new ones are started when needed."""
    _opt_in("isolation", "close_decoder_processes()").close_decoder_processes()


def _opt_in(name: str, asked_by: str) -> Any:
    """Import a part of the package's folder `video`, which does not travel with a checkpoint."""
    try:
        return importlib.import_module(f"{__package__}.video.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{asked_by} needs the package lfvila_hf, and this code came with a checkpoint: install the package and "
            "`import lfvila_hf` before loading, without trust_remote_code"
        ) from error


# -- sampling ----------------------------------------------------------------------------------------------------------


def uniform_indices(num_available: int, num_frames: int) -> list[int]:
    """Apply the released evaluation rule: `linspace(0, n - 1, T)` truncated to integers.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T. More than n repeats frames.
    """
    _check_counts(num_available, num_frames)
    return np.linspace(0, num_available - 1, num_frames).astype(int).tolist()


def jittered_indices(num_available: int, num_frames: int, generator: torch.Generator | None = None) -> list[int]:
    """Apply the released training rule: the uniform one, both ends moved inwards by up to `n // (T - 1)` frames.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T.
        generator: Source of the two random numbers. Defaults to torch's global one.
    """
    return _moved_ends(num_available, num_frames, draw_jitter(generator))


def clip_indices(num_available: int, frames_per_clip: int) -> list[int]:
    """Apply the released rule for one clip file: `linspace(0, n, T / K + 1)[:-1]` truncated to integers.

    Args:
        num_available: Frames in the clip file, n.
        frames_per_clip: Frames wanted of it, T / K.
    """
    _check_counts(num_available, frames_per_clip)
    return np.linspace(0, num_available, frames_per_clip + 1)[:-1].astype(int).tolist()


def draw_jitter(generator: torch.Generator | None = None) -> tuple[float, float]:
    """Draw how far the two ends of a jittered sample move inwards, as parts of one interval, in [0, 1)."""
    start, cut = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return start, cut


@dataclass(frozen=True)
class FrameSelection:
    """Choice of frames, as numbers, seconds or a sampling rule.

    Args:
        num_frames: Number of frames, by `sampling`.
        indices: Or: these.
        times: Or: those on screen at these seconds. None of the three: all.
        sampling: "uniform", "jittered" or "clip".
        jitter: Random draw of "jittered", from `draw_jitter`, so that every table gives the same choice.
    """

    num_frames: int | None = None
    indices: list[int] | None = None
    times: list[float] | None = None
    sampling: str = "uniform"
    jitter: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if sum(wanted is not None for wanted in (self.num_frames, self.indices, self.times)) > 1:
            raise ValueError("give one of num_frames, indices and times")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")
        if self.num_frames is not None:
            _check_counts(1, self.num_frames)

    def resolve(self, source: str, table: FrameTable) -> list[int]:
        """Compute the frame numbers of a video with this table, in the order asked for.

        Args:
            source: The video as a person would name it.
            table: All its frames.

        Raises:
            ValueError: For a frame or a second that the video does not have, or no frame at all.
        """
        if self.times is not None:
            indices = [_index_at(table, second) for second in self.times]
        elif self.indices is not None:
            indices = self.indices
        elif self.num_frames is None:
            indices = list(range(len(table)))
        elif self.sampling == "jittered":
            indices = _moved_ends(len(table), self.num_frames, self.jitter or (0.0, 0.0))
        else:
            indices = (clip_indices if self.sampling == "clip" else uniform_indices)(len(table), self.num_frames)
        if not indices:
            raise ValueError(f"no frame of {source} was asked for")
        for index in indices:
            if not 0 <= index < len(table):
                raise ValueError(f"frame {index} was asked for, {source} has the frames 0 to {len(table) - 1}")
        return indices


def _moved_ends(num_available: int, num_frames: int, jitter: tuple[float, float]) -> list[int]:
    _check_counts(num_available, num_frames)
    interval = min(num_available // max(num_frames - 1, 1), (num_available - 1) // 2)
    start, cut = (int(part * (interval + 1)) for part in jitter)
    return np.linspace(start, num_available - 1 - cut, num_frames).astype(int).tolist()


def _index_at(table: FrameTable, second: float) -> int:
    if not 0 <= second <= table.duration:
        raise ValueError(f"second {second:g} was asked for, the video runs from 0 to {table.duration:g} s")
    return table.index_at(second)


def _check_counts(num_available: int, num_frames: int) -> None:
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"sampling needs at least 1 frame of at least 1, got {num_frames} of {num_available}")
    if num_frames > MOST_FRAMES:
        raise ValueError(f"num_frames must be at most {MOST_FRAMES}, got {num_frames}")


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOptions:
    """Arguments of `read_frames` that hold for every encoded source and can travel to another process.

    Args:
        size: Height and width to scale to while decoding.
        limits: Bounds of the video.
        num_threads: Decoders at work at once.
        accept_truncated: Take a file whose end is missing.
        backend: "pyav" or "torchcodec".
    """

    size: tuple[int, int] | None
    limits: VideoLimits
    num_threads: int
    accept_truncated: bool
    backend: str


def read_selected(
    source: Any,
    selection: FrameSelection,
    options: ReadOptions,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> VideoFrames:
    """Read the selected frames of an encoded source in this process.

    Args:
        source: See `read_frames`; no array.
        selection: The frames.
        options: The way of reading.
        transform: Called with each kept `(3, H, W)` uint8 picture.

    Raises:
        LFVilaVideoError: If the video cannot be used.
        ValueError: For a frame that the video does not have.
    """
    name = describe_source(source)
    if is_torchcodec_decoder(source) and not hasattr(source, "_hf_encoded"):
        return _opt_in("torchcodec", "a decoder of torchcodec").read_with_torchcodec(
            name, source, selection, options, transform
        )
    opened = VideoSource(source, options.limits)
    with closing(opened):
        if options.backend == "torchcodec":
            read = _opt_in("torchcodec", "backend='torchcodec'").read_with_torchcodec(
                name, opened, selection, options, transform
            )
        else:
            read = _read_with_pyav(opened, selection, options, transform)
        opened.check_unchanged()
    return read


def _read_with_pyav(
    source: VideoSource,
    selection: FrameSelection,
    options: ReadOptions,
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
) -> VideoFrames:
    with closing(
        decoding_plans(
            source, Deadline(source.name, options.limits.max_seconds), accept_truncated=options.accept_truncated
        )
    ) as plans:
        for plan in plans:
            indices = selection.resolve(source.name, plan.table)
            height, width = options.size or (plan.context.height, plan.context.width)
            if transform is None:
                check_output(source.name, 3 * height * width, len(indices), options.limits)
            try:
                pictures, rotation, decoded = _decode(plan, indices, options, transform)
            except StaleTableError:
                continue
            for note in plan.session.notes:
                level = logging.INFO if "time stamps" in note else logging.WARNING
                logger.log(level, "video %s: %s", source.name, note)
            return VideoFrames(
                frames=stack_pictures(source.name, [pictures[index] for index in indices], indices),
                times=[plan.table.seconds(index) for index in indices],
                indices=indices,
                metadata=_info(plan, rotation),
                decoded_frames=plan.spent + decoded,
            )
    raise AssertionError("the last plan always gives frames or an error")


def check_output(name: str, picture_bytes: int, count: int, limits: VideoLimits) -> None:
    """Raise `LFVilaVideoError` if `count` pictures of that many bytes are above the limit."""
    limit = limits.max_output_bytes
    if limit is not None and picture_bytes * count > limit:
        reason = f"{count} frames of {picture_bytes} bytes exceed the limit of {limit} bytes (max_output_bytes)"
        raise LFVilaVideoError(name, reason)


def _decode(
    plan: DecodingPlan,
    indices: list[int],
    options: ReadOptions,
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
) -> tuple[dict[int, torch.Tensor], int, int]:
    """Decode frames with one thread or several.

    Returns:
        Pictures by frame number, the rotation in degrees, and how many frames came out of decoders.
    """
    groups, shared = plan.groups(indices, options.num_threads)
    left = iter(groups)  # one for all threads: a list's iterator gives each group once
    lock = threading.Lock()  # a transform need not be safe for threads

    def take(plan: DecodingPlan) -> tuple[dict[int, torch.Tensor], int, int]:
        converter = FrameConverter(plan.source.name, options.limits, options.size)
        pictures = {}
        for index, frame in plan.frames(left):
            picture = converter.convert(frame)
            if transform is not None:
                with lock:
                    picture = transform(picture.contiguous())
                check_output(plan.source.name, picture.nbytes, len(indices), options.limits)
            pictures[index] = picture
        return pictures, converter.rotation, plan.session.decoded_frames

    def take_elsewhere() -> tuple[dict[int, torch.Tensor], int, int]:
        try:
            with plan.reopened() as other:
                return take(other)
        except BaseException:
            list(left)  # the other threads need not go on
            raise

    if not shared:
        return take(plan)
    with ThreadPoolExecutor(options.num_threads - 1) as pool:
        others = [pool.submit(take_elsewhere) for _ in range(options.num_threads - 1)]
        try:
            pictures, rotation, decoded = take(plan)
        except BaseException:
            list(left)
            raise
        for other in others:
            found, other_rotation, other_decoded = other.result()
            rotation = rotation if pictures else other_rotation
            pictures |= found
            decoded += other_decoded
    return pictures, rotation, decoded


def _info(plan: DecodingPlan, rotation: int) -> VideoInfo:
    table, context = plan.table, plan.context
    height, width = context.height, context.width
    if round(rotation / 90) % 2:
        height, width = width, height
    steps = np.diff(table.pts)
    return VideoInfo(
        source=plan.source.name,
        total_num_frames=len(table),
        duration=table.duration,
        fps=table.fps,
        width=width,
        height=height,
        rotation=rotation,
        variable_rate=bool(len(steps)) and int(steps.max() - steps.min()) > 1,
        codec=context.name,
        container=plan.session.container.format.name,
        pixel_format=str(context.pix_fmt),
        backend="pyav",
        notes=tuple(plan.session.notes),
    )


def stack_pictures(name: str, pictures: list[torch.Tensor], indices: Sequence[int]) -> torch.Tensor:
    """Stack pictures of one shape to `(T, 3, H, W)`.

    Raises:
        LFVilaVideoError: If the picture size changes, naming the frame.
    """
    for picture, index in zip(pictures, indices, strict=True):
        if picture.shape != pictures[0].shape:
            raise LFVilaVideoError(
                name,
                f"the picture size changes from {tuple(pictures[0].shape)} to {tuple(picture.shape)}; "
                "give size=(height, width) to scale all of them",
                f"frame {index}",
            )
    return torch.stack(pictures)  # (T, 3, H, W)


def is_torchcodec_decoder(source: Any) -> bool:
    """Tell a decoder of torchcodec, as a decoded `datasets` video column holds."""
    kind = type(source)
    return kind.__name__ == "VideoDecoder" and kind.__module__.startswith("torchcodec")


# -- arrays and lists of pictures --------------------------------------------------------------------------------------


def is_frame_source(source: Any) -> bool:
    """Tell whether a source is frames already: a four-axis array, or a list of three-axis arrays or PIL images."""
    if isinstance(source, (list, tuple)):
        return bool(source) and all(_is_picture(item) for item in source)
    return getattr(source, "ndim", None) == 4


def _is_picture(item: Any) -> bool:
    return getattr(item, "ndim", None) == 3 or (hasattr(item, "convert") and hasattr(item, "getbands"))


def array_of_frames(source: Any, input_data_format: str | None) -> torch.Tensor:
    """Bring any array of frames to a tensor `(T, 3, H, W)` of its own type."""
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


def to_uint8(array: torch.Tensor, name: str) -> torch.Tensor:
    """Convert frames to uint8 on the CPU; floats in 0 to 1 are multiplied by 255 and rounded."""
    if array.dtype == torch.uint8:
        return array.cpu()
    if not array.dtype.is_floating_point:
        raise LFVilaVideoError(name, f"frames must be uint8 or float in 0 to 1, got {array.dtype}")
    array = array.cpu().float()
    low, high = array.min().item(), array.max().item()
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise LFVilaVideoError(name, f"frames of floats must lie in 0 to 1, got {low:g} to {high:g}")
    return (array * 255).round().to(torch.uint8)


def _read_array(
    array: torch.Tensor,
    selection: FrameSelection,
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
    fps: float | None,
    name: str,
    limits: VideoLimits,
) -> VideoFrames:
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    count = len(array)
    table = FrameTable(np.arange(count, dtype=np.int64), 1 / Fraction(fps or 1), count, "array")
    indices = selection.resolve(name, table)
    check_output(name, array[0].numel(), len(indices), limits)
    frames = to_uint8(array[indices], name)  # (T, 3, H, W)
    if transform is not None:
        made = []
        for frame in frames:
            made.append(transform(frame))
            check_output(name, made[-1].nbytes, len(indices), limits)
        frames = stack_pictures(name, made, indices)
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

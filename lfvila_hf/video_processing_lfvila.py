# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames to pixels: `LFVilaVideoProcessor` turns video sources into `pixel_values_videos (B, T, 3, H, W)`.

Evaluation follows the released LF-VILA transforms: resize to 240 x 428, centre crop 216 x 385, resize to 192 x 320
(the same ratios for any other target size), in floating point, bilinear with antialiasing, then `/ 255` and ImageNet
mean and standard deviation. Training takes one random resized crop and one coin flip for all T frames of a video.
Both run picture by picture while the video is decoded, so memory holds one full-size picture and T small ones, whatever
the resolution.

Neither torchvision nor Pillow is needed: the base class of transformers calls them to decode, resize and normalise, and
every one of those methods is replaced here by PyAV and torch.

Letters: B videos, T frames, K clips, H and W pixels of the target, h and w of a picture as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .video_reading_lfvila import (
    MOST_FRAMES,
    VideoFrames,
    VideoLimits,
    describe_source,
    is_frame_source,
    jittered_indices,
    read_clips,
    read_frames,
    uniform_indices,
)

# The released evaluation sizes over the released target size of 192 x 320.
RESIZE_OVER_TARGET = (240 / 192, 428 / 320)
CROP_OVER_TARGET = (216 / 192, 385 / 320)
# Pixels of one picture at the target size; a typing error must not fill the memory.
MOST_PIXELS = 8192 * 8192
# Arguments of a call that say nothing about the processor and are not saved with it.
CALL_ONLY = ("generator", "seed", "training", "limits", "video_metadata", "fps", "return_tensors", "device")


@dataclass
class LFVilaVideoMetadata(VideoMetadata):
    """Metadata of one video after sampling.

    `frames_indices` are the T sampled frames; `timestamps` their true seconds on the (joined) video.

    Args:
        source: The video as a person would name it; clip files joined by " + ".
        times: Seconds of the T sampled frames, from the container's start; `None` for an array whose rate is not
            known.
        notes: What is odd about the file, in words.
    """

    source: str = ""
    times: list[float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the T sampled frames.

        Raises:
            ValueError: If the source is an array whose rate was not given; nothing is guessed.
        """
        if self.times is None:
            raise ValueError(f"the frame rate of {self.source} is not known, so its frames have no seconds: give fps")
        return self.times


class LFVilaVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments of `LFVilaVideoProcessor` beyond those of every video processor; see there."""

    num_clips: int | None
    sampling: str | None
    training: bool | None
    generator: Any
    seed: int | None
    flip_probability: float | int | None
    crop_scale: list[float] | tuple[float, ...] | None
    crop_ratio: list[float] | tuple[float, ...] | None
    crop_ratio_is_relative: bool | None
    scale_in_decoder: bool | None
    accept_truncated: bool | None
    decoder: str | None
    isolated: bool | None
    num_decoding_threads: int | None
    limits: Any


class LFVilaVideoProcessor(BaseVideoProcessor):
    """Videos of any length and size to `pixel_values_videos (B, T, 3, H, W)`.

    Args:
        size: Target height and width, `{"height": 192, "width": 320}`.
        num_frames: Frames sampled from one video, T. A shorter video repeats frames.
        num_clips: Clips that the model sees in one video, K.
        sampling: "uniform" (`linspace(0, n - 1, T)`) or "jittered" (both ends moved by up to one interval); the
            default is jittered in training and uniform otherwise. A video given as clip files always takes
            `linspace(0, n, T / K + 1)[:-1]` of each.
        do_sample_frames: With `False` every frame is taken, and all videos of a batch must have equally many.
        do_resize: With `False` pictures keep their size, which must then be the same in the whole batch.
        do_center_crop: With `False` evaluation resizes straight to `size`.
        do_rescale: Multiply by `rescale_factor` (1 / 255).
        do_normalize: Subtract `image_mean`, divide by `image_std`.
        flip_probability: How often training mirrors a video; 0 for texts that say "left" and "right".
        crop_scale: Smallest and largest part of the area that training keeps.
        crop_ratio: Smallest and largest width over height of that part. With the released values (3/4, 4/3), a crop
            of 0.8 of the area does not fit into a picture that is wider than 5:3: there the crop is always the
            central 4:3 part.
        crop_ratio_is_relative: Read `crop_ratio` as a multiple of the picture's own ratio, so that wide pictures vary
            too.
        scale_in_decoder: Scale to the first evaluation size inside the decoder's colour conversion: less memory and
            time, and pixels that differ from the exact ones by 0.9 of 255 levels in the mean (18 real clips: 0.2 to
            1.2).
        accept_truncated: Take a file whose end is missing for the part that is there, instead of an error.
        num_decoding_threads: Decoders at work at once on one video.
        decoder: "pyav", or "torchcodec" where that is installed.
        isolated: Decode in a process of its own, which may crash, hang or run out of memory without harm to this one.
        return_metadata: Also return `video_metadata`, one `LFVilaVideoMetadata` per video.

    Calling it takes one source, a list of sources (a batch), or a list of lists of sources (a batch of videos given
    as clip files), and any of the arguments above, and:

        training: Random crop and flip instead of the evaluation geometry.
        generator: `torch.Generator` behind every random choice; each video draws one number from it and goes on
            alone, so a batch equals the same videos one by one.
        seed: Or an integer to make that generator from.
        fps: Frames per second of videos that are given as arrays. Files know their own.
        video_metadata: The same per video, as `{"fps": ...}`.
        limits: `VideoLimits` for hostile files.
    """

    resample = 2  # bilinear, by its number because the enumeration belongs to Pillow
    size = {"height": 192, "width": 320}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)
    do_sample_frames = True
    num_frames = 32
    num_clips = 4
    sampling = None
    flip_probability = 0.5
    crop_scale = (0.8, 1.0)
    crop_ratio = (3 / 4, 4 / 3)
    crop_ratio_is_relative = False
    scale_in_decoder = False
    accept_truncated = False
    decoder = "pyav"
    isolated = False
    num_decoding_threads = 1
    return_metadata = False
    valid_kwargs = LFVilaVideoProcessorKwargs  # type: ignore[assignment]  # ours has more keys
    model_input_names = ["pixel_values_videos"]

    def __init__(self, **kwargs: Unpack[LFVilaVideoProcessorKwargs]) -> None:
        super().__init__(**kwargs)  # type: ignore[misc]  # a TypedDict with other keys
        self.crop_scale = checked_pair("crop_scale", self.crop_scale, 1.0)
        self.crop_ratio = checked_pair("crop_ratio", self.crop_ratio, math.inf)
        check_numbers(vars(self))

    def preprocess(self, videos: Any, **kwargs: Unpack[LFVilaVideoProcessorKwargs]) -> BatchFeature:
        """Read, sample, resize and normalise a batch of videos.

        Args:
            videos: One source, a list of sources, or a list of lists of sources (clip files); see `read_frames` for
                what a source is. An array with five axes is a batch, a list of pictures is one video.
            kwargs: Any argument of the class, for this call.

        Returns:
            `pixel_values_videos (B, T, 3, H, W)` float32, and `video_metadata` where `return_metadata`.

        Raises:
            LFVilaVideoError: If a video cannot be used.
            ValueError: For arguments that do not fit the videos.
        """
        settings = self._settings(kwargs)
        sources = batch_of_videos(videos)
        rates = _rates(sources, settings)
        seeds = _seeds(len(sources), settings)
        read = [self._read(*one, settings) for one in zip(sources, rates, seeds, strict=True)]
        pixels = self._stack(read, settings)  # (B, T, 3, H, W)
        data: dict[str, Any] = {"pixel_values_videos": pixels}
        if settings["return_metadata"]:
            data["video_metadata"] = [_metadata(video) for video in read]
        kind = settings["return_tensors"] or "pt"
        return BatchFeature(data, tensor_type=kind, skip_tensor_conversion=["video_metadata"])

    def read_pictures(self, source: Any, **kwargs: Unpack[LFVilaVideoProcessorKwargs]) -> VideoFrames:
        """Sample and resize one video without normalising it.

        This is the part of `preprocess` that is worth keeping in a cache; `normalize_pictures` is the rest.

        Args:
            source: One source, or a list of clip files.
            kwargs: As for `preprocess`.

        Returns:
            `frames (T, 3, H, W)` float32 in 0 ... 255, with their seconds and numbers.
        """
        settings = self._settings(kwargs)
        sources = [source] if _is_clip_list(source) else batch_of_videos(source)
        if len(sources) != 1:
            raise ValueError(f"read_pictures reads one video, got {len(sources)}")
        return self._read(sources[0], _rates(sources, settings)[0], _seeds(1, settings)[0], settings)

    def normalize_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Rescale and normalise `(..., 3, H, W)` in 0 ... 255 (uint8 or float) by the stored settings."""
        return normalize_pixels(pictures, self._settings({}))

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Compute the frames that `preprocess` would take of a video with `metadata.total_num_frames` frames.

        Args:
            metadata: Only `total_num_frames` is read.
            num_frames: T. Defaults to the stored one.
            fps: Not supported: LF-VILA takes a fixed number of frames of a video of any length.
            kwargs: `sampling` and `generator`.
        """
        if fps is not None:
            raise ValueError("LF-VILA samples a fixed number of frames, not frames per second: give num_frames")
        count = num_frames or self.num_frames
        if (kwargs.get("sampling") or self.sampling or "uniform") == "jittered":
            return np.asarray(jittered_indices(metadata.total_num_frames, count, kwargs.get("generator")))
        return np.asarray(uniform_indices(metadata.total_num_frames, count))

    def convert_to_rgb(self, image: torch.Tensor, input_data_format: Any = None) -> torch.Tensor:
        """Return pictures as they are: they are RGB when they leave the reader."""
        return image

    def resize(
        self, image: torch.Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any
    ) -> torch.Tensor:
        """Resize `(..., 3, h, w)` to `size` (height and width), bilinear with antialiasing."""
        return resize_pictures(image, (size.height, size.width), antialias)

    def center_crop(  # type: ignore[override]  # any keyword
        self, image: torch.Tensor, size: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Cut the central `size` (height and width) out of `(..., 3, h, w)`."""
        return center_crop_pictures(image, (size.height, size.width))

    def normalize(  # type: ignore[override]  # any mapping
        self, image: torch.Tensor, mean: Any, std: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Compute `(image - mean) / std` for each of the three channels."""
        return (image - per_channel(mean, image)) / per_channel(std, image)

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Callable[..., Any] | None = None) -> Any:
        """Refuse: `preprocess` takes paths and addresses itself."""
        raise NotImplementedError("LFVilaVideoProcessor reads paths and addresses itself: pass them to the processor")

    def to_dict(self) -> dict[str, Any]:
        """List the settings that are saved: all but the arguments of one call."""
        return {name: value for name, value in super().to_dict().items() if name not in CALL_ONLY}

    def _settings(self, given: Mapping[str, Any]) -> VideoSettings:
        known = self.valid_kwargs.__annotations__
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise TypeError(f"{type(self).__name__} does not know the arguments {unknown}")
        own = {name: getattr(self, name, None) for name in known}
        return VideoSettings(own | {name: value for name, value in given.items() if value is not None})

    def _read(self, source: Any, fps: float | None, seed: int | None, settings: VideoSettings) -> VideoFrames:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        training = bool(settings["training"])
        options: dict[str, Any] = {
            "fps": fps,
            "input_data_format": name_of(settings["input_data_format"]),
            "limits": settings["limits"],
            "num_threads": settings["num_decoding_threads"],
            "accept_truncated": settings["accept_truncated"],
            "backend": settings["decoder"],
            "isolated": settings["isolated"],
            "size": settings.decoder_size(),
            "transform": VideoGeometry(settings, generator),
        }
        if _is_clip_list(source):
            if not settings["do_sample_frames"]:
                raise ValueError(
                    "a video given as clip files is sampled by the clip rule: do_sample_frames must be True"
                )
            return read_clips(source, num_frames=settings["num_frames"], **options)
        if not settings["do_sample_frames"]:
            return read_frames(source, **options)
        sampling = settings["sampling"] or ("jittered" if training else "uniform")
        return read_frames(source, num_frames=settings["num_frames"], sampling=sampling, generator=generator, **options)

    def _stack(self, videos: list[VideoFrames], settings: VideoSettings) -> torch.Tensor:
        shapes = {tuple(video.frames.shape): video for video in videos}
        if len(shapes) > 1:
            (one, first), (other, second) = list(shapes.items())[:2]
            raise ValueError(
                "videos of one batch must have equally many frames of one size, got "
                f"{one} of {first.metadata.source} and {other} of {second.metadata.source}"
            )
        pixels = torch.stack([video.frames for video in videos])  # (B, T, 3, H, W)
        if settings["device"] is not None:
            pixels = pixels.to(settings["device"])
        return normalize_pixels(pixels, settings)


def _is_clip_list(source: Any) -> bool:
    """Return whether a value is a sequence of sources (a list, a column of a data set or frame), not one source."""
    if isinstance(source, (str, bytes, bytearray, memoryview)):
        return False
    kind = getattr(getattr(source, "dtype", None), "kind", "")
    is_column = getattr(source, "ndim", None) == 1 and kind in ("O", "U", "T")
    return (isinstance(source, Sequence) or is_column) and not is_frame_source(source)


def batch_of_videos(videos: Any) -> list[Any]:
    """List the videos of a batch, each one source or a list of clip files.

    Args:
        videos: One source, a list of sources, or a list of lists of sources; a list of pictures is one source, an array
            with five axes is a batch.

    Raises:
        ValueError: For no video, an empty list of clip files, or an array with other axes.
    """
    axes = getattr(videos, "ndim", None)
    if axes == 5:
        videos = list(videos)
    elif axes not in (None, 4) and not _is_clip_list(videos) and not isinstance(videos, memoryview):
        raise ValueError(
            f"an array of videos has 4 axes (one video) or 5 (a batch), got the shape {tuple(videos.shape)}"
        )
    if not _is_clip_list(videos):
        return [videos]
    if len(videos) == 0:
        raise ValueError("videos is empty: at least one video is needed")
    for position, video in enumerate(videos):
        if _is_clip_list(video) and len(video) == 0:
            raise ValueError(f"video {position} of the batch is an empty list of clip files")
    return list(videos)


def _rates(sources: list[Any], settings: VideoSettings) -> list[float | None]:
    """List the given frame rate of each video; only arrays may have one."""
    given = settings["video_metadata"]
    if given is None:
        rates = [settings["fps"]] * len(sources)
    else:
        entries = list(given) if isinstance(given, (list, tuple)) else [given]
        if len(entries) != len(sources):
            raise ValueError(
                f"{len(sources)} videos but {len(entries)} entries of video_metadata: one per video is needed"
            )
        rates = [settings["fps"] if entry is None else entry.get("fps", settings["fps"]) for entry in entries]
    for source, rate in zip(sources, rates, strict=True):
        files = [clip for clip in (source if _is_clip_list(source) else [source]) if not is_frame_source(clip)]
        if rate is not None and files:
            raise ValueError(
                f"fps is the frame rate of videos given as arrays; {describe_source(files[0])} knows its own. "
                "To choose how many frames are sampled give num_frames"
            )
    return rates


def _seeds(count: int, settings: VideoSettings) -> list[int | None]:
    """Draw one seed for each video in order, so that a batch equals its videos one by one."""
    generator = settings["generator"]
    if settings["seed"] is not None:
        if generator is not None:
            raise ValueError("give a generator or a seed, not both")
        generator = torch.Generator().manual_seed(settings["seed"])
    if not settings["training"] and settings["sampling"] != "jittered":
        return [None] * count
    return [int(torch.randint(2**62, (), generator=generator)) for _ in range(count)]


def _metadata(video: VideoFrames) -> LFVilaVideoMetadata:
    info = video.metadata
    return LFVilaVideoMetadata(
        total_num_frames=info.total_num_frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
        duration=info.duration,
        video_backend=info.backend or None,
        frames_indices=video.indices,
        source=info.source,
        times=video.times,
        notes=info.notes,
    )


# -- settings and geometry ---------------------------------------------------------------------------------------------


class VideoSettings:
    """Arguments of one call, each either given or the processor's own."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        size = self._values["size"]
        if isinstance(size, Mapping):
            height, width = size.get("height"), size.get("width")
        else:
            height, width = getattr(size, "height", None), getattr(size, "width", None)
        if not height or not width:
            raise ValueError(f"size must give height and width, got {size!r}")
        if not (0 < height and 0 < width and height * width <= MOST_PIXELS):
            raise ValueError(f"size must be of 1 to {MOST_PIXELS} pixels, got {size!r}")
        self.size: tuple[int, int] = (int(height), int(width))
        check_numbers(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @property
    def resize_size(self) -> tuple[int, int]:
        """First evaluation size: 240 x 428 for a target of 192 x 320."""
        return round(self.size[0] * RESIZE_OVER_TARGET[0]), round(self.size[1] * RESIZE_OVER_TARGET[1])

    @property
    def center_size(self) -> tuple[int, int]:
        """Centre crop: 216 x 385 for a target of 192 x 320."""
        return round(self.size[0] * CROP_OVER_TARGET[0]), round(self.size[1] * CROP_OVER_TARGET[1])

    def decoder_size(self) -> tuple[int, int] | None:
        """Compute the size that the decoder scales to; `None` for the stored size."""
        if not (self["scale_in_decoder"] and self["do_resize"]):
            return None
        return self.resize_size if self["do_center_crop"] or self["training"] else self.size


class VideoGeometry:
    """Crop, resize and flip of the pictures of one video; random choices are drawn once.

    Args:
        settings: Sizes and the ranges of random choices.
        generator: Randomness. Defaults to torch's global generator.
    """

    def __init__(self, settings: VideoSettings, generator: torch.Generator | None) -> None:
        self.settings = settings
        self.generator = generator
        self._box: tuple[float, float, float, float] | None = None
        self._flip = False

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """Turn a picture `(3, h, w)` uint8 into float32 `(3, H, W)` in 0 ... 255."""
        settings = self.settings
        picture = picture.float()
        if settings["training"]:
            return self._augment(picture)
        if not settings["do_resize"]:
            return picture
        if settings["do_center_crop"]:
            picture = center_crop_pictures(resize_pictures(picture, settings.resize_size), settings.center_size)
        return resize_pictures(picture, settings.size)

    def _augment(self, picture: torch.Tensor) -> torch.Tensor:
        height, width = picture.shape[1:]
        if self._box is None:
            self._box = random_crop_box(
                height,
                width,
                self.settings["crop_scale"],
                self.settings["crop_ratio"],
                self.generator,
                relative=bool(self.settings["crop_ratio_is_relative"]),
            )
            self._flip = _uniform(self.generator) < self.settings["flip_probability"]
        if self.settings["do_resize"]:
            top, left = round(self._box[0] * height), round(self._box[1] * width)
            bottom, right = top + max(round(self._box[2] * height), 1), left + max(round(self._box[3] * width), 1)
            picture = resize_pictures(picture[:, top:bottom, left:right], self.settings.size)
        return picture.flip(-1) if self._flip else picture


def random_crop_box(
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    generator: torch.Generator | None = None,
    relative: bool = False,
) -> tuple[float, float, float, float]:
    """Draw a random part of a picture like the usual random resized crop.

    Up to ten times an area in `scale` and, on a logarithmic scale, a width over height in `ratio` are drawn; the
    first pair that fits is placed at random. If none fits, the largest central part within `ratio` is taken.

    Args:
        height: Of the picture.
        width: Of the picture.
        scale: Smallest and largest part of the area.
        ratio: Smallest and largest width over height.
        generator: Randomness. Defaults to torch's global generator.
        relative: Read `ratio` as a multiple of `width / height`.

    Returns:
        Top, left, height and width of the part, as fractions of the picture.
    """
    low, high = (bound * (width / height if relative else 1) for bound in ratio)
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * _uniform(generator))
        aspect = math.exp(math.log(low) + (math.log(high) - math.log(low)) * _uniform(generator))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(_uniform(generator) * (height - crop_height + 1))
            left = int(_uniform(generator) * (width - crop_width + 1))
            return top / height, left / width, crop_height / height, crop_width / width
    crop_width, crop_height = width, height
    if width / height < low:
        crop_height = round(width / low)
    elif width / height > high:
        crop_width = round(height * high)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top / height, left / width, crop_height / height, crop_width / width


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def resize_pictures(pictures: torch.Tensor, size: tuple[int, int], antialias: bool = True) -> torch.Tensor:
    """Resize `(..., 3, h, w)` to `(..., 3, H, W)`, bilinear; pictures of that size are returned as they are."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    flat = pictures.reshape(-1, *pictures.shape[-3:])  # (N, 3, h, w)
    flat = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return flat.reshape(*pictures.shape[:-2], *size)  # (..., 3, H, W)


def center_crop_pictures(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut the central `size` (height and width) out of `(..., 3, h, w)`."""
    top, left = round((pictures.shape[-2] - size[0]) / 2), round((pictures.shape[-1] - size[1]) / 2)
    return pictures[..., top : top + size[0], left : left + size[1]]


def normalize_pixels(pictures: torch.Tensor, settings: VideoSettings) -> torch.Tensor:
    """Rescale and normalise `(..., 3, H, W)` in 0 ... 255 to float32 as the settings say."""
    pixels = pictures.float() * (settings["rescale_factor"] if settings["do_rescale"] else 1.0)
    if settings["do_normalize"]:
        pixels.sub_(per_channel(settings["image_mean"], pixels)).div_(per_channel(settings["image_std"], pixels))
    return pixels


def per_channel(values: Any, like: torch.Tensor) -> torch.Tensor:
    """Bring one value or three to `(3, 1, 1)`, in the dtype and on the device of `like`."""
    values = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return values.expand(3).reshape(3, 1, 1)  # (3, 1, 1)


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the first setting that no picture can be made with; absent ones are not looked at."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("num_frames", "num_clips"):
        if not 1 <= given.get(name, 1) <= MOST_FRAMES:
            raise ValueError(f"{name} must be at least 1 and at most {MOST_FRAMES}, got {given[name]}")
    if not 0 <= given.get("flip_probability", 0) <= 1:
        raise ValueError(f"flip_probability must lie in 0 to 1, got {given['flip_probability']}")
    for name, low in (("image_mean", -math.inf), ("image_std", 0), ("rescale_factor", 0)):
        channels = np.atleast_1d(np.asarray(given.get(name, 1.0), np.float64))
        if channels.shape not in ((1,), (3,)) or not ((low < channels) & (channels < math.inf)).all():  # also NaN
            expected = "finite numbers" if low < 0 else "finite numbers above 0"
            raise ValueError(f"{name} must be one or three {expected}, got {given[name]!r}")


def checked_pair(name: str, value: Any, largest: float) -> tuple[float, float]:
    """Check for two ascending numbers above 0 and at most `largest`; raise a `ValueError` that names them."""
    pair = tuple(value)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= largest:
        raise ValueError(f"{name} must be two ascending numbers above 0 (at most {largest:g}), got {value!r}")
    return pair


def name_of(member: Any) -> str | None:
    """Return the value of an enumeration member, and anything else as it is."""
    return getattr(member, "value", member)


__all__ = ["LFVilaVideoMetadata", "LFVilaVideoProcessor", "VideoLimits", "random_crop_box"]

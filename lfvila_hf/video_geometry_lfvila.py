# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What happens to a picture between decoder and model: resize, crop, flip, normalise; and the settings that say so.

Evaluation: resize, centre crop, resize, in the released ratios; training: a random resized crop and a flip, drawn once
per video. `LFVilaVideoProcessor` puts it together; the data sets use the parts.

Letters: T frames, H and W pixels of the target, h and w of a picture as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

# The released evaluation sizes over the released target size of 192 x 320.
RESIZE_OVER_TARGET = (240 / 192, 428 / 320)
CROP_OVER_TARGET = (216 / 192, 385 / 320)


class VideoSettings:
    """The arguments of one call, each either given or the processor's own."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        size = self._values["size"]
        if isinstance(size, Mapping):
            height, width = size.get("height"), size.get("width")
        else:
            height, width = getattr(size, "height", None), getattr(size, "width", None)
        if not height or not width:
            raise ValueError(f"size must give height and width, got {size!r}")
        self.size: tuple[int, int] = (int(height), int(width))
        if not 0 <= self["flip_probability"] <= 1:
            raise ValueError(f"flip_probability must lie in 0 to 1, got {self['flip_probability']}")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @property
    def resize_size(self) -> tuple[int, int]:
        """The first evaluation size: 240 x 428 for a target of 192 x 320."""
        return round(self.size[0] * RESIZE_OVER_TARGET[0]), round(self.size[1] * RESIZE_OVER_TARGET[1])

    @property
    def center_size(self) -> tuple[int, int]:
        """The centre crop: 216 x 385 for a target of 192 x 320."""
        return round(self.size[0] * CROP_OVER_TARGET[0]), round(self.size[1] * CROP_OVER_TARGET[1])

    def decoder_size(self) -> tuple[int, int] | None:
        """What the decoder scales to, where it may."""
        if not (self["scale_in_decoder"] and self["do_resize"]):
            return None
        return self.resize_size if self["do_center_crop"] or self["training"] else self.size


class VideoGeometry:
    """One picture `(3, h, w)` uint8 to float32 `(3, H, W)` in 0 ... 255; the random choices hold for a whole video."""

    def __init__(self, settings: VideoSettings, generator: torch.Generator | None) -> None:
        self.settings = settings
        self.generator = generator
        self._box: tuple[float, float, float, float] | None = None
        self._flip = False

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One `(3, h, w)` picture, cropped, scaled and flipped as drawn for its video."""
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
    """A random part of a picture, the way the usual random resized crop draws it.

    Up to ten times an area in `scale` and, on a logarithmic scale, a width over height in `ratio` are drawn; the
    first pair that fits is placed at random. If none fits, the largest central part within `ratio` is taken.

    Args:
        height: Of the picture.
        width: Of the picture.
        scale: Smallest and largest part of the area.
        ratio: Smallest and largest width over height.
        generator: Randomness; torch's global one if left out.
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
    """`(..., 3, h, w)` to `(..., 3, H, W)`, bilinear; pictures of that size are returned as they are."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    flat = pictures.reshape(-1, *pictures.shape[-3:])  # (N, 3, h, w)
    flat = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return flat.reshape(*pictures.shape[:-2], *size)  # (..., 3, H, W)


def center_crop_pictures(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The central `size` (height and width) of `(..., 3, h, w)`."""
    top, left = round((pictures.shape[-2] - size[0]) / 2), round((pictures.shape[-1] - size[1]) / 2)
    return pictures[..., top : top + size[0], left : left + size[1]]


def normalize_pixels(pictures: torch.Tensor, settings: VideoSettings) -> torch.Tensor:
    """`(..., 3, H, W)` in 0 ... 255 to float32, scaled and normalised as the settings say."""
    pixels = pictures.float() * (settings["rescale_factor"] if settings["do_rescale"] else 1.0)
    if settings["do_normalize"]:
        pixels.sub_(per_channel(settings["image_mean"], pixels)).div_(per_channel(settings["image_std"], pixels))
    return pixels


def per_channel(values: Any, like: torch.Tensor) -> torch.Tensor:
    """One value or three as `(3, 1, 1)`, in the dtype and on the device of `like`."""
    values = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return values.expand(3).reshape(3, 1, 1)  # (3, 1, 1)


def checked_pair(name: str, value: Any, largest: float) -> tuple[float, float]:
    """Two ascending numbers above 0 and at most `largest`, or a `ValueError` that names `name` and them."""
    pair = tuple(value)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= largest:
        raise ValueError(f"{name} must be two ascending numbers above 0 (at most {largest:g}), got {value!r}")
    return pair


def name_of(member: Any) -> str | None:
    """The value of an enumeration member; anything else as it is."""
    return getattr(member, "value", member)

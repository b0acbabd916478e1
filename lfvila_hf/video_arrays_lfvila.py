# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Videos that are frames already: arrays, tensors and lists of pictures, brought to one layout.

Nothing is guessed: floats must lie in 0 to 1, a shape that could be read in two ways needs `input_data_format`, and
frames have no seconds unless their rate is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .video_sources_lfvila import LFVilaVideoError, describe_source


def is_frame_source(source: Any) -> bool:
    """Whether a source is frames already: a four-axis array, or a list of three-axis arrays or PIL images."""
    if isinstance(source, (list, tuple)):
        return bool(source) and all(_is_picture(item) for item in source)
    return getattr(source, "ndim", None) == 4


def _is_picture(item: Any) -> bool:
    return getattr(item, "ndim", None) == 3 or (hasattr(item, "convert") and hasattr(item, "getbands"))


def array_of_frames(source: Any, input_data_format: str | None) -> torch.Tensor:
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


def to_uint8(array: torch.Tensor, name: str) -> torch.Tensor:
    """Frames as uint8 on the CPU: as they are, or floats in 0 to 1 times 255, rounded."""
    if array.dtype == torch.uint8:
        return array.cpu()
    if not array.dtype.is_floating_point:
        raise LFVilaVideoError(name, f"frames must be uint8 or float in 0 to 1, got {array.dtype}")
    array = array.cpu().float()
    low, high = array.min().item(), array.max().item()
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise LFVilaVideoError(name, f"frames of floats must lie in 0 to 1, got {low:g} to {high:g}")
    return (array * 255).round().to(torch.uint8)

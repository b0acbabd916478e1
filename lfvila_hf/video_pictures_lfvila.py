# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A decoded frame as an upright RGB picture: colour conversion, scaling in it, rotation, mirroring.

The conversion is FFmpeg's. Where a smaller size is asked for, it scales in the same pass, so that a full-size RGB
picture is never held. The display matrix of a file turns pictures by quarter turns, and may mirror them.

Memory: one stored picture and the one made of it, per thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .video_sources_lfvila import VideoLimits, caller_errors
from .video_tables_lfvila import check_picture_size


class PictureMaker:
    """Turn decoded frames into upright RGB pictures.

    Args:
        source: Name of the video for errors.
        limits: For the largest picture.
        size: Height and width to scale to inside the colour conversion (bilinear); `None` keeps the stored size.
        transform: Called with each `(3, H, W)` uint8 picture; its result is kept in place of the picture.
    """

    def __init__(
        self,
        source: str,
        limits: VideoLimits,
        size: tuple[int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.source = source
        self.limits = limits
        self.size = size
        self.transform = transform
        self.rotation = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    def _converter(self) -> Any:
        """This thread's colour converter: kept, since setting one up costs more than converting a small picture."""
        converter = getattr(self._local, "converter", None)
        if converter is None:
            try:
                from av.video.reformatter import VideoReformatter
            except ImportError as error:
                raise ImportError("decoding a video file needs PyAV: pip install av") from error

            converter = self._local.converter = VideoReformatter()
        return converter

    def __call__(self, frame: Any) -> torch.Tensor:
        """One `av.VideoFrame` to `(3, H, W)` uint8, or to what `transform` makes of that."""
        check_picture_size(self.source, frame.height, frame.width, self.limits)
        self.rotation, mirrored = display_orientation(frame)
        quarter_turns = round(self.rotation / 90) % 4
        if self.size is None:
            height, width = frame.height, frame.width
        else:
            height, width = self.size[::-1] if quarter_turns % 2 else self.size
        # One thread: the converter's own threads cost more than they give, and a caller has its own parallelism.
        rgb = (
            self._converter()
            .reformat(frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1)
            .to_ndarray()
        )
        upright = np.rot90(rgb, quarter_turns)  # (H, W, 3)
        upright = upright[:, ::-1] if mirrored else upright
        if self.transform is None:  # then the pictures are stacked, which puts the channels first
            return torch.from_numpy(np.ascontiguousarray(upright)).permute(2, 0, 1)  # (3, H, W)
        picture = torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))  # (3, H, W)
        with self._lock, caller_errors():
            return self.transform(picture)


def display_orientation(frame: Any) -> tuple[int, bool]:
    """How a stored picture is turned to be upright.

    Args:
        frame: A decoded `av.VideoFrame`.

    Returns:
        Degrees counter-clockwise, and whether it is mirrored left to right after that.
    """
    side_data = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if side_data is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(side_data, dtype=np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    if mirrored:
        a = -a
    return -round(float(np.degrees(np.arctan2(b, a)))), bool(mirrored)

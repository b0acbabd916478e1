# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""torchcodec in place of PyAV, for those who ask for it: `read_frames(..., backend="torchcodec")`.

torchcodec's exact mode scans the packets of a file and applies rotation itself, so the frames are the same ones; the
chroma upsampling and the rounding of its colour conversion are its own. Memory: all wanted frames at full size at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .video_decoding_lfvila import DecodedVideo, checked_indices
from .video_sources_lfvila import LFVilaVideoError, VideoLimits, video_errors
from .video_tables_lfvila import FrameTable, check_picture_size

# A clock that is fine enough for seconds given as floating point numbers.
TICKS_PER_SECOND = 1_000_000


def decode_with_torchcodec(
    name: str,
    handle: Any,
    choose: Callable[[FrameTable], Sequence[int]],
    limits: VideoLimits,
    size: tuple[int, int] | None = None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> DecodedVideo:
    """Decode the frames that `choose` picks. Only the length of its table is true, so it must not ask for seconds.

    Args:
        name: The video as a person would name it.
        handle: A path, bytes, an open binary file, or a torchcodec `VideoDecoder`.
        choose: From the table of all frames to the wanted frame numbers.
        limits: Pixels, frames and output bytes are checked.
        size: Height and width to resize to (bilinear with antialiasing).
        transform: Called with each `(3, H, W)` uint8 picture; its result is kept.

    Raises:
        ImportError: without torchcodec.
        LFVilaVideoError: where torchcodec cannot read the video.
    """
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]  # an optional package
    except (ImportError, RuntimeError) as error:  # it raises RuntimeError where its FFmpeg libraries are missing
        raise ImportError("backend='torchcodec' needs torchcodec and FFmpeg: `pip install torchcodec`") from error
    with video_errors(name):
        given = is_torchcodec_decoder(handle)
        decoder = handle if given else VideoDecoder(handle, seek_mode="exact", num_ffmpeg_threads=1)
        metadata = decoder.metadata
        count = int(metadata.num_frames or 0)
        if count == 0:
            raise LFVilaVideoError(name, "no frame of it can be decoded")
        if limits.max_frames is not None and count > limits.max_frames:
            raise LFVilaVideoError(name, f"{count} frames are above the limit of {limits.max_frames} (max_frames)")
        check_picture_size(name, metadata.height, metadata.width, limits)
        begin, end = float(metadata.begin_stream_seconds), float(metadata.end_stream_seconds)
        indices = checked_indices(name, choose, _even_table(count, end - begin))
        most = limits.max_output_bytes
        if most is not None and 3 * metadata.height * metadata.width * len(indices) > most:
            raise LFVilaVideoError(name, f"{len(indices)} frames exceed the limit of {most} bytes (max_output_bytes)")
        wanted = sorted(set(indices))
        batch = decoder.get_frames_at([0, *wanted])  # the first one for the start of the clock
    pictures = batch.data[1:]  # (N, 3, H, W)
    height, width = int(pictures.shape[2]), int(pictures.shape[3])
    if size is not None:
        pictures = functional.interpolate(pictures, size=size, mode="bilinear", antialias=True, align_corners=False)
    kept = list(pictures) if transform is None else [transform(picture) for picture in pictures]
    seconds = (batch.pts_seconds - batch.pts_seconds[0]).numpy()
    table = _even_table(count, end - float(batch.pts_seconds[0]))
    table.pts[[0, *wanted]] = np.rint(seconds * TICKS_PER_SECOND)
    return DecodedVideo(
        table=table,
        indices=indices,
        pictures=dict(zip(wanted, kept, strict=True)),
        decoded_frames=len(wanted),
        codec=str(metadata.codec),
        pixel_format=str(getattr(metadata, "pixel_format", None) or ""),
        stored_size=(height, width),
    )


def is_torchcodec_decoder(source: Any) -> bool:
    """Whether a source is a `torchcodec` decoder, as a decoded `datasets` video column holds."""
    kind = type(source)
    return kind.__name__ == "VideoDecoder" and kind.__module__.startswith("torchcodec")


def _even_table(count: int, seconds: float) -> FrameTable:
    end = max(round(seconds * TICKS_PER_SECOND), count)
    pts = np.linspace(0, end, count, endpoint=False).astype(np.int64)
    return FrameTable(pts, Fraction(1, TICKS_PER_SECOND), end, "torchcodec")

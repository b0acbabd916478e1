"""Small video files whose frames say which one they are: the raw material of every decoding test.

The frame number stands in the picture as a barcode of 16 black or white blocks in the top quarter (12 bits of number,
4 of check sum), so that a test reads back *which* frame it was given, whatever codec, container or scaling lies
between, and a picture that is no frame of ours is told from one that is. Below it a coloured ramp moves, so that
neighbours differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from lfvila_hf.video_reading_lfvila import VideoFrames, read_frames, uniform_indices

BITS = 16
NUMBER_BITS = 12


def barcode_picture(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """One RGB picture `(height, width, 3)` uint8 that carries `number` (0 ... 4095) in its top quarter."""
    if not 0 <= number < 2**NUMBER_BITS:
        raise ValueError(f"a barcode holds 0 to {2**NUMBER_BITS - 1}, got {number}")
    code = number | _checksum(number) << NUMBER_BITS
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [
            (columns * 2 + number * 5) % 200 + 20,
            (rows * 3 + number * 2) % 200 + 20,
            np.full_like(rows, 90 + number % 60),
        ],
        axis=-1,
    ).astype(np.uint8)
    bars = np.array([(code >> bit) & 1 for bit in range(BITS)], dtype=np.uint8) * 255
    picture[: height // 4] = bars[np.arange(width) * BITS // width][None, :, None]
    return picture


def read_barcode(frame: torch.Tensor | np.ndarray) -> int:
    """The number in a picture `(3, H, W)` (tensor) or `(H, W, 3)` (array); -1 where the check sum does not fit."""
    array = frame.permute(1, 2, 0).numpy() if isinstance(frame, torch.Tensor) else frame
    height, width = array.shape[:2]
    band = array[height // 16 : height * 3 // 16].astype(np.float64).mean(axis=(0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    code = sum(1 << bit for bit, centre in enumerate(centres) if band[centre] > 127)
    number = code & (2**NUMBER_BITS - 1)
    return number if code >> NUMBER_BITS == _checksum(number) else -1


def read_barcodes(frames: torch.Tensor) -> list[int]:
    """The numbers in `(T, 3, H, W)`."""
    return [read_barcode(frame) for frame in frames]


def write_video(
    path: str | Path,
    count: int = 40,
    *,
    fps: int = 25,
    size: tuple[int, int] = (64, 96),
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 2,
    pixel_format: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    first_number: int = 0,
) -> Path:
    """Write `count` barcode pictures into a real video file and give its path back.

    Args:
        path: The file; its ending chooses the container unless `container_format` does.
        count: How many pictures.
        fps: Pictures per second of the regular grid.
        size: Height and width.
        codec: FFmpeg's name of the encoder.
        gop: Longest distance between key frames.
        bframes: B-frames between two others (for encoders that know them).
        pixel_format: FFmpeg's name of the pixel format.
        ticks: The time of each picture in units of `1 / fps` (variable rate, late start); `range(count)` if left out.
        rotation: Degrees of the display matrix.
        mirrored: Whether the display matrix mirrors left to right.
        options: More options for the encoder.
        container_options: Options for the muxer.
        container_format: FFmpeg's name of the muxer.
        first_number: Number in the first picture.
    """
    height, width = size
    with av.open(str(path), "w", format=container_format, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.gop_size = gop
        settings = dict(options or {})
        if codec == "libx264":
            settings = {"preset": "veryfast", "crf": "18", "bf": str(bframes), "sc_threshold": "0", **settings}
        elif codec == "libx265":
            settings = {"preset": "ultrafast", "x265-params": f"bframes={bframes}:log-level=none:pools=1", **settings}
        elif codec in ("mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = bframes
            stream.bit_rate = 2_000_000
        stream.codec_context.options = settings
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        for position in range(count):
            frame = av.VideoFrame.from_ndarray(barcode_picture(first_number + position, height, width), format="rgb24")
            frame.pts = position if ticks is None else ticks[position]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def sequential_frames(path: str | Path, stream_index: int | None = None) -> list[np.ndarray]:
    """Every picture of a file `(H, W, 3)`, decoded from first to last packet: what a shortcut is held against.

    One thread, because how a decoder conceals damage depends on their number; past packets that cannot be decoded.
    """
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & 0x400]
        stream = streams[0] if stream_index is None else container.streams[stream_index]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                frames.append(
                    np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4))
                )
    return frames


def copy_packets(
    source: str | Path, target: str | Path, *, delay: int = 0, container_format: str | None = None
) -> Path:
    """Write the packets of a video into another container, `delay` ticks later (negative: an edit list hides some)."""
    with av.open(str(source)) as reader, av.open(str(target), "w", format=container_format) as writer:
        stream = reader.streams.video[0]
        copied = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is None:
                continue
            packet.pts += delay
            packet.dts += delay
            packet.stream = copied
            writer.mux(packet)
    return Path(target)


def _add_cover(container: Any) -> Any:
    """Announce a cover picture; `_mux_cover` writes it."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _mux_cover(container: Any, stream: Any) -> None:
    frame = av.VideoFrame.from_ndarray(barcode_picture(999, 64, 64), format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: str | Path, *, cover: bool = False) -> Path:
    """An audio file, with a cover picture if asked for."""
    with av.open(str(path), "w", format="mp4") as container:
        picture = _add_cover(container) if cover else None
        sound = container.add_stream("aac", rate=44100, layout="mono")
        if picture is not None:
            _mux_cover(container, picture)
        for number in range(20):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            block.rate, block.pts = 44100, number * 1024
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return Path(path)


def write_streams(path: str | Path, sizes: Sequence[tuple[int, int]], *, cover: bool = False, count: int = 20) -> Path:
    """Several video streams in one file, picture numbers from 0, 100, 200, ..., and a cover picture if asked for."""
    with av.open(str(path), "w") as container:
        streams = []
        for height, width in sizes:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        if cover:
            _mux_cover(container, _add_cover(container))
        for position in range(count):
            for number, ((height, width), stream) in enumerate(zip(sizes, streams, strict=True)):
                picture = barcode_picture(100 * number + position, height, width)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = position
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return Path(path)


def boxes(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[str, int, int]]:
    """The boxes of an mp4 between two offsets: name, start and end."""
    found = []
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big") or end - start
        found.append((data[start + 4 : start + 8].decode("latin-1"), start, start + size))
        start += size
    return found


def move_metadata_first(path: Path) -> None:
    """Put the `udta` box of an mp4 first in `moov`: its cover picture becomes the first video stream."""
    data = path.read_bytes()
    name, start, end = next(box for box in boxes(data) if box[0] == "moov")
    children = boxes(data, start + 8, end)
    ordered = sorted(children, key=lambda box: box[0] != "udta")
    assert ordered != children, f"{name} has no udta box to move"
    moved = b"".join(data[first:last] for _, first, last in ordered)
    path.write_bytes(data[: start + 8] + moved + data[end:])


def _checksum(number: int) -> int:
    return (number ^ number >> 4 ^ number >> 8 ^ 0b1010) & 0b1111


def assert_sequential(path: Path, num_frames: int = 8, **options: Any) -> VideoFrames:
    """Read `num_frames` frames by the released rule and hold them against a full sequential decode."""
    expected = sequential_frames(path)
    assert expected
    read = read_frames(path, num_frames=num_frames, **options)
    assert read.indices == uniform_indices(len(expected), num_frames)
    for frame, index in zip(read.frames, read.indices, strict=True):
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), expected[index]), f"frame {index} of {path.name} differs"
    return read

"""Films of plain colours, and ways in which their bytes arrive over time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def write_colours(
    path: Path,
    parts: Sequence[tuple[str, float]],
    size: tuple[int, int] = (48, 64),
    fps: int = 10,
    first_second: float = 0.0,
    container_format: str | None = None,
    sound_seconds: int = 0,
) -> Path:
    """Write a film of plain colours.

    Args:
        path: The file; its ending chooses the container unless `container_format` does.
        parts: Colour and seconds of every part.
        size: Height and width.
        fps: Frames per second.
        first_second: Time stamp of the first frame.
        container_format: FFmpeg's name of the muxer.
        sound_seconds: Seconds of silence from second 0 on.
    """
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = fps
        if sound_seconds:
            sound = container.add_stream("mp2", rate=48000, layout="mono")
            for place in range(48 * sound_seconds):
                block = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.int16), format="s16", layout="mono")
                block.rate, block.pts = 48000, 1000 * place
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
        number = round(first_second * fps)
        for colour, seconds in parts:
            for _ in range(round(seconds * fps)):
                picture = np.broadcast_to(np.array(COLOURS[colour], np.uint8), (*size, 3))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode(None))
    return path


def colour_of(picture: object) -> str:
    """Name the colour of a picture `(3, H, W)`."""
    mean = np.asarray(picture, np.float64).mean((1, 2))
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def feed(path: Path, data: bytes, pieces: int = 10, pause: float = 0.02, hold: float = 0.0) -> threading.Thread:
    """Append bytes to a file or pipe in a thread, in pieces; the pipe stays open `hold` seconds more."""

    def run() -> None:
        with open(path, "ab", buffering=0) as file:
            for number in range(pieces):
                file.write(data[number * len(data) // pieces : (number + 1) * len(data) // pieces])
                time.sleep(pause)
            time.sleep(hold)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def make_pipe(path: Path) -> Path:
    """Make a named pipe."""
    os.mkfifo(path)
    return path

"""Time of `encode_videos` by number of decoding threads; time and memory of `encode_long_video` by length.

    python benchmarks/encoding.py                                              # the tiny preset, generated films
    python benchmarks/encoding.py --videos 16 --workers 0 1 2 --rounds 5
    python benchmarks/encoding.py --long 600 3600 --rounds 1                   # seconds of film: time and memory
    python benchmarks/encoding.py --preset base --batch 16 --device cuda --dtype bf16

| row | what runs |
|---|---|
| `decode` | `processor(videos=...)` alone, one after another |
| `model` | the model alone on decoded pixels |
| `workers-N` | `encode_videos(num_workers=N)`; 0 decodes between two batches |

With perfect overlap `workers-1` takes as long as the longer of the two; without it, their sum. On a CPU the decoder and
the model share the cores, so the gain is what either leaves unused. With `--long`, peak memory is that of a fresh
process per length on top of what the model and the smallest film need.

Films are made with PyAV (640 x 360, 25 frames/s, moving noise). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from measuring import (
    DTYPES,
    Part,
    finish,
    make_parser,
    measure_memory,
    memory_of_fresh_process,
    print_table,
    ratio,
    read_options,
    record,
    time_rounds,
)
from transformers import BertTokenizer

from lfvila_hf import LFVilaConfig, LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, encode_videos
from lfvila_hf.long_videos import encode_long_video

FRAME_RATE = 25
PERIOD = 250
"""Frames that are encoded; longer films repeat their packets."""


def write_film(path: Path, seconds: int, height: int = 360, width: int = 640) -> Path:
    """A film of that many seconds: ten seconds of moving noise, encoded once, packets repeated with later times."""
    background = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = background.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("h264", rate=FRAME_RATE)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"g": "50", "bf": "0", "preset": "ultrafast"}
        packets: list[Any] = []
        for number in range(PERIOD):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * number, 1), format="rgb24")
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number in range(seconds * FRAME_RATE):
            source = packets[number % PERIOD]
            packet = av.Packet(bytes(source))
            packet.stream, packet.time_base = stream, Fraction(1, FRAME_RATE)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, source.is_keyframe
            container.mux(packet)
    return path


def make_model(options: argparse.Namespace) -> tuple[LFVilaModel, LFVilaProcessor]:
    """A model with random weights and a processor of its size."""
    torch.manual_seed(0)
    config = getattr(LFVilaConfig, options.preset)()
    video = config.video_config
    height, width = video.image_size
    size = {"height": height, "width": width}
    frames = LFVilaVideoProcessor(size=size, num_frames=video.num_frames, num_clips=video.num_clips)
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))})
    model = LFVilaModel(config).eval().to(options.device)
    return model, LFVilaProcessor(frames, tokenizer)


def half(options: argparse.Namespace) -> torch.dtype | None:
    """The type to compute in, `None` for the model's own."""
    return None if options.dtype == "fp32" else DTYPES[options.dtype]


def make_parts(files: list[Path], options: argparse.Namespace) -> dict[str, Part]:
    """Decoding alone, the model alone, and both together for every number of workers."""
    model, processor = make_model(options)
    pixels = processor(videos=files[: options.batch])["pixel_values_videos"].to(options.device)
    batches = -(-len(files) // options.batch)
    dtype = half(options)

    def decode() -> None:
        for file in files:
            processor(videos=[file])

    def compute() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
                    model.get_video_features(pixels)

    def both(workers: int) -> Part:
        return lambda: encode_videos(model, processor, files, options.batch, num_workers=workers, dtype=dtype)

    together = {f"workers-{workers}": both(workers) for workers in options.workers}
    return {"decode": decode, "model": compute, **together}


def make_long(seconds: int, options: argparse.Namespace, folder: Path) -> Part:
    """`encode_long_video` of one film of that many seconds."""
    film = write_film(folder / f"{seconds}.mp4", seconds)
    model, processor = make_model(options)
    return lambda: encode_long_video(model, processor, film, segment_frames=options.segment, dtype=half(options))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--videos", type=int, default=8, help="films")
    parser.add_argument("--seconds", type=int, default=20, help="length of a film")
    parser.add_argument("--batch", type=int, default=4, help="videos in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="videos decoded ahead at a time")
    parser.add_argument("--long", type=int, nargs="+", help="lengths in seconds: encode_long_video instead")
    parser.add_argument("--segment", type=int, default=64, help="frames of a segment of a long film")
    options = read_options(parser, arguments, "videos", "seconds", "batch", "long", "segment")
    if min(options.workers) < 0:
        parser.error(f"--workers must not be negative, got {min(options.workers)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.memory_of:
            part = make_long(int(options.memory_of), options, folder)
            print(json.dumps(measure_memory(lambda: part, options.device, times=1)))
            return
        if options.long:
            parts = {str(seconds): make_long(seconds, options, folder) for seconds in options.long}
        else:
            parts = make_parts(
                [write_film(folder / f"{n}.mp4", options.seconds) for n in range(options.videos)], options
            )
        seconds = time_rounds(parts, options.rounds, options.device)
    rows: dict[str, dict[str, Any]] = {}
    base = next(iter(parts)) if options.long else f"workers-{options.workers[0]}"
    for row in parts:
        rows[row] = {"seconds": statistics.median(seconds[row]), "ratio": ratio(seconds, row, base)}
        rows[row]["rounds"] = seconds[row]
        if options.long:
            rows[row] |= memory_of_fresh_process(__file__, options, row)
    columns = ["seconds", "ratio", *(["peak_mb", "before_mb"] if options.long else [])]
    title = "seconds of film" if options.long else "row"
    print_table([title, *columns], ([row, *(one[column] for column in columns)] for row, one in rows.items()))
    finish(record("encoding", options, ratio_to=base, rows=rows), options)


if __name__ == "__main__":
    main()

"""Resident memory and latency of streams of hours: `StreamingEncoder`, `encode_long_video`, a live video.

    python benchmarks/streaming.py                        # six hours, the tiny preset, 1.675 s a frame
    python benchmarks/streaming.py --hours 1 --parts push
    python benchmarks/streaming.py --preset base --hours 0.2 --parts push

| part | what runs |
|---|---|
| `push` | `StreamingEncoder.push` of generated frames, one at a time; clip features of the clip level |
| `push-last` | the same with `clip_feature_source="last"`: clips wait for their segment |
| `live` | a film through `LiveVideo` into `StreamingEncoder`, as `lfvila-hf watch` does |
| `file` | `encode_long_video` of the film |

`growth_mb` is the largest resident memory after the first ten minutes of film, less the resident memory then. `latency`
is the time from the first frame of a clip to its feature over the clip's length: the film's own seconds to the last
frame that the clip waits for, and the wall seconds of the call that returned it. `cpu_s` is processor time. Every part
runs in a fresh process. Films are made with PyAV (`--size`, 25 frames/s, moving noise). The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from encoding import make_model, write_film
from measuring import finish, make_parser, memory_of_fresh_process, print_table, read_options, record

from lfvila_hf import LFVilaConfig
from lfvila_hf.long_videos import encode_long_video
from lfvila_hf.streaming import SECONDS_PER_FRAME, StreamingEncoder
from lfvila_hf.video.live import LiveVideo

PARTS = ("push", "push-last", "live", "file")
BASELINE_SECONDS = 600.0
"""Film after which resident memory must not grow any more."""
PICTURES = 64


def resident_mb() -> float:
    """Resident memory of this process in MiB, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("resident memory is read from /proc/self/status, which this system does not have")


class Memory:
    """Resident memory over the seconds of a film."""

    def __init__(self) -> None:
        self.baseline: float | None = None
        self.largest = self.last = 0.0

    def look(self, second: float) -> None:
        """Note the resident memory at a second of the film."""
        self.last = resident_mb()
        if second < BASELINE_SECONDS:
            return
        if self.baseline is None:
            self.baseline = self.last
        self.largest = max(self.largest, self.last)

    def found(self) -> dict[str, float | None]:
        """Return the baseline after ten minutes and the growth from there; `None` for a shorter film."""
        if self.baseline is None:
            return {"at_10_min_mb": None, "growth_mb": None}
        return {"at_10_min_mb": round(self.baseline, 1), "growth_mb": round(self.largest - self.baseline, 1)}


def push(options: argparse.Namespace, source: str) -> dict[str, Any]:
    """Push generated frames one at a time."""
    model, processor = make_model(options)
    model.config.clip_feature_source = source
    size = (PICTURES, 3, options.size[0], options.size[1])
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream, memory = StreamingEncoder(model, processor), Memory()
    latencies, walls = [], []
    for number in range(int(options.hours * 3600 / SECONDS_PER_FRAME)):
        second, start = number * SECONDS_PER_FRAME, time.perf_counter()
        clips = stream.push(pictures[number % PICTURES][None], [second])
        wall = time.perf_counter() - start
        latencies += [(second - clip.start + wall) / (clip.end - clip.start) for clip in clips]
        walls += [wall] if clips else []
        memory.look(second)
    stream.finish()
    timing = {"latency": max(latencies), "latency_median": statistics.median(latencies), "wall_s": max(walls)}
    return {**memory.found(), **timing, "clips": stream.num_clips}


def live(options: argparse.Namespace, film: Path) -> dict[str, Any]:
    """Read a film forward, and push the frames of every 1.675 s."""
    model, processor = make_model(options)
    stream, memory = StreamingEncoder(model, processor), Memory()
    for second, picture in LiveVideo(str(film), stall_seconds=1.0).sampled(SECONDS_PER_FRAME):
        stream.push(picture[None], [second])
        memory.look(second)
    stream.finish()
    return {**memory.found(), "clips": stream.num_clips}


def file(options: argparse.Namespace, film: Path) -> dict[str, Any]:
    """Embed a film with `encode_long_video`; memory is read in every pass of the model."""
    model, processor = make_model(options)
    memory, frames = Memory(), 0

    def look(module: Any, pixels: Any) -> None:
        nonlocal frames
        frames += pixels[0].shape[1]
        memory.look(frames * SECONDS_PER_FRAME)

    model.video_model.patch_embed.register_forward_pre_hook(look)
    found = encode_long_video(model, processor, film, segment_frames=options.segment)
    assert found.clip_embeds is not None
    return {**memory.found(), "clips": found.clip_embeds.shape[1]}


def run_part(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part in this process."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        film = Path(folder) / "film.mkv"
        if name in ("live", "file"):
            write_film(film, int(options.hours * 3600), *options.size)
        start = time.process_time()
        if name.startswith("push"):
            found = push(options, "last" if name == "push-last" else "clip_level")
        else:
            found = (live if name == "live" else file)(options, film)
        return {**found, "cpu_s": round(time.process_time() - start, 1)}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--hours", type=float, default=6.0, help="length of the stream")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="what runs")
    parser.add_argument("--size", type=int, nargs=2, default=[96, 160], help="height and width of the pictures")
    segment = 2 * LFVilaConfig.base().video_config.num_frames
    parser.add_argument("--segment", type=int, default=segment, help="frames of a segment of `file`")
    parser.add_argument("--folder", help="where films are written (default: the system's folder for such files)")
    options = read_options(parser, arguments, "size", "segment")
    if not options.hours > 0:
        parser.error(f"--hours must be positive, got {options.hours}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    if options.memory_of:
        print(json.dumps(run_part(options.memory_of, options)))
        return
    rows = {name: memory_of_fresh_process(__file__, options, name) for name in options.parts}
    columns = ["at_10_min_mb", "growth_mb", "latency", "wall_s", "cpu_s", "clips"]
    print_table(["part", *columns], ([name, *(row.get(column) for column in columns)] for name, row in rows.items()))
    finish(record("streaming", options, rows=rows), options)


if __name__ == "__main__":
    main()

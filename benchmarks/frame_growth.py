r"""Growth of the video tower's time and memory with the number of frames and with frame size.

    python benchmarks/frame_growth.py                                             # tiny, up to 128 frames
    python benchmarks/frame_growth.py --preset base --image-size 96 160 --frames 8 16 32 64 128 256 512 1024 \
        --full-up-to 64 --rounds 3 --plot docs/images/growth.png
    python benchmarks/frame_growth.py --preset base --frames 32 --sizes 96 160 192 320 288 480 --full-up-to 0
    python benchmarks/frame_growth.py --preset base --device cuda --dtype bf16 --training

`ours` is `LFVilaVideoModel` as `set_num_frames` makes it (windows grow up to 64 frames, longer videos are cut into
several); `full` the same pyramid with full space-time attention (video_baselines.py), up to `--full-up-to` frames. In
every round all of them run once. Memory is what a fresh process needs on top of what it holds before the first run.

The exponent e of T ** e is fitted to the medians from `--fit-from` frames on (growth_exponent); fixed costs make it
smaller at the short end, which is why the short end is left out of the fit. `--training` times forward and backward.
With `--sizes`, pairs of height and width, frame size is what varies, and the exponent is that of the pixels.

The last line is one JSON object; `--plot FILE` draws time and memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Part,
    finish,
    growth_exponent,
    make_parser,
    measure_memory,
    memory_of_fresh_process,
    print_table,
    read_options,
    record,
    time_rounds,
    tower_pass,
)
from video_baselines import BASELINES

from lfvila_hf import LFVilaConfig, LFVilaVideoModel

MEMORY_FLOOR_MB = 1.0
"""Less than this is not resolved by the high-water mark of a process."""

Point = tuple[str, int, int, int]
"""Model, frames, height, width."""


def points(options: argparse.Namespace) -> list[Point]:
    """List the points to measure, in order."""
    sizes = options.sizes or options.image_size or getattr(LFVilaConfig, options.preset)().video_config.image_size
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    return [
        (name, frames, *pair)
        for name in ("ours", "full")
        for frames in options.frames
        for pair in pairs
        if name == "ours" or frames <= options.full_up_to
    ]


def name_of(point: Point) -> str:
    """`ours-32-192x320`."""
    return f"{point[0]}-{point[1]}-{point[2]}x{point[3]}"


def make_part(point: Point, options: argparse.Namespace) -> Part:
    """One pass over one video of these sizes."""
    name, frames, height, width = point
    torch.manual_seed(0)
    config = getattr(LFVilaConfig, options.preset)().video_config
    model = LFVilaVideoModel(config)
    model.set_image_size([height, width])
    model.set_num_frames(frames)
    tower: Any = BASELINES["full"](model.config) if name == "full" else model
    tower.train(options.training).to(options.device)
    pixels = torch.randn(1, frames, config.num_channels, height, width).to(options.device)  # (1, T, 3, H, W)
    return tower_pass(tower, pixels, options.training, options)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time and memory of every point. Every pass makes its own model, so that one is in memory at a time."""
    wanted = points(options)
    seconds: dict[Point, list[float]] = {point: [] for point in wanted}
    for _ in range(options.rounds):
        for point in wanted:
            part = {"pass": make_part(point, options)}
            seconds[point] += time_rounds(part, 1, options.device, warmup=1 if options.warm else 0)["pass"]
    found = []
    for point in wanted:
        memory = memory_of_fresh_process(__file__, options, name_of(point))
        added = max(memory["peak_mb"] - memory["before_mb"], MEMORY_FLOOR_MB)
        row = {"model": point[0], "frames": point[1], "height": point[2], "width": point[3]}
        found.append(row | {"seconds": statistics.median(seconds[point]), "rounds": seconds[point], "added_mb": added})
    return found


def exponents(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Exponents of time and memory by model, over frames (or over pixels where frame size varies)."""
    by_size = bool(options.sizes)
    fitted: dict[str, dict[str, float]] = {}
    for name in ("ours", "full"):
        own = [row for row in rows if row["model"] == name and (by_size or row["frames"] >= options.fit_from)]
        across = [row["height"] * row["width"] if by_size else row["frames"] for row in own]
        if len(set(across)) > 1:
            fitted[name] = {key: growth_exponent(across, [row[key] for row in own]) for key in ("seconds", "added_mb")}
    return fitted


def draw(rows: list[dict[str, Any]], fitted: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Time and memory over frames (or pixels), both axes logarithmic, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    labels = {"ours": "temporal windows (ours)", "full": "full space-time attention"}
    for axis, key, title in ((axes[0], "seconds", "seconds"), (axes[1], "added_mb", "MiB on top of the model")):
        for name, marker in (("ours", "o"), ("full", "s")):
            own = [row for row in rows if row["model"] == name]
            across = [row["height"] * row["width"] if options.sizes else row["frames"] for row in own]
            exponent = f", exponent {fitted[name][key]:.2f}" if name in fitted else ""
            if own:
                axis.plot(across, [row[key] for row in own], marker=marker, label=labels[name] + exponent)
        axis.set(xscale="log", yscale="log", xlabel="pixels of a frame" if options.sizes else "frames", ylabel=title)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot, dpi=120, metadata={"Software": None})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="numbers of frames")
    parser.add_argument("--image-size", type=int, nargs=2, help="height and width; the preset's where left out")
    parser.add_argument("--sizes", type=int, nargs="+", help="pairs of height and width that vary instead")
    parser.add_argument("--full-up-to", type=int, default=128, help="most frames for full attention; 0 for none")
    parser.add_argument("--fit-from", type=int, default=32, help="fewest frames that the exponent is fitted to")
    parser.add_argument("--training", action="store_true", help="forward and backward")
    parser.add_argument("--warm", action="store_true", help="one pass before each that counts")
    parser.add_argument("--plot", type=Path, help="PNG file")
    options = read_options(parser, arguments, "frames", "image_size", "sizes", "fit_from")
    if options.sizes and len(options.sizes) % 2:
        parser.error(f"--sizes takes pairs of height and width, got {len(options.sizes)} numbers")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object, draw where that is wanted."""
    options = parse_arguments(arguments)
    if options.memory_of:
        (point,) = (point for point in points(options) if name_of(point) == options.memory_of)
        print(json.dumps(measure_memory(lambda: make_part(point, options), options.device, times=1)))
        return
    rows = measure(options)
    fitted = exponents(rows, options)
    columns = ["model", "frames", "height", "width", "seconds", "added_mb"]
    print_table(columns, ([row[column] for column in columns] for row in rows))
    print()
    print_table(["exponent", "of time", "of memory"], ([name, *both.values()] for name, both in fitted.items()))
    if options.plot:
        draw(rows, fitted, options)
    options.plot = None if options.plot is None else options.plot.as_posix()
    finish(record("frame_growth", options, exponents=fitted, points=rows), options)


if __name__ == "__main__":
    main()

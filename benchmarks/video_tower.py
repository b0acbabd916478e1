"""Time and memory of the video tower against its floor, its plain port and other video models.

    python benchmarks/video_tower.py                                                  # the tiny preset
    python benchmarks/video_tower.py --preset base --batch 1 --rounds 5               # the released size
    python benchmarks/video_tower.py --preset base --models plain --compiled --rounds 5
    python benchmarks/video_tower.py --preset base --batch 16 --device cuda --dtype bf16 --compiled

| row | what runs |
|---|---|
| `floor` | our linear layers as bare matrix products (floors.py) |
| `onednn` | the same products by oneDNN instead of BLAS, forward only: which library is the floor's matters on a CPU |
| `ours` | `LFVilaVideoModel`, eager |
| `compiled` | the same under `torch.compile(fullgraph=True)`, with `--compiled` |
| `plain`, `full`, `swin`, `timesformer`, `videomae` | see video_baselines.py |

Forward is without gradients, in evaluation mode. Training is forward and backward in training mode, of what the losses
read (our tokens and clip features) or of the last hidden state. Rounds are interleaved; `x floor` and `x ours` are
medians of each round's ratio. Peak memory is that of a fresh process per row, which trains twice; `step` is what that
adds to the process with everything built. On a GPU `peak %` is the share of the card's dense peak in this type
(`--peak-tflops`), counting the linear layers of a training step only.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from floors import (
    bytes_that_must_move,
    has_onednn,
    linear_shapes,
    make_floor,
    make_onednn_floor,
    multiplications,
)
from measuring import (
    DTYPES,
    Part,
    Seconds,
    finish,
    make_parser,
    measure_memory,
    memory_of_fresh_process,
    print_table,
    ratio,
    read_options,
    record,
    time_rounds,
    tower_pass,
)
from torch import nn
from video_baselines import BASELINES

from lfvila_hf import LFVilaConfig, LFVilaVideoConfig, LFVilaVideoModel

MODES = ("forward", "training")


def make_config(options: argparse.Namespace) -> LFVilaVideoConfig:
    """The preset's video tower, at another number of frames or frame size where wanted."""
    fields: dict[str, Any] = {} if options.frames is None else {"num_frames": options.frames}
    if options.image_size is not None:
        fields["image_size"] = options.image_size
    return getattr(LFVilaConfig, options.preset)(video_config=fields).video_config


def make_tower(name: str, config: LFVilaVideoConfig) -> nn.Module:
    """A model by its name in the table."""
    torch.manual_seed(0)
    if name in BASELINES:
        return BASELINES[name](config)
    return LFVilaVideoModel(config)


def make_part(name: str, mode: str, config: LFVilaVideoConfig, options: argparse.Namespace) -> Part:
    """Everything that a row needs, and the function that runs it once."""
    training = mode == "training"
    if name == "floor":
        return make_floor(linear_shapes(config, options.batch), training, options.device, DTYPES[options.dtype])
    if name == "onednn":
        return make_onednn_floor(linear_shapes(config, options.batch))
    tower = make_tower(name, config).train(training).to(options.device)
    shape = (options.batch, config.num_frames, config.num_channels, *config.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(options.device)  # (B, T, 3, H, W)
    run = torch.compile(tower, fullgraph=True) if name == "compiled" else None
    return tower_pass(tower, pixels, training, options, run)


def names_of(mode: str, options: argparse.Namespace) -> list[str]:
    """The rows that are wanted."""
    on_cpu = options.device == "cpu" and options.dtype == "fp32" and mode == "forward" and has_onednn()
    return [
        "floor",
        *(["onednn"] if on_cpu else []),
        "ours",
        *(["compiled"] if options.compiled else []),
        *options.models,
    ]


def measure(mode: str, config: LFVilaVideoConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratios and (for training) memory of every row; prints a table."""
    names = names_of(mode, options)
    parts = {name: make_part(name, mode, config, options) for name in names}
    seconds: Seconds = time_rounds(parts, options.rounds, options.device, warmup=2 if options.compiled else 1)
    parts.clear()
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        middle = statistics.median(seconds[name])
        rows[name] = {"x_floor": ratio(seconds, name, "floor"), "x_ours": ratio(seconds, name, "ours")}
        rows[name] |= {"seconds": middle, "best": min(seconds[name]), "rounds": seconds[name]}
        if mode == "training" and not options.no_memory:
            memory = memory_of_fresh_process(__file__, options, name)
            rows[name] |= {**memory, "step_mb": round(memory["peak_mb"] - memory["before_mb"], 1)}
    if options.peak_tflops:
        flops = 2 * multiplications(linear_shapes(config, options.batch)) * (3 if mode == "training" else 1)
        for row in rows.values():
            row["peak_percent"] = 100 * flops / row["seconds"] / (options.peak_tflops * 1e12)
    columns = ["x_floor", "x_ours", "seconds", "best", "peak_mb", "step_mb", "peak_percent"]
    shown = [column for column in columns if any(column in row for row in rows.values())]
    print_table([mode, *shown], ([name, *(row.get(column) for column in shown)] for name, row in rows.items()))
    print()
    return rows


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the models")
    parser.add_argument("--frames", type=int, help="T; the preset's where left out")
    parser.add_argument("--image-size", type=int, nargs=2, help="height and width; the preset's where left out")
    parser.add_argument("--batch", type=int, default=1, help="videos in a batch")
    parser.add_argument("--models", nargs="*", choices=list(BASELINES), default=list(BASELINES), help="baselines")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what is timed")
    parser.add_argument("--compiled", action="store_true", help="also time the tower under torch.compile")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes")
    parser.add_argument("--peak-tflops", type=int, help="dense peak of the card in this type, for its share")
    return read_options(parser, arguments, "frames", "image_size", "batch", "peak_tflops")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and one JSON object."""
    options = parse_arguments(arguments)
    config = make_config(options)
    if options.memory_of:
        make = lambda: make_part(options.memory_of, "training", config, options)  # noqa: E731 -- one use, no name
        print(json.dumps(measure_memory(make, options.device)))
        return
    shapes = linear_shapes(config, options.batch)
    size = torch.finfo(DTYPES[options.dtype]).bits // 8
    print(
        f"{options.preset}: {options.batch} x {config.num_frames} frames of {config.image_size}, "
        f"{multiplications(shapes) / 1e9:.2f} GMAC and {bytes_that_must_move(shapes, False, size) / 2**30:.2f} GiB in "
        f"the linear layers of one forward, {options.threads} threads\n"
    )
    found = {mode: measure(mode, config, options) for mode in options.modes}
    floor = {
        "gmac_linear": multiplications(shapes) / 1e9,
        "gib_linear_forward": bytes_that_must_move(shapes, False, size) / 2**30,
        "gib_linear_training": bytes_that_must_move(shapes, True, size) / 2**30,
    }
    finish(record("video_tower", options, floor=floor, **found), options)


if __name__ == "__main__":
    main()

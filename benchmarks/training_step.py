"""Time and peak memory of the video tower, its floor, and training steps of both phases.

    python benchmarks/training_step.py                                        # the tiny preset, a minute
    python benchmarks/training_step.py --preset base --batch 1 --rounds 3     # the released size
    python benchmarks/training_step.py --preset base --batch 16 --device cuda --dtype bf16

| part | what runs |
|---|---|
| `video_forward` | video tower without gradients |
| `video_forward_floor` | its linear layers and convolutions as bare matrix products of the same sizes, nothing else |
| `video_training` | video tower forward and backward |
| `video_training_floor` | three products per layer: output, gradient of the input, gradient of the weight |
| `contrastive_step` | `LFVilaForPreTraining`: forward, global loss and MTC, backward, AdamW |
| `contrastive_step_global` | the same without sentence and clip projections and without MTC: what MTC costs |
| `fusion_step` | MLM and VTM, towers frozen |

The parts of a group take turns (measuring.py); ratios are medians of each round's ratio. Peak memory is that of a fresh
process per part, which runs it twice (the optimizer's state is there the second time); `before` is its peak with
everything built and nothing run.
Inputs are random, with M = K sentences of L = 50 tokens. Decoding is not measured here.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from floors import linear_shapes, make_floor, multiplications
from measuring import (
    DTYPES,
    Part,
    Seconds,
    computing_in,
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

from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaVideoModel
from lfvila_hf.training.training_arguments import decayed_parameter_names

GROUPS = (
    ("video_forward", "video_forward_floor", "video_training", "video_training_floor"),
    ("contrastive_step", "contrastive_step_global"),
    ("fusion_step",),
)
PARTS = tuple(name for group in GROUPS for name in group)
RATIOS = {
    "video_forward": "video_forward_floor",
    "video_training": "video_training_floor",
    "contrastive_step": "contrastive_step_global",
}
"""What each part is compared with."""
SENTENCE_LENGTH = 50
MASKED_EVERY = 7
"""One token in seven is masked for MLM, about the 15 % of training."""


def make_config(preset: str, frames: int | None) -> LFVilaConfig:
    """The preset; another number of frames keeps its clips."""
    return getattr(LFVilaConfig, preset)(video_config={} if frames is None else {"num_frames": frames})


def make_part(name: str, config: LFVilaConfig, options: argparse.Namespace) -> Part:
    """Everything that a part needs, and the function that runs it once."""
    torch.manual_seed(0)
    video, batch = config.video_config, options.batch
    if name.endswith("_floor"):
        shapes = linear_shapes(video, batch)
        return make_floor(shapes, name.startswith("video_training"), options.device, DTYPES[options.dtype])
    pixels = torch.randn(batch, video.num_frames, video.num_channels, *video.image_size)  # (B, T, 3, H, W)
    pixels = pixels.to(options.device)
    if name.startswith("video"):
        training = name == "video_training"
        return tower_pass(LFVilaVideoModel(video).train(training).to(options.device), pixels, training, options)
    if name == "contrastive_step_global":
        config = type(config)(**(config.to_dict() | {"temporal_alignment": False}))
    return make_training_step(LFVilaForPreTraining(config), name.split("_")[0], pixels, options)


def make_training_step(
    model: LFVilaForPreTraining, phase: Any, pixels: torch.Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """One optimisation step of a phase with the recipe's AdamW."""
    batch, sentences = len(pixels), model.config.num_clips
    ids = torch.randint(5, model.config.text_config.vocab_size, (batch, sentences, SENTENCE_LENGTH))  # (B, M, L)
    ids = ids.to(options.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    if phase == "fusion":
        masked = torch.arange(SENTENCE_LENGTH, device=ids.device) % MASKED_EVERY == 1
        inputs["mlm_targets"] = ids.masked_fill(~masked, -100)
    model.set_training_phase(phase)
    model.train().to(options.device)
    decayed = set(decayed_parameter_names(model))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": 0.05},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.98), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with computing_in(options):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()

    return step


def measure_seconds(config: LFVilaConfig, options: argparse.Namespace) -> Seconds:
    """Seconds of every part in every round, all of them in this process; one group of parts is in memory at a time."""
    seconds: Seconds = {}
    for group in GROUPS:
        parts = {name: make_part(name, config, options) for name in group}
        seconds |= time_rounds(parts, options.rounds, options.device)
        parts.clear()
    return seconds


def ratios(seconds: Seconds) -> dict[str, float]:
    """Time of a part over that of what it is compared with, median of each round's."""
    return {name: ratio(seconds, name, base) for name, base in RATIOS.items()}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=10)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--frames", type=int, help="T; the preset's where left out")
    parser.add_argument("--batch", type=int, default=2, help="videos in a batch")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes")
    return read_options(parser, arguments, "frames", "batch")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    try:
        config = make_config(options.preset, options.frames)
        if config.num_frames % config.num_clips:
            raise ValueError(f"frames must be a multiple of the {config.num_clips} clips, got {config.num_frames}")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if options.memory_of:
        print(json.dumps(measure_memory(lambda: make_part(options.memory_of, config, options), options.device)))
        return

    memory: dict[str, dict[str, float]] = {name: {} for name in PARTS}
    if not options.no_memory:
        memory = {name: memory_of_fresh_process(__file__, options, name) for name in PARTS}
    seconds = measure_seconds(config, options)
    compared = ratios(seconds)
    video = config.video_config
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LFVilaForPreTraining(config).parameters())
    products = multiplications(linear_shapes(video, options.batch))
    print(f"{options.preset}: {parameters / 1e6:.1f} M parameters, {options.batch} x {video.num_frames} frames")
    print(f"{products / 1e9:.2f} GMAC in the linear layers of the video tower, {options.threads} threads\n")
    medians = {name: statistics.median(seconds[name]) for name in PARTS}
    print_table(
        ["part", "ratio", "to", "median s", "best s", "videos/s", "peak MiB", "before"],
        (
            [
                name,
                compared.get(name),
                RATIOS.get(name),
                medians[name],
                min(seconds[name]),
                options.batch / medians[name],
            ]
            + [memory[name].get("peak_mb"), memory[name].get("before_mb")]
            for name in PARTS
        ),
    )
    found = record(
        "training_step",
        options,
        parameters=parameters,
        gmac_linear=products / 1e9,
        ratios=compared,
        parts={name: {"seconds": medians[name], "rounds": seconds[name], **memory[name]} for name in PARTS},
    )
    finish(found, options)


if __name__ == "__main__":
    main()

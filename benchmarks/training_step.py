"""Time and peak memory of the video tower and of a training step in both phases, beside the floor of their products.

    python benchmarks/training_step.py                                        # the tiny preset, a minute
    python benchmarks/training_step.py --preset base --batch 1 --rounds 3     # the released size

| part | what runs |
|---|---|
| `video_forward` | video tower without gradients |
| `video_forward_floor` | its linear layers and convolutions as bare matrix products of the same sizes, nothing else |
| `video_training` | video tower forward and backward |
| `video_training_floor` | three products per layer: output, gradient of the input, gradient of the weight |
| `contrastive_step` | `LFVilaForPreTraining`: forward, global loss and MTC, backward, AdamW |
| `fusion_step` | the same with MLM and VTM, towers frozen |

The video parts take turns, so that a busy moment of the machine hits a part and its floor alike; times are medians over
rounds after one round of warm-up, ratios are medians of each round's ratio. Peak memory is that of a fresh process per
part, which runs it twice (the optimizer's state is there the second time); `before` is its peak with everything built
and nothing run.
Inputs are random, float32, on the CPU, with M = K sentences of L = 50 tokens. Decoding is not measured here.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import lfvila_hf
from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaVideoConfig, LFVilaVideoModel
from lfvila_hf.training.optimization import decayed_parameter_names

PARTS = (
    "video_forward",
    "video_forward_floor",
    "video_training",
    "video_training_floor",
    "contrastive_step",
    "fusion_step",
)
SENTENCE_LENGTH = 50
MASKED_EVERY = 7
"""One token in seven is masked for MLM, about the 15 % of training."""

Shape = tuple[int, int, int]
"""Rows, inner and outer size of a matrix product `(rows, inner) x (inner, outer)`."""


class ProductRecorder(TorchDispatchMode):
    """Keeps the sizes of products of two matrices and of convolutions; those of attention are batched and not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Shape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket
        if kind in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.shapes.append((left.shape[0], left.shape[1], right.shape[1]))
        elif kind is torch.ops.aten.convolution:
            outer, inner = len(args[1]), args[1][0].numel()
            self.shapes.append((result.numel() // outer, inner, outer))
        return result


def linear_shapes(config: LFVilaVideoConfig, batch: int) -> list[Shape]:
    """The products of one forward, in order: every linear layer, and every convolution as the product that it is."""
    with torch.device("meta"), torch.no_grad():
        tower = LFVilaVideoModel(config)
        pixels = torch.empty(batch, config.num_frames, config.num_channels, *config.image_size)
        with ProductRecorder() as recorder:
            tower(pixels)
    return recorder.shapes


def make_config(preset: str, frames: int | None) -> LFVilaConfig:
    """The preset; another number of frames keeps its clips."""
    return getattr(LFVilaConfig, preset)(video_config={} if frames is None else {"num_frames": frames})


def make_part(name: str, config: LFVilaConfig, batch: int) -> Callable[[], None]:
    """Everything that a part needs, and the function that runs it once."""
    torch.manual_seed(0)
    video = config.video_config
    if name.endswith("_floor"):
        return make_floor(linear_shapes(video, batch), name.startswith("video_training"))
    pixels = torch.randn(batch, video.num_frames, video.num_channels, *video.image_size)  # (B, T, 3, H, W)
    if name.startswith("video"):
        return make_video_part(LFVilaVideoModel(video), pixels, name == "video_training")
    return make_training_step(LFVilaForPreTraining(config), name.removesuffix("_step"), pixels)


def make_video_part(tower: LFVilaVideoModel, pixels: torch.Tensor, training: bool) -> Callable[[], None]:
    """The video tower, with or without its backward."""
    tower.train(training)

    def forward() -> None:
        with torch.no_grad():
            tower(pixels)

    def forward_and_backward() -> None:
        tower.zero_grad(set_to_none=True)
        output = tower(pixels)
        used = [output.tokens, output.clip_hidden_state]  # what the losses read
        torch.autograd.backward(used, [torch.ones_like(one) for one in used])

    return forward_and_backward if training else forward


def make_floor(shapes: list[Shape], training: bool) -> Callable[[], None]:
    """Products of these sizes on buffers that exist already; sizes that come again use the same buffers."""
    buffers = {
        (rows, inner, outer): tuple(torch.randn(size) for size in ((rows, inner), (outer, inner), (rows, outer)))
        for rows, inner, outer in set(shapes)
    }
    gradients = {
        shape: (torch.empty_like(value), torch.empty_like(weight)) if training else ()
        for shape, (value, weight, _) in buffers.items()
    }

    def products() -> None:
        for shape in shapes:
            value, weight, result = buffers[shape]
            torch.mm(value, weight.T, out=result)
            if training:
                value_gradient, weight_gradient = gradients[shape]
                torch.mm(result, weight, out=value_gradient)
                torch.mm(result.T, value, out=weight_gradient)

    return products


def make_training_step(model: LFVilaForPreTraining, phase: Any, pixels: torch.Tensor) -> Callable[[], None]:
    """One optimisation step of a phase with the recipe's AdamW."""
    batch, sentences = len(pixels), model.config.num_clips
    ids = torch.randint(5, model.config.text_config.vocab_size, (batch, sentences, SENTENCE_LENGTH))  # (B, M, L)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    if phase == "fusion":
        masked = torch.arange(SENTENCE_LENGTH) % MASKED_EVERY == 1
        inputs["mlm_targets"] = ids.masked_fill(~masked, -100)
    model.set_training_phase(phase)
    model.train()
    decayed = set(decayed_parameter_names(model))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": 0.05},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.98), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()
        optimizer.step()

    return step


def peak_rss_mb() -> float:
    """Peak resident memory of this process. Not `ru_maxrss` where there is a choice: that one is inherited."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure_memory(name: str, config: LFVilaConfig, batch: int) -> dict[str, float]:
    """Peak memory of this process around two runs of a part, in MiB."""
    part = make_part(name, config, batch)
    before = peak_rss_mb()
    part()
    part()
    return {"peak_rss_mb": round(peak_rss_mb(), 1), "before_mb": round(before, 1)}


def memory_of_fresh_processes(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """`measure_memory` of every part, each in a process of its own."""
    command = [sys.executable, __file__, "--preset", options.preset, "--batch", str(options.batch)]
    command += ["--threads", str(options.threads)]
    if options.frames is not None:
        command += ["--frames", str(options.frames)]
    found = {}
    for name in PARTS:
        run = subprocess.run([*command, "--memory-of", name], stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(run.stdout.splitlines()[-1])
    return found


def measure_seconds(config: LFVilaConfig, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every part in every round, all of them in this process; one group of parts is in memory at a time."""
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    for group in (PARTS[:4], PARTS[4:5], PARTS[5:]):
        parts = {name: make_part(name, config, batch) for name in group}
        for number in range(rounds + 1):
            for name, part in parts.items():
                start = time.perf_counter()
                part()
                if number > 0:
                    seconds[name].append(time.perf_counter() - start)
        parts.clear()
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Time over the floor's, median of the rounds."""
    return {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds[f"{name}_floor"], strict=True))
        for name in ("video_forward", "video_training")
    }


def cpu_name() -> str:
    """The processor's name for the record."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--frames", type=int, help="T; the preset's where left out")
    parser.add_argument("--batch", type=int, default=2, help="videos in a batch")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every product")
    parser.add_argument("--memory-of", choices=PARTS, help=argparse.SUPPRESS)  # what a fresh process is asked
    options = parser.parse_args(arguments)
    for name in ("frames", "batch", "rounds", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(options, name)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    try:
        config = make_config(options.preset, options.frames)
        if config.num_frames % config.num_clips:
            raise ValueError(f"frames must be a multiple of the {config.num_clips} clips, got {config.num_frames}")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, config, options.batch)))
        return

    memory = memory_of_fresh_processes(options)
    seconds = measure_seconds(config, options.batch, options.rounds)
    over_floor = ratios(seconds)
    video = config.video_config
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LFVilaForPreTraining(config).parameters())
    products = sum(rows * inner * outer for rows, inner, outer in linear_shapes(video, options.batch))
    print(f"{options.preset}: {parameters / 1e6:.1f} M parameters, {options.batch} x {video.num_frames} frames")
    print(f"{products / 1e9:.2f} GMAC in the linear layers of the video tower, {options.threads} threads\n")
    print(f"{'part':22} {'median s':>9} {'best s':>9} {'videos/s':>9} {'x floor':>8} {'peak MiB':>9} {'before':>8}")
    for name in PARTS:
        middle, ratio = statistics.median(seconds[name]), over_floor.get(name)
        print(
            f"{name:22} {middle:9.4f} {min(seconds[name]):9.4f} {options.batch / middle:9.2f} "
            f"{'' if ratio is None else format(ratio, '.2f'):>8} "
            f"{memory[name]['peak_rss_mb']:9.0f} {memory[name]['before_mb']:8.0f}"
        )
    record = {
        "benchmark": "training_step",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": {name: value for name, value in vars(options).items() if name != "memory_of"},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lfvila_hf": lfvila_hf.__version__,
        },
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
        "parameters": parameters,
        "gmac_linear": products / 1e9,
        "ratios": over_floor,
        "parts": {
            name: {"seconds": statistics.median(seconds[name]), "rounds": seconds[name], **memory[name]}
            for name in PARTS
        },
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()

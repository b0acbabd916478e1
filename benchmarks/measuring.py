"""Shared tools of the speed benchmarks: interleaved timing, medians, memory of fresh processes, one record.

A *part* is a function without arguments that does one piece of work. The parts of a comparison run one after another in
every round, so that a busy moment of the machine hits all of them alike; what is compared are the ratios within a
round, and their median. Peak memory is that of a fresh process per part. On a GPU the clock is read after a
synchronisation, and peak memory is that of the allocator.

The last line that a benchmark prints is one JSON object, made by `record`; `--save FILE` writes it to a file as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

import lfvila_hf

Part = Callable[[], Any]
"""One piece of work, without arguments."""

Seconds = dict[str, list[float]]
"""Seconds of every part in every round that counts."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OWN_OPTIONS = ("memory_of", "save")
"""Options that say nothing about what was measured."""


# -- command line ----------------------------------------------------------------------------------------------------


def make_parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has.

    Args:
        doc: the script's docstring; its first line is the description.
        rounds: default number of rounds that count.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds that count, after one of warm-up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every product")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="what is computed in, by autocast")
    parser.add_argument("--save", type=Path, help="file for the record, besides the last line of output")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what a fresh process is asked
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: list[str] | None, *positive: str) -> argparse.Namespace:
    """Parse, refuse numbers that make no sense and devices that are not there, and set the number of threads."""
    options = parser.parse_args(arguments)
    for name in ("rounds", "threads", *positive):
        value = getattr(options, name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one < 1:
                parser.error(f"--{name.replace('_', '-')} must be positive, got {one}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    torch.set_num_threads(options.threads)
    return options


def computing_in(options: argparse.Namespace) -> AbstractContextManager[Any]:
    """Autocast to the wanted type; nothing for float32."""
    dtype = DTYPES[options.dtype]
    kind = torch.device(options.device).type
    return nullcontext() if dtype == torch.float32 else torch.autocast(kind, dtype=dtype)


# -- work ------------------------------------------------------------------------------------------------------------


def what_is_used(output: Any) -> list[torch.Tensor]:
    """The parts of a tower's output that a loss would read."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [output.tokens, output.clip_hidden_state]


def tower_pass(
    tower: torch.nn.Module, pixels: torch.Tensor, training: bool, options: argparse.Namespace, run: Any = None
) -> Part:
    """A video tower's forward without gradients, or its forward and backward.

    Args:
        tower: its parameters' gradients are cleared first.
        pixels: `(B, T, 3, H, W)`.
        training: whether the backward belongs to it.
        options: the type to compute in.
        run: what is called in place of the tower, such as its compiled form.
    """
    run = tower if run is None else run

    def forward() -> None:
        with torch.no_grad(), computing_in(options):
            run(pixels)

    def forward_and_backward() -> None:
        tower.zero_grad(set_to_none=True)
        with computing_in(options):
            used = what_is_used(run(pixels))
        torch.autograd.backward(used, [torch.ones_like(one) for one in used])

    return forward_and_backward if training else forward


# -- time ------------------------------------------------------------------------------------------------------------


def synchronize(device: str) -> None:
    """Wait until the device has done what it was asked to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def time_rounds(parts: Mapping[str, Part], rounds: int, device: str = "cpu", warmup: int = 1) -> Seconds:
    """Seconds of every part in every round that counts; the parts take turns.

    Args:
        parts: what runs, in this order.
        rounds: rounds that count.
        device: where they run.
        warmup: rounds before, which do not count.
    """
    seconds: Seconds = {name: [] for name in parts}
    for number in range(warmup + rounds):
        for name, part in parts.items():
            synchronize(device)
            start = time.perf_counter()
            part()
            synchronize(device)
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Seconds, name: str, base: str) -> float:
    """Time of a part over that of another: the median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of the power law `value = c * size ** e` that fits best (least squares over the logarithms).

    Raises:
        ValueError: fewer than two sizes, or a number that has no logarithm.
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2 or min([*sizes, *values]) <= 0:
        raise ValueError(f"an exponent needs at least two sizes, all numbers above 0, got {sizes} and {values}")
    across, up = ([math.log(value) for value in some] for some in (sizes, values))
    middle, height = statistics.fmean(across), statistics.fmean(up)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True)) / spread


# -- memory ----------------------------------------------------------------------------------------------------------


def peak_rss_mb() -> float:
    """Peak resident memory of this process. Not `ru_maxrss` where there is a choice: that one is inherited."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Begin anew with `peak_rss_mb`, where Linux offers that: a model may take more to build than to run."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        with suppress(OSError):  # not everywhere allowed
            marks.write_text("5", encoding="ascii")


def measure_memory(make: Callable[[], Part], device: str = "cpu", times: int = 2) -> dict[str, float]:
    """Peak memory of this process (or of the device) around some runs of a part, in MiB.

    Args:
        make: builds the part.
        device: where it runs.
        times: runs; an optimizer's state is there in the second one.

    Returns:
        `before_mb`, with everything built and nothing run, and `peak_mb`.
    """
    part = make()
    gc.collect()
    on_gpu = torch.device(device).type == "cuda"
    forget_peak()
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else peak_rss_mb()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(times):
        part()
    synchronize(device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_rss_mb()
    return {"peak_mb": round(peak, 1), "before_mb": round(before, 1)}


def memory_of_fresh_process(script: str, options: argparse.Namespace, name: str) -> dict[str, float]:
    """Run the script in a fresh process with `--memory-of NAME` and the same options; return the numbers it prints."""
    words: list[str] = []
    for key, value in vars(options).items():
        if key in OWN_OPTIONS or value is None or value is False:
            continue
        words.append(f"--{key.replace('_', '-')}")
        words += [] if value is True else [str(one) for one in (value if isinstance(value, list) else [value])]
    command = [sys.executable, script, *words, "--memory-of", name]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


# -- what is printed -------------------------------------------------------------------------------------------------


def cpu_name() -> str:
    """The processor's name for the record."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record(benchmark: str, options: argparse.Namespace, **content: Any) -> dict[str, Any]:
    """The record of a run: when, with what, on what, and what came out.

    Args:
        benchmark: the script's name.
        options: its command line.
        **content: what was measured.
    """
    hardware = {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {name: value for name, value in vars(options).items() if name not in OWN_OPTIONS},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lfvila_hf": lfvila_hf.__version__,
        },
        "hardware": hardware,
        **content,
    }


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table: the first column to the left, numbers to the right; `None` is an empty cell."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        first, *others = row
        print(" ".join([first.ljust(widths[0]), *(one.rjust(w) for one, w in zip(others, widths[1:], strict=True))]))


def finish(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a record as the last line of output, and save it where that is wanted."""
    if options.save is not None:
        options.save.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"

"""Read mutated video files and count what happens; `python tests/fuzz_videos.py --count 10000` reads many.

Each file is decoded in a process of its own with small limits. The only outcomes allowed are as many frames as were
asked for, or the one exception; a crash of that process is counted, because its caller is unharmed, and anything else
has escaped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from video_mutations import mutate, write_seeds

from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, close_decoder_processes, read_frames

LIMITS = VideoLimits(max_seconds=5, max_memory_bytes=2**30, max_pixels=2**22, max_frames=100_000)
REQUESTS: list[dict[str, Any]] = [{"num_frames": 5}, {"indices": [0]}, {}, {"num_frames": 3, "num_threads": 2}]


@dataclass
class Outcome:
    """What became of the files.

    Args:
        counts: Files that gave "frames", an "error", or a "crash" of the decoder process.
        escaped: Numbers of the files that did something else, and what.
        slowest: Seconds of the slowest file.
    """

    counts: dict[str, int] = field(default_factory=lambda: {"frames": 0, "error": 0, "crash": 0})
    escaped: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0


def fuzz(folder: Path, numbers: range, progress: int = 0) -> Outcome:
    """Read the mutated files of these numbers.

    Args:
        folder: Where the whole files are written that the mutations start from.
        numbers: Which mutations; the same number is always the same file.
        progress: Print a line after every so many files; 0 for none.
    """
    seeds = write_seeds(folder)
    outcome = Outcome()
    for number in numbers:
        name = sorted(seeds)[number % len(seeds)]
        done, data = mutate(seeds[name], np.random.default_rng(number))
        start = time.monotonic()
        try:
            outcome.counts[_read(data or b"\0", REQUESTS[number // len(seeds) % len(REQUESTS)])] += 1
        except Exception as error:
            outcome.escaped[number] = f"{name}, {done}: {error!r}"
        outcome.slowest = max(outcome.slowest, time.monotonic() - start)
        if progress and (number + 1) % progress == 0:
            print(f"{number + 1} files: {outcome.counts}, escaped: {len(outcome.escaped)}", flush=True)
    return outcome


def _read(data: bytes, request: dict[str, Any]) -> str:
    try:
        read = read_frames(data, limits=LIMITS, isolated=True, **request)
    except LFVilaVideoError as error:
        return "crash" if "decoder process died" in error.reason else "error"
    asked = len(request["indices"]) if "indices" in request else request.get("num_frames")
    if len(read.frames) != (asked or read.metadata.total_num_frames) or read.frames.ndim != 4:
        raise AssertionError(f"{len(read.frames)} frames of {read.metadata.total_num_frames} for {request}")
    return "frames"


def main() -> None:
    """Run from the command line; the last line is JSON, and the exit status is 1 where something escaped."""
    parser = argparse.ArgumentParser(description="Read mutated video files; the parent must never come to harm.")
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(Path(folder), range(arguments.first, arguments.first + arguments.count), progress=1000)
    close_decoder_processes()
    print(json.dumps(vars(outcome)))
    raise SystemExit(1 if outcome.escaped else 0)


if __name__ == "__main__":
    main()

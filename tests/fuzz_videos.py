"""Read mutated video files and count what happens; `make fuzz` reads 10,000.

Each file is decoded in a process of its own with small limits. The only outcomes allowed are as many frames as were
asked for, or the one exception. A crash of that process and a time-out by its caller are such exceptions and are
counted apart; anything else has escaped. The decoder processes' memory is capped by the operating system and looked at
here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from video_mutations import mutate, write_seeds

from lfvila_hf import video_isolation_lfvila as isolation
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, close_decoder_processes, read_frames

LIMITS = VideoLimits(max_seconds=5, max_memory_bytes=2**30, max_pixels=2**22, max_frames=100_000)
REQUESTS: list[dict[str, Any]] = [{"num_frames": 5}, {"indices": [0]}, {}, {"num_frames": 3, "num_threads": 2}]
# Beyond the limit and its grace: what a busy machine may add.
SLACK = 20.0


@dataclass
class Outcome:
    """What became of the files.

    Args:
        counts: By whole file: how many of its mutations gave "frames", an "error", a "crash" of the decoder process,
            or a "time-out" that the caller had to end.
        reasons: Most frequent reasons of errors, without numbers and names.
        escaped: Numbers of the files that did something else, and what.
        slowest: Seconds of the slowest file.
        peak_child: Largest resident memory of a decoder process in MiB, 0 where the system does not tell.
        peak_growth: How much this process' resident memory grew, MiB.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    escaped: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0
    peak_child: float = 0.0
    peak_growth: float = 0.0

    def total(self, kind: str) -> int:
        """How many files had an outcome."""
        return sum(counts.get(kind, 0) for counts in self.counts.values())

    def add(self, other: Outcome) -> None:
        """Take in what another process counted."""
        for name, counts in other.counts.items():
            self.counts[name] = dict(Counter(self.counts.get(name, {})) + Counter(counts))
        self.reasons += other.reasons
        self.escaped |= other.escaped
        self.slowest = max(self.slowest, other.slowest)
        self.peak_child = max(self.peak_child, other.peak_child)
        self.peak_growth = max(self.peak_growth, other.peak_growth)

    def table(self) -> str:
        """Outcomes by whole file."""
        kinds = ("frames", "error", "crash", "time-out")
        rows = [(name, *(self.counts[name].get(kind, 0) for kind in kinds)) for name in sorted(self.counts)]
        rows.append(("all", *(self.total(kind) for kind in kinds)))
        lines = ["| mutations of | frames | error | crash contained | ended at the limit |", "|---|---|---|---|---|"]
        return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def fuzz(folder: Path, numbers: range, progress: int = 0) -> Outcome:
    """Read the mutated files of these numbers.

    Args:
        folder: Where the whole files are written that the mutations start from.
        numbers: Which mutations; the same number is always the same file.
        progress: Print a line after every so many files; 0 for none.
    """
    seeds = write_seeds(folder)
    outcome = Outcome()
    before = _peak_memory("self")
    for done_before, number in enumerate(numbers):
        name = sorted(seeds)[number % len(seeds)]
        done, data = mutate(seeds[name], np.random.default_rng(number))
        # A decoder process that has to be started is no time of this file.
        isolation._POOL.give_back(isolation._POOL.take(LIMITS.max_memory_bytes))
        start = time.monotonic()
        try:
            kind = _read(data or b"\0", REQUESTS[number // len(seeds) % len(REQUESTS)], outcome.reasons)
            outcome.counts.setdefault(name, {}).setdefault(kind, 0)
            outcome.counts[name][kind] += 1
        except Exception as error:
            outcome.escaped[number] = f"{name}, {done}: {error!r}"
        seconds = time.monotonic() - start
        if LIMITS.max_seconds is not None and seconds > LIMITS.max_seconds + isolation.GRACE + SLACK:
            outcome.escaped[number] = f"{name}, {done}: took {seconds:.1f} s"
        outcome.slowest = max(outcome.slowest, seconds)
        peaks = [_peak_memory(str(child.pid)) for child in isolation._POOL._idle]
        outcome.peak_child = max([outcome.peak_child, *peaks])
        if progress and (done_before + 1) % progress == 0:
            kinds = {kind: outcome.total(kind) for kind in ("frames", "error", "crash", "time-out")}
            print(f"{done_before + 1} of {len(numbers)}: {kinds}, escaped: {outcome.escaped}", flush=True)
    outcome.peak_growth = _peak_memory("self") - before
    return outcome


def _read(data: bytes, request: dict[str, Any], reasons: Counter[str]) -> str:
    try:
        read = read_frames(data, limits=LIMITS, isolated=True, **request)
    except LFVilaVideoError as error:
        reasons["".join(letter for letter in error.reason if not letter.isdigit())[:60]] += 1
        if "decoder process died" in error.reason:
            return "crash"
        return "time-out" if "did not answer" in error.reason else "error"
    asked = len(request["indices"]) if "indices" in request else request.get("num_frames")
    if len(read.frames) != (asked or read.metadata.total_num_frames) or read.frames.ndim != 4:
        raise AssertionError(f"{len(read.frames)} frames of {read.metadata.total_num_frames} for {request}")
    return "frames"


def _peak_memory(process: str) -> float:
    """Largest resident memory of a process so far, in MiB; 0 where `/proc` does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def fuzz_part(first: int, end: int) -> Outcome:
    """`fuzz` in a process of a pool."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(Path(folder), range(first, end), progress=500)
    close_decoder_processes()
    return outcome


def main() -> None:
    """Run from the command line; the last line is JSON, and the exit status is 1 where something escaped."""
    parser = argparse.ArgumentParser(description="Read mutated video files; the parent must never come to harm.")
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that work at the same time")
    arguments = parser.parse_args()
    cuts = [arguments.first + arguments.count * job // arguments.jobs for job in range(arguments.jobs + 1)]
    outcome = Outcome()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for part in pool.map(fuzz_part, cuts, cuts[1:]):
            outcome.add(part)
    print(outcome.table())
    print(json.dumps({**asdict(outcome), "reasons": dict(outcome.reasons.most_common(20))}))
    raise SystemExit(1 if outcome.escaped else 0)


if __name__ == "__main__":
    main()

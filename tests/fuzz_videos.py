"""Read mutated video files and count what happens; `make fuzz` reads 10,000.

Each file is decoded in a process of its own with small limits. The only outcomes allowed are as many frames as were
asked for, or the one exception. A crash of that process and a time-out by its caller are such exceptions and are
counted apart; anything else has escaped, and so has a file without a note that holds fewer frames than a sequential
decode of it gives. Files without a note that hold fewer frames than the whole file did are counted as silent: a
transport stream that ends between two packets cannot be told from a shorter one. The decoder processes' memory is
capped by the operating system and looked at here. Each mutation is drawn from a seeded generator, so a file that does
harm can be made again from its number.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from video_files import boxes, sequential_frames, write_sound, write_video

from lfvila_hf.video import isolation
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, close_decoder_processes, read_frames

LIMITS = VideoLimits(max_seconds=5, max_memory_bytes=2**30, max_pixels=2**22, max_frames=100_000)
REQUESTS: list[dict[str, Any]] = [{"num_frames": 5}, {"indices": [0]}, {}, {"num_frames": 3, "num_threads": 2}]
# Beyond the limit and its grace: what a busy machine may add.
SLACK = 20.0
# Frames of every whole file with pictures.
WHOLE = 24

SEEDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.flv": {},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
}

# Where parts begin: mp4 boxes, Matroska's clusters, cues and tracks, a transport packet, an FLV picture, AVI's chunks,
# MPEG start codes, an Annex B unit.
MARKS = [b"moov", b"mdat", b"moof", b"stbl", b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x16\x54\xae\x6b"]
MARKS += [b"\x47\x41", b"\x09\x00", b"LIST", b"movi", b"idx1", b"00dc", b"\0\0\1\xba", b"\0\0\1\xe0", b"\0\0\1\x65"]


def write_seeds(folder: Path) -> dict[str, bytes]:
    """The whole files that mutations start from: ten containers and codecs, and one without video."""
    seeds = {name: write_video(folder / name, WHOLE, gop=8, **options).read_bytes() for name, options in SEEDS.items()}
    return {**seeds, "sound.m4a": write_sound(folder / "sound.m4a").read_bytes()}


def mutate(data: bytes, generator: np.random.Generator) -> tuple[str, bytes]:
    """One to three random mutations of a file: what was done, and the result."""
    done = []
    for _ in range(int(generator.integers(1, 4))):
        mutation = MUTATIONS[int(generator.integers(len(MUTATIONS)))]
        data = mutation(data, generator) or data
        done.append(mutation.__name__.lstrip("_"))
    return "+".join(done), data


def _place(data: bytes, generator: np.random.Generator) -> int:
    """Somewhere in the file; every other time within the first or last kilobyte, where headers are."""
    size = len(data)
    kind = int(generator.integers(4))
    if kind == 0:
        return int(generator.integers(min(1024, size)))
    if kind == 1:
        return size - 1 - int(generator.integers(min(1024, size)))
    return int(generator.integers(size))


def _truncate(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: _place(data, generator)]


def _truncate_at_a_mark(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut where a part of a container begins, or a few bytes into it."""
    marks = [place for mark in MARKS if (place := _random_find(data, mark, generator)) >= 0]
    marks += [end for _, _, end in boxes(data) if 0 < end < len(data)] if data[4:8] == b"ftyp" else []
    if not marks:
        return _truncate(data, generator)
    return data[: max(marks[int(generator.integers(len(marks)))] + int(generator.integers(-4, 9)), 0)]


def _random_find(data: bytes, mark: bytes, generator: np.random.Generator) -> int:
    """The first occurrence of `mark` behind a random place, else the first of all; -1 where there is none."""
    return max(data.find(mark, int(generator.integers(len(data)))), data.find(mark))


def _drop_start(data: bytes, generator: np.random.Generator) -> bytes:
    return data[int(generator.integers(min(4096, len(data)))) :]


def _flip_bits(data: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 20))):
        changed[_place(data, generator)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _overwrite_run(data: bytes, generator: np.random.Generator) -> bytes:
    start, size = _place(data, generator), int(generator.integers(1, 512))
    noise = generator.integers(0, 256, size, dtype=np.uint8).tobytes()
    return data[:start] + noise[: len(data) - start] + data[start + size :]


def _lie_in_a_number(data: bytes, generator: np.random.Generator) -> bytes:
    """Write an extreme big-endian or little-endian number somewhere, most often into a header."""
    width = int(generator.choice([1, 2, 4, 8]))
    most = 2 ** (8 * width)
    value = [0, 1, 127, most - 1, most // 2, most // 2 - 1][int(generator.integers(6))]
    order = "big" if generator.integers(2) else "little"
    start = _place(data, generator)
    return data[:start] + value.to_bytes(width, order)[: len(data) - start] + data[start + width :]


def _swap_pieces(data: bytes, generator: np.random.Generator) -> bytes:
    cuts = sorted(int(cut) for cut in generator.integers(0, len(data) + 1, 4))
    one, two, three, four = cuts
    return data[:one] + data[three:four] + data[two:three] + data[one:two] + data[four:]


def _repeat_piece(data: bytes, generator: np.random.Generator) -> bytes:
    start = _place(data, generator)
    piece = data[start : start + int(generator.integers(1, 2048))]
    return data[:start] + piece * int(generator.integers(2, 20)) + data[start:]


def _remove_piece(data: bytes, generator: np.random.Generator) -> bytes:
    start = _place(data, generator)
    return data[:start] + data[start + int(generator.integers(1, 2048)) :]


def _swap_boxes(data: bytes, generator: np.random.Generator) -> bytes:
    """Exchange the names of two boxes of an mp4, or lie about the size of one."""
    names = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco"]
    names += [b"moof", b"traf", b"trun", b"tfhd", b"mdat", b"elst", b"tkhd", b"mdhd", b"avcC", b"hvcC"]
    found = [(data.find(name), name) for name in names if data.find(name) >= 4]
    if not found:
        return _flip_bits(data, generator)
    place, _ = found[int(generator.integers(len(found)))]
    if generator.integers(2):
        _, other = found[int(generator.integers(len(found)))]
        return data[:place] + other + data[place + 4 :]
    size = int(generator.choice([0, 1, 7, 8, 16, 2**31 - 1, 2**32 - 1]))
    return data[: place - 4] + size.to_bytes(4, "big") + data[place:]


def _reorder_boxes(data: bytes, generator: np.random.Generator) -> bytes:
    """Put the boxes of an mp4, or those inside its `moov`, in another order."""
    found = boxes(data)
    inside = [box for box in found if box[0] == "moov"]
    if inside and generator.integers(2):
        found = boxes(data, inside[0][1] + 8, inside[0][2])
    if len(found) < 2 or found[-1][2] > len(data):
        return _swap_pieces(data, generator)
    start, end = found[0][1], found[-1][2]
    order = generator.permutation(len(found))
    return data[:start] + b"".join(data[found[place][1] : found[place][2]] for place in order) + data[end:]


def _stretch_counts(data: bytes, generator: np.random.Generator) -> bytes:
    """Claim very many samples in a table of an mp4."""
    for name in (b"stts", b"stsz", b"ctts", b"stsc", b"trun"):
        place = data.find(name)
        if place >= 0 and generator.integers(2):
            count = int(generator.choice([0, 2**16, 10**9, 2**32 - 1]))
            offset = place + (12 if name == b"stsz" else 8) + 4 * int(generator.integers(2))
            data = data[:offset] + count.to_bytes(4, "big") + data[offset + 4 :]
    return data


MUTATIONS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    _truncate,
    _truncate_at_a_mark,
    _drop_start,
    _flip_bits,
    _overwrite_run,
    _lie_in_a_number,
    _swap_pieces,
    _repeat_piece,
    _remove_piece,
    _swap_boxes,
    _reorder_boxes,
    _stretch_counts,
]


@dataclass
class Outcome:
    """What became of the files.

    Args:
        counts: By whole file: how many of its mutations gave "frames", an "error", a "crash" of the decoder process,
            or a "time-out" that the caller had to end.
        reasons: Most frequent reasons of errors, without numbers and names.
        escaped: Numbers of the files that did something else, and what.
        silent: Numbers of the files with fewer frames than the whole file and no note.
        slowest: Seconds of the slowest file.
        peak_child: Largest resident memory of a decoder process in MiB, 0 where the system does not tell.
        peak_growth: How much this process' resident memory grew, MiB.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    escaped: dict[int, str] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)
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
        self.silent |= other.silent
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
    counter = _Counter(folder / "mutated")
    before = _peak_memory("self")
    for done_before, number in enumerate(numbers):
        name = sorted(seeds)[number % len(seeds)]
        done, data = mutate(seeds[name], np.random.default_rng(number))
        # A decoder process that has to be started is no time of this file.
        isolation._POOL.give_back(isolation._POOL.take(LIMITS.max_memory_bytes))
        start = time.monotonic()
        try:
            kind, unsaid = _read(data or b"\0", REQUESTS[number // len(seeds) % len(REQUESTS)], outcome.reasons)
            outcome.counts.setdefault(name, {}).setdefault(kind, 0)
            outcome.counts[name][kind] += 1
            if unsaid is not None and unsaid < WHOLE:
                outcome.silent[number] = f"{name}, {done}: {unsaid} frames"
            if unsaid is not None:
                there = counter.count(data)
                if there is not None and unsaid < there:
                    raise AssertionError(f"{unsaid} frames without a note, a sequential decode gives {there}")
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


class _Counter:
    """Sequential decodes in a process of their own, which is replaced if it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = ProcessPoolExecutor(1, get_context("fork"))

    def count(self, data: bytes) -> int | None:
        """Count the frames of a file; `None` if that fails."""
        self.path.write_bytes(data)
        try:
            return len(self._pool.submit(sequential_frames, self.path).result(60))
        except BrokenProcessPool:
            self._pool = ProcessPoolExecutor(1, get_context("fork"))
        except Exception:  # whatever a decode by hand makes of a damaged file is not the subject
            pass
        return None


def _read(data: bytes, request: dict[str, Any], reasons: Counter[str]) -> tuple[str, int | None]:
    """Read frames; also returns the frames that the file is said to hold if nothing is noted."""
    try:
        read = read_frames(data, limits=LIMITS, isolated=True, **request)
    except LFVilaVideoError as error:
        reasons["".join(letter for letter in error.reason if not letter.isdigit())[:60]] += 1
        if "decoder process died" in error.reason:
            return "crash", None
        return "time-out" if "did not answer" in error.reason else "error", None
    asked = len(request["indices"]) if "indices" in request else request.get("num_frames")
    if len(read.frames) != (asked or read.metadata.total_num_frames) or read.frames.ndim != 4:
        raise AssertionError(f"{len(read.frames)} frames of {read.metadata.total_num_frames} for {request}")
    return "frames", None if read.metadata.notes else read.metadata.total_num_frames


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

"""Time and peak memory of `lfvila-hf corpus build` on generated metadata of HD-VILA-100M's shape.

    python benchmarks/corpus_build.py                                     # 0.1, 0.3, 1 and 3 million clips
    python benchmarks/corpus_build.py --clips 100000 --workers 1
    python benchmarks/corpus_build.py --inputs generated --generate-only  # the slow half beforehand, for a later run

Videos have 30 clips on average; clips have 13.4 s and 32.5 words on average (log-normal), words follow a Zipf law;
seven of eight gaps between clips are below half a second; one paragraph in fifty is repeated by another video. The
build runs in a process of its own (and its workers); memory is the largest sum of the resident memory of all of them
that was seen, looked at ten times a second. Pages that processes share count in each of them, so this is an upper
bound; the sum of proportional shares (PSS) is given too. Extrapolation to 100 million clips is a straight line
through the largest two, of wall time and of processor time (which a busy machine disturbs less, and which
"us/clip" is taken from).

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

CLIPS_PER_VIDEO = 30
VOCABULARY = 50_000
FULL_SIZE = 100_000_000


def generate(folder: Path, clips: int, seed: int = 0) -> dict[str, int]:
    """Write `metadata.jsonl` and `transcripts.jsonl` of about so many clips; returns what was written."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(generator.choice(letters, size)) for size in generator.integers(1, 11, VOCABULARY)]
    alphabet = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
    written = videos = 0
    repeated: list[str] = []
    with (folder / "metadata.jsonl").open("w") as metadata, (folder / "transcripts.jsonl").open("w") as transcripts:
        while written < clips:
            count = max(1, int(generator.gamma(1.5, CLIPS_PER_VIDEO / 1.5)))
            video = "".join(generator.choice(alphabet, 11))
            lengths = np.maximum(generator.lognormal(2.35, 0.7, count), 1.0)
            gaps = np.where(
                generator.random(count) < 0.875, generator.random(count) * 0.5, generator.random(count) * 40
            )
            sizes = np.maximum(generator.lognormal(3.25, 0.68, count), 1).astype(int)
            drawn = np.minimum(generator.zipf(1.3, int(sizes.sum())), VOCABULARY) - 1
            repeats = repeated and videos % 50 == 0
            now, place, rows = 0.0, 0, []
            for number in range(count):
                now += gaps[number]
                clip_id = f"{video}.{number}.mp4"
                rows.append({"clip_id": clip_id, "span": [clock(now), clock(now + lengths[number])]})
                now += lengths[number]
                text = " ".join(words[index] for index in drawn[place : place + sizes[number]].tolist())
                place += sizes[number]
                if repeats and number < len(repeated):
                    text = repeated[number]
                elif videos % 50 == 1:
                    repeated = [*(repeated if number else []), text]
                transcripts.write(json.dumps({"clip_id": clip_id, "text": f"{text.capitalize()}."}) + "\n")
            url = f"https://www.youtube.com/watch?v={video}"
            metadata.write(json.dumps({"video_id": video, "url": url, "clip": rows}) + "\n")
            written, videos = written + count, videos + 1
    return {"clips": written, "videos": videos}


def clock(seconds: float) -> str:
    """`HH:MM:SS.mmm`."""
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"


def watched(command: Sequence[str]) -> tuple[float, float, int, int]:
    """Run a command; wall and processor seconds, and the largest sums of RSS and PSS, of it and its children."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks = [0, 0]
    processor: dict[int, float] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            sums = [0, 0]
            try:
                parent = psutil.Process(process.pid)
                for one in [parent, *parent.children(recursive=True)]:
                    memory, times = one.memory_full_info(), one.cpu_times()
                    processor[one.pid] = times.user + times.system
                    sums[0] += memory.rss
                    sums[1] += getattr(memory, "pss", memory.rss)
            except psutil.Error:
                continue
            peaks[:] = [max(pair) for pair in zip(peaks, sums, strict=True)]

    watcher = threading.Thread(target=look, daemon=True)
    start = time.perf_counter()
    watcher.start()
    process.communicate()
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, sum(processor.values()), *peaks


def generated(folder: Path, clips: int) -> tuple[Path, dict[str, int]]:
    """The folder of the input of about so many clips, made where it is not there yet, and what is in it."""
    source, note = folder / f"{clips}", folder / f"{clips}.json"
    if not note.exists():
        source.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(generate(source, clips)))
    return source, json.loads(note.read_text())


def measure(clips: int, workers: int, inputs: Path, folder: Path) -> dict[str, Any]:
    """Build and delete a corpus; what it took."""
    source, made = generated(inputs, clips)
    size = sum(path.stat().st_size for path in source.iterdir())
    command = [sys.executable, "-m", "lfvila_hf.cli", "corpus", "build", "--workers", str(workers)]
    command += ["--metadata", str(source / "metadata.jsonl"), "--transcripts", str(source / "transcripts.jsonl")]
    seconds, processor, rss, pss = watched([*command, "--output-dir", str(folder / "corpus")])
    manifest = json.loads((folder / "corpus" / "manifest.json").read_text())
    stages = json.loads((folder / "corpus" / "provenance.json").read_text())["seconds"]
    rows = sum(split["rows"] for split in manifest["splits"].values())
    source_figures = manifest["source"]
    shutil.rmtree(folder / "corpus")
    return {
        **made,
        "input_bytes": size,
        "rows": rows,
        "near_duplicates": manifest["near_duplicates"]["rows"],
        "seconds_per_clip": source_figures["seconds_per_clip"],
        "words_per_clip": source_figures["words_per_clip"],
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "stages": stages,
        "microseconds_per_clip": round(1e6 * processor / made["clips"], 1),
        "peak_rss_bytes": rss,
        "peak_pss_bytes": pss,
    }


def main() -> None:
    """Measure every size, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000, 300_000, 1_000_000, 3_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--inputs", type=Path, help="folder that keeps generated input (default: a temporary one)")
    parser.add_argument("--generate-only", action="store_true", help="fill --inputs and stop")
    options = parser.parse_args()
    if options.generate_only:
        if options.inputs is None:
            parser.error("--generate-only fills a folder that is kept: say which with --inputs")
        print(json.dumps([generated(options.inputs, clips)[1] for clips in options.clips]))
        return
    results = []
    print("     clips  input MB     rows  seconds    cpu s  us/clip  RSS MB  PSS MB")
    for clips in options.clips:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            found = measure(clips, options.workers, options.inputs or Path(name) / "inputs", Path(name))
        results.append(found)
        rss, pss = (found[key] / 1e6 for key in ("peak_rss_bytes", "peak_pss_bytes"))
        print(
            f"{found['clips']:>10,} {found['input_bytes'] / 1e6:>9,.0f} {found['rows']:>8,} {found['seconds']:>8.1f} "
            f"{found['processor_seconds']:>8.1f} {found['microseconds_per_clip']:>8.1f} {rss:>7,.0f} {pss:>7,.0f}",
            flush=True,
        )
    answer: dict[str, Any] = {"benchmark": "corpus_build", "workers": options.workers, "results": results}
    answer["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if len(results) > 1:
        first, last = sorted(results, key=lambda result: result["clips"])[-2:]
        for key in ("seconds", "processor_seconds"):
            slope = (last[key] - first[key]) / (last["clips"] - first["clips"])
            hours = (last[key] + slope * (FULL_SIZE - last["clips"])) / 3600
            answer[f"extrapolated_hours_for_100M_{key}"] = round(hours, 2)
            print(f"extrapolated to 100 million clips, not measured: {hours:.2f} h ({key.replace('_', ' ')})")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

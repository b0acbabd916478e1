"""Time, memory and decoded frames of reading 32 uniform frames of a long H.264 video, against other readers.

    python benchmarks/video_decoding.py                                   # a synthetic video of 30 s, 5 min and 30 min
    python benchmarks/video_decoding.py --film FOLDER                     # cuts of the videos in a folder instead
    python benchmarks/video_decoding.py --coded FILE                      # a coded video that has a bar code already
    python benchmarks/video_decoding.py --film FOLDER --height 720 1080 --repeat 1 10
    python benchmarks/video_decoding.py --bframes 0                       # nothing can be dropped
    python benchmarks/video_decoding.py --readers ours ours2 torchcodec decord transformers

Readers run paired: one round runs each once, in a shuffled order, in this process; ratios are medians over rounds of
wall time, and of CPU time, which a busy machine disturbs less. `free_cores`, before and after, says what two threads
can gain at best. Every reader returns the frames `linspace(0, n - 1, 32)` at 192 x 320. Each frame carries
its number as a bar code, and a reader that returns another frame ends the run. The videos are encoded once (30 s, 16:9,
30 frames per second, x264, GOP 250, 3 B-frames) and their packets are repeated for the longer ones. `least_frames` is
what a plan cannot go below: the frames that others refer to, from each key frame to the last wanted frame that depends
on it, and the wanted ones. Peak memory is the growth of a fresh process. torchcodec and decord take part where they are
installed.

The last line is one JSON object, with the median and the worst of every ratio over the videos.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from lfvila_hf.video_reading_lfvila import probe_video, read_frames, uniform_indices

SIZE = (192, 320)
NUM_FRAMES = 32
SECONDS, RATE = 30, 30
BITS = 10
COLUMNS = 20
"""Places at which a bar code is read: as many as the finest bar code has bits, or a multiple of the bits."""


def pattern(height: int, width: int) -> Iterator[np.ndarray]:
    """FFmpeg's moving test pattern with noise, `(height, width, 3)` uint8."""
    graph = f"testsrc2=s={width}x{height}:r={RATE},noise=alls=10:allf=t"
    with av.open(graph, format="lavfi") as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def cuts(folder: Path, height: int, width: int) -> Iterator[np.ndarray]:
    """The beginnings of all videos in a folder, equally long and together 30 s, one after the other, scaled."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".mkv", ".webm", ".mov"))
    for path in paths:
        with av.open(str(path)) as container:
            stream = max(container.streams.video, key=lambda stream: stream.width)
            for frame in itertools.islice(container.decode(stream), -(-SECONDS * RATE // len(paths))):
                yield frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")


def write_base(path: Path, pictures: Iterator[np.ndarray], height: int, width: int, bframes: int) -> Path:
    """Encode 30 s of pictures, each with its number as a bar code in the top fifteenth."""
    with av.open(str(path), "w") as container:
        options = {"preset": "medium", "bf": str(bframes), "g": "250", "threads": "1"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in enumerate(itertools.islice(pictures, SECONDS * RATE)):
            bars = np.array([(number >> bit) & 1 for bit in range(BITS)], np.uint8) * 255
            marked = picture.copy()
            marked[: height // 15] = bars[np.arange(width) * BITS // width][None, :, None]
            frame = av.VideoFrame.from_ndarray(marked, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bar_codes(frames: np.ndarray) -> list[bytes]:
    """The bar codes in the top fifteenth of `(T, H, W, 3)`, black and white at each of `COLUMNS` places."""
    height, width = frames.shape[1:3]
    band = frames[:, height // 60 : height // 20].astype(np.float32).mean(axis=(1, 3))  # (T, W)
    places = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    return [row.tobytes() for row in band[:, places] > 127]


def bar_codes_of(path: Path) -> list[bytes]:
    """The bar codes of all frames of a video, decoded from the first to the last; no two may be the same."""
    with av.open(str(path)) as container:
        pictures = (
            frame.to_ndarray(format="rgb24", width=SIZE[1], height=SIZE[0])[None] for frame in container.decode(video=0)
        )
        codes = [code for picture in pictures for code in bar_codes(picture)]
    if len(set(codes)) < len(codes):
        raise ValueError(f"two frames of {path} have the same bar code: they could not be told apart")
    return codes


def least_frames(path: Path, wanted: list[int]) -> int:
    """Count the frames of an H.264 mp4 that must be decoded: the wanted ones, and references before them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [
            (packet.pts, packet.is_keyframe, _referenced(bytes(packet)))
            for packet in container.demux(stream)
            if packet.size
        ]
    shown = sorted(pts for pts, _, _ in packets)
    times = {shown[index] for index in wanted}
    total = run = 0
    for pts, is_key, is_referenced in packets:
        run = (0 if is_key else run) + (is_referenced or pts in times)
        if pts in times:
            total, run = total + run, 0
    return total


def _referenced(data: bytes) -> bool:
    """Whether a picture in mp4 layout has a slice that others may refer to."""
    place = 0
    while place + 5 <= len(data):
        if data[place + 4] & 0x1F in (1, 5) and data[place + 4] & 0x60:
            return True
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    return False


def repeat_video(source: Path, target: Path, times: int) -> Path:
    """The packets of a video several times in a row."""
    with av.open(str(target), "w") as writer:
        copied, shift = None, 0
        for _ in range(times):
            with av.open(str(source)) as reader:
                stream = reader.streams.video[0]
                copied = copied or writer.add_stream_from_template(stream)
                for packet in reader.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copied
                        writer.mux(packet)
                shift += stream.duration
    return target


def _ours(threads: int) -> Callable[[str, int], np.ndarray]:
    def read(path: str, count: int) -> np.ndarray:
        frames = read_frames(path, num_frames=NUM_FRAMES, size=SIZE, num_threads=threads).frames
        return frames.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)

    return read


def _torchcodec(path: str, count: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact", transforms=[Resize(SIZE)])
    return decoder.get_frames_at(uniform_indices(count, NUM_FRAMES)).data.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)


def _decord(path: str, count: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(path, width=SIZE[1], height=SIZE[0])
    return reader.get_batch(uniform_indices(count, NUM_FRAMES)).asnumpy()


def _transformers(path: str, count: int) -> np.ndarray:
    from transformers.video_utils import load_video

    wanted = np.asarray(uniform_indices(count, NUM_FRAMES))
    return load_video(path, backend="pyav", sample_indices_fn=lambda metadata, **_: wanted)[0]


READERS: dict[str, Callable[[str, int], np.ndarray]] = {
    "ours": _ours(1),
    "ours2": _ours(2),
    "torchcodec": _torchcodec,
    "decord": _decord,
    "transformers": _transformers,
}


def measure(path: Path, codes: list[bytes], names: list[str], rounds: int, slow_rounds: int) -> dict[str, Any]:
    """Seconds and memory of each reader on one video, and ratios of ours to the others.

    Args:
        path: The video.
        codes: Bar codes of the frames that repeat in it.
        names: Readers.
        rounds: How often each runs.
        slow_rounds: How often transformers' runs, in the first of these rounds.
    """
    info = probe_video(path)
    count = info.total_num_frames
    READERS["ours"](str(path), count)  # whoever comes first pays for cold caches
    wanted = uniform_indices(count, NUM_FRAMES)
    expected = [codes[index % len(codes)] for index in wanted]
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        order = [name for name in names if name != "transformers" or number < slow_rounds]
        random.shuffle(order)
        for name in order:
            start, used = time.perf_counter(), time.process_time()
            frames = READERS[name](str(path), count)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
            if bar_codes(frames) != expected:
                given = [codes.index(code) if code in codes else None for code in bar_codes(frames)]
                raise RuntimeError(f"{name} gave the frames {given} of {path}, modulo {len(codes)}, not {wanted}")
    ratios = {}
    for ours in (name for name in names if name.startswith("ours")):
        for other in (name for name in names if not name.startswith("ours")):
            for kind, seconds in (("wall", wall), ("cpu", cpu)):
                pairs = list(zip(seconds[ours], seconds[other], strict=False))  # transformers has fewer rounds
                ratios[f"{ours}/{other} {kind}"] = round(statistics.median(one / two for one, two in pairs), 3)
    return {
        "frames": count,
        "seconds": info.duration,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "size": [info.height, info.width],
        "decoded_frames": read_frames(path, num_frames=NUM_FRAMES, size=SIZE).decoded_frames,
        "least_frames": least_frames(path, wanted),
        "wall": {name: round(statistics.median(values), 3) for name, values in wall.items() if values},
        "cpu": {name: round(statistics.median(values), 3) for name, values in cpu.items() if values},
        "ratios": ratios,
        "peak_megabytes": {name: peak_memory(path, name, count) for name in names if name != "transformers"},
    }


def peak_memory(path: Path, name: str, count: int) -> float:
    """By how much the largest resident memory of a fresh process grows while it reads, in MB; Linux only."""
    program = (
        "import re, runpy, torch; torch.set_num_threads(1)\n"
        f"reader = runpy.run_path({__file__!r})['READERS'][{name!r}]\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak so far is forgotten
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        f"reader({str(path)!r}, {count})\n"
        "print(peak() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return round(int(run.stdout) * 1024 / 1e6, 1)


def free_cores() -> float:
    """Throughput of two processes relative to one; 2 if two cores are free."""
    program = "import time; start = time.perf_counter(); sum(range(20_000_000)); print(time.perf_counter() - start)"

    def seconds(processes: int) -> float:
        runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(processes)]
        return statistics.mean(float(run.communicate()[0]) for run in runs)

    return round(2 * seconds(1) / seconds(2), 2)


def over_videos(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Median and worst of every ratio."""
    ratios: dict[str, list[float]] = {}
    for result in results.values():
        for name, ratio in result["ratios"].items():
            ratios.setdefault(name, []).append(ratio)
    return {name: {"median": round(statistics.median(all), 3), "worst": max(all)} for name, all in ratios.items()}


def installed(name: str) -> bool:
    """Whether a reader can be imported and loaded."""
    try:
        if name == "torchcodec":
            import torchcodec.decoders  # noqa: F401  # only whether it loads
        elif name == "decord":
            import decord  # noqa: F401  # only whether it loads
    except (ImportError, RuntimeError):
        return False
    return True


def encoded(arguments: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """The 30 s to repeat, one file per height, encoded where they are not in the folder yet."""
    kind = "film" if arguments.film else "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    for height in arguments.height:
        width = height * 16 // 9
        path = folder / f"{kind}-{height}-{arguments.bframes}.mp4"
        if not path.exists():
            pictures = cuts(arguments.film, height, width) if arguments.film else pattern(height, width)
            write_base(path.with_suffix(".part.mp4"), pictures, height, width, arguments.bframes).rename(path)
        yield path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--film", type=Path, help="folder of videos to cut the film from, instead of a synthetic one")
    pictures.add_argument("--coded", type=Path, help="an H.264 mp4 with a bar code to repeat, instead of encoding one")
    parser.add_argument("--height", type=int, nargs="+", default=[360], help="heights of the 16:9 picture")
    parser.add_argument("--bframes", type=int, default=3, help="B-frames between two others")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10, 60], help="how often the 30 s are repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of transformers' reader")
    parser.add_argument(
        "--readers", nargs="+", choices=list(READERS), default=["ours", "ours2", "torchcodec", "decord"]
    )
    parser.add_argument("--keep", type=Path, help="folder in which encoded videos are kept for the next time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in arguments.readers if installed(name)]
    free_before = free_cores()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bases = [arguments.coded] if arguments.coded else list(encoded(arguments, arguments.keep or Path(folder)))
        for base in bases:
            codes = bar_codes_of(base)
            for times in arguments.repeat:
                path = repeat_video(base, Path(folder) / f"x{times}.mp4", times)
                name = f"{base.stem} x {times}"
                results[name] = measure(path, codes, names, arguments.rounds, arguments.slow_rounds)
                print(f"{name}: {results[name]}", flush=True)
                path.unlink()
    hardware: dict[str, Any] = {
        "cores": os.cpu_count(),
        "free_cores": [free_before, free_cores()],
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
    }
    hardware |= {"command": sys.argv[1:], "results": results}
    print(json.dumps({"benchmark": "video_decoding", **hardware, "over_videos": over_videos(results)}))


if __name__ == "__main__":
    main()

"""Time and memory of reading 32 uniform frames of a long H.264 video, against other readers, and how many are decoded.

    python benchmarks/video_decoding.py                                   # a synthetic video of 30 s, 5 min and 30 min
    python benchmarks/video_decoding.py --film FOLDER --repeat 1 10 60    # cuts of the videos in a folder instead
    python benchmarks/video_decoding.py --film FOLDER --height 720 1080 --repeat 10
    python benchmarks/video_decoding.py --bframes 0                       # nothing can be dropped
    python benchmarks/video_decoding.py --readers ours ours2 torchcodec decord transformers

Readers run paired: one round runs each once, in a shuffled order, in this process; ratios are medians over rounds of
wall time, and of CPU time, which a busy machine disturbs less. Every reader returns the frames `linspace(0, n - 1, 32)`
at 192 x 320. Each frame carries its number as a bar code, and a reader that returns another frame ends the run. The
videos are encoded once (30 s, 16:9, 30 frames per second, x264, GOP 250, 3 B-frames) and their packets are repeated for
the longer ones. Peak memory is the growth of a fresh process. torchcodec and decord take part where they are installed.

The last line is one JSON object.
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


def pattern(height: int, width: int) -> Iterator[np.ndarray]:
    """FFmpeg's moving test pattern with noise, `(height, width, 3)` uint8."""
    graph = f"testsrc2=s={width}x{height}:r={RATE},noise=alls=10:allf=t"
    with av.open(graph, format="lavfi") as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def cuts(folder: Path, height: int, width: int) -> Iterator[np.ndarray]:
    """The first six seconds' worth of frames of every video in a folder, one after the other, scaled."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".mkv", ".webm", ".mov"))
    for path in paths:
        with av.open(str(path)) as container:
            stream = max(container.streams.video, key=lambda stream: stream.width)
            for frame in itertools.islice(container.decode(stream), 6 * RATE):
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


def numbers_in(frames: np.ndarray) -> list[int]:
    """The bar codes of `(T, H, W, 3)`."""
    height, width = frames.shape[1:3]
    band = frames[:, height // 60 : height // 20].astype(np.float32).mean(axis=(1, 3))  # (T, W)
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return ((band[:, centres] > 127) << np.arange(BITS)).sum(axis=1).tolist()


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


def measure(path: Path, names: list[str], rounds: int, slow_rounds: int) -> dict[str, Any]:
    """Seconds and memory of each reader on one video, and ratios of ours to the others.

    Args:
        path: The video.
        names: Readers.
        rounds: How often each runs.
        slow_rounds: How often transformers' runs, in the first of these rounds.
    """
    info = probe_video(path)
    count = info.total_num_frames
    READERS["ours"](str(path), count)  # whoever comes first pays for cold caches
    expected = [index % (SECONDS * RATE) for index in uniform_indices(count, NUM_FRAMES)]
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
            if numbers_in(frames) != expected:
                raise RuntimeError(f"{name} gave the frames {numbers_in(frames)} of {path}, expected {expected}")
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, help="folder of videos to cut the film from, instead of a synthetic one")
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
    kind = "film" if arguments.film else "synthetic"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for height in arguments.height:
            width = height * 16 // 9
            pictures = cuts(arguments.film, height, width) if arguments.film else pattern(height, width)
            base = (arguments.keep or Path(folder)) / f"{kind}-{height}-{arguments.bframes}.mp4"
            if not base.exists():
                write_base(base.with_suffix(".part.mp4"), pictures, height, width, arguments.bframes).rename(base)
            for times in arguments.repeat:
                path = repeat_video(base, Path(folder) / f"{times}.mp4", times)
                name = f"{base.stem} x {times}"
                results[name] = measure(path, names, arguments.rounds, arguments.slow_rounds)
                print(f"{name}: {results[name]}", flush=True)
                path.unlink()
    hardware = {"cores": os.cpu_count(), "load": os.getloadavg(), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({"benchmark": "video_decoding", **hardware, "command": sys.argv[1:], "results": results}))


if __name__ == "__main__":
    main()

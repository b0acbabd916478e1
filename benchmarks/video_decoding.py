"""Time of reading 32 uniform frames of a long H.264 video, against other readers, and how many frames are decoded.

    python benchmarks/video_decoding.py                                  # a synthetic video of 30 s, 5 min and 30 min
    python benchmarks/video_decoding.py --video film.mp4 --repeat 1 10   # a real one, once and ten times in a row
    python benchmarks/video_decoding.py --decoders ours ours2 torchcodec decord transformers

Readers run paired: one round runs each once, in a shuffled order, in this process; ratios are medians over rounds of
wall time, and of CPU time, which a busy machine disturbs less. Every reader returns the frames `linspace(0, n - 1, 32)`
at 192 x 320. The synthetic video is encoded once (30 s of moving waves with noise, 640 x 360, x264, GOP 250, 3
B-frames) and its packets are repeated for the longer ones. torchcodec and decord are used where they are installed.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from lfvila_hf.video_reading_lfvila import probe_video, read_frames, uniform_indices

SIZE = (192, 320)
NUM_FRAMES = 32


def write_synthetic(path: Path, seconds: int = 30, height: int = 360, width: int = 640, fps: int = 30) -> Path:
    """Moving coloured waves with noise, so that frames cost what filmed ones cost."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "medium", "bf": "3", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * fps):
            waves = [128 + 90 * np.sin((rows * a + columns * b) / 40 + number / 8) for a, b in ((1, 0), (0, 1), (1, 1))]
            picture = np.stack(waves, axis=-1) + generator.normal(0, 6, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


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


def _ours(threads: int) -> Callable[[str, int], Any]:
    return lambda path, count: read_frames(path, num_frames=NUM_FRAMES, size=SIZE, num_threads=threads).frames


def _torchcodec(path: str, count: int) -> Any:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact", transforms=[Resize(SIZE)])
    return decoder.get_frames_at(uniform_indices(count, NUM_FRAMES)).data


def _decord(path: str, count: int) -> Any:
    import decord

    reader = decord.VideoReader(path, width=SIZE[1], height=SIZE[0])
    return reader.get_batch(uniform_indices(count, NUM_FRAMES))


def _transformers(path: str, count: int) -> Any:
    from transformers.video_utils import load_video

    wanted = np.asarray(uniform_indices(count, NUM_FRAMES))
    return load_video(path, backend="pyav", sample_indices_fn=lambda metadata, **_: wanted)[0]


DECODERS: dict[str, Callable[[str, int], Any]] = {
    "ours": _ours(1),
    "ours2": _ours(2),
    "torchcodec": _torchcodec,
    "decord": _decord,
    "transformers": _transformers,
}


def measure(path: Path, names: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of each reader on one video, and ratios of ours to the others."""
    info = probe_video(path)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    order = list(names)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            start, used = time.perf_counter(), time.process_time()
            DECODERS[name](str(path), info.total_num_frames)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    ratios = {}
    for ours in (name for name in names if name.startswith("ours")):
        for other in (name for name in names if not name.startswith("ours")):
            for kind, seconds in (("wall", wall), ("cpu", cpu)):
                pairs = zip(seconds[ours], seconds[other], strict=True)
                ratios[f"{ours}/{other} {kind}"] = round(statistics.median(one / two for one, two in pairs), 3)
    return {
        "frames": info.total_num_frames,
        "seconds": info.duration,
        "size": [info.height, info.width],
        "decoded_frames": read_frames(path, num_frames=NUM_FRAMES, size=SIZE).decoded_frames,
        "wall": {name: round(statistics.median(values), 3) for name, values in wall.items()},
        "cpu": {name: round(statistics.median(values), 3) for name, values in cpu.items()},
        "ratios": ratios,
    }


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
    parser.add_argument("--video", type=Path, help="a real video instead of the synthetic one")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10, 60], help="how often it is repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--decoders", nargs="+", choices=list(DECODERS), default=["ours", "ours2", "torchcodec", "decord"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in arguments.decoders if installed(name)]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.video or write_synthetic(Path(folder) / "synthetic.mp4")
        for times in arguments.repeat:
            path = repeat_video(base, Path(folder) / f"{times}.mp4", times)
            results[f"{base.stem} x {times}"] = measure(path, names, arguments.rounds)
            print(f"{base.stem} x {times}: {results[f'{base.stem} x {times}']}", flush=True)
            path.unlink()
    print(
        json.dumps(
            {"benchmark": "video_decoding", "cores": os.cpu_count(), "load": os.getloadavg(), "results": results}
        )
    )


if __name__ == "__main__":
    main()

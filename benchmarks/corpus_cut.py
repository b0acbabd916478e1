"""Throughput of `corpus cut` against one ffmpeg process that does the same work.

    python benchmarks/corpus_cut.py                          # a generated video of 60 s, 640 x 360, GOP 250
    python benchmarks/corpus_cut.py --video film.mp4 --ffmpeg /usr/bin/ffmpeg

The work: clips of 10 s, one behind the other, at 3 frames per second and 240 pixels of height, x264 with one preset,
quality and key frames, one thread each. ffmpeg reads the video once and writes all clips (one process with one output
per clip), and does not read them again; ours does, and that time counts. Rounds run both, in turns; ratios are medians
of wall time and of processor time, which a busy machine disturbs less. Without an `ffmpeg` in the path, the one of the
package imageio-ffmpeg is used if that is installed.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lfvila_hf.corpus.cutting import ClipWish, CutParameters, cut_video
from lfvila_hf.video_reading_lfvila import probe_video

CLIP_SECONDS = 10


def write_synthetic(path: Path, seconds: int, height: int = 360, width: int = 640, fps: int = 30) -> Path:
    """Moving waves with noise, so that frames cost what filmed ones cost."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "bf": "3", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * fps):
            waves = 128 + 90 * np.sin((rows + columns) / 40 + number / 8) + generator.normal(0, 6, (height, width))
            picture = np.repeat(waves.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def find_ffmpeg(given: str | None) -> str:
    """The ffmpeg to compare with."""
    if found := given or shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        raise SystemExit("no ffmpeg: give --ffmpeg, or pip install imageio-ffmpeg") from None
    return str(get_ffmpeg_exe())


def ffmpeg_command(
    ffmpeg: str, video: Path, wishes: list[ClipWish], folder: Path, parameters: CutParameters
) -> list[str]:
    """One process that reads the video once and writes every clip."""
    words = [ffmpeg, "-v", "error", "-y", "-threads", "1", "-filter_threads", "1", "-i", str(video)]
    for wish in wishes:
        words += ["-ss", str(wish.start / 1000), "-t", str((wish.end - wish.start) / 1000), "-an"]
        words += ["-vf", f"fps={parameters.fps},scale=-2:{parameters.height}", "-pix_fmt", "yuv420p", "-c:v", "libx264"]
        words += ["-preset", parameters.preset, "-crf", str(parameters.crf), "-g", parameters.fps, "-bf", "0"]
        words += ["-sc_threshold", "0", "-threads", "1", str(folder / wish.clip_id)]
    return words


def timed(work: Callable[[], object], who: int) -> tuple[float, float]:
    """Wall and processor seconds of some work, of this process or of its children."""
    before, start = resource.getrusage(who), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, resource.getrusage(who)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run both in turns and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--video", type=Path, help="a video to cut (default: a generated one)")
    parser.add_argument("--seconds", type=int, default=60, help="length of the generated one")
    parser.add_argument("--ffmpeg", help="the ffmpeg to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ffmpeg, parameters = find_ffmpeg(options.ffmpeg), CutParameters()
    walls, processors = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = options.video or write_synthetic(folder / "source.mp4", options.seconds)
        duration = probe_video(video).duration or 0
        spans = [(start * 1000, (start + CLIP_SECONDS) * 1000) for start in range(0, int(duration) - 9, CLIP_SECONDS)]
        wishes = [ClipWish(f"v.{number}.mp4", *span) for number, span in enumerate(spans)]
        command = ffmpeg_command(ffmpeg, video, wishes, folder, parameters)
        for number in range(options.rounds):
            theirs = timed(lambda: subprocess.run(command, check=True), resource.RUSAGE_CHILDREN)
            ours = timed(lambda: cut_video(video, wishes, folder, parameters), resource.RUSAGE_SELF)
            walls.append(theirs[0] / ours[0])
            processors.append(theirs[1] / ours[1])
            print(
                f"round {number + 1}: ffmpeg {theirs[0]:.2f} s ({theirs[1]:.2f} s of processor), "
                f"ours {ours[0]:.2f} s ({ours[1]:.2f} s)",
                flush=True,
            )
    answer = {"benchmark": "corpus_cut", "video_seconds": duration, "clips": len(wishes), "rounds": options.rounds}
    answer["throughput_ratio_wall"] = round(statistics.median(walls), 3)
    answer["throughput_ratio_processor"] = round(statistics.median(processors), 3)
    print(f"throughput of ours over ffmpeg's: {answer['throughput_ratio_processor']} by processor time")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""`benchmarks/video_decoding.py` on a video of four seconds: right frames, refused wrong ones, counts, and memory.

How few frames a plan decodes is pinned in `test_video_decoding_lfvila.py`; times are no matter of tests.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "video_decoding.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("video_decoding_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.SECONDS = 4
    return script


@pytest.fixture(scope="module")
def video(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    base = benchmark.write_base(folder / "base.mp4", benchmark.pattern(360, 640), 360, 640, 3)
    return benchmark.repeat_video(base, folder / "long.mp4", 3)


def test_readers_are_measured_in_pairs_and_their_frames_looked_at(
    benchmark: Any, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "peak_memory", lambda *arguments: 1.0)
    codes = benchmark.bar_codes_of(video.with_name("base.mp4"))
    found = benchmark.measure(video, codes, ["ours", "ours2", "transformers"], 2, 1)
    assert (found["frames"], found["seconds"], found["size"]) == (360, 12.0, [360, 640])
    assert 32 <= found["decoded_frames"] < 250, "frames that nobody needs are dropped"
    assert {"ours/transformers wall", "ours2/transformers cpu"} <= set(found["ratios"])
    assert set(found["wall"]) == {"ours", "ours2", "transformers"}

    def late(path: str, count: int) -> np.ndarray:
        return np.roll(benchmark.READERS["ours2"](path, count), 1, axis=0)

    monkeypatch.setitem(benchmark.READERS, "ours", late)
    with pytest.raises(RuntimeError, match="ours gave the frames"):
        benchmark.measure(video, codes, ["ours"], 1, 1)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("reader", ["ours", "ours2"])
def test_reading_takes_at_most_90_megabytes(benchmark: Any, video: Path, reader: str) -> None:
    assert 5 < benchmark.peak_memory(video, reader, 360) <= 90

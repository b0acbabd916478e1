"""The other benchmarks of speed in small form: frames, text, loading, encoding, and the script for a GPU.

What they measure depends on the machine; tested is that they run what they say and that their records hold together.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lfvila_hf.video_reading_lfvila import probe_video

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def run(load: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def main(name: str, *words: str) -> Any:
        load(name).main([*words, "--rounds", "1", "--threads", "1"])
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["benchmark"] == name and found["arguments"]["rounds"] == 1
        return found

    return main


# -- frames and frame sizes ------------------------------------------------------------------------------------------


def test_exponents_are_fitted_to_long_videos_or_to_pixels(load: Callable[[str], Any]) -> None:
    growth = load("frame_growth")
    options = growth.parse_arguments(["--frames", "8", "32", "64", "128", "--full-up-to", "64"])
    rows = [
        {"model": name, "frames": n, "height": 48, "width": 80, "seconds": 100.0 if n == 8 else n**e, "added_mb": n}
        for name, e in (("ours", 1.0), ("full", 2.0))
        for n in options.frames
    ]
    fitted = growth.exponents(rows, options)  # 8 frames are too few to count
    assert fitted["ours"] == pytest.approx({"seconds": 1.0, "added_mb": 1.0})
    assert fitted["full"] == pytest.approx({"seconds": 2.0, "added_mb": 1.0})
    names = [growth.name_of(point) for point in growth.points(options)]
    assert names == [f"ours-{n}-48x80" for n in (8, 32, 64, 128)] + [f"full-{n}-48x80" for n in (8, 32, 64)]
    sized = growth.parse_arguments(["--frames", "8", "--sizes", "16", "16", "32", "32", "--full-up-to", "0"])
    assert [growth.name_of(point) for point in growth.points(sized)] == ["ours-8-16x16", "ours-8-32x32"]
    rows = [{"model": "ours", "frames": 8, "height": n, "width": n, "seconds": n, "added_mb": n * n} for n in (16, 32)]
    assert growth.exponents(rows, sized)["ours"] == pytest.approx({"seconds": 0.5, "added_mb": 1.0})


@pytest.mark.slow
def test_growth_is_measured_and_drawn(run: Callable[..., Any], tmp_path: Path) -> None:
    plot = tmp_path / "growth.png"
    words = ["--frames", "8", "16", "--full-up-to", "8", "--fit-from", "8", "--plot", str(plot), "--training"]
    found = run("frame_growth", *words, "--image-size", "32", "48")
    assert [(row["model"], row["frames"]) for row in found["points"]] == [("ours", 8), ("ours", 16), ("full", 8)]
    assert all(row["seconds"] > 0 and row["added_mb"] >= 1 for row in found["points"])
    assert set(found["exponents"]) == {"ours"} and plot.read_bytes().startswith(b"\x89PNG")


def test_sizes_come_in_pairs(load: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("frame_growth").parse_arguments(["--sizes", "16", "16", "32"])
    assert "pairs of height and width, got 3" in capsys.readouterr().err


# -- text ------------------------------------------------------------------------------------------------------------


def test_padding_is_what_the_rows_of_the_text_tower_differ_in(load: Callable[[str], Any]) -> None:
    text = load("text_tower")
    options = text.parse_arguments(["--batch", "3"])
    batches = {row: text.make_batch(row, options, 100) for row in text.ROWS}
    assert {row: batch["input_ids"].shape[:2] for row, batch in batches.items()} == dict.fromkeys(text.ROWS, (3, 4))
    masks = {row: batch["attention_mask"] for row, batch in batches.items()}
    assert masks["full"].all() and masks["floor"].all() and masks["padded"].shape == (3, 4, 50)
    assert masks["cut"].sum() == masks["padded"].sum() and masks["cut"].shape[2] == masks["padded"].sum(-1).max()
    assert abs(int(masks["floor"].sum()) - int(masks["padded"].sum())) <= 6
    assert torch.equal(batches["padded"]["input_ids"] == 0, masks["padded"] == 0)


def test_the_text_tower_is_timed_in_both_modes(run: Callable[..., Any]) -> None:
    for words in ([], ["--training"]):
        found = run("text_tower", "--batch", "1", "--sentences", "2", "--length", "12", *words)
        assert set(found["rows"]) == {"full", "padded", "cut", "floor"} and found["rows"]["full"]["x_full"] == 1
        assert 0 < found["real_tokens"] < 1


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loading_is_more_than_importing(run: Callable[..., Any]) -> None:
    found = run("loading")
    seconds = {row: one["seconds"] for row, one in found["rows"].items()}
    assert 0 < seconds["python"] < seconds["torch"] < seconds["load"]
    assert found["rows"]["load"]["peak_mb"] > 100 and found["checkpoint_mb"] > 4


# -- films -----------------------------------------------------------------------------------------------------------


def test_a_film_of_repeated_packets_has_its_length_and_decodes(load: Callable[[str], Any], tmp_path: Path) -> None:
    film = load("encoding").write_film(tmp_path / "film.mp4", 12, 64, 96)
    info = probe_video(film)
    assert info.duration == pytest.approx(12, abs=0.1) and info.fps == pytest.approx(25)


@pytest.mark.slow
def test_encoding_is_timed_with_and_without_overlap_and_over_length(run: Callable[..., Any]) -> None:
    small = ["--videos", "2", "--seconds", "2", "--batch", "1"]
    found = run("encoding", *small, "--workers", "0", "1")
    assert list(found["rows"]) == ["decode", "model", "workers-0", "workers-1"] and found["ratio_to"] == "workers-0"
    long = run("encoding", "--long", "20", "60", "--segment", "16")["rows"]
    assert long["20"]["ratio"] == 1 and long["60"]["peak_mb"] > 100


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_for_a_gpu_runs_everything(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("small form is for machines without one")
    small = {"DEVICE": "cpu", "DTYPE": "bf16", "PLAIN_DTYPE": "bf16", "PRESET": "tiny", "BATCH": "1", "ROUNDS": "1"}
    small |= {"FRAMES": "16 32", "VIDEOS": "2", "COMPILED": "", "PYTHON": sys.executable}
    script = [str(BENCHMARKS / "run_on_gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(script, env=os.environ | small, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["video_tower", "plain_fp16", "training_step", "text_tower", "frame_growth", "encoding"]
    for name in names:
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert found["arguments"]["dtype"] == "bf16" and found["arguments"]["device"] == "cpu"
    assert (tmp_path / "out" / "frame_growth.png").exists()

"""Smoke test of the benchmark scripts, each in its smallest form, and of the baseline that they compare with.

Times and memory depend on the machine and are not tested.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_videos, tiny_config, tiny_model

from lfvila_hf import LFVilaVideoModel

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ONCE = "--rounds 1 --threads 1"
SMALLEST = {
    "contrastive_memory": "--batches 2 --chunk 1",
    "contrastive_time": f"{ONCE} --batch 2 --chunk 1",
    "corpus_build": "--clips 200 --workers 1",
    "encoding": f"{ONCE} --videos 2 --seconds 2 --batch 1 --workers 0",
    "frame_growth": f"{ONCE} --frames 8 16 --full-up-to 8 --fit-from 8 --image-size 32 48",
    "kill_soak": "--kills 1 --steps 4",
    "loading": ONCE,
    "streaming": f"{ONCE} --hours 0.05 --size 48 80",
    "order_twins": "--models xclip --seeds 0 --films 3 --work work --figure figure.png",
    "recipe_learning": "--tasks lvu_way_of_speaking",
    "text_tower": f"{ONCE} --batch 1 --sentences 2 --length 12",
    "training_step": f"{ONCE} --batch 2 --frames 8 --no-memory",
    "video_decoding": "--repeat 1 --rounds 1 --slow-rounds 1",
    "video_tower": f"{ONCE} --frames 8 --no-memory",
}
NEED_MORE = {"conversion_memory", "export", "search_index", "search_moments", "search_real", "search_speed", "serving"}
"""Scripts that need a large or trained checkpoint, real videos, FAISS, or minutes of tracing."""
FAST = ("text_tower", "training_step")
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8"))


def test_every_script_has_a_smallest_form() -> None:
    assert set(SCRIPTS) <= set(SMALLEST) | NEED_MORE


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SCRIPTS if name not in NEED_MORE],
)
def test_a_script_runs_and_ends_with_its_result(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [name, *SMALLEST[name].split()])
    try:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code, capsys.readouterr().err
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1]), dict)


@pytest.mark.parametrize(("frames", "size"), [(8, (24, 40)), (5, (24, 40)), (12, (16, 56))])
def test_the_plain_port_has_the_towers_outputs_and_gradients(
    frames: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest difference measured is 2.8e-6 of the largest value of a tensor."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import what_is_used
    from plain_htwa import PlainHTWA

    def assert_equal_to_rounding(found: torch.Tensor, expected: torch.Tensor) -> None:
        scale = expected.abs().max()
        assert scale > 0
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)

    config = tiny_config().video_config
    tower: Any = tiny_model(LFVilaVideoModel, config)
    plain = PlainHTWA(config).eval()
    plain.load_state_dict(tower.state_dict())
    pixels = random_videos(2, frames, *size)
    ours, theirs = tower(pixels), plain(pixels)
    for found, expected in zip(theirs, what_is_used(ours), strict=True):
        assert_equal_to_rounding(found, expected)
    for output in (ours, theirs):
        (output.tokens.square().mean() + output.clip_hidden_state.square().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None and gradients[name] is not None
        assert_equal_to_rounding(gradients[name], parameter.grad)

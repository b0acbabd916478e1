"""`benchmarks/video_tower.py`: the plain port computes what the tower computes, and every row runs in small form.

The baselines are in `video_baselines.py`, the plain port in `plain_htwa.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_videos, tiny_config, tiny_model

from lfvila_hf import LFVilaConfig, LFVilaVideoModel

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Both towers, relative to the largest value of each tensor; the largest difference measured is 2.8e-6.
ROUNDING = 1e-5


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import video_tower

    return video_tower


def assert_equal_to_rounding(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(("frames", "size"), [(8, (24, 40)), (5, (24, 40)), (12, (16, 56))])
def test_the_plain_port_has_the_towers_outputs_and_gradients(
    benchmark: Any, frames: int, size: tuple[int, int]
) -> None:
    from measuring import what_is_used
    from plain_htwa import PlainHTWA

    config = tiny_config().video_config
    tower, plain = tiny_model(LFVilaVideoModel, config), PlainHTWA(config).eval()
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


def test_baselines_have_the_size_and_the_tokens_that_the_table_says(benchmark: Any) -> None:
    config = LFVilaConfig.base().video_config
    millions, tokens = {}, {}
    pixels = torch.empty(1, 32, 3, 192, 320, device="meta")
    with torch.device("meta"), torch.no_grad():
        for name in ("swin", "timesformer"):  # VideoMAE's table of positions takes seconds at this size
            model = benchmark.make_tower(name, config)
            millions[name] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            tokens[name] = tuple(model(pixels).shape)
    assert millions == pytest.approx({"swin": 86.7, "timesformer": 122.9}, abs=0.1)
    assert tokens == {"swin": (32, 15, 1024), "timesformer": (1, 2049, 768)}
    tiny = LFVilaConfig.tiny().video_config
    found = benchmark.make_tower("videomae", tiny)(torch.zeros(1, 16, 3, 48, 80))
    assert found.shape == (1, 16 * (48 // 32) * (80 // 32), 96)


def test_full_attention_reaches_everything_and_windows_do_not(benchmark: Any) -> None:
    config = tiny_config().video_config
    pixels = random_videos(1)
    moved = pixels.clone()
    moved[:, -1] += 1
    for name, reached in (("full", True), ("plain", False)):
        tower = benchmark.make_tower(name, config).eval()
        with torch.no_grad():
            before, after = (tower(one).clip_hidden_state[:, 0] for one in (pixels, moved))
        assert torch.equal(before, after) != reached


def test_the_command_prints_tables_and_one_line_of_json(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import floors

    words = ["--rounds", "2", "--threads", "1", "--frames", "8", "--no-memory", "--peak-tflops", "1"]
    benchmark.main([*words, "--save", str(tmp_path / "found.json")])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found == json.loads((tmp_path / "found.json").read_text())
    names = ["floor", "ours", "plain", "full", "swin", "timesformer", "videomae"]
    for mode in ("forward", "training"):
        assert [name for name in found[mode] if name != "onednn"] == names
        assert ("onednn" in found[mode]) == (mode == "forward" and floors.has_onednn())
        assert found[mode]["floor"]["x_floor"] == found[mode]["ours"]["x_ours"] == 1.0
        assert all(len(row["rounds"]) == 2 and row["best"] > 0 for row in found[mode].values())
        assert [line for line in table if line.startswith(mode)]
    assert found["floor"]["gmac_linear"] > 0


@pytest.mark.slow
def test_memory_is_that_of_a_training_step_in_a_fresh_process(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--rounds", "1", "--threads", "1", "--modes", "training", "--models", "--batch", "8"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["training"]
    assert set(found) == {"floor", "ours"}
    assert found["ours"]["step_mb"] > found["floor"]["step_mb"] >= 0 and found["ours"]["before_mb"] > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--batch", "0"], "--batch must be positive"), (["--models", "vivit"], "invalid choice: 'vivit'")],
)
def test_a_wrong_argument_is_refused(
    benchmark: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(words)
    assert message in capsys.readouterr().err

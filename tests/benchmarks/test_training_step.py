"""`benchmarks/training_step.py` on a model of milliseconds: what it counts, what it runs, and what it prints."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from lfvila_hf import LFVilaConfig, LFVilaVideoModel

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_step

    return training_step


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_floor_holds_every_product_of_the_tower_but_those_of_attention(benchmark: Any, stem: str) -> None:
    config = tiny_config(video={"video_stem": stem}).video_config
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        LFVilaVideoModel(config)(torch.empty(2, 8, 3, 24, 40))
    counted = counter.get_flop_counts()["Global"]
    flops = sum(value for kind, value in counted.items() if kind.__name__ in ("mm", "addmm", "convolution"))
    assert 2 * benchmark.multiplications(benchmark.linear_shapes(config, 2)) == flops > 0


def test_the_released_size_has_148_7_billion_multiplications_in_its_linear_layers(benchmark: Any) -> None:
    shapes = benchmark.linear_shapes(LFVilaConfig.base().video_config, 1)
    clip_merging = (32 * 3 * 5, 4 * 512, 1024)  # besides the pyramid of the paper: what makes the clip features
    assert shapes.count(clip_merging) == 2  # the pyramid's last merging has the same size
    products = benchmark.multiplications(shapes) - torch.tensor(clip_merging).prod().item()
    assert products / 1e9 == pytest.approx(148.7, abs=0.05)


def test_every_part_computes_what_it_says(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []
    real = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        products.append(a.shape[0] * a.shape[1] * b.shape[1])
        return real(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    shapes = [(6, 4, 5), (3, 2, 7), (6, 4, 5)]
    benchmark.make_floor(shapes, training=False)()
    assert products == [120, 42, 120]
    products.clear()
    benchmark.make_floor(shapes, training=True)()
    assert products == [120] * 3 + [42] * 3 + [120] * 3

    steps: list[dict[str, bool]] = []
    models: list[Any] = []
    make = benchmark.LFVilaForPreTraining

    def keep(config: LFVilaConfig) -> Any:
        models.append(make(config))
        return models[-1]

    monkeypatch.setattr(benchmark, "LFVilaForPreTraining", keep)
    for name in ("contrastive_step", "fusion_step"):
        config = tiny_config(text={"max_position_embeddings": 200})
        part = benchmark.make_part(name, config, benchmark.parse_arguments(["--batch", "2"]))
        before = {key: value.clone() for key, value in models[-1].state_dict().items()}
        part()
        steps.append({key: torch.equal(before[key], value) for key, value in models[-1].state_dict().items()})
    towers, heads = ([key.startswith("model.") == side for key in steps[0]] for side in (True, False))
    for same, trained in zip(steps, (towers, heads), strict=True):
        unchanged = list(same.values())
        assert all(kept for kept, moves in zip(unchanged, trained, strict=True) if not moves)
        assert sum(not kept for kept in unchanged) > 0.9 * sum(trained) - 10


def test_ratios_are_medians_of_each_rounds_ratio(benchmark: Any) -> None:
    seconds = {
        "video_forward": [2.0, 30.0, 3.0],
        "video_forward_floor": [1.0, 10.0, 2.0],
        "video_training": [4.0, 4.0, 4.0],
        "video_training_floor": [1.0, 2.0, 4.0],
        "contrastive_step": [3.0, 3.0, 3.0],
        "contrastive_step_global": [1.0, 2.0, 3.0],
    }
    assert benchmark.ratios(seconds) == {"video_forward": 2.0, "video_training": 2.0, "contrastive_step": 1.5}


@pytest.mark.slow
def test_the_command_prints_a_table_and_one_line_of_json(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--preset", "tiny", "--batch", "2", "--rounds", "2", "--threads", "1", "--frames", "8"])
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "training_step"
    size = {"preset": "tiny", "frames": 8, "batch": 2, "rounds": 2, "threads": 1}
    assert record["arguments"] == {**size, "device": "cpu", "dtype": "fp32", "no_memory": False}
    assert record["versions"]["torch"] == torch.__version__ and set(record["hardware"]) == {"cpu", "cores", "system"}
    age = datetime.now(UTC) - datetime.fromisoformat(record["date"])
    assert timedelta(0) <= age < timedelta(minutes=30)
    assert tuple(record["parts"]) == benchmark.PARTS
    for name, part in record["parts"].items():
        assert len(part["rounds"]) == 2 and min(part["rounds"]) <= part["seconds"] <= max(part["rounds"])
        assert part["seconds"] > 0 and 100 < part["before_mb"] <= part["peak_mb"] < 4000
        assert [line for line in table if line.startswith(f"{name} ")]
    assert set(record["ratios"]) == set(benchmark.RATIOS) and min(record["ratios"].values()) > 0
    assert record["gmac_linear"] == pytest.approx(0.0344, abs=0.005)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds must be positive, got 0"),
        (["--batch", "-1"], "--batch must be positive, got -1"),
        (["--preset", "large"], "invalid choice: 'large'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    benchmark: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(words)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_frames_that_clips_cannot_share_are_refused(benchmark: Any) -> None:
    with pytest.raises(SystemExit, match="frames must be a multiple of the 4 clips, got 6"):
        benchmark.main(["--frames", "6"])
    assert "training_step" in sys.modules

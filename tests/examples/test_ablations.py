"""The ablation sweep in tiny form: resumable, every variant a model of its own, verdicts worked out by hand.

What the ablations show is measured by `make ablations`, not tested here.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from lfvila_hf import LFVilaConfig

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "ablations"))
import ablation_sweep
from ablation_sweep import CLAIMS, CLIPS, VARIANTS, Settings, judge, plot, report, summary, sweep

TINY = Settings(steps=1, fusion_steps=1, batch_size=4, stories=16, test_stories=4)


def result(variant: str, seed: int, **metrics: float) -> dict[str, Any]:
    return {"variant": variant, "seed": seed, "metrics": metrics}


def test_every_variant_is_a_model_and_every_claim_compares_two_of_them() -> None:
    shapes = set()
    for variant in VARIANTS.values():
        video = {"num_frames": variant.num_frames, "num_clips": CLIPS, "temporal_windows": variant.windows()}
        config = LFVilaConfig.tiny(video_config=video, **dict(variant.config))
        shapes.add(json.dumps(config.to_dict(), sort_keys=True))
    assert len(shapes) == len(VARIANTS)
    assert VARIANTS["base"].windows() == [2, 4, 4, 8, 16, 32]
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= set(VARIANTS)


def test_verdicts_are_differences_over_equal_seeds_in_standard_errors() -> None:
    better, worse = (0.5, 0.6, 0.7), (0.3, 0.4, 0.2)
    results = [result("base", seed, global_r1=value) for seed, value in enumerate(better)]
    results += [result("without MTC", seed, global_r1=value) for seed, value in enumerate(worse)]
    (claim, verdict, mean, error), *others = judge(results)
    assert not others and claim.text == "MTC helps global retrieval"
    assert mean == pytest.approx(0.3)  # differences 0.2, 0.2, 0.5
    assert error == pytest.approx(math.sqrt(0.03) / math.sqrt(3))
    assert verdict == "holds"
    assert (
        judge([one | {"variant": {"base": "without MTC"}.get(one["variant"], "base")} for one in results])[0][1]
        == "fails"
    )
    assert judge(results[:3] + results[3:5])[0][1] == "undecided (2 of 3 seeds)"
    close = [result("base", seed, global_r1=0.5 + seed) for seed in range(3)]
    close += [result("without MTC", seed, global_r1=2.4 - seed) for seed in range(3)]
    assert judge(close)[0][1] == "undecided"
    table = summary(results)
    assert table["base"]["global_r1"] == pytest.approx((0.6, 0.1, 3))
    assert "| base | 3 | 0.600 ± 0.100 |" in report(results)


def test_a_sweep_repeats_nothing_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int]] = []

    def run(output: Path, variant: Any, settings: Settings, seed: int) -> dict[str, float]:
        done.append((variant.num_frames, seed))
        if len(done) == 3:
            raise KeyboardInterrupt
        return {"global_r1": 0.5, "aligned_r1": 0.5, "aligned_order": 0.5, "step_seconds": 1.0}

    monkeypatch.setattr(ablation_sweep, "run_variant", run)
    names = ["8 frames", "16 frames"]
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, TINY, names, [0, 1])
    assert len(sweep(tmp_path, TINY, names, [0, 1], only_one=True)) == 3
    results = sweep(tmp_path, TINY, names, [0, 1])
    assert done == [(8, 0), (16, 0), (8, 1), (8, 1), (16, 1)]
    assert [(one["variant"], one["seed"]) for one in results] == [(name, seed) for seed in (0, 1) for name in names]
    sweep(tmp_path, Settings(steps=2), names[:1], [0])
    assert len(done) == 6  # other settings are other runs
    with pytest.raises(ValueError, match="9 frames"):
        sweep(tmp_path, TINY, ["9 frames"], [0])


def test_runs_that_are_kept_elsewhere_are_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def run(output: Path, variant: Any, settings: Settings, seed: int) -> dict[str, float]:
        done.append(seed)
        return {"global_r1": 0.5}

    monkeypatch.setattr(ablation_sweep, "run_variant", run)
    kept = tmp_path / "kept"
    sweep(tmp_path / "one", TINY, ["8 frames"], [0], runs=kept)
    assert len(sweep(tmp_path / "two", TINY, ["8 frames"], [0, 1], runs=kept)) == 2
    assert done == [0, 1] and not (tmp_path / "two" / "runs").exists()
    there = sweep(tmp_path / "two", TINY, list(VARIANTS), [0, 1, 2], runs=kept, train=False)
    assert done == [0, 1] and [(one["variant"], one["seed"]) for one in there] == [("8 frames", 0), ("8 frames", 1)]
    with pytest.raises(ValueError, match="holds no run"):
        sweep(tmp_path / "two", Settings(steps=7), list(VARIANTS), [0], runs=kept, train=False)


@pytest.mark.slow
def test_real_runs_fill_the_table_and_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the plots extra")
    results = sweep(tmp_path, TINY, ["base", "8 frames"], [0])
    metrics = results[0]["metrics"]
    assert set(metrics) >= {"global_r1", "aligned_r1", "aligned_order", "vtm_r1", "step_seconds"}
    assert all(0 <= metrics[name] <= 1 for name in ("global_r1", "aligned_r1", "aligned_order", "vtm_r1"))
    assert "vtm_r1" not in results[1]["metrics"]
    plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

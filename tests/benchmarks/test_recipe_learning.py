"""`benchmarks/recipe_learning.py` without training: what it runs, what it keeps, what it prints.

Two recipes learn for real in `tests/recipes/test_running.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lfvila_hf.recipes.tasks import TASKS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recipe_learning

    return recipe_learning


@pytest.fixture
def runs(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Arguments of every run, none of which trains."""
    seen: list[tuple[Any, Any]] = []

    def run(arguments: Any, training: Any) -> dict[str, float]:
        seen.append((arguments, training))
        Path(training.output_dir).mkdir(parents=True, exist_ok=True)
        return dict.fromkeys(("accuracy", "right_probability", "vtm_accuracy", "global_t2v_r10"), 0.25)

    monkeypatch.setattr(benchmark, "run_recipe", run)
    return seen


def test_every_task_is_measured_beside_a_chance(benchmark: Any) -> None:
    assert set(benchmark.LEARNING) == set(TASKS)
    for task, learning in benchmark.LEARNING.items():
        assert 0 < learning.chance <= 0.5, task


def test_two_runs_differ_in_their_labels_alone_and_are_kept(
    benchmark: Any, runs: list[tuple[Any, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output", str(tmp_path), "--tasks", "violin", "--json", str(tmp_path / "result.json")]
    result = benchmark.main(words)
    (labels, training), (shuffled, other) = runs
    differing = {name for name, value in vars(labels).items() if value != getattr(shuffled, name)}
    assert differing == {"shuffle_labels"} and shuffled.shuffle_labels
    assert training.max_steps == other.max_steps and training.output_dir != other.output_dir
    assert training.learning_rate == 1e-3 and labels.generated_videos == 120 and training.do_eval
    assert result["tasks"]["violin"]["labels"]["accuracy"] == 0.25
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert str(tmp_path) not in json.dumps(result["tasks"])
    benchmark.main(words)
    assert len(runs) == 2


def test_fusion_starts_from_the_contrastive_phase(benchmark: Any, runs: list[tuple[Any, Any]], tmp_path: Path) -> None:
    benchmark.main(["--output", str(tmp_path), "--tasks", "fusion"])
    assert [arguments.task for arguments, _ in runs] == ["contrastive", "fusion", "fusion"]
    start = str(tmp_path / "contrastive" / "labels")
    assert [arguments.model_name_or_path for arguments, _ in runs] == [None, start, start]
    assert [arguments.shuffle_labels for arguments, _ in runs] == [False, False, True]

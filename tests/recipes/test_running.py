"""Whole runs of the recipes on generated videos: what is written, skipped samples, what is learnt and what not.

Also pins `evaluating` and `data`. A few steps each, except where learning is the point: there the held-out metric must
be clearly above chance, and a run whose labels were shuffled must stay near it: its mean probability of the right
answer, because accuracy is all or nothing for a group of equal videos. docs/recipes.md has the measured numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lfvila_hf.data.annotations import AnnotationError
from lfvila_hf.recipes.arguments import parse_recipe
from lfvila_hf.recipes.running import run_recipe
from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.shapetales.tasks import make_task_data

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--disable_tqdm", "True", "--num_frames", "4", "--output_dir"]
FEW = ["--generated_videos", "8", "--max_steps", "1", "--per_device_train_batch_size", "4"]


def run(task: str, output: Path, *words: str) -> dict[str, float]:
    (config,) = ROOT.glob(f"examples/*/configs/{task}.yaml")
    return run_recipe(*parse_recipe([str(config), "--smoke", *QUIET, str(output), *words]))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_metrics_a_row_per_sample_and_a_checkpoint(tmp_path: Path) -> None:
    metrics = run("lvu_scene", tmp_path, *FEW)
    assert metrics == json.loads((tmp_path / "eval_results.json").read_text())
    predictions = rows(tmp_path / "predictions.jsonl")
    assert [row["id"] for row in predictions] == [f"test_{number:05d}" for number in range(8)]
    assert [row["place"].rpartition(":")[2] for row in predictions] == [str(number) for number in range(1, 9)]
    assert metrics["accuracy"] == pytest.approx(sum(row["right"] for row in predictions) / 8)
    assert all(0 < row["probability"] <= 1 for row in predictions)
    assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "processor_config.json").is_file()


def test_a_skipped_sample_has_its_row_and_takes_part_in_no_metric(tmp_path: Path) -> None:
    made = make_task_data(tmp_path / "data", "lvu_scene", 8, 8)
    (made.video_dir / "test_00003.mp4").write_bytes(b"no video")
    given = ["--generated_videos", "0", "--data_dir", str(made.data_dir), "--video_dir", str(made.video_dir)]
    from transformers import BertTokenizer

    tokenizer = tmp_path / "tokenizer"
    BertTokenizer(vocab={token: number for number, token in enumerate(made.vocabulary)}).save_pretrained(tokenizer)
    given += ["--tokenizer", str(tokenizer), "--max_steps", "1", "--eval_views", "1"]
    skip = ["--on_error", "skip", "--max_skip_fraction", "0.2"]
    metrics = run("lvu_scene", tmp_path / "out", *given, *skip)
    predictions = rows(tmp_path / "out" / "predictions.jsonl")
    assert metrics["num_rows"] == 7 and len(predictions) == 8
    assert "test_00003" in predictions[3]["skipped"] and "prediction" not in predictions[3]
    (made.data_dir / "train.jsonl").unlink()  # evaluation alone needs none
    again = run("lvu_scene", tmp_path / "again", *given, *skip, "--do_train", "False")
    assert again["num_rows"] == 7
    lines = (made.data_dir / "test.jsonl").read_text().replace('"recipe_type": 0', '"recipe_type": 60')
    (made.data_dir / "test.jsonl").write_text(lines)
    with pytest.raises(AnnotationError, match=r"test\.jsonl:1"):
        run("lvu_scene", tmp_path / "out", *given, "--do_train", "False")


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_takes_the_whole_path(task: str, tmp_path: Path) -> None:
    kind = TASKS[task].kind
    more = ["--rerank_top_k", "3", "--dual_softmax_temperature", "0.05"] if kind == "retrieval" else []
    metrics = run(task, tmp_path, *FEW, *more)
    predictions = rows(tmp_path / "predictions.jsonl")
    assert len(predictions) == len(rows(tmp_path / "generated" / "test.jsonl"))
    expected = {
        "contrastive": ("global_t2v_r1", "aligned_t2v_r1", "mtc_loss"),
        "fusion": ("vtm_accuracy", "mlm_accuracy"),
        "retrieval": ("global_t2v_r1", "global_dsl_t2v_r1", "vtm_t2v_r1"),
    }.get(kind, ("accuracy", "chance", "majority"))
    assert set(expected) <= set(metrics)
    if kind == "retrieval":
        assert all(1 <= row["rank"] <= 8 and len(row["videos"]) == 8 for row in predictions)


@pytest.mark.slow
def test_a_stream_trains_too(tmp_path: Path) -> None:
    assert "accuracy" in run("violin", tmp_path, *FEW, "--streaming", "True", "--eval_views", "1")


# task: steps, batch, least accuracy when learnt (measured: 1.0 and 1.0), most mean probability of the right answer with
# shuffled labels. Without the video a sixth and a half of the answers can be had.
LEARNT: dict[str, tuple[int, int, float, float]] = {
    "lvu_scene": (40, 16, 0.6, 0.3),
    "violin": (50, 16, 0.75, 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True], ids=["labels", "shuffled labels"])
@pytest.mark.parametrize("task", list(LEARNT))
def test_a_recipe_learns_and_learns_nothing_from_shuffled_labels(task: str, shuffled: bool, tmp_path: Path) -> None:
    steps, batch, least, most = LEARNT[task]
    words = ["--generated_videos", "120", "--max_steps", str(steps), "--per_device_train_batch_size", str(batch)]
    words += ["--num_train_epochs", "20", "--warmup_epochs", "1", "--eval_views", "1"]
    words += ["--frame_cache", str(tmp_path / "cache"), *(["--shuffle_labels", "True"] if shuffled else [])]
    metrics = run(task, tmp_path, *words)
    if shuffled:
        assert metrics["right_probability"] < most
    else:
        assert metrics["accuracy"] > least

"""The recipe scripts: what a run writes, skipped samples, learning, and launchers on one and two processes.

A few steps each, except for learning: there the held-out metric must be clearly above chance, and a run with shuffled
labels must stay near it. That is read off the mean probability of the right answer, because accuracy is all or nothing
for a group of equal videos. docs/recipes.md has the measured numbers.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizer

from lfvila_hf.data.annotations import AnnotationError
from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.shapetales.story_tasks import make_task_data

# -- launchers --------------------------------------------------------------------------------------------------------

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = ("pretraining", "retrieval", "video_qa", "multiple_choice", "video_classification")
FEW = "--smoke --num_frames 4 --generated_videos 8 --max_steps 2 --per_device_train_batch_size 2 --eval_views 1".split()


def start(command: list[str], output: Path, *more: str) -> dict[str, float]:
    words = [*command, *FEW, "--output_dir", str(output), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads((output / "eval_results.json").read_text())


def script(folder: str) -> tuple[str, str]:
    """A folder's script and its first yaml."""
    (path,) = (EXAMPLES / folder).glob("run_*.py")
    return str(path), str(sorted((EXAMPLES / folder / "configs").glob("*.yaml"))[0])


def torchrun() -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_a_script_yamls_and_a_readme_that_says_what_was_not_run(folder: str) -> None:
    path, config = script(folder)
    assert Path(path).name in (EXAMPLES / folder / "README.md").read_text()
    readme = " ".join((EXAMPLES / folder / "README.md").read_text().split())
    assert "ot run" in readme and "--smoke" in readme
    for yaml in (EXAMPLES / folder / "configs").glob("*.yaml"):
        assert f"configs/{yaml.name}" in readme, yaml.name


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_python_runs_a_script(folder: str, tmp_path: Path) -> None:
    assert start([sys.executable, *script(folder)], tmp_path)


@pytest.mark.slow
def test_torchrun_runs_a_script_on_two_processes(tmp_path: Path) -> None:
    metrics = start([*torchrun(), *script("multiple_choice")], tmp_path)
    assert "accuracy" in metrics
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_accelerate_launch_runs_a_script_on_two_processes(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()]
    metrics = start([sys.executable, *launcher, *options, *script("video_classification")], tmp_path)
    assert metrics["num_rows"] == 8  # two shares of four, none twice


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["retrieval", "video_classification"])
def test_two_processes_skip_and_predict_what_one_does(folder: str, tmp_path: Path) -> None:
    """Nineteen rows, two of them broken, in uneven shares: nothing may move to another's place."""
    path, config = script(folder)
    made = make_task_data(tmp_path / "data", Path(config).stem, 9, 19)
    for name in ("train_00002", "test_00003", "test_00010"):
        (made.video_dir / f"{name}.mp4").write_bytes(b"no video")
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(made.vocabulary)})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    words = ["--data_dir", str(made.data_dir), "--video_dir", str(made.video_dir), "--eval_split", "test"]
    words += ["--tokenizer", str(tmp_path / "tokenizer"), "--on_error", "skip", "--max_skip_fraction", "0.2"]
    words += ["--generated_videos", "0", "--per_device_eval_batch_size", "4", "--eval_views", "2"]
    words += ["--rerank_top_k", "3"] if folder == "retrieval" else []
    two, one = tmp_path / "two", tmp_path / "one"
    metrics = [start([*torchrun(), path, config], two, *words)]
    checkpoint = ["--model_name_or_path", str(two), "--do_train", "False"]
    metrics.append(start([sys.executable, path, config], one, *words, *checkpoint))
    predicted = [
        [json.loads(row) for row in (run / "predictions.jsonl").read_text().splitlines()] for run in (two, one)
    ]
    assert [row["id"] for row in predicted[0]] == [f"test_{number:05d}" for number in range(19)]
    assert [number for number, row in enumerate(predicted[0]) if "skipped" in row] == [3, 10]
    for row, other in zip(*predicted, strict=True):
        assert without_floats(row) == without_floats(other)
    quality = {"global_t2v_r1", "global_v2t_medr", "vtm_t2v_r1", "accuracy", "right_probability"} & set(metrics[0])
    assert len(quality) >= 2
    for name in quality:
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-5)


def without_floats(row: object) -> object:
    """Scores of other batch sizes differ in their last digits."""
    if isinstance(row, dict):
        return {name: without_floats(value) for name, value in row.items() if not isinstance(value, float)}
    return [without_floats(value) for value in row] if isinstance(row, list) else row


# -- in this process --------------------------------------------------------------------------------------------------

QUIET = ["--disable_tqdm", "True", "--num_frames", "4", "--output_dir"]
ONE_STEP = ["--generated_videos", "8", "--max_steps", "1", "--per_device_train_batch_size", "4"]


def run(task: str, output: Path, *words: str) -> dict[str, float]:
    (config,) = EXAMPLES.glob(f"*/configs/{task}.yaml")
    (path,) = config.parents[1].glob("run_*.py")
    main = runpy.run_path(str(path))["main"]
    return main([str(config), "--smoke", *QUIET, str(output), *words])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_metrics_a_row_per_sample_and_a_checkpoint(tmp_path: Path) -> None:
    metrics = run("lvu_scene", tmp_path, *ONE_STEP)
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
    metrics = run(task, tmp_path, *ONE_STEP, *more)
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
    assert "accuracy" in run("violin", tmp_path, *ONE_STEP, "--streaming", "True", "--eval_views", "1")


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

"""The recipe scripts as a user starts them: `python`, and `accelerate launch` and `torchrun` on two processes.

What a run writes and learns is `tests/recipes/test_running.py`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertTokenizer

from lfvila_hf.shapetales.tasks import make_task_data

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

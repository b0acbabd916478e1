"""The recipe scripts as a user starts them: `python`, `accelerate launch`, and `torchrun` on two processes.

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

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = ("pretraining", "retrieval", "video_qa", "multiple_choice", "video_classification")
FEW = "--smoke --num_frames 4 --generated_videos 8 --max_steps 2 --per_device_train_batch_size 2 --eval_views 1".split()


def start(command: list[str], output: Path) -> dict[str, float]:
    words = [*command, *FEW, "--output_dir", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads((output / "eval_results.json").read_text())


def script(folder: str) -> tuple[str, str]:
    """A folder's script and its first yaml."""
    (path,) = (EXAMPLES / folder).glob("run_*.py")
    return str(path), str(sorted((EXAMPLES / folder / "configs").glob("*.yaml"))[0])


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
@pytest.mark.parametrize("folder", ["multiple_choice", "retrieval"])
def test_torchrun_runs_a_script_on_two_processes(folder: str, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    metrics = start([sys.executable, *launcher, *script(folder)], tmp_path)
    assert metrics
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_accelerate_launch_runs_a_script(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    assert "accuracy" in start([sys.executable, *launcher, *options, *script("video_classification")], tmp_path)

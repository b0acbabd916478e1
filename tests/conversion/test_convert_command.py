"""`lfvila-hf convert` as a user types it: a report and nothing else, or one line of error.

What ends up in the folder is tested in test_checkpoints.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from released_layout import random_state, tiny_original

from lfvila_hf.cli import main
from lfvila_hf.conversion import checkpoints


@pytest.fixture
def arguments(tmp_path: Path, tiny_tokenizer: Any) -> list[str]:
    """Words that convert a phase-one checkpoint for retrieval."""
    (tmp_path / "actnet_ret.yaml").write_text(yaml.safe_dump(tiny_original(1)), encoding="utf-8")
    torch.save(random_state(tiny_original(1), "pretraining", torch.float16), tmp_path / "lfvila_stage1.bin")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    words = {
        "--checkpoint": tmp_path / "lfvila_stage1.bin",
        "--original-config": tmp_path / "actnet_ret.yaml",
        "--task": "retrieval",
        "--output-dir": tmp_path / "out",
        "--tokenizer": tmp_path / "tokenizer",
        "--max-sentence-length": 12,
    }
    return ["convert", *(str(word) for pair in words.items() for word in pair)]


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    place = arguments.index(option) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]


def test_the_command_prints_its_report_and_nothing_else(arguments: list[str], tmp_path: Path) -> None:
    """In a process of its own, where no test framework catches what libraries print."""
    run = subprocess.run(
        [sys.executable, "-m", "lfvila_hf.cli", *arguments], capture_output=True, text=True, env={**os.environ}
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0] == f"checkpoint     {tmp_path / 'lfvila_stage1.bin'}"
    assert lines[-1] == f"written to     {tmp_path / 'out'}"
    assert [line for line in lines if "projection of MTC" in line]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_aligned_score_is_kept_on_request(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--temporal-alignment"]) == 0
    assert "clip_projection" in capsys.readouterr().out


def test_new_parts_are_reproducible(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = replaced(arguments, "--task", "video_classification")
    contents = []
    for number, seed in enumerate(("5", "5", "6")):
        output = tmp_path / f"out{number}"
        assert main([*replaced(words, "--output-dir", str(output)), "--seed", seed]) == 0
        contents.append((output / "model.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert "2 classifier (from random numbers)" in capsys.readouterr().out


def test_an_error_is_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lfvila_stage1.bin").write_bytes(b"nothing")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lfvila-hf convert: error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_task_that_does_not_exist_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(replaced(arguments, "--task", "captioning"))
    assert caught.value.code == 2
    assert "invalid choice: 'captioning'" in capsys.readouterr().err


def test_the_tokenizer_is_the_released_one_unless_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = arguments.index("--tokenizer")
    without = arguments[:place] + arguments[place + 2 :]
    assert main(without) == 1
    error = capsys.readouterr().err
    assert "cannot load the tokenizer 'bert-large-uncased'" in error and "--tokenizer PATH" in error
    assert main(replaced(without, "--task", "video_classification")) == 0  # reads no text


def test_the_folder_is_uploaded_on_request(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads: list[tuple[Any, ...]] = []

    def push(folder: str, repo_id: str, private: bool | None = None) -> str:
        assert (Path(folder) / "model.safetensors").is_file()
        uploads.append((folder, repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(checkpoints, "push_folder", push)
    assert main([*arguments, "--push-to-hub", "org/lfvila-actnet"]) == 0
    assert uploads == [(str(tmp_path / "out"), "org/lfvila-actnet", None)]
    assert capsys.readouterr().out.splitlines()[-1] == "uploaded to    https://huggingface.co/org/lfvila-actnet"

"""`lfvila-hf check-videos` as a user types it: table, JSON, exit status, and what it says of wrong arguments.

The checks themselves are tested in `test_checking.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from video_files import write_video

from lfvila_hf import cli
from lfvila_hf.data import checking


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", 10)
    (folder / "text.mp4").write_text("no video " * 100)
    return folder


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in this process, which starts faster; one test below does not."""
    check_videos = checking.check_videos

    def check_here(paths: Any, **options: Any) -> Any:
        return check_videos(paths, isolated=False, **options)

    monkeypatch.setattr(checking, "check_videos", check_here)


@pytest.mark.usefixtures("_here")
def test_what_is_wrong_is_a_table_and_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-videos", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"broken  {folder / 'text.mp4'}  no video data")
    assert lines[1] == "2 files: 1 ok, 0 odd, 1 broken"
    (folder / "text.mp4").unlink()
    assert cli.main(["check-videos", str(folder)]) == 0
    assert capsys.readouterr().out == "1 file: 1 ok, 0 odd, 0 broken\n"
    assert cli.main(["check-videos", str(folder / "good.mp4"), "--all", "--full"]) == 0
    assert "h264 96 x 64, 10 frames, 0.40 s" in capsys.readouterr().out


@pytest.mark.usefixtures("_here")
def test_json_goes_to_a_file_or_takes_the_place_of_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-videos", str(folder), "--json", str(tmp_path / "found.json"), "--workers", "1"]) == 1
    assert "1 broken" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [video["status"] for video in found["videos"]] == ["ok", "broken"]
    assert cli.main(["check-videos", str(folder), "--json", "-"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [video["path"] for video in printed["videos"]] == [video["path"] for video in found["videos"]]


@pytest.mark.usefixtures("_here")
def test_wrong_arguments_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-videos", str(folder), "--json", str(tmp_path / "absent" / "a.json")]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    assert cli.main(["check-videos", str(folder), "--workers", "0"]) == 1
    assert "num_workers must be at least 1" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.main(["check-videos", str(empty)]) == 1
    assert "no file was found" in capsys.readouterr().err
    assert cli.main(["check-videos", str(tmp_path / "absent.mp4")]) == 1
    assert "there is no file or folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="decoding in a process of its own needs a POSIX system")
def test_the_command_reads_in_processes_of_their_own(folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lfvila_hf.cli", "check-videos", str(folder), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 1, run.stderr
    assert run.stdout.splitlines()[-1] == "2 files: 1 ok, 0 odd, 1 broken"
    assert run.stderr == ""

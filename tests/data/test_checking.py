"""Checks of videos: what each file is, or why it cannot be used, whatever it does to its decoder.

The command around them is tested in `test_check_command.py`; what reading itself refuses, in
`test_video_sources_lfvila.py` and `test_video_decoding_lfvila.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from video_files import write_sound, write_video

from lfvila_hf.data.checking import CheckedVideo, check_video, check_videos, find_videos, summary, table
from lfvila_hf.video_reading_lfvila import VideoLimits, close_decoder_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos to use, one that is odd, and four that cannot be used; and a file of another kind."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "good.mp4", 30, gop=10)
    (folder / "deeper").mkdir()
    write_video(folder / "deeper" / "turned.MKV", 20, rotation=90, container_format="matroska")
    whole = write_video(folder / "damaged.ts", 60, gop=10).read_bytes()
    middle = len(whole) // 2
    (folder / "damaged.ts").write_bytes(whole[:middle] + bytes(400) + whole[middle + 400 :])
    (folder / "text.mp4").write_text("no video " * 100)
    (folder / "empty.mp4").touch()
    write_sound(folder / "sound.mp4")
    cut = write_video(folder / "cut.mp4", 60, gop=10, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    (folder / "readme.md").write_text("not looked at")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _no_children_left() -> Iterator[None]:
    yield
    close_decoder_processes()


def assert_rows(folder: Path, rows: list[CheckedVideo]) -> None:
    by_name = {Path(row.path).name: row for row in rows}
    assert [Path(row.path) for row in rows] == sorted(folder.rglob("*.[tmM][spPkK]*"))
    assert {name: row.status for name, row in by_name.items()} == {
        "good.mp4": "ok",
        "turned.MKV": "ok",
        "damaged.ts": "odd",
        "text.mp4": "broken",
        "empty.mp4": "broken",
        "sound.mp4": "broken",
        "cut.mp4": "broken",
    }
    good, turned = by_name["good.mp4"], by_name["turned.MKV"]
    assert (good.frames, good.seconds, good.height, good.width, good.codec) == (30, 1.2, 64, 96, "h264")
    assert good.bytes == (folder / "good.mp4").stat().st_size
    assert (turned.height, turned.width, turned.container) == (96, 64, "matroska,webm")
    assert "damaged" in by_name["damaged.ts"].notes[0]
    assert "no video data" in by_name["text.mp4"].reason
    assert "empty" in by_name["empty.mp4"].reason
    assert "only audio" in by_name["sound.mp4"].reason
    assert "truncated: the file promises 60 frames" in by_name["cut.mp4"].reason
    assert (by_name["cut.mp4"].position or "").startswith("frame ")
    assert by_name["cut.mp4"].frames is None


@pytest.mark.parametrize("num_frames", [32, None])
def test_every_file_gets_its_row(folder: Path, num_frames: int | None) -> None:
    rows = list(check_videos(find_videos(folder), num_frames=num_frames, num_workers=2, isolated=False))
    assert_rows(folder, rows)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="decoding in a process of its own needs a POSIX system")
def test_processes_of_their_own_change_nothing(folder: Path) -> None:
    assert_rows(folder, list(check_videos(find_videos(folder), num_workers=2)))


def test_a_check_of_every_frame_finds_what_spread_frames_miss(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 100, gop=10, size=(128, 192))
    with av.open(str(path)) as container:
        entry = list(container.streams.video[0].index_entries)[40]
    data = bytearray(path.read_bytes())
    end = entry.pos + entry.size
    data[end - 200 : end] = bytes(200)  # the sizes of its units stay as they are
    path.write_bytes(data)
    quick = check_video(path, num_frames=2)
    assert quick.status == "ok"
    assert check_video(path).status != "ok"


def test_limits_are_kept(folder: Path) -> None:
    row = check_video(folder / "good.mp4", num_frames=2, limits=VideoLimits(max_pixels=100))
    assert row.status == "broken"
    assert "max_pixels" in row.reason


def test_videos_are_found_by_their_endings_or_all_of_them(folder: Path, tmp_path: Path) -> None:
    assert len(find_videos(folder)) == 7
    assert len(find_videos(folder, every_file=True)) == 8
    with pytest.raises(ValueError, match=f"no video file was found in {tmp_path}"):
        find_videos(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_videos(tmp_path / "absent")


def test_rows_become_a_table_and_json() -> None:
    rows = [
        CheckedVideo("a.mp4", "ok", frames=30, seconds=1.2, width=96, height=64, fps=25.0, codec="h264"),
        CheckedVideo("evil\n\x1b[31m\udcff.mp4", "broken", "no such\nfile", "frame 7 (0.28 s)"),
        CheckedVideo("b.mp4", "odd", notes=("one", "two")),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 3
    assert lines[0].split(maxsplit=2) == ["ok", "a.mp4", "h264 96 x 64, 30 frames, 1.20 s, 25 per second"]
    assert lines[1].endswith("at frame 7 (0.28 s): no such\\nfile")
    assert "\x1b" not in lines[1]
    assert "\\udcff" in lines[1]
    assert lines[2].endswith("one; two")
    found = json.loads(json.dumps(summary(rows)))
    assert (found["files"], found["ok"], found["odd"], found["broken"]) == (3, 1, 1, 1)
    assert found["videos"][1]["reason"] == "no such\nfile"
    assert table([]) == ""

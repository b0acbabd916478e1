"""A corpus is cut, stopped, gone on with; failures are in the ledger; a worker that dies takes nothing with it.

What is in a clip file is tested in test_cutting.py.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from corpus_inputs import build, even_spans, video_row, write_lines
from video_files import write_video

from lfvila_hf.cli import main
from lfvila_hf.corpus.cutting import ClipWish, CutParameters
from lfvila_hf.corpus.cutting_jobs import (
    LEDGER,
    VideoWish,
    cut_corpus,
    read_ledger,
    run_tasks,
    source_finder,
    wishes_of_corpus,
    wishes_of_metadata,
)
from lfvila_hf.corpus.output_folders import locked

SMALL = CutParameters(height=48, preset="ultrafast")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of the videos good, gone and bad (four clips of one second each) and the folder of their files."""
    spans = even_spans(4, length=1.0, gap=0.1)
    build(tmp_path, [video_row(name, spans) for name in ("good", "gone", "bad")])
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "good.mkv", 120)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"this is no video")
    return tmp_path


def test_a_corpus_is_cut_and_failures_are_in_the_ledger(corpus: Path) -> None:
    summary = cut_corpus(
        corpus / "clips", wishes_of_corpus(corpus / "corpus"), source_finder(corpus / "videos"), SMALL, workers=1
    )
    assert (summary.cut, summary.there, summary.failed, summary.frames) == (4, 0, 8, 12)
    assert summary.failures == {"missing_video": 4, "unusable_video": 4}
    assert sorted(path.name for path in (corpus / "clips").iterdir()) == [
        ".lock",
        "cut_parameters.json",
        "good",
        LEDGER,
    ]
    assert sorted(path.name for path in (corpus / "clips" / "good").iterdir()) == [f"good.{n}.mp4" for n in range(4)]
    ledger = read_ledger(corpus / "clips")
    assert [row[:2] for row in ledger["good"]["cut"]] == [[f"good.{n}.mp4", 3] for n in range(4)]
    assert "there is no file" in ledger["gone"]["failed"][0][1]
    assert "bad.mp4" in ledger["bad"]["failed"][0][1]


def test_the_loader_of_pretraining_finds_the_clips(corpus: Path) -> None:
    from lfvila_hf.data.annotations import load_pretraining
    from lfvila_hf.data.skipping import SkipLog
    from lfvila_hf.video_reading_lfvila import read_clips

    cut_corpus(
        corpus / "clips", wishes_of_corpus(corpus / "corpus"), source_finder(corpus / "videos"), SMALL, workers=1
    )
    table = load_pretraining(
        str(corpus / "corpus" / "jsonl" / "*.jsonl"), corpus / "clips", skips=SkipLog("skip", max_skip_fraction=1)
    )
    assert table["id"] == ["good"]
    assert read_clips(table[0]["clips"], num_frames=8).frames.shape[0] == 8


def test_a_second_run_does_what_is_missing_and_nothing_else(corpus: Path) -> None:
    def run() -> tuple[int, int, int]:
        wishes = wishes_of_corpus(corpus / "corpus")
        summary = cut_corpus(corpus / "clips", wishes, source_finder(corpus / "videos"), SMALL, workers=1)
        return summary.cut, summary.there, summary.failed

    assert run() == (4, 0, 8)
    times = {path: path.stat().st_mtime_ns for path in (corpus / "clips" / "good").iterdir()}
    (corpus / "clips" / "good" / "good.2.mp4").unlink()
    (corpus / "clips" / ".unfinished").mkdir()
    (corpus / "clips" / ".unfinished" / "77.good.2.mp4").write_bytes(b"half a cl")
    with (corpus / "clips" / LEDGER).open("a") as file:
        file.write('{"video_id": "go')
    write_video(corpus / "videos" / "gone.mp4", 120)  # a file that was away is tried again
    assert run() == (5, 3, 4)
    assert not (corpus / "clips" / ".unfinished").exists()
    untouched = [path for path, time in times.items() if path.stat().st_mtime_ns == time]
    assert len(untouched) == 3
    assert run() == (0, 8, 4)


def test_going_on_with_other_parameters_is_an_error(corpus: Path) -> None:
    find = source_finder(corpus / "videos")
    cut_corpus(corpus / "clips", [], find, SMALL, workers=1)
    with pytest.raises(ValueError, match="were cut with height=48, not 96"):
        cut_corpus(corpus / "clips", [], find, CutParameters(height=96, preset="ultrafast"), workers=1)
    with pytest.raises(ValueError, match="holds other things"):
        cut_corpus(corpus / "videos", [], find, SMALL, workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        cut_corpus(corpus / "clips", [], find, SMALL, workers=0)


def test_a_damaged_ledger_is_named_with_its_line_and_a_line_that_was_cut_off_is_not_damage(corpus: Path) -> None:
    def run() -> None:
        wishes = [wish for wish in wishes_of_corpus(corpus / "corpus") if wish.video_id != "good"]
        cut_corpus(corpus / "clips", wishes, source_finder(corpus / "videos"), SMALL, workers=1)

    run()
    ledger = corpus / "clips" / LEDGER
    whole = ledger.read_bytes()
    for cut_off in ('{"video_id": "go', '{"video_id": "' + "x" * 10_000):
        ledger.write_bytes(whole + cut_off.encode())
        assert set(read_ledger(corpus / "clips")) == {"gone", "bad"}
        run()
        assert ledger.read_bytes() == whole * 2
    for damaged in (b'{"video_id": "go\n', b"[]\n", b"{}\n", b"\n"):
        ledger.write_bytes(whole + damaged + whole)
        with pytest.raises(ValueError, match=rf"{LEDGER}:3: damaged line"):
            read_ledger(corpus / "clips")
    (corpus / "clips" / "cut_parameters.json").write_text('{"fps"')
    with pytest.raises(ValueError, match=r"cut_parameters\.json is damaged"):
        run()


def test_two_runs_into_one_folder_are_refused_with_a_clear_word(corpus: Path) -> None:
    find = source_finder(corpus / "videos")
    cut_corpus(corpus / "clips", [], find, SMALL, workers=1)
    with locked(corpus / "clips"), pytest.raises(ValueError, match="another process is writing to"):
        cut_corpus(corpus / "clips", [], find, SMALL, workers=1)
    with pytest.raises(ValueError, match="another process"), locked(corpus / "clips"), locked(corpus / "clips"):
        pass


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_with_one_line_and_the_next_run_resumes(
    workers: int, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["corpus", "cut", str(corpus / "corpus"), "--videos", str(corpus / "videos"), "--workers", str(workers)]
    words += ["--output-dir", str(corpus / "clips"), "--height", "48", "--preset", "ultrafast"]
    with monkeypatch.context() as patch:
        patch.setattr("lfvila_hf.corpus.cutting_jobs.cut_task", full)
        assert main(words) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(words) == 0
    assert len(list((corpus / "clips" / "good").iterdir())) == 4


def full(task: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_link_in_place_of_a_video_folder_is_not_followed(corpus: Path) -> None:
    (corpus / "elsewhere").mkdir()
    cut_corpus(corpus / "clips", [], source_finder(corpus / "videos"), SMALL, workers=1)
    (corpus / "clips" / "good").symlink_to(corpus / "elsewhere")
    wishes = [wish for wish in wishes_of_corpus(corpus / "corpus") if wish.video_id == "good"]
    summary = cut_corpus(corpus / "clips", wishes, source_finder(corpus / "videos"), SMALL, workers=1)
    assert summary.failures == {"bad_folder": 4}
    assert list((corpus / "elsewhere").iterdir()) == []


def die_on_three(task: int) -> int:
    if task == 3:
        os._exit(9)
    return task * task


@pytest.mark.slow
def test_a_task_that_kills_its_process_is_found_and_the_others_are_done() -> None:
    answers = dict(run_tasks(die_on_three, range(8), 2, lambda task: "crashed"))
    assert answers == {task: "crashed" if task == 3 else task * task for task in range(8)}


@pytest.mark.slow
def test_workers_cut_the_same_bytes_as_one_process(corpus: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        cut_corpus(corpus / name, wishes_of_corpus(corpus / "corpus"), source_finder(corpus / "videos"), SMALL, workers)
    for number in range(4):
        path = Path("good") / f"good.{number}.mp4"
        assert (corpus / "one" / path).read_bytes() == (corpus / "two" / path).read_bytes()


def test_metadata_can_be_cut_without_a_build_and_is_checked(tmp_path: Path) -> None:
    row = video_row("v", even_spans(2))
    (wish,) = wishes_of_metadata([write_lines(tmp_path / "m.jsonl", [row])])
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress((tmp_path / "m.jsonl").read_bytes()))
    assert list(wishes_of_metadata([tmp_path / "m.jsonl.gz"])) == [wish]
    assert wish == VideoWish("v", (ClipWish("v.0.mp4", 0, 5000), ClipWish("v.1.mp4", 5200, 10_200)))
    for spoilt in ({**row, "video_id": "../v"}, video_row("v", [(5, 3)])):
        with pytest.raises(ValueError, match=r"m\.jsonl:1: (bad_video_id|reversed_span)"):
            list(wishes_of_metadata([write_lines(tmp_path / "m.jsonl", [spoilt])]))


def test_ids_of_a_corpus_that_are_no_file_names_are_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    (tmp_path / "data").mkdir()
    for video_id, clip_id in (("../x", "../x.0.mp4"), ("x", "y.0.mp4"), ("x", "/tmp/x.0.mp4")):
        row = {"video_id": video_id, "clip_ids": [clip_id], "starts": [0.0], "ends": [1.0]}
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "data" / "train.parquet")
        with pytest.raises(ValueError, match="the corpus cannot be cut"):
            list(wishes_of_corpus(tmp_path))
    with pytest.raises(ValueError, match="there is no corpus in"):
        list(wishes_of_corpus(tmp_path / "data"))


def test_a_list_of_sources_says_where_each_video_is(tmp_path: Path) -> None:
    sources = write_lines(tmp_path / "sources.jsonl", [{"video_id": "v", "path": "sub/My film.mkv"}])
    assert source_finder(sources=sources)("v") == str(tmp_path / "sub" / "My film.mkv")
    assert source_finder("films", sources)("v") == os.path.join("films", "sub/My film.mkv")
    with pytest.raises(ValueError, match="w is not in"):
        source_finder(sources=sources)("w")
    with pytest.raises(ValueError, match="no videos were given"):
        source_finder()
    with pytest.raises(ValueError, match="expected an object with video_id and path"):
        source_finder(sources=write_lines(tmp_path / "bad.jsonl", [{"video_id": 3}]))


def test_the_command_cuts_and_says_what_failed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["corpus", "cut", str(corpus / "corpus"), "--videos", str(corpus / "videos"), "--workers", "1"]
    words += ["--output-dir", str(corpus / "clips"), "--height", "48", "--preset", "ultrafast", "--fps", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("cut            4 clips, 8 frames")
    assert printed[1] == "failed         8 clips: 4 missing_video, 4 unusable_video; see ledger.jsonl"
    assert json.loads((corpus / "clips" / "cut_parameters.json").read_text())["fps"] == "2"
    assert main([*words, "--strict"]) == 1
    assert "8 clips could not be cut" in capsys.readouterr().err

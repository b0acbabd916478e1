"""Indexing a folder: what is new, changed and gone; killed runs; several processes; what is refused.

Also pins index_command and search_command as a user types them (slow parts in the slow tier), and the store's commit in
one piece. What the rows are is tested in test_embedding.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_library import RULE, STORY, make_checkpoint, make_model, make_processor, make_videos

from lfvila_hf.library import VideoLibrary
from lfvila_hf.library import store as store_module
from lfvila_hf.library.embedding import SegmentEncoder
from lfvila_hf.library.files import find_videos
from lfvila_hf.library.index_command import main as index_main
from lfvila_hf.library.indexing import IndexReport, Processes, WorkFolder, index_folder
from lfvila_hf.library.search_command import main as search_main
from lfvila_hf.library.store import MANIFEST, Store

SEGMENTS = ["--segment-seconds", "1", "--overlap", "0.5"]


class Setup:
    """A folder of videos, a model, and somewhere to put an index."""

    def __init__(self, folder: Path, vocabulary: dict[str, int]) -> None:
        self.folder = folder
        self.videos = folder / "videos"
        make_videos(self.videos, (20, 60, 25))
        self.index_folder = folder / "index"
        self.model, self.processor = make_model(vocabulary), make_processor(vocabulary)

    def index(self, **options: Any) -> IndexReport:
        report = index_folder(
            self.videos, self.index_folder, self.model, self.processor, **{"rule": RULE, "batch_size": 2, **options}
        )
        assert report is not None
        return report

    def load(self) -> VideoLibrary:
        return VideoLibrary.load(self.index_folder, self.model, self.processor)


@pytest.fixture
def setup(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> Setup:
    return Setup(tmp_path, tiny_vocabulary)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.videos, report.embedded, report.unchanged, report.removed


def test_an_index_holds_what_a_library_of_the_same_videos_holds(setup: Setup, tiny_vocabulary: dict[str, int]) -> None:
    report = setup.index()
    assert counts(report) == (3, 3, 0, 0) and report.segments == 6 and report.problems == ()
    assert set(report.seconds) == {"decode", "model", "thumbnails", "write", "total", "finish"}
    direct = VideoLibrary(setup.model, setup.processor, RULE, root=setup.videos, batch_size=2)
    direct.add(setup.videos)
    assert setup.load().search(STORY) == direct.search(STORY)
    direct.save(setup.folder / "saved")
    assert contents(setup.folder / "saved") == contents(setup.index_folder)
    assert not (setup.index_folder / "work").exists()


def test_new_changed_and_deleted_files_are_picked_up(setup: Setup) -> None:
    setup.index()
    before = contents(setup.index_folder)
    assert counts(setup.index()) == (3, 0, 3, 0)
    assert contents(setup.index_folder) == before, "nothing new, nothing rewritten"
    make_videos(setup.videos / "new", (30,), start=7)
    make_videos(setup.videos, (75,), start=1)
    (setup.videos / "clip_2.mp4").unlink()
    assert counts(setup.index()) == (3, 2, 1, 1)
    library = setup.load()
    assert {path: len(library.segments_of(path)) for path in library.paths} == {
        "clip_0.mp4": 1,
        "clip_1.mp4": 5,
        "new/clip_7.mp4": 2,
    }
    for video in setup.videos.rglob("*.mp4"):
        video.unlink()
    assert counts(setup.index()) == (0, 0, 0, 3)
    assert setup.load().search(STORY) == []


def test_unusable_files_are_listed_and_not_read_again_until_they_change(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    (setup.videos / "broken.mp4").write_bytes(b"no video")
    (setup.videos / "empty.mkv").touch()
    (setup.videos / "notes.txt").write_text("not a video by its name")
    report = setup.index()
    assert counts(report) == (3, 3, 0, 0)
    assert [problem.path for problem in report.problems] == ["broken.mp4", "empty.mkv"]
    assert "empty (0 bytes)" in report.problems[1].reason
    assert "2 files could not be used:\n  broken.mp4: " in str(report)
    seen: list[str] = []
    plan = SegmentEncoder._tasks
    monkeypatch.setattr(
        SegmentEncoder, "_tasks", lambda self, files: plan(self, (seen.append(file.path) or file for file in files))
    )
    assert setup.index().problems == report.problems and seen == []
    assert setup.index(retry=True).problems == report.problems and seen == ["broken.mp4", "empty.mkv"]
    shutil.copy(setup.videos / "clip_0.mp4", setup.videos / "broken.mp4")
    report = setup.index()
    assert counts(report) == (4, 1, 3, 0) and [problem.path for problem in report.problems] == ["empty.mkv"]


def test_a_file_that_changes_while_it_is_read_is_not_taken(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = SegmentEncoder.embed

    def embed_and_touch(self: SegmentEncoder, frames: Any) -> Any:
        os.utime(setup.videos / "clip_0.mp4", (1, 1))
        return embed(self, frames)

    monkeypatch.setattr(SegmentEncoder, "embed", embed_and_touch)
    report = setup.index()
    assert [one.path for one in report.problems] == ["clip_0.mp4"] and "the next run looks again" in report.problems[
        0
    ].reason
    monkeypatch.undo()
    assert setup.index().problems == ()


class Killed(BaseException):
    """What a process that dies looks like from inside."""


def test_a_run_that_dies_anywhere_is_continued_to_the_same_index(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.index()
    expected = contents(setup.index_folder)
    real_replace = os.replace
    moved = 0

    def replace_until(limit: int) -> Any:
        def replace_or_die(source: Any, target: Any) -> None:
            nonlocal moved
            moved += 1
            if moved == limit:
                raise Killed
            real_replace(source, target)

        return replace_or_die

    for limit in range(1, 8):  # every rename of the last step: parts, arrays, manifest
        shutil.rmtree(setup.index_folder)
        moved = 0
        monkeypatch.setattr(store_module.os, "replace", replace_until(limit))
        try:
            setup.index()
        except Killed:
            assert not (setup.index_folder / MANIFEST).exists()
        else:
            break
        monkeypatch.setattr(store_module.os, "replace", real_replace)
        setup.index()
        assert contents(setup.index_folder) == expected
    assert 3 < limit < 7, "the loop did not reach the end of a run"


def test_what_is_done_is_not_done_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    save = WorkFolder.save

    def die_at_second(self: WorkFolder, video: Any, answer: Any) -> None:
        if self.done():
            raise Killed
        save(self, video, answer)

    monkeypatch.setattr(WorkFolder, "save", die_at_second)
    with pytest.raises(Killed):
        setup.index()
    monkeypatch.undo()
    seen: list[str] = []
    monkeypatch.setattr(
        WorkFolder, "save", lambda self, video, answer: (seen.append(video.path), save(self, video, answer))
    )
    setup.index()
    assert seen == ["clip_1.mp4", "clip_2.mp4"]


# -- killed from outside -----------------------------------------------------------------------------------------------


def command(setup: Setup, checkpoint: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "lfvila_hf.cli", "index", str(setup.videos)),
        *("--model", str(checkpoint), "--output", str(output), "--quiet", "--device", "cpu", *SEGMENTS),
    ]


def kill_at_random_moments(setup: Setup, checkpoint: Path, kills: int) -> int:
    """Kill a run `kills` times and finish it each time; returns how many of them died before their end."""
    subprocess.run(command(setup, checkpoint, setup.folder / "clean"), check=True, capture_output=True, timeout=250)
    clean = contents(setup.folder / "clean")
    start = time.monotonic()
    subprocess.run(command(setup, checkpoint, setup.folder / "timed"), check=True, capture_output=True, timeout=250)
    seconds = time.monotonic() - start
    generator = random.Random(0)
    died = 0
    for number in range(kills):
        output = setup.folder / f"killed_{number}"
        # The first half of a run is imports; what comes after is what could go wrong.
        while True:
            process = subprocess.Popen(
                command(setup, checkpoint, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(seconds * generator.uniform(0.4, 1.05))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                died += 1
            if generator.random() < 0.7:  # some are killed more than once
                break
        subprocess.run(command(setup, checkpoint, output), check=True, capture_output=True, timeout=250)
        assert contents(output) == clean
        shutil.rmtree(output)
    return died


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killing_it_at_random_moments_gives_the_index_of_one_clean_run(
    setup: Setup, tiny_vocabulary: dict[str, int]
) -> None:
    make_videos(setup.videos, (40,) * 12, start=10)
    checkpoint = make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    assert kill_at_random_moments(setup, checkpoint, kills=20) >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_processes_make_the_index_of_one(setup: Setup, tiny_vocabulary: dict[str, int]) -> None:
    checkpoint = make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    setup.index(checkpoint=str(checkpoint), batch_size=8)
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m"),
        *command(setup, checkpoint, setup.folder / "shared")[2:],
    ]
    run = subprocess.run(launch, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert contents(setup.folder / "shared") == contents(setup.index_folder)
    assert run.stdout.count("3 embedded") == 1, "one process reports"


def test_processes_share_the_bytes_and_every_file_has_one_owner(setup: Setup) -> None:
    files, _ = find_videos([str(setup.videos)], "")
    files = [replace(file, path=f"{n}-{file.path}") for n in range(5) for file in files]
    shares = []
    for index in range(4):
        processes = Processes()
        processes.index, processes.count = index, 4
        shares.append(processes.share(files))
    assert sorted(file.path for share in shares for file in share) == sorted(file.path for file in files)
    sizes = [sum(file.stamp.size for file in share) for share in shares]
    assert max(sizes) - min(sizes) <= max(file.stamp.size for file in files)


def test_the_work_folder_may_be_on_any_file_system(setup: Setup) -> None:
    setup.index()
    expected = contents(setup.index_folder)
    shutil.rmtree(setup.index_folder)
    setup.index(work="memory://index-work")
    assert contents(setup.index_folder) == expected


# -- refused -----------------------------------------------------------------------------------------------------------


def test_what_is_not_of_an_index_stays_where_it_is(setup: Setup) -> None:
    others = [
        setup.folder / "shared" / "thesis.tex",
        *(setup.index_folder / n / "mine.txt" for n in ("table", "vectors")),
    ]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not of an index")
    (setup.index_folder / "table" / "more").mkdir()
    setup.index(work=str(setup.folder / "shared"))
    make_videos(setup.videos, (30,))  # the first one anew, so that parts of the old index go
    setup.index(work=str(setup.folder / "shared"))
    assert all(file.read_text() == "not of an index" for file in others)
    assert [path.name for path in (setup.folder / "shared").iterdir()] == ["thesis.tex"]
    assert len(list((setup.index_folder / "table").glob("part-*"))) == 1, "parts that nobody names are removed"


def test_another_model_cut_or_folder_is_refused_until_told_to_begin_anew(
    setup: Setup, tiny_vocabulary: dict[str, int]
) -> None:
    setup.index()
    before = contents(setup.index_folder)
    other = make_model(tiny_vocabulary, seed=3)
    with pytest.raises(ValueError, match="was made with another checkpoint .* or --rebuild to embed all videos again"):
        index_folder(setup.videos, setup.index_folder, other, setup.processor, rule=RULE)
    with pytest.raises(ValueError, match="has segments of 1 s with overlap 0.5, asked for were 2 s and 0.5"):
        setup.index(rule=replace(RULE, seconds=2.0))
    make_videos(setup.folder / "elsewhere", (20,))
    with pytest.raises(ValueError, match="is of the folder .*videos, not of .*elsewhere"):
        index_folder(setup.folder / "elsewhere", setup.index_folder, setup.model, setup.processor, rule=RULE)
    with pytest.raises(ValueError, match="there is no folder"):
        index_folder(setup.folder / "absent", setup.index_folder, setup.model, setup.processor)
    assert contents(setup.index_folder) == before
    report = index_folder(setup.videos, setup.index_folder, other, setup.processor, rule=RULE, rebuild=True)
    assert report is not None and counts(report) == (3, 3, 0, 0)


def test_two_runs_on_one_index_are_refused(setup: Setup) -> None:
    from filelock import FileLock

    setup.index_folder.mkdir()
    with FileLock(str(setup.index_folder / ".lock")), pytest.raises(ValueError, match="another run is at work"):
        setup.index()
    setup.index()


def test_a_damaged_part_of_the_index_is_named(setup: Setup) -> None:
    setup.index()
    (part,) = (setup.index_folder / "table").iterdir()
    part.unlink()
    with pytest.raises(ValueError, match=r"is not whole, table/part-.* is missing"):
        Store(setup.index_folder).read()


# -- the commands ------------------------------------------------------------------------------------------------------


def test_index_and_search_as_a_user_types_them(
    setup: Setup, tiny_vocabulary: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    (setup.videos / "broken.mp4").write_bytes(b"no video")
    index = [str(setup.videos), "--model", str(checkpoint), "--output", str(setup.index_folder), *SEGMENTS]
    assert index_main([*index, "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "3 videos in 6 segments: 3 embedded" in shown.out and "  broken.mp4: " in shown.out
    assert "indexing: 100%" in shown.err
    assert index_main([*index, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] == 3

    story = "First a man rides. Then the ball is red."
    assert search_main([str(setup.index_folder), story]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1. ") and "First a man rides." in text and " s  " in text
    assert search_main([str(setup.index_folder), story, "--json", "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sentences"] == ["First a man rides.", "Then the ball is red."]
    library = VideoLibrary.load(setup.index_folder)
    expected = library.search(story, top_k=2)
    assert [hit["path"] for hit in answer["hits"]] == [hit.path for hit in expected]
    assert answer["hits"][0]["moments"][0].keys() == {"sentence", "start", "end", "score"}
    assert all(os.path.isfile(hit["file"]) for hit in answer["hits"])

    assert search_main([str(setup.index_folder), story, "--rerank", "2", "--json"]) == 0
    assert "vtm" in json.loads(capsys.readouterr().out)["hits"][0]["scores"]
    assert search_main([str(setup.index_folder), "--video", "clip_1.mp4", "--json"]) == 0
    assert "clip_1.mp4" not in [hit["path"] for hit in json.loads(capsys.readouterr().out)["hits"]]
    texts = setup.folder / "texts.txt"
    texts.write_text("A man rides. He falls.\n\nThe ball is blue.\n")
    assert search_main([str(setup.index_folder), "--video", "clip_1.mp4", "--texts", str(texts), "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["texts"]
    assert {one["text"] for one in ranked} == {"A man rides. He falls.", "The ball is blue."}
    assert ranked[0]["score"] >= ranked[1]["score"]
    assert search_main([str(setup.index_folder), "--video", "clip_1.mp4", "--texts", str(texts)]) == 0
    assert capsys.readouterr().out.startswith("1. ")


def test_search_says_what_is_wrong_with_a_question(setup: Setup) -> None:
    setup.index()
    with pytest.raises(ValueError, match="the index names no checkpoint"):
        search_main([str(setup.index_folder), "a man"])
    with pytest.raises(ValueError, match="there is no index in"):
        search_main([str(setup.folder / "absent"), "a man"])
    with pytest.raises(ValueError, match="say what to search for: a story, or --video"):
        search_main([str(setup.index_folder)])
    with pytest.raises(ValueError, match="--texts are ranked for a video: give --video too"):
        search_main([str(setup.index_folder), "--texts", "a.txt"])

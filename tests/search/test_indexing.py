"""Indexing a folder: continued after every kill, damage is named, several processes and Ray give one content."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_encoders import save_family
from small_library import RULE, STORY, make_checkpoint, make_model, make_processor, make_videos

from lfvila_hf.search import VideoLibrary
from lfvila_hf.search.encoders import as_encoder
from lfvila_hf.search.formats import FORMATTERS
from lfvila_hf.search.index import Index
from lfvila_hf.search.index_command import main as index_main
from lfvila_hf.search.indexing import IndexReport, Processes, RayEmbedding, index_folder
from lfvila_hf.search.search_command import main as search_main
from lfvila_hf.search.segments import SegmentRule, find_videos

SEGMENTS = ["--segment-seconds", "1", "--overlap", "0.5"]


class Setup:
    """A folder of videos, an encoder, and somewhere to put an index."""

    def __init__(self, folder: Path, vocabulary: dict[str, int]) -> None:
        self.folder = folder
        self.videos = folder / "videos"
        make_videos(self.videos, (20, 60, 25))
        self.index_folder = folder / "index"
        self.encoder = as_encoder(make_model(vocabulary), make_processor(vocabulary))

    def index(self, **options: Any) -> IndexReport:
        everything = {"rule": RULE, "batch_size": 2, **options}
        report = index_folder(self.videos, self.index_folder, everything.pop("encoder", self.encoder), **everything)
        assert report is not None
        return report

    def load(self) -> VideoLibrary:
        return VideoLibrary.load(self.index_folder, self.encoder)


@pytest.fixture
def setup(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> Setup:
    return Setup(tmp_path, tiny_vocabulary)


def contents(folder: Path) -> list[tuple[Any, ...]]:
    """Every row with all columns, in order; damaged rows raise."""
    rows = [
        (row["path"], row["segment"], row["checksum"], row["clips"].tobytes(), row["thumbnail"], row["problem"])
        for row in Index.open(folder).full()
    ]
    return sorted(rows, key=lambda row: row[:2])


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.videos, report.embedded, report.unchanged, report.removed


def test_an_index_holds_what_a_library_of_the_same_videos_holds(setup: Setup) -> None:
    report = setup.index()
    assert counts(report) == (3, 3, 0, 0) and report.segments == 6 and report.problems == ()
    assert set(report.seconds) == {"decode", "model", "thumbnails", "write", "total", "finish"}
    direct = VideoLibrary(setup.encoder, rule=RULE, root=setup.videos, batch_size=2)
    direct.add(setup.videos)
    assert setup.load().search(STORY) == direct.search(STORY)
    direct.save(setup.folder / "saved")
    assert contents(setup.folder / "saved") == contents(setup.index_folder)


def test_new_changed_and_deleted_files_are_picked_up(setup: Setup) -> None:
    setup.index()
    before, version = contents(setup.index_folder), Index.open(setup.index_folder).version
    assert counts(setup.index()) == (3, 0, 3, 0)
    assert contents(setup.index_folder) == before and Index.open(setup.index_folder).version == version
    make_videos(setup.videos / "new", (30,), start=7)
    make_videos(setup.videos, (40,), start=1)  # shorter: fewer segments
    (setup.videos / "clip_2.mp4").unlink()
    assert counts(setup.index()) == (3, 2, 1, 1)
    library = setup.load()
    assert {path: len(library.segments_of(path)) for path in library.paths} == {
        "clip_0.mp4": 1,
        "clip_1.mp4": 3,
        "new/clip_7.mp4": 2,
    }
    for video in setup.videos.rglob("*.mp4"):
        video.unlink()
    assert counts(setup.index()) == (0, 0, 0, 3)
    assert setup.load().search(STORY) == []


def test_unusable_files_are_listed_and_read_again_when_told_or_changed(setup: Setup, monkeypatch: Any) -> None:
    broken = setup.videos / "it's broken.mp4"
    broken.write_bytes(b"no video")
    report = setup.index()
    assert [one.path for one in report.problems] == ["it's broken.mp4"] and "could not be used" in str(report)
    seen: list[list[str]] = []

    def embed(files: Any, provenance: Any) -> Any:
        seen.append([file.path for file in files])
        return iter([(file, "still broken") for file in files])

    assert [one.path for one in setup.index(embed=embed).problems] == ["it's broken.mp4"]
    setup.index(embed=embed, retry=True)
    broken.write_bytes(b"another")
    assert setup.index(embed=embed).problems[0].reason == "still broken"
    assert seen == [[], ["it's broken.mp4"], ["it's broken.mp4"]]
    make_videos(setup.folder / "one", (20,))
    shutil.move(setup.folder / "one" / "clip_0.mp4", broken)
    assert setup.index().problems == () and len(setup.load()) == 4


def test_any_name_of_a_file_is_indexed_changed_shown_and_removed(setup: Setup) -> None:
    names = ["-rf.mp4", 'it\'s "a" 100% \\ b;--.mp4', "two\nlines\x1b[31m.mp4", "日本 e\u0301.mp4", "x' OR 'a'='a.mp4"]
    for name in names:
        shutil.copy(setup.videos / "clip_0.mp4", setup.videos / name)
    assert counts(setup.index()) == (8, 8, 0, 0)
    for name in names:
        os.utime(setup.videos / name, ns=(1, 1))
    (setup.videos / "broken\x1b.mp4").write_bytes(b"no video")
    report = setup.index()
    assert counts(report) == (8, 5, 3, 0) and "\x1b" not in str(report)
    library = setup.load()
    hits = library.search(STORY, top_k=8)
    assert {hit.path for hit in hits} >= set(names) and all(library.thumbnail(hit.path, 0) for hit in hits)
    shown = FORMATTERS["text"](hits)
    assert "two\\nlines\\x1b[31m.mp4" in shown and "\x1b" not in shown, "no name steers the terminal"
    for name in names:
        (setup.videos / name).unlink()
    assert counts(setup.index()) == (3, 0, 3, 5)


def test_a_video_that_the_encoder_cannot_embed_does_not_stop_the_run(setup: Setup, monkeypatch: Any) -> None:
    plain, seen = setup.encoder.encode_segments, []

    def fail_once(frames: Any) -> Any:
        seen.append(len(frames))
        if len(seen) == 1:
            raise ValueError("features that are not finite")
        return plain(frames)

    monkeypatch.setattr(setup.encoder, "encode_segments", fail_once)
    report = setup.index()
    assert counts(report) == (2, 2, 0, 0) and [one.path for one in report.problems] == ["clip_0.mp4"]
    assert "not finite" in report.problems[0].reason


def test_a_fault_that_may_pass_is_looked_at_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = setup.encoder.encode_segments

    def touch(frames: Any) -> Any:
        (setup.videos / "clip_2.mp4").touch()
        return plain(frames)

    monkeypatch.setattr(setup.encoder, "encode_segments", touch)
    report = setup.index()
    monkeypatch.undo()
    assert [one.path for one in report.problems] in (["clip_2.mp4"], [])  # read before or after it was touched
    assert setup.index().problems == () and len(setup.load()) == 3


class Killed(BaseException):
    """What a process that dies looks like from inside."""


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_run_that_dies_is_continued_with_what_was_committed(setup: Setup, last: int, monkeypatch: Any) -> None:
    setup.index()
    expected = contents(setup.index_folder)
    shutil.rmtree(setup.index_folder)
    commit, done = Index.commit, 0

    def die(self: Index, *arguments: Any) -> None:
        nonlocal done
        if done == last:
            raise Killed
        done += 1
        commit(self, *arguments)

    monkeypatch.setattr(Index, "commit", die)
    with pytest.raises(Killed):
        setup.index(group_videos=1)
    monkeypatch.undo()
    assert len({row[0] for row in contents(setup.index_folder)}) == last
    assert setup.index().embedded == 3 - last
    assert contents(setup.index_folder) == expected


def test_readers_get_whole_answers_while_a_run_writes(setup: Setup) -> None:
    make_videos(setup.videos, (20,) * 6, start=10)
    setup.index(group_videos=1)
    everything = {(hit.path, round(hit.score, 5)) for hit in setup.load().search(STORY)}
    for video in setup.videos.glob("clip_1?.mp4"):
        os.utime(video, ns=(1, 1))
    failed: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() and not failed:
            try:
                hits = {(hit.path, round(hit.score, 5)) for hit in setup.load().search(STORY)}
                assert hits == everything, hits ^ everything
            except Exception as error:
                failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    assert setup.index(group_videos=1).embedded == 6
    done.set()
    for reader in readers:
        reader.join()
    assert not failed, failed
    assert len(list((setup.index_folder / "scan").glob("*.f32"))) <= 1


# -- killed from outside -----------------------------------------------------------------------------------------------


def command(setup: Setup, checkpoint: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "lfvila_hf.cli", "index", str(setup.videos)),
        *("--model", str(checkpoint), "--output", str(output), "--quiet", "--device", "cpu", *SEGMENTS),
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["lfvila", "clip"])
def test_killing_it_at_random_moments_gives_the_content_of_one_clean_run(
    setup: Setup, tiny_vocabulary: dict[str, int], family: str
) -> None:
    """Kills come after the first row is there, so that they hit the work and not the imports."""
    make_videos(setup.videos, (40,) * 18, start=10)
    folder = setup.folder / "checkpoint"
    checkpoint = (
        make_checkpoint(folder, tiny_vocabulary) if family == "lfvila" else save_family(family, folder, tiny_vocabulary)
    )
    words = command(setup, checkpoint, setup.folder / "clean")
    subprocess.run(words, check=True, capture_output=True, timeout=250)
    clean = contents(setup.folder / "clean")
    generator, died = random.Random(0), 0
    output = setup.folder / "killed"
    for _ in range(20):
        process = subprocess.Popen(
            command(setup, checkpoint, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while (
            not any(output.glob("segments.lance/_versions/*"))
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 1.0))
        died += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if Index.exists(output):
            rows = contents(output)
            assert set(rows) <= set(clean) and len(rows) == len(set(rows)), "no row is torn or doubled"
        if generator.random() < 0.5:
            shutil.rmtree(output, ignore_errors=True)
    subprocess.run(command(setup, checkpoint, output), check=True, capture_output=True, timeout=250)
    assert contents(output) == clean and died >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_processes_make_the_content_of_one(setup: Setup, tiny_vocabulary: dict[str, int]) -> None:
    checkpoint = make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    setup.index(batch_size=8)
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m"),
        *command(setup, checkpoint, setup.folder / "shared")[2:],
    ]
    run = subprocess.run(launch, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert contents(setup.folder / "shared") == contents(setup.index_folder)
    assert run.stdout.count("3 embedded") == 1, "one process reports"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_cluster_makes_the_content_of_one_process(
    setup: Setup, tiny_vocabulary: dict[str, int], monkeypatch: Any
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    (setup.videos / "broken.mp4").write_bytes(b"no video")
    checkpoint = make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    places = [Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[2]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    setup.index(batch_size=8)
    embedding = RayEmbedding(str(checkpoint), actors=1)
    report = index_folder(setup.videos, setup.folder / "ray", setup.encoder, RULE, embed=embedding)
    embedding.close()
    assert report is not None and report.videos == 3 and [one.path for one in report.problems] == ["broken.mp4"]
    assert contents(setup.folder / "ray") == contents(setup.index_folder)


def test_processes_share_the_bytes_and_every_file_has_one_owner(setup: Setup) -> None:
    files, _ = find_videos(setup.videos, "")
    files = [replace(file, path=f"{n}-{file.path}") for n in range(5) for file in files]
    shares = []
    for index in range(4):
        processes = Processes()
        processes.index, processes.count = index, 4
        shares.append(processes.share(files))
    assert sorted(file.path for share in shares for file in share) == sorted(file.path for file in files)
    sizes = [sum(file.size for file in share) for share in shares]
    assert max(sizes) - min(sizes) <= max(file.size for file in files)
    with pytest.raises(ValueError, match="actors must be at least 1, got 0"):
        RayEmbedding("absent", actors=0)


# -- refused -----------------------------------------------------------------------------------------------------------


def test_another_model_cut_folder_or_precision_is_refused_until_told_to_begin_anew(
    setup: Setup, tiny_vocabulary: dict[str, int]
) -> None:
    setup.index()
    before = contents(setup.index_folder)
    other = as_encoder(make_model(tiny_vocabulary, seed=3), make_processor(tiny_vocabulary))
    with pytest.raises(ValueError, match="was made with another checkpoint.* or embed all videos again"):
        setup.index(encoder=other)
    with pytest.raises(
        ValueError, match="another cut: segments of 1.0 s with overlap 0.5.* asked for was segments of 2.0 s"
    ):
        setup.index(rule=SegmentRule(2.0, 0.5))
    half = as_encoder(make_model(tiny_vocabulary), make_processor(tiny_vocabulary)).to("cpu", "bfloat16")
    with pytest.raises(ValueError, match="another precision: float32, asked for was bfloat16"):
        setup.index(encoder=half)
    make_videos(setup.folder / "elsewhere", (20,))
    with pytest.raises(ValueError, match="another folder: .*videos, asked for was .*elsewhere"):
        index_folder(setup.folder / "elsewhere", setup.index_folder, setup.encoder, RULE)
    with pytest.raises(ValueError, match="there is no folder"):
        index_folder(setup.folder / "absent", setup.index_folder, setup.encoder)
    assert contents(setup.index_folder) == before
    assert counts(setup.index(encoder=other, rebuild=True)) == (3, 3, 0, 0)


def test_two_that_write_one_index_are_refused(setup: Setup) -> None:
    from filelock import FileLock

    setup.index()
    for write in (setup.index, lambda: setup.load().save(setup.index_folder)):
        with FileLock(setup.index_folder / ".lock"), pytest.raises(ValueError, match="another run is at work"):
            write()
        write()


def test_flipped_bytes_are_found_where_rows_are_read_or_copied(setup: Setup) -> None:
    setup.index()
    library = setup.load()
    hits = library.search(STORY)
    files = sorted(setup.index_folder.rglob("segments.lance/data/*.lance"))
    file = max(files, key=lambda one: one.stat().st_size)
    data = file.read_bytes()
    vector = library.view.clips(3)[1].tobytes()
    place = data.find(vector)
    assert place > 0
    file.write_bytes(data[: place + 6] + bytes([data[place + 6] ^ 1]) + data[place + 7 :])
    shutil.rmtree(setup.index_folder / "scan")
    for read in (lambda: setup.load().search(STORY), lambda: setup.load().save(setup.folder / "copy")):
        with pytest.raises(ValueError, match="is damaged: segment .* is not what was written. Index .* --rebuild"):
            read()
    assert counts(setup.index(rebuild=True)) == (3, 3, 0, 0) and setup.load().search(STORY) == hits
    (block,) = (setup.index_folder / "scan").glob("*.f32")
    content = bytearray(block.read_bytes())
    content[100] ^= 1
    block.write_bytes(content)
    assert setup.load().search(STORY) == hits, "the block is made anew"


def test_no_vector_of_a_damaged_index_survives_in_the_one_that_replaces_it(
    setup: Setup, tiny_vocabulary: dict[str, int]
) -> None:
    setup.index()
    for file in (setup.index_folder / "segments.lance" / "_versions").iterdir():
        file.write_bytes(b"x")
    other = as_encoder(make_model(tiny_vocabulary, seed=3), make_processor(tiny_vocabulary))
    setup.index(encoder=other, rebuild=True)  # its versions have the same numbers
    direct = VideoLibrary(other, rule=RULE, root=setup.videos, batch_size=2)
    direct.add(setup.videos)
    assert VideoLibrary.load(setup.index_folder, other).search(STORY) == direct.search(STORY)


def test_what_is_no_index_is_named(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no index in .*absent; `lfvila-hf index"):
        Index.open(tmp_path / "absent")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "library.json").write_text("{}")
    with pytest.raises(
        ValueError, match="is of an older version, whose files are not read any more: index the videos again"
    ):
        Index.open(tmp_path / "old")
    setup.index()
    for file in (setup.index_folder / "segments.lance" / "_versions").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match="the index .* (is damaged|cannot be)"):
        Index.open(setup.index_folder)
    assert counts(setup.index(rebuild=True)) == (3, 3, 0, 0)
    import lancedb
    import pyarrow as pa

    lancedb.connect(str(tmp_path / "foreign")).create_table("segments", pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="is no index of lfvila_hf"):
        Index.open(tmp_path / "foreign")


def test_a_full_disk_is_one_line_and_loses_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.index()
    before = contents(setup.index_folder)
    make_videos(setup.videos, (30,), start=9)

    class Full:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: self

        def execute(self, *_: Any) -> None:
            raise RuntimeError("lance error: LanceError(IO): ... No space left on device (os error 28), /x.rs:1")

    opened = Index.open

    def open_full(address: Any) -> Index:
        index = opened(address)
        monkeypatch.setattr(type(index.table), "merge_insert", lambda *_: Full())
        return index

    monkeypatch.setattr(Index, "open", open_full)
    with pytest.raises(
        OSError, match="no space is left on the device of the index .*; what was committed before is kept"
    ):
        setup.index()
    monkeypatch.undo()
    assert contents(setup.index_folder) == before and setup.index().embedded == 1


# -- the commands ------------------------------------------------------------------------------------------------------


def test_index_and_search_as_a_user_types_them(
    setup: Setup, tiny_vocabulary: Any, capsys: Any, monkeypatch: Any
) -> None:
    make_checkpoint(setup.folder / "checkpoint", tiny_vocabulary)
    (setup.videos / "broken.mp4").write_bytes(b"no video")
    monkeypatch.chdir(setup.folder)
    index = ["videos", "--model", "checkpoint", "--output", "index", *SEGMENTS]
    assert index_main([*index, "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "3 videos in 6 segments: 3 embedded" in shown.out and "  broken.mp4: " in shown.out
    assert "1 file could not be used" in shown.out and "indexing: 100%" in shown.err
    assert index_main([*index, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"] == 3

    monkeypatch.chdir("/")  # what is saved is absolute
    place = str(setup.index_folder)
    story = "First a man rides. Then the ball is red."
    assert search_main([place, story]) == 0
    text = capsys.readouterr().out
    assert "\n1. " in f"\n{text}" and "First a man rides." in text and "Then the ball is red." in text
    assert search_main([place, story, "--format", "json", "--top", "2"]) == 0
    hits = json.loads(capsys.readouterr().out)
    expected = VideoLibrary.load(setup.index_folder).search(story, top_k=2)
    assert [hit["path"] for hit in hits] == [hit.path for hit in expected]
    assert hits[0]["moments"][0].keys() >= {"sentence", "text", "spans", "score", "found"}
    assert search_main([place, story, "--json", "--per-video", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sentences"] == ["First a man rides.", "Then the ball is red."] and len(answer["missing"]) <= 2
    assert all(os.path.isfile(hit["file"]) for hit in answer["hits"])
    for name, begin in {"csv": "hit,path", "vtt": "WEBVTT", "edl": "TITLE:"}.items():
        assert search_main([place, story, "--format", name]) == 0
        assert capsys.readouterr().out.startswith(begin)
    assert search_main([place, story, "--rerank", "2", "--json"]) == 0
    assert "vtm" in json.loads(capsys.readouterr().out)["hits"][0]["scores"]
    assert search_main([place, "--video", "clip_1.mp4", "--json"]) == 0
    assert "clip_1.mp4" not in [hit["path"] for hit in json.loads(capsys.readouterr().out)["hits"]]
    texts = setup.folder / "texts.txt"
    texts.write_text("A man rides. He falls.\n\nThe ball is blue.\n")
    assert search_main([place, "--video", "clip_1.mp4", "--texts", str(texts), "--json"]) == 0
    assert {one["text"] for one in json.loads(capsys.readouterr().out)["texts"]} == {
        "A man rides. He falls.",
        "The ball is blue.",
    }


def test_your_own_encoder_is_named_by_its_module_and_never_by_an_index(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    index = [str(setup.videos), "--model", "test_encoders:OwnEncoder", "--output", str(setup.index_folder), "--quiet"]
    assert index_main(index) == 0
    with pytest.raises(ValueError, match="your own encoder test_encoders:OwnEncoder: give it again with --model"):
        search_main([str(setup.index_folder), "a man"])
    capsys.readouterr()
    assert (
        search_main([str(setup.index_folder), "a man", "--model", "test_encoders:OwnEncoder", "--format", "json"]) == 0
    )
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.parametrize(
    ("words", "expected"),  # the others are in tests/test_cli.py
    [
        ([], "say what to search for: a story, or --video"),
        (["--texts", "a.txt"], "--texts are ranked for a video: give --video too"),
        (["a man", "--video", "a.mp4"], "a story and --video were given"),
    ],
)
def test_search_says_what_is_wrong_with_a_question(tmp_path: Path, words: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        search_main([str(tmp_path / "absent"), *words])


def test_an_index_that_may_only_be_read_is_searched(setup: Setup) -> None:
    setup.index()
    hits = setup.load().search(STORY)
    shutil.rmtree(setup.index_folder / "scan")
    (setup.index_folder / "scan").write_text("in the way")  # root may write anywhere; a file is refused to root too
    np.testing.assert_allclose([hit.score for hit in setup.load().search(STORY)], [hit.score for hit in hits])

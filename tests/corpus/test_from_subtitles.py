"""A folder of videos with subtitles becomes a corpus that can be cut and loaded; what is wrong in it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpus_inputs import rows_of, sentence
from video_files import write_video

from lfvila_hf.cli import main
from lfvila_hf.corpus.from_subtitles import find_subtitles, write_source
from lfvila_hf.corpus.records import clock


def subtitles(seed: str, count: int = 6, seconds: float = 1.0) -> str:
    cues = []
    for number in range(count):
        start, end = (clock(round(second * 1000)) for second in (number * seconds, (number + 1) * seconds - 0.05))
        cues.append(
            f"{number + 1}\n{start.replace('.', ',')} --> {end.replace('.', ',')}\n{sentence(seed + str(number))}\n"
        )
    return "\n".join(cues)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two good videos, one of them in a sub-folder, and one of each kind that is not."""
    folder = tmp_path / "films"
    (folder / "holiday").mkdir(parents=True)
    for name, stem in (("", "talk"), ("holiday", "My beach")):
        write_video(folder / name / f"{stem}.mp4", 160)
        (folder / name / f"{stem}.srt").write_text(subtitles(stem))
    return folder


def test_sentences_become_clips_of_a_corpus_that_can_be_cut_and_loaded(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lfvila_hf.data.annotations import load_pretraining

    words = ["corpus", "from-subtitles", str(videos), "--output-dir", str(tmp_path / "out"), "--min-seconds", "0.5"]
    assert main([*words, "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "videos         2 with subtitles"
    rows = rows_of(tmp_path / "out")
    assert sorted(row["video_id"] for row in rows) == ["My beach", "talk"]
    for row in rows:
        assert row["texts"] == [sentence(row["video_id"] + str(number)) for number in range(6)]
        assert row["starts"] == pytest.approx([0, 1, 2, 3, 4, 5])
    cut = ["corpus", "cut", str(tmp_path / "out"), "--sources", str(tmp_path / "out" / "source" / "sources.jsonl")]
    assert main([*cut, "--output-dir", str(tmp_path / "clips"), "--height", "48", "--workers", "1", "--strict"]) == 0
    table = load_pretraining(str(tmp_path / "out" / "jsonl" / "*.jsonl"), tmp_path / "clips")
    assert sorted(table["id"]) == ["My beach", "talk"]
    again = [*words, "--workers", "1", "--overwrite"]
    assert main(again) == 0


def test_every_kind_of_problem_is_counted_and_named(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "silent.mp4", 20)
    write_video(videos / "holiday" / "talk.mkv", 20)
    write_video(videos / "many.mp4", 20)
    for language in ("en", "de"):
        (videos / f"many.{language}.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n")
    write_video(videos / "empty.mp4", 20)
    (videos / "empty.srt").write_text("nothing")
    write_video(videos / "music.mp4", 20)
    (videos / "music.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,900\n[Music]\n\n2\n00:00:03,000 --> 00:00:02,000\nOh\n"
    )
    (videos / "broken.mp4").write_bytes(b"no video")
    (videos / "broken.srt").write_text(subtitles("x"))
    write_video(videos / "a..b.mp4", 20)
    source = write_source(videos, tmp_path / "source")
    assert source.videos == 2
    expected = ["no_subtitles", "same_name", "several_subtitles", "unusable_subtitles", "no_words", "reversed_span"]
    expected += ["unusable_video", "bad_video_id"]
    assert source.problems == dict.fromkeys(expected, 1)
    listed = [json.loads(line) for line in (tmp_path / "source" / "problems.jsonl").read_text().splitlines()]
    places = {row["kind"]: row["place"] for row in listed}
    assert places["reversed_span"] == f"{videos / 'music.srt'}:6"
    with pytest.raises(ValueError, match=r"a\.\.b\.mp4: bad_video_id"):
        write_source(videos, tmp_path / "strict", strict=True)
    assert write_source(videos, tmp_path / "english", language="en").problems["no_subtitles"] == 6


def test_a_folder_without_anything_usable_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        write_source(tmp_path / "nowhere", tmp_path / "s")
    (tmp_path / "films").mkdir()
    with pytest.raises(ValueError, match="gives a clip: no video file"):
        write_source(tmp_path / "films", tmp_path / "s")
    write_video(tmp_path / "films" / "v.mp4", 10)
    with pytest.raises(ValueError, match="gives a clip: 1 no_subtitles"):
        write_source(tmp_path / "films", tmp_path / "s")


def test_the_subtitles_of_a_video_are_found_by_name_and_language(tmp_path: Path) -> None:
    for name in ("talk.srt", "talk.vtt", "talk.en.srt", "talk two.srt", "talk.mp4", "talk.a.b.srt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_subtitles(tmp_path, "talk")] == ["talk.vtt"]
    assert [path.name for path in find_subtitles(tmp_path, "talk", "en")] == ["talk.en.srt"]
    assert find_subtitles(tmp_path, "walk") == []
    assert find_subtitles(tmp_path / "nowhere", "talk") == []


def test_spans_beyond_the_video_are_found_by_the_build(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films" / "short.mp4", 110)
    (tmp_path / "films" / "short.srt").write_text(subtitles("short", count=8))
    words = [
        "corpus",
        "from-subtitles",
        str(tmp_path / "films"),
        "--output-dir",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    assert main([*words, "--min-seconds", "0.5"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["problems"]["beyond_file"]["count"] == 4
    assert rows_of(tmp_path / "out")[0]["num_clips"] == 4

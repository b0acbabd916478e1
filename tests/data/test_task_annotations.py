"""Annotation files of the tasks: what the released rows become, and that every bad row is named by file and line.

Opening the videos is `test_task_datasets.py`; the formats with paragraphs are `test_annotations.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from small_corpus import write_json_lines

from lfvila_hf.data.annotations import AnnotationError
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.data.task_annotations import (
    OUTSIDE_VOCABULARY,
    load_activitynet_qa,
    load_classification,
    load_how2qa,
    load_violin,
)

OPEN = {"video_name": "a", "question": "what is it", "answer": 3}
STATEMENT = {"clip_id": "a", "text_q": "It is red.", "text_s": [{"start": 0, "end": 1.5, "text": "Hi."}], "answer": 1}
CHOICE = {
    "clip_id": "a",
    "span": [0.5, 2.0],
    "text_q": "what is it",
    "text_a": ["a cat", "a dog", "a cow", "a hen"],
    "text_s": [{"start": 0.0, "end": 1.0, "text": "Look."}, {"start": None, "end": None, "text": "There."}],
    "answer_idx": 2,
}
CLASS = {"video_id": "a", "recipe_type": 5}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").touch()
    return folder


def load(kind: str, path: Path, videos: Path, **options: Any) -> Any:
    if kind == "open":
        return load_activitynet_qa(path, videos, num_answers=10, **options)
    if kind == "class":
        return load_classification(path, videos, num_labels=6, **options)
    return {"statement": load_violin, "choice": load_how2qa}[kind](path, videos, **options)


GOOD = {"open": OPEN, "statement": STATEMENT, "choice": CHOICE, "class": CLASS}


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_released_row_becomes_paths_text_and_a_label(kind: str, tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD[kind]] * 2)
    rows = load(kind, path, videos)
    assert len(rows) == 2
    row = rows[1]
    assert (row["id"], row["video"], row["place"]) == ("a", str(videos / "a.mp4"), f"{path}:2")
    assert row["label"] == {"open": 3, "statement": 1, "choice": 2, "class": 5}[kind]
    if kind != "class":
        assert row["question"] == GOOD[kind].get("question", GOOD[kind].get("text_q"))
    if kind == "choice":
        assert row["answers"] == CHOICE["text_a"]
        assert (row["span_start"], row["span_end"]) == (0.5, 2.0)
        assert [one["text"] for one in row["subtitles"]] == ["Look.", "There."]
        assert row["subtitles"][1]["start"] is None


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_stream_gives_the_same_rows(kind: str, tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD[kind]] * 3)
    assert list(load(kind, path, videos, streaming=True)) == list(load(kind, path, videos))


@pytest.mark.parametrize("span", [math.nan, [math.nan, math.nan], [1.0, math.nan], None])
def test_a_span_of_nan_is_a_span_that_is_not_known(span: Any, tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [CHOICE | {"span": span}, CHOICE])
    rows = load_how2qa(path, videos)
    assert (rows[0]["span_start"], rows[0]["span_end"]) == (None, None)
    assert rows[1]["span_end"] == 2.0


def test_a_class_written_as_text_is_read_as_the_release_reads_it(tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [CLASS | {"recipe_type": "4"}])
    assert load("class", path, videos)[0]["label"] == 4


def test_an_empty_subtitle_is_left_out(tmp_path: Path, videos: Path) -> None:
    row = STATEMENT | {"text_s": [{"start": 0, "end": 1, "text": "  "}, {"start": 1, "end": 2, "text": "Hi."}]}
    path = write_json_lines(tmp_path / "rows.jsonl", [row])
    assert [one["text"] for one in load_violin(path, videos)[0]["subtitles"]] == ["Hi."]


BAD = {
    "missing field": ("open", {"video_name": "a", "answer": 1}, "'question' is missing"),
    "unknown answer": ("open", OPEN | {"answer": 10}, "from 0 to 9, got 10"),
    "answer in words": ("open", OPEN | {"answer": "red"}, "from 0 to 9, got 'red'"),
    "answer outside of the vocabulary": ("open", OPEN | {"answer": OUTSIDE_VOCABULARY}, "from 0 to 9, got -1"),
    "empty question": ("open", OPEN | {"question": " "}, "is empty"),
    "third truth value": ("statement", STATEMENT | {"answer": 2}, "from 0 to 1, got 2"),
    "truth as a boolean": ("statement", STATEMENT | {"answer": True}, "must be int or string"),
    "subtitles that are text": ("statement", STATEMENT | {"text_s": "Hi."}, "'text_s' must be list"),
    "subtitle without text": ("statement", STATEMENT | {"text_s": [{"start": 0, "end": 1}]}, "'text' is missing"),
    "subtitle at noon": (
        "statement",
        STATEMENT | {"text_s": [{"start": "noon", "end": 1, "text": "Hi."}]},
        "expected seconds or null",
    ),
    "three answers": ("choice", CHOICE | {"text_a": ["a", "b", "c"]}, "4 answers"),
    "fifth answer": ("choice", CHOICE | {"answer_idx": 4}, "from 0 to 3, got 4"),
    "span that falls": ("choice", CHOICE | {"span": [3, 2]}, "must rise"),
    "span before the video": ("choice", CHOICE | {"span": [-1, 2]}, "0 seconds or later"),
    "span without end": ("choice", CHOICE | {"span": [1]}, "two numbers"),
    "unknown class": ("class", CLASS | {"recipe_type": 6}, "from 0 to 5, got 6"),
    "missing video": ("class", CLASS | {"video_id": "b"}, "there is no file"),
    "a list": ("class", [CLASS], "expected a JSON object"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_row_is_named_by_file_and_line(name: str, tmp_path: Path, videos: Path) -> None:
    kind, row, words = BAD[name]
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD[kind], row])
    with pytest.raises(AnnotationError, match=r"rows\.jsonl:2: ") as error:
        load(kind, path, videos)
    assert words in str(error.value)


@pytest.mark.parametrize("name", list(BAD))
def test_a_skipped_row_is_counted_and_no_other_takes_its_place(name: str, tmp_path: Path, videos: Path) -> None:
    kind, row, words = BAD[name]
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD[kind], row, GOOD[kind]])
    skips = SkipLog("skip", max_skip_fraction=0.5)
    rows = load(kind, path, videos, skips=skips)
    assert [one["place"] for one in rows] == [f"{path}:1", f"{path}:3"]
    report = skips.report()
    assert len(report) == 1 and report.total == 3
    assert report.skipped[0].place == f"{path}:2" and words in report.skipped[0].reason


def test_too_many_skipped_rows_are_an_error(tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [CLASS, {}, {}, {}])
    with pytest.raises(ValueError, match="more than max_skip_fraction=0.5"):
        load("class", path, videos, skips=SkipLog("skip", max_skip_fraction=0.5))


def test_an_answer_outside_of_the_vocabulary_can_be_taken_for_evaluation(tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [OPEN | {"answer": OUTSIDE_VOCABULARY}])
    assert load("open", path, videos, allow_outside=True)[0]["label"] == OUTSIDE_VOCABULARY

"""Generated data of every task: readable by the task's loader, answered by the video, and the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.shapetales.story_tasks import ANSWERS, DARK, PLACE_PHRASES, make_task_data
from lfvila_hf.video_reading_lfvila import probe_video


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_has_rows_that_its_loader_reads(task: str, tmp_path: Path) -> None:
    made = make_task_data(tmp_path, task, 2, 1)
    options = {"num_answers": len(ANSWERS)} if task == "activitynet_qa" else {}
    rows = TASKS[task].load(made.data_dir / "train.jsonl", made.video_dir, **options)
    assert len({row["id"] for row in rows}) == 2
    assert "[MASK]" in made.vocabulary
    if task == "how2qa":
        for row in rows:
            seconds = probe_video(row["video"]).duration
            assert seconds is not None and row["span_end"] <= seconds + 1e-6


def test_the_same_folder_is_made_anywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_task_data(tmp_path / name, "violin", 3, 1)
    for file in ("train.jsonl", "test.jsonl", "videos/train_00001.mp4"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_finished_folder_is_kept_and_another_task_replaces_it(tmp_path: Path) -> None:
    made = make_task_data(tmp_path, "violin", 2, 1)
    video = tmp_path / "videos" / "train_00000.mp4"
    first = video.stat().st_mtime_ns
    assert make_task_data(tmp_path, "violin", 2, 1) == made
    assert video.stat().st_mtime_ns == first
    other = make_task_data(tmp_path, "how2qa", 2, 1)
    assert video.stat().st_mtime_ns != first and other.vocabulary != made.vocabulary


def test_answers_cannot_be_told_without_the_video(tmp_path: Path) -> None:
    make_task_data(tmp_path / "violin", "violin", 24, 1)
    rows = [json.loads(line) for line in (tmp_path / "violin" / "train.jsonl").read_text().splitlines()]
    assert sum(row["answer"] for row in rows) * 2 == len(rows)
    true, false = ({row["text_q"] for row in rows if row["answer"] == answer} for answer in (1, 0))
    assert true & false and (true | false) <= set(DARK)
    make_task_data(tmp_path / "how2qa", "how2qa", 24, 1)
    choices = [json.loads(line) for line in (tmp_path / "how2qa" / "train.jsonl").read_text().splitlines()]
    assert {row["answer_idx"] for row in choices} == {0, 1, 2, 3}
    assert {row["span"][0] == 0 for row in choices} == {True, False}
    for row in choices:  # two answers are places, and which of them is right only the video tells
        assert len(set(row["text_a"]) & set(PLACE_PHRASES.values())) == 2
        assert row["text_a"][row["answer_idx"]] in PLACE_PHRASES.values()


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no generated data for 'cooking'"):
        make_task_data(tmp_path, "cooking", 1, 1)
    with pytest.raises(ValueError, match="at least one video"):
        make_task_data(tmp_path, "violin", 0, 1)

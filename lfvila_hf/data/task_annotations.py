# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Loaders of the released annotations of the tasks, as `datasets` of paths and text; nothing is decoded here.

The formats are JSON lines, as the released data sets read them (`src/datasets/*_dataset.py` of the release):

- ActivityNet-QA: `{"video_name", "question", "answer": int}`;
- VIOLIN: `{"clip_id", "text_q", "text_s": [{"start", "end", "text"}], "answer": 0 or 1}`;
- How2QA: `{"clip_id", "span": [seconds, seconds] or NaN, "text_q", "text_a": [4], "text_s", "answer_idx"}`;
- COIN and LVU: `{"video_id", "recipe_type": int}`.

As in `annotations`, a row that cannot be used raises an `AnnotationError` with file and line, or is counted and left
out by a `SkipLog`, and a stream reads lines as they are needed. A span is checked against the length of the video when
the video is opened (`task_datasets`), all else here.

Letters: N answers of a question.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from .annotations import AnnotationError, field_of, load_rows, resolve_video, sentences_of
from .skipping import SkipLog

OUTSIDE_VOCABULARY = -1
"""`answer` of an evaluation row whose answer is not in the vocabulary; it counts as answered wrongly."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_activitynet_qa(
    path: Paths,
    video_root: str | os.PathLike[str],
    *,
    num_answers: int,
    allow_outside: bool = False,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load open questions about whole videos, whose answers are classes (ActivityNet-QA).

    Args:
        path: A JSON lines file, a pattern, or several of either.
        video_root: Folder (or address) of the videos.
        num_answers: Size of the answer vocabulary (released: 1,654).
        allow_outside: Take rows whose answer is `OUTSIDE_VOCABULARY`, for evaluation.
        streaming: Return a `datasets.IterableDataset`.
        check_files: Treat a missing video as an error of its row.
        skips: Policy for rows that cannot be used. By default they raise.

    Returns:
        Rows with the columns `id`, `video`, `question`, `subtitles` (empty), `label`, `place`.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    parse = partial(_parse_activitynet_qa, num_answers=num_answers, allow_outside=allow_outside)
    return load_rows(path, parse, os.fspath(video_root), streaming, check_files, skips)


def load_violin(
    path: Paths,
    video_root: str | os.PathLike[str],
    *,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load statements about clips with subtitles, each true (1) or false (0) (VIOLIN).

    Arguments, columns and errors are those of `load_activitynet_qa`; `subtitles` are dicts of `start`, `end` (seconds
    or None) and `text`.
    """
    return load_rows(path, _parse_violin, os.fspath(video_root), streaming, check_files, skips)


def load_how2qa(
    path: Paths,
    video_root: str | os.PathLike[str],
    *,
    num_choices: int = 4,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load questions with N answers to choose from, subtitles, and the span of the video in question (How2QA).

    Args:
        path: A JSON lines file, a pattern, or several of either.
        video_root: Folder (or address) of the videos.
        num_choices: N.
        streaming: Return a `datasets.IterableDataset`.
        check_files: Treat a missing video as an error of its row.
        skips: Policy for rows that cannot be used. By default they raise.

    Returns:
        Rows with the columns `id`, `video`, `question`, `answers`, `subtitles`, `span_start` and `span_end` (seconds,
        both None if the span is not known), `label`, `place`.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    parse = partial(_parse_how2qa, num_choices=num_choices)
    return load_rows(path, parse, os.fspath(video_root), streaming, check_files, skips)


def load_classification(
    path: Paths,
    video_root: str | os.PathLike[str],
    *,
    num_labels: int,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load whole videos and their class (COIN 180, LVU relationship 4, scene 6, way of speaking 5).

    Args:
        path: A JSON lines file, a pattern, or several of either.
        video_root: Folder (or address) of the videos.
        num_labels: Number of classes.
        streaming: Return a `datasets.IterableDataset`.
        check_files: Treat a missing video as an error of its row.
        skips: Policy for rows that cannot be used. By default they raise.

    Returns:
        Rows with the columns `id`, `video`, `label`, `place`.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    parse = partial(_parse_classification, num_labels=num_labels)
    return load_rows(path, parse, os.fspath(video_root), streaming, check_files, skips)


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def _parse_activitynet_qa(
    row: Any, place: str, video_root: str, check_files: bool, num_answers: int, allow_outside: bool
) -> dict[str, Any]:
    name = field_of(row, "video_name", str, place)
    outside = allow_outside and row.get("answer") == OUTSIDE_VOCABULARY
    label = OUTSIDE_VOCABULARY if outside else _class_of(row, "answer", num_answers, place)
    return {
        "id": name,
        "video": resolve_video(video_root, name, place, check_files),
        "question": _text_of(row, "question", place),
        "subtitles": [],
        "label": label,
        "place": place,
    }


def _parse_violin(row: Any, place: str, video_root: str, check_files: bool) -> dict[str, Any]:
    clip_id = field_of(row, "clip_id", str, place)
    return {
        "id": clip_id,
        "video": resolve_video(video_root, clip_id, place, check_files),
        "question": _text_of(row, "text_q", place),
        "subtitles": _subtitles_of(row, place),
        "label": _class_of(row, "answer", 2, place),
        "place": place,
    }


def _parse_how2qa(row: Any, place: str, video_root: str, check_files: bool, num_choices: int) -> dict[str, Any]:
    clip_id = field_of(row, "clip_id", str, place)
    answers = [str(answer) for answer in field_of(row, "text_a", list, place)]
    if len(answers) != num_choices or not all(answer.strip() for answer in answers):
        raise AnnotationError(place, f"the field 'text_a' must hold {num_choices} answers, none empty, got {answers}")
    start, end = _span_of(row, place)
    return {
        "id": clip_id,
        "video": resolve_video(video_root, clip_id, place, check_files),
        "question": _text_of(row, "text_q", place),
        "answers": answers,
        "subtitles": _subtitles_of(row, place),
        "span_start": start,
        "span_end": end,
        "label": _class_of(row, "answer_idx", num_choices, place),
        "place": place,
    }


def _parse_classification(row: Any, place: str, video_root: str, check_files: bool, num_labels: int) -> dict[str, Any]:
    name = field_of(row, "video_id", str, place)
    return {
        "id": name,
        "video": resolve_video(video_root, name, place, check_files),
        "label": _class_of(row, "recipe_type", num_labels, place),
        "place": place,
    }


def _text_of(row: Any, name: str, place: str) -> str:
    field_of(row, name, str, place)
    return sentences_of(row, name, place)[0]


def _class_of(row: Any, name: str, count: int, place: str) -> int:
    """Return a class number; the released classification rows also write it as text."""
    value = field_of(row, name, (int, str), place)
    number = int(value) if isinstance(value, int) or value.strip().isdecimal() else None
    if number is None or not 0 <= number < count:
        raise AnnotationError(place, f"the field {name!r} must be a class number from 0 to {count - 1}, got {value!r}")
    return number


def _subtitles_of(row: Any, place: str) -> list[dict[str, Any]]:
    """Return `text_s` in order of appearance, without empty texts."""
    subtitles = []
    for number, entry in enumerate(field_of(row, "text_s", list, place)):
        text = field_of(entry, "text", str, place)
        times = {}
        for name in ("start", "end"):
            second = entry.get(name)
            if second is not None and (isinstance(second, bool) or not isinstance(second, (int, float))):
                raise AnnotationError(place, f"subtitle {number} has the {name} {second!r}, expected seconds or null")
            times[name] = None if second is None or not math.isfinite(second) else float(second)
        if text.strip():
            subtitles.append({"start": times["start"], "end": times["end"], "text": text})
    return subtitles


def _span_of(row: Any, place: str) -> tuple[float | None, float | None]:
    """Return `span` in seconds. NaN, for the whole or for both ends, is an unknown span."""
    span = field_of(row, "span", (list, float, type(None)), place)
    if span is None or (isinstance(span, float) and math.isnan(span)):
        return None, None
    if (
        not isinstance(span, list)
        or len(span) != 2
        or not all(isinstance(second, (int, float)) and not isinstance(second, bool) for second in span)
    ):
        raise AnnotationError(place, f"the field 'span' must be two numbers of seconds or NaN, got {span!r}")
    start, end = float(span[0]), float(span[1])
    if math.isnan(start) or math.isnan(end):
        return None, None
    if not 0 <= start < end < math.inf:
        raise AnnotationError(place, f"the span [{start:g}, {end:g}] must rise and begin at 0 seconds or later")
    return start, end


__all__ = [
    "OUTSIDE_VOCABULARY",
    "load_activitynet_qa",
    "load_classification",
    "load_how2qa",
    "load_violin",
]

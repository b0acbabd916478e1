# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Layouts of question answering data sets, as their makers published them.

- ActivityNet-QA: `train_q.json` with `train_a.json` and so on (`question_id` joins them), or lists of `{"video_id",
  "question", "answer"}` in which question and answer may be lists. The classes are the most frequent answers of the
  training split, 1,654 in the release; ties go by the alphabet. A training row with another answer is left out; an
  evaluation row keeps its place with the answer -1, which counts as wrong.
- How2QA: `how2QA_*_release.csv`, without a header: video, `[start:end]`, three wrong answers, question, right answer.
  The right answer's place is drawn from the row's text.
- VIOLIN: `violin_annotation.json`, `{clip: {"file", "split", "statement": [[real, fake], ...], "sub", ...}}`: two rows
  for every pair. Of an entry of `sub` the first cell is the text; numbers after it are taken for its seconds.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.annotations import read_json_lines
from ..data.subtitles import SubtitleError, SubtitleFolder, read_cues, spoken_cues
from .annotation_files import Source, TaskRow, expect, normal_split, read_csv, read_json, split_of

SPAN = re.compile(r"\s*\[\s*([\d.]+|nan)\s*:\s*([\d.]+|nan)\s*\]\s*", re.IGNORECASE)


def activitynet_qa_rows(source: Source, num_answers: int) -> tuple[list[TaskRow], list[str]]:
    """Read ActivityNet-QA.

    Args:
        source: Files of either layout.
        num_answers: Largest size of the vocabulary.

    Returns:
        Rows, and the vocabulary: class number to answer.

    Raises:
        ValueError: If there is no training split to take the vocabulary from.
    """
    asked = [(split_of(path), *one) for path in source.files("*_q.json", "*.json") for one in _questions(path)]
    frequency = Counter(answer for split, _, _, answer in asked if split == "train")
    if not frequency:
        raise ValueError(f"{source.path} has no training split, from whose answers the vocabulary is made")
    vocabulary = [answer for answer, _ in sorted(frequency.items(), key=lambda one: (-one[1], one[0]))][:num_answers]
    number = {answer: place for place, answer in enumerate(vocabulary)}
    rows = []
    for split, video, question, answer in asked:
        label = number.get(answer, -1)
        if label < 0 and split == "train":
            source.leave_out(split, video, f"its answer is not among the {len(vocabulary)} most frequent ones")
        else:
            row = {"question": question, "answer": label}
            rows.append(TaskRow(split, video, "video_name", row if label >= 0 else {**row, "answer_text": answer}))
    return rows, vocabulary


def how2qa_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of How2QA, with subtitles if the source has them."""
    subtitles = SubtitleFiles(source)
    for path in source.files("*how2QA*.csv", "*.csv"):
        split = split_of(path)
        for line, cells in read_csv(path):
            if len(cells) != 7:
                raise ValueError(f"{path}:{line}: {len(cells)} cells, expected video, span, 3 wrong answers, question, "
                                 "right answer")  # fmt: skip
            video, span, *wrong, question, right = (cell.strip() for cell in cells)
            found = SPAN.fullmatch(span)
            if found is None:
                raise ValueError(f"{path}:{line}: the span {span!r} is not of the form [start:end]")
            start, end = (float(second) for second in found.groups())
            known = start == start and end == end
            if known and start >= end:
                source.leave_out(split, video, f"{path.name}:{line}: the span [{start:g}, {end:g}] does not rise")
                continue
            if not question or not right or not all(wrong):
                source.leave_out(split, video, f"{path.name}:{line}: the question or an answer is empty")
                continue
            place = zlib.crc32("\t".join(cells).encode()) % 4
            row = {
                "span": [start, end] if known else float("nan"),
                "text_q": question,
                "text_a": [*wrong[:place], right, *wrong[place:]],
                "text_s": subtitles.of(video),
                "answer_idx": place,
            }
            yield TaskRow(split, video, "clip_id", row, (start, end) if known else None)


def violin_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of VIOLIN: one per real and per fake statement of a clip."""
    for path in source.files("violin_annotation.json", "*.json"):
        for clip_id, clip in expect(read_json(path), dict, str(path)).items():
            where = f"{path}: {clip_id}"
            missing = [name for name in ("split", "statement", "sub") if name not in expect(clip, dict, where)]
            if missing:
                raise ValueError(f"{where} lacks {missing}")
            split = normal_split(clip["split"])
            text_s = [_violin_subtitle(entry, where) for entry in clip["sub"]]
            video = str(clip.get("file") or clip_id)
            for number, pair in enumerate(clip["statement"]):
                if len(pair) != 2:
                    raise ValueError(f"{where}: statement {number} must be a real and a fake one, got {pair!r}")
                for answer, statement in zip((1, 0), pair, strict=True):
                    if str(statement).strip():
                        row = {"text_q": str(statement).strip(), "text_s": text_s, "answer": answer}
                        yield TaskRow(split, video, "clip_id", row)
                    else:
                        source.leave_out(split, video, f"statement {number} of {clip_id} is empty")


class SubtitleFiles:
    """Subtitles of videos, from a folder of subtitle files or from a JSON lines file.

    A JSON lines file has `{"vid_name" or "video_id" or "clip_id": ..., "sub" or "text_s": [{"start", "end", "text"}]}`
    (the layout of TVQA and of HERO's How2QA). Problems with single files and cues go to `source.subtitle_problems`.

    Args:
        source: Its `subtitles` are a folder, a file, or `None`: then no video has any.

    Raises:
        ValueError: If there is neither, or the file has another layout.
    """

    def __init__(self, source: Source) -> None:
        path = source.subtitles
        self.problems = source.subtitle_problems
        self.loaded: dict[str, list[dict[str, Any]]] = {}
        self.folder = SubtitleFolder(path) if path is not None and path.is_dir() else None
        if path is None or self.folder is not None:
            return
        if not path.is_file():
            raise ValueError(f"there are no subtitles at {path}")
        for place, row in read_json_lines(path):
            name = next((row[key] for key in ("vid_name", "video_id", "clip_id") if key in row), None)
            entries = row.get("sub", row.get("text_s"))
            if name is None or not isinstance(entries, list):
                raise ValueError(f"{place}: expected a video's name and its list of subtitles, got {sorted(row)}")
            self.loaded[name] = [{key: one.get(key) for key in ("start", "end", "text")} for one in entries]

    def of(self, video: str) -> list[dict[str, Any]]:
        """Return the subtitles of a video, `{"start", "end", "text"}`; empty if there is no usable file."""
        if video not in self.loaded:
            self.loaded[video] = self._read(video)
        return self.loaded[video]

    def _read(self, video: str) -> list[dict[str, Any]]:
        found = self.folder.find(video) if self.folder else []
        if len(found) > 1 and self.folder:
            found = self.folder.find(video, "en") or found
        if not found:
            return []
        if len(found) > 1:
            self.problems.append((video, f"several subtitle files: {', '.join(path.name for path in found)}"))
            return []
        try:
            cues, wrong = read_cues(found[0])
        except SubtitleError as error:
            self.problems.append((video, str(error)))
            return []
        self.problems += [(video, f"{found[0]}:{one.line + 1}: {one.kind}: {one.detail}") for one in wrong]
        return [{"start": cue.start / 1000, "end": cue.end / 1000, "text": cue.text} for cue in spoken_cues(cues)]


def _questions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield `(video, question, answer)` of one file of ActivityNet-QA in either layout."""
    entries = expect(read_json(path), list, str(path))
    answers_path = path.with_name(path.name.replace("_q.json", "_a.json"))
    if path.name.endswith("_q.json"):
        answer_of = {entry["question_id"]: entry["answer"] for entry in read_json(answers_path)}
        for entry in entries:
            if entry["question_id"] not in answer_of:
                raise ValueError(f"{answers_path} has no answer to the question {entry['question_id']!r} of {path}")
            name = entry["video_name"]
            yield (
                (name if name.startswith("v_") else f"v_{name}"),
                entry["question"],
                str(answer_of[entry["question_id"]]),
            )
        return
    for number, entry in enumerate(entries):
        missing = [name for name in ("video_id", "question", "answer") if name not in entry]
        if missing:
            raise ValueError(f"{path}: entry {number} lacks {missing}, it has {sorted(entry)}")
        questions, answers = entry["question"], entry["answer"]
        if isinstance(questions, str):
            questions, answers = [questions], [answers]
        if len(questions) != len(answers):
            raise ValueError(f"{path}: entry {number} has {len(questions)} questions and {len(answers)} answers")
        for question, answer in zip(questions, answers, strict=True):
            yield entry["video_id"], question, str(answer)


def _violin_subtitle(entry: Any, where: str) -> dict[str, Any]:
    cells = [entry] if isinstance(entry, str) else list(expect(entry, list, f"{where}: sub"))
    if not cells or not isinstance(cells[0], str):
        raise ValueError(f"{where}: a subtitle must begin with its text, got {json.dumps(entry)[:80]}")
    seconds = [float(cell) for cell in cells[1:3] if isinstance(cell, (int, float)) and not isinstance(cell, bool)]
    start, end = seconds if len(seconds) == 2 else (None, None)
    return {"start": start, "end": end, "text": cells[0].strip()}

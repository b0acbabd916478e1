# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Conversion of an original annotation and a folder of videos into JSON lines that the recipes read, with a report.

Writes `SPLIT.jsonl` per split, `report.json`, and for ActivityNet-QA `answers.json`. Rows whose video is missing or
broken are left out, counted and named in the report. A split of which nothing is left is an error. The report is
written last, and every file appears under its name only when it is complete. Memory: the annotation and the list of
video files.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .annotation_files import Source, TaskRow
from .class_layouts import coin_rows, lvu_rows
from .paragraph_layouts import activitynet_rows, condensed_movie_rows, didemo_rows, queryd_rows
from .question_layouts import activitynet_qa_rows, how2qa_rows, violin_rows
from .video_folder import VideoFolder, VideoPlace, check_videos

LAYOUTS: dict[str, Callable[[Source], Iterable[TaskRow]]] = {
    "activitynet": activitynet_rows,
    "didemo": didemo_rows,
    "queryd": queryd_rows,
    "condensed_movie": condensed_movie_rows,
    "how2qa": how2qa_rows,
    "violin": violin_rows,
    "coin": coin_rows,
    "lvu": lvu_rows,
}
TASKS = (*LAYOUTS, "activitynet_qa")
NUM_ANSWERS = 1654
"""Number of answers of ActivityNet-QA's classifier (released `actnet_qa.yaml`)."""


@dataclass
class SplitReport:
    """Counts of one split.

    Attributes:
        rows: Rows in the source.
        written: Rows in the output.
        videos: Distinct videos in the output.
        missing: Rows whose video is missing.
        broken: Rows whose video does not decode.
        dropped: Rows that could not be used for another reason.
    """

    rows: int = 0
    written: int = 0
    videos: int = 0
    missing: int = 0
    broken: int = 0
    dropped: int = 0


@dataclass
class PrepareReport:
    """Report of a conversion.

    Attributes:
        task: One of `TASKS`.
        check: Check of the videos, `"decode"` or `"exists"`.
        splits: Counts by split.
        problems: One entry per video, row or subtitle that was left out: kind, split, video and reason.
        num_answers: Size of the answer vocabulary, for ActivityNet-QA.
        outside_vocabulary: Number of evaluation rows per split whose answer is not in the vocabulary.
    """

    task: str
    check: str
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    num_answers: int | None = None
    outside_vocabulary: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        """Format one line per split, then the first problems."""
        names = ("rows", "written", "videos", "missing", "broken", "dropped")
        lines = [f"{'split':<8}" + "".join(f"{name:>10}" for name in names)]
        for split, counts in self.splits.items():
            lines.append(f"{split:<8}" + "".join(f"{getattr(counts, name):>10,}" for name in names))
        if self.num_answers is not None:
            outside = ", ".join(f"{count:,} of {split}" for split, count in self.outside_vocabulary.items()) or "none"
            lines.append(f"{self.num_answers:,} answers; rows whose answer is none of them: {outside}")
        for problem in self.problems[:10]:
            lines.append(f"{problem['kind']}: {problem['video']} ({problem['split']}): {problem['reason']}")
        if len(self.problems) > 10:
            lines.append(f"... and {len(self.problems) - 10:,} more, all in report.json")
        return "\n".join(lines)


def prepare(
    task: str,
    source: Source,
    videos: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    check: str = "decode",
    workers: int = 4,
    num_answers: int = NUM_ANSWERS,
) -> PrepareReport:
    """Write the rows of a task in the released format.

    Args:
        task: One of `TASKS`.
        source: The original annotation.
        videos: Folder of the videos.
        output: Output folder; files of an earlier call are replaced.
        check: `"decode"` decodes frames all over every video; `"exists"` checks that it is there.
        workers: Number of videos that are read at once.
        num_answers: Largest size of ActivityNet-QA's vocabulary.

    Raises:
        ValueError: If task or check is unknown, the annotation has another layout, or nothing is left of a split.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if check not in ("decode", "exists"):
        raise ValueError(f'check must be "decode" or "exists", got {check!r}')
    report = PrepareReport(task, check)
    vocabulary: list[str] = []
    if task == "activitynet_qa":
        rows, vocabulary = activitynet_qa_rows(source, num_answers)
        report.num_answers = len(vocabulary)
    else:
        rows = list(LAYOUTS[task](source))
    for split, video, reason in source.problems:
        counts = report.splits.setdefault(split, SplitReport())
        counts.rows += 1
        counts.dropped += 1
        report.problems.append({"kind": "dropped", "split": split, "video": video, "reason": reason})
    report.problems += [
        {"kind": "subtitle", "split": "", "video": video, "reason": reason}
        for video, reason in source.subtitle_problems
    ]
    if not rows:
        raise ValueError(f"{source.path} holds no row that can be used; {len(source.problems)} were left out")

    kept = _with_videos(rows, VideoFolder(Path(videos)), check, workers, report)
    for split, counts in report.splits.items():
        if counts.rows and not counts.written:
            raise ValueError(
                f"nothing is left of the {counts.rows} rows of {split!r}: {counts.missing} videos are missing, "
                f"{counts.broken} do not decode, {counts.dropped} rows are unusable; first: {report.problems[0]}"
            )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in kept.items():
        _write(folder / f"{split}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        outside = sum(line.get("answer") == -1 for line in lines)
        if outside:
            report.outside_vocabulary[split] = outside
    if vocabulary:
        _write(folder / "answers.json", json.dumps(vocabulary, indent=0, ensure_ascii=False) + "\n")
    _write(folder / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    return report


def _with_videos(
    rows: list[TaskRow], folder: VideoFolder, check: str, workers: int, report: PrepareReport
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows whose video can be used, by split, with the name of its file."""
    found: list[tuple[TaskRow, VideoPlace]] = []
    told: Counter[tuple[str, str]] = Counter()

    def note(kind: str, row: TaskRow, reason: str) -> None:
        if not told[row.split, row.video]:
            report.problems.append({"kind": kind, "split": row.split, "video": row.video, "reason": reason})
        told[row.split, row.video] += 1

    for row in rows:
        counts = report.splits.setdefault(row.split, SplitReport())
        counts.rows += 1
        try:
            found.append((row, folder.find(row.video, row.span)))
        except ValueError as error:
            counts.missing += 1
            note("missing", row, str(error))
    broken = check_videos(folder.root, (place.path for _, place in found), check, workers)
    kept: dict[str, list[dict[str, Any]]] = {}
    names: dict[str, set[str]] = {}
    for row, place in found:
        counts = report.splits[row.split]
        if place.path in broken:
            counts.broken += 1
            note("broken", row, f"{place.path}: {broken[place.path]}")
            continue
        counts.written += 1
        name = place.path.removesuffix(".mp4")
        names.setdefault(row.split, set()).add(name)
        kept.setdefault(row.split, []).append({row.id_field: name, **_within(row.row, place)})
    for split, different in names.items():
        report.splits[split].videos = len(different)
    return kept


def _within(row: dict[str, Any], place: VideoPlace) -> dict[str, Any]:
    """Count span and subtitles of a row from the second at which a segment begins; leave out subtitles outside."""
    if place.start == 0 and math.isinf(place.end):
        return row
    moved = dict(row)
    if isinstance(row.get("span"), list):
        moved["span"] = [round(second - place.start, 3) for second in row["span"]]
    if row.get("text_s"):
        inside = [one for one in row["text_s"] if one["start"] is not None and one["end"] is not None]
        moved["text_s"] = [
            {**one, "start": round(one["start"] - place.start, 3), "end": round(one["end"] - place.start, 3)}
            for one in inside
            if one["end"] > place.start and one["start"] < place.end
        ]
    return moved


def _write(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)

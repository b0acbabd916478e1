# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Annotation files of a source folder: their splits, lists of ids, and problems.

A layout (`paragraph_layouts`, `question_layouts`, `class_layouts`) reads a `Source` and yields `TaskRow`s. A row that
it cannot use goes to `Source.problems` with its file, so that nothing is left out without a line in the report.
Memory: the annotation files, as Python objects.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPLIT_NAMES = re.compile(r"(?<![a-z])(train(?:ing)?|val(?:idation)?(?:_?[12])?|test(?:ing)?)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class TaskRow:
    """One row in a released format, before its video is searched.

    Attributes:
        split: `train`, `val`, `val1`, `val2` or `test`.
        video: Name of the video in the source.
        id_field: Field of the row that will name the video's file.
        row: The other fields.
        span: Seconds that the row is about, if the video may also be stored as a segment around them.
    """

    split: str
    video: str
    id_field: str
    row: dict[str, Any]
    span: tuple[float, float] | None = None


@dataclass
class Source:
    """Annotation that the user gave.

    Attributes:
        path: A file, or a folder to search.
        lists: Split name to a file of video ids, one per line, that makes up the split.
        order: `"file"`, sentences as the annotation has them, or `"time"`, by the second they begin at.
        subtitles: File or folder of subtitles.
        problems: `(split, video, reason)` of rows that were left out.
        subtitle_problems: `(video, reason)` of subtitles that were left out.
    """

    path: Path
    lists: dict[str, Path] = field(default_factory=dict)
    order: str = "file"
    subtitles: Path | None = None
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    subtitle_problems: list[tuple[str, str]] = field(default_factory=list)

    def files(self, *patterns: str) -> list[Path]:
        """List the files that fit a pattern; the first pattern that fits any counts.

        Raises:
            ValueError: If there is none.
        """
        if self.path.is_file():
            return [self.path]
        for pattern in patterns:
            found = sorted(path for path in self.path.glob(pattern) if path.is_file())
            if found:
                return found
        raise ValueError(f"{self.path} has no file like {' or '.join(patterns)}")

    def leave_out(self, split: str, video: str, reason: str) -> None:
        """Record a row that is left out, and the reason."""
        self.problems.append((split, video, reason))

    def listed(self) -> dict[str, list[str]]:
        """Read the video ids of each split that has a list, in the order of the list.

        Raises:
            ValueError: If a list is missing, empty, or names an id twice.
        """
        lists = {}
        for split, path in self.lists.items():
            if not path.is_file():
                raise ValueError(f"there is no list of the split {split!r} at {path}")
            names = path.read_text(encoding="utf-8").split()
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{path}: expected at least one id and each only once, got {len(names)} ids")
            lists[split] = names
        return lists


def split_of(path: Path) -> str:
    """Return the split that a file name states (`val_1.json` is `val1`); the last such word counts.

    Raises:
        ValueError: If it states none.
    """
    found = SPLIT_NAMES.findall(path.stem)
    if not found:
        raise ValueError(f"{path}: the file's name says nothing of a split (train, val, val_1, val_2, test)")
    return normal_split(found[-1])


def normal_split(name: str) -> str:
    """Shorten `training`, `validation`, `testing` and `val_1` to `train`, `val`, `test` and `val1`."""
    word = name.lower().replace("_", "").replace("training", "train").replace("testing", "test")
    return word.replace("validation", "val").replace("validate", "val")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is no JSON, or a pickle.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{path} is a pickle, which can run code when it is read: convert it to JSON where you trust it"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number, cells)` of every line that is not blank, counted from 1."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header.

    Raises:
        ValueError: If a row has another number of cells than the header.
    """
    lines = read_csv(path)
    _, header = next(lines, (0, []))
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(f"{path}:{number}: {len(cells)} cells, expected {len(header)} ({', '.join(header)})")
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def expect(value: Any, kind: type, where: str) -> Any:
    """Return the value if it has the expected type.

    Raises:
        ValueError: If it has another type.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, got {type(value).__name__}: {str(value)[:80]!r}")
    return value

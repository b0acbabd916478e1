# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Where prepared rows come from: files of a source folder, their splits, lists of ids, and what could not be used.

A layout (`paragraph_layouts`, `question_layouts`, `class_layouts`) reads a `Source` and gives `TaskRow`s; a row that it
cannot use goes to `Source.problems` with the file it stands in, so that nothing is left out without a line in the
report. Memory: the annotation files, as Python objects.
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
    """One row in a released format, before its video is looked for.

    Attributes:
        split: `train`, `val`, `val1`, `val2` or `test`.
        video: Name of the video in the source.
        id_field: Field of the row that will name the video's file.
        row: The other fields.
        span: Seconds that the row is about, where the video may also be stored as a segment around them.
    """

    split: str
    video: str
    id_field: str
    row: dict[str, Any]
    span: tuple[float, float] | None = None


@dataclass
class Source:
    """What the user pointed at.

    Attributes:
        path: A file, or a folder that is searched.
        lists: Split name to a file of video ids, one per line, that makes up the split.
        order: `"file"`, sentences as the annotation has them, or `"time"`, by the second they begin at.
        subtitles: File or folder of subtitles.
        problems: `(split, video, reason)` of what was left out.
    """

    path: Path
    lists: dict[str, Path] = field(default_factory=dict)
    order: str = "file"
    subtitles: Path | None = None
    problems: list[tuple[str, str, str]] = field(default_factory=list)

    def files(self, *patterns: str) -> list[Path]:
        """Files that fit one of the patterns, those of the first pattern that fits any.

        Raises:
            ValueError: Where there is none.
        """
        if self.path.is_file():
            return [self.path]
        for pattern in patterns:
            found = sorted(path for path in self.path.glob(pattern) if path.is_file())
            if found:
                return found
        raise ValueError(f"{self.path} has no file like {' or '.join(patterns)}")

    def leave_out(self, split: str, video: str, reason: str) -> None:
        """Write down what is not taken, and why."""
        self.problems.append((split, video, reason))

    def listed(self) -> dict[str, list[str]]:
        """Video ids of each split that has a list, in the order of the list.

        Raises:
            ValueError: For a list that is missing, empty, or names an id twice.
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
    """The split that a file's name speaks of (`val_1.json` is `val1`); the last word of the kind counts.

    Raises:
        ValueError: Where it speaks of none.
    """
    found = SPLIT_NAMES.findall(path.stem)
    if not found:
        raise ValueError(f"{path}: the file's name says nothing of a split (train, val, val_1, val_2, test)")
    return normal_split(found[-1])


def normal_split(name: str) -> str:
    """`training`, `validation`, `testing` and `val_1` under their short names."""
    word = name.lower().replace("_", "").replace("training", "train").replace("testing", "test")
    return word.replace("validation", "val").replace("validate", "val")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: Where it is none, or a pickle.
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
    """`(line number, cells)` of every line that is not blank, counted from 1."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        ValueError: For a row with other cells than the header.
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
    """The value, where it is of the kind.

    Raises:
        ValueError: Where it is not.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, got {type(value).__name__}: {str(value)[:80]!r}")
    return value

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Layouts of video classification data sets, as their makers published them.

- COIN: `COIN.json`, `{"database": {video: {"recipe_type", "class", "subset", ...}}}`.
- LVU: `train.csv`, `val.csv`, `test.csv` of one task: a header, cells separated by spaces; the class number first, then
  its name, and the YouTube id second to last.
"""

from __future__ import annotations

from collections.abc import Iterator

from .annotation_files import Source, TaskRow, expect, normal_split, read_csv, read_json, split_of


def coin_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of COIN, with the name of the class in `class`."""
    for path in source.files("COIN.json", "*.json"):
        content = expect(read_json(path), dict, str(path))
        for video, entry in expect(content.get("database", content), dict, str(path)).items():
            missing = [
                name for name in ("recipe_type", "subset") if name not in expect(entry, dict, f"{path}: {video}")
            ]
            if missing:
                raise ValueError(f"{path}: {video} lacks {missing}, it has {sorted(entry)}")
            row = {"recipe_type": int(entry["recipe_type"]), "class": str(entry.get("class", ""))}
            yield TaskRow(normal_split(entry["subset"]), video, "video_id", row)


def lvu_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of one task of LVU, with the name of the class in `class`."""
    for path in source.files("*.csv"):
        split = split_of(path)
        for line, cells in read_csv(path, delimiter=" "):
            cells = [cell for cell in cells if cell]
            if line == 1:
                continue
            if len(cells) < 3 or not cells[0].isdecimal():
                raise ValueError(
                    f"{path}:{line}: expected a class number, its name, ..., a video and its end, got {cells}"
                )
            yield TaskRow(split, cells[-2], "video_id", {"recipe_type": int(cells[0]), "class": cells[1]})

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The rows of a corpus as files: Parquet for work, the released JSON lines for the loaders of pre-training.

Both hold the same rows in the same order. `data/train-00000-of-00042.parquet` is what `datasets.load_dataset` looks for
in a folder; `jsonl/train-00000-of-00042.jsonl` is read by `lfvila_hf.data.annotations.load_pretraining`. Parquet is
written with pyarrow, which `datasets` brings along, and holds one row group in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .plan import SPLITS, BuildPlan
from .spills import read_spill
from .text import count_words

ROW_GROUP = 1000


def plan_files(rows: Sequence[dict[str, int]], rows_per_file: int) -> list[dict[str, Any]]:
    """The output files: for each its split, number, and which rows of which partitions are in it.

    Args:
        rows: Rows of each split, per partition.
        rows_per_file: Most rows of a file.

    Returns:
        Dictionaries with `split`, `number`, `of`, and `slices` as lists of partition, first row and number of rows.
        A split without rows has no file, except that there is always one for training.
    """
    files: list[dict[str, Any]] = []
    for split in SPLITS[::-1]:
        total = sum(bucket[split] for bucket in rows)
        count = max(-(-total // rows_per_file), 1 if split == "train" else 0)
        of_split: list[dict[str, Any]] = [
            {"split": split, "number": number, "of": count, "slices": []} for number in range(count)
        ]
        place = 0
        for bucket, here in enumerate(rows):
            done = 0
            while done < here[split]:
                number = place // rows_per_file
                take = min(here[split] - done, (number + 1) * rows_per_file - place)
                of_split[number]["slices"].append([bucket, done, take])
                done += take
                place += take
        files.extend(of_split)
    return files


def write_file(plan: BuildPlan, file: dict[str, Any]) -> list[dict[str, Any]]:
    """Write one output file in both forms.

    Returns:
        Path (relative to the corpus), rows, bytes and SHA-256 of each.
    """
    import pyarrow.parquet as parquet

    name = f"{file['split']}-{file['number']:05d}-of-{file['of']:05d}"
    table_path = Path(plan.output) / "data" / f"{name}.parquet"
    lines_path = Path(plan.output) / "jsonl" / f"{name}.jsonl"
    schema = corpus_schema()
    total = 0
    with (
        parquet.ParquetWriter(table_path, schema, compression="zstd") as writer,
        lines_path.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        group: list[dict[str, Any]] = []
        for row in _rows_of(plan, file):
            released = [{"clip_id": clip_id, "text": text} for clip_id, _, _, text in row["clips"]]
            lines.write(json.dumps(released, ensure_ascii=False) + "\n")
            group.append(table_row(row))
            total += 1
            if len(group) == ROW_GROUP:
                writer.write_table(_table(group, schema))
                group = []
        if group or not total:
            writer.write_table(_table(group, schema))
    return [
        {"path": f"{path.parent.name}/{path.name}", "rows": total, "bytes": os.path.getsize(path), "sha256": _sha(path)}
        for path in (table_path, lines_path)
    ]


def corpus_schema() -> Any:
    """The pyarrow schema of the Parquet files."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    return pyarrow.schema(
        [
            ("id", text),
            ("video_id", text),
            ("url", text),
            ("category", text),
            ("clip_ids", pyarrow.list_(text)),
            ("starts", pyarrow.list_(number)),
            ("ends", pyarrow.list_(number)),
            ("texts", pyarrow.list_(text)),
            ("num_clips", pyarrow.int32()),
            ("num_words", pyarrow.int32()),
            ("seconds", number),
            ("duplicate_of", text),
        ]
    )


def table_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the stages as one of the Parquet files; times become seconds."""
    clip_ids, starts, ends, texts = zip(*row["clips"], strict=True)
    return {
        "id": row["id"],
        "video_id": row["video_id"],
        "url": row["url"] or None,
        "category": row["category"] or None,
        "clip_ids": list(clip_ids),
        "starts": [start / 1000 for start in starts],
        "ends": [end / 1000 for end in ends],
        "texts": list(texts),
        "num_clips": len(clip_ids),
        "num_words": sum(map(count_words, texts)),
        "seconds": (max(ends) - min(starts)) / 1000,
        "duplicate_of": row["duplicate_of"],
    }


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema)


def _rows_of(plan: BuildPlan, file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part = SPLITS.index(file["split"])
    for bucket, first, take in file["slices"]:
        for line in read_spill(plan.path("finished", bucket), part).splitlines()[first : first + take]:
            yield json.loads(line)


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

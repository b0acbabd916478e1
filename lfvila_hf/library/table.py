# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The table of an index: one row per segment, in Parquet files with a fixed schema.

| column | type | meaning |
|---|---|---|
| `video_id` | string | first 16 hexadecimal digits of the SHA-1 of `path` |
| `path` | string | the video: relative to the library's folder (with `/`), absolute where it has none |
| `segment` | int32 | number of the segment in the video, from 0 |
| `start`, `end` | float64 | seconds of the segment on the video |
| `duration` | float64 | seconds of the whole video |
| `segment_embedding` | float32[D] | video feature of the segment, L2-normalised |
| `clip_times` | float64[K + 1] | second at which each clip starts, then the end of the segment |
| `clip_embeddings` | float32[K * D] | K clip features one after the other, each L2-normalised |
| `thumbnail` | struct{bytes, path} | JPEG of the middle frame; `datasets` reads it as `Image` |
| `file_size`, `file_mtime_ns` | int64 | the video file as it was when it was read |

A model without temporal alignment has no clip features, and its tables neither of the two clip columns. The schema's
metadata hold `lfvila_hf` (format number, D, K) and `huggingface`, so that `datasets.load_dataset("parquet", ...)` gives
typed features. Lists are of fixed size, so vector stores take the columns as they are (docs/library.md imports them
into LanceDB). Row groups are small and vectors are stored plain: few rows can be read without reading the rest.

Letters: N rows, K clips, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = 1
ROWS_PER_GROUP = 64
HEAVY_COLUMNS = ("segment_embedding", "clip_embeddings", "thumbnail")
THUMBNAIL_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@dataclass(frozen=True)
class TableShape:
    """The two numbers that the types of the columns depend on.

    Args:
        width: D.
        num_clips: K; 0 for a model without clip features.
    """

    width: int
    num_clips: int

    def schema(self) -> pa.Schema:
        """The Arrow schema, with metadata for `datasets`."""
        columns: dict[str, Any] = {
            "video_id": pa.string(),
            "path": pa.string(),
            "segment": pa.int32(),
            "start": pa.float64(),
            "end": pa.float64(),
            "duration": pa.float64(),
            "segment_embedding": pa.list_(pa.float32(), self.width),
        }
        if self.num_clips:
            columns["clip_times"] = pa.list_(pa.float64(), self.num_clips + 1)
            columns["clip_embeddings"] = pa.list_(pa.float32(), self.num_clips * self.width)
        columns |= {"thumbnail": THUMBNAIL_TYPE, "file_size": pa.int64(), "file_mtime_ns": pa.int64()}
        own = {"format": FORMAT, "width": self.width, "num_clips": self.num_clips}
        features = {"info": {"features": {name: _feature(kind) for name, kind in columns.items()}}}
        return pa.schema(columns, metadata={"lfvila_hf": json.dumps(own), "huggingface": json.dumps(features)})


def _feature(kind: Any) -> dict[str, Any]:
    """A column as `datasets` writes it down."""
    if kind == THUMBNAIL_TYPE:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type), "length": kind.list_size}
    return {"_type": "Value", "dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind))}


def video_id(path: str) -> str:
    """The id of a video in a library."""
    return hashlib.sha1(path.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FileStamp:
    """What tells whether a file is still the one that was read.

    Args:
        size: Bytes.
        mtime_ns: Time of the last change.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: str | Path) -> FileStamp:
        """The stamp of a file on disk."""
        status = Path(file).stat()
        return cls(status.st_size, status.st_mtime_ns)


def make_rows(
    path: str,
    stamp: FileStamp,
    duration: float,
    spans: Sequence[tuple[float, float]],
    segment_embeddings: np.ndarray,
    clip_embeddings: np.ndarray | None,
    clip_times: Sequence[Sequence[float]] | None,
    thumbnails: Sequence[bytes],
) -> pa.Table:
    """The rows of one video.

    Args:
        path: As the table names it.
        stamp: Of the file.
        duration: Seconds of the video.
        spans: Start and end of each of the N segments.
        segment_embeddings: `(N, D)`.
        clip_embeddings: `(N, K, D)`, or `None` for a model without.
        clip_times: `(N, K + 1)` seconds.
        thumbnails: N JPEGs.
    """
    count, width = segment_embeddings.shape
    shape = TableShape(width, 0 if clip_embeddings is None else clip_embeddings.shape[1])
    schema = shape.schema()
    columns: dict[str, Any] = {
        "video_id": [video_id(path)] * count,
        "path": [path] * count,
        "segment": list(range(count)),
        "start": [span[0] for span in spans],
        "end": [span[1] for span in spans],
        "duration": [duration] * count,
        "segment_embedding": _lists(segment_embeddings, schema.field("segment_embedding").type),
        "thumbnail": [{"bytes": picture, "path": None} for picture in thumbnails],
        "file_size": [stamp.size] * count,
        "file_mtime_ns": [stamp.mtime_ns] * count,
    }
    if clip_embeddings is not None:
        columns["clip_embeddings"] = _lists(
            clip_embeddings.reshape(count, -1), schema.field("clip_embeddings").type
        )  # (N, K*D)
        columns["clip_times"] = [list(times) for times in clip_times or []]
    return pa.Table.from_pydict(columns, schema=schema)


def _lists(array: np.ndarray, kind: Any) -> pa.Array:
    values = pa.array(np.ascontiguousarray(array, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, type=kind)


def vectors_of(table: pa.Table, column: str) -> np.ndarray:
    """A column of lists of one size as an array `(N, size)`."""
    size = table.schema.field(column).type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table.column(column).chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.float32)
    return flat.reshape(-1, size)  # (N, size)


def table_shape(schema: pa.Schema) -> TableShape:
    """D and K of a table.

    Raises:
        ValueError: This is no table of an index, or one of another format.
    """
    try:
        own: Mapping[str, Any] = json.loads(schema.metadata[b"lfvila_hf"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("this Parquet file is no table of an index: its schema has no `lfvila_hf` metadata") from None
    if own.get("format") != FORMAT:
        raise ValueError(f"the table has format {own.get('format')!r}, this version reads format {FORMAT}")
    return TableShape(int(own["width"]), int(own["num_clips"]))


def write_table(table: pa.Table, file: Any) -> None:
    """Write a Parquet file; equal tables give equal bytes, wherever their rows came from."""
    schema = table_shape(table.schema).schema()
    pq.write_table(
        # Rows that were read from a file are in other chunks, and their schema has notes of the reader's.
        pa.Table.from_batches(table.select(schema.names).cast(schema).combine_chunks().to_batches(), schema=schema),
        file,
        row_group_size=ROWS_PER_GROUP,
        compression={name: "none" if name in HEAVY_COLUMNS else "zstd" for name in schema.names},
        use_dictionary=["video_id", "path"],
        write_statistics=["path", "start", "end"],
    )


def read_table(file: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of an index, or some of its columns."""
    return pq.read_table(file, columns=None if columns is None else list(columns), memory_map=True)


def read_rows(file: str | Path, rows: Sequence[int], column: str) -> list[Any]:
    """One column of single rows, reading only the row groups that hold them."""
    with pq.ParquetFile(file, memory_map=True) as opened:
        groups: dict[int, Any] = {}
        values = []
        for row in rows:
            group, place = divmod(row, ROWS_PER_GROUP)
            if group not in groups:
                groups[group] = opened.read_row_group(group, columns=[column]).column(column)
            values.append(groups[group][place].as_py())
    return values

"""The table of an index: its schema, what `datasets` makes of it, single rows, and equal bytes for equal rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lfvila_hf.library.segments import thumbnail
from lfvila_hf.library.table import (
    ROWS_PER_GROUP,
    FileStamp,
    TableShape,
    make_rows,
    read_rows,
    read_table,
    table_shape,
    vectors_of,
    video_id,
    write_table,
)

WIDTH, CLIPS = 6, 2
PICTURES = [thumbnail(torch.full((3, 8, 16), value)) for value in (10.0, 200.0)]


def rows(count: int = 3, clips: int = CLIPS, path: str = "a/b.mp4") -> pa.Table:
    generator = np.random.default_rng(count)
    return make_rows(
        path,
        FileStamp(10, 2**60 + 1),
        30.0,
        [(float(n), n + 10.0) for n in range(count)],
        generator.random((count, WIDTH), dtype=np.float32),
        generator.random((count, clips, WIDTH), dtype=np.float32) if clips else None,
        [[n, n + 5.0, n + 10.0] for n in range(count)] if clips else None,
        [PICTURES[n % 2] for n in range(count)],
    )


def test_the_schema_is_the_documented_one() -> None:
    schema = TableShape(WIDTH, CLIPS).schema()
    assert {field.name: str(field.type) for field in schema} == {
        "video_id": "string",
        "path": "string",
        "segment": "int32",
        "start": "double",
        "end": "double",
        "duration": "double",
        "segment_embedding": "fixed_size_list<item: float>[6]",
        "clip_times": "fixed_size_list<item: double>[3]",
        "clip_embeddings": "fixed_size_list<item: float>[12]",
        "thumbnail": "struct<bytes: binary, path: string>",
        "file_size": "int64",
        "file_mtime_ns": "int64",
    }
    assert set(schema.names) - set(TableShape(WIDTH, 0).schema().names) == {"clip_times", "clip_embeddings"}
    assert table_shape(schema) == TableShape(WIDTH, CLIPS)


def test_vectors_come_back_as_they_went_in(tmp_path: Path) -> None:
    write_table(rows(5), tmp_path / "a.parquet")
    back = read_table(tmp_path / "a.parquet")
    assert back.equals(rows(5)) and back.schema.equals(TableShape(WIDTH, CLIPS).schema())
    generator = np.random.default_rng(5)
    assert np.array_equal(vectors_of(back, "segment_embedding"), generator.random((5, WIDTH), dtype=np.float32))
    clips = generator.random((5, CLIPS, WIDTH), dtype=np.float32)
    assert np.array_equal(vectors_of(back, "clip_embeddings").reshape(5, CLIPS, WIDTH), clips)
    assert np.array_equal(vectors_of(back.slice(2, 2), "segment_embedding"), vectors_of(back, "segment_embedding")[2:4])
    assert vectors_of(back.slice(0, 0), "segment_embedding").shape == (0, WIDTH)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    write_table(rows(), tmp_path / "a.parquet")
    write_table(rows(), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_single_rows_are_read_from_their_row_groups(tmp_path: Path) -> None:
    count = 2 * ROWS_PER_GROUP + 5
    write_table(rows(count), tmp_path / "a.parquet")
    wanted = [count - 1, 0, ROWS_PER_GROUP, 1]
    assert read_rows(tmp_path / "a.parquet", wanted, "start") == [float(n) for n in wanted]
    assert read_rows(tmp_path / "a.parquet", [7], "thumbnail") == [{"bytes": PICTURES[1], "path": None}]


def test_datasets_reads_it_with_typed_features(tmp_path: Path) -> None:
    import datasets

    pytest.importorskip("PIL", reason="datasets decodes pictures with Pillow, which the extra app brings")
    write_table(rows(), tmp_path / "a.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert isinstance(loaded.features["thumbnail"], datasets.Image)
    assert loaded.features["segment_embedding"] == datasets.List(datasets.Value("float32"), length=WIDTH)
    assert loaded[1]["thumbnail"].size == (16, 8)
    assert loaded[1]["path"] == "a/b.mp4" and loaded[1]["start"] == 1.0


def test_a_video_id_depends_on_the_path_alone() -> None:
    assert video_id("a/b.mp4") == rows()["video_id"][0].as_py() != video_id("a/c.mp4")
    assert len(video_id("a")) == 16


def test_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="no table of an index"):
        table_shape(pa.schema({"a": pa.int8()}))
    other = TableShape(WIDTH, CLIPS).schema().with_metadata({"lfvila_hf": '{"format": 9}'})
    with pytest.raises(ValueError, match="has format 9, this version reads format 1"):
        table_shape(other)


def test_a_model_without_clips_has_no_clip_columns(tmp_path: Path) -> None:
    write_table(rows(clips=0), tmp_path / "a.parquet")
    assert table_shape(read_table(tmp_path / "a.parquet").schema) == TableShape(WIDTH, 0)

"""Rows from Parquet and tar shards: what comes out, who reads what, and where a resumed stream goes on.

Streams of annotation files are tested in test_datasets.py; the trainer on a stream in tests/training/test_trainer.py.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from small_corpus import make_processor, write_pretraining

from lfvila_hf.data.annotations import AnnotationError, load_pretraining
from lfvila_hf.data.datasets import PreTrainingReader
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.data.streaming import (
    PASSED_OVER,
    ResumableStream,
    stream_parquet,
    stream_webdataset,
    write_shards,
)

ROWS = 7
STREAMS = {"parquet": stream_parquet, "webdataset": stream_webdataset}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = list(load_pretraining(*write_pretraining(tmp_path_factory.mktemp("clips"), clip_counts=(2, 3, 2))))
    return [{**found[number % 3], "id": f"w_{number}", "place": f"rows:{number}"} for number in range(ROWS)]


class IdReader:
    """A reader that decodes nothing: rows whose name is in `broken` cannot be used in odd passes."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.broken = broken

    def __call__(self, row: dict[str, Any], epoch: int) -> Any:
        if row["id"] in self.broken and epoch % 2:
            raise AnnotationError(row["place"], "broken in this pass")
        return f"{epoch}:{row['id']}"


def taken(stream: ResumableStream, count: int) -> list[Any]:
    iterator = iter(stream)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_shards_hold_the_rows_and_their_clips(kind: str, rows: Any, tmp_path: Path) -> None:
    shards = write_shards(rows, tmp_path, kind, rows_per_shard=3)
    assert len(shards) == 3
    found = list(STREAMS[kind](str(tmp_path / "shard-*")))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row, original in zip(found, rows, strict=True):
        assert list(row["sentences"]) == original["sentences"]
        assert list(row["clips"]) == [Path(clip).read_bytes() for clip in original["clips"]]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_clips_out_of_shards_decode_as_the_files_do(kind: str, rows: Any, tmp_path: Path, tiny_tokenizer: Any) -> None:
    write_shards(rows, tmp_path, kind, rows_per_shard=4)
    reader = PreTrainingReader(make_processor(tiny_tokenizer), training=False)
    found = taken(ResumableStream(STREAMS[kind](str(tmp_path / "shard-*")), reader), ROWS)
    for sample, row in zip(found, rows, strict=True):
        expected = reader(row, 0)
        assert (sample.id, sample.sentences, sample.num_clips) == (row["id"], expected.sentences, 2)
        assert torch.equal(sample.pictures, expected.pictures) and sample.pictures.std() > 1


def test_parquet_rows_may_hold_paths(rows: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"id": ["w_0"], "clips": [["w_0.0.mp4"]], "sentences": [["one"]]}).to_parquet(
        tmp_path / "p.parquet"
    )
    (row,) = stream_parquet(tmp_path / "p.parquet", video_root="hf://datasets/org/name/")
    assert row["clips"] == ["hf://datasets/org/name/w_0.0.mp4"] and row["place"] == "w_0"


def test_shards_are_read_from_any_file_system(rows: Any, tmp_path: Path) -> None:
    (shard,) = write_shards(rows, tmp_path, "webdataset")
    with fsspec.open("memory://corpus/a.tar", "wb") as file:
        file.write(shard.read_bytes())
    assert [row["id"] for row in stream_webdataset("memory://corpus/*.tar")] == [row["id"] for row in rows]


@pytest.mark.parametrize("shards_of", [1, 2])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_share_every_pass_without_overlap_or_loss(
    shards_of: int, processes: int, workers: int, rows: Any, tmp_path: Path
) -> None:
    write_shards(rows, tmp_path, "webdataset", rows_per_shard=shards_of)
    unsplit = stream_webdataset(str(tmp_path / "*.tar"))
    reader: Any = IdReader()
    stream = ResumableStream(unsplit, reader, shuffle_seed=1, shuffle_buffer=3)
    passes: Counter[str] = Counter()
    for rank in range(processes):
        part = stream.for_process(rank, processes)
        loader = torch.utils.data.DataLoader(part, batch_size=None, num_workers=min(workers, part.num_shards))
        # Workers are not at the same place, so that a part's second pass begins before another one's first ends.
        iterator = iter(loader)
        passes.update(next(iterator) for _ in range(4 * ROWS))
    first = {name: count for name, count in passes.items() if name.startswith("0:")}
    assert len(first) == ROWS and set(first.values()) == {1}
    assert sum(name.startswith("1:") for name in passes) == ROWS


def test_passes_are_shuffled_and_the_same_again(rows: Any, tmp_path: Path) -> None:
    write_shards(rows, tmp_path, "webdataset", rows_per_shard=2)

    def order() -> list[str]:
        rows = stream_webdataset(str(tmp_path / "*.tar"))
        stream = ResumableStream(rows, IdReader(), shuffle_seed=1, shuffle_buffer=3)  # type: ignore[arg-type]  # as above
        return [name.partition(":")[2] for name in taken(stream, 2 * ROWS)]

    assert order() == order() and order()[:ROWS] != order()[ROWS:]
    assert sorted(order()[:ROWS]) == sorted(row["id"] for row in rows) != order()[:ROWS]


@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [1, 4, 7])
def test_a_resumed_stream_goes_on_with_the_very_next_row(
    batches: int, workers: int, journal: bool, rows: Any, tmp_path: Path
) -> None:
    """Two rows cannot be used in every second pass; those passes are shorter, and a resumed stream knows it."""
    write_shards(rows, tmp_path, "webdataset", rows_per_shard=2)
    decoded: list[str] = []

    class Reader(IdReader):
        def __call__(self, row: dict[str, Any], epoch: int) -> Any:
            decoded.append(row["id"])
            return super().__call__(row, epoch)

    def batches_of(done: int, count: int) -> list[Any]:
        unread = stream_webdataset(str(tmp_path / "*.tar"))
        skips = SkipLog("skip", 0.9, journal=tmp_path / "skipped.jsonl")
        place = tmp_path / "position.jsonl" if journal else None
        reader: Any = Reader(("w_1", "w_4"))
        stream = ResumableStream(unread, reader, skips, place, shuffle_seed=2, shuffle_buffer=3)
        stream.fast_forward(done, 2)
        loader = torch.utils.data.DataLoader(stream, batch_size=2, num_workers=workers, collate_fn=list)
        return [batch for batch, _ in zip(loader, range(count), strict=False)]

    whole = batches_of(0, 10)
    assert len({name for batch in whole for name in batch if "w_1" in name}) < len({n[0] for b in whole for n in b})
    decoded.clear()
    again = batches_of(batches, 10)
    assert again[:batches] == [[PASSED_OVER, PASSED_OVER]] * batches
    assert again[batches:] == whole[batches:]
    if workers == 0:  # what is passed over is decoded only without a journal
        first = again[batches] if journal else whole[0]
        assert decoded[0] == first[0].partition(":")[2] or decoded[0] in ("w_1", "w_4")


def test_rows_that_were_skipped_are_in_the_report(rows: Any, tmp_path: Path) -> None:
    write_shards(rows, tmp_path, "webdataset")
    stream = ResumableStream(stream_webdataset(tmp_path / "shard-00000.tar"), IdReader(("w_2",)), SkipLog("skip", 0.9))  # type: ignore[arg-type]  # as above
    taken(stream, 2 * ROWS)
    assert [one.sample for one in stream.skip_report().skipped] == ["w_2"]


class Unusable(IdReader):
    def __call__(self, row: dict[str, Any], epoch: int) -> Any:
        raise AnnotationError(row["place"], "broken")


def test_a_stream_without_a_usable_row_is_an_error_and_no_endless_loop(rows: Any, tmp_path: Path) -> None:
    write_shards(rows, tmp_path, "webdataset")
    stream = ResumableStream(stream_webdataset(tmp_path / "shard-00000.tar"), Unusable(), SkipLog("skip", 1.0))  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match="found no usable row in a pass over its part of 1 shards"):
        next(iter(stream))


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.0.mp4": b"x"}, "expected KEY.json with the field 'sentences'"),
        (
            {"a.json": json.dumps({"sentences": ["x", "y"]}).encode(), "a.0.mp4": b"x"},
            r"expected clips 0 to 1, .* \[0\]",
        ),
    ],
)
def test_a_bad_archive_is_an_error_with_its_place(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "bad.tar", files)
    with pytest.raises(ValueError, match=message):
        list(stream_webdataset(path))


def test_bad_arguments_are_named(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no shard .*nothing"):
        stream_parquet(str(tmp_path / "nothing-*.parquet"))
    with pytest.raises(ValueError, match='kind must be "parquet" or "webdataset", got \'zip\''):
        write_shards(rows, tmp_path, "zip")
    with pytest.raises(ValueError, match="rows_per_shard must be positive, got 0"):
        write_shards(rows, tmp_path, rows_per_shard=0)
    with pytest.raises(ValueError, match="there is no row to write"):
        write_shards([], tmp_path)
    with pytest.raises(ValueError, match="shuffle_buffer must be positive, got 0"):
        ResumableStream([], IdReader(), shuffle_buffer=0)  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match="expected a datasets.IterableDataset, got list"):
        ResumableStream([], IdReader())  # type: ignore[arg-type]  # as above

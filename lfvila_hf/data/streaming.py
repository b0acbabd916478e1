# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Streams of pre-training rows from shards, on disk or on the Hub, shared by processes and workers.

Shards are Parquet files (one long video per row: `id`, `clips`, `sentences`; clips are paths, or the bytes of clip
files) or tar files as WebDataset has them (`KEY.json` with the sentences, then `KEY.0.mp4`, `KEY.1.mp4`, ...). Both
become a `datasets.IterableDataset`, which splits its shards over processes and workers and shuffles their order and a
buffer of rows.

`ResumableStream` decodes such rows for training, pass after pass without an end. A resumed run passes over the rows
that it has trained on without decoding them and goes on with the next one. Skipped rows are in no batch, so they are
written to a journal with the number of the pass. Memory: the rows of one shuffle buffer; with clips in the shards,
their compressed bytes.
"""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..video_reading_lfvila import LFVilaVideoError
from .annotations import AnnotationError
from .datasets import RowReader, VideoTextSample
from .skipping import SkipLog, SkipReport, append_line, journal_rows

PASSED_OVER = "passed over"
"""Sample of a row that a resumed run has trained on before."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def stream_parquet(path: Paths, video_root: str | None = None) -> Any:
    """Stream rows of Parquet shards.

    Args:
        path: File, pattern or address (`hf://datasets/ORG/NAME/train-*.parquet`), or several of them.
        video_root: Folder or address that clip paths are relative to.

    Returns:
        A `datasets.IterableDataset` with `id`, `clips`, `sentences`, `place`.

    Raises:
        ValueError: There is no such file.
    """
    from datasets import load_dataset

    files = _files(path)
    rows = load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
    return rows.map(partial(_placed, video_root=video_root))


def stream_webdataset(path: Paths) -> Any:
    """Stream rows of WebDataset tar shards; as `stream_parquet`, but clips are bytes."""
    from datasets import IterableDataset

    return IterableDataset.from_generator(_tar_rows, gen_kwargs={"files": _files(path)})


def write_shards(
    rows: Iterable[dict[str, Any]], folder: str | os.PathLike[str], kind: str = "parquet", rows_per_shard: int = 1000
) -> list[Path]:
    """Write annotation rows and their clip files into shards.

    Args:
        rows: Rows of `load_pretraining`, with `id`, `clips` (paths) and `sentences`.
        folder: Folder to write `shard-00000.parquet` (or `.tar`) and so on to.
        kind: `"parquet"` or `"webdataset"`.
        rows_per_shard: Number of long videos in one shard.

    Returns:
        The files.

    Raises:
        ValueError: The kind is unknown, there is no row, or `rows_per_shard` is below 1.
    """
    if kind not in ("parquet", "webdataset"):
        raise ValueError(f'kind must be "parquet" or "webdataset", got {kind!r}')
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be positive, got {rows_per_shard}")
    write, ending = (_write_parquet, "parquet") if kind == "parquet" else (_write_tar, "tar")
    Path(folder).mkdir(parents=True, exist_ok=True)
    shards: list[Path] = []
    pending: list[dict[str, Any]] = []

    def flush() -> None:
        shards.append(Path(folder) / f"shard-{len(shards):05d}.{ending}")
        write(pending, shards[-1])
        pending.clear()

    for row in rows:
        pending.append(row)
        if len(pending) == rows_per_shard:
            flush()
    if pending:
        flush()
    if not shards:
        raise ValueError("there is no row to write")
    return shards


class ResumableStream(torch.utils.data.IterableDataset[Any]):
    """Endless data set of decoded samples of a stream of rows, which a resumed run continues exactly.

    Args:
        rows: A `datasets.IterableDataset`.
        reader: Reader that makes samples of rows, such as `PreTrainingReader(...)`.
        skips: Policy for samples that cannot be used. By default they raise.
        position_journal: File that records the rows skipped in each pass, if `skips` skips; the same for all processes.
            Without it a resumed run decodes again what it has trained on, to find them.
        shuffle_seed: Seed of the order of shards, and of rows within a buffer, which differs from pass to pass. By
            default rows keep their order.
        shuffle_buffer: Number of rows of the buffer.

    Raises:
        ValueError: `rows` is no such stream, or the buffer is empty.
    """

    def __init__(
        self,
        rows: Any,
        reader: RowReader,
        skips: SkipLog | None = None,
        position_journal: str | os.PathLike[str] | None = None,
        shuffle_seed: int | None = None,
        shuffle_buffer: int = 1000,
    ) -> None:
        from datasets import IterableDataset

        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be positive, got {shuffle_buffer}")
        if not isinstance(rows, IterableDataset):
            raise ValueError(f"rows of a stream: expected a datasets.IterableDataset, got {type(rows).__name__}")
        self.rows = rows
        self.reader = reader
        self.skips = skips or SkipLog("raise")
        self.position_journal = None if position_journal is None else Path(position_journal)
        self.shuffle_seed = shuffle_seed
        self.shuffle_buffer = shuffle_buffer
        self._done: tuple[int, int] = (0, 1)

    @property
    def num_shards(self) -> int:
        """Number of shards that this process reads; more loader workers than that have nothing to do."""
        return int(self.rows.num_shards)

    def for_process(self, rank: int, processes: int) -> ResumableStream:
        """Return the part of the stream that one of several processes reads; every row is in one part."""
        from datasets.distributed import split_dataset_by_node

        part = copy.copy(self)
        if processes > 1:
            part.rows = split_dataset_by_node(self.rows, rank=rank, world_size=processes)
        return part

    def fast_forward(self, batches: int, batch_size: int) -> None:
        """Pass over that many batches at the beginning; their samples are `PASSED_OVER`.

        Args:
            batches: Batches of all workers of this process together.
            batch_size: Rows of each.
        """
        self._done = (batches, batch_size)

    def skip_report(self) -> SkipReport:
        """Return what was skipped so far, in this process and its workers."""
        return self.skips.report()

    def __iter__(self) -> Iterator[VideoTextSample | str]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches, size = self._done
        # A loader takes batches from its workers in turn.
        to_pass = max(0, -(-(batches - number) // workers)) * size
        skipped_before = self._skipped_before()
        epoch = 0
        while True:
            usable = 0
            for count, row in enumerate(self._rows_of_pass(epoch), start=1):
                if to_pass and (self.skips.on_error == "raise" or skipped_before is not None):
                    passed = (epoch, row["id"], row["place"]) not in (skipped_before or ())
                    sample: VideoTextSample | str | None = PASSED_OVER if passed else None
                else:
                    sample = self._read(row, epoch, count)
                if sample is None:
                    continue
                usable += 1
                if to_pass:
                    to_pass -= 1
                    sample = PASSED_OVER
                yield sample
            if not usable:
                raise ValueError(
                    f"worker {number} of {workers} found no usable row in a pass over its part of "
                    f"{self.num_shards} shards"
                )
            epoch += 1

    def _rows_of_pass(self, epoch: int) -> Any:
        """Return the rows in the order of a pass. Not by `set_epoch`: workers share the number that it sets."""
        if self.shuffle_seed is None:
            return self.rows
        return self.rows.shuffle(seed=self.shuffle_seed * 1_000_003 + epoch, buffer_size=self.shuffle_buffer)

    def _read(self, row: dict[str, Any], epoch: int, rows_read: int) -> VideoTextSample | None:
        try:
            return self.reader(row, epoch)
        except (LFVilaVideoError, AnnotationError) as error:
            self.skips.handle(error, sample=row["id"], place=row["place"], rows_read=rows_read)
            if self.position_journal is not None:
                append_line(self.position_journal, json.dumps([epoch, row["id"], row["place"]]))
            return None

    def _skipped_before(self) -> set[tuple[int, str, str]] | None:
        """Return the lines of the journal; `None` without one."""
        if self.position_journal is None:
            return None
        if not self.position_journal.exists():
            return set()
        lines = self.position_journal.read_bytes().split(b"\n")[:-1]
        return {(epoch, sample, place) for epoch, sample, place in journal_rows(self.position_journal, lines)}


# ---------------------------------------------------------------------------------------------------------------------
# Shards


def _files(path: Paths) -> list[str]:
    """List the files of paths, patterns and addresses, sorted within each."""
    import fsspec

    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    files: list[str] = []
    for one in [os.fspath(item) for item in given]:
        system, inside = fsspec.core.url_to_fs(one)
        found = sorted(system.glob(inside)) if any(sign in inside for sign in "*?[") else [inside]
        found = [name for name in found if system.isfile(name)]
        if not found:
            raise ValueError(f"there is no shard {one}")
        files += found if "://" not in one else [system.unstrip_protocol(name) for name in found]
    if not files:
        raise ValueError("no shard was given")
    return files


def _placed(row: dict[str, Any], video_root: str | None) -> dict[str, Any]:
    clips = row["clips"]
    if video_root is not None:
        clips = [clip if isinstance(clip, bytes) else f"{video_root.rstrip('/')}/{clip}" for clip in clips]
    return {**row, "clips": clips, "place": row.get("place") or row["id"]}


def _tar_rows(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of tar files, read from front to back. `datasets` splits this generator by its list of files."""
    import fsspec

    for path in files:
        with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            key, row = None, None
            clips: dict[int, bytes] = {}
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                base, _, ending = name.partition(".")
                if f"{folder}/{base}" != key:
                    if key is not None:
                        yield _tar_row(path, key, row, clips)
                    key, row, clips = f"{folder}/{base}", None, {}
                content = archive.extractfile(member)
                assert content is not None  # a file has content
                if ending == "json":
                    row = json.loads(content.read())
                elif ending.partition(".")[0].isdecimal():
                    clips[int(ending.partition(".")[0])] = content.read()
            if key is not None:
                yield _tar_row(path, key, row, clips)


def _tar_row(path: str, key: str, row: dict[str, Any] | None, clips: dict[int, bytes]) -> dict[str, Any]:
    place = f"{path}:{key.strip('/')}"
    if row is None or not isinstance(row.get("sentences"), list):
        raise AnnotationError(place, "expected KEY.json with the field 'sentences'")
    if sorted(clips) != list(range(len(row["sentences"]))):
        raise AnnotationError(
            place, f"expected clips 0 to {len(row['sentences']) - 1}, one per sentence, got {sorted(clips)}"
        )
    ordered = [clips[number] for number in sorted(clips)]
    return {"id": row.get("id", key.strip("/")), "clips": ordered, "sentences": row["sentences"], "place": place}


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "id": [row["id"] for row in rows],
        "clips": [[Path(clip).read_bytes() for clip in row["clips"]] for row in rows],
        "sentences": [list(row["sentences"]) for row in rows],
        "place": [row.get("place", row["id"]) for row in rows],
    }
    unfinished = path.with_suffix(".unfinished")
    pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)
    unfinished.rename(path)


def _write_tar(rows: Sequence[dict[str, Any]], path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as archive:
        for number, row in enumerate(rows):
            key = f"{number:06d}"
            text = json.dumps({"id": row["id"], "sentences": list(row["sentences"])}).encode()
            files = [(f"{key}.json", text)]
            files += [(f"{key}.{place}.mp4", Path(clip).read_bytes()) for place, clip in enumerate(row["clips"])]
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    unfinished.rename(path)


__all__ = ["PASSED_OVER", "ResumableStream", "stream_parquet", "stream_webdataset", "write_shards"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""An index: one LanceDB table, one row a segment, and a float32 block of all vectors for the scan.

| column | type | meaning |
|---|---|---|
| `video_id` | string | hash of `path` |
| `path` | string | the video: relative to the library's folder (with `/`), absolute if it has none |
| `segment` | int32 | number of the segment in the video; -1 for a file that cannot be used |
| `start`, `end`, `duration` | float64 | seconds of the segment on the video, and of the whole video |
| `clip_times` | list of float64 | second at which each clip starts, then the end of the last |
| `clips` | list of float32[D] | K clip vectors, L2-normalised |
| `vector` | float32[D] | vector of the whole segment; only if the encoder has one |
| `thumbnail` | binary | JPEG of a middle frame |
| `file_size`, `mtime_ns` | int64 | the file when it was read |
| `problem` | string | reason why a file cannot be used, else null |
| `checksum` | string | hash of all other columns, checked wherever heavy columns are read or copied |

Provenance is in the table's metadata. A commit replaces all rows of the files in it at once; a reader keeps the version
that it opened. The block is derived: it is made from the table once a version, next to it (`scan/`), with a CRC in its
name, and mapped into memory.

Letters: N rows, C clips of all rows, K clips of a row, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

import lfvila_hf
from lfvila_hf.search.segments import Problem, Segment, SegmentRule, VideoFile

TABLE = "segments"
FORMAT = 2
LIGHT = ("path", "segment", "start", "end", "duration", "clip_times", "file_size", "mtime_ns", "problem")
ROWS_PER_READ = 512


@dataclass(frozen=True)
class Provenance:
    """Traits that vectors must share to be comparable, and the place of the encoder.

    Args:
        fingerprint: Of the encoder.
        encoder: Name of its class.
        checkpoint: Folder or repository, "" for an object.
        width: D.
        has_clips: Whether rows have clip vectors.
        has_vector: Whether rows have a vector of the whole segment.
        frames: Frames of a clip, or of a segment for an encoder that reads segments.
        dtype: Precision of the weights.
        rule: Rule by which videos are cut.
        root: The library's folder, "" for absolute paths.
        version: Of this package.
    """

    fingerprint: str
    encoder: str
    checkpoint: str
    width: int
    has_clips: bool
    has_vector: bool
    frames: int
    dtype: str
    rule: SegmentRule = field(default_factory=SegmentRule)
    root: str = ""
    version: str = lfvila_hf.__version__

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema with this provenance in its metadata."""
        columns = {
            "video_id": pa.string(),
            "path": pa.string(),
            "segment": pa.int32(),
            "start": pa.float64(),
            "end": pa.float64(),
            "duration": pa.float64(),
            "clip_times": pa.list_(pa.float64()),
            "clips": pa.list_(pa.list_(pa.float32(), self.width)),
            "vector": pa.list_(pa.float32(), self.width),
            "thumbnail": pa.binary(),
            "file_size": pa.int64(),
            "mtime_ns": pa.int64(),
            "problem": pa.string(),
            "checksum": pa.string(),
        }
        if not self.has_vector:
            del columns["vector"]
        return pa.schema(columns, metadata={"lfvila_hf": json.dumps({"format": FORMAT, **asdict(self)})})

    @classmethod
    def from_schema(cls, schema: pa.Schema, name: str) -> Provenance:
        """Read the provenance of a table.

        Raises:
            ValueError: It is no table of an index, or of another format or version.
        """
        try:
            values = json.loads((schema.metadata or {})[b"lfvila_hf"])
            made = values.pop("format", None)
            values["rule"] = SegmentRule(**values["rule"])
            provenance = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the table in {name} is no index of lfvila_hf ({error!r:.60}): index again") from error
        here = lfvila_hf.__version__
        if made != FORMAT or provenance.version.split(".")[:2] != here.split(".")[:2]:
            raise ValueError(
                f"the index {name} has format {made} and was made by version {provenance.version}; this is version "
                f"{here}, format {FORMAT}: index the videos again, or install that version"
            )
        return provenance

    def check_continues(self, asked: Provenance, name: str) -> None:
        """Refuse to mix rows of two encoders, precisions, cuts or folders.

        Raises:
            ValueError: Names what differs.
        """
        for what, mine in self._traits().items():
            if mine != (theirs := asked._traits()[what]):
                raise ValueError(
                    f"the index {name} was made with another {what}: {mine}, asked for was {theirs}. Use an "
                    "index of its own, or embed all videos again (lfvila-hf index --rebuild)"
                )

    def _traits(self) -> dict[str, str]:
        rule = self.rule
        return {
            "checkpoint": f"fingerprint {self.fingerprint}",
            "precision": self.dtype,
            "cut": f"segments of {rule.seconds} s with overlap {rule.overlap}, clips of {rule.clip_seconds} s",
            "folder": self.root or "(files)",
        }


# -- rows ------------------------------------------------------------------------------------------------------------


def rows_of_video(
    provenance: Provenance, video: VideoFile, duration: float, segments: Sequence[Segment], first: int = 0
) -> pa.Table:
    """The rows of one video, or of its segments from number `first` on."""
    about = {"path": video.path, "duration": duration, "file_size": video.size, "mtime_ns": video.mtime_ns}
    rows = [{**about, **vars(one), "segment": n, "problem": None} for n, one in enumerate(segments, start=first)]
    return _table(provenance, rows)


def row_of_problem(provenance: Provenance, problem: Problem) -> pa.Table:
    """The one row of a file that cannot be used."""
    nothing = np.zeros((1, provenance.width), np.float32)
    segment = Segment(0.0, 0.0, [], nothing[:0], nothing[0] if provenance.has_vector else None, b"")
    about = {"path": problem.path, "duration": 0.0, "file_size": problem.file_size, "mtime_ns": problem.file_mtime_ns}
    return _table(provenance, [{**about, **vars(segment), "segment": -1, "problem": problem.reason}])


def _table(provenance: Provenance, rows: list[dict[str, Any]]) -> pa.Table:
    schema = provenance.schema
    rest = [{**row, "clips": None, "video_id": _hash(row["path"].encode()), "checksum": _checksum(row)} for row in rows]
    flat = np.concatenate([row["clips"] for row in rows]).reshape(-1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), provenance.width)
    ends = np.cumsum([0, *(len(row["clips"]) for row in rows)])
    clips = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), vectors)
    return pa.Table.from_pylist(rest, schema=schema).set_column(
        schema.get_field_index("clips"), schema.field("clips"), clips
    )


def _hash(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()


def _checksum(row: dict[str, Any]) -> str:
    light = [row[name] for name in ("path", "segment", "file_size", "mtime_ns", "problem")]
    numbers = [row["start"], row["end"], row["duration"], *row["clip_times"]]
    vector = b"" if row["vector"] is None else row["vector"].tobytes()
    packed = struct.pack(f"<{len(numbers)}d", *numbers)
    return _hash(json.dumps(light).encode(), packed, row["clips"].tobytes(), vector, row["thumbnail"])


def checked_rows(batch: pa.RecordBatch, width: int, name: str) -> list[dict[str, Any]]:
    """The rows of a batch with all columns, vectors as arrays `(K, D)` and `(D,)`.

    Raises:
        ValueError: A row is not what was written.
    """
    clips = batch.column("clips")
    values = clips.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    ends = np.cumsum([0, *(clips.value_lengths().to_pylist())])
    light = batch.select([*LIGHT, "thumbnail", "checksum"]).to_pylist()
    vectors = batch.column("vector").to_pylist() if "vector" in batch.schema.names else [None] * len(light)
    for number, row in enumerate(light):
        row["clips"] = np.ascontiguousarray(values[ends[number] : ends[number + 1]])
        row["vector"] = None if vectors[number] is None else np.asarray(vectors[number], np.float32)
        if _checksum(row) != row["checksum"]:
            raise ValueError(
                f"the index {name} is damaged: segment {row['segment']} of {row['path']} is not what was written. "
                "Index the videos again with --rebuild"
            )
    return light


# -- table -----------------------------------------------------------------------------------------------------------


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Turn errors of LanceDB into one line."""
    try:
        yield
    except (RuntimeError, OSError, pa.ArrowException) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            raise OSError(
                f"no space is left on the device of the index {name}; what was committed before is kept"
            ) from error
        first = (text.strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the index {name} cannot be read or written: {first[:300]}") from error


class Index:
    """An opened index.

    Args:
        address: Folder, or an address of object storage that LanceDB knows (`s3://...`, `gs://...`, `az://...`).
        table: The LanceDB table.
    """

    def __init__(self, address: str, table: Any) -> None:
        self.address, self.table = address, table
        self.provenance = Provenance.from_schema(table.schema, address)

    @classmethod
    def exists(cls, address: str | os.PathLike[str]) -> bool:
        """Whether there is a table."""
        return _open(os.fspath(address)) is not None

    @classmethod
    def open(cls, address: str | os.PathLike[str]) -> Index:
        """Open the newest version.

        Raises:
            ValueError: There is no index, or it is damaged or of another version.
        """
        name = os.fspath(address)
        table = _open(name)
        if table is None:
            old = os.path.isfile(os.path.join(name, "library.json"))
            made = f"`lfvila-hf index FOLDER --model NAME --output {name}` makes one"
            raise ValueError(
                f"the index {name} is of an older version, whose files are not read any more: index the videos again"
                if old
                else f"there is no index in {name}; {made}"
            )
        return cls(name, table)

    @classmethod
    def create(cls, address: str | os.PathLike[str], provenance: Provenance, rows: Iterable[pa.Table] = ()) -> Index:
        """Write a new table, in one version, in the place of the one that is there.

        Args:
            address: See the class.
            provenance: Of the encoder.
            rows: Tables of rows, taken one at a time.
        """
        name = os.fspath(address)
        schema = provenance.schema
        batches = (batch for table in rows for batch in table.cast(schema).to_batches())
        with _plain_errors(name):
            database = _connect(name, make=True)
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            mode = "create"
            try:
                mode = "overwrite" if _open(name) is not None else "create"
            except ValueError:  # damaged: nothing of it can be read, or replaced in place
                if "://" not in name:
                    shutil.rmtree(os.path.join(name, f"{TABLE}.lance"))
            if mode == "create" and "://" not in name:  # versions begin anew: no block of another table may be taken
                shutil.rmtree(os.path.join(name, "scan"), ignore_errors=True)
            return cls(name, database.create_table(TABLE, reader, schema=schema, mode=mode))

    @property
    def folder(self) -> Path | None:
        """Folder of the index, `None` for object storage."""
        return None if "://" in self.address else Path(self.address)

    @property
    def version(self) -> int:
        """Number of the version that is read."""
        return int(self.table.version)

    def light(self) -> pa.Table:
        """All rows without vectors and thumbnails, in order of path and segment."""
        with _plain_errors(self.address):
            rows = self.table.search().select(list(LIGHT)).limit(max(self.table.count_rows(), 1)).to_arrow()
        return rows.replace_schema_metadata(None).sort_by([("path", "ascending"), ("segment", "ascending")])

    def full(self, where: str | None = None) -> Iterator[dict[str, Any]]:
        """Rows with all columns, checked, a few hundred in memory at a time.

        Raises:
            ValueError: A row is damaged.
        """
        return (row for rows in self._batches(where) for row in rows)

    def _batches(self, where: str | None = None) -> Iterator[list[dict[str, Any]]]:
        with _plain_errors(self.address):
            query = self.table.search()
            query = query if where is None else query.where(where)
            batches = query.limit(max(self.table.count_rows(), 1)).to_batches(ROWS_PER_READ)
        while True:
            with _plain_errors(self.address):
                batch = next(batches, None)
            if batch is None:
                return
            yield checked_rows(batch, self.provenance.width, self.address)

    def tables(self, keep: set[str]) -> Iterator[pa.Table]:
        """The rows of some paths, checked, as tables."""
        for rows in self._batches():
            if kept := [row for row in rows if row["path"] in keep]:
                yield _table(self.provenance, kept)

    def row(self, path: str, segment: int) -> dict[str, Any]:
        """One row, checked.

        Raises:
            ValueError: It is not there, or damaged.
        """
        for row in self.full(f"path = {quoted(path)} AND segment = {segment}"):
            return row
        raise ValueError(f"there is no segment {segment} of {path} in the index {self.address}")

    def commit(self, tables: Sequence[pa.Table], paths: Iterable[str]) -> None:
        """Replace all rows of some files in one version.

        Args:
            tables: Rows of the files that have any.
            paths: Names of all files that are replaced or removed.
        """
        names = sorted(paths)
        gone = f"path IN ({', '.join(map(quoted, names))})"
        with _plain_errors(self.address):
            self.table.checkout_latest()
            if not tables:
                if names:
                    self.table.delete(gone)
                return
            merge = self.table.merge_insert(["path", "segment"]).when_matched_update_all()
            merge = merge.when_not_matched_insert_all().when_not_matched_by_source_delete(gone)
            merge.execute(pa.concat_tables(tables))

    def append(self, table: pa.Table) -> None:
        """Add rows of segments that are not there yet, in one version."""
        with _plain_errors(self.address):
            self.table.checkout_latest()
            self.table.add(table)

    def compact(self) -> None:
        """Join small files, and remove what was replaced more than a week ago."""
        with _plain_errors(self.address):
            self.table.optimize()

    # -- block -------------------------------------------------------------------------------------------------------

    def block(self, light: pa.Table) -> np.ndarray:
        """The vectors of all rows, `(C, D)` or with segment vectors behind the clips `(C + N, D)`, mapped into memory.

        Args:
            light: The usable rows of `light()`.

        Raises:
            ValueError: A row is damaged.
        """
        if self.folder is not None:
            scan = self.folder / "scan"
            if (block := self._stored_block(light, scan)) is not None:
                return block
            with suppress(OSError):  # an index that may only be read
                scan.mkdir(exist_ok=True)
                with FileLock(scan / ".lock"):
                    block = self._stored_block(light, scan)
                    return self._store_block(light, scan) if block is None else block
        with tempfile.TemporaryFile() as file:
            return self._write_block(light, file)

    def _stored_block(self, light: pa.Table, scan: Path) -> np.ndarray | None:
        for file in scan.glob(f"v{self.version}-*.f32"):
            with suppress(OSError, ValueError):  # gone meanwhile, or cut off
                block = self._map(file)
                if len(block) == self._block_rows(light) and file.name == self._block_name(block):
                    return block
        return None

    def _store_block(self, light: pa.Table, scan: Path) -> np.ndarray:
        new = scan / "block.new"
        with open(new, "w+b") as file:
            block = self._write_block(light, file)
        for old in scan.glob("*.f32"):  # whoever has one of them mapped keeps it
            old.unlink()
        os.replace(new, scan / self._block_name(block))
        return block

    def _write_block(self, light: pa.Table, file: Any) -> np.ndarray:
        """Write, not map: a full disk is an error then, not a signal."""
        keys = zip(light.column("path").to_pylist(), light.column("segment").to_pylist(), strict=True)
        places = {key: place for place, key in enumerate(keys)}
        offsets, size = clip_offsets(light), 4 * self.provenance.width
        with _plain_errors(self.address):
            for row in self.full("segment >= 0"):
                place = places[row["path"], row["segment"]]
                file.seek(int(offsets[place]) * size)
                file.write(row["clips"].tobytes())
                if row["vector"] is not None:
                    file.seek((int(offsets[-1]) + place) * size)
                    file.write(row["vector"].tobytes())
            file.truncate(self._block_rows(light) * size)
            file.flush()
        return self._map(file)

    def _map(self, file: Any) -> np.ndarray:
        if not os.stat(file if isinstance(file, Path) else file.fileno()).st_size:
            return np.zeros((0, self.provenance.width), np.float32)
        return np.memmap(file, np.float32, "c").reshape(-1, self.provenance.width)  # "c": torch wants it writable

    def _block_rows(self, light: pa.Table) -> int:
        return int(clip_offsets(light)[-1]) + (len(light) if self.provenance.has_vector else 0)

    def _block_name(self, block: np.ndarray) -> str:
        return f"v{self.version}-{zlib.crc32(np.ascontiguousarray(block).data) if block.size else 0:08x}.f32"


def only_writer(address: str | os.PathLike[str]) -> Any:
    """Lock an index while one run or program writes it; the system takes the lock back when the process dies.

    Raises:
        ValueError: Another one is at work.
    """
    if "://" in os.fspath(address):
        return nullcontext()
    os.makedirs(address, exist_ok=True)
    try:
        return FileLock(os.path.join(address, ".lock"), timeout=0).acquire()
    except Timeout:
        raise ValueError(f"another run is at work on the index {os.fspath(address)}: wait for it, or stop it") from None


def clip_offsets(light: pa.Table) -> np.ndarray:
    """Row of the block at which the clips of each row begin, and the end of the last, `(N + 1,)`."""
    lengths = pc.list_value_length(light.column("clip_times")).to_numpy()
    return np.cumsum([0, *np.maximum(lengths - 1, 0)], dtype=np.int64)


def quoted(text: str) -> str:
    """Write a text as a literal of the filters of `Index.full`."""
    return "'" + text.replace("'", "''") + "'"


def _connect(address: str, make: bool = False) -> Any:
    try:
        import lancedb
    except ImportError:
        raise ImportError("an index needs LanceDB: pip install 'lfvila_hf[search]'") from None
    if "://" not in address and not make and not os.path.isdir(address):
        return None
    return lancedb.connect(address)


def _open(address: str) -> Any:
    database = _connect(address)
    if database is None:
        return None
    if "://" not in address:
        versions = os.path.join(address, f"{TABLE}.lance", "_versions")
        if not os.path.isdir(versions) or not os.listdir(versions):
            return None  # a run that was killed before its first commit leaves a folder without versions
    try:
        with _plain_errors(address):
            return database.open_table(TABLE)
    except ValueError as error:
        if "was not found" in str(error) and "://" in address:
            return None
        raise ValueError(f"the index {address} is damaged or cannot be opened: {str(error)[:200]}") from error


__all__ = ["Index", "Provenance", "clip_offsets", "only_writer", "quoted", "row_of_problem", "rows_of_video"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""An index on disk: what is in the folder, and how it is replaced in one piece.

    INDEX/
      library.json               which files below belong to the index, which model made it, how videos were cut
      table/part-HASH.parquet    the table (`lfvila_hf.library.table`), a few thousand rows a file
      vectors/segments-HASH.npy  segment embeddings, (N, D) float32, mapped into memory by the search
      vectors/clips-HASH.npy     clip embeddings, (N, K, D) float16, read for the best rows only
      vectors/search-HASH.faiss  the FAISS index, where there is one
      work/                      videos done since the last commit (`lfvila_hf.library.indexing`)

The files below `library.json` are named by their content and never changed; a new `library.json`, put in place by one
rename, is what makes them the index. A process that dies before that leaves the old index whole, and one that dies
after leaves files that nobody names, which the next commit removes. Equal rows give equal bytes in every file.

Parts all of whose videos stay are kept as they are; the rows of the others are written anew.

Letters: N rows, K clips, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lfvila_hf.library import vectors
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.table import FORMAT, HEAVY_COLUMNS, TableShape, read_table, vectors_of, write_table

MANIFEST = "library.json"
ROWS_PER_PART = 4096
_OWN_FILE = re.compile(r"(part|segments|clips|search)-(new-\d+|[0-9a-f]{16})\.(parquet|npy|faiss)")


@dataclass(frozen=True)
class Maker:
    """What must agree for vectors to be comparable, and where the model is.

    Args:
        fingerprint: Of model and processor; see `lfvila_hf.library.fingerprint`.
        checkpoint: Folder or repository that the model was loaded from, "" where it was given as an object.
        version: Of this package.
        num_frames: T of a segment.
        rule: How videos were cut.
    """

    fingerprint: str
    checkpoint: str
    version: str
    num_frames: int
    rule: SegmentRule


@dataclass(frozen=True)
class Problem:
    """A video that could not be used.

    Args:
        path: As the table would name it.
        reason: Why.
        file_size: Bytes of the file then.
        file_mtime_ns: Time of its last change then.
    """

    path: str
    reason: str
    file_size: int
    file_mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """The content of `library.json`.

    Args:
        maker: Which model made the vectors.
        root: Folder that the paths of the table are relative to, "" where they are absolute.
        shape: D and K; `None` while there is no row.
        parts: File and number of rows of each part of the table, in row order.
        segment_vectors: File of the segment embeddings.
        clip_vectors: File of the clip embeddings, "" for a model without.
        search: `kind`, and for a FAISS index `file` and its settings.
        problems: Videos that could not be used, by path.
    """

    maker: Maker
    root: str = ""
    shape: TableShape | None = None
    parts: tuple[tuple[str, int], ...] = ()
    segment_vectors: str = ""
    clip_vectors: str = ""
    search: dict[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    problems: tuple[Problem, ...] = ()

    @property
    def num_rows(self) -> int:
        """Segments in the index."""
        return sum(rows for _, rows in self.parts)

    @property
    def files(self) -> list[str]:
        """Every file that belongs to the index."""
        named = [file for file, _ in self.parts]
        return [*named, *filter(None, (self.segment_vectors, self.clip_vectors, self.search.get("file")))]

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Manifest:
        """Read the file's content.

        Raises:
            ValueError: It is damaged, or of another format; names the file.
        """
        try:
            values = json.loads(text)
            if values.pop("format", None) != FORMAT:
                found = json.loads(text).get("format")
                raise ValueError(f"it has format {found!r}, this version reads format {FORMAT}: index the videos again")
            values["maker"] = Maker(**{**values["maker"], "rule": SegmentRule(**values["maker"]["rule"])})
            values["shape"] = TableShape(**values["shape"]) if values["shape"] else None
            values["parts"] = tuple((str(file), int(rows)) for file, rows in values["parts"])
            values["problems"] = tuple(Problem(**problem) for problem in values["problems"])
            return cls(**{one.name: values[one.name] for one in fields(cls)})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{name} is damaged ({error!r:.80}): index the videos again") from error
        except ValueError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error


class Store:
    """An index folder.

    Args:
        folder: Where it is, or will be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def read(self) -> Manifest:
        """The manifest.

        Raises:
            ValueError: There is no index in the folder, or it is damaged or of another format.
        """
        file = self.folder / MANIFEST
        try:
            text = file.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"there is no index in {self.folder} (no {MANIFEST}); `lfvila-hf index FOLDER --output {self.folder}` "
                "makes one"
            ) from None
        manifest = Manifest.from_json(text, str(file))
        for name in manifest.files:
            inside = os.path.realpath(self.folder / name).startswith(os.path.realpath(self.folder) + os.sep)
            if not inside or not (self.folder / name).is_file():
                raise ValueError(f"the index {self.folder} is not whole, {name} is missing: index the videos again")
        return manifest

    def exists(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST).is_file()

    def light_rows(self, manifest: Manifest) -> pa.Table | None:
        """The whole table without embeddings and thumbnails."""
        if manifest.shape is None:
            return None
        columns = [name for name in manifest.shape.schema().names if name not in HEAVY_COLUMNS]
        parts = [read_table(self.folder / file, columns) for file, _ in manifest.parts]
        return pa.concat_tables(parts) if parts else manifest.shape.schema().empty_table().select(columns)

    def arrays(self, manifest: Manifest) -> tuple[np.ndarray, np.ndarray | None]:
        """Segment embeddings `(N, D)` and clip embeddings `(N, K, D)`, mapped into memory."""
        segments = np.load(self.folder / manifest.segment_vectors, mmap_mode="r")
        clips = np.load(self.folder / manifest.clip_vectors, mmap_mode="r") if manifest.clip_vectors else None
        return segments, clips

    def tables(self, manifest: Manifest) -> Iterator[pa.Table]:
        """The parts of the table with all columns, one at a time."""
        for file, _ in manifest.parts:
            yield read_table(self.folder / file)

    def commit(
        self,
        manifest: Manifest,
        keep: Callable[[str], bool],
        added: Sequence[tuple[str, Callable[[], pa.Table]]],
        kind: vectors.SearchKind = "auto",
        source: Store | None = None,
    ) -> Manifest:
        """Make a new index of the old one's rows that stay and of new ones, and put it in place.

        Args:
            manifest: The index before (its parts are in `source`), or one without rows.
            keep: Whether the rows of a path stay.
            added: Path and table of each new video; tables are asked for one at a time.
            kind: Kind of search.
            source: Where the parts of `manifest` are; here, if left out.

        Returns:
            The new manifest.
        """
        for name in ("table", "vectors"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        source = source or self
        parts: list[tuple[str, int]] = []
        loose: list[Callable[[], pa.Table]] = []
        for file, rows in manifest.parts:
            paths = read_table(source.folder / file, ["path"]).column("path")
            staying = [path for path in pc.unique(paths).to_pylist() if keep(path)]
            wanted = pc.is_in(paths, pa.array(staying, pa.string()))
            if source.folder == self.folder and pc.all(wanted).as_py() and rows * 4 >= ROWS_PER_PART:
                parts.append((file, rows))
            elif pc.any(wanted).as_py():
                loose.append(partial(_some_rows, source.folder / file, wanted))
        pending = [*loose, *(make for _, make in sorted(added, key=lambda one: one[0]))]
        shape = manifest.shape
        for table in _regroup(pending):
            shape = TableShape(*_sizes(table.schema))
            parts.append((self._write("table/part", "parquet", partial(write_table, table)), len(table)))
        new = replace(manifest, parts=tuple(parts), shape=shape if parts else None)
        new = self._write_vectors(new, kind)
        self._place(new)
        return new

    def _write_vectors(self, manifest: Manifest, kind: vectors.SearchKind) -> Manifest:
        if manifest.shape is None:
            return replace(manifest, segment_vectors="", clip_vectors="", search={"kind": "exact"})
        count, (width, clips) = manifest.num_rows, (manifest.shape.width, manifest.shape.num_clips)
        segment_file = self._write_array(manifest, "segments", "segment_embedding", (count, width), np.float32)
        clip_file = ""
        if clips:
            clip_file = self._write_array(manifest, "clips", "clip_embeddings", (count, clips, width), np.float16)
        chosen = vectors.choose_kind(count, kind)
        search: dict[str, Any] = {"kind": chosen}
        if chosen != "exact":
            array = np.load(self.folder / segment_file, mmap_mode="r")
            index, about = vectors.build_faiss(array, chosen)
            file = self._write("vectors/search", "faiss", lambda file: vectors.save_faiss(index, file))
            search |= {"file": file, **about}
        return replace(manifest, segment_vectors=segment_file, clip_vectors=clip_file, search=search)

    def _write_array(self, manifest: Manifest, name: str, column: str, shape: tuple[int, ...], dtype: Any) -> str:
        def fill(file: Path) -> None:
            array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
            start = 0
            for part, rows in manifest.parts:
                values = vectors_of(read_table(self.folder / part, [column]), column)
                array[start : start + rows] = values.reshape(rows, *shape[1:])
                start += rows
            array.flush()

        return self._write(f"vectors/{name}", "npy", fill)

    def _write(self, stem: str, suffix: str, write: Callable[[Path], None]) -> str:
        """Write a file under a name made of its content; return that name, relative to the folder."""
        temporary = self.folder / f"{stem}-new-{os.getpid()}.{suffix}"
        write(temporary)
        digest = hashlib.blake2b(digest_size=8)
        with temporary.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            os.fsync(file.fileno())
        name = f"{stem}-{digest.hexdigest()}.{suffix}"
        os.replace(temporary, self.folder / name)
        return name

    def _place(self, manifest: Manifest) -> None:
        write_atomically(self.folder / MANIFEST, manifest.to_json().encode())
        named = set(manifest.files)
        for name in ("table", "vectors"):
            for file in (self.folder / name).iterdir():
                # What is not named like a file of an index is somebody else's.
                if f"{name}/{file.name}" not in named and _OWN_FILE.fullmatch(file.name):
                    file.unlink()


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that whoever looks finds the old content or the new one, whatever dies in between."""
    temporary = file.with_name(f".{file.name}.new-{os.getpid()}")
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, file)


def _some_rows(file: Path, wanted: Any) -> pa.Table:
    """The rows of a part that stay."""
    return read_table(file).filter(wanted)


def _regroup(pending: Sequence[Callable[[], pa.Table]]) -> Iterator[pa.Table]:
    """Tables, put together to parts of at least `ROWS_PER_PART` rows (the last may have fewer)."""
    waiting, rows = [], 0
    for make in pending:
        waiting.append(make())
        rows += len(waiting[-1])
        if rows >= ROWS_PER_PART:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _sizes(schema: pa.Schema) -> tuple[int, int]:
    width = schema.field("segment_embedding").type.list_size
    clips = schema.field("clip_embeddings").type.list_size // width if "clip_embeddings" in schema.names else 0
    return width, clips

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What a library shows to the search: the rows and vectors on disk, without what was removed, with what was added.

Letters: N segments, K clips, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import lfvila_hf
from lfvila_hf.library.ranking import View
from lfvila_hf.library.store import Manifest, Store
from lfvila_hf.library.table import HEAVY_COLUMNS, read_rows, vectors_of
from lfvila_hf.library.vectors import choose_kind, load_search


class LibraryView:
    """The part of a `VideoLibrary` that puts its rows together."""

    manifest: Manifest
    _store: Store | None
    _added: dict[str, pa.Table]
    _removed: set[str]
    _view: View | None

    @property
    def view(self) -> View:
        """Rows, vectors and search of what is in the library now."""
        if self._view is None:
            self._view = self._make_view()
        return self._view

    def _make_view(self) -> View:
        base = self._base()
        gone = self._removed | set(self._added)
        if base is not None and not gone:
            rows, segments, clips, search = base
            return View(rows, segments, clips, search)
        tables, arrays, clip_arrays = [], [], []
        if base is not None:
            rows, segments, clips, _ = base
            keep = np.array([path not in gone for path in rows.column("path").to_pylist()], dtype=bool)
            tables.append(rows.filter(pa.array(keep)))
            arrays.append(segments[keep])
            clip_arrays += [] if clips is None else [clips[keep]]
        for _, table in sorted(self._added.items()):
            tables.append(table.drop_columns([name for name in HEAVY_COLUMNS if name in table.column_names]))
            arrays.append(vectors_of(table, "segment_embedding"))
            if "clip_embeddings" in table.column_names:
                width = arrays[-1].shape[1]
                clips = vectors_of(table, "clip_embeddings")  # (n, K*D)
                clip_arrays.append(clips.reshape(len(clips), -1, width).astype(np.float16))  # (n, K, D)
        if not tables:
            empty = pa.table({"path": pa.array([], pa.string())})
            return View(empty, np.zeros((0, 1), np.float32), None, load_search(np.zeros((0, 1)), "exact", None, None))
        segments = np.concatenate(arrays)  # (N, D)
        choose_kind(len(segments))  # says so where faiss is missing and would be worth having
        rows = pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)
        clips = np.concatenate(clip_arrays) if clip_arrays else None  # (N, K, D)
        return View(rows, segments, clips, load_search(segments, "exact", None, None))

    def _base(self) -> Any:
        """Rows, vectors, clips and search of the files on disk, or `None` where there are none."""
        manifest, store = self.manifest, self._store
        if store is None or manifest.shape is None:
            return None
        rows = store.light_rows(manifest)
        segments, clips = store.arrays(manifest)
        about = manifest.search
        file = store.folder / about["file"] if about.get("file") else None
        return rows, segments, clips, load_search(segments, about["kind"], file, about.get("nprobe"))

    def _loaded_last_to_first(self) -> list[tuple[int, Any]]:
        """First row of each block of the view, and a function from a row of the block to its thumbnail."""
        blocks: list[tuple[int, Any]] = []
        start = 0
        if self._store is not None:
            gone = self._removed | set(self._added)
            for file, rows in self.manifest.parts:
                part = self._store.folder / file
                kept = list(range(rows))
                if gone:
                    paths = read_rows(part, kept, "path")
                    kept = [row for row in kept if paths[row] not in gone]
                blocks.append((start, lambda row, part=part, kept=kept: read_rows(part, [kept[row]], "thumbnail")[0]))
                start += len(kept)
        for _, table in sorted(self._added.items()):
            blocks.append((start, lambda row, table=table: table.column("thumbnail")[row].as_py()))
            start += len(table)
        return blocks[::-1]


def check_version(made_by: str, name: str) -> None:
    """Refuse an index of another minor version of this package, whose pixels or features may differ.

    Raises:
        ValueError: Names both versions.
    """
    here = lfvila_hf.__version__
    if made_by.split(".")[:2] != here.split(".")[:2]:
        raise ValueError(
            f"the index {name} was made by version {made_by} of lfvila_hf, this is {here}: index the videos again, or "
            "install that version"
        )


def check_counts(**counts: int) -> None:
    """Refuse numbers below 1 by their names."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")

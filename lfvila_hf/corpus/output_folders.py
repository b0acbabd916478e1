# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Folders of corpora: one writer at a time, an old corpus that stays until the new one is complete, and reading.

A new corpus is written to `OUTPUT/.work/new`. When it is complete, the parts of the old one are moved to
`OUTPUT/.work/old`, those of the new one take their places, and `manifest.json` comes last: a folder that has one is a
complete corpus. A move that was interrupted is finished by the next build.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = ".lock"
WORK = ".work"
MANIFEST = "manifest.json"
PARTS = ("data", "jsonl", "source", "near_duplicates.jsonl", "problems.jsonl", "provenance.json", MANIFEST)
"""Files and folders of a corpus, in the order in which they are moved."""


@dataclass(frozen=True)
class NewCorpus:
    """A corpus that is being written.

    Attributes:
        output: Folder of the corpus.
        work: Folder of intermediate files.
        new: Folder of the new corpus, below `work`.
    """

    output: Path
    work: Path
    new: Path

    def final(self, path: str) -> str:
        """Return the path that a file will have after the move."""
        return str(self.output) + path.removeprefix(str(self.new)) if path.startswith(f"{self.new}{os.sep}") else path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another process is writing to {folder}: wait until it ends, or give another output folder"
        ) from None


@contextmanager
def new_corpus(output: Path, overwrite: bool) -> Iterator[NewCorpus]:
    """Give a folder for a new corpus, and move the corpus into place if no error occurred.

    Args:
        output: Folder of the corpus; made if missing.
        overwrite: Replace an existing corpus.

    Raises:
        ValueError: If the folder holds other things, a corpus and `overwrite` is false, or is in use.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file. Give a folder.")
    output.mkdir(parents=True, exist_ok=True)
    foreign = sorted({path.name for path in output.iterdir()} - {*PARTS, WORK, LOCK})
    if foreign:
        raise ValueError(f"{output} holds other things, such as {foreign[0]}: give a new or empty folder")
    with locked(output):
        work = Path(os.path.abspath(output / WORK))
        folder = NewCorpus(Path(os.path.abspath(output)), work, work / "new")
        if (folder.new / MANIFEST).is_file() and not work.is_symlink():
            _move_into_place(folder)
        remove(work)
        if (output / MANIFEST).exists() and not overwrite:
            raise ValueError(f"there is a corpus in {output} already; --overwrite replaces it")
        folder.new.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            remove(work)
            raise
        _move_into_place(folder)  # an error in it leaves both corpora to the next build, which finishes the move
        remove(work)


def read_rows(corpus: str | os.PathLike[str], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and row of a corpus, in its order. Memory: 1,000 rows.

    Raises:
        ValueError: If there is no corpus, or a file of it is damaged.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    files = sorted((Path(corpus) / "data").glob("*.parquet"))
    if not files:
        raise ValueError(f"there is no corpus in {os.fspath(corpus)}: expected Parquet files in its folder data")
    for path in files:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(1000, columns=list(columns)):
                    for row in batch.to_pylist():
                        yield path.name.partition("-")[0], row
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged, build the corpus again: {error}") from error


def check_inputs(output: Path, inputs: Sequence[str]) -> None:
    """Check that no input is part of the corpus that will be replaced.

    Raises:
        ValueError: If one is.
    """
    replaced = [os.path.realpath(output / name) for name in (*PARTS, WORK) if name != "source"]
    for path in inputs:
        if any(os.path.realpath(path).startswith(f"{part}{os.sep}") for part in replaced):
            raise ValueError(f"the input {path} lies in the corpus that is to be written")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _move_into_place(folder: NewCorpus) -> None:
    """Move the parts of the new corpus into place; doing it again after an interruption is fine.

    A part that is no longer in `folder.new` is in place already.
    """
    old = folder.work / "old"
    old.mkdir(exist_ok=True)
    for name in PARTS[::-1]:
        if os.path.lexists(folder.new / name) and os.path.lexists(folder.output / name):
            os.replace(folder.output / name, old / name)
    for name in PARTS:
        if os.path.lexists(folder.new / name):
            os.replace(folder.new / name, folder.output / name)

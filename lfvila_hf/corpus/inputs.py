# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Input files of a build as chunks of lines, so that a file of any size is read by several tasks at once.

A chunk is a range of bytes; the lines that *begin* in it are its own. A compressed file (`.gz`) is one chunk. Memory:
one line, plus the reader's buffer.
"""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ChunkKind = Literal["metadata", "transcripts", "selection"]

MAX_LINE_BYTES = 256 * 2**20
"""A line above this is an error: it is no line of the released layouts, whose longest have some 100 KB."""


@dataclass(frozen=True)
class Chunk:
    """A range of lines of one input file.

    Attributes:
        kind: Which input it belongs to.
        path: The file.
        start: First byte.
        end: Byte after the last; `None` for the whole of a compressed file.
    """

    kind: ChunkKind
    path: str
    start: int
    end: int | None


def find_files(given: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that paths, folders (`*.jsonl` and `*.jsonl.gz` in them) and patterns name, each once, sorted.

    Raises:
        ValueError: Where one of them names no file.
    """
    files: dict[str, str] = {}
    for one in [os.fspath(item) for item in given]:
        if os.path.isfile(one):
            found = [one]
        elif os.path.isdir(one):
            found = [*glob.glob(os.path.join(one, "*.jsonl")), *glob.glob(os.path.join(one, "*.jsonl.gz"))]
        else:
            found = [path for path in glob.glob(one) if os.path.isfile(path)]
        if not found:
            raise ValueError(f"there is no input file {one}")
        for path in found:
            files.setdefault(os.path.realpath(path), path)
    return sorted(files.values())


def plan_chunks(files: Sequence[str], kind: ChunkKind, chunk_bytes: int) -> list[Chunk]:
    """Chunks of at most `chunk_bytes` that cover the files in order."""
    chunks: list[Chunk] = []
    for path in files:
        if path.endswith(".gz"):
            chunks.append(Chunk(kind, path, 0, None))
            continue
        size = os.path.getsize(path)
        chunks.extend(
            Chunk(kind, path, start, min(start + chunk_bytes, size)) for start in range(0, max(size, 1), chunk_bytes)
        )
    return chunks


def read_chunk(chunk: Chunk) -> Iterator[bytes]:
    """The lines that begin in a chunk, blank ones included, so that lines can be counted.

    Raises:
        ValueError: For a compressed file that is damaged or cut off, and for a line above `MAX_LINE_BYTES`.
    """
    if chunk.end is None:
        try:
            with gzip.open(chunk.path, "rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    yield _checked(line, chunk.path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{chunk.path} is damaged or cut off: {error}") from error
        return
    with Path(chunk.path).open("rb", buffering=1 << 20) as file:
        position = chunk.start
        if chunk.start > 0:
            file.seek(chunk.start - 1)
            position += len(file.readline(MAX_LINE_BYTES + 1)) - 1
        while position < chunk.end and (line := file.readline(MAX_LINE_BYTES + 1)):
            position += len(line)
            yield _checked(line, chunk.path)


def _checked(line: bytes, path: str) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{path} has a line of more than {MAX_LINE_BYTES} bytes, expected JSON lines")
    return line

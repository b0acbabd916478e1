# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Intermediate files of a build: the output of one task for each of many others, in one file.

A task of a stage writes one file of *parts*, one for every task of the next stage, and their offsets. A task of the
next stage reads its part of every file. So a build of any size opens one file at a time, and keeps in memory what
belongs to one task. Layout: 8 bytes of magic, the number of parts n, n + 1 offsets (all little-endian 64-bit), the
parts. Parts are JSON text or the bytes of arrays: nothing in them is ever executed or unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

_MAGIC = b"LFVPART1"
_NUMBER = np.dtype("<u8")


def write_parts(path: Path, parts: Sequence[bytes]) -> None:
    """Write a file of parts; it appears under its name when it is complete."""
    offsets = np.zeros(len(parts) + 1, dtype=_NUMBER)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(_MAGIC + np.array([len(parts)], dtype=_NUMBER).tobytes() + offsets.tobytes())
        for part in parts:
            file.write(part)
    os.replace(temporary, path)


def read_part(path: Path, part: int) -> bytes:
    """Read one part of a file.

    Raises:
        ValueError: If it is no such file, has no such part or is cut off.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if head[:8] != _MAGIC or len(head) != 16:
            raise ValueError(f"{path} is no intermediate file of a build")
        parts = int(np.frombuffer(head[8:], _NUMBER)[0])
        if not 0 <= part < parts:
            raise ValueError(f"{path} has the parts 0 to {parts - 1}, not {part}")
        file.seek(16 + 8 * part)
        start, end = (int(number) for number in np.frombuffer(file.read(16), _NUMBER))
        file.seek(16 + 8 * (parts + 1) + start)
        content = file.read(end - start)
    if len(content) != end - start:
        raise ValueError(f"{path} is cut off: part {part} has {len(content)} of {end - start} bytes")
    return content


def read_parts(paths: Sequence[Path], part: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and bytes of one part of several files, where it is not empty."""
    for number, path in enumerate(paths):
        content = read_part(path, part)
        if content:
            yield number, content


def split_by_range(array: np.ndarray, keys: np.ndarray, parts: int) -> list[bytes]:
    """Cut rows of an array, sorted by `keys`, into the bytes of equal ranges of the 64-bit key."""
    bounds = [np.uint64((number << 64) // parts) for number in range(1, parts)]
    places = [0, *np.searchsorted(keys, np.array(bounds, dtype=np.uint64)).tolist(), len(array)]
    return [array[start:end].tobytes() for start, end in zip(places, places[1:], strict=False)]

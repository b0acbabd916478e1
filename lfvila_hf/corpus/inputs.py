# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Input of a build: files as chunks of lines, and lines as checked rows. Nothing is trusted.

A chunk is a range of bytes; the lines that *begin* in it are its own. So a file of any size is read by several tasks at
once. A compressed file (`.gz`) is one chunk, which is read as a stream: memory does not grow with what it unpacks to.

The three layouts are those of HD-VILA-100M and LF-VILA-8M as released, JSON lines all of them:

- metadata: `{"video_id": "ID", "url": ..., "clip": [{"clip_id": "ID.1.mp4", "span": ["00:00:17.759", ...]}, ...]}`.
  A row may also have `duration` (seconds, which the spans are then checked against), `category`, and a clip its `text`;
- transcripts: `{"clip_id": "ID.1.mp4", "text": "..."}`;
- clip ids (the published selection): `["ID.1.mp4", "ID.2.mp4", ...]`, one long video per line.

Times are kept as whole milliseconds, the precision of the metadata, so that sums and comparisons are exact. An id
becomes a file name later on, so it must be one.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lfvila_hf.data.subtitles import parse_clock
from lfvila_hf.video_sources_lfvila import VIDEO_EXTENSIONS

ChunkKind = Literal["metadata", "transcripts", "selection"]

MAX_LINE_BYTES = 16 * 2**20
"""Largest line. The longest of the released layouts have some 100 KB."""
MAX_ID_BYTES = 200
MAX_SECONDS = 10_000_000

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Path separators, and characters that cannot be seen or written.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SECONDS = re.compile(r"\d{1,8}(?:\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Chunk:
    """Range of lines of one input file.

    Attributes:
        kind: Input that it belongs to.
        path: The file.
        start: First byte.
        end: Byte after the last; `None` for the whole of a compressed file.
    """

    kind: ChunkKind
    path: str
    start: int
    end: int | None


def find_files(given: Sequence[str | os.PathLike[str]]) -> list[str]:
    """List the files of paths, folders (`*.jsonl` and `*.jsonl.gz` in them) and patterns, each once, sorted.

    Raises:
        ValueError: If one of them names no file.
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
    """Cut files into chunks of at most `chunk_bytes`, in order."""
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


def count_bytes(path: str) -> int:
    """Count the bytes of a file, of a compressed one by reading it: a stated size could be a lie.

    Raises:
        ValueError: If a compressed file is empty, damaged or cut off.
    """
    if not path.endswith(".gz"):
        return os.path.getsize(path)
    with _unpacked(path) as file:
        return sum(iter(lambda: len(file.read(1 << 20)), 0))


def read_lines(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield `path:line` and line of every line of a file that is not blank.

    Raises:
        ValueError: As `read_chunk`.
    """
    chunk = Chunk("metadata", path, 0, None if path.endswith(".gz") else os.path.getsize(path))
    for number, line in enumerate(read_chunk(chunk), start=1):
        if not line.isspace():
            yield f"{path}:{number}", line


def read_chunk(chunk: Chunk) -> Iterator[bytes]:
    """Yield the lines that begin in a chunk, blank ones included, so that lines can be counted.

    Raises:
        ValueError: If a compressed file is damaged or cut off, or a line is longer than `MAX_LINE_BYTES`.
    """
    if chunk.end is None:
        with _unpacked(chunk.path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield _checked(line, chunk.path)
        return
    with Path(chunk.path).open("rb", buffering=1 << 20) as file:
        position = chunk.start
        if chunk.start > 0:
            file.seek(chunk.start - 1)
            position += len(file.readline(MAX_LINE_BYTES + 1)) - 1
        while position < chunk.end and (line := file.readline(MAX_LINE_BYTES + 1)):
            position += len(line)
            yield _checked(line, chunk.path)


class Clip(NamedTuple):
    """One clip of the metadata.

    Attributes:
        clip_id: `VIDEO.NUMBER.mp4`.
        start: Milliseconds.
        end: Milliseconds, after `start`; both are -1 if the span cannot be used.
        text: Its transcript, `None` if the metadata does not have it.
    """

    clip_id: str
    start: int
    end: int
    text: str | None


class Video(NamedTuple):
    """One row of the metadata.

    Attributes:
        video_id: A plain file name.
        url: Address of the source, "" if not stated.
        category: Category, "" if not stated.
        duration: Milliseconds, `None` if not stated.
        clips: Clips with a usable id.
    """

    video_id: str
    url: str
    category: str
    duration: int | None
    clips: list[Clip]


class RecordProblem(Exception):
    """A row that cannot be used.

    Args:
        kind: One of `problems.PROBLEM_KINDS`.
        detail: The offending value.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(f"{kind}: {detail}")


def parse_json_line(line: bytes) -> Any:
    """Parse one line.

    Raises:
        RecordProblem: `bad_json`.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise RecordProblem("bad_json", line[:160].decode("utf-8", "backslashreplace").strip()) from None


def read_video(value: Any) -> tuple[Video, list[RecordProblem]]:
    """Read a metadata row.

    Returns:
        The video, and the problems of single clips.

    Raises:
        RecordProblem: If the whole row cannot be used.
    """
    if not isinstance(value, dict) or not isinstance(value.get("video_id"), str):
        raise RecordProblem("bad_row", f"metadata row without a video_id: {_short(value)}")
    video_id = checked_video_id(value["video_id"])
    rows = value.get("clip")
    if not isinstance(rows, list):
        raise RecordProblem("bad_row", f"{video_id}: the field 'clip' must be a list, got {_short(rows)}")
    duration = value.get("duration")
    if duration is not None:
        try:
            duration = parse_time(duration)
        except ValueError:
            raise RecordProblem("bad_row", f"{video_id}: duration {_short(duration)} is no time") from None
    problems: list[RecordProblem] = []
    clips: list[Clip] = []
    for row in rows:
        try:
            clips.append(_read_clip(row, video_id, problems))
        except RecordProblem as problem:
            problems.append(problem)
    url, category = value.get("url"), value.get("category")
    return Video(video_id, _plain_text(url), _plain_text(category), duration, clips), problems


def read_transcript(value: Any) -> tuple[str, str, str]:
    """Read video id, clip id and text of a transcript row.

    Raises:
        RecordProblem: If it cannot be used.
    """
    if not isinstance(value, dict) or not isinstance(value.get("clip_id"), str):
        raise RecordProblem("bad_row", f"transcript without a clip_id: {_short(value)}")
    clip_id, text = value["clip_id"], value.get("text")
    video_id = video_of_clip(clip_id)
    if not isinstance(text, str):
        raise RecordProblem("bad_row", f"{clip_id}: the field 'text' must be a string, got {_short(text)}")
    return video_id, clip_id, text


def read_selection(value: Any) -> tuple[str, list[str]]:
    """Read video id and clip ids of a row of the published selection.

    Raises:
        RecordProblem: If it cannot be used.
    """
    if isinstance(value, dict):
        value = value.get("clip_id", value.get("clip"))
    if not isinstance(value, list) or not value:
        raise RecordProblem("bad_row", f"a selection must be a list of clip ids, got {_short(value)}")
    ids: list[str] = []
    for item in value:
        clip_id = item.get("clip_id") if isinstance(item, dict) else item
        if not isinstance(clip_id, str):
            raise RecordProblem("bad_row", f"a selection must be a list of clip ids, got {_short(value)}")
        ids.append(clip_id)
    videos = {video_of_clip(clip_id) for clip_id in ids}
    if len(videos) > 1:
        raise RecordProblem("mixed_selection", f"{ids[0]} together with clips of {len(videos) - 1} other videos")
    return videos.pop(), ids


def checked_video_id(video_id: str) -> str:
    """Return the id if it can be the name of a file or folder.

    Raises:
        RecordProblem: `bad_video_id` if it cannot.
    """
    if _PLAIN_ID.fullmatch(video_id):
        return video_id
    if not _is_plain_name(video_id):
        raise RecordProblem("bad_video_id", json.dumps(video_id))
    return video_id


def video_of_clip(clip_id: str) -> str:
    """Return the video id of a clip id `VIDEO.NUMBER.mp4`.

    Raises:
        RecordProblem: `bad_clip_id`.
    """
    video_id, number, ending = ([*clip_id.rsplit(".", 2), "", ""])[:3]
    plain = _PLAIN_ID.fullmatch(video_id) or _is_plain_name(video_id)
    is_number = number.isascii() and number.isdigit() and len(number) <= 12
    if not plain or not is_number or f".{ending.lower()}" not in VIDEO_EXTENSIONS:
        raise RecordProblem("bad_clip_id", json.dumps(clip_id))
    return video_id


def clip_number(clip_id: str) -> int:
    """Return the number of a clip id `VIDEO.NUMBER.mp4`."""
    return int(clip_id.rsplit(".", 2)[1])


def parse_time(value: Any) -> int:
    """Convert `"HH:MM:SS.mmm"`, `"MM:SS"` or a number of seconds to milliseconds, rounded to the nearest.

    Raises:
        ValueError: If it is no time, negative or above `MAX_SECONDS`.
    """
    if isinstance(value, str):
        text = value.strip()
        if not _SECONDS.fullmatch(text):
            return parse_clock(text)
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no time, expected 'HH:MM:SS.mmm' or seconds")
    if not 0 <= value <= MAX_SECONDS or math.isnan(value):
        raise ValueError(f"{value!r} is no time, expected 0 to {MAX_SECONDS} seconds")
    return round(value * 1000)


def clock(milliseconds: int) -> str:
    """Write milliseconds as `"HH:MM:SS.mmm"`, like the metadata."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def video_key(video_id: str) -> int:
    """Hash a video id to 64 bits. Partitions are ranges of this hash, and rows are sorted by it."""
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big")


def split_draw(video_id: str, seed: int) -> float:
    """Draw a number in [0, 1) for the split of a video; it depends on the id and the seed alone."""
    digest = hashlib.blake2b(video_id.encode(), digest_size=8, key=f"split {seed}".encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _unpacked(path: str) -> Iterator[gzip.GzipFile]:
    """Open a compressed file; damage is a `ValueError`."""
    if not os.path.getsize(path):
        raise ValueError(f"{path} is empty, which no compressed file is: copy or download it again")
    try:
        with gzip.open(path, "rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut off: {error}") from error


def _checked(line: bytes, path: str) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{path} has a line of more than {MAX_LINE_BYTES} bytes, expected JSON lines")
    return line


def _read_clip(row: Any, video_id: str, problems: list[RecordProblem]) -> Clip:
    if not isinstance(row, dict) or not isinstance(row.get("clip_id"), str):
        raise RecordProblem("bad_row", f"{video_id}: clip without a clip_id: {_short(row)}")
    clip_id = row["clip_id"]
    owner = video_of_clip(clip_id)
    if owner != video_id:
        raise RecordProblem("foreign_clip", f"{clip_id} in the row of {video_id}")
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        problems.append(RecordProblem("bad_row", f"{clip_id}: the field 'text' must be a string, got {_short(text)}"))
        text = None
    span = row.get("span")
    try:
        if not isinstance(span, list) or len(span) != 2:
            raise ValueError("expected two times")
        start, end = parse_time(span[0]), parse_time(span[1])
    except ValueError:
        problems.append(RecordProblem("bad_span", f"{clip_id}: {_short(span)}"))
        return Clip(clip_id, -1, -1, text)
    if end <= start:
        problems.append(RecordProblem("reversed_span", f"{clip_id}: {_short(span)}"))
        return Clip(clip_id, -1, -1, text)
    return Clip(clip_id, start, end, text)


def _is_plain_name(name: str) -> bool:
    """Check that a name is one visible component of a path, no drive, and not hidden; dots inside it are fine."""
    if not name or name != name.strip() or name[0] == "." or _DRIVE.match(name) or _FORBIDDEN.search(name):
        return False
    return len(name.encode()) <= MAX_ID_BYTES


def _plain_text(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

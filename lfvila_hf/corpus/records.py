# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Rows of the three inputs of a build, read and checked one by one; nothing is trusted.

The layouts are those of HD-VILA-100M and LF-VILA-8M as released, JSON lines all three:

- metadata: `{"video_id": "ID", "url": ..., "clip": [{"clip_id": "ID.1.mp4", "span": ["00:00:17.759", ...]}, ...]}`.
  A row may also have `duration` (seconds, which the spans are then checked against), `category`, and a clip its `text`;
- transcripts: `{"clip_id": "ID.1.mp4", "text": "..."}`;
- clip ids (the published selection): `["ID.1.mp4", "ID.2.mp4", ...]`, one long video per line.

Times are kept as whole milliseconds, the precision of the metadata, so that sums and comparisons are exact. An id
becomes a file name later on, so it must be a plain one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, NamedTuple

from lfvila_hf.data.annotations import VIDEO_EXTENSIONS

MAX_ID_BYTES = 200
MAX_SECONDS = 10_000_000

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Characters that mean something in a path or a shell of some system, or cannot be seen.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff/\\:*?"<>|]')
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?", re.ASCII)
_SECONDS = re.compile(r"\d{1,8}(?:\.\d{1,9})?", re.ASCII)


class Clip(NamedTuple):
    """One clip of the metadata.

    Attributes:
        clip_id: `VIDEO.NUMBER.mp4`.
        start: Milliseconds.
        end: Milliseconds, after `start`; both are -1 for a clip whose span is of no use.
        text: Its transcript where the metadata has it, else `None`.
    """

    clip_id: str
    start: int
    end: int
    text: str | None


class Video(NamedTuple):
    """One row of the metadata.

    Attributes:
        video_id: A plain file name.
        url: Where it came from, "" if not said.
        category: As the row has it, "" if not said.
        duration: Milliseconds, `None` if not said.
        clips: Those with a usable id.
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
    """The value of one line.

    Raises:
        RecordProblem: `bad_json`.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise RecordProblem("bad_json", line[:160].decode("utf-8", "backslashreplace").strip()) from None


def read_video(value: Any) -> tuple[Video, list[RecordProblem]]:
    """A metadata row, and what is wrong with single clips of it.

    Raises:
        RecordProblem: Where the whole row is of no use.
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
    """Video id, clip id and text of a transcript row.

    Raises:
        RecordProblem: Where it cannot be used.
    """
    if not isinstance(value, dict) or not isinstance(value.get("clip_id"), str):
        raise RecordProblem("bad_row", f"transcript without a clip_id: {_short(value)}")
    clip_id, text = value["clip_id"], value.get("text")
    video_id = video_of_clip(clip_id)
    if not isinstance(text, str):
        raise RecordProblem("bad_row", f"{clip_id}: the field 'text' must be a string, got {_short(text)}")
    return video_id, clip_id, text


def read_selection(value: Any) -> tuple[str, list[str]]:
    """Video id and clip ids of a row of the published selection.

    Raises:
        RecordProblem: Where it cannot be used.
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
    """The id itself.

    Raises:
        RecordProblem: `bad_video_id`, where it is no plain file name.
    """
    if _PLAIN_ID.fullmatch(video_id):
        return video_id
    if not _is_plain_name(video_id):
        raise RecordProblem("bad_video_id", json.dumps(video_id))
    return video_id


def video_of_clip(clip_id: str) -> str:
    """The video that `VIDEO.NUMBER.mp4` belongs to.

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
    """The number in `VIDEO.NUMBER.mp4`."""
    return int(clip_id.rsplit(".", 2)[1])


def parse_time(value: Any) -> int:
    """Milliseconds of `"HH:MM:SS.mmm"`, `"MM:SS"`, or of a number of seconds; rounded to the nearest.

    Raises:
        ValueError: Where it is no time, is negative or above `MAX_SECONDS`.
    """
    if isinstance(value, str):
        text = value.strip()
        found = _CLOCK.fullmatch(text)
        if found:
            hours, minutes, seconds, fraction = found.groups()
            whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
            if (int(minutes) >= 60 and hours is not None) or int(seconds) >= 60:
                raise ValueError(f"{value!r} is no time: minutes and seconds end at 59")
            return whole * 1000 + (round(int(fraction) * 1000 / 10 ** len(fraction)) if fraction else 0)
        if not _SECONDS.fullmatch(text):
            raise ValueError(f"{value!r} is no time, expected 'HH:MM:SS.mmm' or seconds")
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no time, expected 'HH:MM:SS.mmm' or seconds")
    if not 0 <= value <= MAX_SECONDS or math.isnan(value):
        raise ValueError(f"{value!r} is no time, expected 0 to {MAX_SECONDS} seconds")
    return round(value * 1000)


def clock(milliseconds: int) -> str:
    """`"HH:MM:SS.mmm"`, as the metadata writes times."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def video_key(video_id: str) -> int:
    """A 64-bit hash of a video id, the order of everything: partitions are ranges of it, and rows are sorted by it."""
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big")


def split_draw(video_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the video id and the seed alone, for the split of a video."""
    digest = hashlib.blake2b(video_id.encode(), digest_size=8, key=f"split {seed}".encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


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
    """Whether a name is one plain part of a path on every system, and not hidden."""
    if not name or name != name.strip() or name[0] == "." or name[-1] == "." or ".." in name:
        return False
    return not _FORBIDDEN.search(name) and len(name.encode()) <= MAX_ID_BYTES


def _plain_text(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

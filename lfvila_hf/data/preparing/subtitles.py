# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Subtitles of videos, from SubRip and WebVTT files or from JSON lines.

A folder has one file per video, `VIDEO.srt`, `VIDEO.vtt` or `VIDEO.en.vtt`; a JSON lines file has `{"vid_name" or
"video_id" or "clip_id": ..., "sub" or "text_s": [{"start", "end", "text"}]}` (the layout of TVQA and of HERO's How2QA).
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from ..annotations import read_json_lines

TIMES = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}[.,]\d+)\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{1,2}[.,]\d+)")
TAG = re.compile(r"<[^>]*>")


class SubtitleFiles:
    """Subtitles by video.

    Args:
        path: A folder or a JSON lines file; without one no video has any.

    Raises:
        ValueError: Where there is neither.
    """

    def __init__(self, path: Path | None) -> None:
        self.folder: Path | None = None
        self.loaded: dict[str, list[dict[str, Any]]] = {}
        if path is None:
            return
        if path.is_dir():
            self.folder = path
        elif path.is_file():
            for place, row in read_json_lines(path):
                name = next((row[key] for key in ("vid_name", "video_id", "clip_id") if key in row), None)
                entries = row.get("sub", row.get("text_s"))
                if name is None or not isinstance(entries, list):
                    raise ValueError(f"{place}: expected a video's name and its list of subtitles, got {sorted(row)}")
                self.loaded[name] = [{key: one.get(key) for key in ("start", "end", "text")} for one in entries]
        else:
            raise ValueError(f"there are no subtitles at {path}")

    def of(self, video: str) -> list[dict[str, Any]]:
        """Subtitles of a video, `{"start", "end", "text"}`; none where there is no file of it."""
        if video not in self.loaded and self.folder is not None:
            found = [path for ending in (".srt", ".vtt", ".en.srt", ".en.vtt")
                     if (path := self.folder / f"{video}{ending}").is_file()]  # fmt: skip
            self.loaded[video] = parse_subtitles(found[0].read_text(encoding="utf-8-sig")) if found else []
        return self.loaded.get(video, [])


def parse_subtitles(text: str) -> list[dict[str, Any]]:
    """Cues of a SubRip or WebVTT file, tags and entities removed; cues without text are left out."""
    cues = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = block.strip().split("\n")
        timed = next((number for number, line in enumerate(lines) if TIMES.search(line)), None)
        if timed is None:
            continue
        found = TIMES.search(lines[timed])
        assert found is not None
        hours, minutes, seconds, end_hours, end_minutes, end_seconds = found.groups()
        words = html.unescape(TAG.sub("", " ".join(lines[timed + 1 :]))).split()
        if words:
            start, end = _seconds(hours, minutes, seconds), _seconds(end_hours, end_minutes, end_seconds)
            cues.append({"start": start, "end": end, "text": " ".join(words)})
    return cues


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))

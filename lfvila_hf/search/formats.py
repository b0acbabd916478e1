# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Hits as text, JSON, CSV, WebVTT chapters, and an edit decision list (CMX 3600).

JSON is a list of hits. CSV has one line a span, and one without seconds for a sentence that is not found. WebVTT holds
the chapters of the best hit's video, to be used as its track. An EDL cuts the found spans of all hits together, in
order of the hits, at `EDL_RATE` frames per second, non-drop.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfvila_hf.search.ranking import Hit

EDL_RATE = 25


def clock(seconds: float, decimals: int = 0) -> str:
    """Seconds as h:mm:ss, with decimals if wanted."""
    ticks = round(seconds * 10**decimals) if decimals else int(seconds)
    whole, part = divmod(ticks, 10**decimals)
    text = f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{text}.{part:0{decimals}d}" if decimals else text


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters of a file name are shown as escapes."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def as_text(hits: list[Hit]) -> str:
    """Hits as a person reads them."""
    return "\n".join(_described(number, hit) for number, hit in enumerate(hits, start=1)) or "the index is empty"


def _described(number: int, hit: Hit) -> str:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in hit.scores.items())
    lines = [
        f"{number}. {printable(hit.path)}  {clock(hit.start)} - {clock(hit.end)} of {clock(hit.duration)}  ({scores})"
    ]
    for moment in hit.moments:
        places = ", ".join(f"{clock(start, 1)} - {clock(end, 1)}" for start, end in moment.spans)
        if not moment.found:
            places = f"not found (nearest: {clock(moment.start, 1)} - {clock(moment.end, 1)})"
        lines.append(f"     {places}  {moment.score:.3f}  {printable(moment.text)}")
    return "\n".join(lines)


def as_json(hits: list[Hit]) -> str:
    """A list of hits."""
    return json.dumps([hit.as_dict() for hit in hits])


def as_csv(hits: list[Hit]) -> str:
    """A table with a line for every span."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["hit", "path", "hit_start", "hit_end", "hit_score", "sentence", "text", "found", "start", "end", "score"]
    )
    for number, hit in enumerate(hits, start=1):
        head = [number, _plain(hit.path), f"{hit.start:.3f}", f"{hit.end:.3f}", f"{hit.score:.6f}"]
        for moment in hit.moments:
            own = [moment.sentence + 1, _plain(moment.text), int(moment.found)]
            for start, end in moment.spans or [("", "")]:
                seconds = [f"{one:.3f}" if one != "" else "" for one in (start, end)]
                writer.writerow([*head, *own, *seconds, f"{moment.score:.6f}"])
        if not hit.moments:
            writer.writerow([*head, "", "", "", "", "", ""])
    return text.getvalue().rstrip("\n")


def _plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def as_vtt(hits: list[Hit]) -> str:
    """WebVTT chapters of the best hit's video."""
    lines = ["WEBVTT", ""]
    if not hits:
        return "\n".join(lines)
    lines += [f"NOTE {_one_line(hits[0].path).replace('-->', '->')}", ""]
    spans = [
        (span, moment) for hit in hits if hit.path == hits[0].path for moment in hit.moments for span in moment.spans
    ]
    for number, ((start, end), moment) in enumerate(sorted(spans, key=lambda one: one[0]), start=1):
        text = _one_line(moment.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        lines += [str(number), f"{_vtt_time(start)} --> {_vtt_time(end)}", text, ""]
    return "\n".join(lines)


def _vtt_time(seconds: float) -> str:
    hours, rest = clock(seconds, 3).split(":", 1)
    return f"{int(hours):02d}:{rest}"


def as_edl(hits: list[Hit]) -> str:
    """An edit decision list of all found spans."""
    lines = ["TITLE: lfvila_hf search", "FCM: NON-DROP FRAME"]
    record = 0
    events = [(hit, moment, span) for hit in hits for moment in hit.moments for span in moment.spans]
    for number, (hit, moment, (start, end)) in enumerate(events, start=1):
        first = round(start * EDL_RATE)
        last = max(round(end * EDL_RATE), first + 1)
        times = " ".join(_timecode(one) for one in (first, last, record, record + last - first))
        lines += [
            "",
            f"{number:03d}  AX       V     C        {times}",
            f"* FROM CLIP NAME: {_one_line(hit.path)}",
            f"* COMMENT: {_one_line(moment.text)}",
        ]
        record += last - first
    return "\n".join(lines)


def _timecode(frame: int) -> str:
    seconds, frames = divmod(frame, EDL_RATE)
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}:{frames:02d}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


FORMATTERS: dict[str, Callable[..., str]] = {
    "text": as_text,
    "json": as_json,
    "csv": as_csv,
    "vtt": as_vtt,
    "edl": as_edl,
}

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Problems with the input of a build, counted by kind, with examples.

*Examples* are the few that come first in alphabetical order: they do not depend on how the input is ordered or cut
into files, so they are part of the manifest. *Places* (file and line) let a person look at the input; they are in
`problems.jsonl`. Both are bounded, so that a broken file of any size costs the same memory. Counts are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

PROBLEM_KINDS: dict[str, str] = {
    "bad_json": "a line is cut off, not JSON or not UTF-8",
    "bad_row": "a line is JSON of another layout",
    "bad_video_id": "a video id that is no file name (path separators, control characters, hidden, a drive, too long)",
    "bad_clip_id": "a clip id that is not VIDEO.NUMBER.mp4, or no file name",
    "foreign_clip": "a clip id that names another video than its row",
    "bad_span": "a span that is not two times",
    "reversed_span": "a span that ends where or before it begins",
    "beyond_file": "a span that ends after the video does",
    "overlapping_span": "a clip that begins before the one before it ends, by more than the tolerance",
    "duplicate_video": "a video in more than one row (the rows are put together)",
    "duplicate_clip": "a clip listed more than once with the same span (kept once)",
    "conflicting_clip": "a clip listed with different spans (left out)",
    "duplicate_transcript": "the same transcript of a clip more than once (kept once)",
    "conflicting_transcript": "different transcripts of one clip (the clip is left out)",
    "transcript_without_clip": "a transcript of a clip that is not in the metadata",
    "clip_without_transcript": "a clip without a transcript (left out)",
    "unusable_text": "a transcript that fails a check (the clip is left out)",
    "duplicate_selection": "the same row of clip ids more than once in the list (kept once)",
    "mixed_selection": "a row of clip ids of several videos in the list (left out)",
    "incomplete_selection": "a row of the list with a clip that is not in the metadata or has no text (left out)",
}
"""Kinds of problems and their meaning, in the order of the manifest."""

MAX_EXAMPLES = 5
MAX_PLACES = 200
MAX_DETAIL = 160

Place = tuple[int, int]
"""Number of the input chunk, and number of the line in it."""


class ProblemLog:
    """Log of problems by kind: exact counts, a few examples, the first places.

    Merging logs in any order gives the same log.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.places: dict[str, list[tuple[Place, str]]] = {}

    def add(self, kind: str, detail: str, place: Place, count: int = 1) -> None:
        """Count a problem.

        Args:
            kind: One of `PROBLEM_KINDS`.
            detail: The offending value, shortened here.
            place: Chunk and line it was read from.
            count: Number of problems that this call stands for.
        """
        if kind not in PROBLEM_KINDS:
            raise ValueError(f"the kind of a problem must be one of {', '.join(PROBLEM_KINDS)}, got {kind!r}")
        self.counts[kind] += count
        detail = _printable(detail)
        self._keep_example(kind, detail)
        self._keep_place(kind, place, detail)

    def merge(self, other: dict[str, Any]) -> None:
        """Add another log, given as `as_dict()`."""
        self.counts.update(other["counts"])
        for kind, details in other["examples"].items():
            for detail in details:
                self._keep_example(kind, detail)
        for kind, places in other["places"].items():
            for place, detail in places:
                self._keep_place(kind, (int(place[0]), int(place[1])), detail)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for another process."""
        return {"counts": dict(self.counts), "examples": self.examples, "places": self.places}

    def summary(self) -> dict[str, Any]:
        """Return counts and examples for the manifest, kinds in a fixed order, without those that did not occur."""
        return {
            kind: {"count": self.counts[kind], "meaning": meaning, "examples": self.examples[kind]}
            for kind, meaning in PROBLEM_KINDS.items()
            if self.counts[kind]
        }

    def first(self) -> tuple[str, Place, str] | None:
        """Return kind, place and detail of the problem that comes first in the input."""
        every = [(place, kind, detail) for kind, places in self.places.items() for place, detail in places]
        if not every:
            return None
        place, kind, detail = min(every)
        return kind, place, detail

    def _keep_example(self, kind: str, detail: str) -> None:
        _keep_smallest(self.examples.setdefault(kind, []), detail, MAX_EXAMPLES)

    def _keep_place(self, kind: str, place: Place, detail: str) -> None:
        _keep_smallest(self.places.setdefault(kind, []), (place, detail), MAX_PLACES)


def resolve_places(log: ProblemLog, files: Sequence[str], first_lines: Sequence[int]) -> Iterable[dict[str, str]]:
    """Yield the places of a log as rows of `problems.jsonl`: kind, `file:line`, detail.

    Args:
        log: The problems.
        files: File of each chunk.
        first_lines: Number, in its file and counted from 1, of each chunk's first line.
    """
    for kind in PROBLEM_KINDS:
        for (chunk, line), detail in log.places.get(kind, []):
            yield {"kind": kind, "place": f"{files[chunk]}:{first_lines[chunk] + line}", "detail": detail}


def _keep_smallest(kept: list[Any], new: Any, limit: int) -> None:
    if len(kept) == limit and new >= kept[-1]:
        return
    if new in kept:
        return
    kept.append(new)
    kept.sort()
    del kept[limit:]


def _printable(detail: str) -> str:
    text = detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

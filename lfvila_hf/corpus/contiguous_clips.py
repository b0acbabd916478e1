# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Rule that joins contiguous clips into long videos, as for LF-VILA-8M.

The paper keeps runs of at least four clips that are contiguous in time. It does not state how large a gap still counts
as contiguous. `JoinRules.max_gap` is our choice, 1 second; the manifest of a build with the published clip ids shows
the gaps in the authors' rows.

1. Clips are sorted by start, then end, then number.
2. A clip continues a run if it begins no more than `max_gap` after the run's end and no more than `max_overlap` before
   it. If it overlaps more, `overlaps` decides: `split` begins a new run with it, `drop` leaves it out, `keep` joins it.
3. A run within the upper bounds (`max_clips`, `max_seconds`) is one long video. A longer run is cut into segments.
   Most clips kept comes first, then fewest segments, then most even lengths; the earlier cut wins a tie. Runs shorter
   than `min_clips` are left out.

Cutting is a dynamic programme over the clips of one run, `O(clips x clips of the longest segment)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .inputs import clip_number

Overlaps = Literal["split", "drop", "keep"]
OVERLAPS: tuple[Overlaps, ...] = ("split", "drop", "keep")


class TimedClip(NamedTuple):
    """A clip that may become part of a long video: times in milliseconds, and clean text."""

    clip_id: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class JoinRules:
    """Rules for joining clips into long videos.

    Args:
        max_gap: Largest gap between contiguous clips, in seconds. Defaults to 1, our choice: it is not published.
        max_overlap: Seconds by which a clip may begin before the end of the clip before it and still follow it.
        overlaps: Treatment of a clip that overlaps by more: `"split"`, `"drop"` or `"keep"`.
        min_clips: Fewest clips of a long video. Defaults to 4, as in the paper.
        max_clips: Most clips of a long video. Defaults to no bound.
        max_seconds: Longest long video, from the start of its first clip to the end of its last. Defaults to no bound.
    """

    max_gap: float = 1.0
    max_overlap: float = 0.1
    overlaps: Overlaps = "split"
    min_clips: int = 4
    max_clips: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_gap", "max_overlap"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ValueError(f"{name} must be 0 seconds or more, got {getattr(self, name)}")
        if self.overlaps not in OVERLAPS:
            raise ValueError(f"overlaps must be one of {', '.join(OVERLAPS)}, got {self.overlaps!r}")
        if self.min_clips < 1:
            raise ValueError(f"min_clips must be at least 1, got {self.min_clips}")
        if self.max_clips is not None and self.max_clips < self.min_clips:
            raise ValueError(f"max_clips must be at least min_clips={self.min_clips}, got {self.max_clips}")
        if self.max_seconds is not None and not 0 < self.max_seconds < 1e6:
            raise ValueError(f"max_seconds must be above 0, got {self.max_seconds}")

    @property
    def gap_ms(self) -> int:
        """`max_gap` in milliseconds."""
        return round(self.max_gap * 1000)

    @property
    def overlap_ms(self) -> int:
        """`max_overlap` in milliseconds."""
        return round(self.max_overlap * 1000)


class JoinedClips(NamedTuple):
    """Long videos made of the clips of one video.

    Attributes:
        rows: The long videos, in order of time.
        short: Clips in runs below `min_clips`.
        cut_off: Clips of longer runs that fit into no segment within the bounds.
        overlapping: Clips that begin before the end of an earlier one by more than the tolerance.
        dropped: Number of those that were left out.
    """

    rows: list[list[TimedClip]]
    short: int
    cut_off: int
    overlapping: list[TimedClip]
    dropped: int


def in_time_order(clips: Sequence[TimedClip]) -> list[TimedClip]:
    """Sort clips by start, end, number and id, so that the order they come in has no effect."""
    return sorted(clips, key=lambda clip: (clip.start, clip.end, clip_number(clip.clip_id), clip.clip_id))


def join_clips(clips: Sequence[TimedClip], rules: JoinRules) -> JoinedClips:
    """Join the clips of one video, given in any order, into long videos."""
    runs: list[list[TimedClip]] = []
    overlapping: list[TimedClip] = []
    dropped = 0
    run_end = 0
    for clip in in_time_order(clips):
        gap = clip.start - run_end
        if runs and gap < -rules.overlap_ms:
            overlapping.append(clip)
            if rules.overlaps == "drop":
                dropped += 1
                continue
            continues = rules.overlaps == "keep"
        else:
            continues = bool(runs) and gap <= rules.gap_ms
        if continues:
            runs[-1].append(clip)
            run_end = max(run_end, clip.end)
        else:
            runs.append([clip])
            run_end = clip.end
    rows: list[list[TimedClip]] = []
    short = cut_off = 0
    for run in runs:
        if len(run) < rules.min_clips:
            short += len(run)
            continue
        segments = cut_run(run, rules)
        cut_off += len(run) - sum(end - start for start, end in segments)
        rows.extend(run[start:end] for start, end in segments)
    return JoinedClips(rows, short, cut_off, overlapping, dropped)


def cut_run(run: Sequence[TimedClip], rules: JoinRules) -> list[tuple[int, int]]:
    """Cut a run into segments `[start, end)` within the upper bounds.

    Args:
        run: Clips of one run, in order of time.
        rules: `min_clips`, `max_clips` and `max_seconds`.

    Returns:
        Segments in order, none overlapping another. Clips outside all of them fit nowhere.
    """
    count = len(run)
    longest = count if rules.max_clips is None else rules.max_clips
    limit = None if rules.max_seconds is None else round(rules.max_seconds * 1000)
    if count < rules.min_clips:
        return []
    if count <= longest and (limit is None or _length(run, 0, count) <= limit):
        return [(0, count)]
    reach = [_contiguous_until(run, start, rules) for start in range(count)]
    # best[i] is the cost of the first i clips: clips left out, segments, sum of squared lengths. Smaller is better.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    begin: list[int] = [-1]  # start of the segment that ends at i; -1: clip i - 1 is left out
    for end in range(1, count + 1):
        left_out, segments, squares = best[end - 1]
        chosen, chosen_start = (left_out + 1, segments, squares), -1
        last_end = 0
        for start in range(end - 1, max(end - longest, 0) - 1, -1):
            last_end = max(last_end, run[start].end)
            if limit is not None and last_end - run[start].start > limit:
                break
            if end - start < rules.min_clips or end > reach[start]:
                continue
            left_out, segments, squares = best[start]
            cost = (left_out, segments + 1, squares + (end - start) ** 2)
            if cost < chosen:
                chosen, chosen_start = cost, start
        best.append(chosen)
        begin.append(chosen_start)
    found: list[tuple[int, int]] = []
    end = count
    while end > 0:
        start = begin[end]
        if start < 0:
            end -= 1
        else:
            found.append((start, end))
            end = start
    return found[::-1]


def _contiguous_until(run: Sequence[TimedClip], start: int, rules: JoinRules) -> int:
    """Return the end of the contiguous clips from `start` on: a clip that covered a gap may lie before `start`."""
    last_end = run[start].end
    for place in range(start + 1, len(run)):
        if run[place].start - last_end > rules.gap_ms:
            return place
        last_end = max(last_end, run[place].end)
    return len(run)


def _length(run: Sequence[TimedClip], start: int, end: int) -> int:
    """Return the milliseconds from the start of the first clip to the end of the last one to end."""
    return max(clip.end for clip in run[start:end]) - run[start].start

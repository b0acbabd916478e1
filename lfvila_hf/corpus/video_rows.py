# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Long-form rows of one video, made of all that the inputs say about it.

Lines about the same clip are combined without regard to their order: equal ones count once, different ones are a
conflict, and the clip is left out. A clip that is left and has a usable transcript is *eligible*. Eligible clips are
joined by `contiguous_clips`, or taken as the published selection lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .contiguous_clips import TimedClip, in_time_order, join_clips
from .inputs import clip_number, split_draw, video_key
from .plan import BuildParameters
from .problems import Place, ProblemLog
from .text import check_text, clean_text, count_words

GAP_BIN_MS = 100
GAP_RANGE_MS = 60_000

Row = dict[str, Any]
"""`id`, `video_id`, `url`, `category`, `split`, and `clips` as lists of clip id, start, end (milliseconds) and text."""


@dataclass
class VideoFacts:
    """Contents of all input lines about one video, each with its place."""

    videos: list[tuple[str, str, int | None, Place]] = field(default_factory=list)
    clips: dict[str, list[tuple[int, int, Place]]] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, Place]]] = field(default_factory=dict)
    selections: list[tuple[tuple[str, ...], Place]] = field(default_factory=list)


@dataclass
class BuildStats:
    """Counts of a part of the corpus; the sum over all parts is the count of the whole."""

    counts: Counter[str] = field(default_factory=Counter)
    source_gaps: Counter[int] = field(default_factory=Counter)
    row_gaps: Counter[int] = field(default_factory=Counter)
    clips_per_row: Counter[int] = field(default_factory=Counter)

    def merge(self, other: dict[str, dict[Any, int]]) -> None:
        """Add other counts, given as `as_dict()`; JSON may have turned keys into text."""
        self.counts.update(other["counts"])
        for name in ("source_gaps", "row_gaps", "clips_per_row"):
            getattr(self, name).update({int(key): count for key, count in other[name].items()})

    def as_dict(self) -> dict[str, dict[Any, int]]:
        """Return plain values, for another process."""
        return {name: dict(value) for name, value in vars(self).items()}


def rows_of_video(
    video_id: str, facts: VideoFacts, parameters: BuildParameters, selects: bool, log: ProblemLog, stats: BuildStats
) -> list[Row]:
    """Make the long-form rows of one video, in order of time.

    Args:
        video_id: The video.
        facts: Contents of the input lines about it.
        parameters: Parameters of the build.
        selects: Take the rows of `facts.selections`.
        log: Receives the problems.
        stats: Receives the counts.
    """
    _count_transcripts_without_clip(facts, log)
    eligible = in_time_order(list(_eligible_clips(video_id, facts, parameters, log, stats)))
    stats.counts["eligible_clips"] += len(eligible)
    stats.counts["eligible_videos"] += bool(eligible)
    _count_gaps(eligible, stats.source_gaps)
    joined = join_clips(eligible, parameters.join)
    for clip in joined.overlapping:
        place = min(place for *_, place in facts.clips[clip.clip_id])
        log.add(
            "overlapping_span", f"{clip.clip_id} begins at {clip.start / 1000:g} s, before an earlier clip ends", place
        )
    if selects:
        found = _selected_rows(facts, {clip.clip_id: clip for clip in eligible}, log, stats)
        ours = {tuple(clip.clip_id for clip in row) for row in joined.rows}
        stats.counts["selected_rows_also_built"] += sum(tuple(clip.clip_id for clip in row) in ours for row in found)
    else:
        found = joined.rows
        stats.counts["clips_in_short_runs"] += joined.short
        stats.counts["clips_cut_off_by_bounds"] += joined.cut_off
        stats.counts["clips_dropped_for_overlap"] += joined.dropped
    split = split_of(video_id, parameters)
    # Several rows of the metadata may differ: the smallest value does not depend on their order.
    url = min((video[0] for video in facts.videos if video[0]), default="")
    category = min((video[1] for video in facts.videos if video[1]), default="")
    rows: list[Row] = []
    used: Counter[str] = Counter()
    for clips in found:
        _count_gaps(clips, stats.row_gaps)
        stats.clips_per_row[len(clips)] += 1
        name = f"{video_id}.{clip_number(clips[0].clip_id)}-{clip_number(clips[-1].clip_id)}"
        used[name] += 1
        rows.append(
            {
                "id": name if used[name] == 1 else f"{name}~{used[name]}",
                "video_id": video_id,
                "url": url,
                "category": category,
                "split": split,
                "clips": [list(clip) for clip in clips],
            }
        )
    return rows


def split_of(video_id: str, parameters: BuildParameters) -> str:
    """Return the split of a video and of all its rows; it depends on id, shares and seed alone."""
    draw = split_draw(video_id, parameters.split_seed)
    if draw < parameters.test:
        return "test"
    return "validation" if draw < parameters.test + parameters.validation else "train"


def in_row_order(video_ids: Iterable[str]) -> list[str]:
    """Sort videos in the order of the corpus: by `video_key`."""
    return sorted(video_ids, key=lambda video_id: (video_key(video_id), video_id))


def paragraph_of(row: Row) -> str:
    """Join the transcripts of a row into one paragraph."""
    return " ".join(clip[3] for clip in row["clips"])


def _eligible_clips(
    video_id: str, facts: VideoFacts, parameters: BuildParameters, log: ProblemLog, stats: BuildStats
) -> Iterable[TimedClip]:
    """Yield the clips with one span inside the video and one usable transcript."""
    if len(facts.videos) > 1:
        places = sorted(video[3] for video in facts.videos)
        log.add("duplicate_video", video_id, places[1], len(places) - 1)
    duration = min((video[2] for video in facts.videos if video[2] is not None), default=None)
    latest = None if duration is None else duration + round(parameters.duration_tolerance * 1000)
    for clip_id, spans in facts.clips.items():
        good = sorted((start, end) for start, end, _ in spans if start >= 0)
        place = min(place for *_, place in spans)
        if not good:
            continue
        if good[0] != good[-1]:
            described = ", ".join(f"{start / 1000:g}-{end / 1000:g} s" for start, end in sorted(set(good)))
            log.add("conflicting_clip", f"{clip_id}: {described}", place, len(good) - 1)
            continue
        if len(good) > 1:
            log.add("duplicate_clip", clip_id, place, len(good) - 1)
        start, end = good[0]
        if latest is not None and end > latest:
            log.add("beyond_file", f"{clip_id} ends at {end / 1000:g} s of {(duration or 0) / 1000:g} s", place)
            continue
        text = _one_text(clip_id, facts.texts.get(clip_id, []), place, log)
        if text is None:
            continue
        text = clean_text(text, parameters.text.keep_sound_tags)
        words = count_words(text)
        reason = check_text(text, words, parameters.text)
        if reason is not None:
            log.add("unusable_text", f"{clip_id}: {reason}", place)
            continue
        stats.counts["eligible_ms"] += end - start
        stats.counts["eligible_words"] += words
        yield TimedClip(clip_id, start, end, text)


def _one_text(clip_id: str, texts: list[tuple[str, Place]], place: Place, log: ProblemLog) -> str | None:
    if not texts:
        log.add("clip_without_transcript", clip_id, place)
        return None
    place = min(place for _, place in texts)
    if len({text for text, _ in texts}) > 1:
        log.add("conflicting_transcript", f"{clip_id}: {min(texts)[0]}", place, len(texts) - 1)
        return None
    if len(texts) > 1:
        log.add("duplicate_transcript", clip_id, place, len(texts) - 1)
    return texts[0][0]


def _count_transcripts_without_clip(facts: VideoFacts, log: ProblemLog) -> None:
    for clip_id, texts in facts.texts.items():
        if clip_id not in facts.clips:
            log.add("transcript_without_clip", clip_id, min(place for _, place in texts), len(texts))


def _selected_rows(
    facts: VideoFacts, eligible: dict[str, TimedClip], log: ProblemLog, stats: BuildStats
) -> list[list[TimedClip]]:
    """Return the rows of the published selection of which all clips are eligible, in the listed order."""
    places: dict[tuple[str, ...], list[Place]] = {}
    for ids, place in facts.selections:
        places.setdefault(ids, []).append(place)
    rows = []
    for ids in sorted(places):
        stats.counts["selected_rows_listed"] += 1
        if len(places[ids]) > 1:
            log.add("duplicate_selection", f"{ids[0]} to {ids[-1]}", sorted(places[ids])[1], len(places[ids]) - 1)
        missing = [clip_id for clip_id in ids if clip_id not in eligible]
        if missing:
            detail = f"{ids[0]} to {ids[-1]}: {len(missing)} of {len(ids)} clips cannot be used, such as {missing[0]}"
            log.add("incomplete_selection", detail, min(places[ids]))
            continue
        row = [eligible[clip_id] for clip_id in ids]
        stats.counts["selected_rows_out_of_order"] += row != in_time_order(row)
        rows.append(row)
    return sorted(rows, key=lambda row: (row[0].start, [clip.clip_id for clip in row]))


def _count_gaps(clips: list[TimedClip], gaps: Counter[int]) -> None:
    """Count gaps between neighbours in bins of `GAP_BIN_MS`, clamped to `GAP_RANGE_MS`."""
    for before, after in zip(clips, clips[1:], strict=False):
        gap = max(-GAP_RANGE_MS, min(after.start - before.end, GAP_RANGE_MS))
        gaps[gap // GAP_BIN_MS * GAP_BIN_MS] += 1

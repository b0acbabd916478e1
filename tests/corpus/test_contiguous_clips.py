"""Joining clips: properties over drawn clips, and the cut of long runs against trying everything."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfvila_hf.corpus.contiguous_clips import JoinRules, TimedClip, cut_run, in_time_order, join_clips

clips_lists = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=24, unique=True).map(
    lambda spans: [
        TimedClip(f"v.{number}.mp4", start * 100, (start + length) * 100, f"text {number}")
        for number, (start, length) in enumerate(spans)
    ]
)
rules_drawn = st.builds(
    JoinRules,
    max_gap=st.sampled_from([0.0, 0.5, 2.0]),
    max_overlap=st.sampled_from([0.0, 0.3]),
    overlaps=st.sampled_from(["split", "drop", "keep"]),
    min_clips=st.integers(1, 3),
    max_clips=st.none() | st.integers(3, 6),
    max_seconds=st.none() | st.sampled_from([4.0, 12.0]),
)


def chain(lengths: list[int], gap: int = 0) -> list[TimedClip]:
    clips, now = [], 0
    for number, length in enumerate(lengths):
        clips.append(TimedClip(f"v.{number}.mp4", now, now + length, "text"))
        now += length + gap
    return clips


@given(clips_lists, rules_drawn, st.randoms())
def test_rows_are_contiguous_ordered_and_within_the_bounds_and_lose_nothing(
    clips: list[TimedClip], rules: JoinRules, shuffler: object
) -> None:
    joined = join_clips(clips, rules)
    kept = [clip for row in joined.rows for clip in row]
    assert len(kept) == len(set(kept))
    assert set(kept) <= set(clips)
    assert len(kept) + joined.short + joined.cut_off + joined.dropped == len(clips)
    assert joined.dropped == (len(joined.overlapping) if rules.overlaps == "drop" else 0)
    for row in joined.rows:
        assert row == in_time_order(row)
        assert len(row) >= rules.min_clips
        assert rules.max_clips is None or len(row) <= rules.max_clips
        length = max(clip.end for clip in row) - row[0].start
        assert rules.max_seconds is None or length <= rules.max_seconds * 1000
        end = row[0].end
        for clip in row[1:]:
            assert clip.start - end <= rules.gap_ms
            assert rules.overlaps == "keep" or clip.start - end >= -rules.overlap_ms
            end = max(end, clip.end)
    shuffled = list(clips)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert join_clips(shuffled, rules) == joined


@given(clips_lists, rules_drawn)
def test_without_upper_bounds_every_clip_of_a_long_enough_run_is_in_a_row(
    clips: list[TimedClip], rules: JoinRules
) -> None:
    free = JoinRules(rules.max_gap, rules.max_overlap, rules.overlaps, rules.min_clips)
    joined = join_clips(clips, free)
    assert joined.cut_off == 0
    alone = join_clips(clips, JoinRules(rules.max_gap, rules.max_overlap, rules.overlaps, 1))
    expected = [row for row in alone.rows if len(row) >= rules.min_clips]
    assert joined.rows == expected
    assert joined.short == sum(len(row) for row in alone.rows if len(row) < rules.min_clips)


def every_cut(count: int) -> list[list[tuple[int, int]]]:
    """All ways to take disjoint stretches out of a run: each clip begins one, continues one, or is left out."""
    found = []
    for marks in product("bc-", repeat=count):
        stretches: list[tuple[int, int]] = []
        ok = True
        for place, mark in enumerate(marks):
            if mark == "b":
                stretches.append((place, place + 1))
            elif mark == "c":
                ok &= bool(stretches) and stretches[-1][1] == place
                if ok:
                    stretches[-1] = (stretches[-1][0], place + 1)
        if ok:
            found.append(stretches)
    return found


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.integers(1, 3),
    st.none() | st.integers(3, 4),
    st.none() | st.integers(8, 20),
)
def test_a_long_run_is_cut_as_well_as_trying_everything_would(
    lengths: list[int], fewest: int, most: int | None, seconds: int | None
) -> None:
    run = chain([length * 1000 for length in lengths])
    rules = JoinRules(min_clips=fewest, max_clips=most, max_seconds=seconds)

    def allowed(start: int, end: int) -> bool:
        length = run[end - 1].end - run[start].start
        return (
            end - start >= fewest
            and (most is None or end - start <= most)
            and (seconds is None or length <= seconds * 1000)
        )

    def cost(stretches: list[tuple[int, int]]) -> tuple[int, int, int]:
        sizes = [end - start for start, end in stretches]
        return len(run) - sum(sizes), len(sizes), sum(size**2 for size in sizes)

    best = min(cost(cut) for cut in every_cut(len(run)) if all(allowed(*stretch) for stretch in cut))
    found = cut_run(run, rules)
    assert all(allowed(*stretch) for stretch in found)
    assert cost(found) == best


@pytest.mark.parametrize(("count", "sizes"), [(8, [8]), (9, [5, 4]), (17, [6, 6, 5]), (20, [7, 7, 6])])
def test_a_run_is_cut_evenly_so_that_no_clip_is_lost(count: int, sizes: list[int]) -> None:
    stretches = cut_run(chain([1000] * count), JoinRules(max_clips=8))
    assert sorted((end - start for start, end in stretches), reverse=True) == sizes
    assert sum(end - start for start, end in stretches) == count


@pytest.mark.parametrize(("overlaps", "rows", "dropped"), [("split", [4, 5], 0), ("drop", [8], 1), ("keep", [9], 0)])
def test_a_clip_that_overlaps_is_treated_as_asked(overlaps: str, rows: list[int], dropped: int) -> None:
    clips = chain([2000] * 4)
    late = [TimedClip("v.9.mp4", 7000, 8100, "overlapping by one second")]
    rest = [
        TimedClip(f"v.{number}.mp4", 8000 + 2000 * (number - 10), 10_000 + 2000 * (number - 10), "")
        for number in range(10, 14)
    ]
    joined = join_clips([*clips, *late, *rest], JoinRules(overlaps=overlaps))  # type: ignore[arg-type]  # a literal
    assert [len(row) for row in joined.rows] == rows
    assert joined.dropped == dropped
    assert [clip.clip_id for clip in joined.overlapping] == ["v.9.mp4"]


def test_the_gap_counts_from_the_latest_end_of_a_run_that_keeps_overlaps() -> None:
    clips = [
        TimedClip("v.0.mp4", 0, 10_000, ""),
        TimedClip("v.1.mp4", 1000, 2000, ""),
        TimedClip("v.2.mp4", 10_500, 12_000, ""),
    ]
    assert len(join_clips(clips, JoinRules(overlaps="keep", min_clips=1)).rows) == 1

"""Segments: where long videos are cut, which frames are read, thumbnails.

What frames a reader finds is tested in test_video_reading_lfvila.py.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_library import RULE, T, make_processor
from video_files import read_barcode, write_video

from lfvila_hf.library.segments import SegmentReader, SegmentRule, thumbnail
from lfvila_hf.video_reading_lfvila import LFVilaVideoError


@settings(deadline=None)
@given(st.floats(0.1, 600), st.floats(0.5, 600), st.floats(0, 0.95))
def test_segments_cover_a_video_without_gaps_and_are_equally_long(
    duration: float, seconds: float, overlap: float
) -> None:
    spans = SegmentRule(seconds, overlap).cut(duration)
    assert spans[0][0] == 0 and spans[-1][1] == duration
    assert all(later[0] <= earlier[1] + 1e-6 for earlier, later in zip(spans, spans[1:], strict=False))
    assert all(later[0] > earlier[0] for earlier, later in zip(spans, spans[1:], strict=False))
    assert all(abs(end - start - min(seconds, duration)) < 1e-6 for start, end in spans)


def test_the_cut_is_the_one_of_the_documentation() -> None:
    assert SegmentRule(60, 0.5).cut(150) == [(0, 60), (30, 90), (60, 120), (90, 150)]
    assert SegmentRule(60, 0.5).cut(100) == [(0, 60), (30, 90), (40, 100)]
    assert SegmentRule(60, 0).cut(120) == [(0, 60), (60, 120)]
    assert SegmentRule(60, 0.5).cut(60) == [(0, 60)]


@pytest.mark.parametrize(("seconds", "overlap"), [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (10, 1.0), (10, -0.1)])
def test_rules_that_make_no_sense_are_refused(seconds: float, overlap: float) -> None:
    with pytest.raises(ValueError, match="segments"):
        SegmentRule(seconds, overlap)


def test_a_leap_in_time_makes_no_segments_without_frames(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    path = write_video(tmp_path / "leap.mkv", 4, ticks=[0, 1, 2, 25 * 3600 * 20])
    with pytest.raises(LFVilaVideoError, match="its time stamps claim 72000 s for 4 frames"):
        list(SegmentReader(make_processor(tiny_vocabulary).video_processor, SegmentRule()).plan(str(path)))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("segments") / "a.mp4", 75, size=(64, 96))  # three seconds


def test_the_frames_of_a_segment_are_those_of_its_seconds(video: Path, tiny_vocabulary: dict[str, int]) -> None:
    reader = SegmentReader(
        make_processor(tiny_vocabulary).video_processor, RULE, batch_size=2, do_resize=False, do_center_crop=False
    )
    tasks = list(reader.plan(str(video)))
    assert [task.spans for task in tasks] == [((0, 1), (0.5, 1.5)), ((1, 2), (1.5, 2.5)), ((2, 3),)]
    assert [(task.first, task.last) for task in tasks] == [(0, False), (2, False), (4, True)]
    for task in tasks:
        frames = reader.read(task)
        assert frames.pictures.shape == (len(task.spans), T, 3, 64, 96)
        for span, pictures, times in zip(task.spans, frames.pictures, frames.times, strict=True):
            numbers = [read_barcode(picture) for picture in pictures]
            assert numbers == [round(second * 25) for second in times]
            assert times[0] == pytest.approx(span[0], abs=0.04) and times[-1] == pytest.approx(span[1] - 0.04, abs=0.04)
            assert span[0] - 0.04 <= min(times) and max(times) < span[1] and times == sorted(times)


def test_a_video_that_is_one_segment_is_read_as_the_processor_reads_it(
    video: Path, tiny_vocabulary: dict[str, int]
) -> None:
    processor = make_processor(tiny_vocabulary).video_processor
    reader = SegmentReader(processor, SegmentRule(60))
    (task,) = reader.plan(str(video))
    assert task.spans == ((0, 3.0),)
    assert torch.equal(reader.read(task).pictures[0], processor.read_pictures(str(video)).frames)
    assert SegmentReader(processor, RULE).whole(str(video)) == task


def test_unusable_videos_and_settings_are_named(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    processor = make_processor(tiny_vocabulary).video_processor
    with pytest.raises(LFVilaVideoError, match="no such file"):
        list(SegmentReader(processor).plan(str(tmp_path / "absent.mp4")))
    with pytest.raises(ValueError, match=r"does not know the settings \['colour'\]"):
        SegmentReader(processor, colour=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        SegmentReader(processor, batch_size=0)


def test_a_thumbnail_is_a_small_jpeg_of_the_picture() -> None:
    picture = torch.zeros(3, 270, 480)
    picture[0, :, :240], picture[2, :, 240:] = 220.0, 220.0  # red on the left, blue on the right
    data = thumbnail(picture)
    assert data == thumbnail(picture), "equal pictures give equal bytes"
    with av.open(io.BytesIO(data)) as container:
        seen = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert seen.shape == (180, 320, 3)
    assert seen[90, 60].tolist() == pytest.approx([220, 0, 0], abs=12)
    assert seen[90, 260].tolist() == pytest.approx([0, 0, 220], abs=12)

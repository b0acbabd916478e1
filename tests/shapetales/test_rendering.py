"""The H.264 files of ShapeTales: frame counts, times, exact clips, and that a decoded file shows its story.

What the frames should show is tested in `test_drawing.py`, the folder as a whole in `test_generate.py`.
"""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lfvila_hf.shapetales.drawing import FIGURE_COLOURS
from lfvila_hf.shapetales.rendering import StoryRenderer, cut_at_key_frames, draw_clips
from lfvila_hf.shapetales.story_plan import COLOURS, Story, StoryParameters, plan_stories

SMALL = StoryParameters(
    train_stories=0, validation_stories=0, test_stories=4, min_seconds=0.5, max_seconds=1.0, fps=4, height=32, width=48
)
FULL_SIZE = StoryParameters(train_stories=2, validation_stories=0, test_stories=0, query_stories=0)

LOSS_OF_QUALITY = 4.0
"""Bound on the mean absolute difference (of 255) of drawn and decoded pixels; measured 2.2 to 2.7 on 30 stories."""


def render(root: Path, parameters: StoryParameters) -> list[Story]:
    for name in ("videos", "clips"):
        (root / name).mkdir()
    stories = [story for split in plan_stories(parameters).values() for story in split]
    for story in stories:
        StoryRenderer(root, parameters)(story)
    return stories


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Story]]:
    root = tmp_path_factory.mktemp("small")
    return root, render(root, SMALL)


def decode(path: Path) -> tuple[np.ndarray, list[Fraction]]:
    """Frames (T, H, W, 3) and times in seconds of a video file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [f.pts * f.time_base for f in frames]


def test_videos_have_the_promised_frames_at_even_times(small: tuple[Path, list[Story]]) -> None:
    root, stories = small
    assert len(stories) == 5
    for story in stories:
        path = root / "videos" / f"{story.clip_id}.mp4"
        frames, times = decode(path)
        assert frames.shape == (sum(story.clip_frames), 32, 48, 3)
        assert times == [Fraction(number, 4) for number in range(len(times))]
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 4)
            assert stream.frames == len(times)
            assert stream.duration * stream.time_base == Fraction(len(times), 4)


def test_clip_files_hold_exactly_the_pixels_of_their_stretch_of_the_video(small: tuple[Path, list[Story]]) -> None:
    root, stories = small
    for story in stories:
        whole, _ = decode(root / "videos" / f"{story.clip_id}.mp4")
        folder = root / "clips" / story.clip_id
        cut = [decode(folder / f"{story.clip_id}.{number}.mp4") for number in range(len(story.events))]
        assert len(list(folder.iterdir())) == len(cut)
        assert [len(frames) for frames, _ in cut] == list(story.clip_frames)
        np.testing.assert_array_equal(np.concatenate([frames for frames, _ in cut]), whole)
        assert all(times == [Fraction(number, 4) for number in range(len(times))] for _, times in cut)


def test_decoded_files_show_what_was_drawn_for_their_row(tmp_path: Path) -> None:
    checked = 0
    for story in render(tmp_path, FULL_SIZE):
        frames, _ = decode(tmp_path / "videos" / f"{story.clip_id}.mp4")
        drawn = list(draw_clips(story, FULL_SIZE))
        assert np.abs(frames.astype(int) - np.concatenate(drawn)).mean() < LOSS_OF_QUALITY
        for event, first, length in zip(story.events, story.first_frames, story.clip_frames, strict=True):
            clip = frames[first : first + length].astype(int)
            areas = {
                name: np.median((np.abs(clip - FIGURE_COLOURS[name]).sum(axis=3) < 90).sum(axis=(1, 2)))
                for name in COLOURS
            }
            assert areas[event.colour] > 80, f"{event} is not seen in {story.clip_id}: {areas}"
            checked += 1
    assert checked >= 8


def test_rendering_again_gives_the_same_files_and_reports_their_size_and_checksum(
    small: tuple[Path, list[Story]],
) -> None:
    root, stories = small
    names = [
        f"clips/{stories[0].clip_id}/{stories[0].clip_id}.{number}.mp4" for number in range(len(stories[0].events))
    ]
    names.append(f"videos/{stories[0].clip_id}.mp4")
    before = [(root / name).read_bytes() for name in names]
    report = StoryRenderer(root, SMALL)(stories[0])
    assert [(root / name).read_bytes() for name in names] == before
    expected = [(name, len(content), zlib.crc32(content)) for name, content in zip(names, before, strict=True)]
    assert list(report.files) == expected


def test_a_video_without_a_key_frame_per_clip_is_not_cut(small: tuple[Path, list[Story]], tmp_path: Path) -> None:
    root, (story, *_) = small
    video = root / "videos" / f"{story.clip_id}.mp4"
    with pytest.raises(ValueError, match=f"has {len(story.events)} key frames, expected one for each of 2 clips"):
        cut_at_key_frames(video, [tmp_path / "a.mp4", tmp_path / "b.mp4"])

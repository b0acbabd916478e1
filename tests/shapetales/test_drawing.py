"""The pictures of ShapeTales: that pixels show the event, differ where events differ, and follow the seed.

Files are tested in `test_rendering.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from lfvila_hf.shapetales.drawing import FIGURE_COLOURS, _tracks, draw_clip
from lfvila_hf.shapetales.story_plan import ACTIONS, COLOURS, FIGURES, PLACES, Event


def figure_mask(frames: np.ndarray, colour: str) -> np.ndarray:
    """Where frames (T, H, W, 3) have a figure's colour: (T, H, W)."""
    return np.abs(frames.astype(int) - FIGURE_COLOURS[colour]).sum(axis=3) < 90


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_what_the_pixels_do(action: str) -> None:
    for seed in range(5):
        frames = draw_clip(Event("square", "red", action, "sea"), 20, 96, 160, np.random.default_rng(seed))
        mask = figure_mask(frames, "red")
        assert mask.reshape(20, -1).sum(axis=1).min() > 40, "the figure is visible in every frame"
        first, last = ([np.mean(axis) for axis in np.nonzero(mask[index])] for index in (0, -1))
        right, down = (last[1] - first[1]) / 160, (last[0] - first[0]) / 96
        growth = mask[-1].sum() / mask[0].sum()
        width = [np.ptp(np.nonzero(mask[index])[1]) / 160 for index in (0, -1)]
        seen = {
            "slide left": right < -0.4,
            "slide right": right > 0.4,
            "rise": down < -0.3,
            "fall": down > 0.3,
            "grow": growth > 5,
            "shrink": growth < 0.2,
            "split": width[1] - width[0] > 0.3 and abs(right) < 0.1,
            "merge": width[0] - width[1] > 0.3 and abs(right) < 0.1,
        }
        assert [name for name, holds in seen.items() if holds] == [action]


def test_motion_stays_inside_what_the_evaluation_crop_keeps() -> None:
    generator = np.random.default_rng(0)
    aspect = 160 / 96
    for action in ACTIONS:
        for _ in range(100):
            for track in _tracks(action, 16, aspect, generator):
                margins = (track.x - track.radius, aspect - track.x - track.radius)
                assert min(margin.min() for margin in margins) > 0.05 * aspect
                assert min((track.y - track.radius).min(), (1 - track.y - track.radius).min()) > 0.05


def test_figures_and_colours_and_places_look_different_at_the_size_of_training() -> None:
    base = Event("circle", "red", "grow", "sea")
    for attribute, values in (("figure", FIGURES), ("colour", COLOURS), ("place", PLACES)):
        events = [base._replace(**{attribute: value}) for value in values]
        # The same seed draws the same size, tilt and position, so that nothing but the attribute differs.
        pictures = [draw_clip(event, 20, 48, 80, np.random.default_rng(7))[10].astype(int) for event in events]
        for index, picture in enumerate(pictures):
            for other in pictures[:index]:
                num_changed = (np.abs(picture - other).sum(axis=2) > 90).sum()
                assert num_changed >= 30, f"two values of {attribute} look the same"


def test_a_seed_fixes_the_pixels_and_another_seed_changes_them() -> None:
    event = Event("star", "yellow", "rise", "snow")
    same = [draw_clip(event, 6, 32, 48, np.random.default_rng(1)) for _ in range(2)]
    other = draw_clip(event, 6, 32, 48, np.random.default_rng(2))
    assert same[0].dtype == np.uint8
    assert same[0].shape == (6, 32, 48, 3)
    np.testing.assert_array_equal(*same)
    assert (same[0] != other).mean() > 0.5


@pytest.mark.parametrize("place", PLACES)
def test_noise_never_wraps_a_bright_pixel_around_to_black(place: str) -> None:
    frames = draw_clip(Event("circle", "white", "grow", place), 8, 64, 96, np.random.default_rng(3)).astype(int)
    middle = frames[-1, 28:36, 44:52]
    assert middle.min() > 200, "inside a white figure"
    assert np.ptp(middle, axis=(0, 1)).max() <= 8, "only light noise"

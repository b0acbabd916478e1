# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Pictures of ShapeTales: the frames of one clip, drawn from one event.

Design note.

1. A clip is one picture of a place, drawn once, on which one figure moves (two while something splits or merges).
   Figures are signed distances evaluated on a crop around the figure only, for all frames of the clip at once, and
   blended with one pixel of anti-aliasing. A motion is a straight line over the whole clip, so any two frames of a clip
   that are some way apart show it.
2. Start, distance, size, tilt and brightness of a figure, everything loose in the scenery and a light noise on every
   frame come from the caller's generator: the same event never gives the same pixels twice.

Coordinates are in units of the frame height H: y runs from 0 (top) to 1, x from 0 to W / H. T is the number of frames
of the clip, S the side of the crop around a figure in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .story_plan import Event

FIGURE_COLOURS = {
    "red": (218, 38, 38),
    "orange": (244, 138, 26),
    "yellow": (244, 222, 48),
    "green": (30, 158, 62),
    "blue": (40, 84, 226),
    "purple": (150, 54, 190),
    "white": (240, 240, 240),
    "black": (24, 24, 24),
}
_DARK_OUTLINE, _LIGHT_OUTLINE = (16, 16, 16), (232, 232, 232)
_OUTLINE_WIDTH = 0.022  # of the frame height: one pixel still at 48 rows
_NOISE_LEVELS = 5  # uniform noise of 0 to 4 grey levels on every frame
_BRIGHTEST = 255 - (_NOISE_LEVELS - 1)  # what is drawn stays below, so that adding noise cannot overflow


def draw_clip(event: Event, num_frames: int, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one event.

    Args:
        event: Event to draw.
        num_frames: Length of the clip in frames.
        height: Frame height in pixels.
        width: Frame width in pixels.
        generator: Source of all jitter.

    Returns:
        uint8 RGB `(num_frames, height, width, 3)`.
    """
    place = _Picture(height, width)
    _PLACE_PAINTERS[event.place](place, generator)
    scenery = np.clip(place.pixels * generator.uniform(0.9, 1.05), 0, _BRIGHTEST).astype(np.uint8)

    tracks = _tracks(event.action, num_frames, width / height, generator)
    tilt = generator.uniform(-0.15, 0.15)
    colour = np.asarray(FIGURE_COLOURS[event.colour]) * generator.uniform(0.92, 1.04) + generator.uniform(-6, 6, 3)
    outline = np.asarray(_LIGHT_OUTLINE if event.colour == "black" else _DARK_OUTLINE)

    pad = int(np.ceil(height * (max(track.radius.max() for track in tracks) + _OUTLINE_WIDTH))) + 2
    canvas = np.empty((num_frames, height + 2 * pad, width + 2 * pad, 3), np.uint8)
    canvas[:, pad:-pad, pad:-pad] = scenery
    for track in tracks:
        _blend_figure(canvas, pad, height, event.figure, track, tilt, np.clip(colour, 0, _BRIGHTEST), outline)
    frames = canvas[:, pad:-pad, pad:-pad].copy()  # (T, H, W, 3)

    grain = generator.integers(0, _NOISE_LEVELS, (height + 8, width + 8, 1), dtype=np.uint8).repeat(3, axis=2)
    for frame, (down, right) in zip(frames, generator.integers(0, 8, (num_frames, 2)), strict=True):
        frame += grain[down : down + height, right : right + width]
    return frames


@dataclass(frozen=True)
class _Track:
    """Position and radius of one figure in each frame of a clip: `(T,)`, in units of the frame height."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray


def _tracks(action: str, num_frames: int, aspect: float, generator: np.random.Generator) -> list[_Track]:
    """Turn an action into motion; all of it stays inside the central nine tenths that evaluation crops to."""
    progress = (np.arange(num_frames) + 0.5) / num_frames * generator.uniform(0.85, 1.0)
    x = aspect / 2 + generator.uniform(-0.1, 0.1) + np.zeros(num_frames)
    y = 0.5 + generator.uniform(-0.05, 0.05) + np.zeros(num_frames)
    radius = generator.uniform(0.155, 0.19) + np.zeros(num_frames)
    if action in ("slide left", "slide right"):
        start = generator.uniform(0.19, 0.23)
        x = aspect * (start + (1 - 2 * start) * progress)
        x = aspect - x if action == "slide left" else x
        y = y + generator.uniform(-0.1, 0.1)
    elif action in ("rise", "fall"):
        start = generator.uniform(0.25, 0.28)
        y = start + (1 - 2 * start) * progress
        y = 1 - y if action == "rise" else y
        x = x + aspect * generator.uniform(-0.15, 0.15)
    elif action in ("grow", "shrink"):
        smallest, largest = generator.uniform(0.06, 0.08), generator.uniform(0.25, 0.29)
        radius = smallest + (largest - smallest) * progress
        radius = radius[::-1] if action == "shrink" else radius
    elif action in ("split", "merge"):
        apart = generator.uniform(0.25, 0.29) * aspect * progress
        apart = apart[::-1] if action == "merge" else apart
        radius = radius * 0.8
        return [_Track(x - apart, y, radius), _Track(x + apart, y, radius)]
    else:
        raise ValueError(f"action is {action!r}, which cannot be drawn")
    return [_Track(x, y, radius)]


def _blend_figure(
    canvas: np.ndarray,
    pad: int,
    height: int,
    figure: str,
    track: _Track,
    tilt: float,
    colour: np.ndarray,
    outline: np.ndarray,
) -> None:
    """Blend one figure with its outline into all frames of a padded uint8 canvas, each frame at its place."""
    reach = pad - 1
    centre_x, centre_y = track.x * height + pad - 0.5, track.y * height + pad - 0.5  # pixel centres at whole numbers
    left, top = np.floor(centre_x).astype(int) - reach + 1, np.floor(centre_y).astype(int) - reach + 1
    steps = np.arange(2 * reach)
    size = (track.radius * height).astype(np.float32)[:, None, None]
    x = (left[:, None] + steps - centre_x[:, None]).astype(np.float32)[:, None, :] / size
    y = (top[:, None] + steps - centre_y[:, None]).astype(np.float32)[:, :, None] / size
    sine, cosine = np.float32(np.sin(tilt)), np.float32(np.cos(tilt))
    distance = _FIGURES[figure](cosine * x + sine * y, cosine * y - sine * x) * size  # (T, S, S), in pixels
    # Columns and channels share the last axis below, which is what makes numpy quick here.
    inside = np.clip(0.5 - distance, 0, 1).repeat(3, axis=2)  # (T, S, S*3)
    covered = np.clip(0.5 + np.float32(_OUTLINE_WIDTH * height) - distance, 0, 1).repeat(3, axis=2)
    over = np.tile((colour - outline).astype(np.float32), len(steps)) * inside
    over += np.tile(outline.astype(np.float32), len(steps))
    over *= covered
    over += 0.5  # rounds, where the sum is cut to whole numbers
    kept = 1 - covered
    rows = canvas.reshape(*canvas.shape[:2], -1)
    for frame, y0, x0, over_frame, kept_frame in zip(rows, top, left, over, kept, strict=True):
        crop = frame[y0 : y0 + len(steps), 3 * x0 : 3 * (x0 + len(steps))]
        crop[:] = crop * kept_frame + over_frame


# ---------------------------------------------------------------------------------------------------------------------
# Figures: signed distance (negative inside) to the outline of a figure of about radius 1. x points right, y down.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74) - 0.24


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.78, 0.78)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 0.98, 0.3), _box(x, y, 0.3, 0.98))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # The base at y = 0.72 and two sides at 60 degrees that meet in the tip (0, -1.08).
    return np.maximum(y - 0.72, 0.866 * np.abs(x) - 0.5 * (y + 1.08))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Fold the plane onto half a ray; there the outline is the line from the tip to the notch between two rays.
    tip, notch, half_ray = 1.08, 0.46, np.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, -y) + half_ray, 2 * half_ray) - half_ray)  # 0 at a tip, half_ray at a notch
    distance = np.hypot(x, y)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    line_x, line_y = notch * np.cos(half_ray) - tip, notch * np.sin(half_ray)
    return (line_y * (along - tip) - line_x * across) / np.hypot(line_x, line_y)


_FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


# ---------------------------------------------------------------------------------------------------------------------
# Places: muted colours, so that the figure's own colour stands out


class _Picture:
    """A picture being painted: float RGB `pixels` (H, W, 3) over coordinates `x` (1, W) and `y` (H, 1)."""

    def __init__(self, height: int, width: int) -> None:
        self.unit = 1.0 / height
        self.aspect = width / height
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) * self.unit)[None, :]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) * self.unit)[:, None]
        self.pixels = np.zeros((height, width, 3), np.float32)

    def gradient(self, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> None:
        """Fill everything, from one colour at the top to another at the bottom."""
        share = self.y[..., None]
        self.pixels[:] = (1 - share) * np.asarray(top, np.float32) + share * np.asarray(bottom, np.float32)

    def paint(self, distance: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Paint where a signed distance (broadcasting to (H, W), in frame heights) is negative."""
        cover = np.broadcast_to(np.clip(0.5 - distance / self.unit, 0, 1), self.pixels.shape[:2])  # (H, W)
        rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
        if len(rows):  # work on the touched rectangle only
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            pixels = self.pixels[box]
            pixels += cover[box][..., None] * (np.asarray(colour, np.float32) - pixels)

    def ground(
        self, level: float, swing: float, waves: float, generator: np.random.Generator, colour: tuple[int, int, int]
    ) -> np.ndarray:
        """Paint everything below a wavy line and return the line, (1, W)."""
        line = level + swing * np.sin(self.x * waves + generator.uniform(0, 2 * np.pi))
        self.paint(line - self.y, colour)
        return line

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        """Paint a disc."""
        self.paint(np.hypot(self.x - x, self.y - y) - radius, colour)

    def dots(
        self, number: int, top: float, bottom: float, generator: np.random.Generator, colour: tuple[int, int, int]
    ) -> None:
        """Scatter small squares (stars, flowers, flakes) between two heights."""
        height, width, _ = self.pixels.shape
        size = max(1, height // 60)
        rows = generator.integers(int(top * height), int(bottom * height) - size, number)
        columns = generator.integers(0, width - size, number)
        for row, column in zip(rows, columns, strict=True):
            self.pixels[row : row + size, column : column + size] = colour


def _meadow(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((168, 200, 222), (214, 226, 226))
    picture.ground(0.45 + generator.uniform(-0.04, 0.04), 0.05, 3.5, generator, (150, 176, 112))
    picture.ground(0.62 + generator.uniform(-0.04, 0.04), 0.04, 5.0, generator, (118, 152, 84))
    picture.dots(24, 0.7, 1.0, generator, (238, 226, 232))
    picture.dots(16, 0.7, 1.0, generator, (226, 200, 120))


def _beach(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((178, 208, 228), (206, 222, 228))
    picture.ground(0.3 + generator.uniform(-0.03, 0.03), 0.0, 0.0, generator, (92, 158, 172))
    shore = picture.ground(0.52 + generator.uniform(-0.04, 0.04), 0.025, 6.0, generator, (240, 242, 236))
    picture.paint(shore + 0.04 - picture.y, (220, 202, 160))
    # A parasol at one side.
    x, y = picture.aspect * generator.choice((0.1, 0.9)) + generator.uniform(-0.03, 0.03), 0.72
    picture.paint(_box(picture.x - x, picture.y - y - 0.09, 0.008, 0.1), (128, 96, 72))
    picture.paint(np.maximum(np.hypot(picture.x - x, picture.y - y) - 0.11, picture.y - y), (206, 132, 120))


def _sea(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((70, 118, 146), (22, 56, 92))
    for level in np.arange(0.06, 1.0, 0.13):
        line = level + generator.uniform(-0.02, 0.02) + 0.018 * np.sin(picture.x * 14 + generator.uniform(0, 2 * np.pi))
        picture.paint(np.abs(picture.y - line) - 0.009, (122, 168, 188))


def _desert(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((226, 176, 128), (246, 216, 172))
    picture.disc(picture.aspect * generator.uniform(0.2, 0.8), 0.14, 0.09, (250, 234, 204))
    picture.ground(0.52 + generator.uniform(-0.03, 0.03), 0.06, 3.0, generator, (206, 160, 104))
    picture.ground(0.7 + generator.uniform(-0.03, 0.03), 0.07, 4.5, generator, (178, 128, 80))
    for side in (0.09, 0.91):  # a cactus at each side
        x, y = picture.aspect * side + generator.uniform(-0.04, 0.04), 0.6 + generator.uniform(-0.04, 0.04)
        trunk, arms = _box(picture.x - x, picture.y - y, 0.022, 0.17), _box(picture.x - x, picture.y - y, 0.085, 0.02)
        hands = _box(np.abs(picture.x - x) - 0.075, picture.y - y + 0.04, 0.016, 0.06)
        for part in (trunk, arms, hands):
            picture.paint(part, (92, 108, 72))


def _night(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((14, 16, 42), (48, 44, 82))
    picture.dots(45, 0.0, 0.8, generator, (206, 206, 190))
    x, y = picture.aspect * generator.choice((0.14, 0.86)), 0.18
    crescent = np.maximum(
        np.hypot(picture.x - x, picture.y - y) - 0.1, 0.085 - np.hypot(picture.x - x - 0.045, picture.y - y + 0.02)
    )
    picture.paint(crescent, (222, 216, 178))
    picture.ground(0.84 + generator.uniform(-0.03, 0.03), 0.05, 4.0, generator, (16, 22, 26))


def _snow(picture: _Picture, generator: np.random.Generator) -> None:
    picture.gradient((166, 176, 192), (206, 212, 222))
    for x in np.linspace(0.05, picture.aspect - 0.05, 7) + generator.uniform(-0.07, 0.07, 7):
        tall = generator.uniform(0.22, 0.34)
        below = picture.y - (0.62 - tall)
        picture.paint(np.maximum(np.abs(picture.x - x) - 0.3 * below, -below), (92, 116, 112))
    picture.ground(0.58 + generator.uniform(-0.03, 0.03), 0.025, 4.0, generator, (222, 228, 236))
    picture.dots(45, 0.0, 1.0, generator, (248, 248, 248))


_PLACE_PAINTERS: dict[str, Callable[[_Picture, np.random.Generator], None]] = {
    "meadow": _meadow,
    "beach": _beach,
    "sea": _sea,
    "desert": _desert,
    "night": _night,
    "snow": _snow,
}

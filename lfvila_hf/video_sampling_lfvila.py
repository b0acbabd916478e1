# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Which frames of a video are taken: the three released rules, and a wish for frames that is settled once n is known.

In evaluation the released LF-VILA code takes `linspace(0, n - 1, T)`, in training it moves both ends inwards by up to
one interval, and of each of K clip files it takes `linspace(0, n, T / K + 1)[:-1]`; all are truncated to integers. A
video that is shorter than T frames repeats frames, as truncation makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .video_tables_lfvila import FrameTable

SAMPLINGS = ("uniform", "jittered", "clip")


def uniform_indices(num_available: int, num_frames: int) -> list[int]:
    """The released evaluation rule: `linspace(0, n - 1, T)` truncated to integers.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T. More than n repeats frames.
    """
    _check_counts(num_available, num_frames)
    return np.linspace(0, num_available - 1, num_frames).astype(int).tolist()


def jittered_indices(num_available: int, num_frames: int, generator: torch.Generator | None = None) -> list[int]:
    """The released training rule: the uniform one, both ends moved inwards by up to one interval `n // (T - 1)`.

    Args:
        num_available: Frames in the video, n.
        num_frames: Frames wanted, T.
        generator: Where the two random numbers come from; torch's global one if left out.
    """
    return _moved_ends(num_available, num_frames, draw_jitter(generator))


def clip_indices(num_available: int, frames_per_clip: int) -> list[int]:
    """The released rule inside one clip file: `linspace(0, n, T / K + 1)[:-1]` truncated to integers.

    Args:
        num_available: Frames in the clip file, n.
        frames_per_clip: Frames wanted of it, T / K.
    """
    _check_counts(num_available, frames_per_clip)
    return np.linspace(0, num_available, frames_per_clip + 1)[:-1].astype(int).tolist()


def draw_jitter(generator: torch.Generator | None = None) -> tuple[float, float]:
    """How far, as parts of one interval, the two ends of a jittered sample move inwards: two numbers in [0, 1)."""
    start, cut = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return start, cut


@dataclass(frozen=True)
class FrameWish:
    """Which frames are wanted; calling it with the table of a video says which ones these are.

    Args:
        num_frames: How many, by `sampling`.
        indices: Or: these.
        times: Or: those on screen at these seconds. None of the three: all.
        sampling: "uniform", "jittered" or "clip".
        jitter: What "jittered" was drawn to, from `draw_jitter`, so that the wish is the same however often it is
            asked.
    """

    num_frames: int | None = None
    indices: list[int] | None = None
    times: list[float] | None = None
    sampling: str = "uniform"
    jitter: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if sum(wanted is not None for wanted in (self.num_frames, self.indices, self.times)) > 1:
            raise ValueError("give one of num_frames, indices and times")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")
        if self.num_frames is not None:
            _check_counts(1, self.num_frames)

    def __call__(self, table: FrameTable) -> Sequence[int]:
        """The wanted frames of a video with this table."""
        if self.times is not None:
            return [_index_at(table, second) for second in self.times]
        if self.indices is not None:
            return self.indices
        if self.num_frames is None:
            return range(len(table))
        if self.sampling == "jittered":
            return _moved_ends(len(table), self.num_frames, self.jitter or (0.0, 0.0))
        return (clip_indices if self.sampling == "clip" else uniform_indices)(len(table), self.num_frames)


def _moved_ends(num_available: int, num_frames: int, jitter: tuple[float, float]) -> list[int]:
    _check_counts(num_available, num_frames)
    interval = min(num_available // max(num_frames - 1, 1), (num_available - 1) // 2)
    start, cut = (int(part * (interval + 1)) for part in jitter)
    return np.linspace(start, num_available - 1 - cut, num_frames).astype(int).tolist()


def _index_at(table: FrameTable, second: float) -> int:
    if not 0 <= second <= table.duration:
        raise ValueError(f"second {second:g} was asked for, the video runs from 0 to {table.duration:g} s")
    return table.index_at(second)


def _check_counts(num_available: int, num_frames: int) -> None:
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"sampling needs at least 1 frame of at least 1, got {num_frames} of {num_available}")

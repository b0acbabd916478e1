# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Moments: when each sentence happens in a hit, several times or not at all.

**Cells.** The clips of the hit's segment and of those that overlap it are laid over each other: time is cut at every
edge of a clip, and the cosine of a sentence with a cell is the mean over the clips that cover it.

**Not here.** Cosines have no natural zero: they differ by encoder and by sentence. What is usual comes from the library
itself, nearly all of which does not show a sentence. For one video, a sentence's largest cosine in the hit's segment is
ranked among its largest cosines in the segments of all other videos (a conformal p-value). A library with fewer than
`MIN_SEGMENTS` others has no ranks to speak of; there the robust z-score of the cosine among all clips is used.

**Nowhere.** The best segment of a whole library is the best of many, so its rank says nothing. There a sentence counts
as found if its largest cosine stands out from the tail of all segments (the excesses over the 90 % quantile are taken
as exponential, with the median excess as its scale, so that the segments that do show it hardly matter), or if it ranks
high in the segment that the *other* sentences of the story choose.

**Places.** Sentences go to cells by the monotone alignment with a null clip: a cell below a sentence's threshold is
worth as much as none. A place grows from its cell to both sides while the cosine stays above halfway between its peak
and the sentence's median in the hit, and never past the neighbours' places. Spans are all places above the threshold.

Letters: S overlapping segments, N segments of the library, K clips of each, M sentences, n cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lfvila_hf.alignment_lfvila import monotone_alignment

ALPHA = 0.1
"""Share of foreign sentences that are reported as found."""
MIN_SEGMENTS = 30
TAIL = 0.1
SHORTEST_CELL = 0.25
"""Of the shortest clip: a nearer edge is dropped, because frames of two segments lie at slightly other seconds."""


@dataclass(frozen=True)
class Moment:
    """Places of one sentence in a hit.

    Args:
        sentence: Number of the sentence in the story.
        text: The sentence.
        start: Second at which its best place starts, also if it is not found.
        end: Second at which that place ends.
        score: Cosine of the sentence with the best cell of that place.
        found: Whether the sentence is found here.
        p_value: How often a foreign sentence would be as similar to this segment.
        spans: Start and end of every place, in order of time; none if it is not found.
    """

    sentence: int
    text: str
    start: float
    end: float
    score: float
    found: bool
    p_value: float
    spans: tuple[tuple[float, float], ...] = ()


def cells_of_clips(clip_times: Sequence[Sequence[float]]) -> np.ndarray:
    """Cut overlapping segments into cells.

    Args:
        clip_times: For each of S segments the seconds at which its clips begin, and the end of the last.

    Returns:
        Seconds `(n + 1,)` between which the cells lie.
    """
    edges = np.unique(np.concatenate([np.asarray(row, np.float64) for row in clip_times]))
    least = SHORTEST_CELL * min(float(np.diff(row).min()) for row in clip_times)
    kept = [edges[0]]
    for edge in edges[1:-1].tolist():
        if edge - kept[-1] > least and edges[-1] - edge > least:
            kept.append(edge)
    return np.array([*kept, edges[-1]])


def cell_cosines(
    clip_times: Sequence[Sequence[float]], cosines: Sequence[torch.Tensor], bounds: np.ndarray
) -> torch.Tensor:
    """Average the cosines of the clips that cover the middle of each cell.

    Args:
        clip_times: S rows of `(K + 1,)` seconds; K may differ.
        cosines: S tensors `(M, K)`.
        bounds: `(n + 1,)`, from `cells_of_clips`.

    Returns:
        `(M, n)`.
    """
    starts = np.concatenate([np.asarray(row[:-1]) for row in clip_times])[:, None]
    ends = np.concatenate([np.asarray(row[1:]) for row in clip_times])[:, None]
    middles = (bounds[1:] + bounds[:-1]) / 2  # (n,)
    weights = torch.from_numpy(((starts <= middles) & (middles < ends)).astype(np.float32))  # (S * K, n)
    return torch.cat([one.float() for one in cosines], 1) @ weights / weights.sum(0).clamp(min=1)


class Calibration:
    """Usual cosines of each sentence of a story in a library.

    Args:
        largest: Largest cosine of each sentence in each segment, `(N, M)`.
        cosines: Cosine of each sentence with each clip, `(C, M)`.
        alpha: Share of foreign sentences that may be reported as found.
    """

    def __init__(self, largest: torch.Tensor, cosines: torch.Tensor, alpha: float = ALPHA) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        self.largest, self.alpha = largest, alpha
        count = len(largest)
        self.by_rank = count >= MIN_SEGMENTS
        self.clips_per_segment = max(len(cosines) / max(count, 1), 1.0)
        if self.by_rank:
            # (M, N); several times faster than the sort of torch
            self.ordered = torch.from_numpy(np.sort(np.ascontiguousarray(largest.numpy().T), axis=1))
            place = min(max(math.ceil((count + 1) * (1 - alpha)), 1), count)
            self.threshold = self.ordered[:, place - 1]  # (M,)
        else:
            self.median = cosines.median(0).values
            self.spread = (1.4826 * (cosines - self.median).abs().median(0).values).clamp(min=1e-6)
            level = (1 - alpha) ** (1 / self.clips_per_segment)
            quantile = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
            self.threshold = self.median + self.spread * quantile
        # Two ways to be somewhere share the false rate.
        self.nowhere = (self._library_p_values() > alpha / 2) & (self._company_p_values() > alpha / 2)  # (M,)

    def p_values(self, row: int, own: range) -> torch.Tensor:
        """Share of foreign segments that would be as similar, `(M,)`.

        Args:
            row: Segment of a hit.
            own: All segments of its video.
        """
        values, count = self.largest[row], len(self.largest) - len(own)
        if not self.by_rank or count < MIN_SEGMENTS:
            return self._normal_p(values, self.clips_per_segment)
        of_own = (self.largest[own.start : own.stop] >= values).sum(0)
        return (self._above(values) - of_own + 1) / (count + 1)

    def _above(self, values: torch.Tensor) -> torch.Tensor:
        """Number of segments that are at least as similar to each sentence, `(M,)`."""
        return len(self.largest) - torch.searchsorted(self.ordered, values[:, None].contiguous())[:, 0]

    def _normal_p(self, values: torch.Tensor, tries: float) -> torch.Tensor:
        if self.by_rank:  # nearly all segments are of one video: their own spread
            median = self.ordered.median(1).values
            spread = (1.4826 * (self.largest - median).abs().median(0).values).clamp(min=1e-6)
            tries = 1.0
        else:
            median, spread = self.median, self.spread
        below = torch.special.ndtr(((values - median) / spread).double())
        return (1 - below**tries).float()

    def _company_p_values(self) -> torch.Tensor:
        """Rank of each sentence in the segment that the other sentences choose, which knows nothing of the sentence."""
        count, sentences = self.largest.shape
        if sentences < 2 or not self.by_rank:
            return torch.ones(sentences)
        rows = (self.largest.sum(1, keepdim=True) - self.largest).argmax(0)  # (M,)
        own = self.largest[rows, torch.arange(sentences)]
        return self._above(own) / count

    def _library_p_values(self) -> torch.Tensor:
        count = len(self.largest)
        if not self.by_rank:
            return self._normal_p(self.largest.max(0).values, self.clips_per_segment * count)
        tail = self.ordered[:, -math.ceil(TAIL * count) - 1 :]  # (M, R + 1)
        scale = ((tail[:, 1:] - tail[:, :1]).median(1).values / math.log(2)).clamp(min=1e-6)
        return 1 - (1 - torch.exp(-(tail[:, -1] - tail[:, 0]) / scale)) ** (tail.shape[1] - 1)


def place_sentences(
    words: Sequence[str],
    bounds: np.ndarray,
    cosines: torch.Tensor,
    threshold: torch.Tensor,
    found: torch.Tensor,
    p_values: torch.Tensor,
) -> tuple[Moment, ...]:
    """Find the places of every sentence in a hit.

    Args:
        words: M sentences.
        bounds: `(n + 1,)` seconds of the cells.
        cosines: `(M, n)`.
        threshold: `(M,)`, cosine above which a cell shows a sentence.
        found: `(M,)`, whether a sentence is found here at all.
        p_values: `(M,)`.
    """
    plain = monotone_alignment(cosines)[1].tolist()
    # A cell below the threshold is worth nothing, which is a null clip: it neither adds nor holds the others back.
    gains = torch.where(found[:, None], (cosines - threshold[:, None]).clamp(min=0), torch.zeros(()))
    with_null = monotone_alignment(gains)[1].tolist()
    cells = []
    for number in range(len(words)):
        cell = with_null[number] if found[number] and gains[number, with_null[number]] > 0 else plain[number]
        if found[number] and gains[number, cell] <= 0 and float(gains[number].max()) > 0:
            cell = int(gains[number].argmax())  # it happens, in another order than the story's
        cells.append(cell)
    moments = []
    for number, text in enumerate(words):
        row, cell = cosines[number], cells[number]
        low, high = _between(cells, number, len(row))
        level = float(row[cell] + row.median()) / 2
        first, last = _grown(row, cell, level, low, high)
        places = {(first, last)} if found[number] else set()
        if found[number]:
            above = row >= threshold[number]
            for peak in torch.nonzero(above).flatten().tolist():
                if not any(a <= peak <= b for a, b in places):
                    run = _grown(row, peak, float(threshold[number]), 0, len(row) - 1)
                    places.add(run)
        spans = _merged(sorted(places))
        moments.append(
            Moment(
                number,
                text,
                float(bounds[first]),
                float(bounds[last + 1]),
                float(row[cell]),
                bool(found[number]),
                float(p_values[number]),
                tuple((float(bounds[a]), float(bounds[b + 1])) for a, b in spans),
            )
        )
    return tuple(moments)


def _between(cells: list[int], number: int, count: int) -> tuple[int, int]:
    """First and last cell that a place may grow to: not onto a neighbour's cell."""
    before = [cell for cell in cells[:number] if cell < cells[number]]
    after = [cell for cell in cells[number + 1 :] if cell > cells[number]]
    return max(before, default=-1) + 1, min(after, default=count) - 1


def _grown(row: torch.Tensor, cell: int, level: float, low: int, high: int) -> tuple[int, int]:
    first = last = cell
    while first > low and row[first - 1] >= level:
        first -= 1
    while last < high and row[last + 1] >= level:
        last += 1
    return first, last


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join runs of cells that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for first, last in runs:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged

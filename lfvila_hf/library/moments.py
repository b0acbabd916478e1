# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""When each sentence of a story happens, from all segments that show the place.

A long video is searched as overlapping segments, so most of its seconds have been looked at twice, and a story may
begin before the best segment or end behind it. The clips of the best segment and of those that overlap it are therefore
laid over each other: the seconds that they cover are cut at every edge of a clip into *cells*, the cosine of a sentence
with a cell is the mean over the clips that cover it, and the monotone alignment maps sentences to cells. Cells are
at most as long as clips, and shorter where the clips of two segments begin at different seconds. Of a video that is one
segment the cells are its clips, and the answer is that of `LFVilaProcessor.post_process_alignment`.

Letters: S segments, K clips of each, M sentences, D width, n cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

SHORTEST_CELL = 0.25
"""Of the shortest clip: an edge that is nearer than that to the one before it is none, because the frames of two
segments do not lie at quite the same seconds."""


def cells_of_clips(clip_times: Sequence[Sequence[float]]) -> np.ndarray:
    """The seconds `(n + 1,)` between which the cells of overlapping segments lie.

    Args:
        clip_times: For each of S segments the seconds `(K + 1,)` at which its clips begin, and the end of the last.
    """
    times = np.asarray(clip_times, dtype=np.float64)  # (S, K + 1)
    edges = np.unique(times)
    first, last = edges[0], edges[-1]
    least = SHORTEST_CELL * float(np.diff(times, axis=1).min())
    kept = [first]
    for edge in edges[1:-1].tolist():
        if edge - kept[-1] > least and last - edge > least:
            kept.append(edge)
    return np.array([*kept, last])  # (n + 1,)


def cell_cosines(clip_times: Sequence[Sequence[float]], cosines: torch.Tensor, bounds: np.ndarray) -> torch.Tensor:
    """The cosine of each sentence with each cell: the mean over the clips that cover the middle of the cell.

    Args:
        clip_times: `(S, K + 1)` seconds.
        cosines: `(S, M, K)`.
        bounds: `(n + 1,)`, from `cells_of_clips`.

    Returns:
        `(M, n)`.
    """
    times = np.asarray(clip_times, dtype=np.float64)
    middles = (bounds[1:] + bounds[:-1]) / 2  # (n,)
    covers = (times[:, :-1, None] <= middles) & (middles < times[:, 1:, None])  # (S, K, n)
    weights = torch.from_numpy(covers.astype(np.float32))
    total = torch.einsum("smk,skn->mn", cosines.float(), weights)  # (M, n)
    return total / weights.sum((0, 1)).clamp(min=1)

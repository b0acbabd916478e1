"""Cells of overlapping segments: worked out by hand, and against a loop over every second.

That a library's hits use them, and agree with `post_process_alignment` where a video is one segment, is pinned in
test_video_library.
"""

from __future__ import annotations

import numpy as np
import torch

from lfvila_hf.library.moments import cell_cosines, cells_of_clips

FIRST, SECOND = [0.0, 2.0, 4.0, 6.0], [3.0, 5.0, 7.0, 9.0]


def test_clips_are_cut_where_another_segments_clip_begins_or_ends() -> None:
    bounds = cells_of_clips([FIRST, SECOND])
    assert bounds.tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
    cosines = torch.tensor([[[1.0, 2.0, 3.0]], [[5.0, 7.0, 9.0]]])  # two segments, one sentence, three clips
    found = cell_cosines([FIRST, SECOND], cosines, bounds)
    # 0-2 and 2-3 by the first alone, 3-4 by clips 2 and 5, 4-5 by 3 and 5, 5-6 by 3 and 7, then the second alone
    assert found.tolist() == [[1.0, 2.0, 3.5, 4.0, 5.0, 7.0, 9.0]]


def test_one_segments_cells_are_its_clips() -> None:
    bounds = cells_of_clips([FIRST])
    cosines = torch.randn(1, 4, 3)
    assert bounds.tolist() == FIRST
    assert torch.equal(cell_cosines([FIRST], cosines, bounds), cosines[0])


def test_edges_that_nearly_coincide_are_one() -> None:
    bounds = cells_of_clips([[0.0, 2.1, 4.2, 6.0], [3.0, 4.3, 5.9, 9.0]])
    assert bounds.tolist() == [0, 2.1, 3.0, 4.2, 5.9, 9.0]
    assert cells_of_clips([[0.0, 2.0, 4.0], [0.1, 2.1, 4.1]]).tolist() == [0, 2, 4.1], "none at the end either"


def test_cells_agree_with_a_look_at_every_second() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        times = np.sort(generator.uniform(0, 8, (3, 5)), axis=1) + np.array([[0.0], [3.0], [6.0]])
        times[:, 0], times[:, -1] = [0, 3, 6], [9, 12, 15]  # each overlaps the next: no second is left out
        cosines = torch.from_numpy(generator.standard_normal((3, 2, 4)).astype(np.float32))
        bounds = cells_of_clips(times.tolist())
        assert (np.diff(bounds) > 0).all() and bounds[0] == 0 and bounds[-1] == 15
        found = cell_cosines(times.tolist(), cosines, bounds)
        for cell, middle in enumerate((bounds[1:] + bounds[:-1]) / 2):
            seen = [
                cosines[segment, :, clip]
                for segment in range(3)
                for clip in range(4)
                if times[segment, clip] <= middle < times[segment, clip + 1]
            ]
            assert seen and torch.allclose(found[:, cell], torch.stack(seen).mean(0), atol=1e-6)


def test_clips_without_length_count_nowhere() -> None:
    times = [[0.0, 0.0, 0.0, 1.0]]  # a video of one frame
    bounds = cells_of_clips(times)
    assert bounds.tolist() == [0, 1]
    assert cell_cosines(times, torch.tensor([[[0.3, 0.2, 0.1]]]), bounds).tolist() == [[torch.tensor(0.1).item()]]

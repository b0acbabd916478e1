"""Tables of when frames are shown: repair of bad time stamps.

Tables of whole files are pinned by what is read with them, in `test_video_decoding_lfvila.py`.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lfvila_hf.video_tables_lfvila import _interpolated, _longest_ascent


def test_lesson_5_a_few_bad_time_stamps_are_repaired_from_their_neighbours() -> None:
    assert _longest_ascent([0, 1, 99, 2, None, 4, 3, 5]) == [0, 1, 3, 6, 7]
    assert _longest_ascent([None, None]) == []
    table = _interpolated([1, 2, 5], np.asarray([10, 20, 50]), 7, Fraction(1, 100))
    assert [table.seconds(index) for index in range(7)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], abs=1e-3)
    assert table.duration == pytest.approx(0.7, abs=1e-3)

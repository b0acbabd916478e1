"""`released_layout.py`, from which other tests make checkpoints of any size, against the recorded checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from load_case import load_case, recorded_cases
from released_layout import example_original, released_shapes


@pytest.mark.parametrize(
    ("name", "folder"), recorded_cases(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_layout_has_the_names_and_shapes_of_a_recorded_checkpoint(name: str, folder: Path) -> None:
    case = load_case(name, folder)
    recorded = {key: tuple(tensor.shape) for key, tensor in case.state.items()}
    written = released_shapes(case.original, case.task)
    # Recorded checkpoints keep this constant for one block only; real ones have it for all.
    absent = {key for key in written if key.endswith("relative_position_index")} - set(recorded)
    assert recorded
    assert {key: shape for key, shape in written.items() if key not in absent} == recorded


@pytest.mark.parametrize(("stage", "millions"), [(1, 310.3), (2, 461.5)])
def test_the_layout_has_the_parameters_of_a_released_checkpoint(stage: int, millions: float) -> None:
    shapes = released_shapes(example_original(stage), "pretraining")
    constants = ("position_ids", "relative_position_index")
    count = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(constants))
    assert round(count / 1e6, 1) == millions

"""Page docs/parity.md: every difference has its row, and the tests, switches and limits that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lfvila_hf import LFVilaConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "parity.md").read_text("utf-8")
# What each row is about, in a few of its words.
SUBJECTS = (
    "clip-level feature is overwritten",
    "rolled by 0",
    "tie between the first and the last candidate",
    "padded sentences count in the mean",
    "phase two cannot start",
    "frozen layers run with dropout",
    "padded in time instead of in height",
    "fails without labels",
    "recall counts ties",
    "broken video is retried",
    "run through `eval`",
    "last start of a long item",
)


def rows() -> list[list[str]]:
    section = PAGE.partition("## Differences on purpose")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def named_tests() -> list[str]:
    return sorted(set(re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", PAGE)))


def test_every_difference_has_a_row_with_a_test() -> None:
    assert len(rows()) == len(SUBJECTS)
    for subject, (released, ours, switch, tests) in zip(SUBJECTS, rows(), strict=True):
        assert subject in released
        assert ours and switch
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", tests), subject


@pytest.mark.parametrize("name", named_tests())
def test_a_test_that_the_page_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_switches_are_fields_whose_value_is_not_the_default() -> None:
    switches = re.findall(r'`(\w+)=("?\w+"?)`', " ".join(row[2] for row in rows()))
    assert len(switches) == 3
    config = LFVilaConfig()
    for field, value in switches:
        owner = config if hasattr(config, field) else config.text_config
        assert getattr(owner, field) != ast.literal_eval(value)
        setattr(owner, field, ast.literal_eval(value))  # checked by the configuration


def test_the_limits_on_the_page_are_those_of_the_tests() -> None:
    import test_gradients
    import test_half_precision
    import test_released_numbers
    import torch

    page = " ".join(PAGE.split())
    outputs, losses = test_released_numbers.OUTPUT_TOLERANCE, test_released_numbers.LOSS_TOLERANCE
    assert f"{outputs:.0e} for outputs, {losses:.0e} for losses".replace("e-0", "e-") in page
    assert f"limit {test_gradients.TOLERANCE:.0e}.".replace("e-0", "e-") in page
    for limits in (test_half_precision.LIMITS, test_half_precision.COSINE_LIMITS):
        wide, narrow = limits[torch.bfloat16], limits[torch.float16]
        assert f"{wide:.0e} and {narrow:.0e}".replace("e-0", "e-") in page

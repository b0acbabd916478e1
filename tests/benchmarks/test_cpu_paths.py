"""`benchmarks/cpu_paths.py`: both ways of every piece compute the same, and the command runs in small form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lfvila_hf import LFVilaConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PIECES = ("mlp", "mlp_training", "linear_training", "attention", "attention_training", "bias", "layout")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cpu_paths

    return cpu_paths


@pytest.mark.parametrize("piece", PIECES)
def test_both_ways_compute_the_same(benchmark: Any, piece: str) -> None:
    config = LFVilaConfig.tiny().video_config
    assert benchmark.PIECES == PIECES
    for level, grid in enumerate(benchmark.grids(config)):
        both = benchmark.pair(piece, config, level, grid, 1)
        plain, ours = (both[name]() for name in ("plain", "ours"))
        plain, ours = ((one,) if isinstance(one, torch.Tensor) else one for one in (plain, ours))
        for expected, found in zip(plain, ours, strict=True):
            assert expected.abs().max() > 0
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


def test_the_command_prints_a_table_and_one_line_of_json(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--preset", "tiny", "--rounds", "1", "--threads", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    levels = len(LFVilaConfig.tiny().video_config.depths)
    assert len(table) == 1 + len(PIECES) * levels and set(found["pieces"]) == set(PIECES)
    assert all(row["ratio"] > 0 for rows in found["pieces"].values() for row in rows)

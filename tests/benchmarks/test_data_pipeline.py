"""`benchmarks/data_pipeline.py` on a handful of small videos: it runs, and its last line is its result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "data_pipeline.py"


@pytest.mark.slow
def test_the_last_line_is_a_json_object_with_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("data_pipeline", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = "--videos 6 --batch-size 2 --epochs 1 --steps 1 --step-seconds 2 --size 48 80".split()
    results = module.main(words)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == results
    for name in ("released_decoded", "released_cached", "tiny_decoded", "tiny_cached", "tiny_need"):
        assert last[f"{name}_frames_per_second"] > 0
    assert last["need_frames_per_second"] == 32.0

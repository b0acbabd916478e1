"""`benchmarks/contrastive_memory.py`, `contrastive_time.py` and `kill_soak.py`, in their smallest form."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import contrastive_memory

    return contrastive_memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a forked process keeps its parent's peak elsewhere")
def test_chunks_take_the_memory_of_a_chunk(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--batches", "4", "16", "--chunk", "4"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    small, large = record["memory"]
    assert large["whole"]["step_mb"] > 2.5 * small["whole"]["step_mb"] > 0
    assert large["chunks"]["step_mb"] < 1.5 * small["chunks"]["step_mb"]
    assert small["chunks"]["loss"] == small["whole"]["loss"]  # one chunk; several draw other dropout
    assert record["arguments"]["chunk"] == 4


@pytest.mark.parametrize(
    ("words", "message"), [(["--chunk", "0"], "--chunk must be positive"), (["--frames", "6"], "4 clips")]
)
def test_wrong_arguments_are_named(
    benchmark: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_caching_is_compared_with_the_same_chunks_and_with_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import contrastive_time

    contrastive_time.main(["--batch", "3", "--chunk", "1", "--rounds", "1"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["chunks"] == 3 and record["seconds"].keys() == {"cached", "accumulated", "encoded", "whole"}
    cached, accumulated, whole = (record["seconds"][name][0] for name in ("cached", "accumulated", "whole"))
    assert record["of_caching"] == pytest.approx(cached / accumulated - 1)
    assert record["for_many_chunks"] == pytest.approx(record["seconds"]["encoded"][0] / accumulated)
    assert record["over_whole"] == pytest.approx(cached / whole - 1)
    with pytest.raises(SystemExit):
        contrastive_time.main(["--batch", "2", "--chunk", "2"])
    assert "--chunk must be smaller than the batch of 2, got 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_soak_finds_nothing_lost_and_would_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kill_soak

    assert kill_soak.main(["--kills", "2", "--steps", "4"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["identical"] and record["kills"] <= 2

"""`benchmarks/measuring.py` and `benchmarks/floors.py`: turns, ratios, exponents, memory and what a floor moves.

That the floor holds every product of the tower is tested in test_training_step.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measuring

    return measuring


def test_parts_take_turns_and_the_first_round_does_not_count(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    ran: list[str] = []
    seconds = measuring.time_rounds({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, rounds=2)
    assert ran == ["a", "b"] * 3
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_times(measuring: Any) -> None:
    assert measuring.ratio({"a": [2.0, 30.0, 3.0], "b": [1.0, 10.0, 2.0]}, "a", "b") == 2.0


def test_the_exponent_of_a_power_law_is_found_and_of_nothing_is_refused(measuring: Any) -> None:
    sizes = [8, 32, 128, 512]
    assert measuring.growth_exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    # log2: sizes 3, 5, 7, 9 against 0, 3, 3, 6: (9 + 0 + 0 + 9) / (9 + 1 + 1 + 9)
    assert measuring.growth_exponent(sizes, [1.0, 8.0, 8.0, 64.0]) == pytest.approx(0.9)
    for sizes, values in (([8], [1.0]), ([8, 8], [1.0, 2.0]), ([8, 16], [0.0, 1.0])):
        with pytest.raises(ValueError, match="at least two sizes"):
            measuring.growth_exponent(sizes, values)


def test_peak_memory_grows_by_what_is_touched() -> None:
    """In a fresh process: the high-water mark of one that has run other tests lies above what is touched here."""
    program = """
import torch, measuring
built = torch.ones(320 * 2**18)  # 320 MiB, as a model that takes more to build than to run
del built
measuring.forget_peak()
before = measuring.peak_rss_mb()
block = torch.ones(160 * 2**18)  # 160 MiB
print(before, measuring.peak_rss_mb())
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert 100 < before < after - 140 < before + 60


def test_a_fresh_process_is_asked_with_the_same_options(
    measuring: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, sys\nprint('noise')\nprint(json.dumps({'words': sys.argv[1:]}))\n")
    parser = measuring.make_parser("One.", rounds=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--compiled", action="store_true")
    options = measuring.read_options(parser, ["--compiled", "--threads", "1", "--save", str(tmp_path / "out.json")])
    words = " ".join(measuring.memory_of_fresh_process(str(script), options, "part")["words"])
    assert words == "--rounds 3 --threads 1 --device cpu --dtype fp32 --sizes 4 8 --compiled --memory-of part"
    measuring.finish(measuring.record("one", options, value=1), options)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out.json").read_text()) and printed["value"] == 1
    assert "save" not in printed["arguments"] and "memory_of" not in printed["arguments"]


def test_a_device_that_is_not_there_is_refused(measuring: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        measuring.read_options(measuring.make_parser("One.", 1), ["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err


def test_bytes_that_must_move_are_those_of_the_operands(measuring: Any) -> None:
    import floors

    shapes = [(6, 4, 5), (3, 2, 7)]
    assert floors.bytes_that_must_move(shapes, training=False) == 4 * ((24 + 20 + 30) + (6 + 14 + 21))
    assert floors.bytes_that_must_move(shapes, training=True, size=2) == 3 * 2 * 115
    assert floors.multiplications(shapes) == 120 + 42


def test_both_floors_make_the_products_that_they_are_told(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import floors

    made: list[tuple[int, ...]] = []

    def kernel(value: torch.Tensor, weight: torch.Tensor, *_: Any) -> torch.Tensor:
        made.append((*value.shape, len(weight)))
        return value @ weight.T

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", kernel)
    floors.make_onednn_floor([(6, 4, 5), (3, 2, 7), (6, 4, 5)])()
    assert made == [(6, 4, 5), (3, 2, 7), (6, 4, 5)]


def test_a_table_has_names_to_the_left_and_numbers_to_the_right(
    measuring: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring.print_table(["part", "s", "MiB"], [["a", 0.12345, 1234.5], ["longer", None, 99]])
    assert capsys.readouterr().out.splitlines() == ["part        s  MiB", "a      0.1235 1234", "longer          99"]

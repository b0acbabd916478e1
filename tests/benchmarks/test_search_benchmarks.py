"""The benchmark of the scan runs in its smallest form; those of real weights need what is not here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search_speed  # noqa: E402 -- benchmarks are scripts beside the package


def test_the_scan_beside_faiss_and_lancedb() -> None:
    pytest.importorskip("faiss")
    found = search_speed.main(
        ["--segments", "200", "--width", "16", "--clips", "4", "--rounds", "2", "--others", "--threads", "1"]
    )
    assert found["segments"] == 200
    assert found["others"]["lancedb without an index"]["recall_at_10"] == 1.0
    assert {"exact", "scan", "max_rss_mb", "block_mb"} <= set(found)

"""Vector search: exact against a plain sort, FAISS against exact, what is chosen for how many rows, without faiss.

Speed and recall at 100,000 rows and more: docs/results.md.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from small_library import random_vectors

from lfvila_hf.library import vectors
from lfvila_hf.library.vectors import ExactSearch, FaissSearch, build_faiss, choose_kind, load_search, recall_of


def test_exact_search_is_a_sort_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = random_vectors(500), random_vectors(7, seed=1)
    scores = queries @ rows.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    for block in (64, 500, 10_000):
        monkeypatch.setattr(vectors, "BLOCK_ROWS", block)
        found, numbers = ExactSearch(rows).search(queries, 9)
        assert np.array_equal(numbers, expected)
        assert np.allclose(found, np.take_along_axis(scores, expected, 1), atol=1e-6)


def test_ties_go_to_the_lower_row_and_k_to_what_there_is() -> None:
    rows = np.tile(random_vectors(1), (5, 1))
    _, numbers = ExactSearch(rows).search(rows[:1], 99)
    assert numbers.tolist() == [[0, 1, 2, 3, 4]]
    assert ExactSearch(rows[:0]).search(rows[:1], 3)[1].shape == (1, 0)


@pytest.mark.parametrize("kind", ["sq8", "ivf"])
def test_faiss_finds_what_exact_search_finds_with_exact_scores(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (extra library)")
    rows = random_vectors(4000, groups=80)
    queries = random_vectors(20, seed=2, groups=80)
    index, about = build_faiss(rows, kind)
    vectors.save_faiss(index, tmp_path / "a.faiss")
    search = load_search(rows, kind, tmp_path / "a.faiss", about.get("nprobe"))
    assert isinstance(search, FaissSearch) and search.kind == kind
    found, numbers = search.search(queries, 10)
    right_scores, right = ExactSearch(rows).search(queries, 10)
    assert recall_of(numbers, right) >= 0.95
    scores = queries @ rows.T
    assert np.allclose(found, np.take_along_axis(scores, numbers, 1), atol=1e-5)
    assert (np.diff(found, axis=1) <= 0).all()
    again = tmp_path / "b.faiss"
    vectors.save_faiss(build_faiss(rows, kind)[0], again)
    assert again.read_bytes() == (tmp_path / "a.faiss").read_bytes(), "equal vectors give equal bytes"


def test_an_inverted_file_opens_as_many_lists_as_its_recall_needs() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (extra library)")
    _, about = build_faiss(random_vectors(3000, width=16), "ivf")  # no structure: most lists are needed
    assert about["recall_at_10"] >= vectors.TARGET_RECALL and 8 < about["nprobe"] <= about["nlist"]
    _, easy = build_faiss(random_vectors(3000, width=16, groups=60), "ivf")
    assert easy["nprobe"] < about["nprobe"]


def test_lists_with_too_few_rows_are_made_up_for() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (extra library)")
    rows = random_vectors(300)
    index, _ = build_faiss(rows, "ivf")
    index.nprobe = 1
    _, numbers = FaissSearch(index, rows, "ivf").search(rows[:3], 300)
    assert all(sorted(line) == list(range(300)) for line in numbers.tolist())


def test_a_faiss_file_of_other_vectors_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (extra library)")
    vectors.save_faiss(build_faiss(random_vectors(100), "sq8")[0], tmp_path / "a.faiss")
    with pytest.raises(ValueError, match=r"holds 100 x 64 numbers, the index \(90, 64\)"):
        load_search(random_vectors(90), "sq8", tmp_path / "a.faiss", None)


def test_what_is_chosen_depends_on_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "have_faiss", lambda: True)
    assert [choose_kind(count) for count in (0, 19_999, 20_000, 499_999, 500_000)] == [
        "exact",
        "exact",
        "sq8",
        "sq8",
        "ivf",
    ]
    assert choose_kind(5, "ivf") == "ivf" and choose_kind(0, "ivf") == "exact"
    with pytest.raises(ValueError, match="must be one of auto, exact, sq8, ivf, got 'hnsw'"):
        choose_kind(5, "hnsw")  # type: ignore[arg-type]  # what a user may type


def test_without_faiss_it_is_exact_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.WARNING):
        assert choose_kind(100) == "exact" and not caplog.records
        assert choose_kind(30_000) == "exact"
        search = load_search(random_vectors(10), "sq8", "absent.faiss", None)
    assert isinstance(search, ExactSearch)
    assert ["faiss is not installed" in record.getMessage() for record in caplog.records] == [True, True]
    with pytest.raises(ImportError, match=r"pip install 'lfvila_hf\[library\]'"):
        choose_kind(30_000, "sq8")

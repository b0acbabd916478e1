# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The nearest of many vectors: exact, or through FAISS.

| kind | from | memory | what it does |
|---|---|---|---|
| `exact` | up to 20,000 rows, or without faiss | the vectors (a file mapped into memory) | every cosine |
| `sq8` | 20,000 rows | D bytes a row | every cosine on 8-bit codes, then exactly for the best |
| `ivf` | 500,000 rows | D bytes a row | the same for the lists nearest to the query |

`sq8` looks at every row, so its recall does not depend on how the vectors lie. `ivf` does: how many lists it opens is
set when the index is made, to the fewest that find `TARGET_RECALL` of the ten best of held-out rows with noise on them.
Queries by text lie farther from the rows than such rows do; `kind="sq8"` is there for those who want no such doubt.

FAISS works through an extra (`pip install 'lfvila_hf[library]'`). Without it everything is exact: about 4 D bytes are
read per row and query. Letters: N rows, D width, Q queries.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

logger = logging.getLogger(__name__)

SearchKind = Literal["auto", "exact", "sq8", "ivf"]
SQ8_FROM = 20_000
IVF_FROM = 500_000
TARGET_RECALL = 0.97
OVERSAMPLE = 4
"""How many times more rows than wanted are taken from the codes and scored exactly."""
BLOCK_ROWS = 65_536
TRAINING_ROWS_PER_LIST = 40
TUNING_QUERIES = 200


class VectorSearch(Protocol):
    """Finds the rows with the highest inner product."""

    kind: str

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, `(Q, k)` each, best first, of queries `(Q, D)`; exact cosines, k at most N."""
        ...


class ExactSearch:
    """Every cosine, in blocks.

    Args:
        vectors: `(N, D)` float32, an array or a file mapped into memory.
    """

    kind = "exact"

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorSearch`; ties go to the lower row."""
        k = min(k, len(self.vectors))
        scores = np.concatenate(
            [
                queries @ self.vectors[start : start + BLOCK_ROWS].T
                for start in range(0, max(len(self.vectors), 1), BLOCK_ROWS)
            ],
            axis=1,
        )  # (Q, N)
        return _best(scores, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), k)


class FaissSearch:
    """Candidates from a FAISS index, scored exactly.

    Args:
        index: A trained FAISS index over the rows.
        vectors: `(N, D)` float32 for the exact scores.
        kind: "sq8" or "ivf".
    """

    def __init__(self, index: Any, vectors: np.ndarray, kind: str) -> None:
        self.index, self.vectors, self.kind = index, vectors, kind

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorSearch`."""
        k = min(k, len(self.vectors))
        wanted = min(max(OVERSAMPLE * k, 50), len(self.vectors))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        _, rows = self.index.search(queries, wanted)  # (Q, wanted), -1 where the opened lists hold fewer
        exact = np.full(rows.shape, -np.inf, dtype=np.float32)
        for place, (query, found) in enumerate(zip(queries, rows, strict=True)):
            real = found >= 0
            exact[place, real] = np.asarray(self.vectors[found[real]]) @ query
        if (rows[:, :k] < 0).any():  # too few rows in the opened lists: look at all of them
            return ExactSearch(self.vectors).search(queries, k)
        return _best(exact, rows, k)


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if k < scores.shape[1]:
        some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, some, 1), np.take_along_axis(rows, some, 1)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def choose_kind(count: int, kind: SearchKind = "auto") -> str:
    """What is made for that many rows: "exact", "sq8" or "ivf".

    Raises:
        ValueError: An unknown kind.
        ImportError: A FAISS kind was asked for by name and faiss is not installed.
    """
    if kind not in get_args(SearchKind):
        raise ValueError(f"the kind of search must be one of {', '.join(get_args(SearchKind))}, got {kind!r}")
    if kind == "auto":
        kind = "exact" if count < SQ8_FROM else "sq8" if count < IVF_FROM else "ivf"
        if kind != "exact" and not have_faiss():
            logger.warning(
                "faiss is not installed, so the search over %d segments is exact: correct, but slower and with more "
                "memory. pip install 'lfvila_hf[library]' and index again for a FAISS index",
                count,
            )
            return "exact"
    elif kind != "exact" and not have_faiss():
        raise ImportError(f"the search {kind!r} needs faiss: pip install 'lfvila_hf[library]'")
    return "exact" if count == 0 else kind


def have_faiss() -> bool:
    """Whether faiss can be imported."""
    try:
        import faiss  # noqa: F401 -- only whether it is there
    except ImportError:
        return False
    return True


def build_faiss(vectors: np.ndarray, kind: str) -> tuple[Any, dict[str, Any]]:
    """A FAISS index over `(N, D)` and what is worth knowing about it. The same vectors give the same index.

    Args:
        vectors: L2-normalised, float32.
        kind: "sq8" or "ivf".
    """
    import faiss

    count, width = vectors.shape
    if kind == "sq8":
        index: Any = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(vectors[:: max(count // 100_000, 1)]))
        _add(index, vectors)
        return index, {}
    lists = max(int(2 * count**0.5), 1)
    index = faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 8
    rows = np.random.default_rng(0).permutation(count)[: TRAINING_ROWS_PER_LIST * lists]
    index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
    _add(index, vectors)
    return index, _tune(index, vectors)


def _add(index: Any, vectors: np.ndarray) -> None:
    for start in range(0, len(vectors), BLOCK_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]))


def _tune(index: Any, vectors: np.ndarray) -> dict[str, Any]:
    """Open as few lists as reach `TARGET_RECALL` of the ten best rows of noisy rows."""
    generator = np.random.default_rng(1)
    queries = np.asarray(vectors[np.sort(generator.permutation(len(vectors))[:TUNING_QUERIES])])
    noise = generator.standard_normal(queries.shape).astype(np.float32) / np.float32(queries.shape[1] ** 0.5)
    queries = queries + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k = min(10, len(vectors))
    _, right = ExactSearch(vectors).search(queries, k)
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        _, found = FaissSearch(index, vectors, "ivf").search(queries, k)
        recall = recall_of(found, right)
        if recall >= TARGET_RECALL or probes >= index.nlist:
            return {"nlist": index.nlist, "nprobe": probes, "recall_at_10": round(recall, 4)}
        probes = min(2 * probes, index.nlist)


def recall_of(found: np.ndarray, right: np.ndarray) -> float:
    """The mean part of the right rows `(Q, k)` that were found `(Q, k')`."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), right.tolist(), strict=True)]))


def save_faiss(index: Any, file: str | Path) -> None:
    """Write a FAISS index."""
    import faiss

    faiss.write_index(index, str(file))


def load_search(vectors: np.ndarray, kind: str, file: str | Path | None, nprobe: int | None) -> VectorSearch:
    """The search that an index was made with; exact, with a warning, where faiss is missing."""
    if kind == "exact" or file is None:
        return ExactSearch(vectors)
    if not have_faiss():
        logger.warning(
            "this index has a FAISS index (%s) but faiss is not installed: searching exactly instead, which is slower. "
            "pip install 'lfvila_hf[library]'",
            kind,
        )
        return ExactSearch(vectors)
    import faiss

    index: Any = faiss.read_index(str(file))
    if index.ntotal != len(vectors) or index.d != vectors.shape[1]:
        raise ValueError(f"{file} holds {index.ntotal} x {index.d} numbers, the index {vectors.shape}: index again")
    if nprobe:
        index.nprobe = nprobe
    return FaissSearch(index, vectors, kind)

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Near-duplicate paragraphs, found without comparing each with every other.

Two paragraphs are near-duplicates if the sets of their word 5-grams have a Jaccard similarity of at least a threshold.
Each paragraph gets 128 min-hashes (Broder 1997; computed by rensa), whose share of equal values estimates that
similarity with a standard error of at most 0.045. 21 bands of 6 of them are hashed; paragraphs that agree in a band are
candidates (at a similarity of 0.8 with a probability of 0.998), and candidates are compared by all 128.

Rows have a rank by split (test, validation, training) and within it by place. In a bucket every row is compared with
the `PARTNERS` first rows of the bucket, so that boilerplate of thousands of rows costs linear time. What is kept of a
row is its first near-duplicate: a row without one is unlike every row before it (of those compared).

The LSH indexes of libraries hold all rows of a corpus in memory. Here bands are sorted into ranges of their hash, and a
range is a task: memory is the band records of one range, and memory-mapped signatures. Everything is a function of the
text and of constants: no order, no random seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

SHINGLE_WORDS = 5
HASHES = 128
SEED = 20_221_012
BANDS = 21
BAND_ROWS = 6
PARTNERS = 32

BAND_DTYPE = np.dtype([("hash", "<u8"), ("row", "<u8")])
"""A band of a row: the hash of its values, and the row as `row_number` gives it."""
PAIR_DTYPE = np.dtype([("row", "<u8"), ("first", "<u8"), ("similarity", "<f4")])
"""A row, the first row that it nearly repeats, and their similarity."""

_BUCKET_BITS, _INDEX_BITS = 30, 32
_WORD = re.compile(r"\w+")


def require_rensa() -> ModuleType:
    """Import rensa.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import rensa
    except ImportError as error:
        advice = "pip install 'lfvila_hf[corpus]', or turn the search off with near_duplicates=\"off\""
        raise ImportError(f"the search for near-duplicates needs rensa: {advice}") from error
    return rensa


def row_number(rank: int, bucket: int, index: int) -> int:
    """Number a row of the corpus, in the order of rank, partition and place in the partition."""
    if bucket >= 1 << _BUCKET_BITS or index >= 1 << _INDEX_BITS:
        raise ValueError(
            f"partition {bucket} or row {index} does not fit into a row number: use more, smaller partitions"
        )
    return (rank << (_BUCKET_BITS + _INDEX_BITS)) | (bucket << _INDEX_BITS) | index


def row_place(number: int) -> tuple[int, int, int]:
    """Return rank, partition and place of a row number."""
    mask = (1 << _INDEX_BITS) - 1
    return number >> (_BUCKET_BITS + _INDEX_BITS), (number >> _INDEX_BITS) & ((1 << _BUCKET_BITS) - 1), number & mask


def signatures(texts: Sequence[str]) -> np.ndarray:
    """Compute the min-hashes `(n, 128)` uint32 of paragraphs; case and punctuation do not count."""
    digests = require_rensa().RMinHash.digests_from_token_sets
    found = np.empty((len(texts), HASHES), dtype=np.uint32)
    for start in range(0, len(texts), 64):  # the 5-grams of all paragraphs at once are many times their text
        found[start : start + 64] = digests([shingles(text) for text in texts[start : start + 64]], HASHES, SEED)
    return found


def shingles(text: str) -> list[str]:
    """List the word 5-grams of a paragraph; of fewer than five words, all of them as one."""
    words = _WORD.findall(text.lower()) or [text]
    length = min(SHINGLE_WORDS, len(words))
    grams = [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
    return [gram.encode("utf-8", "replace").decode() for gram in grams]  # halves of surrogate pairs


def estimated_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard similarity of signatures `(..., 128)` as the share of equal min-hashes."""
    return (first == second).mean(axis=-1)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (the finaliser of splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def band_records(signatures: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Hash the bands of rows; the records are sorted by hash and row.

    Args:
        signatures: `(n, 128)` uint32.
        rows: `(n,)` uint64, their numbers.

    Returns:
        `(n * 21,)` of `BAND_DTYPE`.
    """
    records = np.empty((len(rows), BANDS), dtype=BAND_DTYPE)
    for band in range(BANDS):
        values = signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)  # (n, 6)
        digest = np.full(len(rows), band + 1, dtype=np.uint64)
        for column in range(BAND_ROWS):
            digest = _mixed(digest * np.uint64(0x9E3779B97F4A7C15) + values[:, column])
        records["hash"][:, band] = digest
        records["row"][:, band] = rows
    flat = records.reshape(-1)  # (n * 21,)
    return flat[np.lexsort((flat["row"], flat["hash"]))]


def first_duplicates(
    records: np.ndarray, signatures_of: Callable[[np.ndarray], np.ndarray], threshold: float
) -> np.ndarray:
    """Find the first near-duplicate of every row that has one, among rows that share a band in `records`.

    Args:
        records: Of `BAND_DTYPE`, in any order.
        signatures_of: From row numbers `(n,)` to signatures `(n, 128)`.
        threshold: Smallest similarity.

    Returns:
        Of `PAIR_DTYPE`, sorted by row.
    """
    records = records[np.lexsort((records["row"], records["hash"]))]
    pairs = _candidates(records)
    if not len(pairs):
        return np.empty(0, dtype=PAIR_DTYPE)
    similarity = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), 4096):
        part = pairs[start : start + 4096]
        similarity[start : start + 4096] = estimated_similarity(signatures_of(part[:, 0]), signatures_of(part[:, 1]))
    good = similarity >= threshold
    found = np.empty(int(good.sum()), dtype=PAIR_DTYPE)
    found["row"], found["first"], found["similarity"] = pairs[good, 0], pairs[good, 1], similarity[good]
    return keep_first(found)


def keep_first(pairs: np.ndarray) -> np.ndarray:
    """Keep for every row the pair with its first near-duplicate, sorted by row."""
    pairs = pairs[np.lexsort((pairs["first"], pairs["row"]))]
    return pairs[np.unique(pairs["row"], return_index=True)[1]]


def _candidates(records: np.ndarray) -> np.ndarray:
    """List the pairs `(n, 2)` of later and earlier row that share a band, each once."""
    if not len(records):
        return np.empty((0, 2), dtype=np.uint64)
    starts = np.flatnonzero(np.r_[True, records["hash"][1:] != records["hash"][:-1]])
    sizes = np.diff(np.r_[starts, len(records)])
    parts = []
    rows = records["row"]
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        members = rows[start : start + size]
        for partner in range(min(PARTNERS, size - 1)):
            later = members[partner + 1 :]
            parts.append(np.stack([later, np.full(len(later), members[partner])], axis=1))
    if not parts:
        return np.empty((0, 2), dtype=np.uint64)
    pairs = np.unique(np.concatenate(parts), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]]

"""Min-hashes estimate what they should, bands find what they should, and nothing depends on order."""

from __future__ import annotations

import random

import numpy as np
import pytest
from corpus_inputs import sentence

from lfvila_hf.corpus.near_duplicates import (
    PARTNERS,
    SHINGLE_WORDS,
    band_records,
    estimated_similarity,
    first_duplicates,
    row_number,
    row_place,
    signatures,
)


def signature(text: str) -> np.ndarray:
    return signatures([text])[0]


def jaccard(first: str, second: str) -> float:
    sets = []
    for text in (first, second):
        words = text.lower().replace(".", "").split()
        sets.append({tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def changed(text: str, words: int, seed: int = 0) -> str:
    parts = text.split()
    for place in random.Random(seed).sample(range(len(parts)), words):
        parts[place] = f"other{place}"
    return " ".join(parts)


def found_among(texts: list[str], ranks: list[int] | None = None, threshold: float = 0.8) -> dict[int, int]:
    """For each text that repeats an earlier one, the first it repeats, by place in the list."""
    ranks = ranks or [2] * len(texts)
    numbers = np.array([row_number(rank, 0, place) for place, rank in enumerate(ranks)], dtype=np.uint64)
    hashes = signatures(texts)
    table = dict(zip(numbers.tolist(), hashes, strict=True))
    records = band_records(hashes, numbers)
    records = records[np.random.default_rng(0).permutation(len(records))]
    pairs = first_duplicates(records, lambda rows: np.stack([table[row] for row in rows.tolist()]), threshold)
    return {row_place(row)[2]: row_place(first)[2] for row, first, _ in pairs.tolist()}


@pytest.mark.parametrize("words", [0, 2, 6, 20, 60])
def test_equal_min_hashes_estimate_the_jaccard_similarity(words: int) -> None:
    errors = []
    for seed in range(8):
        text = sentence(f"paragraph {seed}", 250)
        other = changed(text, words, seed)
        errors.append(float(estimated_similarity(signature(text), signature(other))) - jaccard(text, other))
    assert abs(np.mean(errors)) < 0.05
    assert max(map(abs, errors)) < 0.15


def test_case_and_punctuation_do_not_count_and_short_texts_work() -> None:
    assert (signature("One two, three four FIVE six!") == signature("one two three four five six")).all()
    for text in ("", "one", "...", "one two three", "\ud800"):
        assert signature(text).shape == (128,)
    assert estimated_similarity(signature("one two"), signature("one three")) < 0.2


def test_repeated_paragraphs_are_found_and_others_are_not() -> None:
    texts = [sentence(f"t{number}", 200) for number in range(60)]
    texts[20] = texts[7]
    texts[41] = changed(texts[7], 3)
    texts[50] = changed(texts[9], 100)
    assert jaccard(texts[41], texts[7]) > 0.85 > 0.3 > jaccard(texts[50], texts[9])
    assert found_among(texts) == {20: 7, 41: 7}


def test_bands_miss_few_pairs_at_the_threshold() -> None:
    missed = 0
    for seed in range(60):
        text = sentence(f"s{seed}", 260)
        other = changed(text, 5, seed)
        assert jaccard(text, other) > 0.8
        missed += found_among([text, other], threshold=0.7) != {1: 0}
    assert missed <= 1


def test_held_out_rows_come_first_whatever_their_place() -> None:
    text = sentence("x", 200)
    assert found_among([text, sentence("y", 200), text], ranks=[2, 2, 0]) == {0: 2}


def test_min_hashes_are_those_of_every_other_day() -> None:
    """Near-duplicates are looked for among corpora that were built with other versions of rensa."""
    text = "the quick brown fox jumps over the lazy dog"
    assert signature(text)[:3].tolist() == [3253773266, 826250173, 3764393261]
    assert (signatures([sentence(str(n)) for n in range(100)] + [text])[100] == signature(text)).all()


def test_boilerplate_of_many_rows_costs_linear_time_and_is_found() -> None:
    count = 20 * PARTNERS
    assert found_among([sentence("same", 80)] * count) == {place: 0 for place in range(1, count)}


def test_a_row_number_is_taken_apart_again_and_refuses_what_it_cannot_hold() -> None:
    assert row_place(row_number(2, 12_345, 67_890)) == (2, 12_345, 67_890)
    assert row_number(0, 5, 9) < row_number(1, 0, 0) < row_number(1, 0, 1) < row_number(1, 1, 0) < row_number(2, 0, 0)
    with pytest.raises(ValueError, match="does not fit into a row number"):
        row_number(0, 0, 1 << 40)

"""Monotone alignment of sentences with clips against brute force over all maps, with padding, ties and gradients.

Uses of the score are tested in test_modeling_lfvila.py (`similarity`) and in tests/evaluation/.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from lfvila_hf.alignment_lfvila import aligned_similarity, monotone_alignment

# sums of at most 7 float32 cosines in another order; the largest difference measured is 8e-8
FLOAT32_NOISE = 1e-6


def best_map(similarity: torch.Tensor, mask: list[bool]) -> tuple[float, set[tuple[int, ...]]]:
    """Find the highest mean over real sentences of all non-decreasing maps, and every map that reaches it."""
    real = [row for row, is_real in zip(similarity.tolist(), mask, strict=True) if is_real]
    places = itertools.combinations_with_replacement(range(similarity.shape[-1]), len(real))
    scores = {clips: sum(row[k] for row, k in zip(real, clips, strict=True)) / max(len(real), 1) for clips in places}
    best = max(scores.values())
    return best, {clips for clips, score in scores.items() if score >= best - FLOAT32_NOISE}


@st.composite
def tables(draw: st.DrawFn) -> tuple[torch.Tensor, list[bool]]:
    """Make a table of cosines, coarse enough for ties to occur, and a mask with padding anywhere."""
    sentences, clips = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    value = st.one_of(st.integers(-4, 4).map(lambda n: n / 4), st.floats(-1, 1, width=32))
    rows = st.lists(value, min_size=clips, max_size=clips)
    table = draw(st.lists(rows, min_size=sentences, max_size=sentences))
    return torch.tensor(table), draw(st.lists(st.booleans(), min_size=sentences, max_size=sentences))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tables())
def test_the_score_is_the_best_of_all_monotone_maps_and_the_map_reaches_it(
    case: tuple[torch.Tensor, list[bool]],
) -> None:
    similarity, mask = case
    score, clip_index = monotone_alignment(similarity, torch.tensor(mask))
    best, maps = best_map(similarity, mask)
    assert score.item() == pytest.approx(best, abs=FLOAT32_NOISE)
    found = clip_index.tolist()
    assert [index == -1 for index in found] == [not is_real for is_real in mask]
    assert tuple(index for index in found if index != -1) in maps


def test_padded_sentences_count_nothing_and_hold_nothing_back() -> None:
    similarity = torch.tensor([[0.9, 0.0, 0.0], [-1.0, -1.0, 1.0], [0.0, 0.8, 0.1], [0.3, 0.2, 0.7]])
    score, clip_index = monotone_alignment(similarity, torch.tensor([1, 0, 1, 1]))
    assert clip_index.tolist() == [0, -1, 1, 2]
    assert score.item() == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    score, clip_index = monotone_alignment(similarity)  # the second sentence is real now and pulls the rest to the end
    assert clip_index.tolist() == [0, 2, 2, 2]
    assert score.item() == pytest.approx((0.9 + 1.0 + 0.1 + 0.7) / 4)


def test_sentences_told_backwards_score_less() -> None:
    similarity = torch.eye(4)
    assert monotone_alignment(similarity)[0].item() == 1
    # a non-decreasing map of 3, 2, 1, 0 can meet only one of the four
    assert monotone_alignment(similarity.flip(0))[0].item() == 0.25


def test_a_paragraph_without_a_real_sentence_scores_zero() -> None:
    score, clip_index = monotone_alignment(torch.rand(2, 3, 4), torch.tensor([[0, 0, 0], [1, 1, 1]]))
    assert score[0].item() == 0 and score[1] > 0
    assert clip_index[0].tolist() == [-1, -1, -1]


def test_leading_dimensions_are_worked_on_by_themselves_and_masks_broadcast() -> None:
    similarity, mask = torch.rand(2, 5, 3, 4), torch.tensor([[[1, 1, 0]], [[1, 1, 1]]])
    score, clip_index = monotone_alignment(similarity, mask)
    assert score.shape == (2, 5) and clip_index.shape == (2, 5, 3) and clip_index.dtype == torch.int64
    for text, video in itertools.product(range(2), range(5)):
        alone, index_alone = monotone_alignment(similarity[text, video], mask[text, 0])
        assert torch.equal(score[text, video], alone) and torch.equal(clip_index[text, video], index_alone)


def test_the_gradient_is_one_over_the_number_of_sentences_on_the_map_and_zero_elsewhere() -> None:
    similarity = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([1, 1, 0, 1, 1])
    score, clip_index = monotone_alignment(similarity, mask)
    (gradient,) = torch.autograd.grad(score, similarity)
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for sentence, clip in enumerate(clip_index.tolist()):
        if clip != -1:
            expected[sentence, clip] = 0.25
    assert expected.sum() == 1
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(lambda table: monotone_alignment(table, mask)[0], similarity)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 0), (2, 0, 3)])
def test_a_table_without_sentences_or_clips_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"must be \(\.\.\., M, K\) with M, K >= 1, got \({shape[0]},"):
        monotone_alignment(torch.zeros(shape))


@pytest.mark.parametrize("max_cells", [1, 4 * 5 * 6 * 2, 16_000_000])
def test_every_text_is_scored_against_every_video_in_slices(max_cells: int) -> None:
    sentences, clips = normalize(torch.randn(7, 4, 8), dim=-1), normalize(torch.randn(6, 5, 8), dim=-1)
    mask = (torch.arange(4) < torch.tensor([1, 2, 3, 4, 4, 2, 1])[:, None]).long()
    scores = aligned_similarity(sentences, mask, clips, max_cells=max_cells)
    assert scores.shape == (7, 6)
    for text, video in itertools.product(range(7), range(6)):
        best, _ = best_map(sentences[text] @ clips[video].T, mask[text].bool().tolist())
        assert scores[text, video].item() == pytest.approx(best, abs=FLOAT32_NOISE)


def test_no_texts_or_no_videos_give_an_empty_table() -> None:
    sentences, mask, clips = torch.randn(3, 4, 8), torch.ones(3, 4), torch.randn(2, 5, 8)
    assert aligned_similarity(sentences[:0], mask[:0], clips).shape == (0, 2)
    assert aligned_similarity(sentences, mask, clips[:0]).shape == (3, 0)

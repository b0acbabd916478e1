"""The contrastive losses against slow loops (value and gradient) and values worked out by hand; draws; poor batches.

The losses of the fusion phase and `LFVilaLoss` are in test_loss_terms_lfvila.py. That models and `LFVilaLoss` agree is
in invariants/test_equivalences.py, what the released code computes in parity/.
Loops and package work in float64 here, so EXACT is rounding only; the largest difference measured is 4e-15.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch.nn.functional import normalize

from lfvila_hf.loss_lfvila import (
    MTCDraw,
    draw_mtc,
    global_contrastive_loss,
    mtc_loss,
)

EXACT = 1e-12
D = 5


def unit(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


def cross_entropy(logits: list[torch.Tensor], target: int) -> torch.Tensor:
    """-log of the target's share, from the definition."""
    return -(logits[target].exp() / torch.stack([logit.exp() for logit in logits]).sum()).log()


def assert_same_with_gradients(fast: torch.Tensor, slow: torch.Tensor, *inputs: torch.Tensor) -> None:
    """Both scalars and their gradients agree, and there is a gradient to compare."""
    assert fast.item() == pytest.approx(slow.item(), abs=EXACT) and slow.item() > 0
    fast_gradients, slow_gradients = torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs)
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert slow_gradient.abs().max() > 1e-3, "the gradients compared are all zero"
        torch.testing.assert_close(fast_gradient, slow_gradient, atol=EXACT, rtol=0)


# -- global ----------------------------------------------------------------------------------------------------------


def slow_global(text: torch.Tensor, video: torch.Tensor, temperature: float) -> torch.Tensor:
    total = torch.zeros((), dtype=text.dtype)
    for i in range(len(text)):
        total = total + cross_entropy([text[i] @ video[j] / temperature for j in range(len(video))], i) / len(text)
        total = total + cross_entropy([text[j] @ video[i] / temperature for j in range(len(text))], i) / len(text)
    return total


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_the_global_loss_equals_a_loop(batch: int) -> None:
    text, video = unit(batch, D), unit(batch, D)
    assert_same_with_gradients(global_contrastive_loss(text, video, 0.1), slow_global(text, video, 0.1), text, video)


def test_the_global_loss_of_two_pairs_by_hand() -> None:
    text, video = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # cosines [[1, 0.6], [0, 0.8]], over 0.5: [[2, 1.2], [0, 1.6]]
    # rows:    ln(1 + e^-0.8) = 0.371101, ln(1 + e^-1.6) = 0.183901, mean 0.277501
    # columns: ln(1 + e^-2.0) = 0.126928, ln(1 + e^-0.4) = 0.513015, mean 0.319972
    assert global_contrastive_loss(text, video, 0.5).item() == pytest.approx(0.597473, abs=2e-6)
    assert global_contrastive_loss(text[:1], video[:1]).item() == 0  # one pair: nothing to tell apart


def test_the_global_loss_wants_pairs() -> None:
    for text, video in ((unit(3, D), unit(2, D)), (unit(3, D), unit(3, D + 1)), (unit(0, D), unit(0, D))):
        with pytest.raises(ValueError, match=rf"text features \({len(text)}, 5\) and video features \({len(video)}, "):
            global_contrastive_loss(text, video)


# -- multimodal temporal contrastive ---------------------------------------------------------------------------------


def slow_mtc(
    sentences: torch.Tensor,
    clips: torch.Tensor,
    draw: MTCDraw,
    temperature: float,
    mask: torch.Tensor | None = None,
    released: bool = False,
    num_other_negatives: int = 3,
) -> tuple[torch.Tensor, int]:
    """The loss and how many anchors it counts, one anchor at a time."""
    batch, num_clips = clips.shape[:2]
    mask = torch.ones(sentences.shape[:2]) if mask is None else mask
    present = [released or mask[i].tolist() == [1] * num_clips + [0] * (len(mask[i]) - num_clips) for i in range(batch)]
    if released:
        lenders = [[(i - roll) % batch for roll in range(num_other_negatives)] for i in range(batch)]
    else:
        rolls = range(1, min(num_other_negatives, batch - 1) + 1)
        lenders = [[j for roll in rolls if present[j := (i - roll) % batch]] for i in range(batch)]
    total, counted = torch.zeros((), dtype=clips.dtype), 0
    for i in range(batch):
        for anchor in draw.anchors[i].tolist():
            candidates = draw.candidates[i].tolist()
            distances = [abs(anchor - candidate) for candidate in candidates]
            if not present[i] or distances.count(min(distances)) > 1:
                continue
            counted += 1
            for one, other in ((sentences, clips), (clips, sentences)):
                choices = [other[i, candidate] for candidate in candidates]
                choices += [other[j, int(draw.others[j])] for j in lenders[i]]
                logits = [one[i, anchor] @ choice / temperature for choice in choices]
                total = total + cross_entropy(logits, distances.index(min(distances)))
    return total / max(counted, 1), counted


@pytest.mark.parametrize(
    ("batch", "num_clips", "num_anchors", "num_candidates"),
    [(1, 4, 2, 2), (2, 4, 2, 2), (3, 6, 3, 4), (6, 4, 2, 3), (7, 8, 2, 2), (4, 5, 5, 1)],
)
@pytest.mark.parametrize("released", [False, True])
def test_mtc_equals_a_loop(batch: int, num_clips: int, num_anchors: int, num_candidates: int, released: bool) -> None:
    sentences, clips = unit(batch, num_clips, D), unit(batch, num_clips, D)
    draw = draw_mtc(batch, num_clips, num_anchors, num_candidates, seed=2)
    slow, counted = slow_mtc(sentences, clips, draw, 0.2, released=released)
    assert counted, "every anchor ties, nothing is compared"
    fast = mtc_loss(sentences, clips, draw, 0.2, other_negatives="released" if released else "others")
    assert_same_with_gradients(fast, slow, sentences, clips)


@pytest.mark.parametrize("num_other_negatives", [0, 1, 9])
def test_mtc_equals_a_loop_for_any_number_of_other_negatives(num_other_negatives: int) -> None:
    sentences, clips, draw = unit(5, 4, D), unit(5, 4, D), draw_mtc(5, 4, seed=1)
    slow, counted = slow_mtc(sentences, clips, draw, 0.2, num_other_negatives=num_other_negatives)
    fast = mtc_loss(sentences, clips, draw, 0.2, num_other_negatives=num_other_negatives)
    assert counted
    assert_same_with_gradients(fast, slow, sentences, clips)


def test_mtc_with_padded_sentences_equals_a_loop_and_leaves_such_videos_out() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 1]])
    mask = torch.cat([mask, mask[:1]])  # six videos; of K = 4 clips only the first, third and last have 4 sentences
    sentences, clips, draw = unit(6, 5, D), unit(6, 4, D), draw_mtc(6, 4, seed=3)
    slow, counted = slow_mtc(sentences, clips, draw, 0.2, mask)
    assert 0 < counted <= 6
    fast = mtc_loss(sentences, clips, draw, 0.2, mask)
    assert_same_with_gradients(fast, slow, sentences, clips)
    for gradient in torch.autograd.grad(mtc_loss(sentences, clips, draw, 0.2, mask), (sentences, clips)):
        assert not gradient[[1, 3, 4]].any(), "a video that is left out still lends a negative"
        assert gradient[[0, 2, 5]].any(), "no video is left to look at"
        assert not gradient[:, 4:].any(), "a padded sentence is anchor or candidate"
    assert not torch.isclose(fast, mtc_loss(sentences, clips, draw, 0.2)), "the mask changes nothing"


def test_the_released_mode_does_not_look_at_the_mask() -> None:
    sentences, clips, draw = unit(3, 4, D), unit(3, 4, D), draw_mtc(3, 4)
    mask = torch.zeros(3, 4)
    with_mask = mtc_loss(sentences, clips, draw, sentence_mask=mask, other_negatives="released")
    assert with_mask > 0 and torch.equal(with_mask, mtc_loss(sentences, clips, draw, other_negatives="released"))


def test_mtc_of_one_video_by_hand() -> None:
    # anchor 1; candidates 0 (distance 1, the positive) and 3 (distance 2); temperature 1
    sentences = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    clips = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    draw = MTCDraw(torch.tensor([[1]]), torch.tensor([[0, 3]]), torch.tensor([2]))
    # sentence 1 with clips 0, 3: (0, 1) -> ln(1 + e) = 1.313262; clip 1 with sentences 0, 3: (1, 0) -> ln(1 + 1/e) =
    # 0.313262
    assert mtc_loss(sentences, clips, draw, 1.0).item() == pytest.approx(1.626523, abs=2e-6)


def test_mtc_of_two_videos_with_a_tie_by_hand() -> None:
    # Video 0: anchor 0, candidates 1 (positive) and 2; video 1 lends position 2. Video 1: anchor 1 ties (0 and 2).
    sentences = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    clips = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]])
    draw = MTCDraw(torch.tensor([[0], [1]]), torch.tensor([[1, 2], [0, 2]]), torch.tensor([0, 2]))
    # sentence (1, 0) with clips (1, 0), (0.6, 0.8) and lent (0.8, 0.6), over 0.2: (5, 3, 4) -> ln(1 + e^-2 + e^-1) =
    # 0.407606; clip (0, 1) with sentences (0, 1), (0.6, 0.8) and lent (0, 1): (5, 4, 5) -> ln(2 + e^-1) = 0.861995
    assert mtc_loss(sentences, clips, draw, 0.2).item() == pytest.approx(1.269601, abs=2e-6)


def test_a_tie_counts_only_among_the_nearest_and_for_any_number_of_candidates() -> None:
    sentences, clips, others = unit(1, 4, D), unit(1, 4, D), torch.tensor([0])
    # Distances of anchor 1 to 0, 3, 2: 1, 2, 1. First and last candidate tie, as do the nearest: left out. To 0, 2, 3:
    # the nearest tie though first and last do not. To 1, 0, 2: the nearest is alone, the far ones tie.
    for candidates, counted in (([0, 3, 2], 0), ([0, 2, 3], 0), ([1, 0, 2], 1)):
        draw = MTCDraw(torch.tensor([[1]]), torch.tensor([candidates]), others)
        slow, count = slow_mtc(sentences, clips, draw, 0.2)
        assert count == counted
        assert mtc_loss(sentences, clips, draw, 0.2).item() == pytest.approx(slow.item(), abs=EXACT)


@pytest.mark.parametrize(
    ("batch", "mode", "expected"),
    [(1, "others", []), (2, "others", [1]), (3, "others", [1, 2]), (5, "others", [1, 2, 3])]
    + [(3, "released", [0, 1, 2]), (5, "released", [0, 1, 2])],
)
def test_other_negatives_are_lent_by_these_videos(batch: int, mode: str, expected: list[int]) -> None:
    # Only the last video counts: the anchors of all others tie (1 between 0 and 2). Nobody lends a candidate position.
    anchors = torch.tensor([[1]] * (batch - 1) + [[0]])
    draw = MTCDraw(anchors, torch.tensor([[0, 2]] * batch), torch.tensor([3] * batch))
    clips = unit(batch, 4, D)
    loss = mtc_loss(unit(batch, 4, D), clips, draw, other_negatives=mode)
    (gradient,) = torch.autograd.grad(loss, clips)
    lenders = [roll for roll in range(batch) if gradient[(batch - 1 - roll) % batch, 3].any()]
    assert lenders == expected


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("one clip", "others"),
        ("every anchor tied", "others"),
        ("every anchor tied", "released"),
        ("every video left out", "others"),
        ("no mask and more sentences than clips", "others"),
        ("no mask and fewer sentences than clips", "others"),
    ],
)
def test_mtc_is_zero_without_gradient_where_nothing_can_be_told(case: str, mode: str) -> None:
    num_clips = 1 if case == "one clip" else 4
    mask = torch.tensor([[1, 1, 0, 0]] * 3) if case == "every video left out" else None
    num_sentences = num_clips + ("more" in case) - ("fewer" in case)
    sentences = unit(1 if case == "one clip" else 3, num_sentences, D)
    clips = unit(len(sentences), num_clips, D)
    draw = draw_mtc(len(sentences), num_clips)
    if case == "every anchor tied":
        draw = MTCDraw(torch.tensor([[1]] * 3), torch.tensor([[0, 2]] * 3), draw.others)
    loss = mtc_loss(sentences, clips, draw, 0.05, mask, mode)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (sentences, clips)):
        assert not gradient.any() and gradient.isfinite().all()


@pytest.mark.parametrize(("batch", "num_clips"), [(1, 1), (1, 4), (2, 1), (5, 1)])
@pytest.mark.parametrize("mode", ["others", "released"])
def test_mtc_is_finite_for_one_video_and_for_one_clip(batch: int, num_clips: int, mode: str) -> None:
    sentences, clips = unit(batch, num_clips, D), unit(batch, num_clips, D)
    loss = mtc_loss(sentences, clips, draw_mtc(batch, num_clips), other_negatives=mode)
    gradients = torch.autograd.grad(loss, (sentences, clips))
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_mtc_names_what_does_not_fit() -> None:
    draw = draw_mtc(3, 4)
    for sentences, clips in ((unit(2, 4, D), unit(3, 4, D)), (unit(3, 4, D), unit(3, 4, D + 1))):
        with pytest.raises(ValueError, match=rf"sentence features \({len(sentences)}, 4, 5\), clip features \(3, 4, "):
            mtc_loss(sentences, clips, draw)
    with pytest.raises(ValueError, match="a draw for 2 videos must agree in B"):
        mtc_loss(unit(3, 4, D), unit(3, 4, D), draw_mtc(2, 4))
    with pytest.raises(ValueError, match=r"sentence_mask must be \(3, 4\), got \(3, 5\)"):
        mtc_loss(unit(3, 4, D), unit(3, 4, D), draw, sentence_mask=torch.ones(3, 5))
    with pytest.raises(ValueError, match='must be "others" or "released", got \'mine\''):
        mtc_loss(unit(3, 4, D), unit(3, 4, D), draw, other_negatives="mine")


# -- draws -----------------------------------------------------------------------------------------------------------


def test_a_draw_depends_on_seed_step_and_sample_and_on_nothing_else() -> None:
    whole = draw_mtc(64, 6, 3, 2, seed=5, step=7)
    parts = [draw_mtc(n, 6, 3, 2, seed=5, step=7, first_sample=start) for start, n in ((0, 1), (1, 40), (41, 23))]
    for field, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(field, torch.cat(pieces))
    as_tensors = draw_mtc(64, 6, 3, 2, seed=torch.tensor(5), step=torch.tensor(7))
    assert all(torch.equal(a, b) for a, b in zip(whole, as_tensors, strict=True))
    for other in ({"seed": 6, "step": 7}, {"seed": 5, "step": 8}, {"seed": 7, "step": 5}):
        for field, changed in zip(whole, draw_mtc(64, 6, 3, 2, **other), strict=True):
            assert (field != changed).float().mean() > 0.3, f"almost the same draw for {other}"


def test_draws_do_not_change_between_versions() -> None:
    # recorded from the first version: a resumed run draws what the interrupted one would have drawn
    draw = draw_mtc(3, 4, seed=7, step=5)
    assert draw.anchors.tolist() == [[2, 1], [2, 3], [3, 0]]
    assert draw.candidates.tolist() == [[3, 2], [3, 0], [1, 2]]
    assert draw.others.tolist() == [2, 2, 1]


def test_draws_are_uniform_and_independent() -> None:
    batch = 40_000
    draw = draw_mtc(batch, 4, seed=11)
    pairs = list(itertools.permutations(range(4), 2))
    anchors = [pairs.index(tuple(pair)) for pair in draw.anchors.tolist()]
    candidates = [pairs.index(tuple(pair)) for pair in draw.candidates.tolist()]
    others = draw.others.tolist()
    # expected counts and bounds of five standard deviations
    for values, cells in (
        (anchors, 12),
        (candidates, 12),
        (others, 4),
        (list(zip(anchors, candidates, strict=True)), 144),
        (list(zip(anchors, others, strict=True)), 48),
        (list(zip(anchors, anchors[1:], strict=False)), 144),
    ):
        counts = Counter(values)
        expected = len(values) / cells
        assert len(counts) == cells
        assert max(abs(count - expected) for count in counts.values()) < 5 * math.sqrt(expected)


def test_a_draw_is_without_repetition_and_of_at_most_k_positions() -> None:
    draw = draw_mtc(100, 3, num_anchors=2, num_candidates=5)
    assert draw.anchors.shape == (100, 2) and draw.candidates.shape == (100, 3) and draw.others.shape == (100,)
    assert all(len(set(row)) == len(row) for row in draw.anchors.tolist() + draw.candidates.tolist())
    assert {draw.anchors.dtype, draw.candidates.dtype, draw.others.dtype} == {torch.int64}
    assert set(draw.others.tolist()) == {0, 1, 2}

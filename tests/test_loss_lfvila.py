"""Losses against slow loops (value and gradient) and values worked out by hand; draws, poor batches, `LFVilaLoss`.

invariants/test_equivalences.py tests that models and `LFVilaLoss` agree, parity/ compares with the released code.
Loops and package compute in float64 here, so EXACT is rounding only; the largest difference measured is 4e-15.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from tiny_models import tiny_config
from torch.nn.functional import normalize
from transformers.utils import ModelOutput

from lfvila_hf.loss_lfvila import (
    LFVilaLoss,
    MTCDraw,
    draw_mtc,
    global_contrastive_loss,
    masked_language_modeling_loss,
    mismatched_pairs,
    mtc_loss,
    span_loss,
    span_weights_from_targets,
    video_text_matching_loss,
)

EXACT = 1e-12
D = 5


def unit(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def cross_entropy(logits: list[torch.Tensor] | torch.Tensor, target: int) -> torch.Tensor:
    """Compute -log of the target's share, from the definition."""
    return -(logits[target].exp() / torch.stack([logit.exp() for logit in logits]).sum()).log()


def assert_same_with_gradients(
    fast: torch.Tensor, slow: torch.Tensor, *inputs: torch.Tensor, tolerance: float = EXACT
) -> None:
    """Assert that both scalars and their gradients agree, and that there is a gradient to compare."""
    assert fast.item() == pytest.approx(slow.item(), abs=tolerance) and slow.item() > 0
    fast_gradients, slow_gradients = torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs)
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert slow_gradient.abs().max() > 1e-3, "the gradients compared are all zero"
        torch.testing.assert_close(fast_gradient, slow_gradient, atol=tolerance, rtol=0)


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
    """Compute the loss and the number of anchors that it counts, one anchor at a time."""
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
    ("batch", "num_clips", "num_anchors", "num_candidates", "others"),
    [(1, 4, 2, 2, 3), (2, 4, 2, 2, 1), (3, 6, 3, 4, 3), (6, 4, 2, 3, 0), (7, 8, 2, 2, 9), (4, 5, 5, 1, 3)],
)
@pytest.mark.parametrize("released", [False, True])
def test_mtc_equals_a_loop(
    batch: int, num_clips: int, num_anchors: int, num_candidates: int, others: int, released: bool
) -> None:
    sentences, clips = unit(batch, num_clips, D), unit(batch, num_clips, D)
    draw = draw_mtc(batch, num_clips, num_anchors, num_candidates, seed=2)
    slow, counted = slow_mtc(sentences, clips, draw, 0.2, released=released, num_other_negatives=others)
    assert counted, "every anchor ties, nothing is compared"
    fast = mtc_loss(sentences, clips, draw, 0.2, None, "released" if released else "others", others)
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

    released = mtc_loss(sentences, clips, draw, 0.2, mask, "released")
    assert torch.equal(released, mtc_loss(sentences, clips, draw, 0.2, None, "released")), "released code has no mask"


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


@pytest.mark.parametrize("mode", ["others", "released"])
def test_mtc_is_finite_for_one_video_and_for_one_clip(mode: str) -> None:
    for batch, num_clips in ((1, 1), (1, 4), (2, 1), (5, 1)):
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


# -- masked tokens and matching --------------------------------------------------------------------------------------


def test_the_mlm_loss_equals_a_loop_over_tokens_and_is_zero_with_a_graph_if_nothing_is_masked() -> None:
    logits = random_logits(2, 1 + 2 * 3 + 5, 7)  # paragraph token, 2 sentences of 3 tokens, 5 video tokens; 7 words
    targets = torch.tensor([[[-100, 3, -100], [6, -100, 0]], [[-100, -100, 2], [-100, -100, -100]]])
    places = targets.flatten(1)
    masked = [(pair, token) for pair in range(2) for token in range(6) if places[pair, token] != -100]
    slow = sum(
        (cross_entropy(logits[pair, 1 + token], int(places[pair, token])) for pair, token in masked), torch.zeros(())
    )
    assert len(masked) == 4
    assert_same_with_gradients(masked_language_modeling_loss(logits, targets), slow / 4, logits)
    nothing = masked_language_modeling_loss(logits, torch.full((2, 2, 3), -100))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0 and not gradient.any()


def test_the_vtm_loss_by_hand() -> None:
    # a matched pair at (0, 1): ln(1 + e^-1) = 0.313262; a mismatched one at (0, 1): ln(1 + e) = 1.313262
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert video_text_matching_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(0.813262, abs=2e-6)


@pytest.mark.parametrize(
    ("videos", "targets"),
    [
        ([0], [1]),
        ([1, 1], [0, 1]),
        ([1, 1, 2], [0, 1, 1]),
        ([1, 0, 2, 3], [0, 0, 1, 1]),
        ([1, 0, 2, 3, 4], [0, 0, 1, 1, 1]),
        ([3, 0, 1, 2, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_the_first_half_gets_its_neighbours_video(videos: list[int], targets: list[int]) -> None:
    index, found = mismatched_pairs(len(videos))
    assert (index.tolist(), found.tolist()) == (videos, targets)
    assert index.dtype == found.dtype == torch.int64
    assert [int(video == text) for text, video in enumerate(videos)] == targets, "a label contradicts its pair"


# -- spans -----------------------------------------------------------------------------------------------------------


def test_span_weights_balance_both_sides() -> None:
    targets = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    # T / (2 x frames on the side): 4 / 6 inside and 4 / 2 outside, and so on; one side alone weighs 4 / 8
    expected = [[2, 2 / 3, 2 / 3, 2 / 3], [2 / 3, 2 / 3, 2 / 3, 2], [0.5] * 4, [0.5] * 4]
    torch.testing.assert_close(span_weights_from_targets(targets), torch.tensor(expected))


def test_the_span_loss_equals_a_loop_over_frames() -> None:
    logits, targets = random_logits(2, 6, 2), torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 1]])
    given = torch.rand(2, 6, dtype=torch.float64)
    # frames on the own side: 4 outside and 2 inside, then 1 and 5
    default = 6 / (2 * torch.tensor([[4, 2, 2, 4, 4, 4], [5, 5, 5, 5, 1, 5]], dtype=torch.float64))
    # default weights are float32
    for weights, passed, tolerance in ((given, given, EXACT), (default, None, 1e-7)):
        terms = [
            weights[pair, frame] * cross_entropy(logits[pair, frame], int(targets[pair, frame])) / 12
            for pair in range(2)
            for frame in range(6)
        ]
        fast = span_loss(logits, targets, passed)
        assert_same_with_gradients(fast, torch.stack(terms).sum(), logits, tolerance=tolerance)
    assert span_loss(logits, targets.bool()).item() == span_loss(logits, targets.float()).item()


def test_spans_of_another_shape_are_refused_by_name() -> None:
    logits, targets = torch.zeros(2, 6, 2), torch.zeros(2, 6)
    with pytest.raises(ValueError, match=r"span_targets \(2, 5\) must be \(B, T\) of span logits .* \(2, 6, 2\)"):
        span_loss(logits, targets[:, :5])
    with pytest.raises(ValueError, match=r"span_weights \(6,\) must have the shape of span_targets \(2, 6\)"):
        span_loss(logits, targets, torch.ones(6))


# -- all together ----------------------------------------------------------------------------------------------------


def contrastive_outputs(**fields: object) -> ModelOutput:
    outputs = {"text_embeds": unit(3, D), "video_embeds": unit(3, D)}
    outputs |= {"sentence_embeds": unit(3, 4, D), "clip_embeds": unit(3, 4, D)}
    return ModelOutput(**(outputs | {"sentence_mask": torch.ones(3, 4)} | fields))


def fusion_outputs() -> ModelOutput:
    mlm_targets = torch.full((4, 2, 3), -100)
    mlm_targets[2, 0, 1] = 5
    logits = {"mlm_logits": torch.randn(4, 9, 7), "vtm_logits": torch.randn(4, 2)}
    return ModelOutput(**logits, mlm_targets=mlm_targets, vtm_targets=torch.tensor([0, 0, 1, 1]))


def test_the_contrastive_phase_is_global_plus_a_quarter_of_mtc() -> None:
    outputs = contrastive_outputs(mtc_draw=draw_mtc(3, 4, seed=9))
    global_term = global_contrastive_loss(outputs.text_embeds, outputs.video_embeds, 0.05)
    mtc_term = mtc_loss(outputs.sentence_embeds, outputs.clip_embeds, outputs.mtc_draw, 0.05)
    assert mtc_term > 0
    assert LFVilaLoss()(outputs).item() == pytest.approx((global_term + 0.25 * mtc_term).item(), rel=1e-6)
    without_alignment = contrastive_outputs(sentence_embeds=None)
    assert set(LFVilaLoss().terms(without_alignment)) == {"global_loss"} and LFVilaLoss()(without_alignment) > 0
    outputs["sentence_mask"] = torch.zeros(3, 4)
    assert LFVilaLoss().terms(outputs)["mtc_loss"] == 0, "the mask does not reach MTC"


def test_the_fusion_phase_is_mlm_plus_ten_times_vtm_and_ignores_the_trainers_arguments() -> None:
    outputs = fusion_outputs()
    mlm_term = masked_language_modeling_loss(outputs.mlm_logits, outputs.mlm_targets)
    vtm_term = video_text_matching_loss(outputs.vtm_logits, outputs.vtm_targets)
    assert mlm_term > 0 and vtm_term > 0
    loss = LFVilaLoss()(outputs, labels=None, num_items_in_batch=torch.tensor(12))
    assert loss.item() == pytest.approx((mlm_term + 10 * vtm_term).item(), rel=1e-6)
    assert set(LFVilaLoss().terms(outputs)) == {"mlm_loss", "vtm_loss"}


def test_temperatures_weights_counts_and_the_draw_come_from_the_configuration() -> None:
    config = tiny_config(
        temperature=0.5,
        temporal_temperature=0.25,
        global_loss_weight=2,
        mtc_loss_weight=3,
        mlm_loss_weight=5,
        vtm_loss_weight=7,
        num_anchors=3,
        num_candidates=1,
        num_other_negatives=1,
        mtc_other_negatives="released",
    )
    outputs = contrastive_outputs()
    global_term = global_contrastive_loss(outputs.text_embeds, outputs.video_embeds, 0.5)
    draw = draw_mtc(3, 4, 3, 1)  # outputs without a draw: a fixed one
    mtc_term = mtc_loss(outputs.sentence_embeds, outputs.clip_embeds, draw, 0.25, None, "released", 1)
    assert LFVilaLoss(config)(outputs).item() == pytest.approx((2 * global_term + 3 * mtc_term).item(), rel=1e-6)
    assert not math.isclose(LFVilaLoss(config)(outputs).item(), LFVilaLoss()(outputs).item(), rel_tol=0.01)
    terms = LFVilaLoss().terms(fusion := fusion_outputs())
    expected = 5 * terms["mlm_loss"] + 7 * terms["vtm_loss"]
    assert LFVilaLoss(config)(fusion).item() == pytest.approx(expected.item(), rel=1e-6)


def test_outputs_without_any_term_are_named() -> None:
    with pytest.raises(ValueError, match=r"outputs hold neither text_embeds .* they hold \['logits', 'text_embeds'\]"):
        LFVilaLoss()(ModelOutput(logits=torch.zeros(2, 2), text_embeds=torch.zeros(2, 2), video_embeds=None))
    with pytest.raises(ValueError, match="pairs are expected"):
        LFVilaLoss()(contrastive_outputs(video_embeds=torch.zeros(2, D)))

"""The losses of the fusion phase and of spans, mismatched pairs, and `LFVilaLoss`, which adds terms up.

Each against a slow loop (value and gradient) and a value worked out by hand. The contrastive losses are in
test_loss_lfvila.py. EXACT is float64 rounding; the largest difference measured is 1e-15.

Spans live in `loss_lfvila`.
"""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny_config
from transformers.utils import ModelOutput

from lfvila_hf.loss_lfvila import (
    LFVilaLoss,
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


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def cross_entropy(logits: torch.Tensor, target: int) -> torch.Tensor:
    """-log of the target's share, from the definition."""
    return -(logits[target].exp() / logits.exp().sum()).log()


def assert_same_with_gradient(fast: torch.Tensor, slow: torch.Tensor, logits: torch.Tensor) -> None:
    """Both scalars and their gradients agree, and there is a gradient to compare."""
    assert fast.item() == pytest.approx(slow.item(), abs=EXACT) and slow.item() > 0
    (fast_gradient,), (slow_gradient,) = torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits)
    assert slow_gradient.abs().max() > 1e-3, "the gradients compared are all zero"
    torch.testing.assert_close(fast_gradient, slow_gradient, atol=EXACT, rtol=0)


# -- masked tokens ---------------------------------------------------------------------------------------------------


def test_the_mlm_loss_equals_a_loop_over_tokens() -> None:
    logits = random_logits(2, 1 + 2 * 3 + 5, 7)  # paragraph token, 2 sentences of 3 tokens, 5 video tokens; 7 words
    targets = torch.tensor([[[-100, 3, -100], [6, -100, 0]], [[-100, -100, 2], [-100, -100, -100]]])
    slow, count = torch.zeros((), dtype=torch.float64), 0
    for pair in range(2):
        for sentence in range(2):
            for token in range(3):
                if (word := int(targets[pair, sentence, token])) != -100:
                    slow, count = slow + cross_entropy(logits[pair, 1 + 3 * sentence + token], word), count + 1
    assert count == 4
    assert_same_with_gradient(masked_language_modeling_loss(logits, targets), slow / count, logits)


def test_the_mlm_loss_of_two_masked_tokens_by_hand() -> None:
    # paragraph token, two text tokens, one video token over two words; the first and last of these must not matter
    logits = torch.tensor([[[9.0, 0.0], [0.0, 0.0], [0.0, 2.0], [9.0, 0.0]]])
    # (ln 2 + ln(1 + e^2)) / 2 = (0.693147 + 2.126928) / 2
    assert masked_language_modeling_loss(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(1.410038, abs=2e-6)


def test_nothing_masked_is_a_loss_of_zero_with_a_graph() -> None:
    logits = random_logits(2, 12, 7)
    loss = masked_language_modeling_loss(logits, torch.full((2, 2, 3), -100))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and not gradient.any()


# -- matching --------------------------------------------------------------------------------------------------------


def test_the_vtm_loss_equals_a_loop_over_pairs() -> None:
    logits, targets = random_logits(5, 2), torch.tensor([0, 0, 1, 1, 1])
    slow = sum((cross_entropy(logits[i], int(targets[i])) / 5 for i in range(5)), torch.zeros(()))
    assert_same_with_gradient(video_text_matching_loss(logits, targets), slow, logits)


def test_the_vtm_loss_by_hand() -> None:
    # a matched pair at (0, 1): ln(1 + e^-1) = 0.313262; a mismatched one at (0, 1): ln(1 + e) = 1.313262
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert video_text_matching_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(0.813262, abs=2e-6)


@pytest.mark.parametrize(
    ("batch", "videos", "targets"),
    [
        (1, [0], [1]),
        (2, [1, 1], [0, 1]),
        (3, [1, 1, 2], [0, 1, 1]),
        (4, [1, 0, 2, 3], [0, 0, 1, 1]),
        (5, [1, 0, 2, 3, 4], [0, 0, 1, 1, 1]),
        (8, [3, 0, 1, 2, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_the_first_half_gets_its_neighbours_video(batch: int, videos: list[int], targets: list[int]) -> None:
    index, found = mismatched_pairs(batch)
    assert (index.tolist(), found.tolist()) == (videos, targets)
    assert index.dtype == found.dtype == torch.int64
    assert [int(video == text) for text, video in enumerate(videos)] == targets, "a label contradicts its pair"


# -- spans -----------------------------------------------------------------------------------------------------------


def test_span_weights_make_both_sides_count_alike() -> None:
    targets = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    # T / (2 x frames on the side): 4 / 6 inside and 4 / 2 outside, and so on; one side alone weighs 4 / 8
    expected = [[2, 2 / 3, 2 / 3, 2 / 3], [2 / 3, 2 / 3, 2 / 3, 2], [0.5] * 4, [0.5] * 4]
    torch.testing.assert_close(span_weights_from_targets(targets), torch.tensor(expected))


def test_the_span_loss_equals_a_loop_over_frames() -> None:
    logits, targets = random_logits(2, 6, 2), torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 1]])
    weights = torch.rand(2, 6, dtype=torch.float64)
    for given in (None, weights):
        slow = torch.zeros((), dtype=torch.float64)
        for pair in range(2):
            inside = int(targets[pair].sum())
            for frame in range(6):
                own_side = 6 / (2 * (inside if targets[pair, frame] else 6 - inside))
                weight = own_side if given is None else float(given[pair, frame])
                slow = slow + weight * cross_entropy(logits[pair, frame], int(targets[pair, frame])) / 12
        fast = span_loss(logits, targets, given)
        # weights that are made from targets are float32, and 6 / 8 as well as 6 / 10 has to be rounded to it
        assert fast.item() == pytest.approx(slow.item(), rel=1e-7 if given is None else EXACT)
        (fast_gradient,), (slow_gradient,) = torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits)
        torch.testing.assert_close(fast_gradient, slow_gradient, atol=1e-7, rtol=0)


def test_the_span_loss_by_hand() -> None:
    # frames outside, inside, outside, outside; weights 4 / 6 outside, 4 / 2 inside; every frame answers (0, 1)
    logits, targets = torch.tensor([[[0.0, 1.0]] * 4]), torch.tensor([[0, 1, 0, 0]])
    # (3 x 2/3 x ln(1 + e) + 2 x ln(1 + 1/e)) / 4 = (2 x 1.313262 + 2 x 0.313262) / 4
    assert span_loss(logits, targets).item() == pytest.approx(0.813262, abs=2e-6)
    assert span_loss(logits, targets.bool()).item() == span_loss(logits, targets.float()).item()


def test_spans_of_another_shape_are_refused_by_name() -> None:
    logits, targets = torch.zeros(2, 6, 2), torch.zeros(2, 6)
    with pytest.raises(ValueError, match=r"span_targets \(2, 5\) must be \(B, T\) of span logits .* \(2, 6, 2\)"):
        span_loss(logits, targets[:, :5])
    with pytest.raises(ValueError, match=r"span_weights \(6,\) must have the shape of span_targets \(2, 6\)"):
        span_loss(logits, targets, torch.ones(6))


# -- all together ----------------------------------------------------------------------------------------------------


def contrastive_outputs(batch: int = 3, **fields: object) -> ModelOutput:
    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)

    outputs = {"text_embeds": unit(batch, 6), "video_embeds": unit(batch, 6)}
    outputs |= {"sentence_embeds": unit(batch, 4, 6), "clip_embeds": unit(batch, 4, 6)}
    return ModelOutput(**(outputs | {"sentence_mask": torch.ones(batch, 4)} | fields))


def fusion_outputs() -> ModelOutput:
    mlm_targets = torch.full((4, 2, 3), -100)
    mlm_targets[2, 0, 1] = 5
    return ModelOutput(
        mlm_logits=torch.randn(4, 9, 7),
        mlm_targets=mlm_targets,
        vtm_logits=torch.randn(4, 2),
        vtm_targets=torch.tensor([0, 0, 1, 1]),
    )


def test_the_contrastive_phase_is_global_plus_a_quarter_of_mtc() -> None:
    outputs = contrastive_outputs(mtc_draw=draw_mtc(3, 4, seed=9))
    global_term = global_contrastive_loss(outputs.text_embeds, outputs.video_embeds, 0.05)
    mtc_term = mtc_loss(outputs.sentence_embeds, outputs.clip_embeds, outputs.mtc_draw, 0.05)
    assert mtc_term > 0
    assert LFVilaLoss()(outputs).item() == pytest.approx((global_term + 0.25 * mtc_term).item(), rel=1e-6)
    assert LFVilaLoss()(contrastive_outputs(sentence_embeds=None)) > 0  # no temporal alignment: global alone


def test_the_fusion_phase_is_mlm_plus_ten_times_vtm() -> None:
    outputs = fusion_outputs()
    mlm_term = masked_language_modeling_loss(outputs.mlm_logits, outputs.mlm_targets)
    vtm_term = video_text_matching_loss(outputs.vtm_logits, outputs.vtm_targets)
    assert mlm_term > 0 and vtm_term > 0
    assert LFVilaLoss()(outputs).item() == pytest.approx((mlm_term + 10 * vtm_term).item(), rel=1e-6)
    assert set(LFVilaLoss().terms(outputs)) == {"mlm_loss", "vtm_loss"}


def test_the_trainers_arguments_change_nothing() -> None:
    outputs = fusion_outputs()
    assert torch.equal(LFVilaLoss()(outputs), LFVilaLoss()(outputs, labels=None, num_items_in_batch=torch.tensor(12)))


def test_without_a_draw_in_the_outputs_a_fixed_one_is_made() -> None:
    outputs = contrastive_outputs()
    loss = LFVilaLoss()
    assert torch.equal(loss(outputs), loss(outputs))
    outputs["mtc_draw"] = draw_mtc(3, 4, 2, 2)
    with_draw = loss(outputs)
    outputs["mtc_draw"] = None
    assert torch.equal(with_draw, loss(outputs))


def test_the_mask_of_the_outputs_reaches_mtc() -> None:
    outputs = contrastive_outputs()
    loss = LFVilaLoss()
    everything = loss.terms(outputs)["mtc_loss"]
    outputs["sentence_mask"] = torch.zeros(3, 4)
    assert everything > 0 and loss.terms(outputs)["mtc_loss"] == 0


def test_temperatures_weights_and_counts_come_from_the_configuration() -> None:
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
    draw = draw_mtc(3, 4, 3, 1)
    mtc_term = mtc_loss(outputs.sentence_embeds, outputs.clip_embeds, draw, 0.25, None, "released", 1)
    default = LFVilaLoss()(outputs).item()
    assert LFVilaLoss(config)(outputs).item() == pytest.approx((2 * global_term + 3 * mtc_term).item(), rel=1e-6)
    assert not math.isclose(LFVilaLoss(config)(outputs).item(), default, rel_tol=0.01)
    fusion = fusion_outputs()
    terms = LFVilaLoss().terms(fusion)
    expected = 5 * terms["mlm_loss"] + 7 * terms["vtm_loss"]
    assert LFVilaLoss(config)(fusion).item() == pytest.approx(expected.item(), rel=1e-6)


def test_outputs_that_hold_no_term_are_named() -> None:
    with pytest.raises(ValueError, match=r"outputs hold neither text_embeds .* they hold \['logits', 'text_embeds'\]"):
        LFVilaLoss()(ModelOutput(logits=torch.zeros(2, 2), text_embeds=torch.zeros(2, 2), video_embeds=None))
    with pytest.raises(ValueError, match="pairs are expected"):
        LFVilaLoss()(contrastive_outputs(video_embeds=torch.zeros(2, 6)))

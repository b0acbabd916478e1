"""Retrieval metrics against a version that enumerates every order of tied items, and against values worked out by hand.

The score functions of a model's features are in test_retrieval_features.py, the `evaluate` metric in
test_retrieval_metric.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lfvila_hf.evaluation.retrieval import (
    ScoreBlock,
    dual_softmax,
    order_accuracy,
    retrieval_metrics,
    twin_scores,
)

RECALL_AT = (1, 2, 5)
# Sums of the slow and of the fast version differ by rounding of float64 only.
ROUNDING = 1e-12


def block_of(scores: torch.Tensor) -> ScoreBlock:
    return lambda texts, videos: scores[texts, videos]


def metrics_of(scores: Sequence[Sequence[float]] | torch.Tensor, **options: object) -> dict[str, float]:
    matrix = torch.as_tensor(scores, dtype=torch.float32)
    return retrieval_metrics(block_of(matrix), *matrix.shape, **options)  # type: ignore[arg-type]  # options vary


def slow_first_positions(row: list[float], right: set[int]) -> list[int]:
    """The position (1 is best) of the first right item under each order that sorting by score allows."""
    positions = []
    for order in itertools.permutations(range(len(row))):
        if all(row[a] >= row[b] for a, b in itertools.pairwise(order)):
            positions.append(1 + min(order.index(item) for item in right))
    return positions


def slow_metrics(scores: list[list[float]], target: list[int]) -> dict[str, float]:
    """What retrieval_metrics returns, by writing out every order of every ranking."""
    columns = [list(column) for column in zip(*scores, strict=True)]
    queries = {
        "t2v": [(row, {target[text]}) for text, row in enumerate(scores)],
        "v2t": [(columns[video], {t for t, v in enumerate(target) if v == video}) for video in sorted(set(target))],
    }
    result = {"num_texts": len(scores), "num_videos": len(columns), "chance_r1": 1 / len(columns)}
    for direction, rankings in queries.items():
        positions = [slow_first_positions(row, right) for row, right in rankings]
        expected = sorted(sum(p) / len(p) for p in positions)
        middle = (expected[(len(expected) - 1) // 2] + expected[len(expected) // 2]) / 2
        result |= {f"{direction}_medr": middle, f"{direction}_meanr": sum(expected) / len(expected)}
        for k in RECALL_AT:
            found = [sum(position <= k for position in p) / len(p) for p in positions]
            result[f"{direction}_r{k}"] = sum(found) / len(found)
    return result


# -- ranks and ties --------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[int], int]:
    """A matrix of few different scores (so many ties), the video of each text, and a block size."""
    num_texts, num_videos = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=num_videos, max_size=num_videos)
    scores = draw(st.lists(row, min_size=num_texts, max_size=num_texts))
    target = draw(st.lists(st.integers(0, num_videos - 1), min_size=num_texts, max_size=num_texts))
    return scores, target, draw(st.integers(1, 6))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_metrics_equal_those_of_enumerated_orders(problem: tuple[list[list[float]], list[int], int]) -> None:
    scores, target, block_size = problem
    fast = metrics_of(scores, target=target, block_size=block_size, recall_at=RECALL_AT)
    assert fast == pytest.approx(slow_metrics(scores, target), abs=ROUNDING)


def test_the_slow_version_knows_a_case_worked_out_by_hand() -> None:
    # Text 0 ties with one wrong video: rank 1 or 2. Text 1 is right.
    assert slow_first_positions([1.0, 1.0], {0}) == [1, 2]
    assert slow_metrics([[1.0, 1.0], [0.0, 1.0]], [0, 1])["t2v_r1"] == 0.75


def test_perfect_scores_are_perfect_and_reversed_ones_are_last() -> None:
    perfect = metrics_of(torch.eye(7))
    assert [perfect[f"{way}_{key}"] for way in ("t2v", "v2t") for key in ("r1", "medr", "meanr")] == [1.0] * 6
    worst = metrics_of(-torch.eye(7))
    assert worst["t2v_r1"] == worst["t2v_r5"] == 0.0
    assert worst["t2v_meanr"] == worst["v2t_medr"] == 7.0


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_constant_score_is_exactly_at_chance(value: float) -> None:
    metrics = metrics_of(torch.full((20, 20), value), block_size=6)
    for way in ("t2v", "v2t"):
        assert metrics[f"{way}_r1"] == pytest.approx(1 / 20)
        assert metrics[f"{way}_r10"] == pytest.approx(10 / 20)
        assert metrics[f"{way}_medr"] == metrics[f"{way}_meanr"] == 10.5
    assert metrics["chance_r1"] == 1 / 20


def test_right_texts_of_one_video_do_not_compete_with_each_other() -> None:
    # Video 0 has texts 0 and 1, video 1 has text 2, video 2 has none.
    metrics = metrics_of([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.85, 0.9]], target=[0, 0, 1])
    assert metrics["v2t_r1"] == 1.0
    assert metrics["v2t_meanr"] == 1.0
    assert metrics["t2v_r1"] == pytest.approx(2 / 3)  # video 2, which no text describes, is ahead for text 2
    assert (metrics["num_texts"], metrics["num_videos"]) == (3.0, 3.0)


# -- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 4, 7, 10, 64])
def test_the_block_size_changes_nothing(block_size: int) -> None:
    scores = torch.randn(23, 10).mul(2).round()
    target = torch.randint(10, (23,))
    assert (scores[0] == scores[0, 0]).sum() > 1 or len(scores.unique()) < scores.numel() / 2, "hardly any tie"
    expected = metrics_of(scores, target=target, block_size=100, dual_softmax_temperature=1.0)
    result = metrics_of(scores, target=target, block_size=block_size, dual_softmax_temperature=1.0)
    assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_items", [64, 640])
def test_no_block_is_larger_than_asked_and_few_are_asked_twice(num_items: int) -> None:
    asked: list[tuple[slice, slice]] = []

    def score_block(texts: slice, videos: slice) -> torch.Tensor:
        asked.append((texts, videos))
        return torch.arange(texts.start, texts.stop)[:, None] / 7 + torch.arange(videos.start, videos.stop) % 5

    retrieval_metrics(score_block, num_items, num_items, block_size=20)
    sizes = [(texts.stop - texts.start, videos.stop - videos.start) for texts, videos in asked]
    assert max(rows for rows, _ in sizes) == max(columns for _, columns in sizes) == 20
    num_slices = math.ceil(num_items / 20)
    assert len(asked) == num_slices**2 + num_slices
    assert sum(rows * columns for rows, columns in sizes) >= num_items**2, "some pair was never scored"


def test_scores_may_be_half_precision_and_carry_a_graph() -> None:
    scores = torch.randn(12, 12)
    expected = metrics_of(scores.bfloat16().float())
    assert metrics_of(scores) != expected, "rounding to bfloat16 changes nothing here"
    half = scores.bfloat16().requires_grad_()
    assert retrieval_metrics(block_of(half), 12, 12) == expected


# -- dual softmax ----------------------------------------------------------------------------------------------------


def test_dual_softmax_is_the_product_of_both_softmaxes() -> None:
    scores = torch.randn(6, 9, dtype=torch.float64)
    expected = (scores / 0.3).softmax(0) * (scores / 0.3).softmax(1)
    block = dual_softmax(block_of(scores), 6, 9, temperature=0.3, block_size=4)
    assert torch.allclose(block(slice(0, 6), slice(0, 9)).exp(), expected)
    assert torch.allclose(block(slice(2, 5), slice(1, 8)).exp(), expected[2:5, 1:8])


def test_dual_softmax_metrics_stand_beside_the_plain_ones_under_their_own_keys() -> None:
    # Video 0 is a hub: every text likes it best. The softmax over texts takes that away.
    scores = torch.eye(6) * 0.4
    scores[:, 0] = 0.45
    scores[0, 0] = 0.6
    plain = metrics_of(scores)
    both = metrics_of(scores, dual_softmax_temperature=0.05)
    assert {key: both[key] for key in plain} == plain
    assert set(both) - set(plain) == {f"dsl_{key}" for key in plain if key[:3] in ("t2v", "v2t")}
    assert plain["t2v_r1"] < 0.5 < both["dsl_t2v_r1"] == 1.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_dual_softmax_needs_a_positive_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature of the dual softmax is {temperature}"):
        metrics_of(torch.eye(2), dual_softmax_temperature=temperature)


# -- order twins -----------------------------------------------------------------------------------------------------


def test_order_accuracy_counts_a_tie_as_one_half() -> None:
    assert order_accuracy([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.3, 0.2]]) == pytest.approx(2.5 / 4)
    assert order_accuracy([[0.0, 0.0]]) == 0.5


def test_twin_scores_compare_each_text_with_its_own_and_its_twins_video() -> None:
    scores = torch.arange(16.0).reshape(4, 4)
    pairs = twin_scores(block_of(scores), [(0, 1), (3, 2)])
    assert pairs.tolist() == [[0, 1], [5, 4], [15, 14], [10, 11]]
    assert order_accuracy(pairs) == 0.5
    pairs = twin_scores(block_of(scores), [(0, 1)], target=[2, 3, 0, 0])
    assert pairs.tolist() == [[2, 3], [7, 6]]


def test_twins_of_one_video_are_refused() -> None:
    with pytest.raises(ValueError, match="texts 0 and 2 are no twins, both belong to video 1"):
        twin_scores(block_of(torch.eye(3)), [(0, 2)], target=[1, 0, 1])


@pytest.mark.parametrize("pairs", [[], [[1.0, 2.0, 3.0]], [1.0, 2.0]])
def test_order_accuracy_refuses_other_shapes(pairs: list) -> None:
    with pytest.raises(ValueError, match=r"expected \(texts, 2\)"):
        order_accuracy(pairs)


def test_order_accuracy_refuses_nan() -> None:
    with pytest.raises(ValueError, match="holds nan, expected finite scores"):
        order_accuracy([[0.1, 0.2], [math.nan, 0.1]])


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_pair(value: float) -> None:
    scores = torch.eye(9)
    scores[7, 4] = value
    with pytest.raises(ValueError, match=f"score of text 7 with video 4 is {value}"):
        metrics_of(scores, block_size=4)
    with pytest.raises(ValueError, match="text 7 with video 4"):
        metrics_of(scores, block_size=4, dual_softmax_temperature=1.0)
    with pytest.raises(ValueError, match="text 7 with video 4"):
        twin_scores(block_of(scores), [(4, 7)])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 1], "one integer for each of 3 texts"),
        ([0.0, 1.0, 0.0], "one integer for each of 3 texts"),
        ([0, 1, 2], "target holds 0 to 2, expected indices of 2 videos"),
        ([0, -1, 1], "target holds -1 to 1, expected indices of 2 videos"),
    ],
)
def test_a_wrong_target_is_named(target: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics_of(torch.zeros(3, 2), target=target)


def test_a_block_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"gave \(2, 1\) for .* expected \(2, 2\)"):
        retrieval_metrics(lambda texts, videos: torch.zeros(2, 1), 2, 2)


@pytest.mark.parametrize(("num_texts", "num_videos"), [(0, 2), (2, 0), (0, 0)])
def test_no_texts_or_no_videos_is_an_error(num_texts: int, num_videos: int) -> None:
    with pytest.raises(ValueError, match=f"there are {num_texts} texts and {num_videos} videos"):
        metrics_of(torch.zeros(num_texts, num_videos))


def test_a_block_size_of_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="block_size is 0, expected at least 1"):
        metrics_of(torch.eye(2), block_size=0)

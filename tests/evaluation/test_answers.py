"""Accuracy of answers and spans against loops, ties, and what guessing has."""

from __future__ import annotations

import numpy as np
import pytest

from lfvila_hf.evaluation.answers import (
    NO_CLASS,
    answer_metrics,
    mean_of_views,
    right_probability,
    softmax,
    span_accuracy,
)


def test_accuracy_is_the_share_of_right_answers() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(50, 4)), generator.integers(4, size=50)
    slow = sum(
        max(range(4), key=lambda answer: row[answer]) == label for row, label in zip(scores, labels, strict=True)
    )
    metrics = answer_metrics(scores, labels)
    assert metrics["accuracy"] == pytest.approx(slow / 50) and 0 < slow < 50
    assert metrics["chance"] == 0.25 and metrics["num_rows"] == 50
    assert metrics["majority"] == max(np.bincount(labels)) / 50


def test_a_model_that_scores_all_alike_has_the_accuracy_of_chance() -> None:
    assert answer_metrics(np.zeros((6, 3)), np.array([0, 0, 0, 0, 1, 2]))["accuracy"] == pytest.approx(1 / 3)
    assert answer_metrics(np.array([[1.0, 1.0, 0.0]]), np.array([1]))["accuracy"] == 0.5


def test_a_row_whose_answer_is_no_class_counts_as_wrong() -> None:
    metrics = answer_metrics(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, NO_CLASS]))
    assert metrics["accuracy"] == 0.5 and metrics["outside_vocabulary"] == 0.5 and metrics["majority"] == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), "labels must be 0 to 2"),
        (np.zeros((2, 3)), np.array([0]), "expected scores"),
        (np.zeros((0, 3)), np.zeros(0), "expected scores"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "NaN"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        answer_metrics(scores, labels)


def test_views_are_averaged_as_probabilities() -> None:
    first, second = np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]])
    mean = mean_of_views([first, second])
    assert mean == pytest.approx((softmax(first) + softmax(second)) / 2)
    assert mean.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="equal shapes"):
        mean_of_views([first, np.zeros((2, 2))])
    with pytest.raises(ValueError, match="at least one"):
        mean_of_views([])


def test_span_accuracy_weighs_both_sides_and_leaves_out_unknown_spans() -> None:
    targets = np.array([[1, 0, 0, 0], [1, 1, 1, 1]])
    always_inside = np.stack([np.zeros((2, 4)), np.ones((2, 4))], -1)
    assert span_accuracy(always_inside, targets) == {"span_accuracy": 0.5, "num_spans": 1.0}
    perfect = np.stack([1 - targets, targets], -1)
    assert span_accuracy(perfect, targets)["span_accuracy"] == 1.0
    assert span_accuracy(perfect[1:], targets[1:]) == {}
    with pytest.raises(ValueError, match="expected span scores"):
        span_accuracy(np.zeros((2, 3, 2)), targets)


def test_the_probability_of_the_right_answer_is_a_mean_over_all_rows() -> None:
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    assert right_probability(probabilities, np.array([0, 0, NO_CLASS])) == pytest.approx((0.6 + 0.3 + 0) / 3)

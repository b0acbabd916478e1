# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Accuracy of question answering, multiple choice and classification, and of spans, as the paper reports them.

Accuracy is the fraction of rows whose right answer has the highest score. All rows count; a row whose answer is no
class (label -100) is wrong. Ties are not broken by the order of classes: a right answer that shares the highest score
with e others counts 1 / (e + 1), so a constant score has exactly the accuracy of chance. Probabilities of several
temporal views of a video are averaged (`mean_of_views`).

Letters: B rows, N answers, T frames, V views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

NO_CLASS = -100
"""Label of a row whose answer is none of the classes."""


def answer_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute accuracy, and the accuracies of guessing.

    Args:
        scores: `(B, N)`, higher is better.
        labels: `(B,)`, the right answers; `NO_CLASS` if none is right.

    Returns:
        `accuracy`; `chance` (1 / N); `majority`, the share of the most frequent right answer; `num_rows`; and
        `outside_vocabulary`, the share of rows whose answer is no class.

    Raises:
        ValueError: Other shapes, a score that is not finite, no row, or a label that is no answer.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(scores):
        raise ValueError(f"expected scores (B, N) and labels (B,), got {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity, expected finite numbers")
    known = labels != NO_CLASS
    if not ((labels >= 0) & (labels < scores.shape[1]))[known].all():
        raise ValueError(f"labels must be 0 to {scores.shape[1] - 1} or {NO_CLASS}, got {sorted(set(labels.tolist()))}")
    right = right_shares(scores, labels)
    frequent = Counter(labels[known].tolist()).most_common(1)
    return {
        "accuracy": float(right.mean()),
        "chance": 1 / scores.shape[1],
        "majority": frequent[0][1] / len(labels) if frequent else 0.0,
        "num_rows": float(len(labels)),
        "outside_vocabulary": float(1 - known.mean()),
    }


def right_shares(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute each row's part in the accuracy: 1, 0, or 1 / (e + 1) if e other answers share the highest score.

    Args:
        scores: `(B, N)`, higher is better.
        labels: `(B,)`, `NO_CLASS` if no class is right.

    Returns:
        `(B,)`.
    """
    known = labels != NO_CLASS
    best = scores == scores.max(axis=1, keepdims=True)  # (B, N)
    shared = best / best.sum(axis=1, keepdims=True)
    return np.where(known, shared[np.arange(len(labels)), np.where(known, labels, 0)], 0.0)


def right_probability(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean probability of the right answer; 0 for a row whose answer is no class.

    Accuracy is coarse: a model that has learnt noise may favour one answer by a hair and be right or wrong on all of a
    group of equal videos. The probability is not.

    Args:
        probabilities: `(B, N)`.
        labels: `(B,)`, `NO_CLASS` if no class is right.
    """
    known = labels != NO_CLASS
    chosen = probabilities[np.arange(len(labels)), np.where(known, labels, 0)]
    return float(np.where(known, chosen, 0.0).mean())


def span_accuracy(span_scores: np.ndarray, span_targets: np.ndarray) -> dict[str, float]:
    """Compute the fraction of frames that are classified correctly as inside or outside of a question's span.

    Args:
        span_scores: `(B, T, 2)`, scores of being outside and inside.
        span_targets: `(B, T)`, 1 inside. Rows that are 1 throughout (unknown span) are left out.

    Returns:
        `span_accuracy`, the mean of the accuracies inside and outside (chance 0.5), and `num_spans`; empty if no row
        has a span.
    """
    scores, targets = np.asarray(span_scores), np.asarray(span_targets)
    if scores.shape != (*targets.shape, 2):
        raise ValueError(f"expected span scores (B, T, 2) and targets (B, T), got {scores.shape} and {targets.shape}")
    known = ~targets.all(axis=1)
    if not known.any():
        return {}
    inside = scores[known, :, 1] > scores[known, :, 0]
    wanted = targets[known] == 1
    balanced = (inside[wanted].mean() + (~inside[~wanted]).mean()) / 2
    return {"span_accuracy": float(balanced), "num_spans": float(known.sum())}


def softmax(scores: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis in float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def mean_of_views(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Average the probabilities of V views, from their scores `(B, N)`.

    Raises:
        ValueError: Views differ in shape, or there is none.
    """
    if len({view.shape for view in scores}) != 1:
        raise ValueError(f"views must have equal shapes and be at least one, got {[view.shape for view in scores]}")
    return np.mean([softmax(np.asarray(view)) for view in scores], axis=0)


__all__ = ["NO_CLASS", "answer_metrics", "mean_of_views", "right_probability", "softmax", "span_accuracy"]

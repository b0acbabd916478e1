# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Metrics of moment retrieval: R1@IoU, mAP over IoU thresholds, and AUROC of "not here".

Spans are `(start, end)` in seconds. A query has predicted spans with scores, best first or not, and the spans that are
right; a query without right spans counts only for AUROC. As in moment retrieval (QVHighlights), average precision
matches predictions in falling order of score, each to the free right span with the highest IoU, and interpolates
precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Span = tuple[float, float]
THRESHOLDS = (0.5, 0.7)
MAP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class SpanPrediction:
    """Predicted places of one query.

    Args:
        spans: Predicted spans.
        scores: Score of each span.
        right: The spans that are right.
    """

    spans: Sequence[Span]
    scores: Sequence[float]
    right: Sequence[Span]

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.scores):
            raise ValueError(f"{len(self.spans)} spans have {len(self.scores)} scores: one a span is needed")
        for start, end in [*self.spans, *self.right]:
            if not start <= end:
                raise ValueError(f"a span ends at {end} s before it starts at {start} s")

    def ordered(self) -> list[Span]:
        """Spans in falling order of score; equal scores stay as they are."""
        return [self.spans[place] for place in np.argsort(-np.asarray(self.scores), kind="stable")]


def interval_iou(one: Sequence[Span], other: Sequence[Span]) -> np.ndarray:
    """Intersection over union of every pair of spans, `(len(one), len(other))`; 0 for two empty spans."""
    a, b = (np.asarray(spans, np.float64).reshape(-1, 2) for spans in (one, other))
    inter = (np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])).clip(0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def average_precision(predictions: SpanPrediction, threshold: float) -> float:
    """Interpolated average precision of one query at an IoU threshold."""
    spans = predictions.ordered()
    iou = interval_iou(spans, predictions.right)
    free = np.ones(len(predictions.right), dtype=bool)
    hits = np.zeros(len(spans))
    for place, row in enumerate(iou):
        left = np.where(free, row, -1.0)
        if len(left) and left.max() >= threshold:
            free[left.argmax()] = False
            hits[place] = 1
    found = hits.cumsum()
    precision = found / np.arange(1, len(spans) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1] if len(precision) else precision
    return float((best * hits).sum() / len(predictions.right))


def auroc(inside: Sequence[float], foreign: Sequence[float]) -> float:
    """Area under the ROC curve: how often a score of a query that is there is above one of a foreign query.

    Ties count half.

    Raises:
        ValueError: One of the two lists is empty.
    """
    if not len(inside) or not len(foreign):
        raise ValueError(f"AUROC needs scores of both kinds, got {len(inside)} and {len(foreign)}")
    foreign_sorted = np.sort(np.asarray(foreign, np.float64))
    below = np.searchsorted(foreign_sorted, inside, side="left")
    ties = np.searchsorted(foreign_sorted, inside, side="right") - below
    return float((below + 0.5 * ties).sum() / (len(inside) * len(foreign)))


def moment_metrics(predictions: Sequence[SpanPrediction]) -> dict[str, float]:
    """Compute the metrics of moment retrieval over queries that have right spans.

    Args:
        predictions: One a query.

    Returns:
        `r1_iou_0.5` and `r1_iou_0.7` (the best span has that IoU with any right one), `mean_iou` of the best span,
        `map_0.5`, `map_0.75` and `map` (mean over 0.50, 0.55, ..., 0.95), `queries`.

    Raises:
        ValueError: No query has right spans.
    """
    with_right = [one for one in predictions if len(one.right)]
    if not with_right:
        raise ValueError("no query has right spans, at least one is needed")
    best = np.array([interval_iou(one.ordered()[:1], one.right).max(initial=0.0) for one in with_right])
    precision = {
        threshold: float(np.mean([average_precision(one, threshold) for one in with_right]))
        for threshold in MAP_THRESHOLDS
    }
    return {
        **{f"r1_iou_{threshold}": float((best >= threshold).mean()) for threshold in THRESHOLDS},
        "mean_iou": float(best.mean()),
        "map_0.5": precision[0.5],
        "map_0.75": precision[0.75],
        "map": float(np.mean(list(precision.values()))),
        "queries": float(len(with_right)),
    }


__all__ = ["SpanPrediction", "auroc", "average_precision", "interval_iou", "moment_metrics"]

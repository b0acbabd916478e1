"""Metrics of retrieval and of order. The `evaluate` metric is in `lfvila_hf.evaluation.retrieval_metric`."""

from __future__ import annotations

from lfvila_hf.evaluation.retrieval import (
    Ranks,
    ScoreBlock,
    dual_softmax,
    order_accuracy,
    retrieval_metrics,
    retrieval_ranks,
    twin_scores,
)
from lfvila_hf.evaluation.retrieval_features import (
    SCORES,
    RetrievalFeatures,
    ScoreName,
    evaluate_features,
    make_compute_metrics,
)

__all__ = [
    "SCORES",
    "Ranks",
    "RetrievalFeatures",
    "ScoreBlock",
    "ScoreName",
    "dual_softmax",
    "evaluate_features",
    "make_compute_metrics",
    "order_accuracy",
    "retrieval_metrics",
    "retrieval_ranks",
    "twin_scores",
]

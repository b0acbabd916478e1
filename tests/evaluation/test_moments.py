"""Moment metrics: worked out by hand, and equal to a slow version in plain Python."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfvila_hf.evaluation.moments import SpanPrediction, auroc, average_precision, interval_iou, moment_metrics


def slow_iou(a: Any, b: Any) -> float:
    inter = max(min(a[1], b[1]) - max(a[0], b[0]), 0.0)
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


def slow_precision(one: SpanPrediction, threshold: float) -> float:
    order = sorted(range(len(one.spans)), key=lambda place: -one.scores[place])
    free, hits, precisions = list(range(len(one.right))), [], []
    for place in order:
        scored = [(slow_iou(one.spans[place], one.right[other]), -other) for other in free]
        best = max(scored, default=(-1.0, 0))
        hits.append(best[0] >= threshold)
        if hits[-1]:
            free.remove(-best[1])
        precisions.append(sum(hits) / len(hits))
    return sum(max(precisions[place:]) for place in range(len(hits)) if hits[place]) / len(one.right)


def random_prediction(generator: random.Random) -> SpanPrediction:
    def spans(count: int) -> list[tuple[float, float]]:
        starts = [generator.uniform(0, 20) for _ in range(count)]
        return [(start, start + generator.choice([0.0, 1.0, 2.5, 6.0])) for start in starts]

    found = spans(generator.randint(0, 6))
    return SpanPrediction(found, [generator.choice([0.1, 0.5, 0.9]) for _ in found], spans(generator.randint(1, 4)))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6))
def test_the_metrics_are_those_of_the_slow_version(seed: int) -> None:
    generator = random.Random(seed)
    queries = [random_prediction(generator) for _ in range(5)]
    metrics = moment_metrics(queries)
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    for threshold in (0.5, 0.75):
        expected = sum(slow_precision(one, threshold) for one in queries) / 5
        assert metrics[f"map_{threshold}"] == pytest.approx(expected)
    every = sum(slow_precision(one, round(t, 2)) for one in queries for t in thresholds) / 50
    assert metrics["map"] == pytest.approx(every)
    first = [sorted(range(len(q.spans)), key=lambda n: -q.scores[n])[:1] for q in queries]
    best = [
        max((slow_iou(q.spans[n], r) for n in f for r in q.right), default=0.0)
        for q, f in zip(queries, first, strict=True)
    ]
    assert metrics["mean_iou"] == pytest.approx(sum(best) / 5)
    assert metrics["r1_iou_0.7"] == pytest.approx(sum(value >= 0.7 for value in best) / 5)
    inside, foreign = ([generator.choice([0.1, 0.2, 0.3, generator.random()]) for _ in range(n)] for n in (7, 5))
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in foreign]
    assert auroc(inside, foreign) == pytest.approx(sum(pairs) / len(pairs))


def test_by_hand() -> None:
    assert interval_iou([(0, 4)], [(2, 6), (8, 9)]).tolist() == [[pytest.approx(1 / 3), 0.0]]
    one = SpanPrediction([(0, 4), (10, 14), (20, 24)], [0.2, 0.9, 0.8], [(10, 14), (0, 4)])
    assert average_precision(one, 0.5) == pytest.approx((1 + 2 / 3) / 2)
    metrics = moment_metrics([one, SpanPrediction([], [], [(0, 1)]), SpanPrediction([(0, 1)], [1.0], [])])
    assert metrics["queries"] == 2 and metrics["r1_iou_0.5"] == 0.5 and metrics["map_0.5"] == pytest.approx(5 / 12)
    assert auroc([3, 4], [1, 2]) == 1.0 and auroc([1], [1]) == 0.5


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="ends at 1 s before it starts at 2 s"):
        SpanPrediction([(2, 1)], [0.5], [])
    with pytest.raises(ValueError, match="1 spans have 2 scores"):
        SpanPrediction([(0, 1)], [0.5, 0.6], [])
    with pytest.raises(ValueError, match="no query has right spans"):
        moment_metrics([SpanPrediction([(0, 1)], [1.0], [])])
    with pytest.raises(ValueError, match="AUROC needs scores of both kinds"):
        auroc([], [1.0])

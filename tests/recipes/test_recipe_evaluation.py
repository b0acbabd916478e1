"""Temporal views and skipped rows of an evaluation: what is put together belongs to one row.

Metrics are tested in tests/evaluation, runs and several processes in tests/examples/test_recipe_scripts.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lfvila_hf.data.skipping import SkippedSample, SkipReport
from lfvila_hf.evaluation.answers import answer_metrics
from lfvila_hf.recipes.recipe_evaluation import answer_rows, predict_views, rows_with_skipped

ROWS = [{"id": name, "place": f"test.jsonl:{number}"} for number, name in enumerate("abcd", start=1)]


@dataclass
class OneView:
    """A data set of which some rows cannot be read."""

    broken: str
    skips: Any
    tried: bool = False
    rows: Any = field(default_factory=lambda: ROWS)

    def without_unusable(self) -> OneView:
        return OneView(self.broken, self.skips, True)

    def skip_report(self) -> SkipReport:
        skipped = [SkippedSample(row["id"], row["place"], "torn") for row in ROWS if row["id"] in self.broken]
        return SkipReport(tuple(skipped), len(ROWS))


def run(
    broken: tuple[str, ...], world_size: int = 1, on_error: str = "skip", more: int = 0
) -> tuple[Any, Any, list[bool]]:
    """Views whose prediction is the row's number, and ten times it."""
    tried: list[bool] = []

    def predict(dataset: OneView, ignore_keys: Any) -> Any:
        tried.append(dataset.tried)
        values = np.array([number for number, row in enumerate(ROWS) if row["id"] not in dataset.broken] + [0] * more)
        return SimpleNamespace(predictions=({"a": values[:, None]}, values * 10), label_ids=values, metrics={})

    trainer = SimpleNamespace(predict=predict, args=SimpleNamespace(world_size=world_size))
    skips = SimpleNamespace(on_error=on_error)
    views, skipped = predict_views(trainer, lambda view: OneView(broken[view], skips), len(broken))
    return views, skipped, tried


def test_a_row_that_one_view_cannot_read_is_left_out_of_all() -> None:
    views, skipped, _ = run(("b", "", "bd"))
    assert skipped == {("b", "test.jsonl:2"): "torn", ("d", "test.jsonl:4"): "torn"}
    for view in views:
        assert view.predictions[0]["a"].tolist() == [[0], [2]] and view.predictions[1].tolist() == [0, 20]
        assert view.label_ids.tolist() == [0, 2]
    rows = rows_with_skipped(ROWS, skipped, [{"n": 0}, {"n": 2}])
    assert [row.get("n", row.get("skipped")) for row in rows] == [0, "torn", 2, "torn"]
    assert [row["id"] for row in rows] == list("abcd")


def test_several_processes_try_the_rows_first_where_they_may_skip() -> None:
    assert run(("", ""), world_size=2)[2] == [True, True]
    assert run(("",), world_size=2, on_error="raise")[2] == [False]
    assert run(("",), world_size=1)[2] == [False]


def test_answers_have_their_share_of_the_accuracy_and_their_texts() -> None:
    probabilities, labels = np.array([[0.25, 0.5, 0.25], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]), np.array([1, 1, -100])
    found = answer_rows(probabilities, labels)
    assert found[0] == {"label": 1, "prediction": 1, "probability": 0.5, "right": 1.0}
    shares = [row["right"] for row in found]
    assert shares == [1.0, 0.5, 0.0] and np.mean(shares) == answer_metrics(probabilities, labels)["accuracy"]
    named = answer_rows(probabilities, labels, ["yes", "no"])
    assert [row["prediction_text"] for row in named] == ["no", "yes", None]
    assert [row["label_text"] for row in named] == ["no", "no", None]


def test_another_number_of_predictions_than_of_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 predictions for 4 samples"):
        run(("",), more=1)
    with pytest.raises(ValueError, match="1 predictions for 4 samples"):
        rows_with_skipped(ROWS, {}, [{}])

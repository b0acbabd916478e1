# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Predictions of a recipe over temporal views, one row per sample, and the files that a run writes.

A sample that was skipped has a row in the predictions too, which says why, and takes part in no metric. A sample that a
single view could not read is left out of all of them.

With several processes the Trainer joins batches by their number of rows, and a batch that is smaller than announced
would shift those after it. So if samples may be skipped, the processes first try all rows, each its share, agree, and
predict the rest. That is a second decoding, which a frame cache saves.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils import logging

from lfvila_hf.data.datasets import VideoTextDataset
from lfvila_hf.evaluation.answers import right_shares

logger = logging.get_logger("lfvila_hf")

Rows = list[dict[str, Any]]
Key = tuple[str, str]
"""Id and place of a row in its annotation; unique."""


class View(NamedTuple):
    """Predictions of one temporal view, and the labels."""

    predictions: Any
    label_ids: Any


def predict_views(
    trainer: Any, dataset_of_view: Callable[[int], VideoTextDataset], num_views: int, ignore_keys: Any = None
) -> tuple[list[View], dict[Key, str]]:
    """Predict every temporal view of the evaluation rows.

    Args:
        trainer: The trainer.
        dataset_of_view: Makes the dataset of view v of V; all have the same rows.
        num_views: V.
        ignore_keys: Outputs of the model that are no predictions.

    Returns:
        The views, all with the rows that every view could read, in the annotation's order; and the reason of every
        skipped row.

    Raises:
        ValueError: The number of predictions is not that of the samples.
    """
    outputs: list[tuple[Any, list[Key]]] = []
    skipped: dict[Key, str] = {}
    for view in range(num_views):
        dataset = dataset_of_view(view)
        keys = keys_of(dataset.rows)
        dataset = readable(trainer, dataset)
        output = trainer.predict(dataset, ignore_keys=ignore_keys)
        own = skipped_rows(dataset)
        outputs.append((output, [key for key in keys if key not in own]))
        skipped |= own
    views = []
    for output, keys in outputs:
        index = [number for number, key in enumerate(keys) if key not in skipped]
        views.append(View(*(_select(part, len(keys), index) for part in (output.predictions, output.label_ids))))
    return views, skipped


def _select(values: Any, count: int, index: list[int]) -> Any:
    """Select rows of every array that the Trainer gathered, which must have one per sample."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: _select(value, count, index) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_select(value, count, index) for value in values)
    if len(values) != count:
        raise ValueError(f"{len(values)} predictions for {count} samples")
    return values[index]


def readable(trainer: Any, dataset: VideoTextDataset) -> VideoTextDataset:
    """Leave out rows that cannot be used if several processes need batches of the announced size."""
    if dataset.skips.on_error == "skip" and trainer.args.world_size > 1:
        return dataset.without_unusable()
    return dataset


def skipped_rows(dataset: VideoTextDataset) -> dict[Key, str]:
    """Return the rows that were skipped so far, with the reasons."""
    return {(one.sample, one.place): one.reason for one in dataset.skip_report().skipped}


def without(dataset: VideoTextDataset, skipped: Mapping[Key, str]) -> VideoTextDataset:
    """Copy a dataset without some rows."""
    smaller = copy.copy(dataset)
    kept = [number for number, key in enumerate(keys_of(dataset.rows)) if key not in skipped]
    smaller.rows = torch.utils.data.Subset(dataset.rows, kept)
    return smaller


def keys_of(rows: Iterable[Mapping[str, Any]]) -> list[Key]:
    """List the keys of rows."""
    return [(row["id"], row["place"]) for row in rows]


def batches_of(dataset: VideoTextDataset, collator: Any, size: int) -> Iterator[dict[str, Any]]:
    """Collate a dataset in order, without a loader."""
    for start in range(0, len(dataset), size):
        yield collator([dataset[number] for number in range(start, min(start + size, len(dataset)))])


def answer_rows(probabilities: np.ndarray, labels: np.ndarray, answers: Sequence[str] | None = None) -> Rows:
    """Describe predicted answers.

    Args:
        probabilities: `(B, N)`.
        labels: `(B,)`, the right answers.
        answers: Texts of the N answers. Defaults to none.

    Returns:
        One dict per sample: `label`, `prediction`, its `probability`, and `right`, the sample's part in the accuracy
        (1, 0, or a share between equal probabilities). With `answers` also `label_text` and `prediction_text`, which
        are `None` for a number without a text.
    """
    rows: Rows = []
    for row, label, right in zip(probabilities, labels, right_shares(probabilities, labels), strict=True):
        found = {"label": int(label), "prediction": int(row.argmax())}
        texts = {}
        if answers is not None:
            texts = {
                f"{name}_text": answers[number] if 0 <= number < len(answers) else None
                for name, number in found.items()
            }
        rows.append({**found, **texts, "probability": round(float(row.max()), 6), "right": float(right)})
    return rows


def rows_with_skipped(rows: Any, skipped: Mapping[Key, str], predictions: Rows) -> Rows:
    """Give every row of the annotation its prediction, or the reason why it was skipped.

    Raises:
        ValueError: The number of predictions is not that of the samples.
    """
    keys = keys_of(rows)
    expected = sum(key not in skipped for key in keys)
    if len(predictions) != expected:
        raise ValueError(f"{len(predictions)} predictions for {expected} samples")
    left = iter(predictions)
    return [
        {"id": key[0], "place": key[1], **({"skipped": skipped[key]} if key in skipped else next(left))} for key in keys
    ]


def write_results(trainer: Any, metrics: dict[str, float], predictions: Rows, started: float, trained: float) -> None:
    """Write `eval_results.json`, and `predictions.jsonl` with `--do_predict`, to the output folder.

    Args:
        trainer: The trainer.
        metrics: Metrics; the seconds of training and evaluation are added.
        predictions: One row per sample.
        started: `time.perf_counter()` at the beginning of the run.
        trained: `time.perf_counter()` at the end of training.
    """
    metrics["train_seconds"] = round(trained - started, 1)
    metrics["eval_seconds"] = round(time.perf_counter() - trained, 1)
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval_results.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if trainer.args.do_predict:
        lines = "".join(json.dumps(row) + "\n" for row in predictions)
        (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")


def log_skipped(trainer: Any, **skips: Any) -> None:
    """Log the annotation rows that were left out, by split, on the main process."""
    for split, log in skips.items():
        if trainer.is_world_process_zero() and len(log.report()):
            logger.warning("%s: %s", split, log.report())


__all__ = [
    "Key",
    "Rows",
    "View",
    "answer_rows",
    "batches_of",
    "keys_of",
    "log_skipped",
    "predict_views",
    "readable",
    "rows_with_skipped",
    "skipped_rows",
    "without",
    "write_results",
]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Evaluation and prediction of a recipe: each task's metric, temporal views averaged, one row per sample.

Answers: the probabilities of all views are averaged. Retrieval: the video features of all views are averaged and
normalised again; texts are the same in every view. A sample that was skipped has its row in the predictions too, which
says so, and takes part in no metric; one that a single view could not read is left out of all of them.

Several processes put their batches together by the number of rows, which a batch that is smaller than announced would
shift. So where samples may be skipped they try all rows first, each its share, agree, and predict what is left: a
second decoding, which a frame cache saves.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import VideoTextDataset
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features
from lfvila_hf.evaluation.answers import answer_metrics, mean_of_views, right_probability, span_accuracy
from lfvila_hf.evaluation.reranking import FusionStore, rerank_metrics
from lfvila_hf.recipes.data import RecipeData
from lfvila_hf.recipes.tasks import TASKS

Rows = list[dict[str, Any]]
Key = tuple[str, str]
"""Id and place of a row in its annotation, which tell rows apart."""


class View(NamedTuple):
    """Of one temporal view: what the Trainer predicted, and the labels."""

    predictions: Any
    label_ids: Any


def evaluate_recipe(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    """Metrics of the evaluation rows and one prediction per row.

    Args:
        trainer: A `RecipeTrainer` with the recipe's processor.
        data: Of the recipe.

    Returns:
        Metrics by name (those of VTM reranking on the main process alone), and rows with `id`, `place` and what was
        predicted, in the order of the annotation.

    Raises:
        ValueError: Where the number of predictions is not that of the samples.
    """
    kind = TASKS[data.arguments.task].kind
    if kind in ("contrastive", "fusion"):
        return _evaluate_pretraining(trainer, data)
    if kind == "retrieval":
        return _evaluate_retrieval(trainer, data)
    return _evaluate_answers(trainer, data)


def write_rows(path: Path, rows: Rows) -> None:
    """Predictions as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _evaluate_answers(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    with_spans = TASKS[data.arguments.task].kind == "multiple_choice"
    if with_spans:
        trainer.label_names = ["labels", "span_targets"]
    hidden = ["loss", "span_loss", "hidden_states", "attentions"]
    views, skipped = _predicted_views(trainer, data, hidden if with_spans else [*hidden, "span_logits"])
    scores = [view.predictions[0] if isinstance(view.predictions, tuple) else view.predictions for view in views]
    targets = views[-1].label_ids
    labels = targets[0] if isinstance(targets, tuple) else targets
    probabilities = mean_of_views(scores)  # (B, N)
    metrics = answer_metrics(probabilities, labels)
    metrics["right_probability"] = right_probability(probabilities, labels)
    if with_spans:
        # frames of the views lie at other seconds, so that spans are measured on the last one alone
        metrics |= span_accuracy(views[-1].predictions[1], targets[1])
    predictions = [
        {
            "label": int(label),
            "prediction": int(row.argmax()),
            "probability": round(float(row.max()), 6),
            "right": bool(row.argmax() == label),
        }
        for row, label in zip(probabilities, labels, strict=True)
    ]
    return metrics, list(_per_sample(data.test, skipped, predictions))


def _evaluate_retrieval(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    views, skipped = _predicted_views(trainer, data)
    features = _mean_features([RetrievalFeatures.from_outputs(view.predictions) for view in views])
    by_score = evaluate_features(
        features,
        scores=trainer.args.eval_scores,
        dual_softmax_temperature=data.arguments.dual_softmax_temperature,
        block_size=trainer.args.retrieval_block_size,
    )
    metrics = {f"{score}_{name}": value for score, values in by_score.items() for name, value in values.items()}
    best = features.score_block("global")
    if data.arguments.rerank_top_k:
        metrics |= _reranked(trainer, data, skipped, best, features.num_texts)
    every = slice(0, features.num_videos)
    names = [row["id"] for row in data.test if (row["id"], row["place"]) not in skipped]
    predictions = []
    for number in range(features.num_texts):
        scores = best(slice(number, number + 1), every)[0]
        top = scores.topk(min(data.arguments.top_k, len(scores)))
        listed = [
            {"id": names[place], "score": round(value, 6)}
            for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        predictions.append({"rank": 1 + int((scores > scores[number]).sum()), "videos": listed})
    return metrics, list(_per_sample(data.test, skipped, predictions))


def _evaluate_pretraining(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    """The Trainer's own evaluation; of every pair the rank of its video (contrastive) or how well it fits (fusion)."""
    dataset = _readable(trainer, data, data.test_set(trainer.processing_class))
    output = trainer.predict(dataset, metric_key_prefix="eval")
    metrics = {name.removeprefix("eval_"): float(value) for name, value in output.metrics.items()}
    kept, skipped = dataset.without_skipped(), _skipped(dataset)
    count = len(kept)
    predictions: Rows = [{} for _ in range(count)]
    if output.predictions is not None:
        scores = RetrievalFeatures.from_outputs(output.predictions).score_block("global")
        for number, row in enumerate(predictions):
            of_text = scores(slice(number, number + 1), slice(0, count))[0]
            row["rank"] = 1 + int((of_text > of_text[number]).sum())
    elif trainer.args.do_predict and trainer.is_world_process_zero():
        for row, probability in zip(predictions, _match_probabilities(trainer, kept), strict=True):
            row["match_probability"] = round(probability, 6)
    return metrics, list(_per_sample(data.test, skipped, predictions))


def _match_probabilities(trainer: Any, kept: VideoTextDataset) -> Iterator[float]:
    """The VTM head's probability that each sample's text and video belong together, without masked tokens."""
    model = trainer.model.eval()
    collate, size = LFVilaCollator(trainer.processing_class), trainer.args.per_device_eval_batch_size
    for start in range(0, len(kept), size):
        batch = collate([kept[number] for number in range(start, min(start + size, len(kept)))])
        inputs = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        with torch.no_grad():
            logits = model(**inputs, phase="fusion", return_loss=False).vtm_logits  # (B, 2)
        yield from logits.float().softmax(-1)[:, 1].tolist()


def _reranked(
    trainer: Any, data: RecipeData, skipped: Mapping[Key, str], score_block: Any, count: int
) -> dict[str, float]:
    """VTM reranking, by the main process alone; with several views, of the last one.

    The other processes get nothing and do not wait: a collective would time out long before a large ranking is done.
    """
    if not trainer.is_world_process_zero():
        return {}
    processor, model = trainer.processing_class, trainer.model
    model.eval()
    padded = processor.pad_to_max_sentences
    processor.pad_to_max_sentences = True
    try:
        kept = _without(data.test_set(processor, data.arguments.eval_views - 1), skipped)
        size = trainer.args.per_device_eval_batch_size
        collate = data.collator(processor)
        batches = (
            collate([kept[number] for number in range(start, min(start + size, count))])
            for start in range(0, count, size)
        )
        store = FusionStore(Path(trainer.args.output_dir) / "fusion_store", model, batches, count)
    finally:
        processor.pad_to_max_sentences = padded
    return rerank_metrics(score_block, store.pair_scorer(), count, count, data.arguments.rerank_top_k)


def _predicted_views(
    trainer: Any, data: RecipeData, ignore_keys: list[str] | None = None
) -> tuple[list[View], dict[Key, str]]:
    """What the Trainer predicts for every temporal view, and why rows were skipped in any of them.

    The rows of the views are the same: those of the annotation that every view could read, in its order.
    """
    outputs: list[Any] = []
    kept: list[list[Key]] = []
    skipped: dict[Key, str] = {}
    for view in range(data.arguments.eval_views):
        dataset = _readable(trainer, data, data.test_set(trainer.processing_class, view))
        outputs.append(trainer.predict(dataset, ignore_keys=ignore_keys))
        own = _skipped(dataset)
        kept.append([key for key in _keys(data.test) if key not in own])
        skipped |= own
    views = []
    for output, keys in zip(outputs, kept, strict=True):
        index = [number for number, key in enumerate(keys) if key not in skipped]
        views.append(View(*(_rows_of(part, len(keys), index) for part in (output.predictions, output.label_ids))))
    return views, skipped


def _rows_of(values: Any, count: int, index: list[int]) -> Any:
    """Rows of every array of what the Trainer gathered, which must be one per sample."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: _rows_of(value, count, index) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_rows_of(value, count, index) for value in values)
    if len(values) != count:
        raise ValueError(f"{len(values)} predictions for {count} samples")
    return values[index]


def _readable(trainer: Any, data: RecipeData, dataset: VideoTextDataset) -> VideoTextDataset:
    """A data set whose every batch is as large as announced, where several processes need that."""
    if data.arguments.on_error == "skip" and trainer.args.world_size > 1:
        return dataset.without_unusable()
    return dataset


def _without(dataset: VideoTextDataset, skipped: Mapping[Key, str]) -> VideoTextDataset:
    smaller = copy.copy(dataset)
    kept = [number for number, key in enumerate(_keys(dataset.rows)) if key not in skipped]
    smaller.rows = torch.utils.data.Subset(dataset.rows, kept)
    return smaller


def _mean_features(views: list[RetrievalFeatures]) -> RetrievalFeatures:
    def mean(name: str) -> torch.Tensor | None:
        values = [getattr(view, name) for view in views]
        return None if values[0] is None else F.normalize(torch.stack(values).mean(0), dim=-1)

    first = views[0]
    return RetrievalFeatures(
        text_embeds=first.text_embeds,
        sentence_embeds=first.sentence_embeds,
        sentence_mask=first.sentence_mask,
        video_embeds=mean("video_embeds"),
        clip_embeds=mean("clip_embeds"),
    )


def _keys(rows: Any) -> list[Key]:
    return [(row["id"], row["place"]) for row in rows]


def _skipped(dataset: VideoTextDataset) -> dict[Key, str]:
    return {(one.sample, one.place): one.reason for one in dataset.skip_report().skipped}


def _per_sample(rows: Any, skipped: Mapping[Key, str], predictions: Rows) -> Iterator[dict[str, Any]]:
    """One row per sample of the annotation: its prediction, or why it was skipped."""
    left = iter(predictions)
    keys = _keys(rows)
    expected = sum(key not in skipped for key in keys)
    if len(predictions) != expected:
        raise ValueError(f"{len(predictions)} predictions for {expected} samples")
    for key in keys:
        made = {"skipped": skipped[key]} if key in skipped else next(left)
        yield {"id": key[0], "place": key[1], **made}


__all__ = ["evaluate_recipe", "write_rows"]

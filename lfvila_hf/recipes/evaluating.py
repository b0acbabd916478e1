# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Evaluation and prediction of a recipe: each task's metric, temporal views averaged, one row per sample.

Answers: the probabilities of all views are averaged. Retrieval: the video features of all views are averaged and
normalised again; texts are the same in every view. A sample that was skipped has its row in the predictions too, which
says so, and takes part in no metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def evaluate_recipe(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    """Metrics of the evaluation rows and one prediction per row.

    Args:
        trainer: A `RecipeTrainer` with the recipe's processor.
        data: Of the recipe.

    Returns:
        Metrics by name, and rows with `id`, `place` and what was predicted; in the order of the annotation.

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
    views, spans, dataset, targets = [], [], None, None
    with_spans = TASKS[data.arguments.task].kind == "multiple_choice"
    if with_spans:
        trainer.label_names = ["labels", "span_targets"]
    hidden = ["loss", "span_loss", "hidden_states", "attentions"]
    for view in range(data.arguments.eval_views):
        dataset = data.test_set(trainer.processing_class, view)
        output = trainer.predict(dataset, ignore_keys=hidden if with_spans else [*hidden, "span_logits"])
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        views.append(logits)
        if with_spans:
            spans.append(output.predictions[1])
        targets = output.label_ids
    assert dataset is not None and targets is not None
    labels = targets[0] if isinstance(targets, tuple) else targets
    probabilities = mean_of_views(views)  # (B, N)
    metrics = answer_metrics(probabilities, labels)
    metrics["right_probability"] = right_probability(probabilities, labels)
    if with_spans:
        # frames of the views lie at other seconds, so that spans are measured on the last one alone
        metrics |= span_accuracy(spans[-1], targets[1])
    predictions = [
        {
            "label": int(label),
            "prediction": int(scores.argmax()),
            "probability": round(float(scores.max()), 6),
            "right": bool(scores.argmax() == label),
        }
        for scores, label in zip(probabilities, labels, strict=True)
    ]
    return metrics, list(_per_sample(dataset, predictions))


def _evaluate_retrieval(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    views, dataset = [], None
    for view in range(data.arguments.eval_views):
        dataset = data.test_set(trainer.processing_class, view)
        views.append(RetrievalFeatures.from_outputs(trainer.predict(dataset).predictions))
    assert dataset is not None
    features = _mean_features(views)
    by_score = evaluate_features(
        features,
        scores=trainer.args.eval_scores,
        dual_softmax_temperature=data.arguments.dual_softmax_temperature,
        block_size=trainer.args.retrieval_block_size,
    )
    metrics = {f"{score}_{name}": value for score, values in by_score.items() for name, value in values.items()}
    best = features.score_block("global")
    if data.arguments.rerank_top_k:
        metrics |= _reranked(trainer, data, dataset, best, features.num_texts)
    every = slice(0, features.num_videos)
    names = [row["id"] for row in _kept_rows(dataset)]
    predictions = []
    for number in range(features.num_texts):
        scores = best(slice(number, number + 1), every)[0]
        top = scores.topk(min(data.arguments.top_k, len(scores)))
        listed = [
            {"id": names[place], "score": round(value, 6)}
            for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        predictions.append({"rank": 1 + int((scores > scores[number]).sum()), "videos": listed})
    return metrics, list(_per_sample(dataset, predictions))


def _evaluate_pretraining(trainer: Any, data: RecipeData) -> tuple[dict[str, float], Rows]:
    """The Trainer's own evaluation; of every pair the rank of its video (contrastive) or how well it fits (fusion)."""
    dataset = data.test_set(trainer.processing_class)
    output = trainer.predict(dataset, metric_key_prefix="eval")
    metrics = {name.removeprefix("eval_"): float(value) for name, value in output.metrics.items()}
    count = len(_kept_rows(dataset))
    predictions: Rows = [{} for _ in range(count)]
    if output.predictions is not None:
        scores = RetrievalFeatures.from_outputs(output.predictions).score_block("global")
        for number, row in enumerate(predictions):
            of_text = scores(slice(number, number + 1), slice(0, count))[0]
            row["rank"] = 1 + int((of_text > of_text[number]).sum())
    elif trainer.args.do_predict and trainer.is_world_process_zero():
        for row, probability in zip(predictions, _match_probabilities(trainer, dataset), strict=True):
            row["match_probability"] = round(probability, 6)
    return metrics, list(_per_sample(dataset, predictions))


def _match_probabilities(trainer: Any, dataset: VideoTextDataset) -> Iterator[float]:
    """The VTM head's probability that each sample's text and video belong together, without masked tokens."""
    model, kept = trainer.model.eval(), dataset.without_skipped()
    collate, size = LFVilaCollator(trainer.processing_class), trainer.args.per_device_eval_batch_size
    for start in range(0, len(kept), size):
        batch = collate([kept[number] for number in range(start, min(start + size, len(kept)))])
        inputs = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        with torch.no_grad():
            logits = model(**inputs, phase="fusion", return_loss=False).vtm_logits  # (B, 2)
        yield from logits.float().softmax(-1)[:, 1].tolist()


def _reranked(
    trainer: Any, data: RecipeData, dataset: VideoTextDataset, score_block: Any, count: int
) -> dict[str, float]:
    """VTM reranking; with several views, of the last one."""
    processor, model = trainer.processing_class, trainer.model
    model.eval()
    padded = processor.pad_to_max_sentences
    processor.pad_to_max_sentences = True
    try:
        kept = dataset.without_skipped()
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


def _kept_rows(dataset: VideoTextDataset) -> list[dict[str, Any]]:
    return [dict(row) for row in dataset.without_skipped().rows]


def _per_sample(dataset: VideoTextDataset, predictions: Rows) -> Iterator[dict[str, Any]]:
    """One row per sample of the annotation: its prediction, or why it was skipped."""
    skipped = {(one.sample, one.place): one.reason for one in dataset.skip_report().skipped}
    left = iter(predictions)
    expected = len(dataset) - len(skipped)
    if len(predictions) != expected:
        raise ValueError(f"{len(predictions)} predictions for {expected} samples")
    for row in dataset.rows:
        key = row["id"], row["place"]
        made = {"skipped": skipped[key]} if key in skipped else next(left)
        yield {"id": row["id"], "place": row["place"], **made}


__all__ = ["evaluate_recipe", "write_rows"]

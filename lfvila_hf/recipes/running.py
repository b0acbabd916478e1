# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The steps that every recipe script takes, in the order in which it takes them: data, model, training, evaluation."""

from __future__ import annotations

import atexit
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from lfvila_hf.recipes.arguments import RecipeArguments, RecipeTrainingArguments
from lfvila_hf.recipes.data import RecipeData, load_data
from lfvila_hf.recipes.evaluating import evaluate_recipe, write_rows
from lfvila_hf.recipes.models import build_model
from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.recipes.trainer import RecipeTrainer


def make_trainer(arguments: RecipeArguments, training: RecipeTrainingArguments) -> tuple[RecipeTrainer, RecipeData]:
    """Data, model and trainer of a recipe.

    Raises:
        ValueError: For rows, videos, a checkpoint or arguments that do not fit each other.
    """
    set_seed(training.seed)
    evaluate = training.do_eval or training.do_predict
    folder: Any = training.output_dir  # set by parse_recipe
    data = load_data(arguments, folder, training.seed, train=training.do_train, evaluate=evaluate)
    model, processor = build_model(arguments, data.tokenizer)
    kind = TASKS[arguments.task].kind
    if kind in ("contrastive", "fusion"):
        training.training_phase = kind
    elif kind == "retrieval" and arguments.rerank_top_k:
        training.training_phase = "contrastive"
    if kind in ("contrastive", "retrieval"):
        training.dataloader_drop_last = True  # a smaller batch has fewer negatives; the release drops it too
    trainer = RecipeTrainer(
        model=model,
        args=training,
        train_dataset=data.training_set(processor) if training.do_train else None,
        data_collator=data.collator(processor),
        processing_class=processor,
    )
    return trainer, data


def run_recipe(arguments: RecipeArguments, training: RecipeTrainingArguments) -> dict[str, float]:
    """Train, evaluate and predict as the arguments say.

    Writes the checkpoint, `eval_results.json` and `predictions.jsonl` to the output folder.

    Returns:
        Metrics of the evaluation, with the seconds of each step; empty where nothing is evaluated.

    Raises:
        ValueError: Where there is nothing to do, or see `make_trainer`.
    """
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    atexit.register(leave_group)
    started = time.perf_counter()
    trainer, data = make_trainer(arguments, training)
    if training.do_train:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()
    trained = time.perf_counter()
    metrics: dict[str, float] = {}
    if training.do_eval or training.do_predict:
        metrics, rows = evaluate_recipe(trainer, data)
        metrics["train_seconds"] = round(trained - started, 1)
        metrics["eval_seconds"] = round(time.perf_counter() - trained, 1)
        if trainer.is_world_process_zero():
            folder = Path(training.output_dir)  # type: ignore[arg-type]  # set by parse_recipe
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "eval_results.json").write_text(json.dumps(metrics, indent=1) + "\n")
            if training.do_predict:
                write_rows(folder / "predictions.jsonl", rows)
    report(trainer, data, metrics)
    return metrics


def leave_group() -> None:
    """Leave the processes that trained together: on CPUs, one that just ends may abort while the others talk to it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def report(trainer: Any, data: RecipeData, metrics: dict[str, float]) -> None:
    """Log what was left out and the metrics, on one process."""
    if not trainer.is_world_process_zero():
        return
    from transformers.utils import logging

    logger = logging.get_logger("lfvila_hf")
    for split, skips in data.skips.items():
        if len(skips.report()):
            logger.warning("%s: %s", split, skips.report())
    for name, value in metrics.items():
        logger.info("%s = %.4f", name, value)


__all__ = ["leave_group", "make_trainer", "run_recipe"]

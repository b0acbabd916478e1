r"""Classes of long videos: COIN (180 tasks), LVU (relationship, scene, way of speaking); top-1 accuracy.

    cd examples/video_classification
    python run_video_classification.py configs/coin.yaml --smoke
    accelerate launch run_video_classification.py configs/coin.yaml --data_dir DATA --video_dir VIDEOS \
        --model_name_or_path CHECKPOINT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_video_classification.py configs/coin.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs every step on generated videos in
under a minute on a CPU. DATA is what `lfvila-hf prepare` writes. Results go to `--output_dir`, by default
`outputs/TASK` in the current folder: the model, `eval_results.json` and, with `--do_predict`, `predictions.jsonl` with
one row per sample, or the reason why it was skipped.

Steps: 1. arguments 2. data 3. model and processor 4. datasets and collator 5. trainer 6. training 7. evaluation and
predictions. To use it in another project, copy it and change the steps. Data, hardware and numbers are in the README.

To add a task, add a row to `TASKS` of lfvila_hf/recipes/tasks.py, or in a copy of this script write
`TASKS["my_task"] = Task("classification", my_loader, 12)` before step 1. A yaml with `task: my_task` selects it. The
loader gets `num_labels` too. `--smoke` generates data for the tasks of the paper only.
"""

from __future__ import annotations

import time
from typing import Any

from lfvila_hf import LFVilaForVideoClassification, LFVilaTrainer
from lfvila_hf.data.datasets import VideoTextDataset
from lfvila_hf.data.task_collating import VideoClassificationCollator
from lfvila_hf.data.task_datasets import ClassificationReader
from lfvila_hf.evaluation.answers import answer_metrics, mean_of_views, right_probability
from lfvila_hf.recipes.recipe_arguments import parse_recipe, start_run
from lfvila_hf.recipes.recipe_data import frame_cache, recipe_files, shuffled_labels, skip_log, training_dataset
from lfvila_hf.recipes.recipe_evaluation import (
    answer_rows,
    log_skipped,
    predict_views,
    rows_with_skipped,
    write_results,
)
from lfvila_hf.recipes.recipe_models import build_model
from lfvila_hf.recipes.tasks import TASKS, tasks_of


def main(words: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return its metrics."""
    # 1. Arguments: a yaml, then options.
    arguments, training = parse_recipe(words, tasks_of("classification"))
    start_run(training)
    started = time.perf_counter()
    is_evaluated = training.do_eval or training.do_predict

    # 2. Data: a row is a video with a class.
    files = recipe_files(arguments, training.output_dir)
    train_skips, test_skips = skip_log(arguments), skip_log(arguments)
    load, num_labels = TASKS[arguments.task].load, arguments.num_labels or TASKS[arguments.task].num_labels
    train_rows = test_rows = None
    if training.do_train:
        train_rows = load(
            files.train, files.videos, num_labels=num_labels, streaming=arguments.streaming, skips=train_skips
        )
        if arguments.shuffle_labels:
            train_rows = shuffled_labels(train_rows, training.seed)
    if is_evaluated:
        test_rows = load(files.test, files.videos, num_labels=num_labels, skips=test_skips)

    # 3. Model and processor.
    model, processor = build_model(arguments, LFVilaForVideoClassification, files.tokenizer, num_labels=num_labels)

    # 4. Datasets and collator. A reader turns a row into a sample: decoded frames and sentences. Training has jittered
    # frames, random crops and flips. Evaluation may read V views of a video: view v has every V-th frame, from frame v.
    options: dict[str, Any] = {"seed": training.seed, "frame_cache": frame_cache(arguments)}
    train_dataset = None
    if training.do_train:
        reader = ClassificationReader(processor, training=True, **options)
        train_dataset = training_dataset(train_rows, reader, arguments)

    def test_dataset(view: int) -> VideoTextDataset:
        views = (view, arguments.eval_views)
        reader = ClassificationReader(processor, training=False, views=views, **options)
        return VideoTextDataset(test_rows, reader, skip_log(arguments))

    collator = VideoClassificationCollator(processor)

    # 5. Trainer. It has no eval_dataset, because step 7 evaluates all views after training. For a loss during training,
    # pass eval_dataset=test_dataset(0) and --eval_strategy.
    trainer = LFVilaTrainer(
        model=model,
        args=training,
        train_dataset=train_dataset,
        data_collator=collator,
        processing_class=processor,
    )

    # 6. Training.
    if training.do_train:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()
    trained = time.perf_counter()

    # 7. Evaluation and predictions: probabilities averaged over the views, then accuracy.
    metrics: dict[str, float] = {}
    if is_evaluated:
        hidden = ["loss", "hidden_states", "attentions"]
        views, skipped = predict_views(trainer, test_dataset, arguments.eval_views, ignore_keys=hidden)
        probabilities = mean_of_views([view.predictions for view in views])  # (B, num_labels)
        labels = views[-1].label_ids  # (B,)
        metrics = answer_metrics(probabilities, labels)
        metrics["right_probability"] = right_probability(probabilities, labels)
        predictions = rows_with_skipped(test_rows, skipped, answer_rows(probabilities, labels))
        write_results(trainer, metrics, predictions, started, trained)
    log_skipped(trainer, **{arguments.train_split: train_skips, arguments.eval_split: test_skips})
    if trainer.is_world_process_zero():
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


if __name__ == "__main__":
    main()

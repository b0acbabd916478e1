r"""Both phases of LF-VILA's pre-training: contrastive (global loss and MTC), then fusion (MLM and VTM).

    cd examples/pretraining
    python run_pretraining.py configs/contrastive.yaml --smoke
    accelerate launch run_pretraining.py configs/contrastive.yaml --data_dir DATA --video_dir VIDEOS \
        --swin SWIN --bert BERT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_pretraining.py configs/contrastive.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs every step on generated videos in
under a minute on a CPU. DATA is what `lfvila-hf corpus` writes. Results go to `--output_dir`, by default
`outputs/TASK` in the current folder: the model, `eval_results.json` and, with `--do_predict`, `predictions.jsonl` with
one row per sample, or the reason why it was skipped.

The contrastive phase starts from `--swin` and `--bert`, the fusion phase from the contrastive phase's checkpoint
(`--model_name_or_path`).

Steps: 1. arguments 2. data 3. model and processor 4. datasets and collator 5. trainer 6. training 7. evaluation and
predictions. To use it in another project, copy it and change the steps. Data, hardware and numbers are in the README.

To add a task, add a row to `TASKS` of lfvila_hf/recipes/tasks.py, or in a copy of this script write
`TASKS["my_task"] = Task("contrastive", my_loader)` before step 1. A yaml with `task: my_task` selects it.
`--smoke` generates data for the tasks of the paper only.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from lfvila_hf import LFVilaForPreTraining, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset, PreTrainingReader, VideoTextDataset
from lfvila_hf.evaluation import RetrievalFeatures
from lfvila_hf.recipes.recipe_arguments import parse_recipe, start_run
from lfvila_hf.recipes.recipe_data import frame_cache, recipe_files, shuffled_labels, skip_log, training_dataset
from lfvila_hf.recipes.recipe_evaluation import (
    batches_of,
    log_skipped,
    readable,
    rows_with_skipped,
    skipped_rows,
    write_results,
)
from lfvila_hf.recipes.recipe_models import build_model
from lfvila_hf.recipes.tasks import TASKS, tasks_of


def main(words: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return its metrics."""
    # 1. Arguments: a yaml, then options. The task is the phase.
    arguments, training = parse_recipe(words, tasks_of("contrastive", "fusion"))
    start_run(training)
    started = time.perf_counter()
    phase = arguments.task
    is_evaluated = training.do_eval or training.do_predict

    # 2. Data: a row is a long video as a run of clip files, with one sentence per clip.
    files = recipe_files(arguments, training.output_dir)
    train_skips, test_skips = skip_log(arguments), skip_log(arguments)
    load = TASKS[arguments.task].load
    train_rows = test_rows = None
    if training.do_train:
        train_rows = load(files.train, files.videos, streaming=arguments.streaming, skips=train_skips)
        if arguments.shuffle_labels:
            train_rows = shuffled_labels(train_rows, training.seed)
    if is_evaluated:
        test_rows = load(files.test, files.videos, skips=test_skips)

    # 3. Model and processor.
    model, processor = build_model(arguments, LFVilaForPreTraining, files.tokenizer)

    # 4. Datasets and collator. A dataset decodes samples, through a reader that turns a row into frames and sentences.
    # Training takes K clips from a random start on; the fusion phase masks tokens.
    options: dict[str, Any] = {"seed": training.seed, "frame_cache": frame_cache(arguments)}
    policy: dict[str, Any] = {"on_error": arguments.on_error, "max_skip_fraction": arguments.max_skip_fraction}
    train_dataset: Any = None
    if training.do_train and arguments.streaming:
        reader = PreTrainingReader(processor, training=True, **options)
        train_dataset = training_dataset(train_rows, reader, arguments)
    elif training.do_train:
        train_dataset = PreTrainingDataset(train_rows, processor, training=True, **options, **policy)
    collator = LFVilaCollator(
        processor, mlm_probability=arguments.mlm_probability if phase == "fusion" else 0.0, seed=training.seed
    )

    # 5. Trainer. Two training arguments follow from the task and replace what was given: the phase, and that the
    # contrastive phase drops a smaller last batch, which has fewer negatives, as in the release. There is no
    # eval_dataset: step 7 evaluates after training. For metrics during training, pass the test_dataset of step 7 as
    # eval_dataset, and --eval_strategy.
    training.training_phase = phase
    if phase == "contrastive":
        training.dataloader_drop_last = True
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

    # 7. Evaluation and predictions: the rank of every pair's video (contrastive) or how well the pair fits (fusion).
    metrics: dict[str, float] = {}
    if is_evaluated:
        test_dataset: VideoTextDataset = PreTrainingDataset(test_rows, processor, training=False, **options, **policy)
        test_dataset = readable(trainer, test_dataset)
        output = trainer.predict(test_dataset, metric_key_prefix="eval")
        metrics = {name.removeprefix("eval_"): float(value) for name, value in (output.metrics or {}).items()}
        skipped, kept = skipped_rows(test_dataset), test_dataset.without_skipped()
        predictions: list[dict[str, Any]] = [{} for _ in range(len(kept))]
        if output.predictions is not None:
            predictions = [{"rank": rank} for rank in ranks(RetrievalFeatures.from_outputs(output.predictions))]
        elif training.do_predict and trainer.is_world_process_zero():
            predictions = [{"match_probability": value} for value in match_probabilities(trainer, kept)]
        predictions = rows_with_skipped(test_rows, skipped, predictions)
        write_results(trainer, metrics, predictions, started, trained)
    log_skipped(trainer, **{arguments.train_split: train_skips, arguments.eval_split: test_skips})
    if trainer.is_world_process_zero():
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


def ranks(features: RetrievalFeatures) -> list[int]:
    """Compute the rank of every text's video by the global score, 1 is best."""
    score_block, every = features.score_block("global"), slice(0, features.num_videos)
    found = []
    for number in range(features.num_texts):
        scores = score_block(slice(number, number + 1), every)[0]  # (B,)
        found.append(1 + int((scores > scores[number]).sum()))
    return found


def match_probabilities(trainer: LFVilaTrainer, dataset: VideoTextDataset) -> list[float]:
    """Compute the VTM head's probability that each text and video belong together, without masked tokens."""
    model: Any = trainer.model
    model.eval()
    collator, size = LFVilaCollator(trainer.processing_class), trainer.args.per_device_eval_batch_size
    found: list[float] = []
    for batch in batches_of(dataset, collator, size):
        inputs = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        with torch.no_grad():
            logits = model(**inputs, phase="fusion", return_loss=False).vtm_logits  # (B, 2)
        found += [round(value, 6) for value in logits.float().softmax(-1)[:, 1].tolist()]
    return found


if __name__ == "__main__":
    main()

r"""Paragraph-to-video retrieval: ActivityNet, DiDeMo, QuerYD, Condensed Movie; the global loss, R@1, R@5, R@10.

    cd examples/retrieval
    python run_retrieval.py configs/activitynet.yaml --smoke
    accelerate launch run_retrieval.py configs/activitynet.yaml --data_dir DATA --video_dir VIDEOS \
        --model_name_or_path CHECKPOINT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_retrieval.py configs/activitynet.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs every step on generated videos in
under a minute on a CPU. DATA is what `lfvila-hf prepare` writes. Results go to `--output_dir`, by default
`outputs/TASK` in the current folder: the model, `eval_results.json` and, with `--do_predict`, `predictions.jsonl` with
one row per sample, or the reason why it was skipped.

`--eval_views 3` averages three temporal views, `--paragraph_max_sentences 8` keeps eight sentences apart,
`--dual_softmax_temperature 0.05` and `--rerank_top_k 50` add metrics labelled `dsl_` and `vtm_`.

Steps: 1. arguments 2. data 3. model and processor 4. datasets and collator 5. trainer 6. training 7. evaluation and
predictions. To use it in another project, copy it and change the steps. Data, hardware and numbers are in the README.

To add a task, add a row to `TASKS` of lfvila_hf/recipes/tasks.py, or in a copy of this script write
`TASKS["my_task"] = Task("retrieval", my_loader)` before step 1. A yaml with `task: my_task` selects it.
`--smoke` generates data for the tasks of the paper only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import VideoTextDataset
from lfvila_hf.data.task_datasets import ViewedRetrievalReader
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features
from lfvila_hf.evaluation.vtm_reranking import FusionStore, rerank_metrics
from lfvila_hf.recipes.recipe_arguments import parse_recipe, start_run
from lfvila_hf.recipes.recipe_data import frame_cache, recipe_files, shuffled_labels, skip_log, training_dataset
from lfvila_hf.recipes.recipe_evaluation import (
    batches_of,
    keys_of,
    log_skipped,
    predict_views,
    rows_with_skipped,
    without,
    write_results,
)
from lfvila_hf.recipes.recipe_models import build_model
from lfvila_hf.recipes.tasks import TASKS, tasks_of


def main(words: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return its metrics."""
    # 1. Arguments: a yaml, then options.
    arguments, training = parse_recipe(words, tasks_of("retrieval"))
    start_run(training)
    started = time.perf_counter()
    is_evaluated = training.do_eval or training.do_predict

    # 2. Data: a row is a video with the sentences of its paragraph.
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

    # 3. Model and processor. As released, the global loss alone is trained. Reranking needs the class with a VTM head.
    model, processor = build_model(
        arguments,
        LFVilaForPreTraining if arguments.rerank_top_k else LFVilaModel,
        files.tokenizer,
        temporal_alignment=arguments.temporal_alignment,
        training_phase="contrastive",
        mtc_loss_weight=0.0,
    )

    # 4. Datasets and collator. A reader turns a row into a sample: decoded frames and sentences. Training has jittered
    # frames, random crops and flips. Evaluation may read V views of a video: view v has every V-th frame, from frame v.
    options: dict[str, Any] = {"seed": training.seed, "frame_cache": frame_cache(arguments)}
    train_dataset = None
    if training.do_train:
        reader = ViewedRetrievalReader(processor, training=True, **options)
        train_dataset = training_dataset(train_rows, reader, arguments)

    def test_dataset(view: int) -> VideoTextDataset:
        views = (view, arguments.eval_views)
        reader = ViewedRetrievalReader(processor, training=False, views=views, **options)
        return VideoTextDataset(test_rows, reader, skip_log(arguments))

    collator = LFVilaCollator(processor, seed=training.seed)

    # 5. Trainer. Two training arguments follow from the task and replace what was given: a smaller last batch, which
    # has fewer negatives, is dropped, as in the release; a model with a VTM head trains the contrastive phase alone.
    # There is no eval_dataset, because step 7 evaluates all views after training. For metrics during training, pass
    # eval_dataset=test_dataset(0) and --eval_strategy.
    training.dataloader_drop_last = True
    if arguments.rerank_top_k:
        training.training_phase = "contrastive"
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

    # 7. Evaluation and predictions: features averaged over the views, then ranked.
    metrics: dict[str, float] = {}
    if is_evaluated:
        views, skipped = predict_views(trainer, test_dataset, arguments.eval_views)
        features = mean_features([RetrievalFeatures.from_outputs(view.predictions) for view in views])
        by_score = evaluate_features(
            features,
            scores=training.eval_scores,
            dual_softmax_temperature=arguments.dual_softmax_temperature,
            block_size=training.retrieval_block_size,
        )
        metrics = {f"{score}_{name}": value for score, values in by_score.items() for name, value in values.items()}
        if arguments.rerank_top_k and trainer.is_world_process_zero():
            # Only here: the other processes do not wait, because a collective would time out long before a large
            # ranking is done.
            last_view = without(test_dataset(arguments.eval_views - 1), skipped)
            metrics |= rerank(trainer, last_view, collator, features, arguments.rerank_top_k)
        names = [key[0] for key in keys_of(test_rows) if key not in skipped]
        predictions = rows_with_skipped(test_rows, skipped, ranked_videos(features, names, arguments.top_k))
        write_results(trainer, metrics, predictions, started, trained)
    log_skipped(trainer, **{arguments.train_split: train_skips, arguments.eval_split: test_skips})
    if trainer.is_world_process_zero():
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


def mean_features(views: list[RetrievalFeatures]) -> RetrievalFeatures:
    """Average the video features of the views and normalise them; texts are the same in every view."""

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


def rerank(
    trainer: LFVilaTrainer, dataset: VideoTextDataset, collator: LFVilaCollator, features: RetrievalFeatures, top_k: int
) -> Mapping[str, float]:
    """Rerank the first k of every query by the VTM head.

    A `FusionStore` keeps the outputs of both towers in files, so that each is computed once and not once per pair.
    """
    processor: Any = trainer.processing_class
    model: Any = trainer.model
    model.eval()
    count = len(dataset)
    padded, processor.pad_to_max_sentences = processor.pad_to_max_sentences, True  # texts of one length
    try:
        batches = batches_of(dataset, collator, trainer.args.per_device_eval_batch_size)
        store = FusionStore(Path(str(trainer.args.output_dir)) / "fusion_store", model, batches, count)
    finally:
        processor.pad_to_max_sentences = padded
    return rerank_metrics(features.score_block("global"), store.pair_scorer(), count, count, top_k)


def ranked_videos(features: RetrievalFeatures, names: list[str], top_k: int) -> list[dict[str, Any]]:
    """List for every text the rank of its video and the first k videos, by the global score."""
    score_block, every = features.score_block("global"), slice(0, features.num_videos)
    predictions = []
    for number in range(features.num_texts):
        scores = score_block(slice(number, number + 1), every)[0]  # (B,)
        top = scores.topk(min(top_k, len(scores)))
        listed = [
            {"id": names[place], "score": round(value, 6)}
            for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        predictions.append({"rank": 1 + int((scores > scores[number]).sum()), "videos": listed})
    return predictions


if __name__ == "__main__":
    main()

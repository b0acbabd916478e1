"""The main job on one screen: train LF-VILA on real video files, find videos by their paragraphs, keep the checkpoint.

    make demo                 # ShapeTales, made on the spot: about ten minutes on two busy CPU cores
    make demo DATA=folder     # your own videos: folder/*.mp4 and folder/paragraphs.jsonl

Steps, in the order of this file:

1. data: ShapeTales (docs/shapetales.md), or the user's folder
2. model and processor, from the `tiny` preset
3. contrastive phase: towers and projections learn by the global loss and MTC
4. evaluation on held-out stories, by the three scores, which read the towers alone
5. fusion phase: the cross-modal encoder and its heads learn by MLM and VTM, towers frozen
6. checkpoint and processor to disk
7. a new process loads both with AutoModel and AutoProcessor and searches (examples/demo/search.py)
8. metrics.json, loss.png, alignment.png

Results and what they mean are in examples/demo/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from demo_data import DemoData, own_footage, shapetales

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForPreTraining,
    LFVilaProcessor,
    LFVilaTrainer,
    LFVilaTrainingArguments,
    LFVilaVideoProcessor,
)
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset, RetrievalDataset
from lfvila_hf.data.frame_cache import FrameCache
from lfvila_hf.processing_lfvila import merge_sentences
from lfvila_hf.search.plots import plot_losses

SCORES = ("global", "aligned", "both")
RETRIEVAL_KEYS = ("t2v_r1", "t2v_r5", "t2v_r10", "t2v_medr", "t2v_meanr", "v2t_r1", "v2t_r5", "v2t_r10", "v2t_medr")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder for everything it writes")
    parser.add_argument("--data", type=Path, help="folder of your own videos with paragraphs.jsonl")
    parser.add_argument("--stories", type=int, default=1600, help="ShapeTales training stories")
    parser.add_argument("--contrastive-steps", type=int, help="steps of the first phase; 1000, own footage 240")
    parser.add_argument("--fusion-steps", type=int, help="steps of the second phase; 50, own footage 100")
    parser.add_argument("--batch-size", type=int, default=32, help="videos in a batch")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="highest learning rate of both phases")
    parser.add_argument("--mtc-weight", type=float, default=0.5, help="weight of MTC; 0 switches it off (paper: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and draws")
    parser.add_argument("--workers", type=int, default=2, help="processes that make and read the videos")
    options = parser.parse_args(arguments)
    own = options.data is not None
    if options.contrastive_steps is None:
        options.contrastive_steps = 240 if own else 1000
    if options.fusion_steps is None:
        options.fusion_steps = 100 if own else 50
    if own and not options.data.is_dir():
        parser.error(f"--data {options.data} is no folder")
    return options


def build(data: DemoData, options: argparse.Namespace) -> tuple[LFVilaForPreTraining, LFVilaProcessor]:
    """Model and processor of the demo's size."""
    if data.train is not None:
        # Up to eight clips of two frames each, so that every event of a ShapeTale has a clip of its own.
        clips = {"num_clips": 8, "temporal_windows": [2, 2, 2, 4, 8, 16]}
    else:
        # MTC pairs clips with sentences, so there are as many clips as (joined) sentences.
        num_clips = sentences_to_keep([len(sentences) for sentences in data.whole["sentences"]])
        clips = {"num_clips": num_clips, "num_frames": 16 // num_clips * num_clips}
    config = LFVilaConfig.tiny(
        video_config=clips, text_config={"vocab_size": len(data.tokenizer)}, mtc_loss_weight=options.mtc_weight
    )
    # MTC draws half of the clips, as in the paper (2 of 4), and every other video of the batch lends a negative.
    config.num_anchors = config.num_candidates = max(config.num_clips // 2, 1)
    config.num_other_negatives = options.batch_size - 1
    video = config.video_config
    video_processor = LFVilaVideoProcessor(
        size={"height": video.image_size[0], "width": video.image_size[1]},
        num_frames=video.num_frames,
        num_clips=video.num_clips,
        flip_probability=0.5 if data.flips else 0.0,
        # Crops of nearly the picture's own shape. The released rule never finds one in a wide picture and falls back
        # to its 4:3 middle, which evaluation does not see.
        crop_ratio_is_relative=True,
    )
    joined = [merge_sentences(list(row), video.num_clips) for row in data.whole["sentences"]]
    longest = max(len(ids) for row in joined for ids in data.tokenizer(row)["input_ids"])
    processor = LFVilaProcessor(
        video_processor, data.tokenizer, max_sentences=video.num_clips, max_sentence_length=min(50, longest)
    )
    shorter = sum(len(row) < video.num_clips for row in joined)
    if data.train is None and shorter:
        print(
            f"{shorter} of {len(joined)} paragraphs have fewer than {video.num_clips} sentences: MTC learns nothing "
            "from them, so take their seconds with care"
        )
    return LFVilaForPreTraining(config), processor


def sentences_to_keep(lengths: list[int], most: int = 4) -> int:
    """The largest number of sentences, at most `most`, that at least half of the paragraphs have."""
    return min(statistics.median_high(lengths), most)


def frame_cache(options: argparse.Namespace) -> FrameCache:
    """Frames decoded once; of a whole video, 32 besides those of evaluation (twice T), which jitter picks from."""
    return FrameCache(options.output / "frame_cache", frames_per_video=32)


def train_phase(
    phase: str, steps: int, model: LFVilaForPreTraining, processor: LFVilaProcessor, data: DemoData, options: Any
) -> LFVilaTrainer:
    """Train one phase and return its trainer."""
    cache = frame_cache(options)
    seed = options.seed
    train: PreTrainingDataset | RetrievalDataset
    if phase == "contrastive" and data.train is not None:
        fewest = min(len(row["clips"]) for row in data.train)
        train = PreTrainingDataset(data.train, processor, training=True, seed=seed, frame_cache=cache, min_clips=fewest)
        most = min(Counter(train.lengths()).values())  # the rows of a batch have equally many clips
    else:
        train = RetrievalDataset(data.whole, processor, training=True, seed=seed, frame_cache=cache)
        most = len(train)
    arguments = LFVilaTrainingArguments(
        output_dir=str(options.output / "training" / phase),
        training_phase=phase,
        max_steps=steps,
        warmup_steps=min(60, steps // 5),
        learning_rate=options.learning_rate,
        per_device_train_batch_size=min(options.batch_size, most),
        per_device_eval_batch_size=32,
        dataloader_drop_last=True,
        # Whole videos are decoded here for the first time; the contrastive phase reads its clips from the cache.
        dataloader_num_workers=options.workers if phase == "fusion" and data.train is not None else 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=min(10, steps),
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    trainer = LFVilaTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=LFVilaCollator(processor, mlm_probability=0.15 if phase == "fusion" else 0.0, seed=seed),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_state()  # for `lfvila-hf plot losses`
    return trainer


def evaluate(
    trainer: LFVilaTrainer, rows: Any, twins: list[tuple[int, int]], options: argparse.Namespace
) -> dict[str, float]:
    """Retrieval (and in the fusion phase, the heads' accuracy) on `rows`, by every score."""
    cache = frame_cache(options)
    trainer.eval_twins = twins
    dataset = RetrievalDataset(rows, trainer.processing_class, training=False, frame_cache=cache)
    return trainer.evaluate(dataset)


def best_score(validation: dict[str, float]) -> str:
    """The score with the highest text-to-video R@1 on the validation rows; the first of equals."""
    return max(SCORES, key=lambda score: validation[f"eval_{score}_t2v_r1"])


def report(metrics: dict[str, float], best: str, chance_r1: float) -> dict[str, dict[str, Any]]:
    """`retrieval` and `order` of metrics.json: the best score's numbers, its name, and one sub-table per score."""
    retrieval: dict[str, Any] = {}
    order: dict[str, Any] = {}
    for score in SCORES:
        table = {key: metrics[f"eval_{score}_{key}"] for key in RETRIEVAL_KEYS}
        table |= {"num_videos": int(metrics[f"eval_{score}_num_videos"]), "chance_r1": chance_r1}
        retrieval[score] = table
        if f"eval_{score}_order_accuracy" in metrics:
            pairs = int(metrics[f"eval_{score}_num_twins"])
            order[score] = {"accuracy": metrics[f"eval_{score}_order_accuracy"], "chance": 0.5, "num_pairs": pairs}
    return {
        "retrieval": {"score": best, **retrieval[best], **retrieval},
        "order": {"score": best, **order[best], **order} if order else {},
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; what a user can put right ends in one line."""
    options = parse_arguments(arguments)
    try:
        run(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    return 0


def run(options: argparse.Namespace) -> None:
    """All steps, in the order of this file's docstring."""
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - started - sum(seconds.values()), 1)

    options.output.mkdir(parents=True, exist_ok=True)

    # 1. data
    if options.data is None:
        data = shapetales(options.output / "shapetales", options.stories, options.workers)
    else:
        data = own_footage(options.data)
    lap("data")

    # 2. model and processor
    transformers.set_seed(options.seed)
    model, processor = build(data, options)
    print(f"{data.name}: {len(data.whole)} videos to learn from, {len(data.test)} to find", flush=True)
    print(f"LF-VILA with {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    # 3. contrastive phase
    contrastive = train_phase("contrastive", options.contrastive_steps, model, processor, data, options)
    lap("contrastive")

    # 4. evaluation of what the contrastive phase trained; the scores to report are chosen on the validation rows
    validation = evaluate(contrastive, data.validation, data.validation_twins, options)
    best = best_score(validation)
    test = evaluate(contrastive, data.test, data.test_twins, options)
    lap("evaluation")

    # 5. fusion phase
    fusion = train_phase("fusion", options.fusion_steps, model, processor, data, options)
    heads = evaluate_heads(fusion, data, options)
    lap("fusion")

    # 6. checkpoint
    checkpoint = options.output / "checkpoint"
    model.config.training_phase = "contrastive"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    plot_losses(
        {"contrastive phase": contrastive.state.log_history, "fusion phase": fusion.state.log_history},
        options.output / "loss.png",
    )

    # 7. search in a new process
    library = {row["id"]: str(row["video"]) for row in data.test}
    if data.query_video is not None and data.query_video not in library:
        library[data.query_video] = str(options.output / "shapetales" / "videos" / f"{data.query_video}.mp4")
    request = options.output / "search.json"
    request.write_text(
        json.dumps({"query": data.query, "expected": data.query_video, "score": best, "videos": library}, indent=1)
    )
    script = Path(__file__).with_name("search.py")
    subprocess.run([sys.executable, str(script), str(checkpoint), str(request)], check=True)
    lap("search")

    # 8. metrics
    metrics = {
        "data": data.name,
        "held_out": data.held_out,
        "seed": options.seed,
        "mtc_weight": options.mtc_weight,
        **report(test, best, 1 / len(data.test)),
        "validation": {
            f"{score}_{key}": validation[f"eval_{score}_{key}"]
            for score in SCORES
            for key in ("t2v_r1", "order_accuracy")
            if f"eval_{score}_{key}" in validation
        },
        "last_losses": last_losses(contrastive) | last_losses(fusion),
        "fusion": heads,
        "search": json.loads(request.with_name("search_result.json").read_text()),
        "seconds": seconds | {"total": round(time.perf_counter() - started, 1)},
        # Not that of loaders, which are forks: nearly all of their pages are this process's.
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    summarise(metrics, options.output)


def last_losses(trainer: LFVilaTrainer) -> dict[str, float]:
    """Every term of the loss, unweighted, as the end of a phase logged it."""
    logged = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    return {name: value for name, value in logged.items() if name.endswith("_loss")}


def evaluate_heads(trainer: LFVilaTrainer, data: DemoData, options: argparse.Namespace) -> dict[str, float]:
    """Loss and accuracy of the fusion phase's heads on the test rows."""
    metrics = evaluate(trainer, data.test, [], options)
    names = ("mlm_loss", "mlm_accuracy", "vtm_loss", "vtm_accuracy")
    return {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}


def summarise(metrics: dict[str, Any], output: Path) -> None:
    """Print the result on one screen."""
    retrieval, order = metrics["retrieval"], metrics["order"]
    kind = "held-out" if metrics["held_out"] else "trained-on"
    print(f"\n{kind} retrieval among {retrieval['num_videos']} videos (chance R@1 {retrieval['chance_r1']:.3f})")
    print(f"  {'score':8} {'R@1':>6} {'R@5':>6} {'R@10':>6} {'median rank':>12} {'order of twins':>15}")
    for score in SCORES:
        row = retrieval[score]
        twin = f"{order[score]['accuracy']:.3f}" if order else "-"
        print(
            f"  {score:8} {row['t2v_r1']:6.3f} {row['t2v_r5']:6.3f} {row['t2v_r10']:6.3f} "
            f"{row['t2v_medr']:12.1f} {twin:>15}"
        )
    heads = " ".join(f"{name} {value:.3f}" for name, value in metrics["fusion"].items())
    print(f"fusion phase: {heads}")
    seconds, peak = metrics["seconds"]["total"], metrics["peak_rss_mb"]
    print(f"{seconds:.0f} s, peak memory of the main process {peak:.0f} MB; everything is in {output}/")


if __name__ == "__main__":
    raise SystemExit(main())

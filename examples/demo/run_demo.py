"""The main job on one screen: train LF-VILA on real video files, find videos by their paragraphs, keep the checkpoint.

    make demo                 # ShapeTales, generated on the spot
    make demo DATA=folder     # your own videos: folder/*.mp4 and folder/paragraphs.jsonl

Steps, in the order of this file:

1. data: ShapeTales (docs/shapetales.md), or the user's folder; every video is decoded once into a frame store
2. model and processor, from the `tiny` preset
3. contrastive phase: towers and projections learn by the global loss and MTC
4. evaluation on held-out stories, by the three scores, which read the towers alone
5. with `--fusion-steps N`, fusion phase: the cross-modal encoder and its heads learn by MLM and VTM, towers frozen
6. result table; checkpoint and processor to disk
7. a new process loads both with AutoModel and AutoProcessor and searches (examples/demo/search.py)
8. metrics.json, loss.png, alignment.png

A run that was stopped goes on where it was: finished videos, stored frames and the last checkpoint of training stay.
examples/demo/README.md explains the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shlex
import shutil
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
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForPreTraining,
    LFVilaProcessor,
    LFVilaTrainer,
    LFVilaTrainingArguments,
    LFVilaVideoProcessor,
)
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset, RetrievalDataset, SegmentReader, VideoTextDataset
from lfvila_hf.data.frame_store import FrameStore, file_stamp
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.processing_lfvila import merge_sentences
from lfvila_hf.search.plots import plot_losses
from lfvila_hf.training.training_checkpoints import is_disk_full

SCORES = ("global", "aligned", "both")
RETRIEVAL_KEYS = ("t2v_r1", "t2v_r5", "t2v_r10", "t2v_medr", "t2v_meanr", "v2t_r1", "v2t_r5", "v2t_r10", "v2t_medr")

# Up to eight clips of two frames each, so that every event of a ShapeTale has a clip of its own.
STORY_CLIPS = {"num_frames": 16, "num_clips": 8}
# Up to the level of the clip features, windows stay inside a clip of two frames.
STORY_WINDOWS = [2, 2, 2, 4, 8, 16]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder for everything it writes")
    parser.add_argument("--data", type=Path, help="folder of your own videos with paragraphs.jsonl")
    parser.add_argument("--stories", type=int, default=800, help="ShapeTales training stories")
    parser.add_argument("--contrastive-steps", type=int, help="steps of the first phase; 600, own footage 240")
    parser.add_argument("--fusion-steps", type=int, default=0, help="steps of the second phase (200: a minute)")
    parser.add_argument("--batch-size", type=int, default=32, help="videos in a batch")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="highest learning rate of both phases")
    parser.add_argument("--mtc-weight", type=float, default=0.5, help="weight of MTC; 0 switches it off (paper: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and draws")
    parser.add_argument("--workers", type=int, default=2, help="processes that make and decode the videos")
    options = parser.parse_args(arguments)
    own = options.data is not None
    if options.contrastive_steps is None:
        options.contrastive_steps = 240 if own else 600
    if own and not options.data.is_dir():
        parser.error(f"--data {options.data} is no folder")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; what a user can put right ends in one line."""
    options = parse_arguments(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", flush=True)
        return 130
    except subprocess.CalledProcessError as error:
        raise SystemExit("error: the search failed, its own message is above") from error
    except (ValueError, OSError) as error:
        text = str(error)  # of a loader's process with its traceback in front
        raise SystemExit(f"error: {text[max(text.rfind('cannot use video '), 0) :]}") from error
    except Exception as error:
        if is_disk_full(error, options.output):
            raise SystemExit(f"error: no space left on the disk of {options.output}") from error
        raise
    return 0


def run(options: argparse.Namespace) -> None:
    """Take all steps, in the order of this file's docstring."""
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - started - sum(seconds.values()), 1)

    options.output.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    # 1. data
    if options.data is None:
        print("1/5 videos: drawing stories, encoding them as H.264, decoding the frames to train on", flush=True)
        store = FrameStore(options.output / "frames", resolution="crop")
    else:
        print(f"1/5 videos: decoding those of {options.data}", flush=True)
        # Of a whole video 32 frames are kept besides those of evaluation (twice T), which jitter picks from.
        store = FrameStore(options.output / "frames", frames_per_video=32)
    if len(store):
        print(f"    frames of {len(store)} videos are stored already", flush=True)
    if options.data is None:
        decoder = make_video_processor(flips=False, **STORY_CLIPS)
        data = shapetales(options.output / "shapetales", options.stories, options.workers, decoder, store)
    else:
        data = own_footage(options.data, options.output)

    # 2. model and processor
    transformers.set_seed(options.seed)
    model, processor = build(data, options)
    forget_other_training(options, data, model)
    train = training_set("contrastive", data, processor, store, options)
    train.fill_frame_cache(num_workers=options.workers, progress=sys.stderr.isatty())
    lap("data")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"    {data.name}: {len(data.train)} videos to learn from, {len(data.test)} to find", flush=True)

    # 3. contrastive phase
    print(f"2/5 contrastive phase of LF-VILA with {millions:.2f} M parameters", flush=True)
    contrastive = make_trainer("contrastive", options.contrastive_steps, model, processor, train, options)
    contrastive.add_callback(EarlyLook(contrastive, data, options.contrastive_steps))
    data_wait = run_phase(contrastive)
    lap("contrastive")

    # 4. evaluation of what the contrastive phase trained; the scores to report are chosen on the validation rows
    print(f"3/5 evaluation on {len(data.test)} {'held-out' if data.held_out else 'trained-on'} videos", flush=True)
    validation = evaluate(contrastive, data.validation, data.validation_twins)
    best = best_score(validation)
    test = evaluate(contrastive, data.test, data.test_twins) if data.held_out else validation
    lap("evaluation")

    # 5. fusion phase
    logs = {"contrastive phase": contrastive.state.log_history}
    losses, heads = last_losses(contrastive), {}
    if options.fusion_steps:
        print("4/5 fusion phase", flush=True)
        train = training_set("fusion", data, processor, store, options)
        fusion = make_trainer("fusion", options.fusion_steps, model, processor, train, options)
        data_wait += run_phase(fusion)
        heads = evaluate_heads(fusion, data)
        logs["fusion phase"] = fusion.state.log_history
        losses |= last_losses(fusion)
        lap("fusion")
    else:
        print(
            "4/5 fusion phase: left out (--fusion-steps 200: a minute; tells 0.80 of ShapeTales pairs apart)",
            flush=True,
        )

    # 6. result table and checkpoint
    results = report(test, best, 1 / len(data.test))
    print_table(results, heads, data.held_out)
    checkpoint = options.output / "checkpoint"
    model.config.training_phase = "contrastive"
    save_checkpoint(model, processor, checkpoint)
    plot_losses(logs, options.output / "loss.png")

    # 7. search in a new process
    print("5/5 search, in a new process with nothing but the checkpoint", flush=True)
    library = {row["id"]: str(row["video"]) for row in data.test}
    name, video = data.query_video
    library[name] = str(video)
    request = options.output / "search.json"
    request.write_text(json.dumps({"query": data.query, "expected": name, "score": best, "videos": library}, indent=1))
    script = Path(__file__).with_name("search.py")
    subprocess.run([sys.executable, str(script), str(checkpoint), str(request)], check=True)
    lap("search")

    # 8. metrics
    files = [path for path in options.output.rglob("*") if path.is_file()]
    metrics = {
        "data": data.name,
        "held_out": data.held_out,
        "seed": options.seed,
        "mtc_weight": options.mtc_weight,
        **results,
        "validation": {
            f"{score}_{key}": validation[f"eval_{score}_{key}"]
            for score in SCORES
            for key in ("t2v_r1", "order_accuracy")
            if f"eval_{score}_{key}" in validation
        },
        "last_losses": losses,
        "fusion": heads,
        "search": json.loads(request.with_name("search_result.json").read_text()),
        "seconds": seconds | {"data_wait": round(data_wait, 1), "total": round(time.perf_counter() - started, 1)},
        # Not that of loaders, which are forks: nearly all of their pages are this process's.
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "disk_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "files": len(files),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print_end(metrics, options)


# ---------------------------------------------------------------------------------------------------------------------
# Data, model and trainer


def make_video_processor(flips: bool, num_frames: int, num_clips: int) -> LFVilaVideoProcessor:
    """Make the video processor of the demo's frame size."""
    height, width = LFVilaConfig.tiny().video_config.image_size
    return LFVilaVideoProcessor(
        size={"height": height, "width": width},
        num_frames=num_frames,
        num_clips=num_clips,
        flip_probability=0.5 if flips else 0.0,
        # Crops of nearly the picture's own shape. The released rule never finds one in a wide picture and falls back
        # to its 4:3 middle, which evaluation does not see.
        crop_ratio_is_relative=True,
    )


def build(data: DemoData, options: argparse.Namespace) -> tuple[LFVilaForPreTraining, LFVilaProcessor]:
    """Make model and processor of the demo's size."""
    if data.has_times:
        clips: dict[str, Any] = {**STORY_CLIPS, "temporal_windows": STORY_WINDOWS}
    else:
        # MTC pairs clips with sentences, so there are as many clips as (joined) sentences.
        num_clips = sentences_to_keep([len(sentences) for sentences in data.train["sentences"]])
        clips = {"num_clips": num_clips, "num_frames": 16 // num_clips * num_clips}
    # One layer per sentence is enough for short sentences, and 0.86 of the time of a step with the preset's two.
    text = {"vocab_size": len(data.tokenizer), "num_sentence_layers": 1}
    config = LFVilaConfig.tiny(video_config=clips, text_config=text, mtc_loss_weight=options.mtc_weight)
    # MTC draws half of the clips, as in the paper (2 of 4), and every other video of the batch lends a negative.
    config.num_anchors = config.num_candidates = max(config.num_clips // 2, 1)
    config.num_other_negatives = options.batch_size - 1
    # Twice the paper's: sentences and clips must differ more, which tells twins apart in the sum of both scores.
    config.temporal_temperature = 0.1
    video = config.video_config
    video_processor = make_video_processor(data.flips, video.num_frames, video.num_clips)
    joined = [merge_sentences(list(row), video.num_clips) for row in data.train["sentences"]]
    longest = max(len(ids) for row in joined for ids in data.tokenizer(row)["input_ids"])
    processor = LFVilaProcessor(
        video_processor, data.tokenizer, max_sentences=video.num_clips, max_sentence_length=min(50, longest)
    )
    shorter = sum(len(row) < video.num_clips for row in joined)
    if not data.has_times and shorter:
        print(
            f"    {shorter} of {len(joined)} paragraphs have fewer than {video.num_clips} sentences: MTC learns "
            "nothing from them, so take their seconds with care"
        )
    return LFVilaForPreTraining(config), processor


def sentences_to_keep(lengths: list[int], most: int = 4) -> int:
    """Return the largest number of sentences, at most `most`, that at least half of the paragraphs have."""
    return min(statistics.median_high(lengths), most)


def training_set(phase: str, data: DemoData, processor: LFVilaProcessor, store: FrameStore, options: Any) -> Any:
    """Make the training set of a phase, whose frames come out of the store.

    If sentences have times, the contrastive phase takes two frames of each segment. The fusion phase needs 16 frames of
    every video and spreads them over the same frames. Otherwise both take jittered frames of whole videos.
    """
    chosen: dict[str, Any] = {"training": True, "seed": options.seed, "frame_cache": store}
    if not data.has_times:
        return RetrievalDataset(data.train, processor, **chosen)
    fewest = min(len(sentences) for sentences in data.train["sentences"])
    if phase == "contrastive":
        return PreTrainingDataset(data.train, processor, min_clips=fewest, **chosen)
    return VideoTextDataset(data.train, SegmentReader(processor, is_spread=True, **chosen), SkipLog("raise"))


def make_trainer(
    phase: str, steps: int, model: LFVilaForPreTraining, processor: LFVilaProcessor, train: Any, options: Any
) -> LFVilaTrainer:
    """Make the trainer of one phase."""
    most = len(train)
    if isinstance(train, PreTrainingDataset):
        most = min(Counter(train.lengths()).values())  # the rows of a batch have equally many clips
    arguments = LFVilaTrainingArguments(
        output_dir=str(options.output / "training" / phase),
        training_phase=phase,
        max_steps=steps,
        warmup_steps=min(60, steps // 5),
        learning_rate=options.learning_rate,
        per_device_train_batch_size=min(options.batch_size, most),
        per_device_eval_batch_size=32,
        dataloader_drop_last=True,
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,  # a new process every 25 steps would be waited for
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=min(10, steps),
        save_strategy="steps",
        save_steps=min(100, steps),
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    trainer = LFVilaTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=LFVilaCollator(processor, mlm_probability=0.15 if phase == "fusion" else 0.0, seed=options.seed),
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run_phase(trainer: LFVilaTrainer) -> float:
    """Train one phase, from its last checkpoint if there is one, and return the seconds that it waited for data."""
    progress = Progress()
    trainer.add_callback(progress)
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_state()  # for `lfvila-hf plot losses`
    logs = [entry for entry in trainer.state.log_history if entry["step"] > progress.first]
    return sum(entry.get("decode_wait_seconds", 0.0) for entry in logs) * trainer.args.logging_steps


def forget_other_training(options: argparse.Namespace, data: DemoData, model: LFVilaForPreTraining) -> None:
    """Remove training that was begun with other options, another model or other videos: its checkpoints do not fit."""
    free = ("output", "workers")  # a moved folder is the same run
    videos = [file_stamp(video) for video in data.train["video"]]
    rows = json.dumps([list(data.train["id"]), list(data.train["sentences"]), videos])
    run = {name: str(value) for name, value in vars(options).items() if name not in free}
    run["rows"] = hashlib.sha256(rows.encode()).hexdigest()
    run["model"] = hashlib.sha256(model.config.to_json_string().encode()).hexdigest()
    text = json.dumps(run, indent=1)
    file, training = options.output / "options.json", options.output / "training"
    if file.exists() and file.read_text("utf-8") == text:
        return
    if training.exists():
        print("    options, videos or paragraphs have changed: training starts again", flush=True)
        shutil.rmtree(training)
    file.with_suffix(".part").write_text(text, "utf-8")
    file.with_suffix(".part").replace(file)


def save_checkpoint(model: LFVilaForPreTraining, processor: LFVilaProcessor, folder: Path) -> None:
    """Save model and processor; the folder appears when it is complete."""
    partial = folder.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Progress


class Progress(TrainerCallback):
    """Progress of one phase on one line, with the remaining time."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell where a stopped run goes on."""
        self.began, self.first = time.perf_counter(), state.global_step
        if self.first:
            print(f"    going on from step {self.first} of {state.max_steps}", flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Rewrite the line; without a terminal, print one every fifth time."""
        done, steps = state.global_step - self.first, state.max_steps
        if not logs or "loss" not in logs or not done:
            return
        left = (time.perf_counter() - self.began) / done * (steps - state.global_step)
        line = f"    step {state.global_step} of {steps}, loss {logs['loss']:.3f}, {left:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r{line:<78}", end="\n" if state.global_step == steps else "", flush=True)
        elif state.global_step % (5 * args.logging_steps) == 0 or state.global_step == steps:
            print(line, flush=True)


class EarlyLook(TrainerCallback):
    """R@1 of the validation videos after a sixth of the steps: a first number while training goes on."""

    def __init__(self, trainer: LFVilaTrainer, data: DemoData, steps: int) -> None:
        self.trainer = trainer
        self.data = data
        self.step = round(steps / 6)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate once."""
        if state.global_step == self.step and self.step:
            metrics = evaluate(self.trainer, self.data.validation, [])
            found = max(metrics[f"eval_{score}_t2v_r1"] for score in SCORES)
            clear = "\r" + " " * 78 + "\r" if sys.stdout.isatty() else ""
            print(
                f"{clear}    first look after {self.step} steps: R@1 {found:.2f} among "
                f"{len(self.data.validation)} videos (chance {1 / len(self.data.validation):.2f})",
                flush=True,
            )


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation and report


def evaluate(trainer: LFVilaTrainer, rows: Any, twins: list[tuple[int, int]]) -> dict[str, float]:
    """Evaluate retrieval (and in the fusion phase, the heads) on `rows`, whose videos are decoded here."""
    trainer.eval_twins = twins
    return trainer.evaluate(RetrievalDataset(rows, trainer.processing_class, training=False))


def best_score(validation: dict[str, float]) -> str:
    """Return the score with the highest text-to-video R@1 on the validation rows; the first of equals."""
    return max(SCORES, key=lambda score: validation[f"eval_{score}_t2v_r1"])


def report(metrics: dict[str, float], best: str, chance_r1: float) -> dict[str, dict[str, Any]]:
    """Make `retrieval` and `order` of metrics.json: the best score's numbers, its name, one sub-table per score."""
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


def last_losses(trainer: LFVilaTrainer) -> dict[str, float]:
    """Return every term of the loss, unweighted, as the end of a phase logged it."""
    logged = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    return {name: value for name, value in logged.items() if name.endswith("_loss")}


def evaluate_heads(trainer: LFVilaTrainer, data: DemoData) -> dict[str, float]:
    """Return loss and accuracy of the fusion phase's heads on the test rows."""
    metrics = evaluate(trainer, data.test, [])
    names = ("mlm_loss", "mlm_accuracy", "vtm_loss", "vtm_accuracy")
    return {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}


def print_table(results: dict[str, Any], heads: dict[str, float], held_out: bool) -> None:
    """Print retrieval and order by score, and what the heads of the fusion phase reach."""
    retrieval, order = results["retrieval"], results["order"]
    kind = "held-out" if held_out else "trained-on"
    print(f"\n{kind} retrieval among {retrieval['num_videos']} videos (chance R@1 {retrieval['chance_r1']:.3f})")
    print(f"  {'score':8} {'R@1':>6} {'R@5':>6} {'R@10':>6} {'median rank':>12} {'order of twins':>15}")
    for score in SCORES:
        row = retrieval[score]
        twin = f"{order[score]['accuracy']:.3f}" if order else "-"
        print(
            f"  {score:8} {row['t2v_r1']:6.3f} {row['t2v_r5']:6.3f} {row['t2v_r10']:6.3f} "
            f"{row['t2v_medr']:12.1f} {twin:>15}"
        )
    if heads:
        print(
            f"fusion phase: pairs told apart {heads['vtm_accuracy']:.3f} (chance 0.5), "
            f"masked words found {heads['mlm_accuracy']:.3f}"
        )
    print(flush=True)


def print_end(metrics: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the cost and the commands to go on with."""
    seconds = metrics["seconds"]
    print(
        f"\n{seconds['total']:.0f} s, of these {seconds['data_wait']:.0f} s training waited for frames; memory "
        f"{metrics['peak_rss_mb']:.0f} MB; {metrics['disk_mb']:.0f} MB in {metrics['files']} files in {options.output}/"
    )
    videos = shlex.quote(str(options.data or options.output / "shapetales" / "videos"))
    checkpoint = shlex.quote(str(options.output / "checkpoint"))
    print(
        "\ngo on with\n"
        "  . .venv/bin/activate\n"
        f"  lfvila-hf index {videos} --model {checkpoint} --output outputs/index\n"
        "  lfvila-hf app outputs/index      # search these videos in the browser\n"
        "  make demo DATA=folder            # the same with your own videos\n"
        "  python examples/retrieval/run_retrieval.py examples/retrieval/configs/didemo.yaml --smoke    # fine-tune"
    )


if __name__ == "__main__":
    raise SystemExit(main())

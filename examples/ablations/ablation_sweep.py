# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The ablations that the paper argues from, on ShapeTales: variants of one small model, seeds, table, claims.

Every run is a variant and a seed: the contrastive phase on ShapeTales, then retrieval among the test stories by the
*global* and the *aligned* score, and the order accuracy of twins. A run leaves one JSON file, named after variant and
seed and holding its settings; a run whose file is there with the same settings is not repeated, so that a sweep can be
stopped at any time. The table has mean and standard deviation over seeds, and every claim is compared on the same
seeds: it holds where the mean difference is above twice its standard error, fails where it is below minus that, and is
undecided in between.

The base is the paper's shape at a 300th of its size: 32 frames, windows that grow from 2 to 32 frames, clip features
from the clip level, MTC with its own negatives. Memory: one model and one batch.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

CLIPS = 8
"""K: stories have up to eight events."""


@dataclass(frozen=True)
class Variant:
    """Changes of one run.

    Attributes:
        num_frames: T.
        temporal_windows: Frames of a window per level; those of the paper's growth where empty.
        config: Fields of `LFVilaConfig` that differ.
        fusion: Whether the second phase follows, with the first ten videos reranked by VTM.
    """

    num_frames: int = 32
    temporal_windows: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    fusion: bool = False

    def windows(self) -> list[int]:
        """Frames of a window per level."""
        if self.temporal_windows:
            return list(self.temporal_windows)
        per_clip = self.num_frames // CLIPS
        growth = [min(size, per_clip) for size in (2, 4, 4)]
        return [max(size, 1) for size in (*growth, self.num_frames // 4, self.num_frames // 2, self.num_frames)]


VARIANTS: dict[str, Variant] = {
    "base": Variant(fusion=True),
    "without MTC": Variant(config={"mtc_loss_weight": 0.0}),
    "MTC, released negatives": Variant(config={"mtc_other_negatives": "released"}),
    "windows of 2": Variant(temporal_windows=(2,) * 6),
    "windows of 8": Variant(temporal_windows=(8,) * 6),
    "windows of 32": Variant(temporal_windows=(32,) * 6),
    "last-level clip features": Variant(config={"clip_feature_source": "last"}),
    "8 frames": Variant(num_frames=8),
    "16 frames": Variant(num_frames=16),
}


class Claim(NamedTuple):
    """One thing that the paper says, as a comparison of two numbers."""

    text: str
    better: str
    worse: str
    metric: str
    against: str = ""
    """Metric of `worse`, where it is another one."""


CLAIMS = (
    Claim("MTC helps global retrieval", "base", "without MTC", "global_r1"),
    Claim("MTC teaches the alignment of sentences and clips", "base", "without MTC", "aligned_r1"),
    Claim("MTC teaches order", "base", "without MTC", "aligned_order"),
    Claim("negatives of other videos only beat the released ones", "base", "MTC, released negatives", "aligned_r1"),
    Claim("growing windows beat windows of 2", "base", "windows of 2", "global_r1"),
    Claim("growing windows beat windows of 8", "base", "windows of 8", "global_r1"),
    Claim("growing windows are as good as windows of 32 (here: better)", "base", "windows of 32", "global_r1"),
    Claim("clip-level features beat last-level ones for MTC", "base", "last-level clip features", "aligned_r1"),
    Claim("32 frames beat 16", "base", "16 frames", "global_r1"),
    Claim("16 frames beat 8", "16 frames", "8 frames", "global_r1"),
    Claim("both phases (VTM on the first ten) beat the first alone", "base", "base", "vtm_r1", "global_r1"),
)
METRICS = ("global_r1", "aligned_r1", "aligned_order", "vtm_r1", "step_seconds")


@dataclass(frozen=True)
class Settings:
    """Settings that all runs of a sweep share.

    The default is short and still tells the variants apart: after it the base of seed 0 ranks 0.43 of 200 test stories
    first by the global score and 0.72 by the aligned one (examples/ablations/README.md).

    Attributes:
        steps: Steps of the contrastive phase.
        fusion_steps: Steps of the fusion phase.
        batch_size: Videos in a batch.
        learning_rate: Highest learning rate.
        stories: ShapeTales training stories.
        test_stories: Stories to rank.
    """

    steps: int = 180
    fusion_steps: int = 80
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    stories: int = 800
    test_stories: int = 200


def sweep(
    output: Path,
    settings: Settings,
    variants: Sequence[str],
    seeds: Sequence[int],
    only_one: bool = False,
    *,
    runs: Path | None = None,
    train: bool = True,
) -> list[dict[str, Any]]:
    """Run what is missing and return all results.

    Args:
        output: Folder of the data and, where `runs` is not given, of the runs.
        settings: Of the sweep.
        variants: Names of `VARIANTS`.
        seeds: Seeds of weights, batches and draws.
        only_one: Stop after one run that was not there, for schedulers with short slots.
        runs: Folder of the runs: those that are there are kept, new ones join them.
        train: False: take what is there and run nothing.

    Raises:
        ValueError: For an unknown variant, or none, or no seed; for nothing that is there where nothing is to be run.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown or not variants or not seeds:
        raise ValueError(f"expected some of {list(VARIANTS)} and seeds, got {unknown or list(variants)}, {list(seeds)}")
    results = []
    folder = output / "runs" if runs is None else runs
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:  # all variants of one seed first: a table of one seed comes early
        for name in variants:
            path = folder / f"{name.replace(' ', '_').replace(',', '')}.{seed}.json"
            wanted = json.loads(json.dumps(
                {"variant": name, "seed": seed, "settings": asdict(settings), "what": asdict(VARIANTS[name])}
            ))  # fmt: skip
            found = json.loads(path.read_text()) if path.is_file() else {}
            if {key: found.get(key) for key in wanted} == wanted:
                results.append(found)
                continue
            if not train:
                continue
            result = wanted | {"metrics": run_variant(output, VARIANTS[name], settings, seed)}
            temporary = path.with_suffix(".unfinished")
            temporary.write_text(json.dumps(result, indent=1) + "\n")
            temporary.replace(path)
            results.append(result)
            if only_one:
                return results
    if not results:
        raise ValueError(f"{folder} holds no run with these settings, and none is to be run")
    return results


def run_variant(output: Path, variant: Variant, settings: Settings, seed: int) -> dict[str, float]:
    """Train one model and measure it."""
    from transformers import set_seed

    from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor
    from lfvila_hf.data.annotations import load_pretraining, load_retrieval
    from lfvila_hf.data.datasets import PreTrainingDataset, RetrievalDataset
    from lfvila_hf.data.frame_store import FrameStore
    from lfvila_hf.shapetales import make_shapetales

    tales = make_shapetales(
        output / "shapetales", train_stories=settings.stories, test_stories=settings.test_stories,
        validation_stories=0, progress=False,
    )  # fmt: skip
    tokenizer = tales.word_tokenizer()
    set_seed(seed)
    config = LFVilaConfig.tiny(
        video_config={
            "num_frames": variant.num_frames,
            "num_clips": CLIPS,
            "temporal_windows": variant.windows(),
        },
        text_config={"vocab_size": len(tokenizer)},
        num_anchors=CLIPS // 2,
        num_candidates=CLIPS // 2,
        num_other_negatives=settings.batch_size - 1,
        **dict(variant.config),
    )
    model = LFVilaForPreTraining(config)
    height, width = config.video_config.image_size
    video_processor = LFVilaVideoProcessor(
        size={"height": height, "width": width},
        num_frames=variant.num_frames,
        num_clips=CLIPS,
        flip_probability=0.0,  # sentences tell left from right
    )
    processor = LFVilaProcessor(video_processor, tokenizer, max_sentences=CLIPS, max_sentence_length=24)
    cache = FrameStore(output / "frame_cache", max_bytes=8 * 2**30, frames_per_video=2 * variant.num_frames)
    options: dict[str, Any] = {"seed": seed, "frame_cache": cache}
    rows = load_pretraining(tales.pretraining_annotations("train"), tales.clips)
    fewest = min(len(clips) for clips in rows["clips"])
    train = PreTrainingDataset(rows, processor, training=True, min_clips=fewest, **options)
    test_rows = load_retrieval(tales.annotations("test"), tales.videos)
    test = RetrievalDataset(test_rows, processor, training=False, frame_cache=cache)

    trainer = _trainer("contrastive", settings.steps, model, processor, train, output, settings, seed)
    started = time.perf_counter()
    trainer.train()
    step_seconds = (time.perf_counter() - started) / settings.steps
    number = {name: place for place, name in enumerate(test_rows["id"])}
    trainer.eval_twins = [(number[a], number[b]) for a, b in tales.twin_pairs("test")]
    found = trainer.evaluate(test)
    metrics = {
        "global_r1": found["eval_global_t2v_r1"],
        "aligned_r1": found["eval_aligned_t2v_r1"],
        "global_order": found["eval_global_order_accuracy"],
        "aligned_order": found["eval_aligned_order_accuracy"],
        "both_r1": found["eval_both_t2v_r1"],
        "both_order": found["eval_both_order_accuracy"],
        "global_r10": found["eval_global_t2v_r10"],
        "step_seconds": step_seconds,
    }
    if variant.fusion:
        whole = RetrievalDataset(
            load_retrieval(tales.annotations("train"), tales.videos), processor, training=True, **options
        )
        _trainer("fusion", settings.fusion_steps, model, processor, whole, output, settings, seed).train()
        metrics |= _reranked(model, processor, test, output, settings.batch_size)
    return {name: round(float(value), 6) for name, value in metrics.items()}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Variant to metric to mean, standard deviation (0 for one seed) and number of seeds."""
    table: dict[str, dict[str, tuple[float, float, int]]] = {}
    for name in dict.fromkeys(result["variant"] for result in results):
        own = [result["metrics"] for result in results if result["variant"] == name]
        for metric in METRICS:
            values = [metrics[metric] for metrics in own if metric in metrics]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                table.setdefault(name, {})[metric] = (statistics.fmean(values), spread, len(values))
    return table


def judge(results: Sequence[Mapping[str, Any]]) -> list[tuple[Claim, str, float, float]]:
    """Every claim that there are runs for: verdict, mean difference and its standard error over equal seeds."""
    by_run = {(result["variant"], result["seed"]): result["metrics"] for result in results}
    verdicts = []
    for claim in CLAIMS:
        seeds = [seed for name, seed in by_run if name == claim.better and (claim.worse, seed) in by_run]
        pairs = [(by_run[claim.better, seed].get(claim.metric),
                  by_run[claim.worse, seed].get(claim.against or claim.metric)) for seed in seeds]  # fmt: skip
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if not differences:
            continue
        mean = statistics.fmean(differences)
        if len(differences) < 3:
            verdicts.append((claim, f"undecided ({len(differences)} of 3 seeds)", mean, math.nan))
            continue
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        verdict = "holds" if mean > 2 * error else "fails" if mean < -2 * error else "undecided"
        verdicts.append((claim, verdict, mean, error))
    return verdicts


def report(results: Sequence[Mapping[str, Any]]) -> str:
    """Table and claims as Markdown."""
    lines = ["| variant | seeds | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for name, row in summary(results).items():
        cells = [f"{row[m][0]:.3f} ± {row[m][1]:.3f}" if m in row else "-" for m in METRICS]
        lines.append(f"| {name} | {max(one[2] for one in row.values())} | " + " | ".join(cells) + " |")
    lines += ["", "| claim | in small | difference | standard error |", "|---|---|---|---|"]
    for claim, verdict, mean, error in judge(results):
        metric = f"{claim.metric} against {claim.against}" if claim.against else claim.metric
        lines.append(f"| {claim.text} ({metric}) | {verdict} | {mean:+.3f} | {error:.3f} |")
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mean and standard deviation of the two scores' R@1 and of the order accuracy, one row per variant."""
    from matplotlib.figure import Figure

    table = summary(results)
    names = list(table)[::-1]
    figure = Figure(figsize=(10, 0.5 * len(names) + 1.5), layout="constrained")
    titles = {"global_r1": "global R@1", "aligned_r1": "aligned R@1", "aligned_order": "order of twins, aligned"}
    for place, (metric, title) in enumerate(titles.items(), start=1):
        axes = figure.add_subplot(1, 3, place)
        means, spreads = ([table[name][metric][part] for name in names] for part in (0, 1))
        axes.errorbar(means, range(len(names)), xerr=spreads, fmt="o", capsize=3)
        axes.set_yticks(range(len(names)), names if place == 1 else [""] * len(names))
        axes.set_title(title)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def _trainer(
    phase: str, steps: int, model: Any, processor: Any, dataset: Any, output: Path, settings: Settings, seed: int
) -> Any:
    from lfvila_hf import LFVilaTrainer, LFVilaTrainingArguments
    from lfvila_hf.data.collating import LFVilaCollator

    arguments = LFVilaTrainingArguments(
        output_dir=str(output / "training"),
        training_phase=phase,
        max_steps=steps,
        warmup_steps=min(60, max(steps // 5, 1)),
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        dataloader_drop_last=True,
        logging_steps=max(steps // 10, 1),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    collator = LFVilaCollator(processor, mlm_probability=0.15 if phase == "fusion" else 0.0, seed=seed)
    return LFVilaTrainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=collator, processing_class=processor
    )


def _reranked(model: Any, processor: Any, test: Any, output: Path, batch_size: int) -> dict[str, float]:
    """R@1 of the global score with the first ten reranked by the VTM head."""
    import torch

    from lfvila_hf.data.collating import LFVilaCollator
    from lfvila_hf.evaluation import RetrievalFeatures
    from lfvila_hf.evaluation.vtm_reranking import FusionStore, rerank_metrics

    model.eval()
    padded, processor.pad_to_max_sentences = processor.pad_to_max_sentences, True
    collate = LFVilaCollator(processor)
    batches = [
        collate([test[row] for row in range(start, min(start + batch_size, len(test)))])
        for start in range(0, len(test), batch_size)
    ]
    processor.pad_to_max_sentences = padded
    device = model.device
    parts = []
    for batch in batches:
        with torch.no_grad():
            inputs = {name: value.to(device) for name, value in batch.items()}
            parts.append(RetrievalFeatures.from_outputs(model(**inputs, phase="contrastive", return_loss=False)))
    features = RetrievalFeatures.cat(parts)
    store = FusionStore(output / "fusion_store", model, batches, len(test))
    found = rerank_metrics(features.score_block(), store.pair_scorer(), len(test), len(test), 10)
    return {"vtm_r1": found["vtm_t2v_r1"]}


__all__ = ["CLAIMS", "VARIANTS", "Settings", "Variant", "judge", "plot", "report", "run_variant", "summary", "sweep"]

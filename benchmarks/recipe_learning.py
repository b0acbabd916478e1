"""Held-out accuracy of every recipe on generated data of its format, with its labels and with shuffled ones.

    python benchmarks/recipe_learning.py --output outputs/learning               # all tasks, resumable: under an hour
    python benchmarks/recipe_learning.py --output outputs/learning --tasks violin how2qa --json result.json

A run is the recipe as it stands (yaml, `--smoke`) with more generated videos and steps, written down in `LEARNING`;
the run beside it differs in `--shuffle_labels True` alone. Both are evaluated on other videos than they saw, which a
chance is known for: of the answers where a model that sees no video stands, of the ranks that of a random order.
`fusion` trains on frozen towers, so it starts from the checkpoint of `contrastive` with right labels, which is run
before it. A run that is there with the same words is not repeated. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lfvila_hf.recipes.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]


class Learning(NamedTuple):
    """Length of a task's runs and the metric that they are judged by."""

    metric: str
    """The metric that has to rise."""
    chance: float
    """Value of a model that sees no video; the generated texts alone give away a part of some answers."""
    videos: int
    """Training videos; a third as many are held out."""
    steps: int
    batch: int
    learning_rate: float = 1e-3
    words: tuple[str, ...] = ()
    """Further arguments."""
    beside: tuple[str, ...] = ()
    """Metrics that are reported too."""

    def arguments(self) -> list[str]:
        """Of the recipe, after its yaml."""
        return [
            *("--smoke", "--num_frames", "4", "--eval_views", "1", "--disable_tqdm", "True"),
            *("--generated_videos", str(self.videos), "--max_steps", str(self.steps)),
            *("--per_device_train_batch_size", str(self.batch), "--learning_rate", str(self.learning_rate)),
            *("--num_train_epochs", "20", "--warmup_epochs", "1", "--logging_steps", str(max(self.steps // 5, 1))),
            *self.words,
        ]


_RANKS = ("global_t2v_r1", "global_t2v_r10", "global_t2v_medr")
_STORIES = ("--flip_probability", "0", "--schedule", "linear")
RETRIEVAL = Learning("global_t2v_r10", 10 / 100, 300, 150, 16, 1e-3, _STORIES, _RANKS)
CLASSES = ("right_probability", "majority")
LEARNING: dict[str, Learning] = {
    "lvu_scene": Learning("accuracy", 1 / 6, 120, 40, 16, beside=CLASSES),
    "lvu_relationship": Learning("accuracy", 1 / 4, 120, 40, 16, beside=CLASSES),
    "lvu_way_of_speaking": Learning("accuracy", 1 / 5, 120, 40, 16, beside=CLASSES),
    "coin": Learning("accuracy", 1 / 6, 120, 60, 16, beside=CLASSES),
    "violin": Learning("accuracy", 1 / 2, 120, 50, 16, beside=CLASSES),
    "activitynet_qa": Learning("accuracy", 1 / 3, 120, 120, 16, beside=CLASSES),
    "how2qa": Learning("accuracy", 1 / 2, 240, 300, 16, 5e-4, beside=(*CLASSES, "span_accuracy")),
    "activitynet": RETRIEVAL,
    "didemo": RETRIEVAL,
    "queryd": RETRIEVAL,
    "condensed_movie": RETRIEVAL,
    "contrastive": Learning(
        "global_t2v_r10", 10 / 100, 300, 150, 16, 1e-3, _STORIES, (*_RANKS, "aligned_t2v_r1", "aligned_t2v_r10")
    ),
    "fusion": Learning("vtm_accuracy", 1 / 2, 300, 100, 16, 1e-3, _STORIES, ("mlm_accuracy",)),
}


def learn(task: str, shuffled: bool, output: Path) -> dict[str, Any]:
    """One run: its metric, what stands beside it, and processor seconds of data, training and evaluation."""
    learning = LEARNING[task]
    (config,) = ROOT.glob(f"examples/*/configs/{task}.yaml")
    run = output / task / ("shuffled" if shuffled else "labels")
    words = [*learning.arguments(), "--frame_cache", str(output / task / "cache"), "--output_dir", str(run)]
    if shuffled:
        words += ["--shuffle_labels", "True"]
    if task == "fusion":
        words += ["--model_name_or_path", str(output / "contrastive" / "labels")]
    result = run / "learning.json"
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if found["words"] == words:
            return found
    started = time.process_time()
    metrics = run_script(config, words)
    found = {"words": words, "seconds": round(time.process_time() - started, 1)}
    found |= {name: round(metrics[name], 4) for name in (learning.metric, *learning.beside) if name in metrics}
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def run_script(config: Path, words: list[str]) -> dict[str, float]:
    """Run the example script beside a yaml in this process, and return its metrics."""
    (script,) = config.parents[1].glob("run_*.py")
    return runpy.run_path(str(script))["main"]([str(config), *words])


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/learning"), help="folder of data and runs")
    parser.add_argument("--tasks", nargs="+", default=list(LEARNING), choices=list(LEARNING), help="default: all")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args(words)
    tasks: dict[str, Any] = {}
    for task in options.tasks:
        learning = LEARNING[task]
        if task == "fusion":
            learn("contrastive", False, options.output)
        labels, shuffled = (learn(task, one, options.output) for one in (False, True))
        tasks[task] = {
            "kind": TASKS[task].kind, "metric": learning.metric, "chance": round(learning.chance, 4),
            "labels": labels, "shuffled": shuffled,
        }  # fmt: skip
        for run in (labels, shuffled):
            run["words"] = [word.replace(str(options.output), "OUTPUT") for word in run["words"]]
        print(f"{task}: {learning.metric} {labels[learning.metric]:.3f}, shuffled {shuffled[learning.metric]:.3f}, "
              f"chance {learning.chance:.3f}", flush=True)  # fmt: skip
    result = {
        "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "machine": platform.machine(), "tasks": tasks,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Arguments of the recipes: transformers' and our own on the command line, over a yaml per task, over `--smoke`.

`parse_recipe(["configs/violin.yaml", "--learning_rate", "1e-5"])`: the command line wins over `--smoke`, `--smoke` over
the yaml, the yaml over the defaults. A key of the yaml that is no argument is an error.
"""

from __future__ import annotations

import atexit
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, set_seed

from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.training.training_arguments import LFVilaTrainingArguments, linear_factor

SMOKE: dict[str, Any] = {
    "preset": "tiny",
    "num_frames": 8,
    "generated_videos": 32,
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 1e-3,
    "eval_views": 2,
    "logging_steps": 2,
    "save_strategy": "no",
    "report_to": "none",
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "use_cpu": True,
}
"""Defaults under `--smoke`: every step on generated videos, in under a minute."""


def _help(text: str, default: Any = None, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class RecipeArguments:
    """Data, model and evaluation of a recipe. The help of each field says what it does."""

    task: str = _help("Task, one of lfvila_hf.recipes.tasks.TASKS; the yaml names it.", "")
    data_dir: str | None = _help("Folder of SPLIT.jsonl, as `lfvila-hf prepare` writes it.")
    video_dir: str | None = _help("Folder of the videos.")
    train_split: str = _help("Split to train on.", "train")
    eval_split: str = _help("Split to evaluate and predict.", "test")
    smoke: bool = _help("Run every step in under a minute on a CPU, on generated videos in the task's format.", False)
    generated_videos: int = _help("Generate this many training videos (and a third as many to test) as data.", 0)
    shuffle_labels: bool = _help("Shuffle the labels of training rows: what is learnt then must be chance.", False)
    streaming: bool = _help("Read training rows as they are needed; needs max_steps.", False)
    on_error: str = _help("Policy for a row or video that cannot be used.", "raise", choices=["raise", "skip"])
    max_skip_fraction: float = _help("Largest fraction of the rows that may be skipped.", 0.01)
    frame_cache: str | None = _help("Folder to keep decoded frames in.")
    frame_cache_gib: float = _help("Largest size of that folder in GiB.", 20.0)

    model_name_or_path: str | None = _help("Checkpoint to start from.")
    preset: str | None = _help("Configuration of a new model, without a checkpoint.", choices=["base", "tiny"])
    swin: str | None = _help("2-D Swin that a new model's video tower starts from.")
    bert: str | None = _help("BERT that a new model's text tower starts from.")
    tokenizer: str = _help("Tokenizer of a new model.", "google-bert/bert-base-uncased")
    num_labels: int | None = _help("Classes or answers. Default: the task's.")
    num_frames: int = _help("T, frames of a video; the checkpoint is resized if it has another number.", 32)
    num_clips: int = _help("K, equal stretches of time of a video.", 4)
    paragraph_max_sentences: int = _help("M, sentences kept apart: with question, answer and subtitles.", 4)
    max_sentence_length: int = _help("L, tokens of a sentence.", 50)
    flip_probability: float = _help("How often training mirrors a video.", 0.5)
    temporal_alignment: bool = _help("Retrieval: keep sentence and clip projections, for the aligned score.", False)
    mtc_loss_weight: float | None = _help("Weight of MTC. Default: the model's.")
    mlm_probability: float = _help("Fraction of the tokens that the fusion phase masks.", 0.15)
    span_loss_weight: float | None = _help("Weight of the span loss of multiple choice. Default: the model's.")

    eval_views: int = _help("Temporal views per video in evaluation; their answers are averaged.", 1)
    dual_softmax_temperature: float | None = _help("Also report retrieval by the dual softmax, labelled dsl_.")
    rerank_top_k: int = _help("Also report retrieval with the first k reranked by the VTM head, labelled vtm_.", 0)
    top_k: int = _help("Videos per text that retrieval predictions list.", 10)

    def __post_init__(self) -> None:
        """Check the fields that need no data."""
        if self.task not in TASKS:
            raise ValueError(f"the task is {self.task!r}, expected one of {', '.join(TASKS)}")
        for name in ("num_frames", "num_clips", "paragraph_max_sentences", "eval_views", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.generated_videos and not (self.data_dir and self.video_dir):
            raise ValueError("give --data_dir and --video_dir, or --smoke for generated videos")
        if self.generated_videos and (self.data_dir or self.video_dir):
            given = self.data_dir or self.video_dir
            raise ValueError(
                f"{self.generated_videos} generated videos would replace the data in {given}: "
                "leave --data_dir and --video_dir out, or add --generated_videos 0 to use them under --smoke"
            )
        if self.model_name_or_path and self.preset:
            raise ValueError("give --model_name_or_path or --preset, not both: a checkpoint has its configuration")
        if self.shuffle_labels and self.streaming:
            raise ValueError("--shuffle_labels needs all rows at once: leave --streaming out")


@dataclass(frozen=True)
class ReleasedSchedule:
    """Learning rate over its highest value as a function of the step, by the release's own rules.

    Warm-up is linear from 0 and counted in epochs. After it (`src/optimization/lr_scheduler.py` of the release):

    - `linear`: down to `min_ratio` at the end of the last epoch;
    - `step`: times `decay_rate` every `decay_epochs`, counted from the beginning of training, not from the end of
      warm-up;
    - `cosine`: half a cosine over all epochs, warm-up included, down to `min_ratio`. So it continues a little below the
      highest rate after warm-up (timm's schedulers, which the release uses, have both).

    Epochs are fractions of the run: a run that is cut to `max_steps` steps goes through the full schedule.

    Args:
        name: `"linear"`, `"step"` or `"cosine"`.
        total_steps: Optimizer steps of the run.
        epochs: Epochs of the run.
        warmup_epochs: Epochs of warm-up.
        decay_epochs: Epochs between two steps of `"step"`.
        decay_rate: Factor of each step of `"step"`.
        min_ratio: Final rate of `"linear"` and `"cosine"`, as a fraction of the highest.

    Raises:
        ValueError: A value makes no schedule.
    """

    name: str
    total_steps: int
    epochs: float
    warmup_epochs: float = 0.0
    decay_epochs: float = 1.0
    decay_rate: float = 1.0
    min_ratio: float = 0.01

    def __post_init__(self) -> None:
        """Check the values."""
        if self.name not in ("linear", "step", "cosine"):
            raise ValueError(f"schedule must be linear, step or cosine, got {self.name!r}")
        if self.total_steps < 1 or self.epochs <= 0 or not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"a schedule needs steps and 0 <= warmup_epochs < epochs, got {self.total_steps} steps, "
                f"{self.warmup_epochs} of {self.epochs} epochs"
            )
        if self.decay_epochs <= 0 or not 0 < self.decay_rate <= 1 or not 0 <= self.min_ratio <= 1:
            raise ValueError(
                f"decay_epochs={self.decay_epochs} must be positive, decay_rate={self.decay_rate} in (0, 1] and "
                f"min_ratio={self.min_ratio} in 0 to 1"
            )

    def steps_of(self, epochs: float) -> int:
        """Convert epochs to full steps."""
        return int(epochs * self.total_steps / self.epochs)

    def __call__(self, step: int) -> float:
        """Compute the factor at a step, counted from 0."""
        warmup = self.steps_of(self.warmup_epochs)
        if self.name == "linear" or step < warmup:
            return linear_factor(step, warmup_steps=warmup, total_steps=self.total_steps, min_ratio=self.min_ratio)
        if self.name == "step":
            return self.decay_rate ** (step // max(self.steps_of(self.decay_epochs), 1))
        progress = min(step / self.total_steps, 1.0)
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class RecipeTrainingArguments(LFVilaTrainingArguments):
    """`LFVilaTrainingArguments` with the released schedules, which replace `lr_scheduler_type`."""

    schedule: str = _help("Released schedule.", "linear", choices=["linear", "step", "cosine"])
    warmup_epochs: float = _help("Epochs of linear warm-up from 0.", 1.0)
    decay_epochs: float = _help("Epochs between two steps of the step schedule.", 1.0)
    decay_rate: float = _help("Factor of each step of the step schedule.", 1.0)
    min_lr: float | None = _help("Final learning rate of the cosine schedule. Default: min_lr_ratio of the highest.")

    def learning_rate_factor(self, num_training_steps: int) -> ReleasedSchedule:
        """Return the released schedule of a run of that many optimizer steps.

        Raises:
            ValueError: A value makes no schedule.
        """
        ratio = self.min_lr_ratio if self.min_lr is None else self.min_lr / self.learning_rate
        return ReleasedSchedule(
            self.schedule,
            num_training_steps,
            self.num_train_epochs,
            self.warmup_epochs,
            self.decay_epochs,
            self.decay_rate,
            ratio,
        )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a task's yaml, whose every key is an argument.

    Raises:
        ValueError: There is no such file, or a key is unknown.
    """
    import yaml

    if not Path(path).is_file():
        raise ValueError(f"there is no recipe at {path}, expected a yaml such as configs/violin.yaml")
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one argument per line, got {type(values).__name__}")
    known = {name for kind in (RecipeArguments, RecipeTrainingArguments) for name in kind.__dataclass_fields__}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path} has keys that are no arguments: {unknown}")
    return values


def parse_recipe(
    words: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> tuple[RecipeArguments, RecipeTrainingArguments]:
    """Parse the arguments of a script: a yaml, then options.

    Args:
        words: Words after the script's name. Defaults to those of this process.
        tasks: Tasks of this script. Defaults to all.

    Raises:
        ValueError: A yaml or a value that cannot be used, or the task of another script.
    """
    given = list(sys.argv[1:] if words is None else words)
    kinds: Any = [RecipeArguments, RecipeTrainingArguments]
    parser: Any = HfArgumentParser(kinds)
    values: dict[str, Any] = {}
    if given and not given[0].startswith("-"):
        values = read_yaml(given.pop(0))
    if "--smoke" in given:
        values |= SMOKE
        if any(word.split("=")[0] == "--model_name_or_path" for word in given):
            values.pop("preset")
    values.setdefault("output_dir", f"outputs/{values.get('task', 'recipe')}")
    parser.set_defaults(**values)
    arguments, training = parser.parse_args_into_dataclasses(given, look_for_args_file=False)
    if tasks is not None and arguments.task not in tasks:
        raise ValueError(f"this script runs {', '.join(tasks)}, not {arguments.task!r}")
    training.learning_rate_factor(1000)
    return arguments, training


def start_run(training: RecipeTrainingArguments) -> None:
    """Seed a run, and let it leave the process group at its end.

    Without leaving, a process on CPUs that ends may abort while others talk to it.

    Raises:
        ValueError: None of the steps is to be run.
    """
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    atexit.register(_leave_group)
    set_seed(training.seed)


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


__all__ = [
    "SMOKE",
    "RecipeArguments",
    "RecipeTrainingArguments",
    "ReleasedSchedule",
    "parse_recipe",
    "read_yaml",
    "start_run",
]

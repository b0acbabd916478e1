# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Arguments of the recipes: transformers' and ours on the command line, over a yaml per task, over `--smoke`.

`parse_recipe(["configs/violin.yaml", "--learning_rate", "1e-5"])`: what stands on the command line wins over `--smoke`,
which wins over the yaml, which wins over the defaults. A key of the yaml that is no argument is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from lfvila_hf.recipes.schedules import ReleasedSchedule
from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.training.arguments import LFVilaTrainingArguments

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
"""What `--smoke` sets where the command line does not: the whole path on generated videos, under a minute."""


def _help(text: str, default: Any = None, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class RecipeArguments:
    """Data, model and evaluation of a recipe; every field has its meaning as help."""

    task: str = _help("Task, one of lfvila_hf.recipes.tasks.TASKS; the yaml names it.", "")
    data_dir: str | None = _help("Folder of SPLIT.jsonl, as `lfvila-hf prepare` writes it.")
    video_dir: str | None = _help("Folder of the videos.")
    train_split: str = _help("Split to train on.", "train")
    eval_split: str = _help("Split to evaluate and predict.", "test")
    smoke: bool = _help("The whole path in under a minute on a CPU, on generated videos in the task's format.", False)
    generated_videos: int = _help("Make this many training videos (and a third as many to test) in place of data.", 0)
    shuffle_labels: bool = _help("Give training rows each other's labels: what is learnt then must be chance.", False)
    streaming: bool = _help("Read training rows as they are needed; needs max_steps.", False)
    on_error: str = _help("A row or video that cannot be used: raise or skip.", "raise", choices=["raise", "skip"])
    max_skip_fraction: float = _help("Part of the rows that may be skipped.", 0.01)
    frame_cache: str | None = _help("Folder to keep decoded frames in.")
    frame_cache_gib: float = _help("Size of that folder at most.", 20.0)

    model_name_or_path: str | None = _help("Checkpoint to start from.")
    preset: str | None = _help("Configuration of a new model where there is no checkpoint.", choices=["base", "tiny"])
    swin: str | None = _help("2-D Swin that a new model's video tower starts from.")
    bert: str | None = _help("BERT that a new model's text tower starts from.")
    tokenizer: str = _help("Tokenizer of a new model.", "google-bert/bert-base-uncased")
    num_labels: int | None = _help("Classes or answers; the task's where not given.")
    num_frames: int = _help("T, frames of a video; another number than the checkpoint's is fine.", 32)
    num_clips: int = _help("K, stretches of time of a video.", 4)
    paragraph_max_sentences: int = _help("M, sentences kept apart: with question, answer and subtitles.", 4)
    max_sentence_length: int = _help("L, tokens of a sentence.", 50)
    flip_probability: float = _help("How often training mirrors a video.", 0.5)
    temporal_alignment: bool = _help("Retrieval: keep sentence and clip projections, for the aligned score.", False)
    mtc_loss_weight: float | None = _help("Weight of MTC; the model's where not given.")
    mlm_probability: float = _help("Part of the tokens that the fusion phase masks.", 0.15)
    span_loss_weight: float | None = _help("Weight of the span loss of multiple choice.")

    eval_views: int = _help("Temporal views per video in evaluation; their answers are averaged.", 1)
    dual_softmax_temperature: float | None = _help("Also report retrieval by the dual softmax, labelled dsl_.")
    rerank_top_k: int = _help("Also report retrieval with the first k reranked by the VTM head, labelled vtm_.", 0)
    top_k: int = _help("Videos per text that retrieval predictions list.", 10)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.task not in TASKS:
            raise ValueError(f"the task is {self.task!r}, expected one of {', '.join(TASKS)}")
        for name in ("num_frames", "num_clips", "paragraph_max_sentences", "eval_views", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.generated_videos and not (self.data_dir and self.video_dir):
            raise ValueError("give --data_dir and --video_dir, or --smoke for generated videos")
        if self.model_name_or_path and self.preset:
            raise ValueError("give --model_name_or_path or --preset, not both: a checkpoint has its configuration")


@dataclass
class RecipeTrainingArguments(LFVilaTrainingArguments):
    """`LFVilaTrainingArguments` and the released schedules (`recipes.schedules`), which replace `lr_scheduler_type`."""

    schedule: str = _help("Released schedule.", "linear", choices=["linear", "step", "cosine"])
    warmup_epochs: float = _help("Epochs of linear warm-up from 0.", 1.0)
    decay_epochs: float = _help("Epochs between two steps of the step schedule.", 1.0)
    decay_rate: float = _help("What the step schedule multiplies by.", 1.0)
    min_lr: float | None = _help("Last learning rate of the cosine schedule; min_lr_ratio where not given.")

    def released_schedule(self, total_steps: int) -> ReleasedSchedule:
        """The schedule of a run of that many optimizer steps.

        Raises:
            ValueError: Where the numbers make none.
        """
        ratio = self.min_lr_ratio if self.min_lr is None else self.min_lr / self.learning_rate
        return ReleasedSchedule(
            self.schedule,  # type: ignore[arg-type]  # checked by the schedule
            total_steps,
            self.num_train_epochs,
            self.warmup_epochs,
            self.decay_epochs,
            self.decay_rate,
            ratio,
        )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A task's yaml, whose every key is an argument.

    Raises:
        ValueError: Where there is none, or a key is unknown.
    """
    import yaml

    if not Path(path).is_file():
        raise ValueError(f"there is no recipe at {path}")
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
    """Arguments of a script: a yaml, then options.

    Args:
        words: What stands after the script's name; that of the process where not given.
        tasks: Tasks of this script.

    Raises:
        ValueError: For a yaml or a value that cannot be used, or the task of another script.
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
    training.released_schedule(1000)
    return arguments, training


__all__ = ["SMOKE", "RecipeArguments", "RecipeTrainingArguments", "parse_recipe", "read_yaml"]

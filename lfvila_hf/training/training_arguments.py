# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Arguments of `LFVilaTrainer`, the parameters that weight decay applies to, and the linear learning rate schedule.

Defaults that differ from `TrainingArguments`, with their source in the release (`src/configs/pretrain_stage1.yaml`,
`src/optimization/`):

| field | transformers | here | why |
|---|---|---|---|
| `adam_beta2` | 0.999 | 0.98 | released |
| `weight_decay` | 0.0 | 0.05 | released; none for biases, norms and position tables |
| `lr_scheduler_type` | linear to 0 | linear to `min_lr_ratio` = 1 % | released |
| `remove_unused_columns` | True | False | collators read raw rows |

`learning_rate` (5e-5) and `adam_epsilon` (1e-8) are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn
from transformers import TrainingArguments

POSITION_TABLES = ("relative_position_bias_table", "spatial_position_embeddings", "temporal_position_embeddings")
"""Parameters that are looked up by position; released as `relative_position_bias_table` and `*_pos_embed`."""


@dataclass
class LFVilaTrainingArguments(TrainingArguments):
    """Arguments of `LFVilaTrainer`. The table in this module's docstring lists the defaults that differ.

    Args:
        training_phase: `"contrastive"` or `"fusion"`, the phase of an `LFVilaForPreTraining`. Freezes the parameters
            that the phase does not train. Defaults to the model's `config.training_phase`.
        min_lr_ratio: Final learning rate of the linear schedule, as a fraction of the highest one.
        eval_scores: Scores to evaluate retrieval by: `global`, `aligned`, `both`. Defaults to all that the model has.
        eval_retrieval: Rank videos by paragraphs and paragraphs by videos when a model with embeddings is evaluated.
        retrieval_block_size: Texts and videos that are scored against each other at once.
        eval_sample_size: Rows of the evaluation dataset that are used during training, the same ones every time.
            Defaults to all rows.
        contrastive_chunk_size: Videos that are encoded with a graph at once (gradient caching). The gradient is that of
            the full batch. Memory is that of one chunk and the features; all chunks but one cost a second forward in
            the contrastive phase, and none does in the fusion phase. Defaults to no caching.
        contrastive_block_size: Rows of the global loss whose logits are in memory at once. Defaults to all rows of
            this process.
        stop_on_nonfinite_loss: Stop when a loss is NaN or infinite, name the samples of the batch, and save the batch
            and the weights.
        peak_tflops: Peak of one device in 10^12 operations a second, in the precision of training. Adds `mfu` (model
            FLOPs utilisation) to the log. Defaults to no `mfu`.
    """

    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second beta; 0.98 as released."})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's weight decay; 0.05 as released."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop columns that forward does not take; collators here need the raw rows."}
    )
    training_phase: str | None = field(
        default=None,
        metadata={
            "help": "Phase of pre-training; freezes what the phase does not train.",
            "choices": ["contrastive", "fusion"],
        },
    )
    min_lr_ratio: float = field(
        default=0.01, metadata={"help": "Final learning rate over the highest one, linear schedule only."}
    )
    eval_scores: list[str] | None = field(
        default=None, metadata={"help": "Scores to evaluate retrieval by: global, aligned, both. Default: all."}
    )
    eval_retrieval: bool = field(
        default=True, metadata={"help": "Rank videos and paragraphs when a model with embeddings is evaluated."}
    )
    retrieval_block_size: int = field(
        default=512, metadata={"help": "Texts and videos that are scored against each other at once."}
    )
    eval_sample_size: int | None = field(
        default=None, metadata={"help": "Rows that evaluation during training uses. Default: all."}
    )
    contrastive_chunk_size: int | None = field(
        default=None, metadata={"help": "Videos encoded with a graph at once (gradient caching). Default: no caching."}
    )
    contrastive_block_size: int | None = field(
        default=None, metadata={"help": "Rows of the global loss whose logits are in memory at once. Default: all."}
    )
    stop_on_nonfinite_loss: bool = field(
        default=True, metadata={"help": "Stop and save the batch when a loss is NaN or infinite."}
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Peak of one device in 10^12 operations a second; adds mfu to the log."}
    )

    def __post_init__(self) -> None:
        """Check the fields that transformers does not have."""
        super().__post_init__()
        if self.training_phase not in (None, "contrastive", "fusion"):
            raise ValueError(f'training_phase must be "contrastive" or "fusion", got {self.training_phase!r}')
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio must lie in 0 to 1, got {self.min_lr_ratio}")
        unknown = sorted(set(self.eval_scores or ()) - {"global", "aligned", "both"})
        if unknown:
            raise ValueError(f"eval_scores must be among global, aligned and both, got {unknown}")
        positive = ("retrieval_block_size", "eval_sample_size", "contrastive_chunk_size", "contrastive_block_size")
        for name in (*positive, "peak_tflops"):
            value = getattr(self, name)
            if value is not None and (value <= 0 or (name in positive and value < 1)):
                raise ValueError(f"{name} must be positive, got {value}")

    def learning_rate_factor(self, num_training_steps: int) -> Callable[[int], float] | None:
        """Return the learning rate at a step as a fraction of the highest one.

        Subclasses override it for other schedules.

        Args:
            num_training_steps: Optimizer steps of the run.

        Returns:
            A function of the step for `lr_scheduler_type="linear"`. `None` for every other type, which leaves the
            schedule to transformers.
        """
        if self.lr_scheduler_type != "linear":
            return None
        return partial(
            linear_factor,
            warmup_steps=self.get_warmup_steps(num_training_steps),
            total_steps=num_training_steps,
            min_ratio=self.min_lr_ratio,
        )


def decayed_parameter_names(model: nn.Module) -> list[str]:
    """List the parameters that weight decay applies to: matrices and kernels, without position tables.

    The release keeps weight decay off biases, BERT's norms, relative position tables and video token positions. It
    decays the norms of the video tower, by an oversight of names; here no norm is decayed.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name.rpartition(".")[2] not in POSITION_TABLES
    ]


def linear_factor(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Compute the linear schedule's factor: 0 to 1 during warm-up, then linearly down to `min_ratio`.

    The release has it in `src/optimization/lr_scheduler.py`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - (1.0 - min_ratio) * min(1.0, progress)


__all__ = ["LFVilaTrainingArguments", "decayed_parameter_names", "linear_factor"]

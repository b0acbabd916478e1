# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Training arguments of `LFVilaTrainer`: transformers' own, with LF-VILA's recipe as defaults and a few more fields.

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

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class LFVilaTrainingArguments(TrainingArguments):
    """Arguments of `LFVilaTrainer`; the table in this module's docstring lists defaults that differ.

    Attributes:
        training_phase: `"contrastive"` or `"fusion"`: the phase an `LFVilaForPreTraining` is trained in, with
            everything that the phase does not train frozen. The model's own where not given.
        min_lr_ratio: learning rate at the end over its highest value, for the linear schedule.
        eval_scores: scores that retrieval is evaluated by: `global`, `aligned`, `both`; all that the model has where
            not given.
        eval_retrieval: whether evaluation of a model with embeddings ranks videos by paragraphs and paragraphs by
            videos.
        retrieval_block_size: texts and videos that are scored against each other at once.
        eval_sample_size: rows of the evaluation data set that evaluation during training takes, the same ones each
            time; all of them where not given.
        contrastive_chunk_size: videos of a batch that are encoded with a graph at once. The gradient is that of the
            whole batch; memory is that of a chunk and the features, time that of one forward more for all chunks but
            one (in the fusion phase none). The whole batch at once where not given.
        contrastive_block_size: rows of the global term whose logits are in memory at once; all of this process where
            not given.
        stop_on_nonfinite_loss: stop with the batch's sample ids when a loss is not finite, and save what is needed to
            look into it; without it training goes on as `Trainer`'s does.
        peak_tflops: arithmetic peak of one device in the precision of training, in 10^12 operations a second, for
            `mfu` in the log; known for some devices where not given.
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
        default=0.01, metadata={"help": "Last learning rate over the highest one, linear schedule only."}
    )
    eval_scores: list[str] | None = field(
        default=None, metadata={"help": "Scores to evaluate retrieval by: global, aligned, both. All where not given."}
    )
    eval_retrieval: bool = field(
        default=True, metadata={"help": "Rank videos and paragraphs in evaluation where the model has embeddings."}
    )
    retrieval_block_size: int = field(
        default=512, metadata={"help": "Texts and videos that are scored against each other at once."}
    )
    eval_sample_size: int | None = field(
        default=None, metadata={"help": "Rows that evaluation during training takes; all where not given."}
    )
    contrastive_chunk_size: int | None = field(
        default=None, metadata={"help": "Videos encoded with a graph at once; the batch where not given."}
    )
    contrastive_block_size: int | None = field(
        default=None, metadata={"help": "Rows of the global term in memory at once; all where not given."}
    )
    stop_on_nonfinite_loss: bool = field(
        default=True, metadata={"help": "Stop with the batch's sample ids when a loss is not finite."}
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Arithmetic peak of one device in 10^12 operations a second, for mfu."}
    )

    def __post_init__(self) -> None:
        """Check the fields that are ours."""
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

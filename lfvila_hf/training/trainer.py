# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`LFVilaTrainer`: transformers' Trainer with LF-VILA's losses, recipe and retrieval evaluation.

What it adds to `Trainer`:

1. the training phase: freezes what the phase does not train (`LFVilaForPreTraining.set_training_phase`);
2. losses of the whole batch: of all processes, of one device in chunks, of accumulated batches (`steps.py`);
3. MTC's positions, drawn from (seed, step, sample in the batch of all processes) and not from a generator's state, so
   that neither a resumed run nor another number of processes changes them;
4. every term of the loss in the log under its own name (`global_loss`, `mtc_loss`, `mlm_loss`, `vtm_loss`, unweighted);
5. the released weight decay groups and linear schedule (`optimization.py`);
6. evaluation by retrieval (`evaluating.py`);
7. checkpoints that are there whole or not at all (`checkpoints.py`), and resumed runs that equal unbroken ones.

Letters: B videos, K clips, M sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from lfvila_hf.data.datasets import PreTrainingDataset
from lfvila_hf.data.sampling import EqualLengthSampler
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining
from lfvila_hf.training.arguments import LFVilaTrainingArguments
from lfvila_hf.training.checkpoints import AtomicCheckpoints
from lfvila_hf.training.evaluating import TERMS, RetrievalEvaluation, fusion_accuracy
from lfvila_hf.training.loading import training_loader
from lfvila_hf.training.optimization import decayed_parameter_names, linear_schedule
from lfvila_hf.training.steps import WholeBatchSteps


class LFVilaTrainer(WholeBatchSteps, RetrievalEvaluation, AtomicCheckpoints, Trainer):
    """Trainer for all LF-VILA models.

    Args:
        *args: as `Trainer`.
        eval_twins: pairs of row numbers of the evaluation data set that are order twins (the same events in another
            order); evaluation then reports how often the right one of the two is preferred.
        **kwargs: as `Trainer`; `args` is an `LFVilaTrainingArguments`.

    Raises:
        ValueError: a training phase for a model that has none, chunks for a task head, or a loss function that is no
            `LFVilaLoss` where the loss is made of parts.
    """

    args: LFVilaTrainingArguments

    def __init__(self, *args: Any, eval_twins: Sequence[tuple[int, int]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_twins = list(eval_twins)
        self._start_counting()
        if isinstance(self.compute_loss_func, LFVilaLoss):
            self.loss_is_scaled_for_ga = False  # its terms are means over one batch
        phase = self.args.training_phase
        if phase is not None:
            if not isinstance(self.model, LFVilaForPreTraining):
                raise ValueError(
                    f"training_phase={phase!r} is for LFVilaForPreTraining, got {type(self.model).__name__}; to train "
                    "adapters, call set_training_phase of the model before they are added"
                )
            self.model.set_training_phase(phase)  # type: ignore[arg-type]  # checked by the arguments
        self._check_parts()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer` does; nothing that an earlier training of this object left over is counted.

        Args:
            resume_from_checkpoint: a checkpoint's folder; `True` for the last whole one of `output_dir`; `"auto"` for
                that one if there is any, else from the beginning.
            *args: as `Trainer.train`.
            **kwargs: as `Trainer.train`.

        Raises:
            ValueError: there is no such checkpoint, or it is not whole.
        """
        self._start_counting()
        return super().train(self._resolved_checkpoint(resume_from_checkpoint), *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decayed_parameter_names(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The released linear schedule where `lr_scheduler_type` is linear, else transformers'."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "linear":
            self.lr_scheduler = linear_schedule(
                optimizer or self.optimizer,  # type: ignore[arg-type]  # made before, see Trainer
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
                self.args.min_lr_ratio,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        """Blocks of equal length where the rows of a pre-training data set differ in their number of clips."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = dataset.lengths() if isinstance(dataset, PreTrainingDataset) else []
        if len(set(lengths)) > 1:
            block = self.args.train_batch_size * self.args.world_size
            return EqualLengthSampler(lengths, block, seed=self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> DataLoader:
        """Batches for this process; the last one of an epoch is shared evenly and nothing in it is repeated."""
        dataset: Any = self.train_dataset
        strategy = getattr(self.args, "train_sampling_strategy", "random")
        is_ours = strategy in ("random", "sequential") and not self.args.remove_unused_columns
        if dataset is None or isinstance(dataset, torch.utils.data.IterableDataset) or not is_ours:
            return super().get_train_dataloader()
        sampler: Any = self._get_train_sampler(dataset)
        return training_loader(dataset, sampler, self._train_batch_size, self.data_collator, self.args)

    def _prepare_input(self, data: Any) -> Any:
        """Also draws that come with the batch: the Trainer cannot rebuild a named tuple."""
        if isinstance(data, MTCDraw):
            return MTCDraw(*map(super()._prepare_input, data))
        return super()._prepare_input(data)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean of every loss term since the last time."""
        if "loss" in logs:
            logs.update(self._noted_terms())
        super().log(logs, *args, **kwargs)


__all__ = ["TERMS", "LFVilaTrainer", "fusion_accuracy"]

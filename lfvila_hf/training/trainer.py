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
7. speed, waiting, skipped samples and arithmetic use in the log, terms on the progress bar (`watching.py`), and a stop
   with the names of the samples where a loss is not finite (`nonfinite.py`);
8. checkpoints that are there whole or not at all (`checkpoints.py`), and resumed runs that equal unbroken ones.

Letters: B videos, K clips, M sentences.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.trainer_utils import TrainOutput

from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset
from lfvila_hf.data.sampling import EqualLengthSampler
from lfvila_hf.data.streaming import ResumableStream
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining
from lfvila_hf.training.arguments import LFVilaTrainingArguments
from lfvila_hf.training.caching import RandomState
from lfvila_hf.training.checkpoints import STATE_FILE, AtomicCheckpoints
from lfvila_hf.training.evaluating import TERMS, RetrievalEvaluation, fusion_accuracy
from lfvila_hf.training.hub_pushes import PublishedTraining
from lfvila_hf.training.loading import stream_loader, training_loader
from lfvila_hf.training.nonfinite import stop
from lfvila_hf.training.optimization import decayed_parameter_names, linear_schedule
from lfvila_hf.training.steps import WholeBatchSteps
from lfvila_hf.training.watching import TermsProgressCallback, Watcher, peak_tflops


class LFVilaTrainer(WholeBatchSteps, RetrievalEvaluation, AtomicCheckpoints, PublishedTraining, Trainer):
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
    _batches_done = 0

    def __init__(self, *args: Any, eval_twins: Sequence[tuple[int, int]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_twins = list(eval_twins)
        self._start_counting()
        if isinstance(self.compute_loss_func, LFVilaLoss):
            self.loss_is_scaled_for_ga = False  # its terms are means over one batch
        phase = self.args.training_phase
        if phase is None and isinstance(self.model, LFVilaForPreTraining) and self.model.awaits_freezing:
            phase = "fusion"  # a checkpoint of that phase, loaded again: a file keeps no frozen parameters
        if phase is not None:
            if not isinstance(self.model, LFVilaForPreTraining):
                raise ValueError(
                    f"training_phase={phase!r} is for LFVilaForPreTraining, got {type(self.model).__name__}; to train "
                    "adapters, call set_training_phase of the model before they are added"
                )
            self.model.set_training_phase(phase)  # type: ignore[arg-type]  # checked by the arguments
        self._check_parts()
        if isinstance(self.data_collator, LFVilaCollator) and not self.data_collator.return_ids:
            self.data_collator = copy.copy(self.data_collator)
            self.data_collator.return_ids = True  # for the report of a loss that is not finite
        peak = self.args.peak_tflops
        self._watcher = Watcher(peak or peak_tflops(torch.device(self.args.device), self.args.fp16 or self.args.bf16))
        self.add_callback(self._watcher)
        if any(type(callback) is ProgressCallback for callback in self.callback_handler.callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(TermsProgressCallback)

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
        self._watcher.reset()
        checkpoint = self._resolved_checkpoint(resume_from_checkpoint)
        steps = 0 if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE)).global_step
        self._batches_done = steps * self.args.gradient_accumulation_steps
        return super().train(checkpoint, *args, **kwargs)

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
        if isinstance(dataset, ResumableStream):
            done = 0 if self.args.ignore_data_skip else self._batches_done
            return stream_loader(dataset, self._train_batch_size, self.data_collator, self.args, done)
        strategy = getattr(self.args, "train_sampling_strategy", "random")
        is_ours = strategy in ("random", "sequential") and not self.args.remove_unused_columns
        if dataset is None or isinstance(dataset, torch.utils.data.IterableDataset) or not is_ours:
            return super().get_train_dataloader()
        sampler: Any = self._get_train_sampler(dataset)
        return training_loader(dataset, sampler, self._train_batch_size, self.data_collator, self.args)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of one optimisation step; the time that they take is noted."""
        if self.state.global_step >= self.state.max_steps:  # killed after its last checkpoint: Trainer would go on
            self.control.should_training_stop = True
            return [], None
        self._watcher.begin_step()
        found = super().get_batch_samples(*args, **kwargs)
        self._watcher.end_waiting()
        return found

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch; stops where the loss is not finite.

        Raises:
            NonFiniteLossError: names the batch's samples and where batch and weights have been saved.
        """
        ids = inputs.get("sample_ids")
        self._watcher.saw(self._base_model(), inputs)
        random_state = RandomState(torch.device(self.args.device))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.stop_on_nonfinite_loss and not loss.isfinite().all():
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            stop(
                Path(str(self.args.output_dir)),
                step=self.state.global_step,
                process=self.args.process_index,
                loss=loss,
                terms={name: float(value) / max(self._steps_noted, 1) for name, value in self._term_sums.items()},
                inputs=inputs,
                sample_ids=ids,
                random_state=random_state,
                model=None if sharded else self.accelerator.unwrap_model(model),
            )
        return loss

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Loss of one batch; before transformers 5.19 the Trainer does not ask who divides by accumulated batches."""
        found = super().compute_loss(model, *args, **kwargs)
        ours = isinstance(self.compute_loss_func, LFVilaLoss) and not hasattr(Trainer, "loss_is_scaled_for_ga")
        if not ours or not model.training:
            return found
        steps = self._steps_of_window()
        return (found[0] / steps, found[1]) if isinstance(found, tuple) else found / steps

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Everything but the samples' names, which models do not take."""
        return super()._prepare_inputs({name: value for name, value in inputs.items() if name != "sample_ids"})

    def _prepare_input(self, data: Any) -> Any:
        """Also draws that come with the batch: the Trainer cannot rebuild a named tuple."""
        if isinstance(data, MTCDraw):
            return MTCDraw(*map(super()._prepare_input, data))
        return super()._prepare_input(data)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; an entry of training also has the mean of every loss term since the last one, and what is watched."""
        if "loss" in logs:
            logs.update(self._noted_terms())
            logs.update(self._watcher.report(self.accelerator))
            if self._phase() == "contrastive":
                logs["temperature"] = self._criterion().temperature
            dataset: Any = self.train_dataset
            if hasattr(dataset, "skip_report"):
                logs["skipped_samples"] = len(dataset.skip_report())
        super().log(logs, *args, **kwargs)


__all__ = ["TERMS", "LFVilaTrainer", "fusion_accuracy"]

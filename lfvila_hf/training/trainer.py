# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`LFVilaTrainer`: transformers' Trainer with LF-VILA's losses, recipe, data order and retrieval evaluation.

Added to `Trainer`:

1. the training phase, which freezes parameters (`LFVilaForPreTraining.set_training_phase`);
2. losses of the global batch and gradient caching (`global_batch_losses.py`), with every term in the log;
3. the released weight decay groups and linear schedule (`training_arguments.py`);
4. batches shared between processes without repeated rows, and streams that resume;
5. evaluation by retrieval;
6. throughput in the log, loss terms on the progress bar, a stop at a loss that is not finite (`callbacks.py`);
7. atomic checkpoints, and resumed runs that equal uninterrupted ones (`training_checkpoints.py`).

Letters: B videos, K clips, M sentences, T frames, P tokens of a frame, L tokens of a sentence.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, Subset
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, seed_worker
from transformers.utils import logging

from lfvila_hf.data.batch_samplers import EqualLengthSampler, ShareBatchSampler
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset
from lfvila_hf.data.streaming import PASSED_OVER, ResumableStream
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features
from lfvila_hf.hub.publishing import add_code_files
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining, LFVilaModel
from lfvila_hf.training.callbacks import LossTermsProgressCallback, ThroughputCallback, dump_and_raise, training_card
from lfvila_hf.training.global_batch_losses import TERMS, GlobalBatchLossMixin, RandomState
from lfvila_hf.training.training_arguments import LFVilaTrainingArguments, decayed_parameter_names
from lfvila_hf.training.training_checkpoints import STATE_FILE, AtomicCheckpointMixin

logger = logging.get_logger(__name__)


class LFVilaTrainer(GlobalBatchLossMixin, AtomicCheckpointMixin, Trainer):
    """Trainer for all LF-VILA models.

    Args:
        *args: As for `Trainer`.
        eval_twins: Pairs of row numbers of the evaluation dataset that are order twins (the same events in another
            order). Evaluation then reports how often the right one of the two is preferred. Defaults to no pairs.
        **kwargs: As for `Trainer`; `args` is an `LFVilaTrainingArguments`.

    Raises:
        ValueError: A training phase for a model that has none, chunks for a task head, or a loss function that is no
            `LFVilaLoss` for a loss that is made of parts.
    """

    args: LFVilaTrainingArguments
    _is_set_up = False
    _batches_done = 0
    _sampled_rows: list[int] | None = None

    def __init__(self, *args: Any, eval_twins: Sequence[tuple[int, int]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_twins = list(eval_twins)
        self._reset_loss_state()
        if isinstance(self.compute_loss_func, LFVilaLoss):
            self.loss_is_scaled_for_ga = False  # its terms are means over one batch
        self._set_up_model(self.model)
        self._is_set_up = True
        if isinstance(self.data_collator, LFVilaCollator) and not self.data_collator.return_ids:
            self.data_collator = copy.copy(self.data_collator)
            self.data_collator.return_ids = True  # for the report of a loss that is not finite
        self._throughput = ThroughputCallback(self.args.peak_tflops)
        self.add_callback(self._throughput)
        callbacks = self.callback_handler.callbacks
        if any(type(callback) is ProgressCallback for callback in callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(LossTermsProgressCallback)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make a model by `model_init`, and set it up as the constructor sets up a `model`."""
        model = super().call_model_init(trial)
        if self._is_set_up:
            self._set_up_model(model)
        return model

    def _set_up_model(self, model: Any) -> None:
        """Freeze what is not trained, and check that the model's loss can be split as the arguments ask for."""
        phase = self.args.training_phase
        if phase is None and isinstance(model, LFVilaForPreTraining) and model.awaits_freezing:
            phase = "fusion"  # a checkpoint of that phase, loaded again: a file keeps no frozen parameters
        if phase is not None:
            if not isinstance(model, LFVilaForPreTraining):
                raise ValueError(
                    f"training_phase={phase!r} is for LFVilaForPreTraining, got {type(model).__name__}; to train "
                    "adapters, call set_training_phase of the model before they are added"
                )
            model.set_training_phase(phase)  # type: ignore[arg-type]  # checked by the arguments
        self._check_loss_parts(model)
        self._freeze_fusion_modules(model)

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer` does. Nothing is carried over from an earlier training of this object.

        Args:
            resume_from_checkpoint: Folder of a checkpoint. `True` takes the last complete one of `output_dir`;
                `"auto"` does too, and starts from the beginning if there is none.
            *args: As for `Trainer.train`.
            **kwargs: As for `Trainer.train`.

        Raises:
            ValueError: There is no such checkpoint, or it is incomplete.
        """
        self._reset_loss_state()
        self._throughput.reset()
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        steps = 0 if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE)).global_step
        self._batches_done = steps * self.args.gradient_accumulation_steps
        return super().train(checkpoint, *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """List the parameters that weight decay applies to."""
        return decayed_parameter_names(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the schedule of `args.learning_rate_factor`, or transformers' if that gives none."""
        factor = self.args.learning_rate_factor(num_training_steps)
        if self.lr_scheduler is None and factor is not None:
            optimized: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimized, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the batches of one optimizer step, and time it."""
        if self.state.global_step >= self.state.max_steps:  # killed after its last checkpoint: Trainer would go on
            self.control.should_training_stop = True
            return [], None
        self._throughput.begin_step()
        samples = super().get_batch_samples(*args, **kwargs)
        self._throughput.end_waiting()
        return samples

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward of one batch.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. Names the samples and the folder of batch and weights.
        """
        ids = inputs.get("sample_ids")
        self._throughput.record_batch(self._base_model(), inputs)
        random_state = RandomState(torch.device(self.args.device))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.stop_on_nonfinite_loss and not loss.isfinite().all():
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            dump_and_raise(
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
        """Compute the loss of one batch.

        Before transformers 5.19 the Trainer left the division by the accumulated batches to `compute_loss_func`.
        """
        found = super().compute_loss(model, *args, **kwargs)
        is_undivided = isinstance(self.compute_loss_func, LFVilaLoss) and not hasattr(Trainer, "loss_is_scaled_for_ga")
        if not is_undivided or not model.training:
            return found
        steps = self._accumulation_steps()
        return (found[0] / steps, found[1]) if isinstance(found, tuple) else found / steps

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, without the samples' ids, which models do not take."""
        return super()._prepare_inputs({name: value for name, value in inputs.items() if name != "sample_ids"})

    def _prepare_input(self, data: Any) -> Any:
        """Move a value to the device. The Trainer cannot rebuild a named tuple, so draws are moved here."""
        if isinstance(data, MTCDraw):
            return MTCDraw(*map(super()._prepare_input, data))
        return super()._prepare_input(data)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log. An entry of training also has the mean of every loss term since the last one, and the throughput."""
        if "loss" in logs:
            logs.update(self._mean_terms())
            logs.update(self._throughput.report(self.accelerator))
            if self._phase() == "contrastive":
                logs["temperature"] = self._criterion().temperature
            dataset: Any = self.train_dataset
            if hasattr(dataset, "skip_report"):
                logs["skipped_samples"] = len(dataset.skip_report())
        super().log(logs, *args, **kwargs)

    # -- publishing --------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, and copy the code files into the output folder.

        transformers pushes checkpoints during training without code files. Such a repository could not be loaded
        before the end.
        """
        super().init_hf_repo(token=token, private=private)
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            add_code_files(folder)

    def create_model_card(  # type: ignore[override]  # fewer arguments: every card has the rest of transformers' facts
        self,
        license: str | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_tags: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model card into the output folder.

        Args:
            license: License of the weights.
            model_name: Repository. Defaults to `hub_model_id`, then to the output folder's name.
            finetuned_from: Model that training started from. Defaults to the repository the model was loaded from.
            dataset: Dataset (or several) of training and evaluation.
            dataset_tags: The same as identifiers of the Hub, if there is no `dataset`.
            **kwargs: Ignored.
        """
        if self.is_world_process_zero():
            named = dataset or dataset_tags or ()
            datasets = [named] if isinstance(named, str) else list(named)
            card = training_card(self, datasets, license, finetuned_from, model_name)
            Path(str(self.args.output_dir), "README.md").write_text(card, encoding="utf-8")

    # -- data --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Sample blocks of equal length if the rows of a pre-training dataset differ in their number of clips."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = dataset.lengths() if isinstance(dataset, PreTrainingDataset) else []
        if len(set(lengths)) > 1:
            block = self.args.train_batch_size * self.args.world_size
            return EqualLengthSampler(lengths, block, seed=self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> DataLoader:
        """Return this process's batches. The last one of an epoch is shared evenly and repeats no row.

        accelerate's own sharding is not used: it fills up the last batch with rows from the beginning, which a
        contrastive loss takes for false negatives; a run that is resumed within a later epoch would have the order and
        augmentation of the first one; and every process would read all of a stream.
        """
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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return a loader of every row; during training of a sample of `eval_sample_size` rows.

        `dataloader_drop_last` and `dataloader_persistent_workers` are for training only.
        """
        size = self.args.eval_sample_size
        if self.is_in_train and size is not None:
            dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
            if isinstance(dataset, str):
                dataset = self.eval_dataset[dataset]  # type: ignore[index]  # by name
            if size < len(dataset):
                generator = torch.Generator().manual_seed(self.args.seed)
                self._sampled_rows = torch.randperm(len(dataset), generator=generator)[:size].sort().values.tolist()
                eval_dataset = Subset(dataset, self._sampled_rows)
        with self._arguments_of_evaluation():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Return a loader of every row."""
        with self._arguments_of_evaluation():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _arguments_of_evaluation(self) -> Iterator[None]:
        """Keep the last batch, and no workers: `Trainer` would use persistent ones, and their rows, for other rows."""
        drop_last, persistent = self.args.dataloader_drop_last, self.args.dataloader_persistent_workers
        self.args.dataloader_drop_last = self.args.dataloader_persistent_workers = False
        try:
            yield
        finally:
            self.args.dataloader_drop_last, self.args.dataloader_persistent_workers = drop_last, persistent

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does.

        During training the random state is restored afterwards. So a resumed run that does not repeat an evaluation
        equals the uninterrupted one.
        """
        state = RandomState(torch.device(self.args.device)) if self.is_in_train else None
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._sampled_rows = None
            if state is not None:
                state.restore()

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate models with embeddings by retrieval and loss terms, all others by transformers' own loop.

        Features are collected batch by batch and ranked block by block; the full similarity matrix is never in memory.
        Predictions of `predict` are then a dict of the features' arrays. With a `compute_metrics`, transformers' loop
        runs and calls it.
        """
        ranks = isinstance(self._base_model(), LFVilaModel | LFVilaForPreTraining)
        if not ranks or not self.args.eval_retrieval or self.compute_metrics is not None:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        metrics, samples, features = self._evaluate_pairs(dataloader)
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        predictions: Any = None
        if features is not None:
            predictions = {name: value.numpy() for name, value in vars(features).items() if value is not None}
        return EvalLoopOutput(predictions=predictions, label_ids=None, metrics=prefixed, num_samples=samples)

    def _evaluate_pairs(self, dataloader: DataLoader) -> tuple[dict[str, float], int, RetrievalFeatures | None]:
        """Compute mean loss terms, accuracy of the fusion heads and retrieval metrics.

        Returns:
            Metrics, number of samples, and the features.
        """
        model: Any = self._wrap_model(self.model, training=False)  # type: ignore[arg-type]  # there is a model
        if not self.accelerator._models and model is self.model:  # evaluated without a training before
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        if not self.is_in_train and (self.args.fp16_full_eval or self.args.bf16_full_eval):
            precision = torch.float16 if self.args.fp16_full_eval else torch.bfloat16
            model = model.to(dtype=precision, device=self.args.device)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        sums: dict[str, float] = defaultdict(float)
        weights: dict[str, float] = defaultdict(float)
        parts: list[RetrievalFeatures] = []
        samples = 0
        for inputs in dataloader:
            batch = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, batch, return_outputs=True)
            count = len(batch["pixel_values_videos"])
            samples += count
            for name, value in {"loss": loss, **{name: outputs.get(name) for name in TERMS}}.items():
                if value is not None:
                    sums[name] += value.item() * count
                    weights[name] += count
            for name, (right, total) in fusion_accuracy(outputs).items():
                sums[name] += right
                weights[name] += total
            if outputs.get("text_embeds") is not None:
                parts.append(RetrievalFeatures.from_outputs(self._gathered_features(outputs)))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        samples = int(self._summed_over_processes({"samples": samples})["samples"])
        sums, weights = self._summed_over_processes(sums), self._summed_over_processes(weights)
        metrics = {name: value / max(weights[name], 1) for name, value in sums.items()}
        if not parts:
            return metrics, samples, None
        features = RetrievalFeatures.cat(parts)
        return metrics | self._retrieval_metrics(features), features.num_texts, features

    def _summed_over_processes(self, values: dict[str, float]) -> dict[str, float]:
        """Sum every value over processes, which all have the same names."""
        if self.accelerator.num_processes == 1 or not values:
            return values
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.args.device)
        return dict(zip(names, self.accelerator.reduce(total, "sum").tolist(), strict=True))

    def _gathered_features(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gather the features of all processes in the order of the dataset, without the rows that fill up a batch."""
        if self.accelerator.num_processes == 1:
            return outputs
        names = ("text_embeds", "video_embeds", "sentence_embeds", "sentence_mask", "clip_embeds")
        found = {name: outputs[name] for name in names if outputs.get(name) is not None}
        for name in ("sentence_embeds", "sentence_mask"):  # M may differ between processes
            if name in found:
                found[name] = self.accelerator.pad_across_processes(found[name], dim=1)
        return self.accelerator.gather_for_metrics(found)

    def _retrieval_metrics(self, features: RetrievalFeatures) -> dict[str, float]:
        """Compute the retrieval metrics of all scores, under `{score}_{metric}`."""
        twins = self.eval_twins
        if self._sampled_rows is not None:
            place = {row: number for number, row in enumerate(self._sampled_rows)}
            twins = [(place[one], place[other]) for one, other in twins if one in place and other in place]
        elif any(max(pair) >= features.num_texts for pair in twins):
            raise ValueError(
                f"eval_twins names row {max(map(max, twins))}, the data set has {features.num_texts} rows; expected "
                "row numbers of the evaluation dataset"
            )
        scores: Any = self.args.eval_scores
        by_score = evaluate_features(features, scores=scores, twins=twins, block_size=self.args.retrieval_block_size)
        return {f"{score}_{name}": value for score, values in by_score.items() for name, value in values.items()}


def fusion_accuracy(outputs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Count right and all answers of the fusion phase's heads.

    Args:
        outputs: Outputs with `vtm_logits` `(B, 2)`, `vtm_targets` `(B,)`, `mlm_logits`
            `(B, 1 + M*L + T*P, vocabulary)` and `mlm_targets` `(B, M, L)`.

    Returns:
        Right and total count for `vtm_accuracy` and `mlm_accuracy`; empty for other outputs.
    """
    counts: dict[str, tuple[float, float]] = {}
    if outputs.get("vtm_logits") is not None and outputs.get("vtm_targets") is not None:
        right = outputs["vtm_logits"].argmax(-1) == outputs["vtm_targets"]
        counts["vtm_accuracy"] = right.sum().item(), right.numel()
    if outputs.get("mlm_logits") is not None and outputs.get("mlm_targets") is not None:
        targets = outputs["mlm_targets"].flatten(1)  # (B, M*L)
        masked = targets != -100
        guesses = outputs["mlm_logits"][:, 1 : 1 + targets.shape[1]].argmax(-1)  # (B, M*L)
        counts["mlm_accuracy"] = (guesses == targets)[masked].sum().item(), masked.sum().item()
    return counts


# -- loaders ---------------------------------------------------------------------------------------------------------


def reproducible_sampler(sampler: Any, seed: int) -> Any:
    """Replace a random sampler by one whose order is a function of seed and epoch alone."""
    if type(sampler) is RandomSampler:
        return SeedableRandomSampler(sampler.data_source, data_seed=seed)
    return sampler


def training_loader(dataset: Any, sampler: Sampler[int], batch_size: int, collator: Any, args: Any) -> DataLoader:
    """Make a loader of this process's shares of the batches.

    Args:
        dataset: Map-style dataset of samples that `collator` takes.
        sampler: Row numbers of an epoch.
        batch_size: Rows of this process in a full batch.
        collator: Makes a batch of samples.
        args: Training arguments; `dataloader_*`, seeds and the rank of this process are read.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    batches = ShareBatchSampler(
        reproducible_sampler(sampler, seed),
        batch_size,
        args.world_size,
        args.process_index,
        args.dataloader_drop_last,
        dataset,
    )
    if batches.left_out and not args.dataloader_drop_last:
        logger.warning(
            "%d rows at the end of every epoch are left out: they are fewer than the %d processes that share a batch",
            batches.left_out,
            args.world_size,
        )
    return _prepared(DataLoader(dataset, batch_sampler=batches, **_loader_options(collator, args)), args)


def stream_loader(stream: ResumableStream, batch_size: int, collator: Any, args: Any, batches_done: int) -> DataLoader:
    """Make a loader of this process's part of a stream.

    Args:
        stream: Stream of all processes.
        batch_size: Rows of this process in a batch.
        collator: Makes a batch of samples.
        args: Training arguments.
        batches_done: Batches of this process that a resumed run has trained on. They come first, empty and at once.
    """
    part = stream.for_process(args.process_index, args.world_size)
    part.fast_forward(batches_done, batch_size)
    options = _loader_options(_SkippingCollator(collator), args)
    if options["num_workers"] > part.num_shards:
        logger.warning(
            "%d loader workers, because the stream has only %d shards for this process and not the %d asked for",
            part.num_shards,
            part.num_shards,
            options["num_workers"],
        )
        options["num_workers"] = part.num_shards
    return _prepared(DataLoader(part, batch_size=batch_size, drop_last=True, **options), args)


class _SkippingCollator:
    """Collator that makes an empty batch of rows that a resumed run has trained on."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: list[Any]) -> Any:
        return {} if isinstance(samples[0], str) and samples[0] == PASSED_OVER else self.collator(samples)


def _loader_options(collator: Any, args: Any) -> dict[str, Any]:
    """Return the `DataLoader` options of the training arguments."""
    options = {
        "collate_fn": collator,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "worker_init_fn": partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    }
    if args.dataloader_persistent_workers:
        # Running workers draw no seed for the next epoch, those of a resumed run do: not from the generator of dropout.
        options["generator"] = torch.Generator().manual_seed(args.seed)
    if args.dataloader_num_workers and getattr(args, "dataloader_multiprocessing_context", None):
        options["multiprocessing_context"] = args.dataloader_multiprocessing_context
    return options


def _prepared(loader: DataLoader, args: Any) -> DataLoader:
    """Move batches to the device, without sharing them out a second time."""
    return prepare_data_loader(
        loader,
        device=args.device,
        num_processes=1,
        process_index=0,
        put_on_device=args.device.type != "cpu",
        dispatch_batches=False,
    )


__all__ = ["TERMS", "LFVilaTrainer", "fusion_accuracy", "reproducible_sampler", "stream_loader", "training_loader"]

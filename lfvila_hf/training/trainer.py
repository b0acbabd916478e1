# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`LFVilaTrainer`: transformers' Trainer with LF-VILA's losses, recipe and retrieval evaluation.

What it adds to `Trainer`:

1. the training phase: freezes what the phase does not train (`LFVilaForPreTraining.set_training_phase`);
2. MTC's positions, drawn from (seed, step, sample) and not from a generator's state, so that a resumed run repeats
them; 3. every term of the loss in the log under its own name (`global_loss`, `mtc_loss`, `mlm_loss`, `vtm_loss`,
unweighted); 4. the released weight decay groups and linear schedule;
5. evaluation by retrieval: features are collected batch by batch, ranks are made block by block, never from a whole
   similarity matrix; in the fusion phase the accuracy of both heads.

Letters: B videos, K clips, M sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from lfvila_hf.data.datasets import PreTrainingDataset
from lfvila_hf.data.sampling import EqualLengthSampler
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw, draw_mtc
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining, LFVilaModel
from lfvila_hf.training.arguments import LFVilaTrainingArguments
from lfvila_hf.training.optimization import decayed_parameter_names, linear_schedule

logger = logging.get_logger(__name__)

TERMS = ("global_loss", "mtc_loss", "mlm_loss", "vtm_loss", "span_loss")


class LFVilaTrainer(Trainer):
    """Trainer for all LF-VILA models.

    Args:
        *args: as `Trainer`.
        eval_twins: pairs of row numbers of the evaluation data set that are order twins (the same events in another
            order); evaluation then reports how often the right one of the two is preferred.
        **kwargs: as `Trainer`; `args` is an `LFVilaTrainingArguments`.
    """

    args: LFVilaTrainingArguments

    def __init__(self, *args: Any, eval_twins: Sequence[tuple[int, int]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_twins = list(eval_twins)
        self._terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._micro_step, self._drawn_step = 0, -1
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

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer` does; nothing that an earlier training of this object left over is counted."""
        self._terms.clear()
        self._drawn_step = -1
        return super().train(*args, **kwargs)

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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Every sample is evaluated: `dataloader_drop_last`, which a contrastive batch wants, is for training only."""
        with self._keeping_the_last_batch():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Every sample is predicted, as in evaluation."""
        with self._keeping_the_last_batch():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _keeping_the_last_batch(self) -> Iterator[None]:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _prepare_input(self, data: Any) -> Any:
        """Also draws that come with the batch: the Trainer cannot rebuild a named tuple."""
        if isinstance(data, MTCDraw):
            return MTCDraw(*map(super()._prepare_input, data))
        return super()._prepare_input(data)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch, and its terms for the log.

        Args:
            model: the (wrapped) model.
            inputs: its keyword arguments.
            return_outputs: whether to return the outputs too.
            num_items_in_batch: passed on to `Trainer`.
        """
        if model.training and self._contrastive():
            inputs = self._with_draw(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            for name in TERMS:
                value = outputs.get(name) if isinstance(outputs, Mapping) else None
                if value is not None:
                    self._terms[name].append(value.detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean of every loss term since the last time."""
        if "loss" in logs:
            for name, values in self._terms.items():
                logs[name] = torch.stack(values).float().mean().item()
            self._terms.clear()
        super().log(logs, *args, **kwargs)

    def _base_model(self) -> Any:
        """The LF-VILA model inside whatever wraps it (DDP, PEFT)."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _contrastive(self) -> bool:
        """Whether this training draws positions for MTC."""
        model = self._base_model()
        if not isinstance(model, LFVilaModel | LFVilaForPreTraining) or not model.config.temporal_alignment:
            return False
        return isinstance(model, LFVilaModel) or model.config.training_phase == "contrastive"

    def _with_draw(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """`inputs` with MTC's positions for this step, unless they hold some."""
        # Counted within the step, because the last step of an epoch may have fewer batches than the others.
        self._micro_step = self._micro_step + 1 if self._drawn_step == self.state.global_step else 0
        self._drawn_step = self.state.global_step
        step = self.state.global_step * self.args.gradient_accumulation_steps + self._micro_step
        if inputs.get("mtc_draw") is not None:
            return inputs
        config: Any = self._base_model().config
        videos = inputs["pixel_values_videos"]
        draw = draw_mtc(
            len(videos),
            inputs.get("num_clips") or config.num_clips,
            config.num_anchors,
            config.num_candidates,
            seed=self.args.seed,
            step=step,
            device=videos.device,
        )
        return {**inputs, "mtc_draw": draw}

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate: retrieval and loss terms for models with embeddings, transformers' own loop for the others.

        Predictions of `predict` are then a dict of the features' arrays. A `compute_metrics` of the user's own is
        called, as always, by transformers' loop.
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
        """Mean of every loss term, accuracy of the fusion heads, retrieval metrics; number of samples; features."""
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
                parts.append(RetrievalFeatures.from_outputs(self._gathered(outputs)))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        metrics = {name: value / max(weights[name], 1) for name, value in sums.items()}
        if not parts:
            return metrics, samples, None
        features = RetrievalFeatures.cat(parts)
        return metrics | self._retrieval(features), samples, features

    def _gathered(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Features of all processes.

        In the order of the data set and without the samples that fill up the last batch.
        """
        if self.accelerator.num_processes == 1:
            return outputs
        names = ("text_embeds", "video_embeds", "sentence_embeds", "sentence_mask", "clip_embeds")
        found = {name: outputs[name] for name in names if outputs.get(name) is not None}
        for name in ("sentence_embeds", "sentence_mask"):  # M may differ between processes
            if name in found:
                found[name] = self.accelerator.pad_across_processes(found[name], dim=1)
        return self.accelerator.gather_for_metrics(found)

    def _retrieval(self, features: RetrievalFeatures) -> dict[str, float]:
        """Retrieval metrics of all scores, flat: `{score}_{metric}`."""
        rows = features.num_texts
        twins = [pair for pair in self.eval_twins if max(pair) < rows]
        if len(twins) != len(self.eval_twins):
            raise ValueError(f"eval_twins names row {max(map(max, self.eval_twins))}, the data set has {rows} rows")
        by_score = evaluate_features(
            features,
            scores=self.args.eval_scores,  # type: ignore[arg-type]  # checked by the arguments
            twins=twins,
            block_size=self.args.retrieval_block_size,
        )
        return {f"{score}_{name}": value for score, values in by_score.items() for name, value in values.items()}


def fusion_accuracy(outputs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Right and total counts of the fusion phase's heads, by metric name; empty for other outputs.

    Args:
        outputs: with `vtm_logits` `(B, 2)`, `vtm_targets` `(B,)`, `mlm_logits` `(B, 1 + M*L + T*P, vocabulary)` and
            `mlm_targets` `(B, M, L)`.
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

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Evaluation of `LFVilaTrainer`: retrieval, loss terms and the accuracy of the fusion heads.

Features are collected batch by batch, ranks are made block by block, never from a whole similarity matrix. A model
without embeddings is evaluated by transformers' own loop. Evaluation during training may take a sample of the rows,
the same in every evaluation, and leaves no trace in the random state, so that a run that is resumed after a checkpoint
and does not repeat an evaluation goes on as the one that was never stopped.

Letters: B videos, K clips, M sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Subset
from transformers.trainer_utils import EvalLoopOutput

from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining, LFVilaModel
from lfvila_hf.training.caching import RandomState

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

TERMS = ("global_loss", "mtc_loss", "mlm_loss", "vtm_loss", "span_loss")
"""Unweighted terms that a model's output may hold."""


class RetrievalEvaluation(Trainer):
    """The evaluation half of `LFVilaTrainer`, to be put before `Trainer`."""

    args: Any
    eval_twins: list[tuple[int, int]]
    _sampled_rows: list[int] | None = None
    _base_model: Any

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does; during training, random numbers go on afterwards as if nothing had happened."""
        state = RandomState(torch.device(self.args.device)) if self.is_in_train else None
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._sampled_rows = None
            if state is not None:
                state.restore()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """A loader of every row, or during training of a sample of `eval_sample_size` rows.

        `dataloader_drop_last`, which a contrastive batch wants, is for training only.
        """
        size = self.args.eval_sample_size
        if self.is_in_train and size is not None:
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset  # type: ignore[index]  # by name
            if size < len(dataset):  # type: ignore[arg-type]  # ranks need a data set with a length
                generator = torch.Generator().manual_seed(self.args.seed)
                rows = torch.randperm(len(dataset), generator=generator)[:size]  # type: ignore[arg-type]  # as above
                self._sampled_rows = rows.sort().values.tolist()
                eval_dataset = Subset(dataset, self._sampled_rows)  # type: ignore[arg-type]  # as above
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
        samples = int(self._summed_over_processes({"samples": samples})["samples"])
        sums, weights = self._summed_over_processes(sums), self._summed_over_processes(weights)
        metrics = {name: value / max(weights[name], 1) for name, value in sums.items()}
        if not parts:
            return metrics, samples, None
        features = RetrievalFeatures.cat(parts)
        return metrics | self._retrieval(features), features.num_texts, features

    def _summed_over_processes(self, values: dict[str, float]) -> dict[str, float]:
        """Each value summed over processes, which all have the same names."""
        if self.accelerator.num_processes == 1 or not values:
            return values
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.args.device)
        return dict(zip(names, self.accelerator.reduce(total, "sum").tolist(), strict=True))

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
        twins = self.eval_twins
        if self._sampled_rows is not None:
            place = {row: number for number, row in enumerate(self._sampled_rows)}
            twins = [(place[one], place[other]) for one, other in twins if one in place and other in place]
        elif any(max(pair) >= features.num_texts for pair in twins):
            raise ValueError(f"eval_twins names row {max(map(max, twins))}, the data set has {features.num_texts} rows")
        by_score = evaluate_features(
            features,
            scores=self.args.eval_scores,
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


__all__ = ["TERMS", "RetrievalEvaluation", "fusion_accuracy"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""One optimisation step of `LFVilaTrainer`, over more than one forward sees: processes, chunks, accumulated batches.

| | contrastive phase | fusion phase |
|---|---|---|
| one process | the model's own loss | the model's own loss |
| several processes | own rows x columns of all (`objectives.py`) | pairs from the batch of all, counts of all |
| chunks of a batch | features cached, random numbers replayed (`caching.py`) | counts of the whole batch |
| accumulated batches | each batch is its own contrast | counts of all of them: equal to one large batch |

Memory: that of one forward and backward over a chunk, or over the batch of this process without chunks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate.utils import DistributedType
from torch import nn

from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw, draw_mtc
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining, LFVilaModel
from lfvila_hf.training.caching import cached_backward, number_of_chunks, split_inputs
from lfvila_hf.training.evaluating import TERMS
from lfvila_hf.training.gathering import GlobalBatch, global_batches, mismatched_videos
from lfvila_hf.training.objectives import (
    FusionCounts,
    contrastive_shares,
    fusion_counts,
    fusion_shares,
    fusion_totals,
)

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object


class WholeBatchSteps(Trainer):
    """The training step of `LFVilaTrainer`, to be put before `Trainer`."""

    args: Any
    compute_loss_func: Any

    def _start_counting(self) -> None:
        """Forget what an earlier training left over."""
        self._term_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._steps_noted = 0
        self._micro_step, self._drawn_step = 0, -1
        self._window: list[tuple[GlobalBatch, FusionCounts]] = []
        self._whole_counts = FusionCounts()

    def _base_model(self) -> Any:
        """The LF-VILA model inside whatever wraps it (DDP, PEFT)."""
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _phase(self) -> Literal["contrastive", "fusion"] | None:
        """The phase that is trained; none for the task heads."""
        model = self._base_model()
        if isinstance(model, LFVilaModel):
            return "contrastive"
        return model.config.training_phase if isinstance(model, LFVilaForPreTraining) else None

    def _criterion(self) -> LFVilaLoss:
        """Weights and temperatures."""
        given = self.compute_loss_func
        return given if isinstance(given, LFVilaLoss) else LFVilaLoss(self._base_model().config)

    def _check_parts(self) -> None:
        """Refuse what cannot be made of parts; freeze what several processes would wait for in vain.

        Raises:
            ValueError: chunks for a task head, a loss function that is no `LFVilaLoss`, or one process for several
                devices.
        """
        phase, model = self._phase(), self._base_model()
        if self.args.n_gpu > 1 and phase is not None:
            raise ValueError(
                f"one process drives {self.args.n_gpu} devices, which cuts the batch of a loss into pieces; "
                "expected a process for each: start with torchrun or accelerate launch, or show one device"
            )
        chunked = self.args.contrastive_chunk_size is not None
        if chunked and phase is None:
            raise ValueError(
                "contrastive_chunk_size is for LFVilaModel and LFVilaForPreTraining, got "
                f"{type(model).__name__}; use gradient_accumulation_steps"
            )
        in_parts = chunked or self.args.world_size > 1 or self.args.contrastive_block_size is not None
        if in_parts and phase and not isinstance(self.compute_loss_func, LFVilaLoss | None):
            raise ValueError(
                "compute_loss_func must be an LFVilaLoss where the loss is made of parts (several processes, "
                f"contrastive_chunk_size, contrastive_block_size), got {type(self.compute_loss_func).__name__}"
            )
        if self.args.world_size > 1 and phase == "contrastive":
            reads_clip_level = model.config.temporal_alignment and model.config.clip_feature_source == "clip_level"
            towers = model.model if isinstance(model, LFVilaForPreTraining) else model
            if not reads_clip_level:  # outputs of the model that no term reads
                towers.video_model.clip_merging.requires_grad_(False)
                towers.video_model.clip_norm.requires_grad_(False)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of one optimisation step, and a note of what their terms are counted over in all processes."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        self._window.clear()
        phase = self._phase()
        if samples and phase is not None:
            batches = global_batches([len(one["pixel_values_videos"]) for one in samples], self.args.device)
            counts = [FusionCounts() for _ in samples]
            if phase == "fusion":
                counts = [fusion_counts(one, batch) for one, batch in zip(samples, batches, strict=True)]
                self._whole_counts = fusion_totals(counts, self.args.world_size, self.args.device)
            self._window = list(zip(batches, counts, strict=True))
        return samples, items

    def _batch(self, inputs: Mapping[str, Any]) -> tuple[GlobalBatch, FusionCounts]:
        """The whole batch that `inputs` is a part of, and the counts of that part."""
        if self._micro_step < len(self._window):
            return self._window[self._micro_step]
        (batch,) = global_batches([len(inputs["pixel_values_videos"])], self.args.device)  # called without the loop
        counts = fusion_counts(inputs, batch) if self._phase() == "fusion" else FusionCounts()
        self._whole_counts = fusion_totals([counts], self.args.world_size, self.args.device)
        return batch, counts

    # -- one step ----------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch, in chunks of `contrastive_chunk_size` where that is given."""
        # Counted within the step, because the last step of an epoch may have fewer batches than the others.
        self._micro_step = self._micro_step + 1 if self._drawn_step == self.state.global_step else 0
        self._drawn_step = self.state.global_step
        self._steps_noted += self._micro_step == 0
        if self.args.contrastive_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):  # schedule-free optimizers
            optimizer.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            step = self._contrastive_step if self._phase() == "contrastive" else self._fusion_step
            return step(model, inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch; in training of this process's share, with its terms noted for the log.

        Args:
            model: the (wrapped) model.
            inputs: its keyword arguments.
            return_outputs: whether to return the outputs too.
            num_items_in_batch: passed on to `Trainer`.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        phase, steps = self._phase(), self._steps_of_window()
        batch, counts = self._batch(inputs) if phase else (GlobalBatch((0,)), FusionCounts())
        if phase == "contrastive":
            inputs, draw = self._with_draw(inputs, batch)
            if batch.processes > 1 or self.args.contrastive_block_size is not None:
                outputs = model(**inputs, return_loss=False)
                shares = contrastive_shares(self._criterion(), outputs, draw, batch, self.args.contrastive_block_size)
                self._note(shares, 1 / steps)
                loss = self._criterion().total(shares)
                return (loss, outputs) if return_outputs else loss
            inputs = inputs if draw is None else {**inputs, "mtc_draw": draw}
        if phase == "fusion" and (batch.processes > 1 or steps > 1):
            outputs = model(**self._with_pairs(inputs, batch))
            shares = fusion_shares(outputs, counts, self._whole_counts, batch.processes)
            self._note(shares, 1.0)
            loss = self._criterion().total(shares) * steps  # which the Trainer divides by
            return (loss, outputs) if return_outputs else loss
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if isinstance(outputs, Mapping):
            self._note({name: outputs.get(name) for name in TERMS}, 1 / steps)
        return (loss, outputs) if return_outputs else loss

    def _steps_of_window(self) -> int:
        """Batches that this optimisation step accumulates; the last step of an epoch may have fewer."""
        return getattr(self, "current_gradient_accumulation_steps", 1)

    def _contrastive_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The gradient of a batch from its chunks; features of the whole batch meet without their graphs."""
        batch, _ = self._batch(inputs)
        inputs, draw = self._with_draw(inputs, batch)
        criterion, steps = self._criterion(), self._steps_of_window()

        def loss_of(features: dict[str, torch.Tensor]) -> torch.Tensor:
            shares = contrastive_shares(criterion, features, draw, batch, self.args.contrastive_block_size)
            self._note(shares, 1 / steps)
            return criterion.total(shares) / steps

        chunks = split_inputs(inputs, number_of_chunks(batch.sizes, self.args.contrastive_chunk_size))
        return cached_backward(
            partial(model, return_loss=False), chunks, loss_of, self._backward, partial(self._deferred, model)
        )

    def _fusion_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The gradient of a batch from its chunks; with counts of the whole step, terms are sums over chunks."""
        batch, _ = self._batch(inputs)
        chunks = split_inputs(
            self._with_pairs(inputs, batch), number_of_chunks(batch.sizes, self.args.contrastive_chunk_size)
        )
        total = torch.zeros((), device=self.args.device)
        for place, chunk in enumerate(chunks, start=1):
            counts = fusion_counts(chunk, batch)
            with self._deferred(model) if place < len(chunks) else nullcontext():
                shares = fusion_shares(model(**chunk), counts, self._whole_counts, batch.processes)
                loss = self._criterion().total(shares)
                self._backward(loss)
            self._note(shares, 1.0)
            total += loss.detach()
        return total

    def _backward(self, loss: torch.Tensor) -> None:
        """Backward of a scalar that is already divided by the accumulation steps, with loss scaling."""
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if is_deepspeed else {}))

    @contextmanager
    def _deferred(self, model: nn.Module) -> Iterator[None]:
        """Passes in here add to gradients; processes do not exchange them yet, and DeepSpeed takes no step."""
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(before)

    # -- pairs, draws, terms -----------------------------------------------------------------------------------------

    def _with_draw(self, inputs: dict[str, Any], batch: GlobalBatch) -> tuple[dict[str, Any], MTCDraw | None]:
        """`inputs` without MTC's positions, and the positions of this step: those given, where there are any."""
        given = inputs.get("mtc_draw")
        inputs = {name: value for name, value in inputs.items() if name != "mtc_draw"}
        config: Any = self._base_model().config
        if given is not None or not config.temporal_alignment:
            return inputs, given
        videos = inputs["pixel_values_videos"]
        draw = draw_mtc(
            len(videos),
            inputs.get("num_clips") or config.num_clips,
            config.num_anchors,
            config.num_candidates,
            seed=self.args.seed,
            step=self.state.global_step * self.args.gradient_accumulation_steps + self._micro_step,
            first_sample=batch.first,
            device=videos.device,
        )
        return inputs, draw

    def _with_pairs(self, inputs: dict[str, Any], batch: GlobalBatch) -> dict[str, Any]:
        """`inputs` whose mismatched pairs are made from the batch of all processes, unless pairs are given."""
        if inputs.get("vtm_targets") is not None:
            return inputs
        videos, targets = mismatched_videos(inputs["pixel_values_videos"], batch)
        return {**inputs, "pixel_values_videos": videos, "vtm_targets": targets}

    def _note(self, shares: Mapping[str, torch.Tensor | None], weight: float) -> None:
        """Add terms to what the next log entry is made of."""
        for name, share in shares.items():
            if share is not None:
                self._term_sums[name] += share.detach().float() * weight

    def _noted_terms(self) -> dict[str, float]:
        """Mean of every term over steps and processes since the last time. Every process must call it."""
        terms = {name: total / max(self._steps_noted, 1) for name, total in sorted(self._term_sums.items())}
        self._term_sums.clear()
        self._steps_noted = 0
        if not terms:
            return {}
        means = torch.stack(list(terms.values()))
        if self.args.world_size > 1:
            means = self.accelerator.reduce(means, "mean")
        return dict(zip(terms, means.tolist(), strict=True))

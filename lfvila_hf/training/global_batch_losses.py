# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Losses over the global batch: all processes, gradient caching, gradient accumulation.

| | contrastive phase | fusion phase |
|---|---|---|
| one process | the model's own loss | the model's own loss |
| several processes | local rows x global columns | pairs and counts of the global batch |
| chunks of a batch | gradient caching | counts of the global batch |
| accumulated batches | every batch is its own contrast | counts of all: equal to one large batch |

The file goes from the bottom up:

1. `GlobalBatch`: rows of every process, features gathered with their gradients, videos of mismatched pairs;
2. `contrastive_shares`, `fusion_shares`: this process's *share* of every loss term, which is its part times the number
   of processes. The mean of all shares is the term, in value (logged by the Trainer) and in gradient (averaged by
   `DistributedDataParallel`);
3. `cached_backward`: gradient caching;
4. `GlobalBatchLossMixin`: the training step of `LFVilaTrainer`.

Batches may be uneven (end of an epoch, skipped samples). Memory: one forward and backward over a chunk (or over the
batch of this process), the features of the global batch, `B x (2 + M + K) x D`, and one video more while pairs are
mismatched.

Letters: B videos of the global batch, b of this process, M sentences, K clips, D width, T frames, P tokens of a frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch import nn

from lfvila_hf.loss_lfvila import (
    LFVilaLoss,
    MTCDraw,
    MTCLoan,
    contrastive_row_sum,
    draw_mtc,
    mismatched_pairs,
    mtc_loan,
    mtc_sums,
)
from lfvila_hf.modeling_lfvila import LFVilaForPreTraining, LFVilaModel

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

Inputs = dict[str, Any]

FEATURES = ("text_embeds", "video_embeds", "sentence_embeds", "clip_embeds", "sentence_mask")
"""Outputs of a model that the contrastive losses read."""
TERMS = ("global_loss", "mtc_loss", "mlm_loss", "vtm_loss", "span_loss")
"""Unweighted loss terms that a model's outputs may hold."""

# -- 1. the global batch ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GlobalBatch:
    """Rows that each process holds of one batch, in the order of the processes.

    Args:
        sizes: Number of rows of every process.
        rank: This process.
    """

    sizes: tuple[int, ...]
    rank: int = 0

    @property
    def rows(self) -> int:
        """Number of rows of this process."""
        return self.sizes[self.rank]

    @property
    def first(self) -> int:
        """Index of this process's first row in the global batch."""
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        """Number of rows of the global batch, B."""
        return sum(self.sizes)

    @property
    def processes(self) -> int:
        """Number of processes."""
        return len(self.sizes)

    def gather(self, local: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows of all processes, with gradients: `(b, ...)` of each to `(B, ...)`.

        Every process must call it, with tensors that differ in their first axis only.
        """
        return local if self.processes == 1 else _Gather.apply(local, self)

    def sum(self, local: torch.Tensor) -> torch.Tensor:
        """Sum over processes, without a gradient."""
        if self.processes == 1:
            return local.detach()
        total = local.detach().clone()
        dist.all_reduce(total)
        return total


def global_batches(rows: Sequence[int], device: torch.device | str | None = None) -> list[GlobalBatch]:
    """Exchange batch sizes: make one `GlobalBatch` for every batch of an optimizer step.

    Every process must call it with the same number of batches.

    Args:
        rows: Rows of this process in each batch.
        device: Device that the process group's backend communicates on.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [GlobalBatch((count,)) for count in rows]
    mine = torch.tensor(rows, dtype=torch.int64, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    sizes = torch.stack(parts, 1).tolist()  # batches x processes
    return [GlobalBatch(tuple(of_one), dist.get_rank()) for of_one in sizes]


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums the gradients that all processes have for a row."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, batch: GlobalBatch) -> torch.Tensor:
        ctx.batch = batch
        padded = local.new_zeros((max(batch.sizes), *local.shape[1:]))
        padded[: batch.rows] = local
        parts = [torch.empty_like(padded) for _ in batch.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, batch.sizes, strict=True)])  # (B, ...)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        batch: GlobalBatch = ctx.batch
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[batch.first : batch.first + batch.rows], None


def mismatched_videos(videos: torch.Tensor, batch: GlobalBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair the texts of the global batch's first half with their neighbour's video (`mismatched_pairs`).

    Neighbours are adjacent rows, so a process receives at most one video from another one.

    Args:
        videos: Videos of this process, `(b, T, 3, H, W)`.
        batch: The global batch.

    Returns:
        The videos paired with this process's texts, `(b, T, 3, H, W)`, and `vtm_targets` `(b,)`: 0 for mismatched, 1
        for matched pairs.
    """
    index, targets = mismatched_pairs(batch.total)
    ends = [sum(batch.sizes[: rank + 1]) for rank in range(batch.processes)]
    owner = [next(rank for rank, end in enumerate(ends) if row < end) for row in range(batch.total)]
    mine = range(batch.first, batch.first + batch.rows)
    received: dict[int, torch.Tensor] = {}
    exchanges = []
    for row, wanted in enumerate(index.tolist()):
        if owner[row] == owner[wanted]:
            continue
        if owner[row] == batch.rank:
            received[wanted] = torch.empty_like(videos[0])
            exchanges.append(dist.P2POp(dist.irecv, received[wanted], owner[wanted]))
        elif owner[wanted] == batch.rank:
            exchanges.append(dist.P2POp(dist.isend, videos[wanted - batch.first].contiguous(), owner[row]))
    if exchanges:
        for request in dist.batch_isend_irecv(exchanges):
            request.wait()
    paired = [received[one] if one in received else videos[one - batch.first] for one in index[mine].tolist()]
    return torch.stack(paired), targets[mine].to(videos.device)


# -- 2. shares of the losses -----------------------------------------------------------------------------------------


def contrastive_shares(
    criterion: LFVilaLoss,
    features: Mapping[str, Any],
    draw: MTCDraw | None,
    batch: GlobalBatch,
    block_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """Compute this process's shares of the contrastive losses.

    Every process must call it. Float32 features are widened to float64 on devices that have it, and so are the parts
    of their gradients, most of which cancel. Otherwise rounding would depend on how the batch is split, and a
    temperature of 0.05 makes it twenty times as large.

    Args:
        criterion: Temperatures and MTC's settings.
        features: `text_embeds` and `video_embeds` `(b, D)`; for MTC also `sentence_embeds` `(b, M, D)`, `clip_embeds`
            `(b, K, D)` and `sentence_mask` `(b, M)`. M may differ between processes.
        draw: MTC's positions for these rows. Required with clip features.
        batch: The global batch.
        block_size: Rows whose logits are in memory at once. Defaults to all rows of this process.

    Returns:
        `global_loss` and, with clip features, `mtc_loss`: scalars whose mean over processes is the term.

    Raises:
        ValueError: `draw` is missing.
    """
    features = {name: _widened(value) for name, value in features.items() if name in FEATURES and value is not None}
    text, video = features["text_embeds"], features["video_embeds"]
    loan = None
    shared = [text, video]
    sentences, clips = features.get("sentence_embeds"), features.get("clip_embeds")
    if sentences is not None and clips is not None:
        if draw is None:
            raise ValueError("MTC needs a draw of positions for clip features, got draw=None. Make one with draw_mtc.")
        loan = mtc_loan(sentences, clips, draw, features.get("sentence_mask"), criterion.other_negatives)
        shared += [loan.sentences, loan.clips]
    gathered = batch.gather(torch.stack(shared, 1)).unbind(1)  # 2 or 4 tensors (B, D), in one exchange
    where = criterion.temperature, batch.first, block_size
    to_video = contrastive_row_sum(text, gathered[1], *where)
    to_text = contrastive_row_sum(video, gathered[0], *where)
    part = batch.processes / batch.total
    shares = {"global_loss": to_video * part + to_text * part}
    if loan is not None and draw is not None and sentences is not None and clips is not None:
        takes_part = batch.gather(loan.takes_part.to(torch.uint8)).bool()  # (B,)
        total, count = mtc_sums(
            sentences,
            clips,
            draw,
            MTCLoan(gathered[2], gathered[3], takes_part),
            criterion.temporal_temperature,
            criterion.other_negatives,
            criterion.num_other_negatives,
            batch.first,
        )
        shares["mtc_loss"] = total * batch.processes / batch.sum(count).clamp(min=1)
    return shares


def _widened(features: torch.Tensor) -> torch.Tensor:
    """Convert float32 features to float64 on devices that have it."""
    has_float64 = features.device.type in ("cpu", "cuda")
    return features.double() if features.dtype == torch.float32 and has_float64 else features


@dataclass(frozen=True)
class FusionCounts:
    """Counts that the fusion phase's means are taken over, of any part of an optimizer step.

    Args:
        pairs: Texts with their videos.
        tokens: Masked tokens of matched pairs.
    """

    pairs: float = 0
    tokens: float = 0

    def __add__(self, other: FusionCounts) -> FusionCounts:
        return FusionCounts(self.pairs + other.pairs, self.tokens + other.tokens)


def fusion_counts(inputs: Mapping[str, Any], batch: GlobalBatch) -> FusionCounts:
    """Count pairs and masked tokens of this process's rows.

    Args:
        inputs: A batch of the loader, with `vtm_targets` `(b,)` if pairs are given.
        batch: The global batch, whose first half is mismatched unless pairs are given.
    """
    pairs = len(inputs["pixel_values_videos"])
    mlm_targets, vtm_targets = inputs.get("mlm_targets"), inputs.get("vtm_targets")
    if mlm_targets is None:
        return FusionCounts(pairs)
    if vtm_targets is None:
        vtm_targets = mismatched_pairs(batch.total)[1][batch.first : batch.first + batch.rows]
    matched = (vtm_targets != 0).to(mlm_targets.device)  # (b,)
    return FusionCounts(pairs, float((mlm_targets[matched] != -100).sum()))


def fusion_totals(parts: Sequence[FusionCounts], processes: int, device: torch.device | str | None) -> FusionCounts:
    """Sum the counts of an optimizer step over its batches and over all processes, each of which must call it."""
    own = sum(parts, FusionCounts())
    if processes == 1:
        return own
    counts = torch.tensor([own.pairs, own.tokens], dtype=torch.float32, device=device)
    dist.all_reduce(counts)
    return FusionCounts(*counts.tolist())


def fusion_shares(
    outputs: Mapping[str, Any], part: FusionCounts, total: FusionCounts, processes: int
) -> dict[str, torch.Tensor]:
    """Compute the shares of the fusion losses that one part of an optimizer step has.

    Args:
        outputs: Outputs of the model for that part: `mlm_loss` (mean over the part's masked tokens) and `vtm_loss`.
        part: Counts of that part.
        total: Counts of the step, over all processes and accumulated batches.
        processes: Number of processes.

    Returns:
        `mlm_loss` and `vtm_loss`, if the outputs have them. Summed over the parts of a process and averaged over
        processes they are the terms of the step.
    """
    weights = {
        "mlm_loss": part.tokens / max(total.tokens, 1),
        "vtm_loss": part.pairs / max(total.pairs, 1),
    }
    return {
        name: outputs[name] * (weight * processes) for name, weight in weights.items() if outputs.get(name) is not None
    }


# -- 3. gradient caching ---------------------------------------------------------------------------------------------


class RandomState:
    """State of torch's random generators that a forward draws from: the CPU's, and that of its device.

    Args:
        device: Device of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.backend: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self.accelerator = None if self.backend is None else self.backend.get_rng_state(device)

    def restore(self) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.backend is not None:
            self.backend.set_rng_state(self.accelerator, self.device)


def number_of_chunks(sizes: tuple[int, ...], chunk_size: int) -> int:
    """Compute the number of chunks, the same for all processes.

    It must be the same because wrapped models (FSDP, DeepSpeed) communicate in every forward.

    Args:
        sizes: Number of rows of every process.
        chunk_size: Largest number of rows of a chunk. Chunks are larger only if a process has fewer rows than chunks.
    """
    return min(-(-max(sizes) // chunk_size), min(sizes))


def split_inputs(inputs: Mapping[str, Any], chunks: int) -> list[Inputs]:
    """Split a batch into nearly equal chunks.

    Args:
        inputs: Keyword arguments of a model. Tensors have B rows; anything else is copied to every chunk.
        chunks: Number of chunks.
    """
    rows = len(inputs["pixel_values_videos"])
    parts: list[Inputs] = [{} for _ in range(chunks)]
    for name, value in inputs.items():
        is_split = torch.is_tensor(value) and value.ndim > 0 and len(value) == rows
        pieces = value.tensor_split(chunks) if is_split else [value] * chunks
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece
    return parts


def features_of(outputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Select the features that the contrastive losses read."""
    return {name: outputs[name] for name in FEATURES if outputs.get(name) is not None}


def cached_backward(
    forward: Callable[..., Mapping[str, Any]],
    chunks: list[Inputs],
    loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    deferred: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """Add the gradient of `loss_of(features of all chunks)` to the parameters behind `forward`.

    A contrastive loss needs the features of the full batch at once, but not their graphs (Gao et al., "Scaling deep
    contrastive learning batch size under memory limited setup", 2021):

    1. encode every chunk without a graph, except the last one, whose graph would only be made again;
    2. compute the loss of the global batch from the features alone, and the gradient of every feature;
    3. encode chunk by chunk with a graph, from the same random state, so that dropout and stochastic depth drop the
       same things, and propagate the features' gradients to the parameters.

    Memory: the graph of one chunk, the features, one random state a chunk. Time: one more forward for all chunks but
    one (`benchmarks/contrastive_time.py`).

    Args:
        forward: Encodes the keyword arguments of one chunk and returns embeddings, no loss.
        chunks: Chunks of `split_inputs`.
        loss_of: Computes the loss from the features of the full batch.
        backward: Runs the backward pass of a scalar, with loss scaling if there is any.
        deferred: Context for all passes but the last, in which gradients are not reduced over processes yet.

    Returns:
        The loss, detached.
    """
    device = chunks[0]["pixel_values_videos"].device
    last = len(chunks) - 1
    states: list[RandomState] = []
    encoded: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for chunk in chunks[:-1]:
            states.append(RandomState(device))
            encoded.append(features_of(forward(**chunk)))
    torch.clear_autocast_cache()  # weights that were cast without a graph must not serve the passes that need one
    with deferred() if last else nullcontext():
        kept = features_of(forward(**chunks[-1]))
    encoded.append(kept)
    after = RandomState(device)

    features = {name: torch.cat([part[name].detach() for part in encoded]) for name in kept}  # (b, ...)
    leaves = {name: value.requires_grad_() for name, value in features.items() if value.is_floating_point()}
    with torch.enable_grad():
        loss = loss_of(features)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    by_chunk = _split_gradients(dict(zip(leaves, gradients, strict=True)), encoded)

    with deferred() if last else nullcontext():
        backward(_surrogate(kept, by_chunk[-1]))
    del kept
    encoded.clear()
    for number, (chunk, state) in enumerate(zip(chunks[:-1], states, strict=True), start=1):
        state.restore()
        with deferred() if number < last else nullcontext():
            backward(_surrogate(features_of(forward(**chunk)), by_chunk[number - 1]))
    after.restore()
    return loss.detach()


def _split_gradients(
    gradients: Mapping[str, torch.Tensor | None], encoded: list[dict[str, torch.Tensor]]
) -> list[dict[str, torch.Tensor]]:
    """Split the gradients of the features into those of the chunks."""
    sizes = [len(part["text_embeds"]) for part in encoded]
    parts: list[dict[str, torch.Tensor]] = [{} for _ in encoded]
    for name, gradient in gradients.items():
        if gradient is not None:
            for part, piece in zip(parts, gradient.split(sizes), strict=True):
                part[name] = piece
    return parts


def _surrogate(features: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute a scalar that has the loss's gradient: the sum of features times their gradients."""
    return torch.stack([(features[name] * gradient).sum() for name, gradient in gradients.items()]).sum()


# -- 4. the training step --------------------------------------------------------------------------------------------


class GlobalBatchLossMixin(Trainer):
    """Training step of `LFVilaTrainer`: losses of the global batch. A mixin in front of transformers' `Trainer`."""

    args: Any
    compute_loss_func: Any

    def _reset_loss_state(self) -> None:
        """Forget the terms, steps and counts of an earlier training."""
        self._term_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._steps_noted = 0
        self._micro_step, self._drawn_step = 0, -1
        self._window: list[tuple[GlobalBatch, FusionCounts]] = []
        self._step_counts = FusionCounts()

    def _base_model(self, model: Any = None) -> Any:
        """Return the LF-VILA model inside its wrappers (DDP, PEFT). Defaults to that of the trainer's model."""
        model = self.accelerator.unwrap_model(self.model if model is None else model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _phase(self, model: Any = None) -> Literal["contrastive", "fusion"] | None:
        """Return the phase that a model is trained in; `None` for task heads. Defaults to the trainer's model."""
        base = self._base_model(model)
        if isinstance(base, LFVilaModel):
            return "contrastive"
        return base.config.training_phase if isinstance(base, LFVilaForPreTraining) else None

    def _criterion(self) -> LFVilaLoss:
        """Return the loss function that holds weights and temperatures."""
        given = self.compute_loss_func
        return given if isinstance(given, LFVilaLoss) else LFVilaLoss(self._base_model().config)

    def _check_loss_parts(self, model: Any) -> None:
        """Refuse settings under which a model's loss cannot be split.

        Raises:
            ValueError: Chunks for a task head, a loss function that is no `LFVilaLoss`, or one process for several
                devices.
        """
        phase = self._phase(model)
        if self.args.n_gpu > 1 and phase is not None:
            raise ValueError(
                f"one process drives {self.args.n_gpu} devices, which cuts the batch of a loss into pieces; "
                "expected a process for each: start with torchrun or accelerate launch, or show one device"
            )
        chunked = self.args.contrastive_chunk_size is not None
        if chunked and phase is None:
            raise ValueError(
                "contrastive_chunk_size is for LFVilaModel and LFVilaForPreTraining, got "
                f"{type(self._base_model(model)).__name__}; use gradient_accumulation_steps"
            )
        in_parts = chunked or self.args.world_size > 1 or self.args.contrastive_block_size is not None
        if in_parts and phase and not isinstance(self.compute_loss_func, LFVilaLoss | None):
            raise ValueError(
                "compute_loss_func must be an LFVilaLoss when the loss is made of parts (several processes, "
                f"contrastive_chunk_size, contrastive_block_size), got {type(self.compute_loss_func).__name__}"
            )

    def _freeze_fusion_modules(self, model: Any) -> None:
        """Freeze fusion modules in the contrastive phase of several processes; DDP would wait for their gradients."""
        base = self._base_model(model)
        if self.args.world_size > 1 and isinstance(base, LFVilaForPreTraining) and self._phase(model) == "contrastive":
            for name, parameter in base.named_parameters():
                if not name.startswith("model."):
                    parameter.requires_grad_(False)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the batches of one optimizer step, and exchange the counts that their losses are means over."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        self._window.clear()
        phase = self._phase()
        if samples and phase is not None:
            batches = global_batches([len(one["pixel_values_videos"]) for one in samples], self.args.device)
            counts = [FusionCounts() for _ in samples]
            if phase == "fusion":
                counts = [fusion_counts(one, batch) for one, batch in zip(samples, batches, strict=True)]
                self._step_counts = fusion_totals(counts, self.args.world_size, self.args.device)
            self._window = list(zip(batches, counts, strict=True))
        return samples, items

    def _batch(self, inputs: Mapping[str, Any]) -> tuple[GlobalBatch, FusionCounts]:
        """Return the global batch that `inputs` is a part of, and the counts of that part."""
        if self._micro_step < len(self._window):
            return self._window[self._micro_step]
        (batch,) = global_batches([len(inputs["pixel_values_videos"])], self.args.device)  # called without the loop
        counts = fusion_counts(inputs, batch) if self._phase() == "fusion" else FusionCounts()
        self._step_counts = fusion_totals([counts], self.args.world_size, self.args.device)
        return batch, counts

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward of one batch, in chunks with `contrastive_chunk_size`."""
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
        """Compute the loss of one batch. In training it is this process's share, and its terms go into the log.

        Args:
            model: The (wrapped) model.
            inputs: Its keyword arguments.
            return_outputs: Return the outputs too.
            num_items_in_batch: Passed on to `Trainer`.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        phase, steps = self._phase(), self._accumulation_steps()
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
            shares = fusion_shares(outputs, counts, self._step_counts, batch.processes)
            self._note(shares, 1.0)
            loss = self._criterion().total(shares) * steps  # which the Trainer divides by
            return (loss, outputs) if return_outputs else loss
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if isinstance(outputs, Mapping):
            self._note({name: outputs.get(name) for name in TERMS}, 1 / steps)
        return (loss, outputs) if return_outputs else loss

    def _accumulation_steps(self) -> int:
        """Return the batches that this optimizer step accumulates; the last step of an epoch may have fewer."""
        return getattr(self, "current_gradient_accumulation_steps", 1)

    def _contrastive_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Run gradient caching over the chunks of a batch."""
        batch, _ = self._batch(inputs)
        inputs, draw = self._with_draw(inputs, batch)
        criterion, steps = self._criterion(), self._accumulation_steps()

        def loss_of(features: dict[str, torch.Tensor]) -> torch.Tensor:
            shares = contrastive_shares(criterion, features, draw, batch, self.args.contrastive_block_size)
            self._note(shares, 1 / steps)
            return criterion.total(shares) / steps

        chunks = split_inputs(inputs, number_of_chunks(batch.sizes, self.args.contrastive_chunk_size))
        return cached_backward(
            partial(model, return_loss=False), chunks, loss_of, self._backward, partial(self._deferred, model)
        )

    def _fusion_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Run forward and backward chunk by chunk; with the counts of the step, terms are sums over chunks."""
        batch, _ = self._batch(inputs)
        chunks = split_inputs(
            self._with_pairs(inputs, batch), number_of_chunks(batch.sizes, self.args.contrastive_chunk_size)
        )
        total = torch.zeros((), device=self.args.device)
        for number, chunk in enumerate(chunks, start=1):
            counts = fusion_counts(chunk, batch)
            with self._deferred(model) if number < len(chunks) else nullcontext():
                shares = fusion_shares(model(**chunk), counts, self._step_counts, batch.processes)
                loss = self._criterion().total(shares)
                self._backward(loss)
            self._note(shares, 1.0)
            total += loss.detach()
        return total

    def _backward(self, loss: torch.Tensor) -> None:
        """Run backward, with loss scaling, of a scalar that is already divided by the accumulation steps."""
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if is_deepspeed else {}))

    @contextmanager
    def _deferred(self, model: nn.Module) -> Iterator[None]:
        """Accumulate gradients without exchanging them between processes; DeepSpeed takes no step."""
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(before)

    def _with_draw(self, inputs: dict[str, Any], batch: GlobalBatch) -> tuple[dict[str, Any], MTCDraw | None]:
        """Separate MTC's positions from `inputs`, or draw them for this step.

        Positions are a function of (seed, step, row of the global batch), not of a generator's state, so neither a
        resumed run nor another number of processes changes them.
        """
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
        """Add mismatched pairs, made from the global batch, unless pairs are given."""
        if inputs.get("vtm_targets") is not None:
            return inputs
        videos, targets = mismatched_videos(inputs["pixel_values_videos"], batch)
        return {**inputs, "pixel_values_videos": videos, "vtm_targets": targets}

    def _note(self, shares: Mapping[str, torch.Tensor | None], weight: float) -> None:
        """Add loss terms to the next log entry."""
        for name, share in shares.items():
            if share is not None:
                self._term_sums[name] += share.detach().float() * weight

    def _mean_terms(self) -> dict[str, float]:
        """Average every term over steps and processes since the last call. Every process must call it."""
        terms = {name: total / max(self._steps_noted, 1) for name, total in sorted(self._term_sums.items())}
        self._term_sums.clear()
        self._steps_noted = 0
        if not terms:
            return {}
        means = torch.stack(list(terms.values()))
        if self.args.world_size > 1:
            means = self.accelerator.reduce(means, "mean")
        return dict(zip(terms, means.tolist(), strict=True))


__all__ = [
    "FEATURES",
    "TERMS",
    "FusionCounts",
    "GlobalBatch",
    "GlobalBatchLossMixin",
    "RandomState",
    "cached_backward",
    "contrastive_shares",
    "features_of",
    "fusion_counts",
    "fusion_shares",
    "fusion_totals",
    "global_batches",
    "mismatched_videos",
    "number_of_chunks",
    "split_inputs",
]

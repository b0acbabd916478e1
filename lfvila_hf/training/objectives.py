# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Both phases' losses over a batch that is larger than what one forward sees: many processes, accumulated batches.

Contrastive phase: a process makes its own rows of the global term, b rows x B columns, and its own anchors of MTC,
whose other negatives come from all B videos. Fusion phase: terms are means over masked tokens and pairs, so a part's
terms are weighted by its share of the counts of the whole optimisation step.

Every function gives *shares*: this process's part times the number of processes. Their mean over processes is the term,
in value (what the Trainer logs) and in gradient (what `DistributedDataParallel` makes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lfvila_hf.loss_lfvila import (
    LFVilaLoss,
    MTCDraw,
    MTCLoan,
    contrastive_row_sum,
    mismatched_pairs,
    mtc_loan,
    mtc_sums,
)
from lfvila_hf.training.gathering import GlobalBatch

FEATURES = ("text_embeds", "video_embeds", "sentence_embeds", "clip_embeds", "sentence_mask")
"""What the contrastive phase's terms read of a model's outputs."""


def contrastive_shares(
    criterion: LFVilaLoss,
    features: Mapping[str, Any],
    draw: MTCDraw | None,
    batch: GlobalBatch,
    block_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """This process's shares of the contrastive phase's terms.

    Every process must call it. Float32 features meet in float64 where the device has it, and so do the parts of their
    gradients, which cancel for the most part: rounding would differ with how the batch is cut, and a temperature of
    0.05 makes it twenty times as large.

    Args:
        criterion: temperatures and MTC's settings.
        features: `text_embeds` and `video_embeds` `(b, D)`; for MTC also `sentence_embeds` `(b, M, D)`, `clip_embeds`
            `(b, K, D)` and `sentence_mask` `(b, M)`; M may differ between processes.
        draw: MTC's positions for these rows; needed where there are clip features.
        batch: the whole batch.
        block_size: rows whose logits are in memory at once.

    Returns:
        `global_loss` and, with clip features, `mtc_loss`: scalars whose mean over processes is the term.
    """
    features = {name: _widened(value) for name, value in features.items() if name in FEATURES and value is not None}
    text, video = features["text_embeds"], features["video_embeds"]
    loan = None
    shared = [text, video]
    sentences, clips = features.get("sentence_embeds"), features.get("clip_embeds")
    if sentences is not None and clips is not None:
        if draw is None:
            raise ValueError("clip features are there but no draw: MTC needs its positions, see draw_mtc")
        loan = mtc_loan(sentences, clips, draw, features.get("sentence_mask"), criterion.other_negatives)
        shared += [loan.sentences, loan.clips]
    everyone = batch.gather(torch.stack(shared, 1)).unbind(1)  # 2 or 4 tensors (B, D), in one exchange
    where = criterion.temperature, batch.first, block_size
    to_video = contrastive_row_sum(text, everyone[1], *where)
    to_text = contrastive_row_sum(video, everyone[0], *where)
    part = batch.processes / batch.total
    shares = {"global_loss": to_video * part + to_text * part}
    if loan is not None and draw is not None and sentences is not None and clips is not None:
        takes_part = batch.gather(loan.takes_part.to(torch.uint8)).bool()  # (B,)
        total, count = mtc_sums(
            sentences,
            clips,
            draw,
            MTCLoan(everyone[2], everyone[3], takes_part),
            criterion.temporal_temperature,
            criterion.other_negatives,
            criterion.num_other_negatives,
            batch.first,
        )
        shares["mtc_loss"] = total * batch.processes / batch.sum(count).clamp(min=1)
    return shares


def _widened(features: torch.Tensor) -> torch.Tensor:
    """Float32 features in float64 on devices that have it; any others as they are."""
    has_float64 = features.device.type in ("cpu", "cuda")
    return features.double() if features.dtype == torch.float32 and has_float64 else features


@dataclass(frozen=True)
class FusionCounts:
    """What the fusion phase's means are taken over, of any part of an optimisation step.

    Attributes:
        pairs: texts with their videos.
        tokens: masked tokens of matched pairs.
    """

    pairs: float = 0
    tokens: float = 0

    def __add__(self, other: FusionCounts) -> FusionCounts:
        return FusionCounts(self.pairs + other.pairs, self.tokens + other.tokens)


def fusion_counts(inputs: Mapping[str, Any], batch: GlobalBatch) -> FusionCounts:
    """Counts of this process's rows of a batch.

    Args:
        inputs: a batch of the loader; with `vtm_targets` `(b,)` where pairs are given.
        batch: the whole batch, whose first half is mismatched where they are not.
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
    """Counts of a whole optimisation step over all processes, from this process's parts. Every process must call it."""
    own = sum(parts, FusionCounts())
    if processes == 1:
        return own
    counts = torch.tensor([own.pairs, own.tokens], dtype=torch.float32, device=device)
    torch.distributed.all_reduce(counts)
    return FusionCounts(*counts.tolist())


def fusion_shares(
    outputs: Mapping[str, Any], part: FusionCounts, whole: FusionCounts, processes: int
) -> dict[str, torch.Tensor]:
    """Shares of the fusion phase's terms that a part of an optimisation step has.

    Args:
        outputs: of the model for that part: `mlm_loss` (mean over the part's masked tokens) and `vtm_loss`.
        part: counts of that part.
        whole: counts of the whole step, over all processes and accumulated batches.
        processes: number of processes.

    Returns:
        `mlm_loss` and `vtm_loss`, as far as they are there: summed over the parts of a process and averaged over
        processes they are the terms of the whole step.
    """
    weights = {
        "mlm_loss": part.tokens / max(whole.tokens, 1),
        "vtm_loss": part.pairs / max(whole.pairs, 1),
    }
    return {
        name: outputs[name] * (weight * processes) for name, weight in weights.items() if outputs.get(name) is not None
    }


__all__ = [
    "FEATURES",
    "FusionCounts",
    "contrastive_shares",
    "fusion_counts",
    "fusion_shares",
    "fusion_totals",
]

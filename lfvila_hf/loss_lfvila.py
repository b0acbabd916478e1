# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Losses of LF-VILA as pure functions of tensors (paper section 3.3, released `lfvila_pretrain.py`).

Pre-training has two phases with two terms each:

1. contrastive: *global* (paragraph against video over the batch) plus 0.25 x *MTC*, the multimodal temporal
   contrastive loss (sentence against clip within the video);
2. fusion: *MLM* (masked language modelling with the video as context) plus 10 x *VTM* (video-text matching).

Every function returns the unweighted term as a scalar. It stays finite and keeps its graph on degenerate batches (one
video, one clip, nothing masked, every anchor tied). `LFVilaLoss` sums the terms from a model's outputs alone, as in
`Trainer(compute_loss_func=LFVilaLoss())`.

Memory: B x B cosines for the global term, B x anchors x (candidates + others) for MTC. In distributed training each
process computes only its rows of the global batch (`contrastive_row_sum`, `mtc_sums`).

Random choices are counter-based: a hash of (seed, step, sample, position), no generator state. A draw is therefore the
same on every device, for every number of processes, and after a resume.

Letters: B videos, K clips, M sentences, L tokens, T frames, P tokens per frame, D width.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_lfvila import LFVilaConfig


class MTCDraw(NamedTuple):
    """Positions drawn for MTC; all int64.

    Args:
        anchors: Clip positions whose sentence (clip) is to be matched with a clip (sentence), `(B, num_anchors)`.
        candidates: Clip positions to choose from, `(B, num_candidates)`.
        others: Clip position that each video lends to other videos as a negative, `(B,)`.
    """

    anchors: torch.Tensor
    candidates: torch.Tensor
    others: torch.Tensor


def _hash32(value: torch.Tensor) -> torch.Tensor:
    """Hash 32-bit numbers held in int64 (a two-round multiply-xorshift finaliser) to the same shape, in [0, 2**32)."""
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return value ^ (value >> 15)


def random_keys(
    seed: int | torch.Tensor, step: int | torch.Tensor, samples: torch.Tensor, count: int, stream: int
) -> torch.Tensor:
    """Generate reproducible random integers for every sample of a step.

    Args:
        seed: Seed of the run.
        step: Optimisation step (0 in evaluation).
        samples: Number of each sample in the global batch, `(B,)` int64.
        count: Integers per sample.
        stream: Number of the purpose; streams are independent of each other.

    Returns:
        `(B, count)` int64 in [0, 2**32).
    """
    state = _hash32(torch.as_tensor(seed, device=samples.device, dtype=torch.int64) + 0x9E3779B9 * (stream + 1))
    state = _hash32(state ^ _hash32(torch.as_tensor(step, device=samples.device, dtype=torch.int64) + 0x7F4A7C15))
    rows = _hash32(state ^ _hash32(samples.to(torch.int64) + 0x2545F491))  # (B,)
    columns = torch.arange(count, device=samples.device)  # (count,)
    return _hash32(rows[:, None] ^ _hash32(columns + 0x1B873593)[None])  # (B, count)


def draw_mtc(
    num_videos: int,
    num_clips: int,
    num_anchors: int = 2,
    num_candidates: int = 2,
    *,
    seed: int | torch.Tensor = 0,
    step: int | torch.Tensor = 0,
    first_sample: int = 0,
    device: torch.device | str | None = None,
) -> MTCDraw:
    """Draw MTC's positions: anchors and, independently, candidates, each without repetition within a video.

    Args:
        num_videos: B of the batch to draw for.
        num_clips: K. If K is less than `num_anchors` (`num_candidates`), all K are drawn.
        num_anchors: Anchors per video. Defaults to 2.
        num_candidates: Candidates per video. Defaults to 2.
        seed: Seed of the run. Defaults to 0.
        step: Optimisation step. Defaults to 0.
        first_sample: Number of the first video in the global batch. Defaults to 0.
        device: Device of the result. Defaults to torch's default device.

    Returns:
        An `MTCDraw`, the same for the same (seed, step, sample) in any batch.
    """
    samples = torch.arange(num_videos, device=device) + first_sample  # (B,)
    anchors, candidates = (
        random_keys(seed, step, samples, num_clips, stream).argsort(dim=1)[:, :count]  # (B, count)
        for stream, count in ((0, num_anchors), (1, num_candidates))
    )
    others = random_keys(seed, step, samples, 1, 2)[:, 0] % num_clips  # (B,)
    return MTCDraw(anchors, candidates, others)


def _precise(features: torch.Tensor) -> torch.Tensor:
    """Cast features to float32 or wider: a cosine over a temperature of 0.05 has two digits left in bfloat16."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def contrastive_row_sum(
    rows: torch.Tensor,
    columns: torch.Tensor,
    temperature: float = 0.05,
    first_row: int = 0,
    block_size: int | None = None,
) -> torch.Tensor:
    """Compute one direction of the global term for some rows of the batch: summed cross-entropy against all columns.

    Args:
        rows: L2-normalised features of one modality, `(b, D)`.
        columns: L2-normalised features of the other, `(B, D)`; row i belongs to column `first_row + i`.
        temperature: Temperature tau. Defaults to 0.05.
        first_row: Index of the first row in the global batch. Defaults to 0.
        block_size: Rows whose logits are in memory at once; the backward pass recomputes them. Defaults to all.

    Returns:
        Scalar, in float32 or wider. Memory: `min(b, block_size)` x B logits.
    """

    def block(some: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(some.device.type, enabled=False):
            logits = _precise(some) @ _precise(columns).T / temperature  # (rows of the block, B)
            return F.cross_entropy(logits, targets, reduction="sum")

    targets = torch.arange(rows.shape[0], device=rows.device) + first_row
    if block_size is None or block_size >= rows.shape[0]:
        return block(rows, targets)
    blocks = zip(rows.split(block_size), targets.split(block_size), strict=True)
    return torch.stack([checkpoint(block, *one, use_reentrant=False, preserve_rng_state=False) for one in blocks]).sum()


def global_contrastive_loss(
    text_features: torch.Tensor, video_features: torch.Tensor, temperature: float = 0.05, block_size: int | None = None
) -> torch.Tensor:
    """Compute the global contrastive loss: paragraph against video over the batch, both directions summed.

    Args:
        text_features: L2-normalised paragraph features, `(B, D)`.
        video_features: L2-normalised video features, `(B, D)`; row i belongs to paragraph i.
        temperature: Temperature tau; logits are cosines over it. Defaults to 0.05.
        block_size: Rows whose logits are in memory at once, see `contrastive_row_sum`. Defaults to all.

    Returns:
        Scalar: mean over the batch of each direction, added.

    Raises:
        ValueError: The numbers of texts and videos differ, or there are none.
    """
    if text_features.shape != video_features.shape or text_features.ndim != 2 or text_features.shape[0] == 0:
        raise ValueError(
            f"pairs are expected: text features {tuple(text_features.shape)} and video features "
            f"{tuple(video_features.shape)} must have the same shape (B, D), B >= 1"
        )
    pairs = text_features.shape[0]
    to_video = contrastive_row_sum(text_features, video_features, temperature, block_size=block_size)
    to_text = contrastive_row_sum(video_features, text_features, temperature, block_size=block_size)
    return to_video / pairs + to_text / pairs


class MTCLoan(NamedTuple):
    """Negatives that each video of a batch lends to other videos: one sentence and the clip at the same position.

    Args:
        sentences: Sentence features, `(B, D)`.
        clips: Clip features, `(B, D)`.
        takes_part: `(B,)` bool; a video that takes no part in the loss lends nothing.
    """

    sentences: torch.Tensor
    clips: torch.Tensor
    takes_part: torch.Tensor


def _pick(features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Gather rows at `positions` `(B, n)` from `(B, length, D)`; positions past the end read the last row."""
    positions = positions.clamp(max=features.shape[1] - 1)
    return features.gather(1, positions[:, :, None].expand(-1, -1, features.shape[2]))


def mtc_loan(
    sentence_features: torch.Tensor,
    clip_features: torch.Tensor,
    draw: MTCDraw,
    sentence_mask: torch.Tensor | None = None,
    other_negatives: Literal["others", "released"] = "others",
) -> MTCLoan:
    """Collect the negatives that each video lends to the others; arguments and errors as for `mtc_loss`."""
    batch, num_sentences, width = sentence_features.shape
    num_clips = clip_features.shape[1]
    if clip_features.shape != (batch, num_clips, width) or draw.anchors.shape[0] != batch:
        raise ValueError(
            f"sentence features {tuple(sentence_features.shape)}, clip features {tuple(clip_features.shape)} and a "
            f"draw for {draw.anchors.shape[0]} videos must agree in B and D"
        )
    if sentence_mask is not None and sentence_mask.shape != (batch, num_sentences):
        raise ValueError(f"sentence_mask must be ({batch}, {num_sentences}), got {tuple(sentence_mask.shape)}")
    if other_negatives not in ("others", "released"):
        raise ValueError(f'other_negatives must be "others" or "released", got {other_negatives!r}')
    released = other_negatives == "released"
    if released or sentence_mask is None:
        takes_part = torch.full((batch,), num_sentences == num_clips or released, device=clip_features.device)  # (B,)
    else:
        real = sentence_mask.bool()
        takes_part = (real.sum(1) == num_clips) & real[:, :num_clips].all(1) & (num_sentences >= num_clips)  # (B,)
    place = draw.others[:, None]  # (B, 1)
    return MTCLoan(_pick(sentence_features, place)[:, 0], _pick(clip_features, place)[:, 0], takes_part)


def mtc_sums(
    sentence_features: torch.Tensor,
    clip_features: torch.Tensor,
    draw: MTCDraw,
    loan: MTCLoan,
    temperature: float = 0.05,
    other_negatives: Literal["others", "released"] = "others",
    num_other_negatives: int = 3,
    first_row: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute MTC for some rows of the batch: summed cross-entropy of both directions, and the number of anchors.

    Args:
        sentence_features: Sentence features of these rows, `(b, M, D)`.
        clip_features: Clip features of these rows, `(b, K, D)`.
        draw: Positions of these rows.
        loan: Negatives lent by all B videos of the batch, in order.
        temperature: Temperature tau. Defaults to 0.05.
        other_negatives: As for `mtc_loss`.
        num_other_negatives: As for `mtc_loss`.
        first_row: Index of the first row in the global batch. Defaults to 0.

    Returns:
        Sum and number of anchors, two scalars. The sum is float32 or wider, and 0 (with a graph) without any anchor.
    """
    rows, batch = sentence_features.shape[0], loan.takes_part.shape[0]
    released = other_negatives == "released"
    rolls = range(num_other_negatives) if released else range(1, min(num_other_negatives, batch - 1) + 1)
    device = clip_features.device
    shifts = torch.arange(rolls.start, rolls.start + len(rolls), device=device)  # (R,)
    lenders = (torch.arange(rows, device=device)[:, None] + first_row - shifts) % batch  # (b, R)

    distance = (draw.anchors[:, :, None] - draw.candidates[:, None, :]).abs()  # (b, A, C)
    nearest, positive = distance.min(dim=2)  # (b, A), (b, A)
    tied = (distance == nearest[:, :, None]).sum(2) > 1  # (b, A)
    counted = loan.takes_part[first_row : first_row + rows, None] & ~tied  # (b, A)

    def direction(
        anchor_side: torch.Tensor, candidate_side: torch.Tensor, lent: torch.Tensor
    ) -> torch.Tensor:  # (b, A)
        anchors = _precise(_pick(anchor_side, draw.anchors))  # (b, A, D)
        candidates = _precise(_pick(candidate_side, draw.candidates))  # (b, C, D)
        within = anchors @ candidates.transpose(1, 2)  # (b, A, C)
        across = anchors @ _precise(lent[lenders]).transpose(1, 2)  # (b, A, R)
        across = across.masked_fill(~loan.takes_part[lenders][:, None], float("-inf"))
        logits = torch.cat([within, across], dim=2) / temperature  # (b, A, C + R)
        return F.cross_entropy(logits.flatten(0, 1), positive.flatten(), reduction="none").view_as(positive)

    with torch.autocast(device.type, enabled=False):
        to_clip = direction(sentence_features, clip_features, loan.clips)  # (b, A)
        per_anchor = to_clip + direction(clip_features, sentence_features, loan.sentences)  # (b, A)
        per_anchor = torch.where(counted, per_anchor, per_anchor.new_zeros(()))
        return per_anchor.sum(), counted.sum()


def mtc_loss(
    sentence_features: torch.Tensor,
    clip_features: torch.Tensor,
    draw: MTCDraw,
    temperature: float = 0.05,
    sentence_mask: torch.Tensor | None = None,
    other_negatives: Literal["others", "released"] = "others",
    num_other_negatives: int = 3,
) -> torch.Tensor:
    """Compute the multimodal temporal contrastive loss, MTC (paper section 3.3).

    The positive of an anchor is the candidate nearest to it in time; the other candidates and clips lent by
    `num_other_negatives` other videos are negatives. Anchors whose nearest candidates tie are left out. The same
    draw serves sentence-to-clip and clip-to-sentence; the two cross-entropies are added.

    Args:
        sentence_features: L2-normalised sentence features, `(B, M, D)`.
        clip_features: L2-normalised clip features, `(B, K, D)`.
        draw: Positions of anchors, candidates and others, see `draw_mtc`.
        temperature: Temperature tau. Defaults to 0.05.
        sentence_mask: `(B, M)`, 1 for a real sentence. A video whose real sentences are not exactly the first K takes
            no part in the loss: it has no anchor and lends nothing. Defaults to all ones.
        other_negatives: `"others"`, the default: the min(num_other_negatives, B - 1) videos before a video in the batch
            (cyclically) lend to it. `"released"`, as the released code does: the video itself and the
            num_other_negatives - 1 videos before it lend to it, and the mask is ignored.
        num_other_negatives: Number of videos that lend a clip (a sentence) to each anchor. Defaults to 3.

    Returns:
        Scalar: mean over anchors of each direction, added; 0 (with a graph) without any anchor.

    Raises:
        ValueError: `other_negatives` is unknown, or shapes do not fit each other.
    """
    loan = mtc_loan(sentence_features, clip_features, draw, sentence_mask, other_negatives)
    options = temperature, other_negatives, num_other_negatives
    total, count = mtc_sums(sentence_features, clip_features, draw, loan, *options)
    return total / count.clamp(min=1)


def masked_language_modeling_loss(mlm_logits: torch.Tensor, mlm_targets: torch.Tensor) -> torch.Tensor:
    """Compute the MLM loss: cross-entropy of the masked text tokens.

    Args:
        mlm_logits: `(B, 1 + M*L + T*P, vocabulary)`: paragraph token, text tokens, video tokens.
        mlm_targets: `(B, M, L)`, the right token at masked positions, -100 elsewhere.

    Returns:
        Scalar: mean over masked tokens, 0 (with a graph) if nothing is masked.
    """
    targets = mlm_targets.flatten(1)  # (B, M*L)
    logits = mlm_logits[:, 1 : 1 + targets.shape[1]]  # (B, M*L, vocabulary)
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def video_text_matching_loss(vtm_logits: torch.Tensor, vtm_targets: torch.Tensor) -> torch.Tensor:
    """Compute the VTM loss: cross-entropy of the logits `(B, 2)` and the targets `(B,)`, 1 for a matched pair."""
    return F.cross_entropy(vtm_logits, vtm_targets)


def mismatched_pairs(num_pairs: int, device: torch.device | str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the mismatched half of a VTM batch: each text of the first half gets its neighbour's video.

    The neighbour is the pair before it, cyclically within that half. If the half is a single pair, it is the pair
    after it.

    Args:
        num_pairs: B. A single pair has no neighbour and stays matched.
        device: Device of the result. Defaults to torch's default device.

    Returns:
        `(video_index, vtm_targets)`, both `(B,)` int64: the video that goes with text i; 0 for mismatched, 1 for
        matched.
    """
    index = torch.arange(num_pairs, device=device)
    half = num_pairs // 2
    return torch.where(index < half, (index - 1) % max(half, 2), index), (index >= half).long()


class LFVilaLoss:
    """Loss of both phases, computed from a model's outputs: `Trainer(model, ..., compute_loss_func=LFVilaLoss())`.

    With transformers' `Trainer` it is exact for one process without gradient accumulation. Use `LFVilaTrainer` for the
    loss over the global batch.

    Args:
        config: A `LFVilaConfig`, or any object with its loss fields. Defaults to the paper's weights and temperatures.
    """

    def __init__(self, config: Any = None) -> None:
        config = LFVilaConfig() if config is None else config
        self.temperature = config.temperature
        self.temporal_temperature = config.temporal_temperature
        self.num_other_negatives = config.num_other_negatives
        self.num_anchors = config.num_anchors
        self.num_candidates = config.num_candidates
        self.other_negatives = config.mtc_other_negatives
        self.weights = {
            "global_loss": config.global_loss_weight,
            "mtc_loss": config.mtc_loss_weight,
            "mlm_loss": config.mlm_loss_weight,
            "vtm_loss": config.vtm_loss_weight,
        }

    def terms(self, outputs: Any) -> dict[str, torch.Tensor]:
        """Compute the unweighted terms for which `outputs` has the fields.

        Args:
            outputs: A model output (mapping). Global: `text_embeds` and `video_embeds`, both `(B, D)`. MTC also needs
                `sentence_embeds` `(B, M, D)` and `clip_embeds` `(B, K, D)`, and reads `sentence_mask` and `mtc_draw`.
                MLM: `mlm_logits` and `mlm_targets`. VTM: `vtm_logits` and `vtm_targets`.

        Returns:
            Scalars by name: `global_loss`, `mtc_loss`, `mlm_loss`, `vtm_loss`.

        Raises:
            ValueError: `outputs` has the fields of no term.
        """
        terms: dict[str, torch.Tensor] = {}
        text, video = outputs.get("text_embeds"), outputs.get("video_embeds")
        if text is not None and video is not None:
            terms["global_loss"] = global_contrastive_loss(text, video, self.temperature)
            sentences, clips = outputs.get("sentence_embeds"), outputs.get("clip_embeds")
            if sentences is not None and clips is not None:
                draw = outputs.get("mtc_draw")
                if draw is None:
                    batch, positions = clips.shape[:2]
                    draw = draw_mtc(batch, positions, self.num_anchors, self.num_candidates, device=clips.device)
                terms["mtc_loss"] = mtc_loss(
                    sentences,
                    clips,
                    draw,
                    self.temporal_temperature,
                    outputs.get("sentence_mask"),
                    self.other_negatives,
                    self.num_other_negatives,
                )
        if outputs.get("mlm_logits") is not None and outputs.get("mlm_targets") is not None:
            terms["mlm_loss"] = masked_language_modeling_loss(outputs["mlm_logits"], outputs["mlm_targets"])
        if outputs.get("vtm_logits") is not None and outputs.get("vtm_targets") is not None:
            terms["vtm_loss"] = video_text_matching_loss(outputs["vtm_logits"], outputs["vtm_targets"])
        if not terms:
            raise ValueError(
                "outputs hold neither text_embeds with video_embeds, nor mlm_logits with mlm_targets, nor vtm_logits "
                f"with vtm_targets; they hold {sorted(k for k, v in outputs.items() if v is not None)}"
            )
        return terms

    def total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum the weighted `terms` to a scalar."""
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def __call__(
        self, outputs: Any, labels: Any = None, num_items_in_batch: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss of one batch, a scalar; `labels` and `num_items_in_batch` from `Trainer` are unused."""
        return self.total(self.terms(outputs))


# -- span loss -------------------------------------------------------------------------------------------------------


def span_weights_from_targets(span_targets: torch.Tensor) -> torch.Tensor:
    """Compute frame weights that balance both sides of a span: T / (2 * frames on that side).

    Args:
        span_targets: `(B, T)`, 1 for a frame inside the span, 0 outside.

    Returns:
        `(B, T)`, float32.
    """
    inside = span_targets.bool()
    frames = span_targets.shape[1]
    counts = torch.where(inside, inside.sum(1, keepdim=True), (~inside).sum(1, keepdim=True))  # (B, T)
    return frames / (2.0 * counts.clamp(min=1))


def span_loss(
    span_logits: torch.Tensor, span_targets: torch.Tensor, span_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the span loss of multiple choice: weighted two-class cross-entropy per frame, mean over all frames.

    Args:
        span_logits: `(B, T, 2)`; class 1 is "the frame is inside the span".
        span_targets: `(B, T)`, 1 for a frame inside the span.
        span_weights: `(B, T)`. Defaults to `span_weights_from_targets(span_targets)`.

    Returns:
        Scalar.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    if span_logits.shape[:-1] != span_targets.shape or span_logits.shape[-1] != 2:
        raise ValueError(
            f"span_targets {tuple(span_targets.shape)} must be (B, T) of span logits (B, T, 2), which are "
            f"{tuple(span_logits.shape)}"
        )
    if span_weights is None:
        span_weights = span_weights_from_targets(span_targets)
    elif span_weights.shape != span_targets.shape:
        raise ValueError(
            f"span_weights {tuple(span_weights.shape)} must have the shape of span_targets {tuple(span_targets.shape)}"
        )
    per_frame = F.cross_entropy(span_logits.flatten(0, 1), span_targets.long().flatten(), reduction="none")
    return (per_frame * span_weights.flatten()).mean()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The loss of spans: which frames of a video answer a question (How2QA; released `src/modeling/` of multiple choice).

Letters: B videos, T frames.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def span_weights_from_targets(span_targets: torch.Tensor) -> torch.Tensor:
    """Weights that make both sides of a span count alike: T / (2 * frames on that side), `(B, T)` from `(B, T)` 0/1."""
    inside = span_targets.bool()
    frames = span_targets.shape[1]
    counts = torch.where(inside, inside.sum(1, keepdim=True), (~inside).sum(1, keepdim=True))  # (B, T)
    return frames / (2.0 * counts.clamp(min=1))


def span_loss(
    span_logits: torch.Tensor, span_targets: torch.Tensor, span_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Per-frame two-class cross-entropy of the frames that answer a question, weighted per frame, mean over all frames.

    Args:
        span_logits: `(B, T, 2)`.
        span_targets: `(B, T)`, 1 for a frame inside the span.
        span_weights: `(B, T)`; made by `span_weights_from_targets` where not given.

    Raises:
        ValueError: the shapes do not fit each other.
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


__all__ = ["span_loss", "span_weights_from_targets"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Monotone alignment of the sentences of a paragraph with the clips of a video.

LF-VILA trains sentence and clip features to agree at the same time (MTC, paper section 3.3), but the paper does not use
them together afterwards. This module maps sentences to clips such that later sentences never go to earlier clips. Of
all such maps it takes the one with the highest mean cosine over the real sentences. That mean is the *aligned* score
of a pair. The map localises each sentence in time.

Letters: M sentences, K clips, D width; leading dimensions are arbitrary (pairs, texts x videos). Compute and memory
are O(M K) per pair; only the loop over sentences is sequential.
"""

from __future__ import annotations

import torch


def monotone_alignment(
    similarity: torch.Tensor, sentence_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the best non-decreasing map of sentences to clips.

    Args:
        similarity: Cosine of every sentence with every clip, `(..., M, K)`.
        sentence_mask: `(..., M)`, 1 for a real sentence, 0 for padding; broadcasts against the leading dimensions.
            Padded sentences neither add to the score nor constrain the map. Defaults to all ones.

    Returns:
        `(score, clip_index)`. The score is the mean cosine over the real sentences, `(...)`, differentiable, 0 for a
        paragraph without real sentences. The index is the clip of every sentence, `(..., M)`, int64, -1 for padding.

    Raises:
        ValueError: `similarity` has fewer than two dimensions, no sentence or no clip.
    """
    if similarity.ndim < 2 or similarity.shape[-2] == 0 or similarity.shape[-1] == 0:
        raise ValueError(f"similarity must be (..., M, K) with M, K >= 1, got {tuple(similarity.shape)}")
    num_sentences = similarity.shape[-2]
    if sentence_mask is None:
        sentence_mask = similarity.new_ones(similarity.shape[:-1])
    real = sentence_mask.to(dtype=torch.bool).expand(similarity.shape[:-1])  # (..., M)
    gain = torch.where(real[..., None], similarity, similarity.new_zeros(()))  # (..., M, K)

    # best[k]: highest sum so far with the last sentence at a clip <= k; came_from[m][k]: the clip that reaches it.
    best, source = torch.cummax(gain[..., 0, :], dim=-1)  # (..., K)
    came_from = [source]
    for sentence in range(1, num_sentences):
        best, source = torch.cummax(best + gain[..., sentence, :], dim=-1)  # (..., K)
        came_from.append(source)

    counts = real.sum(-1)  # (...)
    score = best[..., -1] / counts.clamp(min=1)  # (...)

    position = torch.full_like(came_from[-1][..., :1], similarity.shape[-1] - 1)  # (..., 1)
    chosen: list[torch.Tensor] = []
    for sentence in reversed(range(num_sentences)):
        position = came_from[sentence].gather(-1, position)  # (..., 1)
        chosen.append(position)
    clip_index = torch.cat(chosen[::-1], dim=-1)  # (..., M)
    return score, clip_index.masked_fill(~real, -1)


def aligned_similarity(
    sentence_embeds: torch.Tensor,
    sentence_mask: torch.Tensor,
    clip_embeds: torch.Tensor,
    max_cells: int = 16_000_000,
) -> torch.Tensor:
    """Compute the aligned score of every paragraph with every video.

    Args:
        sentence_embeds: L2-normalised sentence features, `(N_text, M, D)`.
        sentence_mask: `(N_text, M)`, 1 for a real sentence.
        clip_embeds: L2-normalised clip features, `(N_video, K, D)`.
        max_cells: Cosines of sentences with clips in memory at once; texts are processed in slices that keep to it.
            Defaults to 16 million.

    Returns:
        Scores `(N_text, N_video)`, cosines averaged over sentences.
    """
    num_texts, num_sentences, _ = sentence_embeds.shape
    num_videos, num_clips, _ = clip_embeds.shape
    step = max(1, max_cells // max(1, num_sentences * num_videos * num_clips))
    rows = []
    for start in range(0, num_texts, step):
        texts = sentence_embeds[start : start + step]
        similarity = torch.einsum("nmd,vkd->nvmk", texts, clip_embeds)  # (n, N_video, M, K)
        rows.append(monotone_alignment(similarity, sentence_mask[start : start + step, None, :])[0])
    return torch.cat(rows) if rows else sentence_embeds.new_zeros((0, num_videos))  # (N_text, N_video)

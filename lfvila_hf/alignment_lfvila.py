# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Monotone alignment of the sentences of a paragraph with the clips of a video.

LF-VILA trains sentence and clip features to agree at the same place in time (MTC, section 3.3 of the paper) but never
reads them together afterwards. This module does: it maps sentences to clips so that later sentences never go to earlier
clips, and among all such maps takes the one with the highest mean cosine over the real sentences. That mean is the
*aligned* score of a pair; the map says when each sentence happens.

Letters: M sentences, K clips; leading dimensions are anything (pairs, texts x videos, ...). The work is O(M K) per pair
and the memory O(M K) for the trace that the map is read back from; only a loop over the M <= 8 sentences is sequential.
"""

from __future__ import annotations

import torch


def monotone_alignment(
    similarity: torch.Tensor, sentence_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best non-decreasing map of sentences to clips.

    Args:
        similarity: cosine of every sentence with every clip, `(..., M, K)`.
        sentence_mask: `(..., M)`, 1 for a real sentence, 0 for padding; broadcasts against the leading dimensions.
            Padded sentences neither add to the score nor hold the map back. All ones where not given.

    Returns:
        `(score, clip_index)`: the mean cosine over the real sentences, `(...)`, differentiable, 0 for a paragraph with
        no real sentence; and the clip of every sentence, `(..., M)`, int64, -1 for padded sentences.

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
    """Aligned score of every paragraph with every video.

    Args:
        sentence_embeds: L2-normalised sentence features, `(N_text, M, D)`.
        sentence_mask: `(N_text, M)`, 1 for a real sentence.
        clip_embeds: L2-normalised clip features, `(N_video, K, D)`.
        max_cells: how many sentence-by-clip cosines are held at once; texts are worked off in slices of that many.

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

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Retrieval in two stages: rank all videos by a first score, rerank the first k by the VTM head.

The cross-modal encoder reads only the first k pairs of a query, for k videos per text and k texts per video. Among
them pairs are ordered by their probability of matching; the rest keeps its order. The metrics are not comparable with
plain ones and are labelled `vtm_`.

The towers' outputs are kept on disk (`np.memmap`, float16: `1 + M * L` and `T * P` vectors of width D per pair, 0.8 MB
each at released size), so memory is that of a batch of pairs. Texts are not shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfvila_hf.evaluation.retrieval import ScoreBlock, direction_metrics, retrieval_ranks
from lfvila_hf.modeling_base_lfvila import LFVilaTextModelOutput, LFVilaVideoModelOutput

PairScorer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Probability that text i and video j match, for `(pairs,)` indices of both."""


def rerank_metrics(
    score_block: ScoreBlock,
    pair_scorer: PairScorer,
    num_texts: int,
    num_videos: int,
    top_k: int,
    *,
    block_size: int = 512,
    recall_at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Compute retrieval metrics in both directions with the first k reranked. Text i belongs to video i.

    Args:
        score_block: First score, as `retrieval_metrics` takes it.
        pair_scorer: Second score.
        num_texts: Number of texts.
        num_videos: Number of videos, the same.
        top_k: k.
        block_size: Texts and videos that are scored at once.
        recall_at: The k of the reported R@k.

    Returns:
        Keys of `retrieval_metrics` after `vtm_`, and `vtm_top_k`.

    Raises:
        ValueError: k is below 1, or the numbers of texts and videos differ.
    """
    if top_k < 1 or num_texts != num_videos:
        raise ValueError(f"reranking needs k >= 1 and pairs, got k = {top_k}, {num_texts} texts, {num_videos} videos")
    k = min(top_k, num_videos)
    ranks = []
    for text_first in (True, False):
        first = _first_k(score_block, num_texts, k, block_size, text_first)  # (queries, k)
        queries = torch.arange(num_texts).repeat_interleave(k)
        found = first.flatten()
        pairs = (queries, found) if text_first else (found, queries)
        second = pair_scorer(*pairs).double().view(num_texts, k).cpu()
        block = _reordered(score_block, first, second, text_first)
        ranks.append(retrieval_ranks(block, num_texts, num_videos, block_size=block_size)[0 if text_first else 1])
    metrics = direction_metrics((ranks[0], ranks[1]), recall_at)
    return {f"vtm_{name}": value for name, value in metrics.items()} | {"vtm_top_k": float(k)}


def _first_k(score_block: ScoreBlock, count: int, k: int, block_size: int, text_first: bool) -> torch.Tensor:
    rows = []
    everything = slice(0, count)
    for start in range(0, count, block_size):
        queries = slice(start, min(start + block_size, count))
        scores = score_block(queries, everything) if text_first else score_block(everything, queries).T
        rows.append(scores.topk(k, dim=1).indices.cpu())
    return torch.cat(rows)  # (queries, k)


def _reordered(score_block: ScoreBlock, first: torch.Tensor, second: torch.Tensor, text_first: bool) -> ScoreBlock:
    """Map the first score to (0, 1), and replace that of each query's first k by 2 + the second score."""

    def block(texts: slice, videos: slice) -> torch.Tensor:
        scores = torch.sigmoid(score_block(texts, videos).double().cpu())
        scores = scores if text_first else scores.T  # (queries, candidates)
        queries, candidates = (texts, videos) if text_first else (videos, texts)
        chosen, values = first[queries], second[queries]
        here = (chosen >= candidates.start) & (chosen < candidates.stop)
        rows = torch.arange(len(chosen))[:, None].expand_as(chosen)[here]
        scores[rows, chosen[here] - candidates.start] = 2 + values[here]
        return scores if text_first else scores.T

    return block


class FusionStore:
    """Store on disk of the towers' outputs, to fuse any text with any video.

    Args:
        folder: Folder of the two files.
        model: `LFVilaForPreTraining` with a VTM head, in evaluation mode.
        batches: Batches with `input_ids`, `attention_mask` `(b, M, L)` and `pixel_values_videos`, all of one M.
        count: Number of pairs.

    Raises:
        ValueError: The model has no VTM head, or batches differ in their number of sentences.
    """

    def __init__(self, folder: Path, model: Any, batches: Iterable[dict[str, torch.Tensor]], count: int) -> None:
        if getattr(model, "vtm_head", None) is None:
            raise ValueError("reranking needs the VTM head of LFVilaForPreTraining with a cross-modal encoder")
        folder.mkdir(parents=True, exist_ok=True)
        self.model = model
        self._texts: Any = None
        self._videos: Any = None
        self.masks: list[torch.Tensor] = []
        done = 0
        for batch in batches:
            with torch.no_grad():
                inputs = {name: value.to(model.device) for name, value in batch.items()}
                text, video = model.encode(
                    inputs["input_ids"], inputs.get("attention_mask"), inputs["pixel_values_videos"]
                )
            states, tokens = text.last_hidden_state.cpu().half().numpy(), video.tokens.cpu().half().numpy()
            if self._texts is None:
                self._texts = _on_disk(folder / "texts.npy", (count, *states.shape[1:]))
                self._videos = _on_disk(folder / "videos.npy", (count, *tokens.shape[1:]))
            if states.shape[1:] != self._texts.shape[1:]:
                raise ValueError(
                    f"texts of one length are needed, got {states.shape[1:]} after {self._texts.shape[1:]}: set the "
                    "processor's pad_to_max_sentences"
                )
            self._texts[done : done + len(states)] = states
            self._videos[done : done + len(tokens)] = tokens
            self.masks.append(text.attention_mask.cpu())
            done += len(states)
        if done != count:
            raise ValueError(f"{count} pairs were announced, {done} came")
        self.mask = torch.cat(self.masks)  # (count, 1 + M * L)

    def pair_scorer(self, batch_size: int = 32) -> PairScorer:
        """Return the VTM head's probability of matching, computed for `batch_size` pairs at a time."""

        def score(texts: torch.Tensor, videos: torch.Tensor) -> torch.Tensor:
            parts = []
            for rows, columns in zip(texts.split(batch_size), videos.split(batch_size), strict=True):
                text = LFVilaTextModelOutput(
                    last_hidden_state=self._at(self._texts, rows), attention_mask=self.mask[rows].to(self.model.device)
                )
                video = LFVilaVideoModelOutput(tokens=self._at(self._videos, columns))
                with torch.no_grad():
                    logits = self.model.vtm_head(self.model.fuse(text, video).pooler_output)  # (pairs, 2)
                parts.append(logits.float().softmax(-1)[:, 1].cpu())
            return torch.cat(parts)

        return score

    def _at(self, stored: Any, index: torch.Tensor) -> torch.Tensor:
        parameter = next(self.model.parameters())
        return torch.from_numpy(np.asarray(stored[index.numpy()])).to(parameter.device, parameter.dtype)


def _on_disk(path: Path, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


__all__ = ["FusionStore", "PairScorer", "rerank_metrics"]

"""Reranking by VTM: only the first k move, the numbers are a slow version's, pairs are what the model says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_batch, tiny_config, tiny_model

from lfvila_hf import LFVilaForPreTraining
from lfvila_hf.evaluation import retrieval_metrics
from lfvila_hf.evaluation.vtm_reranking import FusionStore, rerank_metrics

COUNT = 12


def slow_rank(first: torch.Tensor, second: torch.Tensor, query: int, k: int) -> int:
    """Place of candidate `query` when the first k of a query are sorted by the second score."""
    order = first.argsort(descending=True).tolist()
    top = sorted(order[:k], key=lambda candidate: -second[candidate].item())
    return 1 + [*top, *order[k:]].index(query)


@pytest.mark.parametrize("k", [1, 3, COUNT, 100])
@pytest.mark.parametrize("block_size", [5, 64])
def test_ranks_are_those_of_sorting_the_first_k_again(k: int, block_size: int) -> None:
    first, second = torch.randn(COUNT, COUNT) * 30, torch.rand(COUNT, COUNT)
    asked: list[tuple[int, int]] = []

    def pairs(texts: torch.Tensor, videos: torch.Tensor) -> torch.Tensor:
        asked.extend(zip(texts.tolist(), videos.tolist(), strict=True))
        return second[texts, videos]

    metrics = rerank_metrics(lambda t, v: first[t, v], pairs, COUNT, COUNT, k, block_size=block_size)
    ranks = torch.tensor([slow_rank(first[n], second[n], n, k) for n in range(COUNT)])
    back = torch.tensor([slow_rank(first[:, n], second[:, n], n, k) for n in range(COUNT)])
    for at in (1, 5):
        assert metrics[f"vtm_t2v_r{at}"] == pytest.approx((ranks <= at).double().mean().item())
        assert metrics[f"vtm_v2t_r{at}"] == pytest.approx((back <= at).double().mean().item())
    assert metrics["vtm_t2v_meanr"] == pytest.approx(ranks.double().mean().item())
    assert len(asked) == 2 * COUNT * min(k, COUNT) and metrics["vtm_top_k"] == min(k, COUNT)
    if k == 1:
        plain = retrieval_metrics(lambda t, v: first[t, v], COUNT, COUNT)
        assert metrics["vtm_t2v_r1"] == plain["t2v_r1"]


def test_numbers_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="k = 0"):
        rerank_metrics(lambda t, v: torch.zeros(1), lambda t, v: torch.zeros(1), 2, 2, 0)
    with pytest.raises(ValueError, match="2 texts, 3 videos"):
        rerank_metrics(lambda t, v: torch.zeros(1), lambda t, v: torch.zeros(1), 2, 3, 1)


def test_a_pair_is_scored_as_the_model_scores_it(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining, tiny_config())
    batch = tiny_batch(4)
    halves = [{name: value[start : start + 2] for name, value in batch.items()} for start in (0, 2)]
    store = FusionStore(tmp_path, model, halves, 4)
    texts, videos = torch.tensor([0, 3, 1]), torch.tensor([0, 1, 2])
    scores = store.pair_scorer(batch_size=2)(texts, videos)
    pairs = {
        "input_ids": batch["input_ids"][texts],
        "attention_mask": batch["attention_mask"][texts],
        "pixel_values_videos": batch["pixel_values_videos"][videos],
    }
    with torch.no_grad():
        direct = model(**pairs, phase="fusion", return_loss=False).vtm_logits.softmax(-1)[:, 1]
    # features are kept in half precision: measured 4e-4 at most
    assert torch.allclose(scores, direct, atol=5e-3)
    assert scores.std() > 1e-4
    with pytest.raises(ValueError, match="5 pairs were announced, 4 came"):
        FusionStore(tmp_path, model, halves, 5)


def test_a_model_without_vtm_head_is_refused(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining, tiny_config(text={"num_cross_modal_layers": 0}))
    with pytest.raises(ValueError, match="VTM head"):
        FusionStore(tmp_path, model, [], 0)

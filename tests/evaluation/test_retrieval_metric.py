"""The `evaluate` metric: the same numbers by every way in, offline. What the numbers mean is in test_retrieval.py."""

from __future__ import annotations

from pathlib import Path

import evaluate
import pytest
import torch
from torch.nn.functional import normalize

from lfvila_hf.evaluation import retrieval_metric
from lfvila_hf.evaluation.retrieval import retrieval_metrics
from lfvila_hf.evaluation.retrieval_metric import RetrievalMetric

N = 10


@pytest.fixture
def embeds() -> tuple[torch.Tensor, torch.Tensor]:
    texts = normalize(torch.randn(N, 6), dim=-1)
    return texts, normalize(texts + torch.randn(N, 6), dim=-1)


@pytest.fixture
def expected(embeds: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    texts, videos = embeds
    metrics = retrieval_metrics(lambda rows, columns: texts[rows] @ videos[columns].T, N, N)
    assert 1 / N < metrics["t2v_r1"] < 1, "too easy or too hard to tell anything"
    return metrics


def test_one_call_gives_the_metrics(
    embeds: tuple[torch.Tensor, torch.Tensor], expected: dict[str, float], tmp_path: Path
) -> None:
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    assert metric.compute(text_embeds=embeds[0], video_embeds=embeds[1]) == expected
    assert metric.compute(predictions=embeds[0].numpy(), references=embeds[1].tolist(), block_size=3) == expected


def test_batches_and_single_rows_add_up(
    embeds: tuple[torch.Tensor, torch.Tensor], expected: dict[str, float], tmp_path: Path
) -> None:
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    texts, videos = embeds
    metric.add_batch(text_embeds=texts[:6].requires_grad_(), video_embeds=videos[:6].double())
    metric.add_batch(predictions=texts[6:9].detach(), references=videos[6:9])
    metric.add(prediction=texts[9].tolist(), reference=videos[9].tolist())
    assert metric.compute() == expected


def test_the_dual_softmax_is_labelled(embeds: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    result = metric.compute(text_embeds=embeds[0], video_embeds=embeds[1], dual_softmax_temperature=0.05)
    assert result is not None and "dsl_t2v_r1" in result


def test_evaluate_loads_the_metric_from_its_file(
    embeds: tuple[torch.Tensor, torch.Tensor], expected: dict[str, float], tmp_path: Path
) -> None:
    metric = evaluate.load(retrieval_metric.__file__, cache_dir=str(tmp_path))
    assert metric.compute(predictions=embeds[0], references=embeds[1]) == expected


def test_unequal_numbers_and_two_names_for_one_input_are_refused(
    embeds: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"predictions \(4\) and references \(10\)"):
        metric.compute(text_embeds=embeds[0][:4], video_embeds=embeds[1])
    with pytest.raises(ValueError, match="predictions and text_embeds are two names of one input"):
        metric.compute(predictions=embeds[0], text_embeds=embeds[0], references=embeds[1])

"""Retrieval as a metric of the `evaluate` library.

`RetrievalMetric()` works offline, and so does `evaluate.load` on the path of this file. Batches go through `add_batch`
as with any metric of that library, which keeps them on disk and can gather them from several processes. Metrics and
ties are those of `lfvila_hf.evaluation.retrieval`. Row i is a text with its own video. For several texts per video, the
aligned score or order twins call `evaluate_features` instead; for hundreds of thousands of rows too, because `compute`
gets them back from the library as lists of Python numbers.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import torch

from lfvila_hf.evaluation.retrieval import DEFAULT_BLOCK_SIZE
from lfvila_hf.evaluation.retrieval_features import RetrievalFeatures, evaluate_features

_DESCRIPTION = "Text-to-video and video-to-text recall and ranks; tied scores count as being in random order."
_INPUTS = """

Args:
    predictions (rows of floats): paragraph features, L2-normalised, `(N, D)`; `text_embeds` is another name.
    references (rows of floats): features of the same pairs' videos, `(N, D)`; `video_embeds` is another name.
    block_size (int): largest number of texts, and of videos, that are scored at once.
    dual_softmax_temperature (float): adds metrics of the dual softmax under keys that begin with `dsl_`.

Returns:
    t2v_r1, t2v_r5, t2v_r10 (fractions), t2v_medr, t2v_meanr (ranks, 1 is best), the same with v2t_, num_texts,
    num_videos, chance_r1.
"""
_CITATION = """\
@inproceedings{sun2022long,
  title={Long-Form Video-Language Pre-Training with Multimodal Temporal Contrastive Learning},
  author={Sun, Yuchong and Xue, Hongwei and Song, Ruihua and Liu, Bei and Yang, Huan and Fu, Jianlong},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""


class RetrievalMetric(evaluate.Metric):
    """Recall and ranks of paragraphs against videos, in both directions.

    Example:
        ```python
        metric = RetrievalMetric()
        for batch in batches:
            outputs = model(**batch)
            metric.add_batch(text_embeds=outputs.text_embeds, video_embeds=outputs.video_embeds)
        metric.compute()["t2v_r1"]
        ```
    """

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add the features of one batch; see the class for an example."""
        inputs = _rows(predictions, references, kwargs)
        evaluate.Metric.add_batch(self, **inputs, **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float] | None:
        """Compute the metrics of the added batches, or of the given features; None on all but the first process."""
        inputs = _rows(predictions, references, kwargs)
        return evaluate.Metric.compute(self, **inputs, **kwargs)

    def _compute(
        self,
        predictions: Any,
        references: Any,
        block_size: int = DEFAULT_BLOCK_SIZE,
        dual_softmax_temperature: float | None = None,
    ) -> dict[str, float]:
        features = RetrievalFeatures.from_outputs({"text_embeds": predictions, "video_embeds": references})
        return evaluate_features(
            features, scores=("global",), block_size=block_size, dual_softmax_temperature=dual_softmax_temperature
        )["global"]


def _rows(predictions: Any, references: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Map `text_embeds` and `video_embeds` to the library's names, and tensors to arrays."""
    inputs = {}
    for name, alias, value in (("predictions", "text_embeds", predictions), ("references", "video_embeds", references)):
        other = kwargs.pop(alias, None)
        if value is not None and other is not None:
            raise ValueError(f"{name} and {alias} are two names of one input, expected one of them")
        value = other if value is None else value
        inputs[name] = value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return inputs

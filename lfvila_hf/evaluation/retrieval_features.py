"""Features of a dataset for retrieval, the three scores of a text with a video, and `compute_metrics` for the Trainer.

A model call gives the features of one batch. `RetrievalFeatures` keeps those of a dataset, a few kilobytes per text
and video, and computes from them three scores:

- *global*: paragraph feature . video feature, as the paper and the released code have it;
- *aligned*: the mean over sentences of sentence feature . clip feature under the best non-decreasing map of sentences
  to clips (`lfvila_hf.alignment_lfvila`), which reads the features that MTC trains;
- *both*: their sum.

`evaluate_features` computes metrics, and `make_compute_metrics` does so inside the Hugging Face Trainer.
Letters: N texts or videos, M sentences, K clips, D shared width. A mask is 1 for a real sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from lfvila_hf.alignment_lfvila import aligned_similarity
from lfvila_hf.evaluation.retrieval import (
    DEFAULT_BLOCK_SIZE,
    ScoreBlock,
    order_accuracy,
    retrieval_metrics,
    twin_scores,
)

ScoreName = Literal["global", "aligned", "both"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)

TEXT_FIELDS = ("text_embeds", "sentence_embeds", "sentence_mask")
VIDEO_FIELDS = ("video_embeds", "clip_embeds")
# The Trainer passes compute_metrics a bare tuple of the model outputs that are not None, in their order.
PREDICTION_NAMES = {
    2: ("text_embeds", "video_embeds"),
    3: ("text_embeds", "video_embeds", "sentence_mask"),
    5: ("text_embeds", "video_embeds", "sentence_embeds", "clip_embeds", "sentence_mask"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalFeatures:
    """Features of texts and of videos, all L2-normalised, on the CPU in float32.

    Texts and videos may differ in number, and one side may be missing altogether (a batch of texts only, say).
    """

    text_embeds: torch.Tensor | None = None
    """Paragraph features, `(N_text, D)`."""
    video_embeds: torch.Tensor | None = None
    """Video features, `(N_video, D)`."""
    sentence_embeds: torch.Tensor | None = None
    """Sentence features, `(N_text, M, D)`; None for a model without temporal alignment."""
    sentence_mask: torch.Tensor | None = None
    """`(N_text, M)` bool, True for a real sentence."""
    clip_embeds: torch.Tensor | None = None
    """Clip features, `(N_video, K, D)`; None for a model without temporal alignment."""

    def __post_init__(self) -> None:
        """Refuse fields of one side that do not belong together."""
        for names in (TEXT_FIELDS, VIDEO_FIELDS):
            lengths = {name: len(value) for name in names if (value := getattr(self, name)) is not None}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"features of one side have different lengths: {lengths}")
        if self.sentence_embeds is not None and self.sentence_mask is None:
            raise ValueError("sentence_embeds came without sentence_mask, which says which of the sentences are real")
        if self.sentence_mask is not None and not (self.sentence_mask > 0).any(1).all():
            empty = int((self.sentence_mask > 0).any(1).int().argmin())
            raise ValueError(f"the mask of text {empty} is 0 everywhere, expected at least one real sentence")

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Any]) -> RetrievalFeatures:
        """Select the features of a model's outputs, or of any mapping of tensors or arrays with the same names.

        Args:
            outputs: Outputs of `LFVilaModel`. Other entries, and those that are None, are left out.

        Returns:
            The features, detached, on the CPU, in float32. A mask value counts as real where it is above 0: the
            Trainer fills up masks of different lengths with -100.

        Raises:
            ValueError: There is none of the features.
        """
        found = {}
        for name in (*TEXT_FIELDS, *VIDEO_FIELDS):
            if outputs.get(name) is not None:
                value = torch.as_tensor(outputs[name]).detach().cpu()
                found[name] = value > 0 if name == "sentence_mask" else value.float()
        if not found:
            raise ValueError(f"outputs holds {sorted(outputs)}, expected some of {(*TEXT_FIELDS, *VIDEO_FIELDS)}")
        return cls(**found)

    @classmethod
    def cat(cls, parts: Iterable[RetrievalFeatures]) -> RetrievalFeatures:
        """Concatenate batches in the given order. Paragraphs are padded to the largest number of sentences."""
        collected: dict[str, list[torch.Tensor]] = {}
        for part in parts:
            for name in (*TEXT_FIELDS, *VIDEO_FIELDS):
                if (value := getattr(part, name)) is not None:
                    collected.setdefault(name, []).append(value)
        most = max((mask.shape[1] for mask in collected.get("sentence_mask", [])), default=0)
        for name in ("sentence_embeds", "sentence_mask"):
            if name in collected:
                collected[name] = [_pad_sentences(value, most) for value in collected[name]]
        return cls(**{name: torch.cat(values) for name, values in collected.items()})

    @property
    def num_texts(self) -> int:
        """Number of texts."""
        return 0 if self.text_embeds is None else len(self.text_embeds)

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        return 0 if self.video_embeds is None else len(self.video_embeds)

    @property
    def scores(self) -> tuple[ScoreName, ...]:
        """The names of the scores that these features allow."""
        return SCORES if self.sentence_embeds is not None and self.clip_embeds is not None else SCORES[:1]

    def score_block(self, score: ScoreName = "global") -> ScoreBlock:
        """Return the score function of that name, for `retrieval_metrics` and its neighbours.

        Raises:
            ValueError: The name is unknown, or a feature that the score reads is missing.
        """
        if score not in SCORES:
            raise ValueError(f"the score is {score!r}, expected one of {SCORES}")
        if self.text_embeds is None or self.video_embeds is None:
            raise ValueError(f"there are {self.num_texts} texts and {self.num_videos} videos, expected both")
        text_embeds, video_embeds = self.text_embeds, self.video_embeds

        def global_block(texts: slice, videos: slice) -> torch.Tensor:
            return text_embeds[texts] @ video_embeds[videos].T  # (n_text, n_video)

        if score == "global":
            return global_block
        if self.sentence_embeds is None or self.sentence_mask is None or self.clip_embeds is None:
            raise ValueError(f"the score {score!r} needs sentence_embeds, sentence_mask and clip_embeds")
        sentence_embeds, sentence_mask, clip_embeds = self.sentence_embeds, self.sentence_mask, self.clip_embeds

        def aligned_block(texts: slice, videos: slice) -> torch.Tensor:
            return aligned_similarity(sentence_embeds[texts], sentence_mask[texts], clip_embeds[videos])

        if score == "aligned":
            return aligned_block
        return lambda texts, videos: global_block(texts, videos) + aligned_block(texts, videos)


def evaluate_features(
    features: RetrievalFeatures,
    *,
    scores: Sequence[ScoreName] | None = None,
    target: Sequence[int] | torch.Tensor | None = None,
    twins: Sequence[tuple[int, int]] = (),
    block_size: int = DEFAULT_BLOCK_SIZE,
    dual_softmax_temperature: float | None = None,
) -> dict[ScoreName, dict[str, float]]:
    """Compute retrieval metrics by each score.

    Args:
        features: Features of the whole data set.
        scores: Names of the scores. Defaults to all that the features allow.
        target: The video of each text. By default text i belongs to video i.
        twins: Pairs of texts that are order twins. Adds `order_accuracy` and `num_twins` (pairs). Defaults to none.
        block_size: Largest number of texts, and of videos, that are scored at once.
        dual_softmax_temperature: Adds dual-softmax metrics under `dsl_` keys. Defaults to none.

    Returns:
        For each score the keys of `retrieval_metrics`.

    Raises:
        ValueError: As `RetrievalFeatures.score_block` and `retrieval_metrics`.
    """
    results: dict[ScoreName, dict[str, float]] = {}
    for score in features.scores if scores is None else scores:
        block = features.score_block(score)
        results[score] = retrieval_metrics(
            block,
            features.num_texts,
            features.num_videos,
            target=target,
            block_size=block_size,
            dual_softmax_temperature=dual_softmax_temperature,
        )
        if twins:
            accuracy = order_accuracy(twin_scores(block, twins, target=target))
            results[score].update(order_accuracy=accuracy, num_twins=float(len(twins)))
    return results


def make_compute_metrics(
    *,
    scores: Sequence[ScoreName] = ("global",),
    names: Sequence[str] | None = None,
    target: Sequence[int] | torch.Tensor | None = None,
    twins: Sequence[tuple[int, int]] = (),
    block_size: int = DEFAULT_BLOCK_SIZE,
    dual_softmax_temperature: float | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Return a `compute_metrics` for the Hugging Face Trainer and a model that returns retrieval features.

    Args:
        scores: Names of the scores. With one, keys are those of `retrieval_metrics`; with several, the name of the
            score and an underscore are put before them.
        names: Names of the arrays in a tuple of predictions, in order. Defaults to `PREDICTION_NAMES` for their number,
            which fits `LFVilaModel` with and without temporal alignment. Predictions that are a dict need no names.
        target: The video of each sample's text. By default each sample is a text with its own video.
        twins: Pairs of samples that are order twins.
        block_size: Largest number of texts, and of videos, that are scored at once.
        dual_softmax_temperature: Adds dual-softmax metrics under `dsl_` keys. Defaults to none.
    """

    def compute_metrics(prediction: Any) -> dict[str, float]:
        features = RetrievalFeatures.from_outputs(_named(prediction.predictions, names))
        results = evaluate_features(
            features,
            scores=scores,
            target=target,
            twins=twins,
            block_size=block_size,
            dual_softmax_temperature=dual_softmax_temperature,
        )
        if len(scores) == 1:
            return results[scores[0]]
        return {f"{score}_{key}": value for score, metrics in results.items() for key, value in metrics.items()}

    return compute_metrics


def _named(predictions: Any, names: Sequence[str] | None) -> Mapping[str, Any]:
    """Name the arrays of an `EvalPrediction`."""
    if isinstance(predictions, Mapping):
        return predictions
    if not isinstance(predictions, tuple | list):
        raise ValueError(f"predictions are a {type(predictions).__name__}, expected a dict or a tuple of arrays")
    names = names or PREDICTION_NAMES.get(len(predictions), ())
    if len(names) != len(predictions):
        shapes = [tuple(getattr(array, "shape", ())) for array in predictions]
        raise ValueError(f"predictions are {len(shapes)} arrays of shapes {shapes}, expected {tuple(names)} or `names`")
    return dict(zip(names, predictions, strict=True))


def _pad_sentences(value: torch.Tensor, num_sentences: int) -> torch.Tensor:
    """Pad `(N, M, ...)` to `(N, num_sentences, ...)` with zeros."""
    padding = value.new_zeros(value.shape[0], num_sentences - value.shape[1], *value.shape[2:])
    return torch.cat([value, padding], dim=1)  # (N, num_sentences, ...)

"""Features from model outputs to metrics: collecting, the three scores, and the Trainer's compute_metrics.

How ranks and ties are counted is in test_retrieval.py, the alignment itself in test_alignment.py.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.modeling_outputs import ModelOutput

from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features, make_compute_metrics, retrieval_metrics

FLOAT32_NOISE = 1e-6
D, M, K = 8, 3, 4


def unit(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape), dim=-1)


def outputs_of(size: int, num_sentences: int = M) -> dict[str, torch.Tensor]:
    """Outputs of a model with temporal alignment; paragraphs have 1 to num_sentences sentences."""
    mask = torch.arange(num_sentences) <= torch.randint(num_sentences, (size, 1))
    return {
        "loss": torch.tensor(1.0),
        "text_embeds": unit(size, D),
        "video_embeds": unit(size, D),
        "sentence_embeds": unit(size, num_sentences, D),
        "clip_embeds": unit(size, K, D),
        "sentence_mask": mask.long(),
    }


def slow_aligned_score(sentences: torch.Tensor, mask: torch.Tensor, clips: torch.Tensor) -> float:
    """The best mean cosine over every non-decreasing map of the real sentences to clips, tried one by one."""
    real = sentences[mask > 0]
    maps = itertools.combinations_with_replacement(range(len(clips)), len(real))
    return max(sum(float(s @ clips[k]) for s, k in zip(real, places, strict=True)) / len(real) for places in maps)


def test_the_three_scores_equal_loops_over_pairs() -> None:
    outputs = outputs_of(5)
    assert outputs["sentence_mask"].min() == 0, "no sentence is padding"
    features = RetrievalFeatures.from_outputs(outputs)
    blocks = {score: features.score_block(score)(slice(1, 5), slice(0, 3)) for score in features.scores}
    assert set(blocks) == {"global", "aligned", "both"}
    for text, video in itertools.product(range(1, 5), range(3)):
        expected_global = float(outputs["text_embeds"][text] @ outputs["video_embeds"][video])
        expected_aligned = slow_aligned_score(
            outputs["sentence_embeds"][text], outputs["sentence_mask"][text], outputs["clip_embeds"][video]
        )
        at = (text - 1, video)
        assert blocks["global"][at].item() == pytest.approx(expected_global, abs=FLOAT32_NOISE)
        assert blocks["aligned"][at].item() == pytest.approx(expected_aligned, abs=FLOAT32_NOISE)
        assert blocks["both"][at].item() == pytest.approx(expected_global + expected_aligned, abs=FLOAT32_NOISE)


def test_batches_with_different_numbers_of_sentences_are_put_together() -> None:
    batches = [outputs_of(4, 2), outputs_of(3, 3), outputs_of(1, 1)]
    parts = [RetrievalFeatures.from_outputs(batch) for batch in batches]
    features = RetrievalFeatures.cat(parts)
    assert (features.num_texts, features.num_videos) == (8, 8)
    assert features.sentence_embeds is not None and features.sentence_embeds.shape == (8, 3, D)
    start = 0
    for part in parts:  # a batch's own scores stand on the diagonal of the whole
        own = slice(start, start + part.num_texts)
        for score in part.scores:
            everything = slice(0, part.num_texts)
            expected = part.score_block(score)(everything, everything)
            assert torch.allclose(features.score_block(score)(own, own), expected, atol=FLOAT32_NOISE)
        start = own.stop


def test_texts_and_videos_may_come_apart_and_differ_in_number() -> None:
    both = RetrievalFeatures.from_outputs(outputs_of(6))
    text_only = RetrievalFeatures(
        text_embeds=both.text_embeds, sentence_embeds=both.sentence_embeds, sentence_mask=both.sentence_mask
    )
    assert both.video_embeds is not None and both.clip_embeds is not None
    video_only = [
        RetrievalFeatures(video_embeds=both.video_embeds[part], clip_embeds=both.clip_embeds[part])
        for part in (slice(0, 1), slice(1, 4))
    ]
    features = RetrievalFeatures.cat([text_only, *video_only])
    assert (features.num_texts, features.num_videos) == (6, 4)
    result = evaluate_features(features, target=[0, 1, 2, 3, 3, 0])
    assert set(result) == {"global", "aligned", "both"}
    assert result["both"]["num_videos"] == 4.0
    with pytest.raises(ValueError, match="6 texts and 4 videos need `target`"):
        evaluate_features(features)


def test_metrics_of_features_are_those_of_their_scores() -> None:
    features = RetrievalFeatures.from_outputs(outputs_of(9))
    result = evaluate_features(features, block_size=4, dual_softmax_temperature=0.1, twins=[(0, 1), (4, 2)])
    assert len({tuple(metrics.values()) for metrics in result.values()}) == 3, "the scores do not differ"
    for score, metrics in result.items():
        expected = retrieval_metrics(features.score_block(score), 9, 9, dual_softmax_temperature=0.1)
        assert {key: metrics[key] for key in expected} == pytest.approx(expected)
        assert metrics["order_accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert metrics["num_twins"] == 2.0


def test_without_clip_features_there_is_the_global_score_only() -> None:
    outputs = outputs_of(4)
    features = RetrievalFeatures(text_embeds=outputs["text_embeds"], video_embeds=outputs["video_embeds"])
    assert features.scores == ("global",)
    assert list(evaluate_features(features)) == ["global"]
    with pytest.raises(ValueError, match="'aligned' needs sentence_embeds"):
        features.score_block("aligned")


# -- the Trainer -----------------------------------------------------------------------------------------------------


def test_compute_metrics_reads_a_tuple_or_a_dict_of_arrays() -> None:
    arrays = {name: value.numpy() for name, value in outputs_of(7).items() if name != "loss"}
    expected = evaluate_features(RetrievalFeatures.from_outputs(arrays))
    from_dict = make_compute_metrics()(EvalPrediction(predictions=arrays, label_ids=()))
    assert from_dict == expected["global"]
    everything = make_compute_metrics(scores=("global", "both"))
    from_tuple = everything(EvalPrediction(predictions=tuple(arrays.values()), label_ids=()))
    assert from_tuple == {
        f"{score}_{key}": value for score in ("global", "both") for key, value in expected[score].items()
    }


def test_compute_metrics_reads_the_outputs_of_a_model_without_alignment() -> None:
    arrays = {name: value.numpy() for name, value in outputs_of(7).items()}
    expected = make_compute_metrics()(SimpleNamespace(predictions=arrays))
    for names in (("text_embeds", "video_embeds"), ("text_embeds", "video_embeds", "sentence_mask")):
        assert make_compute_metrics()(SimpleNamespace(predictions=tuple(arrays[n] for n in names))) == expected


def test_mask_values_that_the_trainer_fills_in_count_as_padding() -> None:
    outputs = outputs_of(6)
    expected = evaluate_features(RetrievalFeatures.from_outputs(outputs))
    for name in ("sentence_embeds", "sentence_mask"):
        filled = torch.full((6, 2, *outputs[name].shape[2:]), -100, dtype=outputs[name].dtype)
        outputs[name] = torch.cat([outputs[name], filled], dim=1)
    assert evaluate_features(RetrievalFeatures.from_outputs(outputs)) == expected


class TableModel(torch.nn.Module):
    """Looks the features of each sample up in a table, as an LF-VILA would return them."""

    def __init__(self, table: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.table = table
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def forward(self, index: torch.Tensor, return_loss: bool = True) -> ModelOutput:
        most = int(self.table["sentence_mask"][index].sum(1).max())  # paragraphs as long as the longest of the batch
        rows = {name: value[index] for name, value in self.table.items() if name != "loss"}
        rows["sentence_embeds"] = rows["sentence_embeds"][:, :most]
        rows["sentence_mask"] = rows["sentence_mask"][:, :most]
        return ModelOutput(loss=self.bias * 0, **rows)


def test_the_trainer_reports_the_metrics_of_the_whole_set(tmp_path) -> None:  # noqa: ANN001 -- a Path, as pytest has it
    table = outputs_of(11)
    lengths = [int(batch.max()) for batch in table["sentence_mask"].sum(1).split(4)]
    trainer = Trainer(
        TableModel(table),
        TrainingArguments(tmp_path, per_device_eval_batch_size=4, disable_tqdm=True, use_cpu=True),
        eval_dataset=[{"index": index} for index in range(11)],
        compute_metrics=make_compute_metrics(scores=("global", "aligned", "both")),
    )
    reported = trainer.evaluate()
    assert len(lengths) == 3
    for score, metrics in evaluate_features(RetrievalFeatures.from_outputs(table)).items():
        for key, value in metrics.items():
            assert reported[f"eval_{score}_{key}"] == pytest.approx(value), (score, key)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.zeros((3, 4)), "predictions are a ndarray"),
        ((np.zeros((3, 4)),), r"1 arrays of shapes \[\(3, 4\)\]"),
        (tuple(np.zeros((3, 4)) for _ in range(4)), "4 arrays"),
        ({"logits": np.zeros((3, 3))}, "holds \\['logits'\\]"),
    ],
)
def test_predictions_that_are_no_features_are_named(predictions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_compute_metrics()(SimpleNamespace(predictions=predictions))


def test_fields_that_do_not_belong_together_are_named() -> None:
    with pytest.raises(ValueError, match="'text_embeds': 3, 'sentence_embeds': 2"):
        RetrievalFeatures(
            text_embeds=unit(3, D), sentence_embeds=unit(2, M, D), sentence_mask=torch.ones(2, M, dtype=torch.bool)
        )
    with pytest.raises(ValueError, match="without sentence_mask"):
        RetrievalFeatures(text_embeds=unit(3, D), sentence_embeds=unit(3, M, D))
    with pytest.raises(ValueError, match="mask of text 1 is 0 everywhere"):
        RetrievalFeatures(sentence_mask=torch.tensor([[True, False], [False, False]]))


def test_an_unknown_score_and_a_missing_side_are_named() -> None:
    features = RetrievalFeatures(text_embeds=unit(3, D))
    with pytest.raises(ValueError, match="the score is 'local'"):
        features.score_block("local")  # type: ignore[arg-type]  # a wrong name on purpose
    with pytest.raises(ValueError, match="3 texts and 0 videos"):
        features.score_block("global")

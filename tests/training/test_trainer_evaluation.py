"""`LFVilaTrainer` in evaluation: every row counts, metrics are those of features made by hand, heads and labels.

Ranks, ties and scores themselves are tested in tests/evaluation, training in test_trainer.py.

This is training/evaluating.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import EXAMPLES, tiny_config, tiny_model
from training_runs import TensorRows, arguments, fusion_pairs, logged, pairs
from transformers import EvalPrediction, Trainer

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features, make_compute_metrics
from lfvila_hf.training.trainer import fusion_accuracy

ROWS, BATCH = 7, 3
# Losses and features of batches of 3 against those of all rows at once; measured 4e-7 relative.
FLOAT32_NOISE = 1e-5
DRAWN = ("chance_r1", "num_texts", "num_videos", "num_twins")


def features_by_hand(model: LFVilaModel, rows: TensorRows) -> RetrievalFeatures:
    """All rows in one call of each tower."""
    with torch.no_grad():
        text = model.get_text_features(rows.tensors["input_ids"], rows.tensors["attention_mask"])
        video = model.get_video_features(rows.tensors["pixel_values_videos"])
    return RetrievalFeatures(
        text.text_embeds, video.video_embeds, text.sentence_embeds, text.sentence_mask.bool(), video.clip_embeds
    )


def assert_metrics(found: dict[str, float], expected: dict[Any, dict[str, float]], prefix: str) -> None:
    """The metrics hold exactly the expected ones of every score, under `{prefix}_{score}_{name}`."""
    wanted = {f"{prefix}_{score}_{name}": value for score, values in expected.items() for name, value in values.items()}
    scores = tuple(f"{prefix}_{score}_" for score in ("global", "aligned", "both"))
    timed = ("loss", "runtime", "per_second")
    ours = {name: value for name, value in found.items() if name.startswith(scores) and not name.endswith(timed)}
    assert wanted and ours == pytest.approx(wanted)
    assert any(value not in (0.0, 1.0) for name, value in wanted.items() if "_r1" in name and "chance" not in name)


@pytest.fixture
def model() -> LFVilaModel:
    return tiny_model(LFVilaModel)


@pytest.mark.parametrize("batch_size", [1, BATCH, ROWS, 16])
def test_evaluation_covers_every_row_whatever_training_drops(
    model: LFVilaModel, tmp_path: Path, batch_size: int
) -> None:
    rows = pairs(ROWS)
    options = arguments(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=batch_size)
    trainer = LFVilaTrainer(model=model, args=options, train_dataset=pairs(5), eval_dataset=rows)
    metrics = trainer.evaluate()
    assert metrics["eval_global_num_texts"] == metrics["eval_both_num_videos"] == ROWS
    assert_metrics(metrics, evaluate_features(features_by_hand(model, rows)), "eval")
    assert options.dataloader_drop_last  # and training still drops
    assert [len(batch["input_ids"]) for batch in trainer.get_train_dataloader()] == []
    assert sum(len(batch["input_ids"]) for batch in trainer.get_test_dataloader(rows)) == ROWS


def test_the_loss_is_the_mean_over_rows(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, per_device_eval_batch_size=BATCH), eval_dataset=rows)
    metrics = trainer.evaluate()
    sums = dict.fromkeys(("loss", "global_loss", "mtc_loss"), 0.0)
    for start in range(0, ROWS, BATCH):
        batch = {name: value[start : start + BATCH] for name, value in rows.tensors.items()}
        with torch.no_grad():
            output = model(**batch)
        for name in sums:
            sums[name] += output[name].item() * len(batch["input_ids"]) / ROWS
    for name, value in sums.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=FLOAT32_NOISE) and value > 0
    assert logged(trainer, "eval_loss") and "loss" not in trainer.state.log_history[0]
    again = trainer.evaluate()
    assert again["eval_mtc_loss"] == metrics["eval_mtc_loss"], "positions of MTC must be the same in every evaluation"


def test_the_loss_given_to_the_trainer_is_the_one_that_is_evaluated(model: LFVilaModel, tmp_path: Path) -> None:
    def doubled(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return 2 * outputs["loss"]

    losses = []
    for function in (None, doubled):
        options = arguments(tmp_path, per_device_eval_batch_size=4)
        trainer = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(4), compute_loss_func=function)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(2 * losses[0]) and losses[0] > 0


def test_order_twins_are_counted_by_every_score(model: LFVilaModel, tmp_path: Path) -> None:
    rows, twins = pairs(ROWS), [(0, 3), (5, 2), (1, 6)]
    options = arguments(tmp_path, per_device_eval_batch_size=BATCH)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=rows, eval_twins=twins)
    metrics = trainer.evaluate()
    expected = evaluate_features(features_by_hand(model, rows), twins=twins)
    assert_metrics(metrics, expected, "eval")
    assert metrics["eval_aligned_num_twins"] == 3 and "eval_both_order_accuracy" in metrics
    trainer.eval_twins = [(0, 1), (2, ROWS)]
    with pytest.raises(ValueError, match="eval_twins names row 7, the data set has 7 rows"):
        trainer.evaluate()


def test_only_the_scores_asked_for_are_made(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    options = {"eval_scores": ["aligned"], "retrieval_block_size": 2, "per_device_eval_batch_size": BATCH}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), eval_dataset=rows)
    metrics = trainer.evaluate()
    assert not [name for name in metrics if name.startswith(("eval_global_t", "eval_global_n", "eval_both"))]
    assert_metrics(metrics, evaluate_features(features_by_hand(model, rows), scores=["aligned"]), "eval")


def test_a_model_without_temporal_alignment_has_the_global_score(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel, tiny_config(temporal_alignment=False))
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path), eval_dataset=pairs(4))
    metrics = trainer.evaluate()
    assert metrics["eval_global_num_texts"] == 4 and metrics["eval_loss"] == metrics["eval_global_loss"]
    assert not [name for name in metrics if "aligned" in name or "mtc" in name]
    asked = arguments(tmp_path, eval_scores=["aligned"])
    with pytest.raises(ValueError, match="the score 'aligned' needs sentence_embeds"):
        LFVilaTrainer(model=model, args=asked, eval_dataset=pairs(4)).evaluate()


def test_batches_may_differ_in_their_number_of_sentences(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(4)
    for row, sentences in enumerate((2, 1, 4, 3)):
        rows.tensors["attention_mask"][row, sentences:] = 0

    def trim(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        longest = int(batch["attention_mask"].any(-1).sum(-1).max())
        return {name: v if name == "pixel_values_videos" else v[:, :longest] for name, v in batch.items()}

    options = arguments(tmp_path, per_device_eval_batch_size=2)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=rows, data_collator=trim)
    lengths = [batch["input_ids"].shape[1] for batch in trainer.get_eval_dataloader()]
    assert lengths == [2, 4]
    assert_metrics(trainer.evaluate(), evaluate_features(features_by_hand(model, rows)), "eval")


def test_predictions_are_the_features_of_all_rows(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    options = arguments(tmp_path, per_device_eval_batch_size=BATCH, dataloader_drop_last=True)
    found = LFVilaTrainer(model=model, args=options).predict(rows)
    expected = features_by_hand(model, rows)
    assert set(found.predictions) == {
        "text_embeds",
        "video_embeds",
        "sentence_embeds",
        "sentence_mask",
        "clip_embeds",
    }
    for name, array in found.predictions.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, getattr(expected, name).numpy(), atol=FLOAT32_NOISE)
    assert_metrics(found.metrics, evaluate_features(expected), "test")
    again = make_compute_metrics(scores=("both",))(EvalPrediction(found.predictions, ()))
    assert again["t2v_r1"] == found.metrics["test_both_t2v_r1"]


def test_metrics_of_the_users_own_are_called(model: LFVilaModel, tmp_path: Path) -> None:
    def count(prediction: EvalPrediction) -> dict[str, float]:
        return {"arrays": len(prediction.predictions), "rows": len(prediction.predictions[0])}

    options = arguments(tmp_path, per_device_eval_batch_size=BATCH, dataloader_drop_last=True)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(ROWS), compute_metrics=count)
    metrics = trainer.evaluate()
    assert (metrics["eval_arrays"], metrics["eval_rows"]) == (5, ROWS)
    assert metrics["eval_loss"] > 0


def test_retrieval_can_be_left_out_of_evaluation(model: LFVilaModel, tmp_path: Path) -> None:
    options = arguments(tmp_path, eval_retrieval=False)
    metrics = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(4)).evaluate()
    assert metrics["eval_loss"] > 0 and not [name for name in metrics if "r1" in name]


def test_several_sets_are_evaluated_under_their_names(model: LFVilaModel, tmp_path: Path) -> None:
    sets = {"small": pairs(3), "large": pairs(5)}
    metrics = LFVilaTrainer(model=model, args=arguments(tmp_path), eval_dataset=sets).evaluate()
    assert (metrics["eval_small_global_num_texts"], metrics["eval_large_global_num_texts"]) == (3, 5)


def test_the_best_checkpoint_by_retrieval_is_kept(model: LFVilaModel, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "both_t2v_meanr", "greater_is_better": False}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate=1e-2, per_device_train_batch_size=4, **options),
        train_dataset=pairs(4),
        eval_dataset=pairs(4),
    )
    trainer.train()
    ranks = [entry["eval_both_t2v_meanr"] for entry in logged(trainer, "eval_both_t2v_meanr")]
    assert len(ranks) == 2 and trainer.state.best_metric == min(ranks)


def test_evaluation_in_half_precision_changes_the_type_of_the_model(model: LFVilaModel, tmp_path: Path) -> None:
    options = arguments(tmp_path, bf16_full_eval=True)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(4))
    assert trainer.evaluate()["eval_loss"] > 0
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}


# -- heads of the fusion phase ---------------------------------------------------------------------------------------


def test_the_fusion_phase_is_evaluated_by_the_accuracy_of_its_heads(tmp_path: Path) -> None:
    model, rows = tiny_model(LFVilaForPreTraining), fusion_pairs(6, matched=True)
    options = arguments(tmp_path, training_phase="fusion", per_device_eval_batch_size=4)
    metrics = LFVilaTrainer(model=model, args=options, eval_dataset=rows).evaluate()
    model.eval()
    with torch.no_grad():
        output = model(**rows.tensors, phase="fusion")
    matches = [int(output.vtm_logits[row].argmax()) == row % 2 for row in range(6)]
    words = []
    for row in range(1, 6, 2):  # masked tokens of matched pairs
        for sentence in range(4):
            guess = output.mlm_logits[row, 1 + 6 * sentence + 1].argmax()
            words.append(bool(guess == rows.tensors["mlm_targets"][row, sentence, 1]))
    assert metrics["eval_vtm_accuracy"] == pytest.approx(sum(matches) / 6)
    assert metrics["eval_mlm_accuracy"] == pytest.approx(sum(words) / 12)
    assert metrics["eval_vtm_loss"] == pytest.approx(output.vtm_loss.item(), rel=FLOAT32_NOISE)
    assert not [name for name in metrics if "_r1" in name or "global" in name]


def test_accuracy_of_the_heads_counts_masked_text_tokens_and_pairs() -> None:
    # Paragraph token, two sentences of two tokens, one video token; a vocabulary of three.
    words = torch.tensor([[2, 0, 1, 2, 0, 2], [1, 1, 1, 1, 1, 1]])
    outputs = {
        "mlm_logits": torch.nn.functional.one_hot(words, 3).float(),
        "mlm_targets": torch.tensor([[[0, 2], [2, -100]], [[-100, -100], [-100, 1]]]),
        "vtm_logits": torch.tensor([[0.0, 1.0], [3.0, -1.0]]),
        "vtm_targets": torch.tensor([1, 1]),
    }
    assert fusion_accuracy(outputs) == {"vtm_accuracy": (1, 2), "mlm_accuracy": (3, 4)}
    assert fusion_accuracy({"loss": torch.zeros(())}) == {}
    outputs["mlm_targets"] = torch.full_like(outputs["mlm_targets"], -100)
    assert fusion_accuracy(outputs)["mlm_accuracy"] == (0, 0)


# -- tasks with labels -----------------------------------------------------------------------------------------------


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean()), "rows": len(logits)}


@pytest.mark.parametrize("trainer_class", [LFVilaTrainer, Trainer])
@pytest.mark.parametrize("name", ["question answering", "multiple choice", "classification"])
def test_a_task_with_labels_trains_and_is_evaluated_by_its_metrics(
    name: str, trainer_class: type[Trainer], tmp_path: Path
) -> None:
    example = EXAMPLES[name]
    model, rows = example.model(), TensorRows(**example.inputs(5))
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 1e-3}
    trainer = trainer_class(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=accuracy,
    )
    trainer.train()
    assert len(logged(trainer)) == 2 and all(entry["loss"] > 0 for entry in logged(trainer))
    metrics = trainer.evaluate()
    with torch.no_grad():
        logits = model.eval()(**rows.tensors).logits
    expected = sum(int(logits[row].argmax() == rows.tensors["labels"][row]) for row in range(5)) / 5
    assert metrics["eval_accuracy"] == pytest.approx(expected)
    assert metrics["eval_rows"] == 5 and metrics["eval_loss"] > 0
    found = trainer.predict(rows)
    assert found.label_ids.tolist() == rows.tensors["labels"].tolist()

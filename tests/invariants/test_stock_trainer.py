"""transformers' own Trainer on our models: the loss inside and outside, accumulation, evaluation, frozen towers.

One step of plain gradient descent shows every gradient, so weights are compared after it. `LFVilaTrainer` is tested in
tests/training/.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, tiny_batch, tiny_config, tiny_model
from transformers import EvalPrediction, Trainer, TrainingArguments

from lfvila_hf import LFVilaForPreTraining, LFVilaForQuestionAnswering, LFVilaForVideoClassification, LFVilaModel
from lfvila_hf.loss_lfvila import LFVilaLoss

# float32 sums in another order, which processors choose differently: weights as large as 10 move by as much, and the
# largest difference measured is 1.1e-6. Losses taken for sums differ by more than 0.01.
FLOAT32_NOISE = 1e-5
LEARNING_RATE = 0.1

Samples = list[dict[str, torch.Tensor]]


def samples(batch: dict[str, Any]) -> Samples:
    """Split a batch into a data set of its rows."""
    columns = {name: value for name, value in batch.items() if torch.is_tensor(value)}
    return [{name: value[row] for name, value in columns.items()} for row in range(len(columns["pixel_values_videos"]))]


def trainer(model: Any, folder: Path, data: Samples, batch_size: int = 4, steps: int = 1, **options: Any) -> Trainer:
    fields = TrainingArguments.__dataclass_fields__
    arguments = {name: options.pop(name) for name in list(options) if name in fields}
    return Trainer(
        model,
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=data,
        eval_dataset=data,
        **options,
    )


def trained(
    make: Callable[[], Any], folder: Path, data: Samples, **options: Any
) -> tuple[dict[str, torch.Tensor], float]:
    """Train one step from the same start; return the weights and the logged loss."""
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    running = trainer(model, folder, data, **options)
    running.train()
    after = {name: value.detach().clone() for name, value in model.state_dict().items()}
    moved = [name for name in after if (after[name] - before[name]).abs().max() > 1e-4]
    assert len(moved) > 20, "hardly a weight has moved"
    return after, running.state.log_history[0]["loss"]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def fusion_model(**fields: Any) -> LFVilaForPreTraining:
    model = tiny_model(LFVilaForPreTraining, tiny_config(**fields))
    model.set_training_phase("fusion")
    return model


def fusion_samples() -> Samples:
    return samples(EXAMPLES["fusion phase"].inputs(4) | {"vtm_targets": torch.ones(4, dtype=torch.long)})


@pytest.mark.parametrize("phase", ["contrastive", "fusion"])
def test_the_loss_outside_trains_as_the_loss_of_the_model(phase: str, tmp_path: Path) -> None:
    make = fusion_model if phase == "fusion" else lambda: tiny_model(LFVilaForPreTraining)
    data = fusion_samples() if phase == "fusion" else samples(tiny_batch(4))
    own, own_loss = trained(make, tmp_path, data)
    outside, outside_loss = trained(make, tmp_path, data, compute_loss_func=LFVilaLoss())
    assert largest_difference(own, outside) == 0 and own_loss == outside_loss > 0


@pytest.mark.parametrize("kind", ["question answering", "fusion phase"])
def test_accumulation_is_exact(kind: str, tmp_path: Path) -> None:
    if kind == "fusion phase":
        make, data = fusion_model, fusion_samples()
    else:
        make, data = EXAMPLES[kind].model, samples(EXAMPLES[kind].inputs(4))
    whole, whole_loss = trained(make, tmp_path, data)
    parts, parts_loss = trained(make, tmp_path, data, batch_size=1, gradient_accumulation_steps=4)
    assert largest_difference(whole, parts) < FLOAT32_NOISE
    assert parts_loss == pytest.approx(whole_loss, rel=1e-4)


def test_accumulation_would_not_be_exact_if_the_trainer_took_the_losses_for_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = EXAMPLES["question answering"]
    data = samples(example.inputs(4))
    assert LFVilaForQuestionAnswering.accepts_loss_kwargs is False
    monkeypatch.setattr(LFVilaForQuestionAnswering, "accepts_loss_kwargs", True)
    whole, _ = trained(example.model, tmp_path, data)
    parts, _ = trained(example.model, tmp_path, data, batch_size=1, gradient_accumulation_steps=4)
    assert largest_difference(whole, parts) > 0.01


def test_frozen_towers_stay_what_they_were(tmp_path: Path) -> None:
    dropout = {"hidden_dropout_prob": 0.5}
    model = fusion_model(text=dropout, video=dropout)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(model, tmp_path, fusion_samples(), steps=2, eval_strategy="steps", eval_steps=1).train()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"cross_modal_encoder", "mlm_head", "vtm_head"}


@pytest.mark.parametrize("kind", ["joined", "contrastive phase", "fusion phase"])
def test_evaluation_gives_a_loss_without_labels(kind: str, tmp_path: Path) -> None:
    model = fusion_model() if kind == "fusion phase" else EXAMPLES[kind].model()
    data = fusion_samples() if kind == "fusion phase" else samples(tiny_batch(4))
    metrics = trainer(model, tmp_path, data).evaluate()
    inputs = {name: torch.stack([sample[name] for sample in data]) for name in data[0]}
    with torch.no_grad():
        expected = model.eval()(**inputs).loss.item()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_are_given_the_features_of_all_batches_and_nothing_else(tmp_path: Path) -> None:
    data = samples(tiny_batch(5))
    seen: list[EvalPrediction] = []

    def look(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"num_texts": float(len(prediction.predictions[0]))}

    model = tiny_model(LFVilaModel)
    metrics = trainer(model, tmp_path, data, batch_size=2, compute_metrics=look).evaluate()
    assert metrics["eval_num_texts"] == 5 and "eval_loss" in metrics
    inputs = {name: torch.stack([sample[name] for sample in data]) for name in data[0]}
    with torch.no_grad():
        output = model(**inputs)
    names = ("text_embeds", "video_embeds", "sentence_embeds", "clip_embeds", "sentence_mask")
    for found, name in zip(seen[0].predictions, names, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), output[name], atol=1e-5, rtol=0)


def test_a_classifier_is_evaluated_with_its_labels(tmp_path: Path) -> None:
    data = samples({"pixel_values_videos": tiny_batch(4)["pixel_values_videos"], "labels": torch.tensor([0, 1, 1, 0])})

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        assert prediction.predictions.shape == (4, 2)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    model = tiny_model(LFVilaForVideoClassification, tiny_config(num_labels=2))
    running = trainer(model, tmp_path, data, compute_metrics=accuracy, steps=30)
    before = running.evaluate()["eval_loss"]
    running.train()
    after = running.evaluate()
    assert after["eval_loss"] < before and after["eval_accuracy"] == 1

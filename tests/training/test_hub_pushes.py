"""The card that a training leaves in its output folder; what the Trainer pushes is in tests/hub/test_publishing.py."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard
from tiny_models import EXAMPLES
from training_runs import arguments, pairs

from lfvila_hf import LFVilaTrainer
from lfvila_hf.training.hub_pushes import last_evaluation


def test_the_card_of_a_training_has_its_last_evaluation_and_its_arguments(tmp_path: Path) -> None:
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 0.003, "seed": 7}
    trainer = LFVilaTrainer(
        model=EXAMPLES["joined"].model(),
        args=arguments(tmp_path / "thing", **options),
        train_dataset=pairs(4),
        eval_dataset=pairs(4),
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.create_model_card(license="mit", dataset="ShapeTales", finetuned_from="org/base")
    card = ModelCard.load(tmp_path / "thing" / "README.md")
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found["loss"] == metrics["eval_loss"] and found["global_t2v_r1"] == metrics["eval_global_t2v_r1"]
    assert not [name for name in found if name.endswith(("runtime", "per_second"))]
    assert {one.dataset_name for one in card.data.eval_results} == {"ShapeTales"}
    assert (card.data.license, card.data.base_model) == ("mit", "org/base")
    assert "1 steps" in card.text and "learning rate 0.003" in card.text and "seed 7" in card.text


def test_only_numbers_of_the_model_are_its_metrics() -> None:
    history = [{"eval_R@1": 0.1}, {"loss": 2.0}, {"eval_R@1": 0.5, "eval_runtime": 3.0, "epoch": 1.0, "step": 2}]
    assert last_evaluation(history) == {"R@1": 0.5}
    assert last_evaluation([{"loss": 1.0}]) == {}

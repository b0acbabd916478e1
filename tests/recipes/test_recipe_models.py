"""Models of the recipes: every task starts from a checkpoint of pre-training, at any number of frames, or is refused.

Runs are tested in tests/examples/test_recipe_scripts.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from lfvila_hf import (
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
)
from lfvila_hf.recipes.recipe_arguments import RecipeArguments
from lfvila_hf.recipes.recipe_data import shuffled_labels
from lfvila_hf.recipes.recipe_models import build_model

SIZE: dict[str, Any] = {"generated_videos": 1, "num_frames": 8, "max_sentence_length": 12}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> Path:
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model, processor = build_model(
        RecipeArguments(task="fusion", preset="tiny", **SIZE),
        LFVilaForPreTraining,
        BertTokenizer(vocab=dict(tiny_vocabulary)),
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("task", "model_class"),
    [
        ("contrastive", LFVilaForPreTraining),
        ("activitynet", LFVilaModel),
        ("violin", LFVilaForQuestionAnswering),
        ("how2qa", LFVilaForMultipleChoice),
        ("lvu_scene", LFVilaForVideoClassification),
    ],
)
def test_every_task_takes_its_weights_from_pre_training(task: str, model_class: Any, checkpoint: Path) -> None:
    arguments = RecipeArguments(task=task, model_name_or_path=str(checkpoint), paragraph_max_sentences=5, **SIZE)
    model, processor = build_model(arguments, model_class, num_labels=2)
    trained = LFVilaForPreTraining.from_pretrained(checkpoint).state_dict()
    towers = {name: value for name, value in model.state_dict().items() if ".video_model." in f".{name}"}
    assert len(towers) > 50
    for name, value in towers.items():
        assert torch.equal(value, trained[name if name in trained else f"model.{name}"]), name
    if task == "violin":
        fused = "cross_modal_encoder.layers.0.attention.self.query.weight"
        names = [name for name in model.state_dict() if name.startswith("cross_modal_encoder.")]
        assert names and fused.split(".")[0] in names[0]
        assert all(torch.equal(model.state_dict()[name], trained[name]) for name in names)
        assert model.classifier.out_features == 2
    assert processor.max_sentences == 5 and processor.video_processor.num_frames == 8


def test_loss_weights_of_the_arguments_win_over_those_of_the_task(checkpoint: Path) -> None:
    given = {"task": "didemo", "model_name_or_path": str(checkpoint), **SIZE}
    fields: dict[str, Any] = {"temporal_alignment": False, "mtc_loss_weight": 0.0}
    model, _ = build_model(RecipeArguments(rerank_top_k=3, **given), LFVilaForPreTraining, **fields)
    assert model.vtm_head is not None
    assert model.config.mtc_loss_weight == 0 and not model.config.temporal_alignment
    model, _ = build_model(
        RecipeArguments(mtc_loss_weight=0.25, **given), LFVilaModel, **fields | {"temporal_alignment": True}
    )
    assert model.config.mtc_loss_weight == 0.25 and model.clip_projection is not None


def test_another_number_of_frames_resizes_the_checkpoint(checkpoint: Path) -> None:
    arguments = RecipeArguments(task="lvu_scene", model_name_or_path=str(checkpoint), **(SIZE | {"num_frames": 16}))
    model, processor = build_model(arguments, LFVilaForVideoClassification, num_labels=6)
    assert model.config.num_frames == processor.video_processor.num_frames == 16
    assert model.config.num_labels == 6
    with torch.no_grad():
        assert model(pixel_values_videos=torch.zeros(1, 16, 3, 48, 80)).logits.shape == (1, 6)


def test_what_does_not_fit_a_model_is_refused(checkpoint: Path, tiny_tokenizer: Any) -> None:
    many = RecipeArguments(task="activitynet", model_name_or_path=str(checkpoint), paragraph_max_sentences=9, **SIZE)
    with pytest.raises(ValueError, match="up to 8 sentences"):
        build_model(many, LFVilaModel)
    with pytest.raises(ValueError, match="--preset base or tiny"):
        build_model(RecipeArguments(task="violin", **SIZE), LFVilaForQuestionAnswering, tiny_tokenizer)


@pytest.mark.parametrize("column", ["label", "sentences"])
def test_shuffled_labels_are_the_same_ones_in_other_rows(column: str) -> None:
    values: list[Any] = list(range(50)) if column == "label" else [[f"{n}"] for n in range(50)]
    rows = datasets.Dataset.from_dict({"id": [str(n) for n in range(50)], column: values})
    shuffled = shuffled_labels(rows, seed=1)
    assert list(shuffled["id"]) == list(rows["id"])
    assert sorted(shuffled[column]) == sorted(values)
    assert sum(a == b for a, b in zip(shuffled[column], values, strict=True)) < 5
    assert list(shuffled_labels(rows, seed=1)[column]) == list(shuffled[column])
    if column == "sentences":
        uneven = datasets.Dataset.from_dict({"id": ["a", "b"], "sentences": [["a"], ["b", "c"]]})
        with pytest.raises(ValueError, match="different lengths"):
            shuffled_labels(uneven, seed=1)

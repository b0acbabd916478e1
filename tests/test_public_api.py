"""The names that people write down: what `lfvila_hf` exports, its signatures, and the Auto classes after its import.

What each thing does is tested in the file that mirrors its module; publishing with remote code is another matter.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import EXAMPLES, VIDEO, Example, tiny_config, tiny_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import lfvila_hf
from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor

PROMISED = {
    "lfvila_hf": [
        "LFVilaConfig",
        "LFVilaVideoConfig",
        "LFVilaTextConfig",
        "LFVilaModel",
        "LFVilaForPreTraining",
        "LFVilaForQuestionAnswering",
        "LFVilaForMultipleChoice",
        "LFVilaForVideoClassification",
        "LFVilaVideoProcessor",
        "LFVilaProcessor",
        "LFVilaVideoError",
        "LFVilaTrainer",
        "LFVilaTrainingArguments",
        "encode_videos",
        "encode_paragraphs",
    ],
    "lfvila_hf.loss_lfvila": ["LFVilaLoss", "MTCDraw", "global_contrastive_loss", "mtc_loss"],
    "lfvila_hf.conversion": ["config_from_original", "convert_state_dict"],
    "lfvila_hf.export": ["ExportedLFVila"],
}
BOTH_SIDES = ["input_ids", "attention_mask", "pixel_values_videos"]
ARGUMENTS = {
    "LFVilaModel.forward": [*BOTH_SIDES, "return_loss", "mtc_draw"],
    "LFVilaModel.similarity": ["text_side", "video_side", "score"],
    "LFVilaModel.set_num_frames": ["num_frames", "temporal_windows"],
    "LFVilaForPreTraining.forward": [*BOTH_SIDES, "phase", "mlm_targets", "vtm_targets", "return_loss", "mtc_draw"],
    "LFVilaForPreTraining.set_training_phase": ["phase"],
    "LFVilaForQuestionAnswering.forward": [*BOTH_SIDES, "labels"],
    "LFVilaForMultipleChoice.forward": [*BOTH_SIDES, "labels", "span_targets", "span_weights"],
    "LFVilaForVideoClassification.forward": ["pixel_values_videos", "labels"],
    "LFVilaProcessor.post_process_alignment": ["outputs", "metadata"],
    "loss_lfvila.LFVilaLoss.__call__": ["outputs", "labels", "num_items_in_batch"],
    "loss_lfvila.global_contrastive_loss": ["text_features", "video_features", "temperature"],
    "loss_lfvila.mtc_loss": [
        "sentence_features",
        "clip_features",
        "draw",
        "temperature",
        "sentence_mask",
        "other_negatives",
        "num_other_negatives",
    ],
    "conversion.config_from_original": ["original", "task"],
    "conversion.convert_state_dict": ["config", "task"],
    "inference.encode_videos": ["model", "processor", "videos", "batch_size"],
    "inference.encode_paragraphs": ["model", "processor", "paragraphs", "batch_size"],
}
AUTO_CLASSES = {
    "video tower": AutoModel,
    "text tower": AutoModel,
    "joined": AutoModel,
    "contrastive phase": AutoModelForPreTraining,
    "fusion phase, co-attention": AutoModelForPreTraining,
    "question answering": AutoModelForVisualQuestionAnswering,
    "multiple choice": AutoModelForMultipleChoice,
    "classification": AutoModelForVideoClassification,
}

LOAD = """
import sys, torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, AutoTokenizer
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
import lfvila_hf
folder = sys.argv[1]
lazy = [name for name in ("lfvila_hf.training", "lfvila_hf.data", "datasets", "evaluate", "matplotlib")
        if name in sys.modules]
processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
pretraining = AutoModelForPreTraining.from_pretrained(folder)
parts = [one.from_pretrained(folder) for one in (AutoVideoProcessor, AutoTokenizer)]
batch = processor(text=[["a man rides", "the ball"]], videos=torch.load(folder + "/video.pt"), return_tensors="pt")
with torch.no_grad():
    features = model(**batch)
    fusion = pretraining(**batch, phase="fusion", vtm_targets=torch.ones(1, dtype=torch.long))
torch.save({**batch, "similarity": model.similarity(features, features, "both"), "clip_embeds": features.clip_embeds,
            "vtm_logits": fusion.vtm_logits}, folder + "/found.pt")
print("lazy", lazy)
print("classes", [type(one).__name__ for one in (model, pretraining, processor, *parts)])
"""


def test_every_promised_name_can_be_imported() -> None:
    for module, names in PROMISED.items():
        for name in names:
            assert getattr(importlib.import_module(module), name).__module__.startswith("lfvila_hf."), name
    assert set(PROMISED["lfvila_hf"]) <= set(lfvila_hf.__all__) <= set(dir(lfvila_hf))
    assert len(set(lfvila_hf.__all__)) == len(lfvila_hf.__all__)
    assert issubclass(lfvila_hf.LFVilaVideoError, ValueError)
    assert issubclass(lfvila_hf.LFVilaTrainer, Trainer)
    assert issubclass(lfvila_hf.LFVilaTrainingArguments, TrainingArguments)
    namespace: dict[str, Any] = {}
    exec("from lfvila_hf import *", namespace)
    assert set(lfvila_hf.__all__) <= set(namespace)
    with pytest.raises(AttributeError, match="module 'lfvila_hf' has no attribute 'LFVilaFoo'"):
        lfvila_hf.LFVilaFoo  # noqa: B018 -- the look-up is what is tested


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_keep_their_names_and_order(name: str) -> None:
    head, *rest = name.split(".")
    found: Any = getattr(lfvila_hf, head) if head[0].isupper() else importlib.import_module(f"lfvila_hf.{head}")
    for part in rest:
        found = getattr(found, part)
    parameters = [parameter for parameter in inspect.signature(found).parameters if parameter != "self"]
    expected = ARGUMENTS[name]
    assert [parameter for parameter in parameters if parameter in expected] == expected
    assert parameters[: len(expected)] == expected or name.startswith("conversion.")


def test_the_trainer_finds_the_loss_and_the_labels_by_the_signatures() -> None:
    from transformers.utils.generic import can_return_loss, find_labels

    for name in ("LFVilaModel", "LFVilaForPreTraining"):
        model_class = getattr(lfvila_hf, name)
        assert inspect.signature(model_class.forward).parameters["return_loss"].default is True
        assert can_return_loss(model_class) and find_labels(model_class) == []
    for name in ("LFVilaForQuestionAnswering", "LFVilaForMultipleChoice", "LFVilaForVideoClassification"):
        assert find_labels(getattr(lfvila_hf, name)) == ["labels"]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert lfvila_hf.__version__ == version("lfvila_hf")


# -- Auto classes ----------------------------------------------------------------------------------------------------


def test_the_auto_classes_know_every_configuration_also_when_registered_twice() -> None:
    lfvila_hf._register()
    for name, config_class in (
        ("lfvila", LFVilaConfig),
        ("lfvila_video_model", lfvila_hf.LFVilaVideoConfig),
        ("lfvila_text_model", lfvila_hf.LFVilaTextConfig),
    ):
        assert type(AutoConfig.for_model(name)) is config_class
    with torch.device("meta"):
        assert type(AutoModelForPreTraining.from_config(LFVilaConfig.tiny())) is LFVilaForPreTraining


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_a_saved_model_comes_back_bit_for_bit_through_its_auto_class(name: str, tmp_path: Path) -> None:
    example: Example = EXAMPLES[name]
    model, inputs = example.model(), example.inputs(2)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    assert config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    loaded = AUTO_CLASSES[name].from_pretrained(tmp_path)
    assert type(loaded) is example.model_class
    weights = model.state_dict()
    assert weights and loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())
    with torch.no_grad():
        found, expected = loaded(**inputs), model(**inputs)
    compared = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    assert compared and all(torch.equal(found[key], expected[key]) for key in compared)


def test_a_processor_folder_gives_all_its_parts_through_the_auto_classes(tmp_path: Path, tiny_tokenizer: Any) -> None:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    processor = LFVilaProcessor(
        LFVilaVideoProcessor(size=size, num_frames=4, num_clips=2), tiny_tokenizer, max_sentences=3
    )
    processor.save_pretrained(tmp_path)
    tiny_config().save_pretrained(tmp_path)
    whole, part = AutoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(whole) is LFVilaProcessor and type(part) is LFVilaVideoProcessor
    assert (whole.max_sentences, part.num_frames, part.num_clips) == (3, 4, 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("A man rides!")["input_ids"] == tiny_tokenizer("A man rides!")["input_ids"]
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    video = np.random.default_rng(0).integers(0, 255, (9, 30, 50, 3), dtype=np.uint8)
    given = {"text": [["a man", "he falls"]], "return_tensors": "pt"}
    found, expected = (one(videos=video, **given) for one in (whole, processor))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    assert torch.equal(part(video, return_tensors="pt")["pixel_values_videos"], expected["pixel_values_videos"])


def test_a_new_process_loads_a_checkpoint_and_computes_the_same_bits(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = tiny_model(LFVilaForPreTraining, tiny_config(text={"vocab_size": len(tiny_tokenizer)}))
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    processor = LFVilaProcessor(
        LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"]),
        tiny_tokenizer,
        max_sentence_length=8,
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(torch.randint(255, (12, 3, 30, 50), dtype=torch.uint8), tmp_path / "video.pt")
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, timeout=280, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    classes = ["LFVilaModel", "LFVilaForPreTraining", "LFVilaProcessor", "LFVilaVideoProcessor"]
    assert f"classes {[*classes, type(AutoTokenizer.from_pretrained(tmp_path)).__name__]}" in run.stdout
    assert "lazy []" in run.stdout, "importing the package imported more than a model needs"

    batch = processor(text=[["a man rides", "the ball"]], videos=torch.load(tmp_path / "video.pt"), return_tensors="pt")
    assert type(model.model) is LFVilaModel
    with torch.no_grad():
        features = model.model(**batch)
        fusion = model(**batch, phase="fusion", vtm_targets=torch.ones(1, dtype=torch.long))
    expected = {
        **batch,
        "similarity": model.model.similarity(features, features, "both"),
        "clip_embeds": features.clip_embeds,
        "vtm_logits": fusion.vtm_logits,
    }
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys() and len(found) == 6
    for name, value in expected.items():
        assert torch.equal(found[name], value), name

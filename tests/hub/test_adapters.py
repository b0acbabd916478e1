"""LoRA adapters: targets and heads unasked, and the same bits after every way to save, load, merge and switch them.

What goes over the Hub is in test_publishing.py.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    LoraModel,
    OFTConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from tiny_models import EXAMPLES, tiny_model
from transformers import BertConfig, BertModel, HfArgumentParser
from transformers.utils import logging

from lfvila_hf.hub.adapters import LoraArguments, add_lora, lora_config, register_with_peft

# PEFT reads an attribute that transformers has renamed; the call is not ours.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
# What merging may move: embeddings of length 1, cosines, logits of heads; losses relative to themselves. Measured in
# float32 with weights of a usual size: 1.9e-7, 9.5e-8, 4.8e-7 and 3.5e-7.
MERGED = 1e-6
MERGED_LARGE = 1e-5  # with weights ten times as large: 2.9e-6, without AVX-512 5.1e-6, of logits of up to 3
USUAL = 0.05  # spread of weights as a training leaves them, against 0.2 elsewhere
HEADS = {
    "joined": None,
    "contrastive phase": None,
    "question answering": ["classifier"],
    "multiple choice": ["classifier", "span_classifier"],
    "classification": ["classifier"],
    "video tower": None,
    "text tower": None,
}


def with_noise(model: Any, seed: int = 3) -> Any:
    """An adapter as after a training: a fresh one changes nothing, because its second matrix is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def outputs(model: Any, name: str) -> dict[str, torch.Tensor]:
    """Outputs of batches of one and of two: single rows take other ways through a matrix product."""
    found = {}
    for size in (1, 2):
        with torch.no_grad():
            batch = model(**EXAMPLES[name].inputs(size))
        found |= {f"{key} of {size}": value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    return found


def inside_merged(folder: Path, model_class: Any) -> Any:
    """The adapter of `folder` merged into its base in float32."""
    return PeftModel.from_pretrained(
        model_class.from_pretrained(folder / "base"), folder / "adapter"
    ).merge_and_unload()


def moved_by_merging(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """The largest difference of an output; of logits over 0.05 as cosines, of losses above 1 relative to them."""
    assert before and before.keys() == after.keys()
    moved = 0.0
    for key, value in before.items():
        if value.is_floating_point():
            scale = 20.0 if key.startswith("logits_per") else max(1.0, value.abs().item()) if "loss" in key else 1.0
            moved = max(moved, float((value - after[key]).abs().max()) / scale)
    return moved


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one and one.keys() == other.keys()
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", HEADS)
def test_lora_sits_on_every_tower_and_the_heads_come_along_unasked(name: str) -> None:
    model = get_peft_model(EXAMPLES[name].model(), LoraConfig(r=2))
    assert model.peft_config["default"].modules_to_save == HEADS[name]
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {
        part
        for part in (
            "video_model",
            "text_model",
            "cross_modal_encoder",
            "levels",
            "sentence_layers",
            "paragraph_layers",
        )
        if any(part in key.split(".") and "lora_" in key for key in trained)
    }
    everywhere = {"video_model", "text_model", "levels", "sentence_layers", "paragraph_layers"}
    expected = {
        "question answering": everywhere | {"cross_modal_encoder"},
        "multiple choice": everywhere | {"cross_modal_encoder"},
        "contrastive phase": everywhere | {"cross_modal_encoder"},
        "joined": everywhere,
        "classification": {"video_model", "levels"},
        "video tower": {"levels"},
        "text tower": {"sentence_layers", "paragraph_layers"},
    }
    assert parts == expected[name]
    heads = [key for key in trained if "lora_" not in key]
    assert bool(heads) == bool(HEADS[name]) and all("modules_to_save" in key for key in heads)


def test_what_the_user_says_about_heads_stands() -> None:
    chosen = get_peft_model(EXAMPLES["question answering"].model(), LoraConfig(modules_to_save=["pooler"]))
    assert chosen.peft_config["default"].modules_to_save == ["pooler"]
    none = get_peft_model(EXAMPLES["question answering"].model(), LoraConfig(modules_to_save=[]))
    assert not [key for key, one in none.named_parameters() if one.requires_grad and "lora_" not in key]


def test_heads_of_the_fusion_phase_are_saved_in_that_phase() -> None:
    model = EXAMPLES["fusion phase"].model(training_phase="fusion")
    assert get_peft_model(model, LoraConfig()).peft_config["default"].modules_to_save == ["mlm_head", "vtm_head"]


def bert() -> BertModel:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=20, **sizes))


def test_models_of_others_are_adapted_as_before() -> None:
    register_with_peft()  # a second time
    model = get_peft_model(bert(), LoraConfig())
    adapter = model.peft_config["default"]
    assert adapter.modules_to_save is None and adapter.target_modules == {"query", "value"}
    assert type(model.base_model) is LoraModel


@pytest.mark.parametrize("name", [None, "question answering", "joined"])
def test_adapted_models_can_be_pickled_and_copied(name: str | None, tmp_path: Path) -> None:
    model = get_peft_model(EXAMPLES[name].model() if name else bert(), LoraConfig(r=2))
    torch.save(model, tmp_path / "model.pt")
    for other in (torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(model)):
        assert type(other.base_model) is type(model.base_model)
        states = model.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys() and all(
            torch.equal(states[0][key], states[1][key]) for key in states[0]
        )


def test_one_configuration_serves_several_models() -> None:
    config = LoraConfig(r=2)
    for name in ("question answering", "multiple choice", "joined", "classification"):
        model = get_peft_model(EXAMPLES[name].model(), config)
        assert model.peft_config["default"].modules_to_save == HEADS[name]
        assert config.modules_to_save is None and config.target_modules is None
    model.add_adapter("second", config)
    assert model.peft_config["second"].modules_to_save == ["classifier"] and config.modules_to_save is None


METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "IA3": (IA3Config, {"feedforward_modules": []}),
    "LoHa": (LoHaConfig, {}),
    "VeRA": (VeraConfig, {"r": 2}),
    "AdaLoRA": (AdaLoraConfig, {"total_step": 10}),
    "OFT": (OFTConfig, {"oft_block_size": 4}),
}


@pytest.mark.parametrize("method", METHODS)
def test_heads_are_trained_and_saved_with_every_method(method: str, tmp_path: Path) -> None:
    config_class, fields = METHODS[method]
    model = get_peft_model(EXAMPLES["multiple choice"].model(), config_class(target_modules=["query"], **fields))
    trained = [key for key, one in model.named_parameters() if one.requires_grad and "modules_to_save" in key]
    assert {key.split(".modules_to_save")[0].split(".")[-1] for key in trained} == {"classifier", "span_classifier"}
    with_noise(model).save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(EXAMPLES["multiple choice"].model(), tmp_path).eval()
    assert same(outputs(back, "multiple choice"), outputs(model, "multiple choice"))


def test_heads_that_a_model_does_not_have_are_said(caplog: pytest.LogCaptureFixture) -> None:
    logging.enable_propagation()
    get_peft_model(EXAMPLES["question answering"].model(), LoraConfig(modules_to_save=["classifier", "scorer"]))
    logging.disable_propagation()
    assert "['scorer'], which LFVilaForQuestionAnswering does not have. Its heads: ['classifier']" in caplog.text
    caplog.clear()
    logging.enable_propagation()
    model = get_peft_model(EXAMPLES["question answering"].model(), LoraConfig(task_type="SEQ_CLS"))
    logging.disable_propagation()
    assert "modules_to_save" not in caplog.text, "PEFT adds names of its own for a task"
    assert model.base_model.model.classifier.modules_to_save["default"].weight.requires_grad


@pytest.mark.parametrize("name", ["joined", "question answering", "multiple choice", "classification"])
def test_an_adapter_gives_the_same_bits_however_it_is_loaded(name: str, tmp_path: Path) -> None:
    base = EXAMPLES[name].model()
    base.save_pretrained(tmp_path / "base")
    plain = outputs(base, name)
    model_class = type(base)
    loaded = model_class.from_pretrained(tmp_path / "base")
    adapted = with_noise(get_peft_model(loaded, lora_config(r=2)))
    expected = outputs(adapted, name)
    assert not same(expected, plain), "the adapter changes nothing, so nothing is tested"
    adapted.save_pretrained(tmp_path / "adapter")

    onto = PeftModel.from_pretrained(model_class.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert same(outputs(onto.eval(), name), expected)
    inside = model_class.from_pretrained(tmp_path / "base")
    inside.load_adapter(str(tmp_path / "adapter"))
    assert same(outputs(inside.eval(), name), expected)
    whole = model_class.from_pretrained(tmp_path / "adapter")  # finds its base by the name in the adapter
    assert same(outputs(whole.eval(), name), expected)
    exact = outputs(onto.double(), name)
    merged = onto.merge_and_unload()
    assert type(merged) is model_class
    found = outputs(merged, name)
    for key, value in exact.items():
        torch.testing.assert_close(found[key], value, atol=1e-12, rtol=0)
    assert moved_by_merging(expected, outputs(inside_merged(tmp_path, model_class), name)) < MERGED_LARGE


@pytest.mark.parametrize("name", ["joined", "question answering", "multiple choice", "classification"])
def test_merging_in_float32_moves_nothing_by_a_millionth(name: str) -> None:
    example = EXAMPLES[name]
    model = with_noise(add_lora(tiny_model(example.model_class, example.config(), spread=USUAL), r=2))
    expected = outputs(model, name)
    with model.disable_adapter():
        assert moved_by_merging(expected, outputs(model, name)) > 0.01, "the adapter changes nothing"
    assert moved_by_merging(expected, outputs(model.merge_and_unload(), name)) < MERGED


def test_several_adapters_on_one_base_keep_apart(tmp_path: Path) -> None:
    name = "question answering"
    EXAMPLES[name].model().save_pretrained(tmp_path / "base")
    model_class, expected = EXAMPLES[name].model_class, {}
    for number, adapter in enumerate(("one", "two")):
        model = with_noise(add_lora(model_class.from_pretrained(tmp_path / "base"), r=2), seed=number)
        expected[adapter] = outputs(model, name)
        model.save_pretrained(tmp_path / adapter)
    assert not same(expected["one"], expected["two"])
    model = PeftModel.from_pretrained(
        model_class.from_pretrained(tmp_path / "base"), tmp_path / "one", adapter_name="one"
    )
    model.load_adapter(tmp_path / "two", adapter_name="two")
    for adapter in ("two", "one", "two"):
        model.set_adapter(adapter)
        assert same(outputs(model.eval(), name), expected[adapter])
    with model.disable_adapter():
        found, plain = outputs(model, name), outputs(model_class.from_pretrained(tmp_path / "base"), name)
    # PEFT takes another way through a layer with adapters, switched off or not; 1.1e-6 was seen on logits of 1.5.
    torch.testing.assert_close(found["logits of 2"], plain["logits of 2"], atol=5e-6, rtol=0)


def test_an_adapter_trains_and_the_rest_does_not(tmp_path: Path) -> None:
    base = EXAMPLES["question answering"].model()
    model = LoraArguments(lora_r=2).apply(base).train()
    model(**EXAMPLES["question answering"].inputs(2)).loss.backward()
    moved = {key for key, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert any("lora_B" in key for key in moved) and any("classifier.modules_to_save" in key for key in moved)
    assert not [key for key in moved if "lora_" not in key and "modules_to_save" not in key]


def test_training_scripts_take_the_rank_as_a_flag() -> None:
    (arguments,) = HfArgumentParser(LoraArguments).parse_args_into_dataclasses(
        ["--lora_r", "4", "--lora_dropout", "0.1"]
    )
    model = arguments.apply(EXAMPLES["joined"].model())
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (4, 8, 0.1)
    base = EXAMPLES["joined"].model()
    assert LoraArguments().apply(base) is base


@pytest.mark.parametrize(("fields", "message"), [({"r": 0}, "lora_r = 0"), ({"dropout": 1.0}, "lora_dropout .* 1.0")])
def test_impossible_adapters_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_config(**fields)


def test_the_package_works_without_peft() -> None:
    program = "import sys\nsys.modules['peft'] = None\nimport lfvila_hf\nprint(lfvila_hf.LFVilaModel.__name__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
    assert run.stdout.split() == ["LFVilaModel"], run.stderr


@pytest.mark.parametrize(
    "target", ["patch_embed.proj", "embeddings.position_embeddings", "token_type_embeddings", "segment_embeddings"]
)
def test_an_adapter_on_stem_or_embeddings_takes_part(target: str) -> None:
    model = EXAMPLES["joined"].model()
    before = outputs(model, "joined")
    changed = "video_embeds of 2" if "patch" in target else "text_embeds of 2"
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=[target]))
    # The stem is a convolution then, a matrix product before.
    torch.testing.assert_close(outputs(adapted, "joined")[changed], before[changed], rtol=1e-5, atol=1e-6)
    after = outputs(with_noise(adapted), "joined")
    assert (after[changed] - before[changed]).abs().max() > 1e-3
    torch.testing.assert_close(outputs(adapted.merge_and_unload(), "joined"), after, rtol=1e-4, atol=1e-5)

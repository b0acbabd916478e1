"""Equivalences for every model: backends, checkpointing, batches, saving, tuples, compiling.

Models are tested in test_modeling*_lfvila.py, training with the stock Trainer in test_stock_trainer.py. Comparisons
guard against vacuous success: gradients and dropout exist, a layer was really computed twice, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, Example, enable_checkpointing
from torch import nn
from transformers.utils import ModelOutput

from lfvila_hf.loss_lfvila import LFVilaLoss
from lfvila_hf.modeling_text_lfvila import LFVilaTextSelfAttention
from lfvila_hf.modeling_video_lfvila import LFVilaVideoAttention

# Largest differences measured over all examples. Eager against sdpa: 6e-6 of a tensor's largest entry in outputs, 5e-6
# of the model's largest entry in gradients. One batch against two: 1.4e-6 of a tensor's largest entry.
BACKEND_NOISE = 2e-5
BATCH_NOISE = 1e-5
# Of the last co-attention layer the losses read the text stream only.
UNREAD = ("cross_modal_encoder.layers.0.video_layer", "cross_modal_encoder.layers.0.video_to_text")

every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


def tensors(output: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Collect all tensors of a (nested) model output by name."""
    items = output.items() if isinstance(output, dict) else enumerate(output)
    for name, value in items:
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif value is not None:
            yield from tensors(value, f"{prefix}{name}.")


def assert_same(found: Any, expected: Any, tolerance: float) -> None:
    """Assert that there are tensors and all agree to `tolerance` of the largest entry of each (0: bit for bit)."""
    found_tensors, expected_tensors = dict(tensors(found)), dict(tensors(expected))
    assert expected_tensors and found_tensors.keys() == expected_tensors.keys()
    for name, value in expected_tensors.items():
        scale = value.abs().max().item() if value.is_floating_point() else 0
        torch.testing.assert_close(
            found_tensors[name],
            value,
            atol=tolerance * scale,
            rtol=0,
            equal_nan=False,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def loss_of(output: Any) -> torch.Tensor:
    """Return the model's loss; for a tower, which has none, the sum of squares of all its outputs."""
    if output.get("loss") is not None:
        return output["loss"]
    return torch.stack([value.square().mean() for _, value in tensors(output) if value.is_floating_point()]).sum()


def gradients(model: nn.Module, inputs: dict[str, Any], **arguments: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model(**inputs, **arguments)).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found and any(gradient.any() for gradient in found.values()), "an empty comparison"
    return {name: gradient.clone() for name, gradient in found.items()}


# -- backward --------------------------------------------------------------------------------------------------------


@every_example
def test_every_parameter_that_a_step_uses_gets_a_gradient(example: Example) -> None:
    model = example.model().train()
    found = gradients(model, example.inputs(4))
    expected = {name for name, _ in model.named_parameters() if not name.startswith(example.untrained or "-")}
    assert found.keys() == expected
    assert len(expected) < len(dict(model.named_parameters())) or not example.untrained
    unread = UNREAD if model.config.to_dict().get("cross_modal_fusion") == "co_attention" else ("-",)
    # Biases that move all scores of a softmax alike (of keys, of one choice) have no gradient but rounding.
    level = ("key.bias", "classifier.bias") if example is EXAMPLES["multiple choice"] else ("key.bias",)
    zero = {name for name, gradient in found.items() if not gradient.any() and not name.endswith(level)}
    assert zero == {name for name in expected if name.startswith(unread) and not name.endswith(level)}
    assert all(gradient.isfinite().all() for gradient in found.values())


@every_example
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_gradient_under_dropout(example: Example, use_reentrant: bool) -> None:
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    fields = {"video": dropout | {"drop_path_rate": 0.3}, "text": dropout}
    runs = []
    for checkpointing in (False, True):
        model = example.model(**fields).train()
        if checkpointing:
            enable_checkpointing(model, use_reentrant=use_reentrant)
        calls: list[nn.Module] = []
        for module in model.modules():
            if isinstance(module, LFVilaVideoAttention | LFVilaTextSelfAttention):
                module.register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
        torch.manual_seed(3)
        first = gradients(model, example.inputs(4))
        runs.append((first, len(calls)))
        if not checkpointing:
            torch.manual_seed(4)
            other = gradients(model, example.inputs(4))
            assert any(not torch.equal(first[name], other[name]) for name in first), "there is no dropout here"
    (plain, calls_plain), (saved, calls_saved) = runs
    assert calls_saved == 2 * calls_plain > 0, "layers were not computed again"
    assert_same(saved, plain, 0)


@pytest.mark.parametrize("name", ["video tower", "text tower", "fusion phase", "fusion phase, co-attention"])
def test_states_are_captured_once_under_checkpointing(name: str) -> None:
    model, inputs = EXAMPLES[name].model().train(), EXAMPLES[name].inputs(2)
    plain = model(**inputs, output_hidden_states=True)
    enable_checkpointing(model)
    saved = model(**inputs, output_hidden_states=True)
    loss_of(saved).backward()
    assert [key for key, _ in tensors(plain) if "hidden_states" in key]
    assert_same(saved, plain, 0)


# -- backends, batches, tuples ---------------------------------------------------------------------------------------


@every_example
def test_eager_and_sdpa_agree(example: Example) -> None:
    runs = []
    for backend in ("eager", "sdpa"):
        model = example.model(attn_implementation=backend)
        runs.append((dict(tensors(model(**example.inputs(4)))), gradients(model, example.inputs(4))))
    (eager, eager_gradients), (sdpa, sdpa_gradients) = runs
    assert any(not torch.equal(eager[name], sdpa[name]) for name in eager), "both ran the same backend"
    assert_same(sdpa, eager, BACKEND_NOISE)
    largest = max(gradient.abs().max().item() for gradient in eager_gradients.values())
    assert eager_gradients.keys() == sdpa_gradients.keys()
    for name, gradient in eager_gradients.items():
        torch.testing.assert_close(sdpa_gradients[name], gradient, atol=BACKEND_NOISE * largest, rtol=0)


@every_example
def test_a_batch_of_two_equals_two_batches_of_one(example: Example) -> None:
    model, inputs = example.model(), example.inputs(2)
    both = dict(tensors(model(**inputs)))
    compared = 0
    for row in range(2):
        one = {name: value[row : row + 1] if torch.is_tensor(value) else value for name, value in inputs.items()}
        for name, value in tensors(model(**one)):
            # losses are means over the batch, logits of a batch against itself and draws belong to the batch
            if value.ndim and "per_" not in name and "mtc_draw" not in name:
                expected = both[name][row : row + 1]
                noise = BATCH_NOISE * expected.abs().max().item() if value.is_floating_point() else 0
                torch.testing.assert_close(value, expected, atol=noise, rtol=0)
                compared += 1
    assert compared >= 2


@every_example
def test_labels_and_targets_are_optional(example: Example) -> None:
    model, inputs = example.model(), example.inputs(2)
    targets = {"labels", "span_targets", "mlm_targets", "vtm_targets"}
    bare = {name: value for name, value in inputs.items() if name not in targets}
    output = model(**bare)
    if "labels" in inputs:
        assert output.loss is None
        assert torch.equal(output.logits, model(**inputs).logits)
    elif "mlm_targets" in inputs:  # pairs are made, so that matching can be learnt without anything given
        assert output.loss is not None and output.mlm_loss is None


@every_example
def test_a_tuple_holds_the_same_as_the_output_and_begins_with_the_loss(example: Example) -> None:
    model, inputs = example.model(), example.inputs(2)
    output = model(**inputs)
    assert isinstance(output, ModelOutput)
    expected = output.to_tuple()
    by_argument = model(**inputs, return_dict=False)
    for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
        config.return_dict = False
    by_configuration = model(**inputs)
    for found in (by_argument, by_configuration):
        assert type(found) is tuple and len(found) == len(expected)
        assert_same(found, expected, 0)
    assert type(model(**inputs, return_dict=True)) is type(output)
    if output.get("loss") is not None:
        assert torch.equal(by_argument[0], output.loss)


@every_example
def test_hidden_states_and_attentions_are_there_when_asked_for(example: Example) -> None:
    model, inputs = example.model(attn_implementation="eager"), example.inputs(2)
    plain = dict(tensors(model(**inputs)))
    output = dict(tensors(model(**inputs, output_hidden_states=True, output_attentions=True)))
    assert not [name for name in plain if "hidden_states" in name or "attentions" in name]
    for kind in ("hidden_states", "attentions"):
        assert [name for name in output if kind in name]
    assert_same({name: output[name] for name in plain}, plain, BACKEND_NOISE)  # with states, padding is read too


# -- saving and devices ----------------------------------------------------------------------------------------------


@every_example
def test_a_saved_model_comes_back_bit_for_bit_with_its_buffers(example: Example, tmp_path: Path) -> None:
    model, inputs = example.model(), example.inputs(2)
    model.save_pretrained(tmp_path)
    # Weights, configuration, and the code that travels with them.
    assert sorted({path.suffix for path in tmp_path.iterdir()}) == [".json", ".py", ".safetensors"]
    loaded, report = example.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    assert_same(loaded.state_dict(), model.state_dict(), 0)
    buffers = dict(model.named_buffers())
    assert bool(buffers) == (example is not EXAMPLES["text tower"])
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]) and buffer.any(), name
    assert_same(loaded(**inputs), model(**inputs), 0)


@every_example
def test_all_tensors_of_a_model_are_parameters_or_buffers_and_fit_on_the_meta_device(example: Example) -> None:
    with torch.device("meta"):
        model = example.model_class(example.config())
    assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"meta"}
    for module in model.modules():
        assert not [name for name, value in vars(module).items() if torch.is_tensor(value)]


@every_example
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_runs_in_half_precision(example: Example, dtype: torch.dtype) -> None:
    output = example.model().to(dtype)(**example.inputs(2))
    for name, value in tensors(output):
        assert not value.is_floating_point() or value.isfinite().all(), name
        assert value.dtype in (dtype, torch.int64) or "loss" in name, name


def test_a_model_loads_in_the_precision_asked_for_or_else_stored(tmp_path: Path) -> None:
    example = EXAMPLES["fusion phase"]
    example.model().save_pretrained(tmp_path)
    for dtype in (torch.float16, torch.bfloat16):
        loaded = example.model_class.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    loaded.save_pretrained(tmp_path)
    assert {p.dtype for p in example.model_class.from_pretrained(tmp_path).parameters()} == {torch.bfloat16}


# -- losses outside and inside, compiling ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "joined" in name or "phase" in name])
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_of_the_outputs_is_the_loss_of_the_model(name: str, training: bool) -> None:
    model, inputs = EXAMPLES[name].model().train(training), EXAMPLES[name].inputs(4)
    output = model(**inputs)
    assert torch.equal(LFVilaLoss()(output), output.loss) and output.loss > 0
    inputs.pop("vtm_targets", None)  # pairs made by the model
    output = model(**inputs)
    assert torch.equal(LFVilaLoss()(output), output.loss)


@pytest.mark.parametrize("name", ["video tower", "text tower"])
def test_a_tower_is_exported_with_any_batch_size_and_any_number_of_sentences(name: str, tmp_path: Path) -> None:
    model, inputs = EXAMPLES[name].model(), EXAMPLES[name].inputs(2)
    sizes = {0: torch.export.Dim("batch", min=2, max=64)}
    larger = EXAMPLES[name].inputs(3)
    if name == "text tower":
        sizes[1] = torch.export.Dim("sentences", min=2, max=5)
        larger = {key: value[:, :2] for key, value in larger.items()}
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, sizes), strict=False)
    torch.export.save(program, tmp_path / "tower.pt2")
    loaded = torch.export.load(tmp_path / "tower.pt2").module()
    assert_same(loaded(**larger), model(**larger), BATCH_NOISE)

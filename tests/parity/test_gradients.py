"""Gradients of every parameter in float32, on both attention backends, against a float64 run of the same model.

Models are converted ones (random weights in the released layout, another size in every respect), in evaluation mode, so
that nothing is random; all five tasks and both phases. The reference runs on sdpa, because eager attention computes its
softmax in float32 whatever the model's dtype is, as transformers' own does.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from load_case import load_case
from released_layout import random_state, tiny_original

from lfvila_hf.conversion import TASKS, config_from_original, convert_state_dict
from lfvila_hf.loss_lfvila import MTCDraw

# Largest difference over the largest gradient of the same parameter.
TOLERANCE = 1e-4
# What moves all inputs of a softmax alike has no gradient in exact arithmetic and noise in float32: biases of attention
# keys, and the bias shared by the answers of a multiple choice. Largest such gradient over the largest of the model.
NOISE = 1e-6

CLIP_PARTS = ("video_model.clip_merging.", "video_model.clip_norm.")
PROJECTIONS = ("text_projection.", "video_projection.", "sentence_projection.", "clip_projection.")
OUR_DEFAULTS = {
    "clip_feature_source": "clip_level",
    "mtc_other_negatives": "others",
    "text_config": {"pool_padded_sentences": False},
}
# Run -> (task, stage of the YAML, arguments of the forward pass, parts that its loss does not reach).
RUNS: dict[str, tuple[str, int, dict[str, Any], tuple[str, ...]]] = {
    "contrastive, released": ("pretraining", 1, {}, CLIP_PARTS),
    "contrastive, clip level": ("pretraining", 1, {"clip_feature_source": "clip_level"}, ()),
    "contrastive, default": ("pretraining", 1, OUR_DEFAULTS, ()),
    "fusion": ("pretraining", 2, {}, (*CLIP_PARTS, *PROJECTIONS)),
    "retrieval": ("retrieval", 1, {}, CLIP_PARTS),
    "question answering": ("question_answering", 2, {}, CLIP_PARTS),
    "multiple choice": ("multiple_choice", 2, {}, CLIP_PARTS),
    "video classification": ("video_classification", 1, {}, CLIP_PARTS),
}


def converted_model(run: str) -> Any:
    task, stage, overrides, _ = RUNS[run]
    original = tiny_original(stage)
    config = config_from_original(original, task, **overrides)
    model: Any = TASKS[task](config)
    model.load_state_dict(convert_state_dict(random_state(original, task), config, task), strict=True)
    return model.eval()


def batch_for(run: str) -> dict[str, Any]:
    """Make three pairs with padding, and the other inputs of each run."""
    ids = torch.randint(5, 71, (3, 3, 6))
    mask = torch.ones_like(ids)
    mask[0, 1, 4:] = 0
    mask[1, 2] = 0
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values_videos": torch.randn(3, 12, 3, 40, 56),
    }
    if run.startswith("contrastive"):
        positions = [torch.tensor([[0, 2], [1, 1], [2, 0]]), torch.tensor([[0, 1], [1, 2], [0, 2]])]
        batch["mtc_draw"] = MTCDraw(*positions, torch.tensor([0, 2, 1]))
    elif run == "fusion":
        batch["mlm_targets"] = torch.where(torch.rand(ids.shape) < 0.3, ids, -100)
    elif run == "question answering":
        batch["labels"] = torch.tensor([1, 8, 0])
    elif run == "multiple choice":
        batch["input_ids"], batch["attention_mask"] = (t[:, None].repeat(1, 2, 1, 1) for t in (ids, mask))
        batch["input_ids"][:, 1] = batch["input_ids"][:, 1].flip(-1)
        batch |= {"labels": torch.tensor([1, 0, 1]), "span_targets": torch.randint(0, 2, (3, 12))}
    elif run == "video classification":
        batch = {"pixel_values_videos": batch["pixel_values_videos"], "labels": torch.tensor([3, 0, 8])}
    return batch


def gradients(model: Any, batch: dict[str, Any], backend: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model).to(dtype)
    model.set_attn_implementation(backend)
    cast = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }
    model(**cast).loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(exact)
    measured, noise = relative_differences(ours, exact)
    worst = max(measured, key=lambda name: measured[name])
    assert measured[worst] <= TOLERANCE, f"{worst}: {measured[worst]:.2e}"
    assert noise <= NOISE


def relative_differences(
    ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]
) -> tuple[dict[str, float], float]:
    """Compute differences relative to each parameter's largest gradient; relative to the model's if that is zero."""
    sizes = {name: float(gradient.abs().max()) for name, gradient in exact.items()}
    largest = max(sizes.values())
    noise = [float(ours[name].abs().max()) / largest for name, size in sizes.items() if size < 1e-12 * largest]
    return {
        name: float((ours[name] - exact[name]).abs().max()) / size
        for name, size in sizes.items()
        if size >= 1e-12 * largest
    }, max(noise, default=0.0)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("run", list(RUNS))
def test_gradients_in_float32_are_those_of_a_float64_run(run: str, backend: str) -> None:
    model, batch = converted_model(run), batch_for(run)
    exact = gradients(model, batch, "sdpa", torch.float64)
    ours = gradients(model, batch, backend, torch.float32)
    assert_close(ours, exact)

    # Every parameter that the loss reaches has a gradient, in both runs, and only those.
    unreached = RUNS[run][3]
    reached = {n for n, _ in model.named_parameters() if not n.removeprefix("model.").startswith(unreached or ("-",))}
    assert set(exact) == reached
    moves_all_alike = {name for name in exact if name.endswith(".key.bias")}
    if run == "multiple choice":
        moves_all_alike.add("classifier.bias")
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    assert {
        name for name, gradient in exact.items() if float(gradient.abs().max()) < 1e-12 * largest
    } == moves_all_alike


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_gradients_at_the_released_resolution_are_those_of_a_float64_run(backend: str) -> None:
    case = load_case("tiny_192x320x32/stage1")
    config = config_from_original(case.original, case.task, clip_feature_source="clip_level")
    model: Any = TASKS[case.task](config)
    model.load_state_dict(convert_state_dict(case.state, config, case.task), strict=True)
    batch: dict[str, Any] = {name: case.inputs[name] for name in ("input_ids", "attention_mask", "pixel_values_videos")}
    positions = ("mtc_key_indices", "mtc_value_indices", "mtc_other_indices")
    batch["mtc_draw"] = MTCDraw(*(case.inputs[name] for name in positions))
    exact = gradients(model.eval(), batch, "sdpa", torch.float64)
    ours = gradients(model, batch, backend, torch.float32)
    assert set(exact) == {name for name, _ in model.named_parameters()}
    assert_close(ours, exact)

"""Report of a conversion: counts of parameters, lists of keys, and whether the clip projection was ever trained."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from released_layout import random_state, tiny_original

from lfvila_hf.conversion import config_from_original, map_checkpoint
from lfvila_hf.conversion.report import ConversionReport, clip_projection_verdict, report_on

PROJECTION = "video_encoder.local_feat_proj"
MERGING = "video_encoder.layers.4.downsample"
NAMES = ("norm.weight", "norm.bias", "reduction.weight")


def report(task: str = "pretraining", stage: int = 1) -> ConversionReport:
    state = random_state(tiny_original(1), "pretraining", torch.float16)
    config = config_from_original(tiny_original(stage), task)
    mapped = map_checkpoint(state, config, task, initialise_new_parts=True)
    return report_on(mapped, state, config, "lfvila_stage1.bin", task, "SomeModel", "float16")


def test_parameters_are_counted_per_part() -> None:
    state, account = random_state(tiny_original(1), "pretraining"), report()
    assert account.checkpoint_parameters == sum(t.numel() for t in state.values() if t.is_floating_point())
    assert account.parameters == sum(account.parts.values())
    assert account.parts["text_projection"] == 48 * 48 + 48
    left_out = {key for keys in account.left_out.values() for key in keys}
    dropped = sum(state[key].numel() for key in left_out if state[key].is_floating_point())
    assert account.checkpoint_parameters - account.parameters == dropped > 0


def test_the_report_says_what_was_left_out_and_what_is_new() -> None:
    account = report("question_answering", stage=2)
    text = str(account)
    for part in (
        "checkpoint     lfvila_stage1.bin",
        " parameters, trained for: pretraining",
        "model          SomeModel (question_answering), ",
        " parameters in float16",
        "8 projection of the contrastive phase, which this task does not run: text_global_proj.weight",
        "and 4 more",
        "48 cross_modal_encoder.layers (from random numbers)",
        "2 classifier (from random numbers): classifier.weight, classifier.bias",
        "clip projection ",
    ):
        assert part in text
    account.from_bert = account.new["cross_modal_encoder.layers."][:40]
    assert "48 cross_modal_encoder.layers (40 of them from BERT)" in str(account)
    assert "new            nothing" in str(report())
    assert ConversionReport(**json.loads(json.dumps(account.to_dict()))) == account


def verdict(state: dict[str, torch.Tensor], swin: Any = None) -> str:
    return clip_projection_verdict(state, config_from_original(tiny_original(1)), swin)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return random_state(tiny_original(1), "pretraining", torch.float16)


def test_a_projection_is_compared_with_swin_s_last_merging(state: dict[str, torch.Tensor]) -> None:
    # Swin's third merging layer before rounding to float16, and an earlier one that must not count
    swin = {f"layers.2.downsample.{name}": state[f"{PROJECTION}.{name}"].float() * (1 + 1e-5) for name in NAMES}
    swin |= {f"layers.0.downsample.{name}": torch.zeros(2) for name in NAMES}
    assert verdict(state, swin) == "was never trained: it equals Swin's last merging layer (to float16)"
    state[f"{PROJECTION}.norm.bias"][5] += 0.25
    assert verdict(state, swin) == "was trained: it differs from Swin's last merging layer by up to 0.25"
    other_width = {f"layers.2.downsample.{name}": torch.zeros(3) for name in NAMES}
    assert "differs from Swin's last merging layer by up to inf" in verdict(state, other_width)


def test_without_swin_only_equality_is_conclusive(state: dict[str, torch.Tensor]) -> None:
    assert "differs from the merging after level 4" in verdict(state)
    assert "shows only against that Swin (--swin)" in verdict(state)
    for name in NAMES:
        state[f"{PROJECTION}.{name}"] = state[f"{MERGING}.{name}"].clone()
    assert verdict(state).startswith("was never trained: it equals the merging after level 4")


def test_a_layer_norm_as_created_was_never_trained_and_a_missing_one_is_reported(state: dict[str, Any]) -> None:
    state[f"{PROJECTION}.norm.weight"] = torch.ones(96)
    state[f"{PROJECTION}.norm.bias"] = torch.zeros(96)
    assert verdict(state) == "was never trained: its LayerNorm is as it was created (weight 1, bias 0)"
    del state[f"{PROJECTION}.norm.bias"]
    assert verdict(state) == "is not in the checkpoint"


def test_oddities_are_noted(state: dict[str, torch.Tensor]) -> None:
    def notes() -> list[str]:
        config = config_from_original(tiny_original(1))
        return report_on(map_checkpoint(state, config), state, config, "a", "pretraining", "b", "c").notes

    assert notes() == ["the two copies of the MLM bias differ; the decoder's was taken, as the released code does"]
    state["text_encoder.cls.predictions.bias"] = state["text_encoder.cls.predictions.decoder.bias"].clone()
    assert notes() == []
    state["video_encoder.norm.bias"] = state["video_encoder.norm.bias"].float()
    assert [note.startswith("the checkpoint mixes dtypes") for note in notes()] == [True]

"""Configurations of the joint model and its two towers: defaults, presets, round trips, errors and their messages.

The effect of a field is tested beside the model (test_modeling*_lfvila.py), a change of the size of video in
test_size_of_video.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tiny_models import TEXT, VIDEO, tiny_config
from transformers import BertConfig, GenerationConfig, PreTrainedConfig

import lfvila_hf.configuration_lfvila as configuration
from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaModel, LFVilaTextConfig, LFVilaVideoConfig
from lfvila_hf.configuration_lfvila import VIDEO_SIZES, check_extra_fields
from lfvila_hf.modeling_base_lfvila import LFVilaHeadOutput, LFVilaOutput


@pytest.fixture
def warnings_given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the warnings of the configuration module."""
    messages: list[str] = []
    monkeypatch.setattr(configuration.logger, "warning", messages.append)
    return messages


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_released_size() -> None:
    config = LFVilaConfig()
    video, text = config.video_config, config.text_config
    assert video.channels == [128, 256, 512, 512, 512, 1024]
    assert video.depths == [2, 2, 14, 2, 2, 2] and video.num_hidden_layers == 24
    assert video.temporal_windows == [2, 4, 8, 16, 16, 32] and video.spatial_window == [3, 5]
    assert (video.image_size, video.num_frames, video.num_clips) == ([192, 320], 32, 4)
    # 192/8 x 320/8 = 24 x 40, halved by three mergings; a 2 x 3 kernel has 2 x 3 places on it
    assert video.last_grid == (3, 5) and video.num_frame_tokens == 6
    assert text.num_hidden_layers == 8 + 4 and config.num_hidden_layers == 8 + 4 + 12
    assert config.hidden_size == text.hidden_size == video.hidden_size == 1024
    assert (config.num_frames, config.num_clips, config.num_attention_heads) == (32, 4, 16)
    assert (config.temperature, config.temporal_temperature) == (0.05, 0.05)
    weights = (config.global_loss_weight, config.mtc_loss_weight, config.mlm_loss_weight, config.vtm_loss_weight)
    assert weights == (1, 0.25, 1, 10)


def test_parameter_counts_are_those_of_the_released_model() -> None:
    with torch.device("meta"):
        model = LFVilaForPreTraining(LFVilaConfig.base())
        contrastive_only = LFVilaForPreTraining(LFVilaConfig.base(text_config={"num_cross_modal_layers": 0}))

    def count(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    # BERT-large: embeddings (30522 + 512 + 2) x 1024 + norm, 12 layers of 12,596,224; then paragraph positions
    # (512 + 8) x 1024 + norm.
    assert count(model.model.text_model) == 31_782_912 + 12 * 12_596_224 + 534_528
    assert count(model.model.video_model) == 89_229_448
    assert count(contrastive_only) == count(model.model) == 276_899_976
    # 12 more layers, P + T positions and their norm, pooler; MLM head; two classes
    encoder = 12 * 12_596_224 + (6 + 32 + 2) * 1024 + 1024 * 1025
    mlm_head = 1024 * 1025 + 2048 + 30522 * 1025
    assert count(model) == 276_899_976 + encoder + mlm_head + 2050 == 461_483_972


def test_presets_replace_single_fields_and_warn_of_nothing(warnings_given: list[str]) -> None:
    LFVilaConfig.base()
    tiny = LFVilaConfig.tiny(video_config={"num_frames": 32}, text_config={"max_sentences": 5}, temperature=0.1)
    assert (tiny.video_config.num_frames, tiny.text_config.max_sentences, tiny.temperature) == (32, 5, 0.1)
    assert tiny.video_config.embed_dim == LFVilaConfig.tiny().video_config.embed_dim == 16
    assert tiny.video_config.channels == [16, 32, 64, 64, 64, 128] and tiny.hidden_size == 128
    assert warnings_given == []


def test_windows_that_cross_a_clip_are_named_in_a_warning(warnings_given: list[str]) -> None:
    LFVilaVideoConfig(num_frames=16, num_clips=4)  # 4 frames a clip; windows 2, 4 and 8 up to the clip level
    assert len(warnings_given) == 1
    assert "[8]" in warnings_given[0] and "4 frames of a clip (16 frames / 4 clips)" in warnings_given[0]
    LFVilaVideoConfig(num_frames=16, num_clips=4, temporal_windows=[2, 4, 4, 16, 16, 16])
    assert len(warnings_given) == 1


# -- round trips -----------------------------------------------------------------------------------------------------


def test_a_saved_configuration_comes_back_equal(tmp_path: Path) -> None:
    config = tiny_config(
        video={"num_frames": 12, "num_clips": 3, "video_stem": "conv", "temporal_windows": (1, 2, 4, 4)},
        text={"pool_padded_sentences": True},
        clip_feature_source="last",
        temperature=0.07,
        training_phase="fusion",
        num_labels=5,
    )
    config.save_pretrained(tmp_path)
    loaded = LFVilaConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.video_config) is LFVilaVideoConfig and type(loaded.text_config) is LFVilaTextConfig
    assert loaded.video_config.temporal_windows == [1, 2, 4, 4] and loaded.num_labels == 5
    assert LFVilaConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert LFVilaVideoConfig.from_pretrained(tmp_path).to_dict() == config.video_config.to_dict()
    assert LFVilaTextConfig.from_pretrained(tmp_path).to_dict() == config.text_config.to_dict()


def test_towers_may_be_given_as_configurations_and_are_kept_as_these_objects() -> None:
    video, text = LFVilaVideoConfig(**VIDEO), LFVilaTextConfig(**TEXT)
    config = LFVilaConfig(video_config=video, text_config=text)
    assert config.video_config is video and config.text_config is text


def test_fields_that_only_transformers_knows_are_kept(tmp_path: Path) -> None:
    config = tiny_config()
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    written |= {"auto_map": {"AutoModel": "modeling_lfvila.LFVilaModel"}, "task_specific_params": {"a": 1}}
    path.write_text(json.dumps(written))
    loaded = LFVilaConfig.from_pretrained(tmp_path)
    assert loaded.auto_map == written["auto_map"] and loaded.task_specific_params == {"a": 1}


def test_no_name_of_transformers_is_taken_for_a_misspelt_field() -> None:
    names = [*GenerationConfig().to_dict(), "torch_dtype", "attn_implementation", "quantization_config", "num_labels"]
    names += ["name_or_path", "auto_map", "custom_pipelines", "tie_word_embeddings", "output_attentions", "vocab_size"]
    assert len(names) > 50
    for model_class in (LFVilaConfig, LFVilaVideoConfig, LFVilaTextConfig):
        fields = {field.name for field in dataclasses.fields(model_class)}
        check_extra_fields(model_class(), dict.fromkeys(set(names) - fields))


def test_the_attention_backend_reaches_the_towers() -> None:
    config = tiny_config(attn_implementation="eager")
    assert config.text_config._attn_implementation == config.video_config._attn_implementation == "eager"
    config = tiny_config(attn_implementation={"text_config": "eager", "video_config": "sdpa"})
    assert (config.text_config._attn_implementation, config.video_config._attn_implementation) == ("eager", "sdpa")


def test_the_outputs_left_out_of_a_prediction_exist() -> None:
    fields = {field.name for output in (LFVilaOutput, LFVilaHeadOutput) for field in dataclasses.fields(output)}
    assert set(LFVilaConfig.keys_to_ignore_at_inference) <= fields
    kept = {field.name for field in dataclasses.fields(LFVilaOutput)} - set(LFVilaConfig.keys_to_ignore_at_inference)
    assert kept == {"text_embeds", "video_embeds", "sentence_embeds", "clip_embeds", "sentence_mask"}


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depths": [1, 2]}, "'depths': 2, 'num_heads': 4, 'temporal_windows': 4"),
        ({"depths": [], "num_heads": [], "temporal_windows": [], "merge_after": []}, "'depths': 0"),
        ({"depths": [2, 0, 2, 1]}, r"depths must be positive, got \[2, 0, 2, 1\]"),
        ({"temporal_windows": [1, 2, -2, 8]}, r"temporal_windows must be positive, got \[1, 2, -2, 8\]"),
        ({"num_heads": [3, 2, 2, 4]}, r"level 0: 8 channels are not divisible by num_heads\[0\] = 3"),
        ({"merge_after": [1, 0]}, r"merge_after must be rising level numbers below 4, got \[1, 0\]"),
        ({"merge_after": [4]}, r"merge_after must be rising level numbers below 4, got \[4\]"),
        ({"clip_level": 4}, "clip_level must be a level number below 4, got 4"),
        ({"image_size": [24]}, r"image_size must be two positive numbers \(rows, columns\), got \[24\]"),
        ({"image_size": [0, 40]}, r"image_size must be two positive numbers \(rows, columns\), got \[0, 40\]"),
        ({"patch_size": 0}, r"patch_size must be two positive numbers \(rows, columns\), got \[0, 0\]"),
        ({"patch_size": [2, 4, 4]}, r"a patch is one frame long, got \[2, 4, 4\]; expected \[1, rows, columns\]"),
        ({"patch_size": 6, "video_stem": "conv"}, r"power of two, got \[6, 6\]"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"drop_path_rate": 1}, "drop_path_rate must be at least 0 and below 1, got 1"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob must be at least 0 and at most 1, got -0.1"),
        ({"mlp_ratio": -1}, "mlp_ratio must be at least 0, got -1"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be at least 0, got -1.0"),
        ({"num_framez": 8}, "LFVilaVideoConfig has no field 'num_framez'; did you mean 'num_frames'"),
        ({"hidden_size": 64}, "hidden_size follows from the other fields of LFVilaVideoConfig"),
    ],
)
def test_a_video_configuration_that_cannot_be_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LFVilaVideoConfig(**VIDEO | fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_attention_heads": 5}, "hidden_size=64 is not divisible by num_attention_heads=5"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"num_sentence_layers": -1}, "num_sentence_layers must be at least 0, got -1"),
        ({"max_sentences": 0}, "max_sentences must be at least 1, got 0"),
        ({"attention_probs_dropout_prob": 1.5}, "attention_probs_dropout_prob must be .* at most 1, got 1.5"),
        ({"num_hidden_layers": 12}, "num_hidden_layers follows from the other fields of LFVilaTextConfig"),
        ({"hidden_dropout_prop": 0.1}, "has no field 'hidden_dropout_prop'; did you mean 'hidden_dropout_prob'"),
    ],
)
def test_a_text_configuration_that_cannot_be_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LFVilaTextConfig(**TEXT | fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text_config": TEXT | {"hidden_size": 32}}, "text_config.hidden_size = 32, video_config ends at 64"),
        ({"text_config": BertConfig()}, "text_config must be a LFVilaTextConfig or its fields, got BertConfig"),
        ({"text_config": BertConfig().to_dict()}, 'model_type "lfvila_text_model", got the fields of a "bert"'),
        ({"video_config": BertConfig().to_dict()}, 'model_type "lfvila_video_model", got the fields of a "bert"'),
        ({"video_config": LFVilaTextConfig(**TEXT)}, "must be a LFVilaVideoConfig or its fields, got LFVilaTextConfig"),
        ({"video_config": 3}, "video_config must be a LFVilaVideoConfig or its fields, got int"),
        ({"temperature": 0.0}, "temperature must be at least 1e-06, got 0.0"),
        ({"temporal_temperature": -1}, "temporal_temperature must be at least 1e-06, got -1"),
        ({"num_anchors": 0}, "num_anchors must be at least 1, got 0"),
        ({"num_other_negatives": -1}, "num_other_negatives must be at least 0, got -1"),
        ({"mtc_loss_weight": -1}, "mtc_loss_weight must be at least 0, got -1"),
        ({"temprature": 0.1}, "LFVilaConfig has no field 'temprature'; did you mean 'temperature'"),
        ({"num_frames": 8}, "num_frames follows from the other fields of LFVilaConfig"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LFVilaConfig(**{"video_config": VIDEO, "text_config": TEXT} | fields)


def test_a_preset_takes_fields_of_a_tower_and_nothing_else() -> None:
    assert LFVilaConfig.tiny(video_config=None).to_dict() == LFVilaConfig.tiny().to_dict()
    with pytest.raises(ValueError, match="video_config of a preset must be a dict of fields, got LFVilaVideoConfig"):
        LFVilaConfig.tiny(video_config=LFVilaVideoConfig(**VIDEO))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "warm"},
        {"cross_modal_fusion": "sum"},
        {"training_phase": "both"},
        {"clip_feature_source": "first"},
        {"mtc_other_negatives": "none"},
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_field_and_the_value(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s){name}.*{value}"):
        tiny_config(**fields)
    with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s){name}.*{value}"):
        setattr(tiny_config(), name, value)


@pytest.mark.parametrize("model_class", [LFVilaConfig, LFVilaVideoConfig, LFVilaTextConfig])
def test_a_folder_of_another_model_is_refused(model_class: type[PreTrainedConfig], tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f'"{model_class.model_type}", got the fields of a "bert"'):
        model_class.from_pretrained(tmp_path)


# -- sizes of video, names of fields, ranges --------------------------------------------------------------------------


@pytest.mark.parametrize("config", [LFVilaConfig.tiny(), LFVilaConfig.tiny().video_config], ids=["both", "video"])
def test_sizes_of_video_are_left_to_the_model_that_is_loaded(config: LFVilaConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    sizes = {"num_frames": 64, "temporal_windows": [1] * 6, "image_size": [32, 32], "spatial_window": [1, 1]}
    assert set(sizes) == set(VIDEO_SIZES)
    loaded, unused = type(config).from_pretrained(tmp_path, return_unused_kwargs=True, **sizes)
    assert unused == sizes
    assert loaded.to_dict() == config.to_dict()


def test_a_video_configuration_alone_takes_sizes_as_fields(tmp_path: Path) -> None:
    LFVilaConfig.tiny().video_config.save_pretrained(tmp_path)
    assert LFVilaVideoConfig.from_pretrained(tmp_path, num_frames=32).num_frames == 32


def test_misspelt_derived_and_foreign_fields_are_refused() -> None:
    config = LFVilaVideoConfig()
    with pytest.raises(ValueError, match="no field 'num_frame'; did you mean 'num_frames'"):
        check_extra_fields(config, {"num_frame": 8})
    with pytest.raises(ValueError, match="channels follows from the other fields"):
        check_extra_fields(config, {"channels": [1]})
    with pytest.raises(ValueError, match='the fields of a "bert"'):
        check_extra_fields(config, {"model_type": "bert"})
    check_extra_fields(config, {"auto_map": {}})


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("text_config", "hidden_size", -1, "hidden_size must be at least 1, got -1"),
        ("text_config", "num_sentence_layers", 10**9, "num_sentence_layers must be at least 0 and at most 1000"),
        ("text_config", "layer_norm_eps", float("nan"), "layer_norm_eps must be at least 0, got nan"),
        ("video_config", "num_frames", 0, "num_frames must be at least 1, got 0"),
        ("video_config", "drop_path_rate", 1.5, "drop_path_rate must be at least 0 and at most 1, got 1.5"),
        ("", "temperature", 0.0, "temperature must be at least 1e-06, got 0.0"),
        ("", "mtc_loss_weight", float("inf"), "mtc_loss_weight must be at least 0 and at most 1e"),
    ],
)
def test_a_value_out_of_range_is_refused_when_it_is_set(part: str, field: str, value: float, words: str) -> None:
    config = LFVilaConfig.tiny()
    owner = getattr(config, part) if part else config
    before = getattr(owner, field)
    with pytest.raises(ValueError, match=words):
        setattr(owner, field, value)
    assert getattr(owner, field) == before


def test_fields_that_disagree_after_they_were_set_are_refused_by_a_model() -> None:
    config = LFVilaConfig.tiny()
    config.text_config.num_attention_heads = 3
    with pytest.raises(ValueError, match="hidden_size=128 is not divisible by num_attention_heads=3"):
        LFVilaModel(config)
    config = LFVilaConfig.tiny()
    config.video_config.depths = [10**9, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="depths must sum to at most 1000 blocks"):
        LFVilaModel(config)

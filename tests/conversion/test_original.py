"""Released YAML to our configuration and processor settings at any size, and errors for any other YAML.

tests/parity/ tests that the configuration reproduces the released outputs.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from released_layout import example_original, tiny_original

from lfvila_hf import LFVilaConfig
from lfvila_hf.conversion import TASKS, config_from_original, read_original
from lfvila_hf.conversion.original import processor_settings

# Our defaults that differ from the released behaviour, each with the release's value.
RELEASED_SWITCHES = {"clip_feature_source": "last", "mtc_other_negatives": "released"}


def changed(original: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Copy `original` with another entry at `path`, or without it if `value` is `None`."""
    original = copy.deepcopy(original)
    *groups, name = path.split(".")
    target = original
    for group in groups:
        target = target[group]
    if value is None:
        del target[name]
    else:
        target[name] = value
    return original


@pytest.mark.parametrize("task", list(TASKS))
def test_the_released_size_differs_from_our_default_in_switches_alone(task: str) -> None:
    ours, released = LFVilaConfig.base(), config_from_original(example_original(stage=2), task)
    assert released.video_config.to_dict() == ours.video_config.to_dict()
    text = {"pool_padded_sentences": True}
    fuses = task in ("pretraining", "question_answering", "multiple_choice")
    text |= {} if fuses else {"num_cross_modal_layers": 0}
    fields = released.text_config.to_dict()
    defaults = ours.text_config.to_dict()
    different = {name: value for name, value in fields.items() if defaults[name] != value}
    assert different == text
    for name, value in RELEASED_SWITCHES.items():
        assert getattr(released, name) == value != getattr(ours, name)
    assert released.temporal_alignment is (task == "pretraining")
    assert released.training_phase == ("fusion" if task == "pretraining" else "contrastive")
    assert released.num_labels == (1654 if task in ("question_answering", "video_classification") else 2)


def test_a_phase_one_model_has_no_cross_modal_layers() -> None:
    config = config_from_original(example_original(stage=1))
    assert (config.text_config.num_cross_modal_layers, config.training_phase) == (0, "contrastive")


def test_every_size_is_read_and_overrides_replace_it() -> None:
    config = config_from_original(tiny_original(2), "pretraining")
    video, text = config.video_config, config.text_config
    assert (video.patch_size, video.embed_dim, video.depths) == ([4, 4], 6, [1, 2, 3, 1, 2, 1])
    assert (video.num_heads, video.temporal_windows) == ([1, 2, 3, 3, 4, 6], [1, 2, 4, 6, 6, 12])
    assert (video.spatial_window, video.merge_after, video.clip_level) == ([2, 3], [0, 1, 4], 2)
    assert (video.num_frames, video.num_clips, video.image_size) == (12, 3, [40, 56])
    assert (text.num_sentence_layers, text.num_paragraph_layers, text.num_cross_modal_layers) == (2, 1, 3)
    assert (text.vocab_size, text.hidden_size, text.intermediate_size, text.num_attention_heads) == (71, 48, 80, 3)
    assert (text.max_position_embeddings, text.max_sentences) == (64, 5)
    extra = {"mlp_ratio": 2, "drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.3, "use_checkpoint": True}
    towers = {"video_config": {"qkv_bias": False}, "text_config": {"pool_padded_sentences": False}}
    config = config_from_original(tiny_original(2, **extra), clip_feature_source="clip_level", **towers)
    video, text = config.video_config, config.text_config
    assert (video.mlp_ratio, video.hidden_dropout_prob, video.attention_probs_dropout_prob) == (2, 0.1, 0.2)
    assert (video.drop_path_rate, video.qkv_bias, video.embed_dim) == (0.3, False, 6)
    assert (config.clip_feature_source, text.pool_padded_sentences, text.hidden_size) == ("clip_level", False, 48)


def test_weights_and_temperatures_are_read() -> None:
    training = {
        "temp": 0.1,
        "time_temp": 0.2,
        "num_key": 3,
        "num_value": 1,
        "num_other_neg": 2,
        "ct_global_loss_weight": 5,
        "ct_time_loss_weight": 6.5,
        "mlm_loss_weight": 7,
        "vtm_loss_weight": 8,
        "span_loss_weight": 9,
        "EPOCHS": 3,
    }
    config = config_from_original(changed(tiny_original(), "TRAINING", training))
    assert (config.temperature, config.temporal_temperature) == (0.1, 0.2)
    assert (config.num_anchors, config.num_candidates, config.num_other_negatives) == (3, 1, 2)
    weights = (config.global_loss_weight, config.mtc_loss_weight, config.mlm_loss_weight, config.vtm_loss_weight)
    assert (*weights, config.span_loss_weight) == (5, 6.5, 7, 8, 9)
    without = config_from_original(changed(tiny_original(), "TRAINING", training | {"use_time_match": False}))
    assert without.mtc_loss_weight == 0


# Windows and local_window -> clip level, and whether its map is read after merging.
CLIP_PLACES = [
    ([1, 2, 4, 6, 6, 12], 4, 2, False),
    ([1, 2, 4, 6, 6, 12], None, 2, False),  # released default, 4
    ([1, 2, 4, 6, 6, 12], 5, 2, False),
    ([1, 2, 4, 6, 6, 12], 2, 1, True),  # the map that enters level 2 has been merged
    ([1, 2, 4, 6, 6, 12], 6, 4, None),  # level 4's merged map is too wide for the released projection
    ([1, 2, 4, 4, 4, 4], 4, 4, False),  # no window is longer: the released features are the last level's
    ([1, 2, 6, 4, 6, 12], 4, 1, True),  # the first longer window counts
]


@pytest.mark.parametrize(("windows", "local", "level", "merged"), CLIP_PLACES)
def test_clip_features_come_from_before_the_first_window_beyond_the_local_one(
    windows: list[int], local: int | None, level: int, merged: bool | None
) -> None:
    original = tiny_original(2, window_size=[[t, 2, 3] for t in windows])
    original = changed(original, "VideoEncoder.local_window", local)
    if merged is None:
        with pytest.raises(ValueError, match="4 x embed_dim channels are expected"):
            config_from_original(original)
        return
    config = config_from_original(original)
    assert (config.video_config.clip_level, config.video_config.clip_after_merging) == (level, merged)
    assert config.clip_feature_source == "last"


# -- processor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "data", "sentences", "length"),
    [
        ("pretraining", {}, 4, 50),
        ("retrieval", {}, 4, 50),
        ("question_answering", {}, 1, 50),
        ("question_answering", {"max_num_subtitle": 4, "DATASET_train": {"type": "ViolinDataset"}}, 5, 30),
        ("multiple_choice", {"max_num_subtitle": 6, "max_text_lenght": 40}, 8, 40),
    ],
)
def test_sentences_are_counted_as_the_released_data_sets_do(task: str, data: dict, sentences: int, length: int) -> None:
    original = example_original()
    original["DATA"] |= data
    assert processor_settings(original, task) == {"max_sentences": sentences, "max_sentence_length": length}


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_bert_json_is_found_from_the_repository_beside_the_yaml_or_by_name(tmp_path: Path) -> None:
    original = tiny_original()
    folder, alone = tmp_path / "src" / "configs", tmp_path / "elsewhere"
    folder.mkdir(parents=True)
    alone.mkdir()
    # The released YAML names the json from the repository's root.
    named = original | {"bert_config": "src/configs/bert_large_config.json"}
    for place in (folder, alone):
        (place / "actnet_ret.yaml").write_text("# released\n" + yaml.safe_dump(named), encoding="utf-8")
        (place / "bert_large_config.json").write_text(json.dumps(original["bert_config"]), encoding="utf-8")
        assert read_original(place / "actnet_ret.yaml") == original
    (tmp_path / "other.json").write_text(json.dumps({"hidden_size": 8}), encoding="utf-8")
    assert read_original(folder / "actnet_ret.yaml", tmp_path / "other.json")["bert_config"] == {"hidden_size": 8}
    (folder / "bert_large_config.json").unlink()
    with pytest.raises(ValueError, match="'src/configs/bert_large_config.json' was not found.*--bert-config"):
        read_original(folder / "actnet_ret.yaml")


@pytest.mark.parametrize("spelling", ["1e-12", "1.0e-12"])
def test_a_float_is_read_in_both_spellings(tmp_path: Path, spelling: str) -> None:
    """YAML 1.1 would read 1e-12, as JSON writes it, as a string."""
    original = tiny_original()
    original["bert_config"]["layer_norm_eps"] = 0.5
    for name, dump in (("a.yaml", yaml.safe_dump), ("b.yaml", json.dumps)):
        text = dump(original)
        assert text.count("0.5") == 1
        (tmp_path / name).write_text(text.replace("0.5", spelling), encoding="utf-8")
        read = read_original(tmp_path / name)
        assert read["bert_config"]["layer_norm_eps"] == 1e-12
        assert config_from_original(read).text_config.layer_norm_eps == 1e-12


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("VideoEncoder", None, r"lacks \['VideoEncoder'\]"),
        ("VideoEncoder", "swin", "VideoEncoder is a str"),
        ("VideoEncoder.depths", None, r"VideoEncoder lacks \['depths'\]"),
        ("VideoEncoder.depths", [1, 2], "one entry per level|does not follow"),
        ("VideoEncoder.depths", 3, "no released LF-VILA configuration"),
        ("VideoEncoder.embed_dim", "wide", "no released LF-VILA configuration"),
        ("VideoEncoder.embed_dim", 12, "both towers must end at the same width"),
        ("VideoEncoder.ape", True, r"does not take: \['ape'\]"),
        ("VideoEncoder.patch_norm", False, "patch_norm = False has no counterpart here, expected True"),
        ("VideoEncoder.patch_size", [2, 4, 4], "a patch is one frame long"),
        ("VideoEncoder.stages", [0, 1, 2, 3, 3, 4], "does not follow from downsample_stages"),
        ("VideoEncoder.window_size", [[1, 2, 3]] * 5 + [[2, 3, 3]], "one spatial window for all levels"),
        ("VideoEncoder.window_size", [1, 2, 4, 6, 6, 12], "no released LF-VILA configuration"),
        ("VideoEncoder.local_window", 0, "4 x embed_dim channels are expected"),
        ("bert_config.hidden_size", None, r"bert_config lacks \['hidden_size'\]"),
        ("bert_config.position_embedding_type", "relative_key", 'must be "absolute"'),
        ("bert_config", "nowhere.json", "nowhere.json: no such file"),
        ("DATA.sample_frame", None, r"DATA lacks \['sample_frame'\]"),
        ("DATA.input_res", 192, "no released LF-VILA configuration"),
        ("num_local_layers", 7, "num_local_layers <= stage1_layers"),
        ("stage1_layers", 9, "num_local_layers <= stage1_layers"),
        ("TRAINING", {"temp": 0}, "temperature must be at least 1e-06"),
        ("bert_config", [1], r"bert_config must be .* got \[1\]"),
    ],
)
def test_a_yaml_of_another_model_is_an_error(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_original(changed(tiny_original(), path, value))


def test_an_unknown_task_and_a_count_that_is_no_number_are_errors() -> None:
    with pytest.raises(ValueError, match="task must be one of .*'retrieval'.*, got 'captioning'"):
        config_from_original(tiny_original(), task="captioning")
    with pytest.raises(ValueError, match="DATA.max_num_subtitle is 'x'"):
        processor_settings(changed(tiny_original(), "DATA.max_num_subtitle", "x"), "retrieval")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MODEL:\n  TYPE: swin\n", r"lacks \['VideoEncoder', .*it has \['MODEL'\]"),
        (b"a: [1, 2", "neither YAML nor JSON"),
        (b"\xff\xfe\x00", "neither YAML nor JSON"),
        (b"- 1\n- 2\n", "a mapping is expected, got list"),
        (b"", "a mapping is expected, got NoneType"),
        (b"a: !!python/object/apply:os.getcwd []\n", "neither YAML nor JSON"),
        (json.dumps(tiny_original() | {"bert_config": [1]}).encode(), r"bert_config must be .* got \[1\]"),
    ],
)
def test_a_file_that_is_no_released_yaml_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_original(path)
    with pytest.raises(ValueError, match=r"b\.yaml: no such file"):
        read_original(tmp_path / "b.yaml")

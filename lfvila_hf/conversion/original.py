"""Configuration and processor settings of a released model, from its YAML (released `src/configs`).

Every switch for released weights is set (docs/parity.md lists them). A setting that our model cannot reproduce is an
error that names it, and so is a YAML of another model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.conversion.released import FUSING_TASKS, TASKS

REQUIRED = ("VideoEncoder", "bert_config", "DATA", "num_local_layers", "stage1_layers")
REQUIRED_VIDEO = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "downsample_stages")
REQUIRED_DATA = ("sample_frame", "sample_clip", "input_res")
REQUIRED_BERT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

# Arguments of the released video encoder -> our fields; our defaults equal the released ones.
VIDEO_FIELDS = {
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "downsample_stages": "merge_after",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "drop_rate": "hidden_dropout_prob",
    "attn_drop_rate": "attention_probs_dropout_prob",
    "drop_path_rate": "drop_path_rate",
}
# Arguments that only affect training, or that are handled below.
OTHER_VIDEO_ARGUMENTS = {"window_size", "stages", "local_window", "frozen_stages", "use_checkpoint", "pretrained2d"}
# Arguments for which our model supports one value only.
FIXED_VIDEO_ARGUMENTS = {"patch_norm": True, "temporal_no_shifting": True, "qk_scale": None, "pretrained": None}
# Default of the released class for an argument that the YAML may omit.
RELEASED_LOCAL_WINDOW = 4

BERT_FIELDS = (
    "vocab_size hidden_size num_attention_heads intermediate_size hidden_act hidden_dropout_prob pad_token_id "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps"
).split()
TRAINING_FIELDS = {
    "temp": "temperature",
    "time_temp": "temporal_temperature",
    "num_key": "num_anchors",
    "num_value": "num_candidates",
    "num_other_neg": "num_other_negatives",
    "ct_global_loss_weight": "global_loss_weight",
    "ct_time_loss_weight": "mtc_loss_weight",
    "mlm_loss_weight": "mlm_loss_weight",
    "vtm_loss_weight": "vtm_loss_weight",
    "span_loss_weight": "span_loss_weight",
}
# Tokens of a sentence if the YAML does not give them: defaults of the released data sets.
SENTENCE_LENGTH, VIOLIN_SENTENCE_LENGTH = 50, 30


def read_original(path: str | Path, bert_config: str | Path | None = None) -> dict[str, Any]:
    """Read a released YAML and the BERT json that it names.

    Args:
        path: The YAML.
        bert_config: The BERT json. Defaults to the path in the YAML, which is relative to the root of the released
            repository: it is searched from the working folder, from every folder above the YAML, and beside the YAML.

    Returns:
        The YAML as a dict, `bert_config` replaced by the content of the json.

    Raises:
        ValueError: A file is missing, is not YAML or JSON, or is of another model.
    """
    path = Path(path)
    original = _read_mapping(path)
    _require(original, REQUIRED, str(path))
    named = original["bert_config"] if bert_config is None else bert_config
    if not isinstance(named, Mapping):
        named = _bert_path(named)
        candidates = [Path(named)]
        if bert_config is None:
            candidates += [folder / named for folder in path.resolve().parents]
            candidates.append(path.parent / Path(named).name)
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise ValueError(f"{path}: its bert_config {str(named)!r} was not found; pass the file with --bert-config")
        named = _read_mapping(found)
    return original | {"bert_config": dict(named)}


def config_from_original(original: Mapping[str, Any], task: str = "pretraining", **overrides: Any) -> LFVilaConfig:
    """Build our configuration of a released model.

    Args:
        original: The released YAML as a dict; its `bert_config` may be a dict or the path of the BERT json.
        task: One of `TASKS`. Defaults to "pretraining".
        **overrides: Fields of `LFVilaConfig` that replace those of `original`; `video_config` and `text_config` given
            as dicts replace single fields.

    Returns:
        A configuration with which released weights reproduce the released outputs.

    Raises:
        ValueError: The task is unknown, `original` lacks fields of a released YAML, or it describes a model that ours
            cannot reproduce.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    _require(original, REQUIRED, "the configuration")
    bert = original["bert_config"]
    if not isinstance(bert, Mapping):
        bert = _read_mapping(Path(_bert_path(bert)))
    try:
        video = _video_fields(original["VideoEncoder"], original["DATA"])
        text = _text_fields(original, bert, task)
        fields = _top_fields(original, task)
        video |= dict(overrides.pop("video_config", {}))
        text |= dict(overrides.pop("text_config", {}))
        return LFVilaConfig(video_config=video, text_config=text, **(fields | overrides))
    except (TypeError, KeyError, IndexError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"this is no released LF-VILA configuration: {error}") from error


def _bert_path(named: Any) -> str:
    """Return `bert_config` of the YAML as a path.

    Raises:
        ValueError: It is no path.
    """
    if not isinstance(named, (str, Path)):
        raise ValueError(f"bert_config must be a mapping or the path of a BERT json, got {named!r}")
    return str(named)


def processor_settings(original: Mapping[str, Any], task: str) -> dict[str, int]:
    """Derive `max_sentences` and `max_sentence_length` of the released data set of a task.

    Retrieval and pre-training read up to K sentences. Question answering reads the question and up to
    `max_num_subtitle` subtitles, multiple choice also one answer. Sentences have 50 tokens, 30 in VIOLIN.

    Args:
        original: The released YAML as a dict.
        task: One of `TASKS`.

    Raises:
        ValueError: A count is no integer.
    """
    data = original["DATA"]
    for name in ("sample_clip", "max_num_subtitle", "max_text_lenght"):
        if not isinstance(data.get(name, 0), int):
            raise ValueError(
                f"this is no released LF-VILA configuration: DATA.{name} is {data[name]!r}, an integer is expected"
            )
    subtitles = data.get("max_num_subtitle", 0)
    sentences = {"question_answering": 1 + subtitles, "multiple_choice": 2 + subtitles}.get(task, data["sample_clip"])
    training_set = data.get("DATASET_train") or {}
    is_violin = isinstance(training_set, Mapping) and training_set.get("type") == "ViolinDataset"
    # "lenght" is the released spelling.
    length = data.get("max_text_lenght", VIOLIN_SENTENCE_LENGTH if is_violin else SENTENCE_LENGTH)
    return {"max_sentences": int(sentences), "max_sentence_length": int(length)}


def _video_fields(video: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Build the fields of `LFVilaVideoConfig`."""
    _require(video, REQUIRED_VIDEO, "VideoEncoder")
    _require(data, REQUIRED_DATA, "DATA")
    unknown = sorted(set(video) - set(VIDEO_FIELDS) - OTHER_VIDEO_ARGUMENTS - set(FIXED_VIDEO_ARGUMENTS))
    if unknown:
        raise ValueError(f"VideoEncoder has arguments that the released video encoder does not take: {unknown}")
    for name, value in FIXED_VIDEO_ARGUMENTS.items():
        if video.get(name, value) != value:
            raise ValueError(f"VideoEncoder: {name} = {video[name]} has no counterpart here, expected {value}")
    spatial = sorted({tuple(window[1:]) for window in video["window_size"]})
    if len(spatial) != 1:
        raise ValueError(f"one spatial window for all levels is expected, got {spatial}")
    merge_after = sorted(video["downsample_stages"])
    levels = range(len(video["depths"]))
    stages = [sum(level < here for level in merge_after) for here in levels]
    if list(video.get("stages", stages)) != stages:
        raise ValueError(
            f"VideoEncoder: stages = {video['stages']} does not follow from downsample_stages = {merge_after}, "
            f"expected {stages}"
        )
    fields = {ours: video[theirs] for theirs, ours in VIDEO_FIELDS.items() if theirs in video}
    return (
        fields
        | {
            "merge_after": merge_after,
            "image_size": list(data["input_res"]),
            "num_frames": data["sample_frame"],
            "num_clips": data["sample_clip"],
            "temporal_windows": [window[0] for window in video["window_size"]],
            "spatial_window": list(spatial[0]),
        }
        | _clip_fields(video, merge_after)
    )


def _clip_fields(video: Mapping[str, Any], merge_after: list[int]) -> dict[str, Any]:
    """Find the level of the released clip-level map, before the released code overwrites it with the last level's.

    The map is the input of the first level whose window is longer than `local_window`. That is the output of the level
    before, after merging if it has one.
    """
    temporal = [window[0] for window in video["window_size"]]
    local = video.get("local_window", RELEASED_LOCAL_WINDOW)
    beyond = next((level for level, frames in enumerate(temporal) if frames > local), None)
    # The released projection takes 4 x embed_dim channels at any level: list the places with that many.
    places = [
        (level, merged)
        for level in range(len(temporal))
        for merged in ((False, True) if level in merge_after else (False,))
        if sum(here <= level if merged else here < level for here in merge_after) == 2
    ]
    if beyond is None:  # the release never runs the projection: any place that fits its weights will do
        place = places[-1] if places else None
    else:
        place = (beyond - 1, beyond - 1 in merge_after)
    if place not in places:
        raise ValueError(
            f"VideoEncoder: with local_window = {local}, windows of {temporal} frames and merging after {merge_after}, "
            "the released clip projection does not fit the map that it would get: 4 x embed_dim channels are expected"
        )
    return {"clip_level": place[0], "clip_after_merging": place[1]}


def _text_fields(original: Mapping[str, Any], bert: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Build the fields of `LFVilaTextConfig`."""
    _require(bert, REQUIRED_BERT, "bert_config")
    sentence_layers, first_phase, layers = (
        original["num_local_layers"],
        original["stage1_layers"],
        bert["num_hidden_layers"],
    )
    if not 0 <= sentence_layers <= first_phase <= layers:
        raise ValueError(
            f"expected num_local_layers <= stage1_layers <= num_hidden_layers, got {sentence_layers}, {first_phase}, "
            f"{layers}"
        )
    if bert.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f'bert_config: position_embedding_type must be "absolute", got {bert["position_embedding_type"]!r}'
        )
    return {name: bert[name] for name in BERT_FIELDS if name in bert} | {
        "num_sentence_layers": sentence_layers,
        "num_paragraph_layers": first_phase - sentence_layers,
        "num_cross_modal_layers": layers - first_phase if _fuses(original, task) else 0,
        "max_sentences": original.get("type_vocab_size", 8),
        "pool_padded_sentences": True,
    }


def _top_fields(original: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Build the fields of `LFVilaConfig` itself."""
    fields: dict[str, Any] = {
        "temporal_alignment": task == "pretraining",
        "clip_feature_source": "last",
        "mtc_other_negatives": "released",
        "training_phase": "fusion" if task == "pretraining" and _fuses(original, task) else "contrastive",
    }
    training = original.get("TRAINING") or {}
    fields |= {ours: training[theirs] for theirs, ours in TRAINING_FIELDS.items() if theirs in training}
    if training.get("use_time_match") is False:
        fields["mtc_loss_weight"] = 0.0
    labels = original["DATA"].get("classification_labels")
    if task in ("question_answering", "video_classification") and labels is not None:
        fields["num_labels"] = labels
    return fields


def _fuses(original: Mapping[str, Any], task: str) -> bool:
    """Return whether the model has a cross-modal encoder."""
    return task in FUSING_TASKS or (task == "pretraining" and original.get("stage") == 2)


def _require(mapping: Any, names: tuple[str, ...], where: str) -> None:
    """Raise `ValueError` listing the fields of a released file that this one lacks."""
    if not isinstance(mapping, Mapping):
        raise ValueError(f"this is no released LF-VILA configuration: {where} is a {type(mapping).__name__}")
    missing = [name for name in names if name not in mapping]
    if missing:
        raise ValueError(
            f"this is no released LF-VILA configuration: {where} lacks {missing}, it has {sorted(map(str, mapping))}"
        )


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads 1e-12 as a number, like JSON; YAML 1.1 would read a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file whose top level is a mapping."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            content = yaml.load(text, _Loader)  # a safe loader: plain values only
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: neither YAML nor JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a mapping is expected, got {type(content).__name__}")
    return content

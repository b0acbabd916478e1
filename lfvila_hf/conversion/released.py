"""Names and shapes of released LF-VILA checkpoints (microsoft/XPretrain, folder LF-VILA) in terms of ours.

`RENAMES` is the whole table: one line per kind of parameter, released name on the left. `UNUSED` lists released keys
that are left out, with the reason. Everything else is an error that names it.

Letters: D shared width, P tokens per frame, T frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.modeling_base_lfvila import LFVilaPreTrainedModel
from lfvila_hf.modeling_lfvila import (
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
)

TASKS: dict[str, type[LFVilaPreTrainedModel]] = {
    "pretraining": LFVilaForPreTraining,
    "retrieval": LFVilaModel,
    "question_answering": LFVilaForQuestionAnswering,
    "multiple_choice": LFVilaForMultipleChoice,
    "video_classification": LFVilaForVideoClassification,
}

# Released name (a pattern over the whole key) -> ours. `{layer}` stands for the slice that a BERT layer belongs to.
RENAMES: tuple[tuple[str, str], ...] = (
    (r"video_encoder\.patch_embed\.(proj|norm)\.(.+)", r"video_model.patch_embed.\1.\2"),
    (r"video_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", r"video_model.levels.\1.blocks.\2.\3"),
    (r"video_encoder\.layers\.(\d+)\.downsample\.(.+)", r"video_model.merging.\1.\2"),
    (r"video_encoder\.norm\.(.+)", r"video_model.norm.\1"),
    (r"video_encoder\.local_feat_proj\.(.+)", r"video_model.clip_merging.\1"),
    (r"video_encoder\.norm_local\.(.+)", r"video_model.clip_norm.\1"),
    (r"text_encoder\.bert\.embeddings\.(.+)", r"text_model.embeddings.\1"),
    (r"text_encoder\.bert\.encoder\.layer\.(\d+)\.(.+)", r"{layer}.\2"),
    (r"text_encoder\.bert\.pooler\.(.+)", r"cross_modal_encoder.pooler.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.(.+)", r"mlm_head.\1"),
    (r"text_encoder\.cls\.predictions\.decoder\.(.+)", r"mlm_head.decoder.\1"),
    (r"text_encoder\.seq_relationship\.(.+)", r"vtm_head.\1"),
    (r"text_encoder\.classifier\.(.+)", r"classifier.\1"),
    (r"text_encoder\.span_classifier\.(.+)", r"span_classifier.\1"),
    (r"sent_embedding\.(position_embeddings|segment_embeddings)\.(.+)", r"text_model.paragraph_embeddings.\1.\2"),
    (r"sent_embedding\.norm\.(.+)", r"text_model.paragraph_embeddings.LayerNorm.\1"),
    (r"text_global_proj\.(.+)", r"text_projection.\1"),
    (r"video_global_proj\.(.+)", r"video_projection.\1"),
    (r"text_local_proj\.(.+)", r"sentence_projection.\1"),
    (r"video_local_proj\.(.+)", r"clip_projection.\1"),
    (r"video_token_pos\.s_pos_embed", r"cross_modal_encoder.video_embeddings.spatial_position_embeddings"),
    (r"video_token_pos\.t_pos_embed", r"cross_modal_encoder.video_embeddings.temporal_position_embeddings"),
    (r"video_token_pos\.norm\.(.+)", r"cross_modal_encoder.video_embeddings.norm.\1"),
    (r"classifier\.(.+)", r"classifier.\1"),
)

# Released keys that no model of ours has a place for (pattern, reason).
UNUSED: tuple[tuple[str, str], ...] = (
    (r".+\.relative_position_index", "a constant, made again from the window"),
    (r".+\.position_ids", "a constant, made again from the length"),
    (r"text_encoder\.cls\.predictions\.bias", "the MLM bias a second time; the decoder holds it"),
    (r"video_frame_proj\.(.+)", "per-frame projection of video classification, not read by its classifier"),
)

# Parts of ours that a task's model does not have: a released key that maps there is left out, with this reason.
ABSENT_PARTS: dict[str, str] = {
    "mlm_head.": "heads of the fusion phase, unused in this task",
    "vtm_head.": "heads of the fusion phase, unused in this task",
    "cross_modal_encoder.": "cross-modal encoder, unused in this task",
    "sentence_projection.": "projection of MTC, unused in this task",
    "clip_projection.": "projection of MTC, unused in this task",
    "text_projection.": "projection of retrieval, unused in this task",
    "video_projection.": "projection of retrieval, unused in this task",
    "text_model.": "text tower, unused in this task",
}


def config_from_original(original: Mapping[str, Any], task: str = "pretraining", **overrides: Any) -> LFVilaConfig:
    """Our configuration of a released model.

    Args:
        original: the released YAML as a dict; its `bert_config` may be a dict or the path of the BERT json.
        task: one of `TASKS`.
        **overrides: fields of `LFVilaConfig` that win over what `original` says; `video_config` and `text_config`
        given as
            dicts replace single fields.

    Returns:
        A configuration with every switch set so that released weights give the released numbers.

    Raises:
        ValueError: unknown task, or `original` lacks what a released YAML has.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    missing = [
        k for k in ("VideoEncoder", "bert_config", "DATA", "num_local_layers", "stage1_layers") if k not in original
    ]
    if missing:
        raise ValueError(f"this is no released LF-VILA configuration: it lacks {missing}, it has {sorted(original)}")
    video, bert, data = original["VideoEncoder"], original["bert_config"], original["DATA"]
    if not isinstance(bert, Mapping):
        bert = json.loads(Path(bert).read_text(encoding="utf-8"))
    training = original.get("TRAINING", {})

    spatial = {tuple(window[1:]) for window in video["window_size"]}
    if len(spatial) != 1:
        raise ValueError(f"one spatial window for all levels is expected, got {sorted(spatial)}")
    temporal = [window[0] for window in video["window_size"]]
    local = video.get("local_window", 8)
    within_clip = [level for level, frames in enumerate(temporal) if frames <= local]
    video_fields = {
        "image_size": list(data["input_res"]),
        "num_frames": data["sample_frame"],
        "num_clips": data["sample_clip"],
        "patch_size": list(video["patch_size"]),
        "embed_dim": video["embed_dim"],
        "depths": list(video["depths"]),
        "num_heads": list(video["num_heads"]),
        "temporal_windows": temporal,
        "spatial_window": list(spatial.pop()),
        "merge_after": list(video["downsample_stages"]),
        "clip_level": within_clip[-1] if within_clip else 0,
    }
    if "drop_path_rate" in video:
        video_fields["drop_path_rate"] = video["drop_path_rate"]

    sentence_layers, first_phase = original["num_local_layers"], original["stage1_layers"]
    fuses = task in ("question_answering", "multiple_choice") or (task == "pretraining" and original.get("stage") == 2)
    bert_fields = (
        "vocab_size hidden_size num_attention_heads intermediate_size hidden_act hidden_dropout_prob pad_token_id "
        "attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps"
    ).split()
    text_fields = {name: bert[name] for name in bert_fields if name in bert} | {
        "num_sentence_layers": sentence_layers,
        "num_paragraph_layers": first_phase - sentence_layers,
        "num_cross_modal_layers": bert["num_hidden_layers"] - first_phase if fuses else 0,
        "max_sentences": original.get("type_vocab_size", 8),
        "pool_padded_sentences": True,
    }
    fields: dict[str, Any] = {
        "temporal_alignment": task == "pretraining",
        "clip_feature_source": "last",
        "mtc_other_negatives": "released",
        "training_phase": "fusion" if fuses and task == "pretraining" else "contrastive",
    }
    released_names = {
        "temp": "temperature",
        "time_temp": "temporal_temperature",
        "num_key": "num_anchors",
        "num_value": "num_candidates",
        "num_other_neg": "num_other_negatives",
        "ct_global_loss_weight": "global_loss_weight",
        "ct_time_loss_weight": "mtc_loss_weight",
        "mlm_loss_weight": "mlm_loss_weight",
        "vtm_loss_weight": "vtm_loss_weight",
    }
    fields |= {ours: training[theirs] for theirs, ours in released_names.items() if theirs in training}
    if task in ("question_answering", "video_classification") and "classification_labels" in data:
        fields["num_labels"] = data["classification_labels"]
    video_fields |= dict(overrides.pop("video_config", {}))
    text_fields |= dict(overrides.pop("text_config", {}))
    return LFVilaConfig(video_config=video_fields, text_config=text_fields, **(fields | overrides))


def rename(key: str, config: LFVilaConfig) -> str | None:
    """Our name of a released key, without the `model.` that heads put before the towers; `None` for an unknown key."""
    for pattern, ours in RENAMES:
        match = re.fullmatch(pattern, key)
        if match is None:
            continue
        if "{layer}" not in ours:
            return match.expand(ours)
        number, text = int(match[1]), config.text_config
        for part, count in (
            ("text_model.sentence_layers", text.num_sentence_layers),
            ("text_model.paragraph_layers", text.num_paragraph_layers),
        ):
            if number < count:
                return f"{part}.{number}.{match[2]}"
            number -= count
        return f"cross_modal_encoder.layers.{number}.{match[2]}"
    return None


def convert_state_dict(
    released: Mapping[str, torch.Tensor], config: LFVilaConfig, task: str = "pretraining"
) -> dict[str, torch.Tensor]:
    """Released parameters under our names and in our shapes; the result loads with `strict=True`.

    Args:
        released: the released state dict.
        config: our configuration of it (`config_from_original`).
        task: one of `TASKS`; decides which parts there are.

    Returns:
        One tensor for every parameter of the task's model, with the dtype of `released`.

    Raises:
        ValueError: keys that are unknown, missing or of another shape, all of them listed.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    with torch.device("meta"):
        expected = {name: p.shape for name, p in TASKS[task](config).state_dict().items()}
    nested = task != "retrieval"
    state: dict[str, torch.Tensor] = {}
    unknown, shapes = [], []
    for key, tensor in released.items():
        if any(re.fullmatch(pattern, key) for pattern, _ in UNUSED):
            continue
        name = rename(key, config)
        if name is None:
            unknown.append(key)
            continue
        if name.endswith("_position_embeddings") and tensor.ndim == 4:
            tensor = tensor.flatten(0, 2)  # (1, T, 1, D) or (1, 1, P, D) to (T, D) or (P, D)
        ours = f"model.{name}" if nested and f"model.{name}" in expected else name
        if ours not in expected:
            if not any(name.startswith(part) for part in ABSENT_PARTS):
                unknown.append(key)
        elif tensor.shape != expected[ours]:
            shapes.append(f"{key}: {tuple(tensor.shape)}, expected {tuple(expected[ours])}")
        else:
            state[ours] = tensor
    missing = sorted(set(expected) - set(state) - {s.split(":")[0] for s in shapes})
    if unknown or missing or shapes:
        raise ValueError(
            f"this is no released {task} checkpoint of this configuration; unknown keys: {unknown or 'none'}; missing: "
            f"{missing or 'none'}; other shapes: {shapes or 'none'}"
        )
    return state

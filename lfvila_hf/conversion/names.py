"""Names of released LF-VILA parameters (microsoft/XPretrain, folder LF-VILA, `src/models`) in terms of ours.

Everything the conversion knows about names is in the tables of this file:

- `RENAMES`, one line per kind of parameter, the released name on the left;
- `UNNEEDED`, released keys that no model of ours has a place for, with the reason; it is looked at first;
- `NOT_READ`, per task, parts of ours that its model lacks although its checkpoints may hold them, with the reason;
- `NEW_PARTS`, per task, parts of ours that a pre-training checkpoint may lack and that then start anew.

A key that none of them covers is an error, wherever it turns up.

Letters: D shared width, P tokens per frame, T frames.
"""

from __future__ import annotations

import re
from typing import NamedTuple

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
FUSING_TASKS = ("question_answering", "multiple_choice")


class Rename(NamedTuple):
    """One kind of parameter: a pattern over the whole released key, and our name for it."""

    released: str
    ours: str
    """`{layer}` stands for the slice that a BERT layer belongs to."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks whose checkpoints have it; in any other task the key says that the checkpoint is another one's."""


# fmt: off
RENAMES: tuple[Rename, ...] = (
    # video tower
    Rename(r"video_encoder\.patch_embed\.(proj|norm)\.(.+)", r"video_model.patch_embed.\1.\2"),
    Rename(r"video_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", r"video_model.levels.\1.blocks.\2.\3"),
    Rename(r"video_encoder\.layers\.(\d+)\.downsample\.(.+)", r"video_model.merging.\1.\2"),
    Rename(r"video_encoder\.norm\.(.+)", r"video_model.norm.\1"),
    Rename(r"video_encoder\.local_feat_proj\.(.+)", r"video_model.clip_merging.\1"),
    Rename(r"video_encoder\.norm_local\.(.+)", r"video_model.clip_norm.\1"),
    # text tower; layers of the third slice belong to the cross-modal encoder
    Rename(r"text_encoder\.bert\.embeddings\.(.+)", r"text_model.embeddings.\1"),
    Rename(r"text_encoder\.bert\.encoder\.layer\.(\d+)\.(.+)", r"{layer}.\2"),
    Rename(r"sent_embedding\.(position_embeddings|segment_embeddings)\.(.+)", r"text_model.paragraph_embeddings.\1.\2"),
    Rename(r"sent_embedding\.norm\.(.+)", r"text_model.paragraph_embeddings.LayerNorm.\1"),
    # projections
    Rename(r"text_global_proj\.(.+)", r"text_projection.\1"),
    Rename(r"video_global_proj\.(.+)", r"video_projection.\1"),
    Rename(r"text_local_proj\.(.+)", r"sentence_projection.\1"),
    Rename(r"video_local_proj\.(.+)", r"clip_projection.\1"),
    # cross-modal encoder
    Rename(r"text_encoder\.bert\.pooler\.(.+)", r"cross_modal_encoder.pooler.\1"),
    Rename(r"video_token_pos\.s_pos_embed", r"cross_modal_encoder.video_embeddings.spatial_position_embeddings"),
    Rename(r"video_token_pos\.t_pos_embed", r"cross_modal_encoder.video_embeddings.temporal_position_embeddings"),
    Rename(r"video_token_pos\.norm\.(.+)", r"cross_modal_encoder.video_embeddings.norm.\1"),
    # heads
    Rename(r"text_encoder\.cls\.predictions\.transform\.(.+)", r"mlm_head.\1"),
    Rename(r"text_encoder\.cls\.predictions\.decoder\.(.+)", r"mlm_head.decoder.\1"),
    Rename(r"text_encoder\.seq_relationship\.(.+)", r"vtm_head.\1"),
    Rename(r"text_encoder\.classifier\.(.+)", r"classifier.\1", FUSING_TASKS),
    Rename(r"text_encoder\.span_classifier\.(.+)", r"span_classifier.\1", ("multiple_choice",)),
    Rename(r"classifier\.(.+)", r"classifier.\1", ("video_classification",)),
)
# fmt: on


class Unneeded(NamedTuple):
    """Released keys without a place in ours, and why."""

    released: str
    reason: str
    tasks: tuple[str, ...] = tuple(TASKS)


UNNEEDED: tuple[Unneeded, ...] = (
    Unneeded(
        r"video_encoder\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index",
        "a constant, made again from the window",
    ),
    Unneeded(
        r"(sent_embedding|text_encoder\.bert\.embeddings)\.position_ids", "a constant, made again from the length"
    ),
    Unneeded(r"text_encoder\.cls\.predictions\.bias", "the MLM bias a second time; the decoder's is the one in use"),
    Unneeded(
        r"video_frame_proj\.(.+)", "per-frame projection that the classifier does not read", ("video_classification",)
    ),
)

_FUSION_PARTS = {
    "cross_modal_encoder.": "cross-modal encoder (with BERT's pooler), which this task does not run",
    "mlm_head.": "head of the fusion phase, which this task does not run",
    "vtm_head.": "head of the fusion phase, which this task does not run",
}
_MTC_PARTS = {
    "sentence_projection.": "projection of MTC (kept with temporal_alignment=True, --temporal-alignment)",
    "clip_projection.": "projection of MTC (kept with temporal_alignment=True, --temporal-alignment)",
}
_HEADS_OF_FUSION = {name: reason for name, reason in _FUSION_PARTS.items() if name != "cross_modal_encoder."}
_PROJECTIONS = {
    "text_projection.": "projection of the contrastive phase, which this task does not run",
    "video_projection.": "projection of the contrastive phase, which this task does not run",
    "sentence_projection.": "projection of the contrastive phase, which this task does not run",
    "clip_projection.": "projection of the contrastive phase, which this task does not run",
}

# Parts (beginnings of our names) that a task's model lacks, and why. A key is left out only if its part is listed here
# and the configuration indeed leaves the part out.
NOT_READ: dict[str, dict[str, str]] = {
    "pretraining": _FUSION_PARTS | _MTC_PARTS,
    "retrieval": _FUSION_PARTS | _MTC_PARTS,
    "question_answering": _HEADS_OF_FUSION | _PROJECTIONS,
    "multiple_choice": _HEADS_OF_FUSION | _PROJECTIONS,
    "video_classification": _FUSION_PARTS
    | {
        "text_model.": "text tower, which this task does not run",
        "text_projection.": "projection of the text tower, which this task does not run",
        "sentence_projection.": "projection of MTC, which this task does not train",
        "clip_projection.": "projection of MTC, which this task does not train",
    },
}

_CROSS_MODAL_PARTS = ("cross_modal_encoder.video_embeddings.", "cross_modal_encoder.layers.")

# Parts that a task adds to what a phase-one or phase-two checkpoint holds. A part is new only as a whole.
NEW_PARTS: dict[str, tuple[str, ...]] = {
    "pretraining": _CROSS_MODAL_PARTS,
    "retrieval": (),
    "question_answering": (*_CROSS_MODAL_PARTS, "classifier."),
    "multiple_choice": (*_CROSS_MODAL_PARTS, "classifier.", "span_classifier."),
    "video_classification": ("classifier.",),
}

# Keys that tell what a checkpoint is, looked for in this order.
SIGNS: tuple[tuple[str, str], ...] = (
    ("text_encoder.span_classifier.weight", "multiple_choice"),
    ("text_encoder.classifier.weight", "question_answering"),
    ("classifier.weight", "video_classification"),
    ("text_local_proj.weight", "pretraining"),
    ("text_global_proj.weight", "retrieval"),
)


def rename(key: str, config: LFVilaConfig, task: str) -> str | None:
    """Our name of a released key, without the `model.` that heads put before the towers.

    Returns:
        `None` for a key that checkpoints of this task do not have.
    """
    for row in RENAMES:
        match = re.fullmatch(row.released, key)
        if match is None or task not in row.tasks:
            continue
        if "{layer}" not in row.ours:
            return match.expand(row.ours)
        return f"{slice_of_layer(int(match[1]), config)}.{match[2]}"
    return None


def slice_of_layer(number: int, config: LFVilaConfig) -> str:
    """Where BERT's layer `number` is in ours."""
    text = config.text_config
    for part, count in (
        ("text_model.sentence_layers", text.num_sentence_layers),
        ("text_model.paragraph_layers", text.num_paragraph_layers),
    ):
        if number < count:
            return f"{part}.{number}"
        number -= count
    return f"cross_modal_encoder.layers.{number}"


def reason_unneeded(key: str, task: str) -> str | None:
    """Why a released key has no place in ours, or `None`."""
    return next((row.reason for row in UNNEEDED if task in row.tasks and re.fullmatch(row.released, key)), None)

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""State dicts of released LF-VILA (microsoft/XPretrain, folder LF-VILA, `src/models`) under our names.

All names are in the tables below:

- `RENAMES`, one row per kind of parameter, released name on the left;
- `UNNEEDED`, released keys that no model of ours needs, with the reason; it is checked first;
- `NOT_READ`, per task, parts that its model lacks although its checkpoints may hold them, with the reason;
- `NEW_PARTS`, per task, parts that a pre-training checkpoint may lack and that then start from random numbers.

Shapes come from the model on the meta device. Every key is accounted for; a key outside the tables is an error.
`convert_state_dict` is strict. `map_checkpoint` also initialises new parts, and reports what happened to each key.

Memory: no model is built and no tensor is copied, except new parts and tensors that share memory.

Letters: D shared width, P tokens per frame, T frames.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.conversion.checkpoint_files import not_finite
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
    """Row of `RENAMES`: one kind of parameter.

    Args:
        released: Pattern over the full released key.
        ours: Our name; `{layer}` stands for the slice that a BERT layer belongs to.
        tasks: Tasks whose checkpoints have it. Defaults to all. For any other task the key is unknown.
    """

    released: str
    ours: str
    tasks: tuple[str, ...] = tuple(TASKS)


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
    """Row of `UNNEEDED`: released keys that no model of ours needs.

    Args:
        released: Pattern over the full released key.
        reason: Reason, for the report.
        tasks: Tasks whose checkpoints have them. Defaults to all.
    """

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

# Parts (prefixes of our names) that a task's model lacks, with the reason. A key is left out only if its part is listed
# here and the configuration leaves the part out.
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

# Parts that a task adds to a pre-training checkpoint. A part is new only if the checkpoint lacks all of it.
NEW_PARTS: dict[str, tuple[str, ...]] = {
    "pretraining": _CROSS_MODAL_PARTS,
    "retrieval": (),
    "question_answering": (*_CROSS_MODAL_PARTS, "classifier."),
    "multiple_choice": (*_CROSS_MODAL_PARTS, "classifier.", "span_classifier."),
    "video_classification": ("classifier.",),
}

# Keys that identify the task of a checkpoint; the first one found decides.
SIGNS: tuple[tuple[str, str], ...] = (
    ("text_encoder.span_classifier.weight", "multiple_choice"),
    ("text_encoder.classifier.weight", "question_answering"),
    ("classifier.weight", "video_classification"),
    ("text_local_proj.weight", "pretraining"),
    ("text_global_proj.weight", "retrieval"),
)


# -- names -------------------------------------------------------------------------------------------------------------


def rename(key: str, config: LFVilaConfig, task: str) -> str | None:
    """Translate a released key to our name, without the `model.` that heads put before the towers.

    Args:
        key: The released key.
        config: Our configuration of the checkpoint.
        task: One of `TASKS`.

    Returns:
        Our name; `None` for a key that checkpoints of this task do not have.
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
    """Return the module that BERT's layer `number` belongs to in our model."""
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
    """Return the reason of the row of `UNNEEDED` that a released key matches, or `None`."""
    return next((row.reason for row in UNNEEDED if task in row.tasks and re.fullmatch(row.released, key)), None)


# -- state dicts -------------------------------------------------------------------------------------------------------


@dataclass
class MappedCheckpoint:
    """Released checkpoint under our names, with an account of every key.

    Args:
        state: One tensor for every parameter of the task's model.
        left_out: Reason -> released keys that were left out for it.
        new: Part (prefix of our names) -> parameters of it that the checkpoint lacks; float32.
        from_bert: New parameters that came from a BERT checkpoint instead of random numbers.
    """

    state: dict[str, torch.Tensor]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    new: dict[str, list[str]] = field(default_factory=dict)
    from_bert: list[str] = field(default_factory=list)


def convert_state_dict(
    released: Mapping[str, torch.Tensor], config: LFVilaConfig, task: str = "pretraining"
) -> dict[str, torch.Tensor]:
    """Convert a released state dict to our names and shapes, strictly.

    Args:
        released: The released state dict.
        config: Our configuration of it (`config_from_original`).
        task: One of `TASKS`; decides which parts the model has. Defaults to "pretraining".

    Returns:
        One tensor for every parameter of the task's model, with the dtype of `released`; loads with `strict=True`.

    Raises:
        ValueError: Keys are unknown, missing, of another shape or not finite; all of them are listed.
    """
    return map_checkpoint(released, config, task).state


def map_checkpoint(
    released: Mapping[str, torch.Tensor],
    config: LFVilaConfig,
    task: str = "pretraining",
    initialise_new_parts: bool = False,
    bert_layers: Mapping[str, torch.Tensor] | None = None,
) -> MappedCheckpoint:
    """Convert a released state dict like `convert_state_dict`, with an account of every key and with new parts.

    Args:
        released: The released state dict.
        config: Our configuration of it.
        task: One of `TASKS`. Defaults to "pretraining".
        initialise_new_parts: Whether a pre-training checkpoint may lack the parts that `NEW_PARTS` lists for the task,
            each as a whole. They start from torch's random generator as in a new model. Defaults to False.
        bert_layers: Parameters under our names (`bert_state` in towers.py) that new parts start from. Defaults to none.

    Returns:
        The converted checkpoint.

    Raises:
        ValueError: As `convert_state_dict`.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    expected = expected_shapes(config, task)
    state: dict[str, torch.Tensor] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    problems: dict[str, list[str]] = defaultdict(list)
    for key, tensor in released.items():
        reason = reason_unneeded(key, task)
        name = None if reason else rename(key, config, task)
        if name is not None and name not in expected:
            name = f"model.{name}" if f"model.{name}" in expected else name
        if name in expected:
            state[name] = _our_shape(tensor, name)
            problem = _mismatch(state[name], expected[name])
            if problem:
                problems["of another shape"].append(f"{key} {problem}")
            continue
        if name is not None:
            reason = _reason_not_read(name, task, expected, released)
        if reason is None:
            problems["unknown"].append(key)
        else:
            left_out[reason].append(key)
    missing = [name for name in expected if name not in state]
    new = _new_parts(missing, expected, released, task) if initialise_new_parts else {}
    problems["missing"] += sorted(set(missing) - {name for names in new.values() for name in names})
    problems["not finite"] += not_finite({key: value for key, value in released.items() if not value.is_meta})
    _raise_problems(problems, released, task)
    mapped = MappedCheckpoint(_with_own_storage(state), dict(left_out), new)
    if new:
        _initialise(mapped, config, task, bert_layers or {})
    return mapped


def expected_shapes(config: LFVilaConfig, task: str) -> dict[str, torch.Size]:
    """Return name and shape of every parameter of the task's model."""
    return {name: tensor.shape for name, tensor in meta_model(config, task).state_dict().items()}


def meta_model(config: LFVilaConfig, task: str) -> LFVilaPreTrainedModel:
    """Build the task's model on the meta device, without memory."""
    with torch.device("meta"):
        return TASKS[task](config)


def kind_of_checkpoint(released: Mapping[str, torch.Tensor]) -> str | None:
    """Return the task that a released checkpoint was trained for, or `None` if no key identifies it."""
    return next((task for key, task in SIGNS if key in released), None)


def _our_shape(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Flatten positions of video tokens, released as `(1, T, 1, D)` and `(1, 1, P, D)`, to two axes."""
    is_position = re.search(r"video_embeddings\.\w+_position_embeddings$", name) is not None
    if is_position and tensor.ndim == 4 and sum(size > 1 for size in tensor.shape[:3]) <= 1:
        return tensor.flatten(0, 2)  # (T, D) or (P, D)
    return tensor


def _mismatch(tensor: torch.Tensor, shape: torch.Size) -> str | None:
    """Describe the mismatch of a tensor with a parameter of that shape, or return `None`."""
    if tensor.shape != shape:
        return f"{tuple(tensor.shape)} (expected {tuple(shape)})"
    return None if tensor.is_floating_point() else f"of {tensor.dtype} (expected floating-point numbers)"


def _reason_not_read(
    name: str, task: str, expected: Mapping[str, torch.Size], released: Mapping[str, torch.Tensor]
) -> str | None:
    """Return the reason from `NOT_READ` for which the task's model lacks `name`; `None` if there is none."""
    has_cross_modal_encoder = any(key.startswith("video_token_pos.") for key in released)
    if name.startswith("cross_modal_encoder.layers.") and not has_cross_modal_encoder:
        return None  # the checkpoint has more text layers than the configuration: an error, not a part to leave out
    for part, reason in NOT_READ[task].items():
        if name.startswith(part) and not any(other.removeprefix("model.").startswith(part) for other in expected):
            return reason
    return None


def _new_parts(
    missing: list[str], expected: Mapping[str, torch.Size], released: Mapping[str, torch.Tensor], task: str
) -> dict[str, list[str]]:
    """Find the parts that the task adds to a pre-training checkpoint; a part counts only if all of it is missing."""
    if kind_of_checkpoint(released) != "pretraining":
        return {}
    new = {}
    for part in NEW_PARTS[task]:
        names = [name for name in expected if name.startswith(part)]
        if names and set(names) <= set(missing):
            new[part] = names
    return new


def _raise_problems(problems: Mapping[str, list[str]], released: Mapping[str, torch.Tensor], task: str) -> None:
    """Raise one `ValueError` that lists all problems, if there are any."""
    found = {what: keys for what, keys in problems.items() if keys}
    if not found:
        return
    kind = kind_of_checkpoint(released)
    if kind is None:
        hint = "; nothing in it looks like LF-VILA"
    elif kind != task:
        hint = f"; it looks like a {kind} checkpoint"
    else:
        hint = ""
    lists = "; ".join(f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in found.items())
    raise ValueError(f"this is no released {task} checkpoint of this configuration{hint}. {lists}")


def _with_own_storage(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy the tensors that share memory or have gaps, because safetensors cannot write them."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        is_whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        shared = storage.data_ptr() in seen and not tensor.is_meta
        seen.add(storage.data_ptr())
        owned[name] = tensor if is_whole and not shared else tensor.clone(memory_format=torch.contiguous_format)
    return owned


def _initialise(
    mapped: MappedCheckpoint, config: LFVilaConfig, task: str, bert_layers: Mapping[str, torch.Tensor]
) -> None:
    """Fill the new parts: from BERT if it has them, else as in a new model."""
    names = [name for part in mapped.new.values() for name in part]
    shapes = expected_shapes(config, task)
    for name in names:
        if name in bert_layers and bert_layers[name].shape == shapes[name]:
            mapped.state[name] = bert_layers[name]
            mapped.from_bert.append(name)
    fresh = [name for name in names if name not in mapped.from_bert]
    if fresh:
        mapped.state |= new_parameters(config, task, fresh)


def new_parameters(config: LFVilaConfig, task: str, names: list[str]) -> dict[str, torch.Tensor]:
    """Initialise parameters as in a new model of the task, with memory for `names` alone."""
    model = meta_model(config, task)
    wanted = set(names)
    for path, module in model.named_modules():
        own = {name for name, _ in module.named_parameters(prefix=path, recurse=False)}
        if own & wanted:
            module.to_empty(device="cpu", recurse=False)
    for path, module in model.named_modules():
        own = {name for name, _ in module.named_parameters(prefix=path, recurse=False)}
        if own & wanted:
            _owner(model, path)._init_weights(module)
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in names}


def _owner(model: LFVilaPreTrainedModel, path: str) -> LFVilaPreTrainedModel:
    """Return the innermost model around a module: its `_init_weights` initialises the module."""
    owner, here = model, ""
    for name in path.split("."):
        here = f"{here}.{name}" if here else name
        module = model.get_submodule(here)
        if isinstance(module, LFVilaPreTrainedModel):
            owner = module
    return owner

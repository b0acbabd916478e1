"""Released state dicts into ours: names from the tables of `names.py`, shapes from the model, nothing dropped unsaid.

`convert_state_dict` is strict. `map_checkpoint` is the same with an account of what happened, and can start the parts
that a task adds to a pre-training checkpoint (heads, cross-modal layers) anew.

Memory: no model is built (shapes come from one on the meta device) and tensors are handed on, not copied; only new
parts take memory.

Letters: D shared width, P tokens per frame, T frames.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.conversion.checkpoint_files import not_finite
from lfvila_hf.conversion.names import NEW_PARTS, NOT_READ, SIGNS, TASKS, reason_unneeded, rename
from lfvila_hf.modeling_base_lfvila import LFVilaPreTrainedModel


@dataclass
class MappedCheckpoint:
    """A released checkpoint under our names, and what became of every key."""

    state: dict[str, torch.Tensor]
    """One tensor for every parameter of the task's model."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> released keys that were left out for it."""
    new: dict[str, list[str]] = field(default_factory=dict)
    """Part (beginning of our names) -> parameters of it that the checkpoint lacks; float32."""
    from_bert: list[str] = field(default_factory=list)
    """Those of the new parameters that came from a BERT checkpoint instead of from random numbers."""


def convert_state_dict(
    released: Mapping[str, torch.Tensor], config: LFVilaConfig, task: str = "pretraining"
) -> dict[str, torch.Tensor]:
    """Released parameters under our names and in our shapes; the result loads with `strict=True`.

    Args:
        released: The released state dict.
        config: Our configuration of it (`config_from_original`).
        task: One of `TASKS`; decides which parts there are.

    Returns:
        One tensor for every parameter of the task's model, with the dtype of `released`.

    Raises:
        ValueError: Keys that are unknown, missing, of another shape or not finite, all of them listed.
    """
    return map_checkpoint(released, config, task).state


def map_checkpoint(
    released: Mapping[str, torch.Tensor],
    config: LFVilaConfig,
    task: str = "pretraining",
    initialise_new_parts: bool = False,
    bert_layers: Mapping[str, torch.Tensor] | None = None,
) -> MappedCheckpoint:
    """As `convert_state_dict`, with an account, and for tasks that add parts to a pre-training checkpoint.

    Args:
        released: The released state dict.
        config: Our configuration of it.
        task: One of `TASKS`.
        initialise_new_parts: Let a pre-training checkpoint lack the parts that `NEW_PARTS` lists for the task, each as
            a whole; they start from torch's random generator as in a new model.
        bert_layers: Parameters under our names (`towers_lfvila.bert_state`) to start new parts from where they have
            them.

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
    """Name and shape of every parameter of the task's model."""
    return {name: tensor.shape for name, tensor in meta_model(config, task).state_dict().items()}


def meta_model(config: LFVilaConfig, task: str) -> LFVilaPreTrainedModel:
    """The task's model without memory."""
    with torch.device("meta"):
        return TASKS[task](config)


def kind_of_checkpoint(released: Mapping[str, torch.Tensor]) -> str | None:
    """The task that a released checkpoint was trained for, or `None` where nothing tells."""
    return next((task for key, task in SIGNS if key in released), None)


def _our_shape(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Positions of video tokens, released as (1, T, 1, D) and (1, 1, P, D), as (T, D) and (P, D); the rest as it is."""
    is_position = re.search(r"video_embeddings\.\w+_position_embeddings$", name) is not None
    if is_position and tensor.ndim == 4 and sum(size > 1 for size in tensor.shape[:3]) <= 1:
        return tensor.flatten(0, 2)  # (T, D) or (P, D)
    return tensor


def _mismatch(tensor: torch.Tensor, shape: torch.Size) -> str | None:
    """What is wrong with a tensor that should be a parameter of that shape."""
    if tensor.shape != shape:
        return f"{tuple(tensor.shape)} (expected {tuple(shape)})"
    return None if tensor.is_floating_point() else f"of {tensor.dtype} (expected floating-point numbers)"


def _reason_not_read(
    name: str, task: str, expected: Mapping[str, torch.Size], released: Mapping[str, torch.Tensor]
) -> str | None:
    """Why the task's model has no place for our name `name`; `None` if there is no good reason."""
    has_cross_modal_encoder = any(key.startswith("video_token_pos.") for key in released)
    if name.startswith("cross_modal_encoder.layers.") and not has_cross_modal_encoder:
        return None  # more text layers than the configuration has, in a checkpoint without cross-modal encoder
    for part, reason in NOT_READ[task].items():
        if name.startswith(part) and not any(other.removeprefix("model.").startswith(part) for other in expected):
            return reason
    return None


def _new_parts(
    missing: list[str], expected: Mapping[str, torch.Size], released: Mapping[str, torch.Tensor], task: str
) -> dict[str, list[str]]:
    """Parts that the task adds to a pre-training checkpoint: all of a part is missing, or none of it is new."""
    if kind_of_checkpoint(released) != "pretraining":
        return {}
    new = {}
    for part in NEW_PARTS[task]:
        names = [name for name in expected if name.startswith(part)]
        if names and set(names) <= set(missing):
            new[part] = names
    return new


def _raise_problems(problems: Mapping[str, list[str]], released: Mapping[str, torch.Tensor], task: str) -> None:
    """One error that lists all there is to list."""
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
    """Copies of the tensors that share memory or have gaps, which safetensors cannot write; the others as they are."""
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
    """Fill the new parts, from BERT where it has them, as in a new model elsewhere."""
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
    """Parameters as a new model of the task starts with; memory is taken for `names` alone."""
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
    """The innermost model around a module: the one whose rules initialise it."""
    owner, here = model, ""
    for name in path.split("."):
        here = f"{here}.{name}" if here else name
        module = model.get_submodule(here)
        if isinstance(module, LFVilaPreTrainedModel):
            owner = module
    return owner

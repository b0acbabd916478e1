# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What loading and saving do to a model besides what transformers does: see `LFVilaPreTrainedModel`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

CACHE_LINE = 64  # bytes; where torch's own memory begins


def align_weights(model: nn.Module) -> None:
    """Copy weights on the CPU that begin between two cache lines, one at a time, to where one begins.

    Loaded weights are views into a file, at whatever byte they have there. The product of a matrix and a single vector
    (one video, one paragraph, one score per answer) is summed in an order that depends on it, which changes last bits:
    without this, a model would differ from itself after saving and loading. Quantised and offloaded weights stay.
    """
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.data_ptr() % CACHE_LINE:
            parameter.data = parameter.data.clone()


def take_int8_by_rows(model: nn.Module) -> None:
    """Show rows to the int8 layers of bitsandbytes: on a CPU they take three axes at most, windows have four."""
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.forward = partial(_by_rows, module.forward)


def _by_rows(layer: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    return layer(inputs.reshape(-1, inputs.shape[-1])).view(*inputs.shape[:-1], -1)


def load_adapter_heads(
    model: Any,
    adapter: str | None,
    name: str,
    report: Any,
    adapter_state_dict: Mapping[str, torch.Tensor] | None = None,
    adapter_kwargs: Mapping[str, Any] | None = None,
    load_config: Any = None,
    **kwargs: Any,
) -> None:
    """Load the heads stored with an adapter, which `load_adapter` of transformers 5.17 leaves untrained.

    Args:
        model: model that the adapter is on.
        adapter: its folder or repository.
        name: what it is called.
        report: of its loading; what is found is taken off its missing keys.
        adapter_state_dict: weights in place of those of `adapter`.
        adapter_kwargs: how to download.
        load_config: what `from_pretrained` was told about downloading.
        **kwargs: what `load_adapter` was told about it.
    """
    try:  # flat files need nothing but torch and transformers to be loaded
        from peft.utils import load_peft_weights
        from peft.utils.other import AuxiliaryTrainingWrapper
    except ImportError:
        return

    if adapter_state_dict is None:
        ways = {**getattr(load_config, "download_kwargs", {}), **kwargs, **(adapter_kwargs or {})}
        known = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
        adapter_state_dict = load_peft_weights(
            str(adapter), "cpu", **{key: ways[key] for key in known if ways.get(key) is not None}
        )
    state = {key.removeprefix("base_model.model."): value for key, value in adapter_state_dict.items()}
    for place, module in model.named_modules():
        if not isinstance(module, AuxiliaryTrainingWrapper):
            continue
        for stored, held in module.adapter_state_dict_load_map(name).items():
            if f"{place}.{held}" in report.missing_keys and f"{place}.{stored}" in state:
                with torch.no_grad():
                    module.get_parameter(held).copy_(state[f"{place}.{stored}"])
                report.missing_keys.discard(f"{place}.{held}")
                report.unexpected_keys.discard(f"{place}.{stored}")


def unsharded_class(kind: type) -> type:
    """The class of a model before `torch.distributed.fsdp.fully_shard` replaced it; `kind` itself where it did not."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported for those who do not shard
    sharded = getattr(fsdp, "FSDPModule", None)
    if sharded is None:
        return kind
    return next(base for base in kind.__mro__ if not issubclass(base, sharded))

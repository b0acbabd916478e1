# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Repairs when a model is loaded or saved: memory alignment, int8 layers, heads of adapters, sharded classes.

Called by `LFVilaPreTrainedModel`. None of it computes anything of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

CACHE_LINE = 64
"""Alignment in bytes of memory that PyTorch allocates itself."""


def align_weights(model: nn.Module) -> None:
    """Copy weights on the CPU to the start of a cache line.

    Loaded weights are views into a file at arbitrary bytes. The summation order of a matrix-vector product depends on
    the alignment, so without this a model would differ in its last bits after saving and loading. Quantised and
    offloaded weights are left alone.
    """
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.data_ptr() % CACHE_LINE:
            parameter.data = parameter.data.clone()


def flatten_int8_inputs(model: nn.Module) -> None:
    """Flatten inputs of bitsandbytes' int8 layers to rows: on a CPU they take at most three axes, windows have four."""
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.forward = partial(_call_on_rows, module.forward)


def _call_on_rows(layer: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
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
        model: Model that holds the adapter.
        adapter: Folder or repository of the adapter.
        name: Name of the adapter in the model.
        report: Report of its loading; heads that are found are removed from its missing keys.
        adapter_state_dict: Weights that replace those of `adapter`.
        adapter_kwargs: Download options.
        load_config: Options that `from_pretrained` was called with.
        **kwargs: Options that `load_adapter` was called with.
    """
    try:  # a checkpoint loads with torch and transformers alone
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
    """Return the class that a model had before `torch.distributed.fsdp.fully_shard` replaced it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # never imported here: it costs start-up time
    sharded = getattr(fsdp, "FSDPModule", None)
    if sharded is None:
        return kind
    return next(base for base in kind.__mro__ if not issubclass(base, sharded))

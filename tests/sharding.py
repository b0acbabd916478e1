"""FSDP 2 over gloo on CPUs, as `examples/accelerate_configs/fsdp2.yaml` asks for it.

accelerate offers FSDP to processes on accelerators only. PyTorch shards on CPUs too, so `fsdp_on_cpus` tells accelerate
to take this process for one of those; what then runs is its own preparation, with the fields of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.tensor import DTensor

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "examples" / "accelerate_configs"


def launch_environment(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file NAME.yaml` would tell the processes."""
    file = str(CONFIGURATIONS / f"{name}.yaml")
    with mock.patch.dict(os.environ, ACCELERATE_BYPASS_DEVICE_MAP="true"):
        arguments, *_ = _validate_launch_command(
            launch_command_parser().parse_args(["--config_file", file, "script.py"])
        )
        return prepare_multi_gpu_env(arguments)


@contextmanager
def fsdp_on_cpus() -> Iterator[None]:
    """Within it, several processes on CPUs shard what they train."""
    told = {
        key: value for key, value in launch_environment("fsdp2").items() if key.startswith(("FSDP_", "ACCELERATE_USE"))
    }
    plain = AcceleratorState.__init__

    def take_for_accelerators(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin or FullyShardedDataParallelPlugin()
            if self._mixed_precision != "no":
                self.fsdp_plugin.set_mixed_precision(self._mixed_precision)

    with (
        mock.patch.dict(os.environ, told, ACCELERATE_USE_CPU="true"),
        mock.patch.object(AcceleratorState, "__init__", take_for_accelerators),
    ):
        yield


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which each process has a part."""
    return value.full_tensor() if isinstance(value, DTensor) else value

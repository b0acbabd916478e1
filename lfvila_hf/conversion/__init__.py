"""Released checkpoints into `lfvila_hf` models: names, configuration, files, and an account of what was done."""

from __future__ import annotations

from lfvila_hf.conversion.checkpoints import convert_checkpoint
from lfvila_hf.conversion.names import TASKS
from lfvila_hf.conversion.original import config_from_original, read_original
from lfvila_hf.conversion.released import MappedCheckpoint, convert_state_dict, map_checkpoint
from lfvila_hf.conversion.report import ConversionReport

__all__ = [
    "TASKS",
    "ConversionReport",
    "MappedCheckpoint",
    "config_from_original",
    "convert_checkpoint",
    "convert_state_dict",
    "map_checkpoint",
    "read_original",
]

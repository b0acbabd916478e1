"""Conversion of released checkpoints, and initialisation from a Swin and a BERT."""

from __future__ import annotations

from lfvila_hf.conversion.checkpoints import convert_checkpoint
from lfvila_hf.conversion.original import config_from_original, read_original
from lfvila_hf.conversion.released import TASKS, MappedCheckpoint, convert_state_dict, map_checkpoint
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

"""Released checkpoints, and 2-D Swin with BERT, into `lfvila_hf` models."""

from __future__ import annotations

from lfvila_hf.conversion.released import TASKS, config_from_original, convert_state_dict

__all__ = ["TASKS", "config_from_original", "convert_state_dict"]

"""Training with the Hugging Face Trainer: arguments, optimisation recipe, trainer."""

from __future__ import annotations

from lfvila_hf.training.arguments import LFVilaTrainingArguments
from lfvila_hf.training.trainer import LFVilaTrainer

__all__ = ["LFVilaTrainer", "LFVilaTrainingArguments"]

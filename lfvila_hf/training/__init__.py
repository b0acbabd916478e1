"""Training on the Hugging Face Trainer: `LFVilaTrainer` and its arguments."""

from __future__ import annotations

from lfvila_hf.training.trainer import LFVilaTrainer
from lfvila_hf.training.training_arguments import LFVilaTrainingArguments

__all__ = ["LFVilaTrainer", "LFVilaTrainingArguments"]

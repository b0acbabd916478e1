# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`LFVilaTrainer` with the released schedules of all tasks."""

from __future__ import annotations

from typing import Any

import torch

from lfvila_hf.recipes.arguments import RecipeTrainingArguments
from lfvila_hf.training.trainer import LFVilaTrainer


class RecipeTrainer(LFVilaTrainer):
    """`LFVilaTrainer` whose learning rate follows `RecipeTrainingArguments.schedule`.

    Args:
        *args: as `LFVilaTrainer`.
        **kwargs: as `LFVilaTrainer`; `args` is a `RecipeTrainingArguments`.
    """

    args: RecipeTrainingArguments

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The released schedule over that many steps."""
        if self.lr_scheduler is None:
            schedule = self.args.released_schedule(num_training_steps)
            given: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(given, schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler


__all__ = ["RecipeTrainer"]

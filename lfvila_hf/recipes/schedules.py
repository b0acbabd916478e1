# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The released learning rate schedules by their own rules (`src/optimization/lr_scheduler.py` of the release).

Warm-up is linear from 0 and counted in epochs. After it:

- `linear`: down to 1 % at the end of the last epoch;
- `step`: times `decay_rate` every `decay_epochs`, counted from the beginning of training, not from the end of warm-up;
- `cosine`: half a cosine over all epochs, warm-up included, down to `min_lr`; so it goes on a little below the highest
  rate after the warm-up (timm's schedulers, which the release uses, have both).

Epochs are fractions of the run: a run that is cut to `max_steps` steps goes through all of the schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lfvila_hf.training.optimization import linear_factor

ScheduleName = Literal["linear", "step", "cosine"]


@dataclass(frozen=True)
class ReleasedSchedule:
    """Learning rate over its highest value, as a function of the step.

    Attributes:
        name: `"linear"`, `"step"` or `"cosine"`.
        total_steps: Optimizer steps of the whole run.
        epochs: Epochs of the whole run.
        warmup_epochs: Epochs of warm-up.
        decay_epochs: Epochs between two steps of `"step"`.
        decay_rate: What `"step"` multiplies by.
        min_ratio: Last rate over the highest of `"linear"` and `"cosine"`.
    """

    name: ScheduleName
    total_steps: int
    epochs: float
    warmup_epochs: float = 0.0
    decay_epochs: float = 1.0
    decay_rate: float = 1.0
    min_ratio: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what makes no schedule."""
        if self.name not in ("linear", "step", "cosine"):
            raise ValueError(f"schedule must be linear, step or cosine, got {self.name!r}")
        if self.total_steps < 1 or self.epochs <= 0 or not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"a schedule needs steps and 0 <= warmup_epochs < epochs, got {self.total_steps} steps, "
                f"{self.warmup_epochs} of {self.epochs} epochs"
            )
        if self.decay_epochs <= 0 or not 0 < self.decay_rate <= 1 or not 0 <= self.min_ratio <= 1:
            raise ValueError(
                f"decay_epochs={self.decay_epochs} must be positive, decay_rate={self.decay_rate} in (0, 1] and "
                f"min_ratio={self.min_ratio} in 0 to 1"
            )

    def steps_of(self, epochs: float) -> int:
        """Whole steps of that many epochs."""
        return int(epochs * self.total_steps / self.epochs)

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        warmup = self.steps_of(self.warmup_epochs)
        if self.name == "linear" or step < warmup:
            return linear_factor(step, warmup_steps=warmup, total_steps=self.total_steps, min_ratio=self.min_ratio)
        if self.name == "step":
            return self.decay_rate ** (step // max(self.steps_of(self.decay_epochs), 1))
        progress = min(step / self.total_steps, 1.0)
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2


__all__ = ["ReleasedSchedule", "ScheduleName"]

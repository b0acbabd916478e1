# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A callback of the Trainer by which all processes of a run agree on what was skipped: `SkipAgreement`.

At the end of every epoch each process hears what the others skipped, the ceiling is looked at with all of them counted,
so that all stop together or none does, and the number goes into the log as `skipped_samples`. At the end of the
training the main process logs the report.
"""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class SkipAgreement(TrainerCallback):
    """`Trainer(..., callbacks=[SkipAgreement()])`, for data sets that have `skips`: those of `data.datasets`."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Agree, and log how many.

        Raises:
            ValueError: On every process, where too many samples are skipped by all of them together.
        """
        skips = _skips_of(kwargs.get("train_dataloader"))
        if skips is None:
            return
        report = skips.agree()
        if state.is_world_process_zero and len(report):
            logger.warning("%d samples were skipped so far", len(report))
        state.log_history.append({"skipped_samples": len(report), "epoch": state.epoch or 0, "step": state.global_step})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the report."""
        skips = _skips_of(kwargs.get("train_dataloader"))
        if skips is not None and state.is_world_process_zero:
            report = skips.report()
            logger.log(logging.WARNING if len(report) else logging.INFO, "%s", report)


def _skips_of(loader: Any) -> Any:
    """The policy of the data set that a loader reads, if it has one."""
    return getattr(getattr(loader, "dataset", None), "skips", None)


__all__ = ["SkipAgreement"]

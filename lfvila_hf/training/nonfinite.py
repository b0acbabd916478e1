# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A loss that is not finite stops the run, names the batch's samples, and leaves behind what is needed to look.

`OUTPUT/nonfinite/step-N-process-R/` holds `report.json` (step, loss, terms, sample ids, which inputs and weights are
not finite), `batch.pt` (the inputs and the random state that the step began with) and the weights as they were before
the step, so that the forward can be repeated. Gradients that are not finite are another matter: with float16 they are
expected now and then, and the Trainer's loss scaling passes over such a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lfvila_hf.training.caching import RandomState


class NonFiniteLossError(ValueError):
    """The loss of a batch is not finite.

    Attributes:
        folder: where the batch and the weights are.
        sample_ids: samples of the batch, as far as known.
    """

    def __init__(self, message: str, folder: Path, sample_ids: list[str] | None) -> None:
        super().__init__(message)
        self.folder = folder
        self.sample_ids = sample_ids


def stop(
    folder: Path,
    *,
    step: int,
    process: int,
    loss: torch.Tensor,
    terms: Mapping[str, float],
    inputs: Mapping[str, Any],
    sample_ids: list[str] | None,
    random_state: RandomState,
    model: Any,
) -> None:
    """Save everything and raise.

    Args:
        folder: the run's output folder.
        step: optimisation steps done before.
        process: rank.
        loss: what is not finite.
        terms: means of the loss's terms since the last log entry, the bad batch among them.
        inputs: keyword arguments of the model.
        sample_ids: names of the batch's samples.
        random_state: as it was before the forward.
        model: to save its weights; left out where no process has them all.

    Raises:
        NonFiniteLossError: always.
    """
    place = folder / "nonfinite" / f"step-{step}-process-{process}"
    place.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu() for name, value in inputs.items() if torch.is_tensor(value)}
    state = {"cpu": random_state.cpu, "accelerator": random_state.accelerator}
    torch.save({"inputs": tensors, "sample_ids": sample_ids, "random_state": state}, place / "batch.pt")
    bad_inputs = [name for name, value in tensors.items() if not value.isfinite().all()]
    bad_weights = [] if model is None else [n for n, p in model.named_parameters() if not p.isfinite().all()]
    report = {
        "step": step,
        "process": process,
        "loss": str(loss.item()),
        "terms": {name: str(value) for name, value in terms.items()},
        "sample_ids": sample_ids,
        "inputs_not_finite": bad_inputs,
        "weights_not_finite": bad_weights,
    }
    (place / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if model is not None and hasattr(model, "save_pretrained"):
        model.save_pretrained(place)
    who = "unknown (an LFVilaCollator names them)" if sample_ids is None else ", ".join(sample_ids)
    what = f"inputs that are not finite: {bad_inputs or 'none'}, weights: {len(bad_weights)}"
    raise NonFiniteLossError(
        f"the loss of step {step} is {loss.item()}, expected a finite number; samples of the batch: {who}; {what}; "
        f"batch, random state and weights are in {place}",
        place,
        sample_ids,
    )


__all__ = ["NonFiniteLossError", "stop"]

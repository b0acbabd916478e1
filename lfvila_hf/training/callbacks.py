# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Reports of a training run: throughput, progress bar, non-finite losses, model card.

`ThroughputCallback` adds to the Trainer's log, and so to TensorBoard, Weights & Biases, trackio or any other callback:

| key | meaning |
|---|---|
| `frames_per_second` | frames of all processes over the time of their steps, waiting included |
| `decode_wait_seconds` | seconds that a step waited for its batches, mean over steps and processes |
| `mfu` | model FLOPs a second over the device's peak, with `peak_tflops` |

The time of evaluations and checkpoints does not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from lfvila_hf.hub.cards import CardFacts, model_card
from lfvila_hf.training.global_batch_losses import RandomState

if TYPE_CHECKING:
    from transformers import Trainer

SHORT_NAMES = {
    "loss": "loss",
    "global_loss": "global",
    "mtc_loss": "mtc",
    "mlm_loss": "mlm",
    "vtm_loss": "vtm",
    "span_loss": "span",
    "grad_norm": "norm",
    "frames_per_second": "frames/s",
}
"""Entries of the log that the progress bar shows, and their labels."""

RUN_METRICS = ("_runtime", "_per_second", "epoch", "step", "_preparation_time")
"""Endings of entries of an evaluation that describe the run and not the model."""


class ThroughputCallback(TrainerCallback):
    """Counter of frames, seconds and FLOPs of training steps.

    Args:
        peak_tflops: Peak of one device in 10^12 operations a second. Defaults to no FLOPs being counted.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._flops_by_shape: dict[tuple[Any, ...], int] = {}
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.frames = self.flops = self.steps = 0
        self.seconds = self.waited = 0.0
        self._began: float | None = None

    def begin_step(self) -> None:
        """Start the clock of a step, which begins by waiting for its batches."""
        self._began = time.perf_counter()

    def end_waiting(self) -> None:
        """Record that the batches have arrived."""
        if self._began is not None:
            self.waited += time.perf_counter() - self._began

    def record_batch(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        """Count the frames and FLOPs of a batch.

        Args:
            model: Model without wrappers for several processes.
            inputs: Its keyword arguments.
        """
        videos = inputs.get("pixel_values_videos")
        if videos is None:
            return
        self.frames += videos.shape[0] * videos.shape[1]
        if self.peak_tflops is not None:
            tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
            shape = tuple((name, tuple(value.shape[1:])) for name, value in tensors.items())
            if shape not in self._flops_by_shape:
                one = {name: value[:1] for name, value in tensors.items()}
                self._flops_by_shape[shape] = flops_of_step(model, one)
            self.flops += self._flops_by_shape[shape] * videos.shape[0]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock of a step."""
        self.steps += 1
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
        self._began = None

    def report(self, accelerator: Any) -> dict[str, float]:
        """Compute the rates since the last report. Every process must call it; all get the same rates."""
        own = torch.tensor(
            [self.frames, self.seconds, self.waited, self.flops / 1e12], dtype=torch.float32, device=accelerator.device
        )
        if accelerator.num_processes > 1:
            own = accelerator.reduce(own, "mean")
        frames, seconds, waited, tflops = own.tolist()
        steps, began = self.steps, self._began
        self.reset()
        self._began = began
        if not steps or seconds <= 0:
            return {}
        rates = {
            "frames_per_second": frames * accelerator.num_processes / seconds,
            "decode_wait_seconds": waited / steps,
        }
        if self.peak_tflops is not None and tflops > 0:
            rates["mfu"] = tflops / seconds / self.peak_tflops
        return rates


def flops_of_step(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Count the FLOPs of the matrix products of forward and backward, in one pass over tensors without storage.

    Frozen weights have no weight gradients. Recomputation by checkpointing or gradient caching does not count.

    Args:
        model: Model without wrappers for several processes.
        inputs: Keyword arguments, on any device; only shapes matter.
    """
    state = {name: value.detach().to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    for name, parameter in model.named_parameters():
        state[name].requires_grad_(parameter.requires_grad)
    shapes = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in inputs.items()}
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in checkpointed:
        module.gradient_checkpointing = False  # type: ignore[assignment]  # a flag of transformers' layers
    try:
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            # With states of layers, text runs on all its columns: which of them are padding cannot be looked at here.
            fixed = {"return_loss": False, "output_hidden_states": True}
            outputs = functional_call(model, state, (), {**shapes, **fixed})
            sums = [value.float().sum() for value in outputs.values() if torch.is_tensor(value) and value.requires_grad]
            torch.stack(sums).sum().backward()
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True  # type: ignore[assignment]  # as above
    return int(counter.get_total_flops())


class LossTermsProgressCallback(ProgressCallback):
    """Progress bar of transformers that also shows the loss terms. Other log entries are lines above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show a log entry."""
        bar: Any = self.training_bar
        if bar is not None and logs and "loss" in logs:
            shown = {short: f"{logs[name]:.4g}" for name, short in SHORT_NAMES.items() if name in logs}
            bar.set_postfix(shown)
        else:
            super().on_log(args, state, control, logs=logs, **kwargs)


class NonFiniteLossError(ValueError):
    """Error for a loss that is NaN or infinite.

    Attributes:
        folder: Folder with the batch and the weights.
        sample_ids: Samples of the batch, if known.
    """

    def __init__(self, message: str, folder: Path, sample_ids: list[str] | None) -> None:
        super().__init__(message)
        self.folder = folder
        self.sample_ids = sample_ids


def dump_and_raise(
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
    """Save a batch whose loss is not finite, with everything needed to repeat its forward, and raise.

    Writes `folder/nonfinite/step-N-process-R/`: `report.json` (step, loss, terms, sample ids, inputs and weights that
    are not finite), `batch.pt` (the inputs, and the random state that the step began with) and the weights before the
    step. Gradients that are not finite never come here: with float16 they are expected now and then, and the loss
    scaler skips such a step.

    Args:
        folder: Output folder of the run.
        step: Optimizer steps before this one.
        process: Rank of this process.
        loss: The loss.
        terms: Means of the loss terms since the last log entry, this batch included.
        inputs: Keyword arguments of the model.
        sample_ids: Ids of the batch's samples.
        random_state: Random state before the forward.
        model: Model to save; `None` if no process has all of its weights.

    Raises:
        NonFiniteLossError: Always.
    """
    target = folder / "nonfinite" / f"step-{step}-process-{process}"
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu() for name, value in inputs.items() if torch.is_tensor(value)}
    state = {"cpu": random_state.cpu, "accelerator": random_state.accelerator}
    torch.save({"inputs": tensors, "sample_ids": sample_ids, "random_state": state}, target / "batch.pt")
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
    (target / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if model is not None and hasattr(model, "save_pretrained"):
        model.save_pretrained(target)
    samples = "unknown (an LFVilaCollator names them)" if sample_ids is None else ", ".join(sample_ids)
    found = f"inputs that are not finite: {bad_inputs or 'none'}, weights: {len(bad_weights)}"
    raise NonFiniteLossError(
        f"the loss of step {step} is {loss.item()}, expected a finite number; samples of the batch: {samples}; "
        f"{found}; batch, random state and weights are in {target}",
        target,
        sample_ids,
    )


def training_card(
    trainer: Trainer,
    datasets: Sequence[str],
    license: str | None,
    base_model: str | None,
    repository: str | None,
) -> str:
    """Write the model card of a training run, with the last evaluation as its metrics.

    Args:
        trainer: The trainer, after training.
        datasets: Datasets that it trained and was evaluated on.
        license: License of the weights.
        base_model: Model that training started from. Defaults to the repository that the model was loaded from.
        repository: Name of the repository if `hub_model_id` names none. Defaults to the output folder's name.

    Returns:
        The card in Markdown.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    adapter = hasattr(model, "peft_config")
    base = model.get_base_model() if adapter else model
    started = base_model or str(getattr(base.config, "_name_or_path", "") or "")
    facts = CardFacts(
        datasets=list(datasets),
        license=license,
        base_model=started if started and not Path(started).exists() else None,
        metrics=last_evaluation(trainer.state.log_history),
        evaluated_on=datasets[0] if len(datasets) == 1 else None,
    )
    if adapter:
        facts.base_model = facts.base_model or model.peft_config["default"].base_model_name_or_path
    config = base.config.to_dict() | {"architectures": [type(base).__name__]}
    state, args = trainer.state, trainer.args
    lines = [
        f"{state.global_step} steps, {state.epoch or 0:.2f} epochs of at most {args.num_train_epochs:g}, "
        f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size} pairs a step, "
        f"learning rate {args.learning_rate:g}, weight decay {args.weight_decay:g}, seed {args.seed}."
    ]
    repo = trainer.hub_model_id or repository or Path(str(args.output_dir)).resolve().name
    return model_card(repo, config, facts, lines, adapter)


def last_evaluation(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of the last evaluation in a Trainer's log, without the prefix `eval_`."""
    evaluations = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    if not evaluations:
        return {}
    return {
        name.removeprefix("eval_"): value
        for name, value in evaluations[-1].items()
        if name.startswith("eval_") and not name.endswith(RUN_METRICS)
    }


__all__ = [
    "LossTermsProgressCallback",
    "NonFiniteLossError",
    "ThroughputCallback",
    "dump_and_raise",
    "flops_of_step",
    "last_evaluation",
    "training_card",
]

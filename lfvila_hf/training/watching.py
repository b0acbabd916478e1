# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What a run tells about itself besides its losses: speed, waiting, skipped samples, arithmetic use; a progress bar.

Everything goes into the Trainer's own log, and so to TensorBoard, Weights & Biases, trackio or any other callback:

| key | meaning |
|---|---|
| `frames_per_second` | frames of all processes over the time of their steps, waiting included |
| `decode_wait_seconds` | seconds a step waited for its batches, mean over steps and processes |
| `skipped_samples` | samples that the data set has left out so far |
| `temperature` | of the global term; fixed in LF-VILA |
| `mfu` | model FLOPs a second over the device's peak, for devices whose peak is known |

`grad_norm` and `learning_rate` are the Trainer's. Time of evaluations and checkpoints is not counted. FLOPs are those
of the matrix products of forward and backward as the model needs them: what is frozen has no weight gradients, what
checkpointing or gradient caching computes twice counts once. One pass over tensors without storage counts them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)

PEAK_TFLOPS = {
    "A100": (312.0, 19.5),
    "A10": (125.0, 31.2),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "L4": (121.0, 30.3),
    "L40S": (362.0, 91.6),
    "V100": (125.0, 15.7),
}
"""Dense peaks from NVIDIA's data sheets in 10^12 operations a second: tensor cores in half precision, then float32."""


def peak_tflops(device: torch.device, half_precision: bool) -> float | None:
    """Peak of a device by its name, `None` where it is not known (a CPU, a device that is not listed)."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next((peaks[not half_precision] for name, peaks in PEAK_TFLOPS.items() if name in words), None)


def flops_of_step(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """FLOPs of forward and backward of `model`, without what checkpointing would compute again.

    Args:
        model: not wrapped for several processes.
        inputs: keyword arguments, with tensors of any device; only shapes matter.
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
            outputs = functional_call(model, state, (), {**shapes, "return_loss": False})
            sums = [value.float().sum() for value in outputs.values() if torch.is_tensor(value) and value.requires_grad]
            torch.stack(sums).sum().backward()
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True  # type: ignore[assignment]  # as above
    return int(counter.get_total_flops())


class Watcher(TrainerCallback):
    """Counts frames, seconds and FLOPs of steps, and says what they come to since the last time.

    Args:
        peak: arithmetic peak of this process's device in 10^12 operations a second, where known.
    """

    def __init__(self, peak: float | None = None) -> None:
        self.peak = peak
        self._flops_by_shape: dict[tuple[Any, ...], int] = {}
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.frames = self.flops = self.steps = 0
        self.seconds = self.waited = 0.0
        self._began: float | None = None

    def begin_step(self) -> None:
        """A step begins to wait for its batches."""
        self._began = time.perf_counter()

    def end_waiting(self) -> None:
        """The batches are there."""
        if self._began is not None:
            self.waited += time.perf_counter() - self._began

    def saw(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        """A batch is trained on."""
        videos = inputs.get("pixel_values_videos")
        if videos is None:
            return
        self.frames += videos.shape[0] * videos.shape[1]
        if self.peak is not None:
            tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
            shape = tuple((name, tuple(value.shape[1:])) for name, value in tensors.items())
            if shape not in self._flops_by_shape:
                one = {name: value[:1] for name, value in tensors.items()}
                self._flops_by_shape[shape] = flops_of_step(model, one)
            self.flops += self._flops_by_shape[shape] * videos.shape[0]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimiser has stepped."""
        self.steps += 1
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
        self._began = None

    def report(self, accelerator: Any) -> dict[str, float]:
        """Rates since the last report; every process must call it, and all get the same."""
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
        if self.peak is not None and tflops > 0:
            rates["mfu"] = tflops / seconds / self.peak
        return rates


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
"""What the bar shows, and under which name."""


class TermsProgressCallback(ProgressCallback):
    """transformers' progress bar with the loss's terms on it; other entries of the log are lines above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show a log entry."""
        bar: Any = self.training_bar
        if bar is not None and logs and "loss" in logs:
            shown = {short: f"{logs[name]:.4g}" for name, short in SHORT_NAMES.items() if name in logs}
            bar.set_postfix(shown)
        else:
            super().on_log(args, state, control, logs=logs, **kwargs)


__all__ = ["TermsProgressCallback", "Watcher", "flops_of_step", "peak_tflops"]

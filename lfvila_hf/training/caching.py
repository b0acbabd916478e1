# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Gradient caching: the exact contrastive gradient of a batch of any size in the memory of a small chunk.

A contrastive loss needs the features of the whole batch at once, but not their graphs (Gao et al., "Scaling deep
contrastive learning batch size under memory limited setup", 2021). So

1. every chunk is encoded without a graph; of the last chunk the graph is kept, for it would only be made again;
2. the loss of the whole batch (of all processes, if there are several) is made from the features alone, and with it
   the gradient of every feature;
3. chunk by chunk, features are made again with a graph, from the random state that they were made with the first time,
   so that dropout and stochastic depth drop the same things; their gradients then go backward into the parameters.

Memory: the graph of one chunk, the features of the batch (`B x (2 + M + K) x D`), one random state per chunk. Time: one
forward more for all chunks but one (`benchmarks/contrastive_time.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lfvila_hf.training.objectives import FEATURES

Inputs = dict[str, Any]


class RandomState:
    """The state of torch's generators that a forward draws from: the CPU's, and that of the device it runs on.

    Args:
        device: the device that the model is on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.backend: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self.accelerator = None if self.backend is None else self.backend.get_rng_state(device)

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        if self.backend is not None:
            self.backend.set_rng_state(self.accelerator, self.device)


def number_of_chunks(sizes: tuple[int, ...], chunk_size: int) -> int:
    """How many chunks every process makes of its rows.

    The same number on all processes, because wrapped models (FSDP, DeepSpeed) communicate in every forward.

    Args:
        sizes: rows of every process.
        chunk_size: rows of a chunk, at most; more only if some process has too few rows for as many chunks.
    """
    return min(-(-max(sizes) // chunk_size), min(sizes))


def split_inputs(inputs: Mapping[str, Any], chunks: int) -> list[Inputs]:
    """Cut a batch into nearly equal parts.

    Args:
        inputs: keyword arguments of a model; tensors have B rows, anything else goes to every part as it is.
        chunks: how many parts.
    """
    rows = len(inputs["pixel_values_videos"])
    parts: list[Inputs] = [{} for _ in range(chunks)]
    for name, value in inputs.items():
        is_split = torch.is_tensor(value) and value.ndim > 0 and len(value) == rows
        pieces = value.tensor_split(chunks) if is_split else [value] * chunks
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece
    return parts


def features_of(outputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the contrastive terms need of a model's outputs."""
    return {name: outputs[name] for name in FEATURES if outputs.get(name) is not None}


def cached_backward(
    forward: Callable[..., Mapping[str, Any]],
    chunks: list[Inputs],
    loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    deferred: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """Add the gradient of `loss_of(features of all chunks)` to the parameters behind `forward`.

    Args:
        forward: encodes the keyword arguments of one chunk; a model that returns embeddings and no loss.
        chunks: from `split_inputs`.
        loss_of: the loss of the features of the whole batch.
        backward: runs a scalar's backward pass; where there is loss scaling, it scales.
        deferred: a context for all passes but the last, in which gradients are not reduced over processes yet.

    Returns:
        The loss, detached.
    """
    device = chunks[0]["pixel_values_videos"].device
    last = len(chunks) - 1
    states: list[RandomState] = []
    found: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for chunk in chunks[:-1]:
            states.append(RandomState(device))
            found.append(features_of(forward(**chunk)))
    torch.clear_autocast_cache()  # weights that were cast without a graph must not serve the passes that need one
    with deferred() if last else nullcontext():
        kept = features_of(forward(**chunks[-1]))
    found.append(kept)
    after = RandomState(device)

    whole = {name: torch.cat([part[name].detach() for part in found]) for name in kept}  # (b, ...)
    leaves = {name: value.requires_grad_() for name, value in whole.items() if value.is_floating_point()}
    with torch.enable_grad():
        loss = loss_of(whole)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    by_chunk = _split_gradients(dict(zip(leaves, gradients, strict=True)), found)

    with deferred() if last else nullcontext():
        backward(_surrogate(kept, by_chunk[-1]))
    del kept
    found.clear()
    for number, (chunk, state) in enumerate(zip(chunks[:-1], states, strict=True), start=1):
        state.restore()
        with deferred() if number < last else nullcontext():
            backward(_surrogate(features_of(forward(**chunk)), by_chunk[number - 1]))
    after.restore()
    return loss.detach()


def _split_gradients(
    gradients: Mapping[str, torch.Tensor | None], found: list[dict[str, torch.Tensor]]
) -> list[dict[str, torch.Tensor]]:
    """The gradients of the whole batch's features, cut as the chunks were."""
    sizes = [len(part["text_embeds"]) for part in found]
    parts: list[dict[str, torch.Tensor]] = [{} for _ in found]
    for name, gradient in gradients.items():
        if gradient is not None:
            for part, piece in zip(parts, gradient.split(sizes), strict=True):
                part[name] = piece
    return parts


def _surrogate(features: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A scalar whose gradient is that of the loss: features times their gradients, summed."""
    return torch.stack([(features[name] * gradient).sum() for name, gradient in gradients.items()]).sum()


__all__ = ["RandomState", "cached_backward", "features_of", "number_of_chunks", "split_inputs"]

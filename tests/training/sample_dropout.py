"""Dropout that drops the same things of a sample whatever batch the sample is in, to compare batches of other shapes.

torch draws one mask for the whole tensor, so that a sample's mask depends on its neighbours in the batch. Under
`SampleDropout` every number is a hash of the paragraph's tokens, of how many draws the forward made before it, and of
the place in the sample; everything else of dropout is torch's. It needs tensors that begin with their samples, which
all of the model's are, and eager attention, whose dropout is not inside a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lfvila_hf.loss_lfvila import random_keys


class SampleDropout(TorchFunctionMode):
    """While active, `F.dropout` and `torch.rand` inside forwards of `model` give numbers that belong to samples."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.draws = 0
        self.dropped = 0
        self._keys: torch.Tensor | None = None
        self._calls = 0
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end)

    def _begin(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"].flatten(1)
        self._keys = (ids * torch.arange(1, ids.shape[1] + 1)).sum(1)  # (B,)
        self._calls = 0

    def _end(self, *_: Any) -> None:
        self._keys = None

    def _uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        assert self._keys is not None and shape[0] % len(self._keys) == 0
        self._calls += 1
        self.draws += 1
        count = torch.Size(shape).numel() // len(self._keys)
        return (random_keys(self._calls, 0, self._keys, count, 7) / 2**32).view(shape).float()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._keys is not None and function is F.dropout:
            values, rate, training = (*args, *kwargs.values())[:3]
            if not training or rate == 0:
                return values
            kept = self._uniform(tuple(values.shape)) >= rate
            self.dropped += int((~kept).sum())
            return values * kept / (1 - rate)
        if self._keys is not None and function is torch.rand:
            return self._uniform(tuple(args[0]))
        return function(*args, **kwargs)

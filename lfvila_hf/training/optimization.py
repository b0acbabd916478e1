# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What is decayed, and how the learning rate moves (released `src/optimization/optimizer.py` and `lr_scheduler.py`).

The released code keeps weight decay off biases, BERT's norms, relative position tables and video token positions.
Norms of the video tower are decayed there, by an oversight of names; here no norm is.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

# Parameters that are looked up by position; the released names are `relative_position_bias_table` and `*_pos_embed`.
POSITION_TABLES = ("relative_position_bias_table", "spatial_position_embeddings", "temporal_position_embeddings")


def decayed_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to: matrices and kernels that are no position table."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name.rpartition(".")[2] not in POSITION_TABLES
    ]


def linear_factor(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Learning rate at `step` over its highest value: linear from 0 in the warm-up, then linear down to `min_ratio`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - (1.0 - min_ratio) * min(1.0, progress)


def linear_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, min_ratio: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """The released linear schedule; see `linear_factor`."""
    factor = partial(linear_factor, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The batch of all processes: who holds which rows, features gathered with their gradients, a neighbour's video.

A contrastive term compares every pair of the batch of all processes (DESIGN: paper section 3.3, batch 512 over 32
devices). Each process keeps the rows of its own pairs and sees the features of all others as columns. A gathered
feature carries its gradient back to the process that made it: the gradients of all processes are added there. Under
`DistributedDataParallel`, which averages parameter gradients over processes, each process therefore multiplies its
share of a term by their number (`objectives.py`).

Batches may be uneven (the end of an epoch, skipped samples). Memory: features of the whole batch, `B x n x D`, and
pictures of one more video while pairs are mismatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from lfvila_hf.loss_lfvila import mismatched_pairs


@dataclass(frozen=True)
class GlobalBatch:
    """How many rows each process holds of one batch, in the order of the processes.

    Attributes:
        sizes: rows of every process.
        rank: this process.
    """

    sizes: tuple[int, ...]
    rank: int = 0

    @property
    def rows(self) -> int:
        """Rows of this process."""
        return self.sizes[self.rank]

    @property
    def first(self) -> int:
        """Place of this process's first row in the whole batch."""
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        """B, rows of the whole batch."""
        return sum(self.sizes)

    @property
    def processes(self) -> int:
        """Number of processes."""
        return len(self.sizes)

    def gather(self, local: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, `(B, ...)`, with gradients, from the `(b, ...)` of each.

        Every process must call it, with tensors that differ in their first axis only.
        """
        return local if self.processes == 1 else _Gather.apply(local, self)

    def sum(self, local: torch.Tensor) -> torch.Tensor:
        """Sum over processes, without a gradient."""
        if self.processes == 1:
            return local.detach()
        total = local.detach().clone()
        dist.all_reduce(total)
        return total


def global_batches(rows: Sequence[int], device: torch.device | str | None = None) -> list[GlobalBatch]:
    """Say what the batches of an optimisation step are, given the rows that this process holds of each.

    Every process must call it with as many numbers.

    Args:
        rows: b of every batch of the step.
        device: where the process group's backend wants its tensors.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [GlobalBatch((count,)) for count in rows]
    mine = torch.tensor(rows, dtype=torch.int64, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    sizes = torch.stack(parts, 1).tolist()  # batches x processes
    return [GlobalBatch(tuple(of_one), dist.get_rank()) for of_one in sizes]


class _Gather(torch.autograd.Function):
    """Concatenate the rows of all processes; the gradient of a row is the sum of what all processes ask of it."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, batch: GlobalBatch) -> torch.Tensor:
        ctx.batch = batch
        padded = local.new_zeros((max(batch.sizes), *local.shape[1:]))
        padded[: batch.rows] = local
        parts = [torch.empty_like(padded) for _ in batch.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, batch.sizes, strict=True)])  # (B, ...)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        batch: GlobalBatch = ctx.batch
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[batch.first : batch.first + batch.rows], None


def mismatched_videos(videos: torch.Tensor, batch: GlobalBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the texts of the first half of the whole batch their neighbour's video (`loss_lfvila.mismatched_pairs`).

    Neighbours are next to each other, so that a process needs at most one video of another one.

    Args:
        videos: of this process, `(b, T, 3, H, W)`.
        batch: the whole batch.

    Returns:
        The videos that go with this process's texts, and `vtm_targets` `(b,)`: 0 for mismatched, 1 for matched.
    """
    index, targets = mismatched_pairs(batch.total)
    ends = [sum(batch.sizes[: rank + 1]) for rank in range(batch.processes)]
    owner = [next(rank for rank, end in enumerate(ends) if row < end) for row in range(batch.total)]
    mine = range(batch.first, batch.first + batch.rows)
    received: dict[int, torch.Tensor] = {}
    exchanges = []
    for row, wanted in enumerate(index.tolist()):
        if owner[row] == owner[wanted]:
            continue
        if owner[row] == batch.rank:
            received[wanted] = torch.empty_like(videos[0])
            exchanges.append(dist.P2POp(dist.irecv, received[wanted], owner[wanted]))
        elif owner[wanted] == batch.rank:
            exchanges.append(dist.P2POp(dist.isend, videos[wanted - batch.first].contiguous(), owner[row]))
    if exchanges:
        for request in dist.batch_isend_irecv(exchanges):
            request.wait()
    paired = [received[one] if one in received else videos[one - batch.first] for one in index[mine].tolist()]
    return torch.stack(paired), targets[mine].to(videos.device)


__all__ = ["GlobalBatch", "global_batches", "mismatched_videos"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Samplers of training batches: rows of equal length, and each process its share of every batch.

A long video made of 6 clips and one made of 8 cannot share a tensor. Padding time would put invented frames into
attention windows, so `EqualLengthSampler` groups rows: every run of `block_size` indices is of one length, and blocks
come in random order. Rows that do not fill a block wait for the next epoch, which has another order.

`ShareBatchSampler` cuts every batch into shares of the processes, also the last one of an epoch. Filling that one up
with rows from the beginning, as accelerate does, would put a video into one batch twice, as its own false negative.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

logger = logging.getLogger(__name__)


class EqualLengthSampler(torch.utils.data.Sampler[int]):
    """Sampler of random row numbers in blocks of equal length.

    Lengths that have fewer rows than a block are never drawn; a warning names them.

    Args:
        lengths: Length of each row.
        block_size: Rows of a block: the batch size times the number of processes that share a batch.
        seed: Seed of the order; the order of an epoch is a function of seed and epoch alone.

    Raises:
        ValueError: `block_size` is below 1, or no length has enough rows for a block.
    """

    def __init__(self, lengths: Sequence[int], block_size: int, seed: int = 0) -> None:
        if block_size < 1:
            raise ValueError(f"block_size must be positive, got {block_size}")
        groups: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate(lengths):
            groups[length].append(row)
        self.groups = [torch.tensor(rows) for _, rows in sorted(groups.items())]
        self.block_size = block_size
        self.seed = seed
        self.epoch = 0
        if len(self) == 0:
            largest = max((len(rows) for rows in self.groups), default=0)
            raise ValueError(f"a block needs {block_size} rows of one length, there are at most {largest}")
        rare = {length: len(rows) for length, rows in sorted(groups.items()) if len(rows) < block_size}
        if rare:
            counts = ", ".join(f"{count} of length {length}" for length, count in rare.items())
            logger.warning(
                "rows that do not fill a batch of %d of their length are never drawn: %s", block_size, counts
            )

    def __len__(self) -> int:
        return sum(len(rows) // self.block_size for rows in self.groups) * self.block_size

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        blocks = []
        for rows in self.groups:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            blocks += [block for block in shuffled.split(self.block_size) if len(block) == self.block_size]
        for number in torch.randperm(len(blocks), generator=generator).tolist():
            yield from blocks[number].tolist()


class ShareBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batch sampler for one of several processes; the global batch is cut into contiguous shares.

    With one process this is torch's `BatchSampler`. The last batch is shared evenly: sizes differ by one at most. If it
    has fewer rows than there are processes, it is left out of the epoch.

    Args:
        sampler: Row numbers, the same on every process.
        batch_size: Rows of a full batch that one process gets.
        processes: Number of processes that share a batch.
        rank: Number of this process.
        drop_last: Leave out a last batch that is not full.
        dataset: Data set whose `set_epoch`, if it has one, is called together with the sampler's.

    Raises:
        ValueError: `batch_size` is below 1, or `rank` is not below `processes`.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        processes: int = 1,
        rank: int = 0,
        drop_last: bool = False,
        dataset: Any = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if not 0 <= rank < processes:
            raise ValueError(f"rank must lie in 0 to {processes - 1}, got {rank}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.processes = processes
        self.rank = rank
        self.drop_last = drop_last
        self.dataset = dataset

    @property
    def left_out(self) -> int:
        """Number of rows at the end of an epoch that are in no batch."""
        rest = len(self.sampler) % (self.batch_size * self.processes)
        return rest if self.drop_last or rest < self.processes else 0

    def __len__(self) -> int:
        together = self.batch_size * self.processes
        return -(-(len(self.sampler) - self.left_out) // together)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        for listener in (self.sampler, self.dataset):
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        together = self.batch_size * self.processes
        rows: list[int] = []
        for row in self.sampler:
            rows.append(row)
            if len(rows) == together:
                yield rows[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
                rows = []
        if rows and not self.drop_last and len(rows) >= self.processes:
            share, larger = divmod(len(rows), self.processes)
            start = self.rank * share + min(self.rank, larger)
            yield rows[start : start + share + (self.rank < larger)]

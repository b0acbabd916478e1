# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Batches of rows of one length: `EqualLengthSampler`.

A long video made of 6 clips and one made of 8 cannot share a tensor. Padding time would put invented frames into
attention windows; so rows are grouped instead: every run of `block_size` indices that the sampler gives is of one
length, blocks come in random order, and what does not fill a block waits for the next epoch, whose order is another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch


class EqualLengthSampler(torch.utils.data.Sampler[int]):
    """Random row numbers in blocks of equal length.

    Args:
        lengths: length of each row.
        block_size: rows of a block: the batch size times the number of processes that share a batch.
        seed: seed of the order; the order of an epoch is a function of seed and epoch alone.

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

    def __len__(self) -> int:
        return sum(len(rows) // self.block_size for rows in self.groups) * self.block_size

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; the Trainer does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        blocks = []
        for rows in self.groups:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            blocks += [block for block in shuffled.split(self.block_size) if len(block) == self.block_size]
        for number in torch.randperm(len(blocks), generator=generator).tolist():
            yield from blocks[number].tolist()

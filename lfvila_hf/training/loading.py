# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The training loader of `LFVilaTrainer`: every process its share of every batch, the epoch known to all who ask.

accelerate's own sharding is not used, for three reasons: it fills up the last batch with rows from the beginning,
which a contrastive loss takes for false negatives; a run that is resumed within a later epoch does not hear of that
epoch (the order of rows or the augmentation would be those of the first one); and every process would read all of a
stream.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader, RandomSampler, Sampler
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from lfvila_hf.data.sampling import ShareBatchSampler
from lfvila_hf.data.streaming import PASSED_OVER, ResumableStream

logger = logging.get_logger(__name__)


def row_order(sampler: Any, seed: int) -> Any:
    """A random sampler as one whose order is a function of seed and epoch alone; any other sampler as it is."""
    if type(sampler) is RandomSampler:
        return SeedableRandomSampler(sampler.data_source, data_seed=seed)
    return sampler


def training_loader(dataset: Any, sampler: Sampler[int], batch_size: int, collator: Any, args: Any) -> DataLoader:
    """A loader of this process's shares of batches of rows.

    Args:
        dataset: map-style, with whatever samples `collator` takes.
        sampler: row numbers of an epoch; a random one is made reproducible.
        batch_size: rows that this process has of a full batch.
        collator: samples to a batch.
        args: training arguments; `dataloader_*`, seeds and the place of this process are read.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    batches = ShareBatchSampler(
        row_order(sampler, seed),
        batch_size,
        args.world_size,
        args.process_index,
        args.dataloader_drop_last,
        dataset,
    )
    if batches.left_out and not args.dataloader_drop_last:
        logger.warning(
            "%d rows at the end of every epoch are left out: they are fewer than the %d processes that share a batch",
            batches.left_out,
            args.world_size,
        )
    return _prepared(DataLoader(dataset, batch_sampler=batches, **_options(collator, args)), args)


def stream_loader(stream: ResumableStream, batch_size: int, collator: Any, args: Any, batches_done: int) -> DataLoader:
    """A loader of this process's part of a stream.

    Args:
        stream: of all processes.
        batch_size: rows that this process has of a batch.
        collator: samples to a batch.
        args: training arguments.
        batches_done: batches of this process that a resumed run has trained on; they come first, empty and at once.
    """
    part = stream.for_process(args.process_index, args.world_size)
    part.fast_forward(batches_done, batch_size)
    options = _options(_PassingOver(collator), args)
    if options["num_workers"] > part.num_shards:
        logger.warning(
            "%d loader workers, because the stream has only %d shards for this process and not the %d asked for",
            part.num_shards,
            part.num_shards,
            options["num_workers"],
        )
        options["num_workers"] = part.num_shards
    return _prepared(DataLoader(part, batch_size=batch_size, drop_last=True, **options), args)


class _PassingOver:
    """A collator that makes nothing of what a resumed run has trained on."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: list[Any]) -> Any:
        return {} if isinstance(samples[0], str) and samples[0] == PASSED_OVER else self.collator(samples)


def _options(collator: Any, args: Any) -> dict[str, Any]:
    """What the arguments say about a loader."""
    options = {
        "collate_fn": collator,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "worker_init_fn": partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    }
    if args.dataloader_num_workers and getattr(args, "dataloader_multiprocessing_context", None):
        options["multiprocessing_context"] = args.dataloader_multiprocessing_context
    return options


def _prepared(loader: DataLoader, args: Any) -> DataLoader:
    """The same loader with batches moved to the device; nothing is shared out a second time."""
    return prepare_data_loader(
        loader,
        device=args.device,
        num_processes=1,
        process_index=0,
        put_on_device=args.device.type != "cpu",
        dispatch_batches=False,
    )


__all__ = ["row_order", "stream_loader", "training_loader"]

"""The trainer's loader: order, epochs of a resumed run, streams, and streams of a resumed run.

Which rows a share has is tested in tests/data/test_sampling.py, streams themselves in tests/data/test_streaming.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler
from small_stream import write_stream_shards
from tiny_models import tiny_model
from training_runs import arguments, changed, dropout_config, logged, make_processor, pairs, state

from lfvila_hf import LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingReader
from lfvila_hf.data.streaming import ResumableStream, stream_webdataset
from lfvila_hf.training.loading import row_order


class Hearing(torch.utils.data.Dataset):
    """Rows that say which epoch they were asked in."""

    def __init__(self) -> None:
        self.rows, self.epoch, self.asked = pairs(10), 0, []

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        self.asked.append((self.epoch, index))
        return self.rows[index]


def trainer_on(rows: Any, folder: Path, **fields: Any) -> LFVilaTrainer:
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "seed": 9} | fields
    return LFVilaTrainer(model=tiny_model(LFVilaModel), args=arguments(folder, **options), train_dataset=rows)


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    rows = Hearing()
    trainer_on(rows, tmp_path).train()
    expected = []
    for epoch in range(2):
        sampler = SeedableRandomSampler(rows, data_seed=9)
        sampler.set_epoch(epoch)
        expected += [(epoch, row) for row in sampler]
    assert rows.asked == expected and expected[:10] != expected[10:]
    assert type(row_order(torch.utils.data.SequentialSampler(rows), 9)) is torch.utils.data.SequentialSampler


def test_batches_that_are_passed_over_leave_the_epoch_right(tmp_path: Path) -> None:
    """A run resumed within its third epoch, as the Trainer passes over batches."""
    rows = Hearing()
    loader = skip_first_batches(trainer_on(rows, tmp_path).get_train_dataloader(), 1)
    loader.set_epoch(2)
    loader.batch_sampler.batch_sampler.set_epoch(2)  # the Trainer's own way to it
    assert [len(batch["input_ids"]) for batch in loader] == [4, 2]
    sampler = SeedableRandomSampler(rows, data_seed=9)
    sampler.set_epoch(2)
    assert rows.asked == [(2, row) for row in list(sampler)[4:]]


def stream_trainer(shards: Path, folder: Path, tokenizer: Any, **fields: Any) -> LFVilaTrainer:
    processor = make_processor(tokenizer)
    torch.manual_seed(11)
    config = dropout_config()
    config.text_config.vocab_size = len(tokenizer)
    rows = stream_webdataset(str(shards / "*.tar"))
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "save_strategy": "steps"}
    options |= {"save_steps": 1, "seed": 4, "dataloader_num_workers": 2}
    return LFVilaTrainer(
        model=LFVilaModel(config),
        args=arguments(folder, **(options | fields)),
        train_dataset=ResumableStream(
            rows, PreTrainingReader(processor, training=True, seed=4), shuffle_seed=1, shuffle_buffer=3
        ),
        data_collator=LFVilaCollator(processor, seed=4),
    )


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_on_a_stream_equals_one_that_never_stopped(
    workers: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Six rows, two to a step: the checkpoint lies in the second pass."""
    shards = write_stream_shards(tmp_path / "shards", rows=6, rows_per_shard=2)
    whole = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=workers)
    whole.train()
    assert len({entry["loss"] for entry in logged(whole)}) == 5
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    resumed = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=workers)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5 and not changed(state(whole.model), state(resumed.model))
    assert [entry["mtc_loss"] for entry in logged(resumed)] == [entry["mtc_loss"] for entry in logged(whole)]


def test_there_are_no_more_workers_than_shards(
    tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shards = write_stream_shards(tmp_path / "shards", rows=2, rows_per_shard=2)
    trainer = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=3)
    assert trainer.get_train_dataloader().num_workers == 1

"""Shares of a batch; batches of rows of one length, and what data set and collator make of rows with fewer clips.

Clips of rows that have K or more are tested in test_datasets.py.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import make_processor, write_pretraining

from lfvila_hf.data.annotations import AnnotationError, load_pretraining
from lfvila_hf.data.batch_samplers import EqualLengthSampler, ShareBatchSampler
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingDataset

LENGTHS = [4, 5, 4, 6, 5, 4, 4, 5, 5, 6, 4, 6, 6]


def blocks(sampler: EqualLengthSampler) -> list[list[int]]:
    rows = list(sampler)
    return [rows[start : start + sampler.block_size] for start in range(0, len(rows), sampler.block_size)]


def test_every_block_is_of_one_length_and_no_row_comes_twice() -> None:
    sampler = EqualLengthSampler(LENGTHS, block_size=2, seed=3)
    taken = blocks(sampler)
    assert len(list(sampler)) == len(sampler) == 12  # five 4s, four 5s and four 6s: 4 + 4 + 4 rows fill blocks
    assert all(len({LENGTHS[row] for row in block}) == 1 for block in taken)
    assert max(Counter(row for block in taken for row in block).values()) == 1


def test_an_epoch_is_a_function_of_seed_and_epoch_and_epochs_differ() -> None:
    first, second = (EqualLengthSampler(LENGTHS, 2, seed=7) for _ in range(2))
    assert list(first) == list(second)
    assert list(first) == list(first)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(EqualLengthSampler(LENGTHS, 2, seed=8))


def test_rows_that_fill_no_block_get_their_turn_in_other_epochs() -> None:
    sampler = EqualLengthSampler(LENGTHS, 2)
    seen: set[int] = set()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(len(LENGTHS)))


@pytest.mark.parametrize(("block_size", "message"), [(0, "positive, got 0"), (6, "at most 5")])
def test_blocks_that_cannot_be_filled_are_an_error(block_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EqualLengthSampler(LENGTHS, block_size)


def shares(rows: int, size: int, processes: int, drop_last: bool = False) -> list[list[list[int]]]:
    """Batches of every process."""
    order = torch.utils.data.SequentialSampler(range(rows))
    samplers = [ShareBatchSampler(order, size, processes, rank, drop_last) for rank in range(processes)]
    assert all(len(list(one)) == len(one) for one in samplers)
    assert len({one.left_out for one in samplers}) == 1
    return [list(one) for one in samplers]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 12, 16, 17])
def test_one_process_has_the_batches_of_torch(rows: int, drop_last: bool) -> None:
    order = torch.utils.data.SequentialSampler(range(rows))
    assert shares(rows, 4, 1, drop_last) == [list(torch.utils.data.BatchSampler(order, 4, drop_last))]


def test_processes_share_every_batch_and_the_last_one_evenly() -> None:
    assert shares(13, 4, 2) == [[[0, 1, 2, 3], [8, 9, 10]], [[4, 5, 6, 7], [11, 12]]]
    assert shares(13, 4, 2, drop_last=True) == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert shares(6, 1, 4) == [[[0]], [[1]], [[2]], [[3]]]  # two rows are fewer than four processes
    sampler = ShareBatchSampler(torch.utils.data.SequentialSampler(range(6)), 1, 4)
    assert sampler.left_out == 2


@pytest.mark.parametrize(("rows", "size", "processes"), [(64, 4, 4), (61, 4, 4), (30, 3, 3), (9, 5, 2)])
def test_together_they_have_the_batches_of_one_process_with_a_larger_one(rows: int, size: int, processes: int) -> None:
    (alone,) = shares(rows, size * processes, 1)
    found = [[row for share in batch for row in share] for batch in zip(*shares(rows, size, processes), strict=True)]
    assert found == alone[: len(found)] and sum(map(len, found)) > rows - processes


def test_the_order_and_the_data_set_hear_of_the_epoch() -> None:
    class Hearing:
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    dataset = Hearing()
    sampler = ShareBatchSampler(EqualLengthSampler(LENGTHS, 2, seed=7), 2, dataset=dataset)
    first = list(sampler)
    sampler.set_epoch(3)
    assert dataset.epoch == 3 and list(sampler) != first


def test_shares_that_cannot_be_are_an_error() -> None:
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        ShareBatchSampler([1], 0)
    with pytest.raises(ValueError, match="rank must lie in 0 to 1, got 2"):
        ShareBatchSampler([1], 1, processes=2, rank=2)


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    return load_pretraining(*write_pretraining(tmp_path, clip_counts=(2, 3, 4, 2)))


@pytest.fixture
def processor(tiny_tokenizer: Any) -> Any:
    return make_processor(tiny_tokenizer, num_frames=8, num_clips=4)


def test_a_shorter_row_is_taken_whole_with_as_many_frames_of_each_clip(rows: Any, processor: Any) -> None:
    dataset = PreTrainingDataset(rows, processor, training=False, min_clips=2)
    assert dataset.lengths() == [2, 3, 4, 2]
    assert [len(dataset[row].pictures) for row in range(4)] == [4, 6, 8, 4]  # T / K = 2 frames of each clip
    assert [len(dataset[row].sentences) for row in range(4)] == [2, 3, 4, 2]


def test_rows_with_fewer_clips_than_the_least_are_an_error_that_names_the_row(rows: Any, processor: Any) -> None:
    dataset = PreTrainingDataset(rows, processor, training=False, min_clips=3)
    with pytest.raises(AnnotationError, match="has 2 clips, expected at least 3"):
        dataset.lengths()
    with pytest.raises(ValueError, match="min_clips=5 must lie in 1 to num_clips=4"):
        PreTrainingDataset(rows, processor, training=False, min_clips=5)


def test_the_collator_says_how_many_clips_a_batch_has_where_it_is_not_the_processors_number(
    rows: Any, processor: Any
) -> None:
    dataset = PreTrainingDataset(rows, processor, training=False, min_clips=2)
    collate = LFVilaCollator(processor)
    short = collate([dataset[0], dataset[3]])
    assert short["num_clips"] == 2 and short["pixel_values_videos"].shape[1] == 4
    assert "num_clips" not in collate([dataset[2]])
    with pytest.raises(ValueError, match="one shape"):
        collate([dataset[0], dataset[1]])


def test_shuffled_clips_take_their_sentences_along(rows: Any, processor: Any) -> None:
    plain = PreTrainingDataset(rows, processor, training=False, min_clips=2)[2]
    mixed = PreTrainingDataset(rows, processor, training=True, min_clips=2, shuffle_clips=True)
    orders = set()
    for epoch in range(12):
        mixed.set_epoch(epoch)
        sample = mixed[2]
        orders.add(sample.sentences)
        assert sorted(sample.sentences) == sorted(plain.sentences)
    assert len(orders) > 3
    reader = mixed.reader
    clips, sentences = reader.select(rows[2], 123)
    paired = dict(zip(rows[2]["clips"], rows[2]["sentences"], strict=True))
    assert [paired[clip] for clip in clips] == list(sentences)
    assert torch.is_tensor(plain.pictures) and Path(clips[0]).exists()


def test_lengths_that_never_fill_a_block_are_named(caplog: pytest.LogCaptureFixture) -> None:
    sampler = EqualLengthSampler([4] * 10 + [5] * 3 + [6], 4)
    assert all(row < 10 for epoch in range(3) for row in sampler)
    assert "3 of length 5, 1 of length 6" in caplog.text
    caplog.clear()
    EqualLengthSampler([4] * 10 + [5] * 4, 4)
    assert not caplog.text

"""The collator: samples to model inputs, and masked tokens whose rates, places and reproducibility are pinned.

Samples here have no video file; where they come from is tested in `test_datasets`. A short run of transformers' own
Trainer shows that data sets, collator and model fit each other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import make_processor, write_retrieval
from torch.utils.data import DataLoader

from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset, VideoTextSample
from lfvila_hf.processing_lfvila import LFVilaProcessor

LONG = tuple("the red ball and the blue box ride right to the green square at first .".split())


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    return make_processor(tiny_tokenizer)


def make_sample(number: int, *sentences: str, epoch: int = 0) -> VideoTextSample:
    generator = torch.Generator().manual_seed(number)
    pictures = torch.rand(4, 3, 32, 48, generator=generator) * 255
    texts = sentences or (" ".join(LONG[number % 5 :]), "a man rides .")
    return VideoTextSample(f"s_{number}", f"f:{number}", texts, pictures, None, None, number * 7919, epoch, {})


def test_a_batch_is_what_the_processor_makes_of_text_and_pictures(processor: LFVilaProcessor) -> None:
    samples = [make_sample(0), make_sample(1, "a box ."), make_sample(2, "a", "b", "c")]
    batch = LFVilaCollator(processor)(samples)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values_videos"}
    text = processor(text=[list(sample.sentences) for sample in samples])
    assert torch.equal(batch["input_ids"], text["input_ids"])
    assert torch.equal(batch["attention_mask"], text["attention_mask"])
    assert batch["input_ids"].shape == (3, 3, 12)
    assert batch["attention_mask"].sum((1, 2)).tolist()[1] == 5  # [CLS] a box . [SEP], and nothing of two more rows
    pixels = batch["pixel_values_videos"]
    assert pixels.shape == (3, 4, 3, 32, 48)
    assert pixels.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (samples[1].pictures / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(pixels[1], expected, atol=1e-5, rtol=0)


def test_ids_are_given_only_where_asked_for(processor: LFVilaProcessor) -> None:
    samples = [make_sample(0), make_sample(1)]
    assert LFVilaCollator(processor, return_ids=True)(samples)["sample_ids"] == ["s_0", "s_1"]
    for collator in (LFVilaCollator(processor), LFVilaCollator(processor, 0.15)):
        assert not [name for name in collator(samples) if "label" in name or "id" in name.split("_")]


def test_skipped_samples_are_left_out_and_a_batch_of_nothing_else_is_an_error(processor: LFVilaProcessor) -> None:
    samples = [make_sample(0), make_sample(1)]
    collator = LFVilaCollator(processor, 0.15, return_ids=True)
    with_holes, expected = collator([None, samples[0], None, samples[1]]), collator(samples)
    assert with_holes.pop("sample_ids") == expected.pop("sample_ids")
    assert all(torch.equal(with_holes[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="all 3 samples of a batch were skipped"):
        collator([None, None, None])


def test_pictures_of_several_shapes_are_an_error_that_names_two_samples(processor: LFVilaProcessor) -> None:
    shorter = replace(make_sample(1), pictures=make_sample(1).pictures[:1])
    with pytest.raises(ValueError, match=r"\(4, 3, 32, 48\) of 's_0' and \(1, 3, 32, 48\) of 's_1'"):
        LFVilaCollator(processor)([make_sample(0), shorter])


# -- masking ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ids(processor: LFVilaProcessor) -> torch.Tensor:
    """`(64, 4, 12)`: every paragraph the same, all rows full."""
    text = processor(text=[[" ".join(LONG)] * 4] * 64)
    assert text["attention_mask"].all()
    return text["input_ids"]


def mask(processor: LFVilaProcessor, ids: torch.Tensor, probability: float = 0.15, **options: Any) -> Any:
    numbers = options.pop("numbers", torch.arange(len(ids)) * 7919)
    epochs = options.pop("epochs", torch.zeros(len(ids), dtype=torch.int64))
    return LFVilaCollator(processor, probability, **options).mask(ids, numbers, epochs)


def test_the_rates_of_masking_are_berts(processor: LFVilaProcessor, ids: torch.Tensor) -> None:
    runs = [mask(processor, ids, seed=seed) for seed in range(20)]
    maskable = (ids != processor.tokenizer.cls_token_id) & (ids != processor.tokenizer.sep_token_id)
    total = maskable.sum().item() * len(runs)  # 51,200
    chosen = sum((targets != -100).sum().item() for _, targets in runs)
    assert abs(chosen / total - 0.15) < 0.008  # 5 standard deviations
    mask_id = processor.tokenizer.mask_token_id
    masked = sum((inputs == mask_id).sum().item() for inputs, _ in runs)
    changed = sum(((inputs != ids) & (inputs != mask_id)).sum().item() for inputs, _ in runs)
    words = len(processor.tokenizer) - len(processor.tokenizer.all_special_ids)
    assert abs(masked / chosen - 0.8) < 0.025
    # One random word in `words` is the one that was there.
    assert abs(changed / chosen - 0.1 * (1 - 1 / words)) < 0.02


def test_targets_are_the_tokens_that_were_there_and_other_tokens_stay(
    processor: LFVilaProcessor, ids: torch.Tensor
) -> None:
    inputs, targets = mask(processor, ids)
    chosen = targets != -100
    assert 0 < chosen.sum() < chosen.numel()
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])


def test_special_tokens_and_padding_are_never_masked_nor_put_in(processor: LFVilaProcessor) -> None:
    text = processor(text=[["a man .", "zebra"], ["the box"]] * 20)
    ids = text["input_ids"]
    special = torch.isin(ids, torch.tensor(processor.tokenizer.all_special_ids))
    assert special.any() and (text["attention_mask"] == 0).any()
    inputs, targets = mask(processor, ids, probability=1.0)
    assert torch.equal(targets == -100, special)
    assert torch.equal(inputs[special], ids[special])
    put_in = inputs[~special & (inputs != ids) & (inputs != processor.tokenizer.mask_token_id)]
    assert len(put_in) > 5
    assert not torch.isin(put_in, torch.tensor(processor.tokenizer.all_special_ids)).any()


def test_masking_depends_on_seed_epoch_and_sample_and_on_nothing_else(processor: LFVilaProcessor) -> None:
    samples = [make_sample(number) for number in range(4)]
    collator = LFVilaCollator(processor, 0.3, seed=1)
    batch = collator(samples)
    torch.manual_seed(1234)
    alone = [LFVilaCollator(processor, 0.3, seed=1)([sample]) for sample in samples]
    for name in ("input_ids", "mlm_targets"):
        assert torch.equal(torch.cat([one[name] for one in alone]), batch[name])
        assert torch.equal(collator(samples[::-1])[name], batch[name].flip(0))
    assert (batch["mlm_targets"] != -100).any()

    # A longer paragraph in the batch adds rows of padding and changes no choice.
    wider = collator([*samples, make_sample(9, "a", "b", "c", "and")])
    assert torch.equal(wider["mlm_targets"][:4, :2], batch["mlm_targets"])

    next_epoch = collator([make_sample(number, epoch=1) for number in range(4)])
    other_seed = LFVilaCollator(processor, 0.3, seed=2)(samples)
    for other in (next_epoch, other_seed):
        assert not torch.equal(other["mlm_targets"], batch["mlm_targets"])
    same_text = [make_sample(number, "the red ball and the blue box") for number in (0, 1)]
    targets = collator(same_text)["mlm_targets"]
    assert not torch.equal(targets[0], targets[1])


def test_a_probability_outside_0_to_1_is_an_error(processor: LFVilaProcessor) -> None:
    with pytest.raises(ValueError, match=r"0 to 1, got 15"):
        LFVilaCollator(processor, 15)


def test_masking_needs_a_mask_token(processor: LFVilaProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.tokenizer, "_special_tokens_map", {}, raising=False)
    monkeypatch.setattr(type(processor.tokenizer), "mask_token_id", None, raising=False)
    with pytest.raises(ValueError, match="a tokenizer with a mask token"):
        LFVilaCollator(processor, 0.15)


def test_batches_of_workers_are_those_of_this_process(tmp_path: Path, processor: LFVilaProcessor) -> None:
    path, videos = write_retrieval(tmp_path, count=5, frames=6)
    dataset = RetrievalDataset(load_retrieval(path, videos), processor, training=True, seed=3)
    collator = LFVilaCollator(processor, 0.3, seed=4, return_ids=True)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches = [list(DataLoader(dataset, 2, collate_fn=collator, num_workers=workers)) for workers in (0, 2)]
        assert [len(batch["input_ids"]) for batch in batches[1]] == [2, 2, 1]
        for here, there in zip(*batches, strict=True):
            assert here.pop("sample_ids") == there.pop("sample_ids")
            assert here.keys() == there.keys() == {"input_ids", "attention_mask", "pixel_values_videos", "mlm_targets"}
            assert all(torch.equal(here[name], there[name]) for name in here)


# -- with transformers' Trainer --------------------------------------------------------------------------------------


def test_transformers_own_trainer_takes_data_set_and_collator_as_they_are(
    tmp_path: Path, processor: LFVilaProcessor
) -> None:
    from transformers import Trainer, TrainingArguments

    seen: list[tuple[int, set[str]]] = []

    class Model(torch.nn.Module):
        """Takes the contrastive inputs and nothing else, as LF-VILA's models do."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values_videos: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            seen.append((len(input_ids), {"input_ids", "attention_mask", "pixel_values_videos"}))
            assert input_ids.shape[:2] == attention_mask.shape[:2] == (len(pixel_values_videos), 2)
            return {"loss": self.scale * pixel_values_videos.square().mean()}

    path, videos = write_retrieval(tmp_path, count=4, frames=6)
    dataset = RetrievalDataset(load_retrieval(path, videos), processor, training=True)
    epochs: list[int] = []
    set_epoch = dataset.set_epoch
    dataset.set_epoch = lambda epoch: (epochs.append(epoch), set_epoch(epoch))[1]  # type: ignore[method-assign]  # a spy
    arguments = TrainingArguments(
        tmp_path / "run",
        per_device_train_batch_size=2,
        num_train_epochs=2,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
    )
    assert arguments.remove_unused_columns
    Trainer(Model(), arguments, data_collator=LFVilaCollator(processor), train_dataset=dataset).train()
    assert [size for size, _ in seen] == [2, 2, 2, 2]
    assert sorted(set(epochs)) == [0, 1]
    assert dataset.epoch == 1

"""A loss that is not finite: the run stops, names the samples, and leaves enough behind to see it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from training_runs import arguments, changed, make_processor, pairs, state, write_rows

from lfvila_hf import LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.training.nonfinite import NonFiniteLossError


def poisoned(count: int, row: int) -> Any:
    rows = pairs(count)
    rows.tensors["pixel_values_videos"][row, 0, 0, 0, 0] = float("inf")
    return rows


def run(folder: Path, rows: Any, **fields: Any) -> LFVilaTrainer:
    options = {"max_steps": 3, "per_device_train_batch_size": 2, "train_sampling_strategy": "sequential"} | fields
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel),
        args=arguments(folder, learning_rate=1e-3, lr_scheduler_type="constant", **options),
        train_dataset=rows,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("fields", [{}, {"contrastive_chunk_size": 1}, {"gradient_accumulation_steps": 3}], ids=str)
def test_a_run_stops_at_the_batch_and_keeps_it(fields: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"the loss of step \d is nan, expected a finite number") as raised:
        run(tmp_path, poisoned(6, 5), **fields)
    error = raised.value
    assert isinstance(error, ValueError) and "['pixel_values_videos'], weights: 0" in str(error)
    report = json.loads((error.folder / "report.json").read_text())
    assert report["step"] == (0 if "gradient_accumulation_steps" in fields else 2) and report["loss"] == "nan"
    assert report["inputs_not_finite"] == ["pixel_values_videos"] and report["weights_not_finite"] == []
    assert report["terms"]["global_loss"] == "nan"

    kept = torch.load(error.folder / "batch.pt")
    assert torch.equal(kept["inputs"]["pixel_values_videos"], poisoned(6, 5).tensors["pixel_values_videos"][4:6])
    before = LFVilaModel.from_pretrained(error.folder)
    assert before(**kept["inputs"]).loss.isnan()
    clean = run(tmp_path / "clean", pairs(6), **(fields | {"max_steps": report["step"] or 1}))
    if report["step"]:  # the weights are those before the step, untouched by its gradient
        assert not changed(state(clean.model), state(before))


def test_the_samples_of_the_batch_are_named(tmp_path: Path, tiny_tokenizer: Any) -> None:
    processor = make_processor(tiny_tokenizer)
    model = tiny_model(LFVilaModel)
    model.config.text_config.vocab_size = len(tiny_tokenizer)
    model = LFVilaModel(model.config)
    with torch.no_grad():
        model.text_projection.bias[3] = float("nan")
    rows = RetrievalDataset(write_rows(tmp_path, 2), processor, training=False)
    collator = LFVilaCollator(processor)
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path / "run", max_steps=1, per_device_train_batch_size=2),
        train_dataset=rows,
        data_collator=collator,
    )
    with pytest.raises(NonFiniteLossError, match=r"samples of the batch: v_\d, v_\d; .*none, weights: 1") as raised:
        trainer.train()
    assert sorted(raised.value.sample_ids or ()) == ["v_0", "v_1"]
    assert json.loads((raised.value.folder / "report.json").read_text())["weights_not_finite"] == [
        "text_projection.bias"
    ]
    assert not collator.return_ids, "the collator of the user's own was changed"


def test_training_goes_on_where_that_is_wanted(tmp_path: Path) -> None:
    assert run(tmp_path, poisoned(6, 1), stop_on_nonfinite_loss=False).state.global_step == 3


@pytest.mark.parametrize("fields", [{"bf16": True}, {"bf16": True, "contrastive_chunk_size": 1}], ids=str)
def test_half_precision_trains(fields: dict[str, Any], tmp_path: Path) -> None:
    trainer = run(tmp_path, pairs(6), **fields)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(torch.tensor(losses).isfinite())

"""Throughput in the log, the progress bar, losses that are not finite, the model card of a run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_models import EXAMPLES, enable_checkpointing, tiny_batch, tiny_model
from training_runs import arguments, changed, fusion_pairs, logged, make_processor, pairs, state, write_rows
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.training.callbacks import (
    LossTermsProgressCallback,
    NonFiniteLossError,
    ThroughputCallback,
    flops_of_step,
)

# -- throughput and progress ------------------------------------------------------------------------------------------

WATCHED = {"frames_per_second", "decode_wait_seconds", "temperature", "grad_norm", "learning_rate"}


class Listener(TrainerCallback):
    """Keeps what TensorBoard, Weights & Biases or trackio would be given."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self.entries.append(dict(logs or {}))


def run_watched(folder: Path, rows: Any, model: Any = None, **fields: Any) -> tuple[LFVilaTrainer, Listener]:
    listener = Listener()
    options = {"max_steps": 2, "per_device_train_batch_size": 4} | fields
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel) if model is None else model,
        args=arguments(folder, **options),
        train_dataset=rows,
        eval_dataset=pairs(3),
        callbacks=[listener],
    )
    trainer.train()
    return trainer, listener


def test_everything_watched_reaches_a_callback(tmp_path: Path) -> None:
    _, listener = run_watched(tmp_path, pairs(8), peak_tflops=0.001)
    first = listener.entries[0]
    assert set(first) >= WATCHED | {"loss", "global_loss", "mtc_loss", "mfu", "epoch"}
    assert first["temperature"] == 0.05 and first["grad_norm"] > 0 and first["mfu"] > 0
    assert all(isinstance(value, int | float) for value in first.values())


class SlowRows:
    def __init__(self, rows: Any, seconds: float) -> None:
        self.rows, self.seconds = rows, seconds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return self.rows[index]

    def skip_report(self) -> list[str]:
        return ["one", "two"]


def test_waiting_and_frames_are_those_of_the_steps_and_evaluation_does_not_count(tmp_path: Path) -> None:
    began = time.perf_counter()
    options = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 2}
    trainer, _ = run_watched(tmp_path, SlowRows(pairs(8), 0.02), **options)
    elapsed = time.perf_counter() - began
    (entry,) = logged(trainer)
    # The loader reads one batch ahead: 8 rows before the first step, none after.
    assert 0.08 <= entry["decode_wait_seconds"] < elapsed
    frames = 2 * 4 * 8
    assert frames / elapsed < entry["frames_per_second"] <= frames / 0.16
    assert entry["skipped_samples"] == 2


def test_a_watcher_counts_by_the_clock_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 14.0, 20.0, 20.5, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watcher, model, batch = ThroughputCallback(peak_tflops=2.0), tiny_model(LFVilaModel), tiny_batch(2)
    flops = flops_of_step(model, {name: value[:1] for name, value in batch.items()})

    class Alone:
        num_processes, device = 1, "cpu"

    for _ in range(2):
        watcher.begin_step()
        watcher.end_waiting()
        watcher.record_batch(model, batch)
        watcher.on_step_end()
    found = watcher.report(Alone())
    assert found["frames_per_second"] == pytest.approx(2 * 16 / 5) and found["decode_wait_seconds"] == 0.75
    assert found["mfu"] == pytest.approx(4 * flops / 5 / 2e12)
    assert watcher.report(Alone()) == {}


def test_flops_are_three_forwards_of_what_learns_and_one_of_what_is_frozen() -> None:
    model, batch = tiny_model(LFVilaModel), tiny_batch(1)
    model.train()
    learning = flops_of_step(model, batch)
    assert all(not value.is_meta for value in model.state_dict().values())
    model.requires_grad_(False)
    model.text_projection.requires_grad_(True)
    nearly_frozen = flops_of_step(model, batch)
    # The first layer of each tower has no gradient of its input, so a little less than three.
    assert 2.7 < learning / nearly_frozen < 3.0
    model.requires_grad_(True)
    renamed = hasattr(model, "activation_checkpointing_enable")  # in transformers 5.23
    enable_checkpointing(model)
    assert flops_of_step(model, batch) == learning
    assert model.is_activation_checkpointing if renamed else model.is_gradient_checkpointing
    # every paragraph is compared with every video, so a little more than twice
    assert flops_of_step(model, tiny_batch(2)) == pytest.approx(2 * learning, rel=1e-4)


def test_the_progress_bar_shows_the_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    lines: list[str] = []

    class Bar:
        def __init__(self, **_: Any) -> None: ...

        def update(self, count: int) -> None: ...

        def close(self) -> None: ...

        def set_postfix(self, values: dict[str, str]) -> None:
            shown.append(values)

        def write(self, line: str) -> None:
            lines.append(line)

    monkeypatch.setattr(sys.modules[ProgressCallback.__module__], "tqdm", Bar)
    model = tiny_model(LFVilaForPreTraining)
    trainer, _ = run_watched(tmp_path, fusion_pairs(8), model, disable_tqdm=False, training_phase="fusion")
    callbacks = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert LossTermsProgressCallback in callbacks and ProgressCallback not in callbacks
    assert len(shown) == 2 and set(shown[0]) == {"loss", "mlm", "vtm", "norm", "frames/s"}
    assert float(shown[1]["mlm"]) == pytest.approx(logged(trainer)[1]["mlm_loss"], rel=1e-3)
    assert len(lines) == 1 and "train_runtime" in lines[0]


# -- losses that are not finite ---------------------------------------------------------------------------------------


def poisoned(count: int, row: int) -> Any:
    rows = pairs(count)
    rows.tensors["pixel_values_videos"][row, 0, 0, 0, 0] = float("inf")
    return rows


def run_constant(folder: Path, rows: Any, **fields: Any) -> LFVilaTrainer:
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
        run_constant(tmp_path, poisoned(6, 5), **fields)
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
    clean = run_constant(tmp_path / "clean", pairs(6), **(fields | {"max_steps": report["step"] or 1}))
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
    assert run_constant(tmp_path, poisoned(6, 1), stop_on_nonfinite_loss=False).state.global_step == 3


@pytest.mark.parametrize("fields", [{"bf16": True}, {"bf16": True, "contrastive_chunk_size": 1}], ids=str)
def test_half_precision_trains(fields: dict[str, Any], tmp_path: Path) -> None:
    trainer = run_constant(tmp_path, pairs(6), **fields)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(torch.tensor(losses).isfinite())


# -- the model card ---------------------------------------------------------------------------------------------------


def test_the_card_of_a_training_has_its_last_evaluation_and_its_arguments(tmp_path: Path) -> None:
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 0.003, "seed": 7}
    trainer = LFVilaTrainer(
        model=EXAMPLES["joined"].model(),
        args=arguments(tmp_path / "thing", **options),
        train_dataset=pairs(4),
        eval_dataset=pairs(4),
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.create_model_card(license="mit", dataset="ShapeTales", finetuned_from="org/base")
    card = ModelCard.load(tmp_path / "thing" / "README.md")
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found["loss"] == metrics["eval_loss"] and found["global_t2v_r1"] == metrics["eval_global_t2v_r1"]
    assert not [name for name in found if name.endswith(("runtime", "per_second"))]
    assert {one.dataset_name for one in card.data.eval_results} == {"ShapeTales"}
    assert (card.data.license, card.data.base_model) == ("mit", "org/base")
    assert "1 steps" in card.text and "learning rate 0.003" in card.text and "seed 7" in card.text

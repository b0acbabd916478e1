"""What a run tells about itself: speed, waiting, skips, temperature, arithmetic use; where it goes; the progress bar.

Loss terms are tested in test_trainer.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import enable_checkpointing, tiny_batch, tiny_model
from training_runs import arguments, fusion_pairs, logged, pairs
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.training.watching import TermsProgressCallback, Watcher, flops_of_step, peak_tflops

WATCHED = {"frames_per_second", "decode_wait_seconds", "temperature", "grad_norm", "learning_rate"}


class Listener(TrainerCallback):
    """Keeps what TensorBoard, Weights & Biases or trackio would be given."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self.entries.append(dict(logs or {}))


def run(folder: Path, rows: Any, model: Any = None, **fields: Any) -> tuple[LFVilaTrainer, Listener]:
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
    _, listener = run(tmp_path, pairs(8), peak_tflops=0.001)
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
    trainer, _ = run(tmp_path, SlowRows(pairs(8), 0.02), **options)
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
    watcher, model, batch = Watcher(peak=2.0), tiny_model(LFVilaModel), tiny_batch(2)
    flops = flops_of_step(model, {name: value[:1] for name, value in batch.items()})

    class Alone:
        num_processes, device = 1, "cpu"

    for _ in range(2):
        watcher.begin_step()
        watcher.end_waiting()
        watcher.saw(model, batch)
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


def test_flops_of_linear_layers_are_counted_as_by_hand() -> None:
    model = torch.nn.Linear(3, 5)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = model

        def forward(self, pixel_values_videos: torch.Tensor, return_loss: bool) -> dict[str, torch.Tensor]:
            assert pixel_values_videos.is_meta and not return_loss
            return {"out": self.linear(pixel_values_videos)}

    # forward and the weight's gradient; the input needs none
    assert flops_of_step(Wrapped(), {"pixel_values_videos": torch.ones(7, 3)}) == 2 * (2 * 7 * 3 * 5)


def test_a_peak_is_known_by_the_devices_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_tflops(torch.device("cpu"), True) is None
    names = {"NVIDIA H200": 989.0, "NVIDIA A100-SXM4-80GB": 312.0, "NVIDIA L40S": 362.0, "Unheard Of 9": None}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(torch.device("cuda"), True) == peak
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_tflops(torch.device("cuda"), False) == 67.0


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
    trainer, _ = run(tmp_path, fusion_pairs(8), model, disable_tqdm=False, training_phase="fusion")
    callbacks = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert TermsProgressCallback in callbacks and ProgressCallback not in callbacks
    assert len(shown) == 2 and set(shown[0]) == {"loss", "mlm", "vtm", "norm", "frames/s"}
    assert float(shown[1]["mlm"]) == pytest.approx(logged(trainer)[1]["mlm_loss"], rel=1e-3)
    assert len(lines) == 1 and "train_runtime" in lines[0]


def test_evaluation_during_training_may_take_a_sample_of_the_rows(tmp_path: Path) -> None:
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel),
        args=arguments(
            tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, eval_sample_size=4, learning_rate=0.0
        ),
        train_dataset=pairs(2),
        eval_dataset=pairs(9),
        eval_twins=[(number, number + 1) for number in range(8)],
    )
    trainer.train()
    first, second = logged(trainer, "eval_loss")
    assert first["eval_both_num_texts"] == 4
    assert {n: v for n, v in first.items() if "both" in n} == {n: v for n, v in second.items() if "both" in n}
    assert trainer.evaluate()["eval_both_num_texts"] == 9

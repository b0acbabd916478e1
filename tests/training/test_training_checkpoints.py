"""Atomic checkpoints; a run that is killed again and again ends as one that never was; FSDP 2 checkpoints.

The long form, twenty kills at random moments of separate processes, is `make soak` (benchmarks/kill_soak.py).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gradient_runs import PAIRS, in_processes
from killed_runs import STEPS, at_step, before_renaming, killed, train, while_writing, write_videos
from sharding import fsdp_on_cpus, whole
from tiny_models import tiny_model
from torch.distributed.fsdp import FSDPModule, fully_shard
from training_runs import OnStep, TensorRows, arguments, changed, dropout_config, logged, pairs, state

from lfvila_hf import LFVilaModel, LFVilaTrainer
from lfvila_hf.loading_lfvila import unsharded_class
from lfvila_hf.training.training_checkpoints import (
    MANIFEST,
    UNFINISHED,
    checkpoints_of,
    is_disk_full,
    last_complete_checkpoint,
    problems,
    publish,
    recover,
    write_manifest,
)

KEPT = ("loss", "grad_norm", "learning_rate", "global_loss", "mtc_loss", "step")


def make_checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}")
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_bytes(b"x")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_killed_at_bad_moments_ends_as_one_that_never_was(tmp_path: Path, tiny_tokenizer: Any) -> None:
    (tmp_path / "videos").mkdir()
    rows = write_videos(tmp_path / "videos")
    whole = train(rows, tiny_tokenizer, tmp_path / "whole")
    assert whole.state.global_step == STEPS and whole.state.epoch > 2
    assert logged(whole)[-1]["skipped_samples"] == 1 and names(tmp_path / "whole") == ["checkpoint-10", "checkpoint-9"]

    broken = tmp_path / "broken"
    killed(rows, tiny_tokenizer, broken, while_writing(3, "optimizer.pt"))  # before there is any checkpoint
    assert not names(broken) and (broken / UNFINISHED / "checkpoint-3" / "model.safetensors").exists()
    killed(rows, tiny_tokenizer, broken, at_step(5))  # in the second epoch
    assert names(broken) == ["checkpoint-3"] and not (broken / UNFINISHED).exists()
    killed(rows, tiny_tokenizer, broken, before_renaming(9))  # at a checkpoint in the third epoch
    assert names(broken) == ["checkpoint-3", "checkpoint-6"]
    resumed = train(rows, tiny_tokenizer, broken)

    assert not changed(state(whole.model), state(resumed.model))
    assert [[entry[k] for k in KEPT] for entry in logged(resumed)] == [[e[k] for k in KEPT] for e in logged(whole)]
    assert names(broken) == names(tmp_path / "whole")
    at_nine = LFVilaModel.from_pretrained(broken / "checkpoint-9")
    assert changed(state(at_nine), state(whole.model)), "nothing was learnt after the checkpoint"


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)])
def test_a_resumed_run_goes_on_at_an_epochs_end_and_within_later_epochs(
    step: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Step 4 and 8 end an epoch of four batches, with an evaluation after the checkpoint; 6 lies within the second."""
    (tmp_path / "videos").mkdir()
    rows = write_videos(tmp_path / "videos")
    fields = {"save_steps": 2, "save_total_limit": None, "dataloader_num_workers": 0}
    whole = train(rows, tiny_tokenizer, tmp_path / "run", **fields)
    expected, entries = state(whole.model), logged(whole)
    for later in range(step + 2, STEPS + 1, 2):
        os.rename(tmp_path / "run" / f"checkpoint-{later}", tmp_path / f"gone-{later}")
    resumed = train(rows, tiny_tokenizer, tmp_path / "run", **fields)
    assert not changed(expected, state(resumed.model))
    assert [[e[k] for k in KEPT] for e in logged(resumed)] == [[e[k] for k in KEPT] for e in entries]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 3)
    assert problems(path) == []
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (path / name).rename(path / "away")
        assert problems(path) == [f"no {name}"]
        assert problems(path, weights_only=True) == ([f"no {name}"] if name == "trainer_state.json" else [])
        (path / "away").rename(path / name)
    (path / "trainer_state.json").write_text('{"step": ')
    (path / "model.safetensors").write_bytes(b"")
    assert problems(path) == ["no trainer_state.json", "no weights"]
    (path / "trainer_state.json").write_text("{}")
    (path / "model-00001-of-00002.safetensors").write_bytes(b"x")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert problems(path) == ["no model-00002-of-00002.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors.index.json", MANIFEST])
@pytest.mark.parametrize("text", ['{"weight_', "[]", "{}", '{"weight_map": [], "files": []}', '{"files": {"a": 1}}'])
def test_a_checkpoint_with_a_damaged_list_of_files_is_passed_over(tmp_path: Path, name: str, text: str) -> None:
    older, newer = make_checkpoint(tmp_path, 1), make_checkpoint(tmp_path, 2)
    (newer / name).write_text(text)
    assert len(problems(newer)) == 1 and name in problems(newer)[0]
    assert last_complete_checkpoint(tmp_path) == older


@pytest.mark.parametrize("optimizer", ["optimizer.bin", "optimizer_0"])
def test_the_optimizer_of_fsdp_counts(optimizer: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 3)
    (path / "optimizer.pt").rename(path / optimizer)
    assert problems(path) == []


def test_a_manifest_tells_cut_changed_and_lost_files(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 3)
    (path / "optimizer_0").mkdir()
    (path / "optimizer_0" / "shard").write_bytes(b"abc")
    write_manifest(path, 1)
    assert problems(path) == []
    (path / "optimizer_0" / "shard").write_bytes(b"abd")
    (path / "optimizer.pt").write_bytes(b"")
    (path / "scheduler.pt").unlink()
    expected = ["no scheduler.pt", "optimizer.pt has 0 bytes instead of 1", "optimizer_0/shard was changed"]
    assert sorted(problems(path)) == expected
    (path / MANIFEST).write_text("{")
    assert f"{MANIFEST} cannot be read" in problems(path)


def test_the_last_complete_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path / "nothing") is None
    for step in (2, 10, 9):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    last = last_complete_checkpoint(tmp_path)
    assert last is not None and last.name == "checkpoint-9"


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    written = make_checkpoint(tmp_path / UNFINISHED, 4)
    old = make_checkpoint(tmp_path, 4)
    (old / "mark").write_text("old")
    old.rename(tmp_path / UNFINISHED / "replaced-checkpoint-4")  # killed between the two renamings
    recover(tmp_path)
    assert (tmp_path / "checkpoint-4" / "mark").exists() and not (tmp_path / UNFINISHED).exists()

    written = make_checkpoint(tmp_path / UNFINISHED, 4)
    publish(written, tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-4" / "mark").exists() and not (tmp_path / UNFINISHED).exists()
    recover(tmp_path)
    assert names(tmp_path) == ["checkpoint-4"]


@contextmanager
def lfvila_logger(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Capture warnings of the package, whose logger is transformers' and does not propagate."""
    logger = logging.getLogger("lfvila_hf")
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def run(folder: Path, resume: str | None = None, **fields: Any) -> LFVilaTrainer:
    trainer = make_run(folder, **fields)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def make_run(folder: Path, **fields: Any) -> LFVilaTrainer:
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2} | fields
    return LFVilaTrainer(
        model=tiny_model(LFVilaModel), args=arguments(folder, **options), train_dataset=pairs(4), eval_dataset=pairs(4)
    )


def test_old_checkpoints_go_and_the_best_one_stays(tmp_path: Path) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = run(tmp_path, save_total_limit=2, learning_rate=1e-3, load_best_model_at_end=True, **best)
    losses = [entry["eval_loss"] for entry in logged(trainer, "eval_loss")]
    number = losses.index(max(losses)) + 1
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{number}")
    assert names(tmp_path) == sorted(
        {f"checkpoint-{number}", "checkpoint-5"} | ({"checkpoint-4"} if number == 5 else set())
    )
    saved = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == trainer.state.best_model_checkpoint
    assert not (tmp_path / UNFINISHED).exists()
    at_best = LFVilaModel.from_pretrained(tmp_path / f"checkpoint-{number}")
    assert not changed(state(at_best), state(trainer.model))


def damage(path: Path, how: str) -> None:
    file = path / ("rng_state.pth" if how == "no random state" else "model.safetensors")
    if how == "no random state":
        file.unlink()
    elif how == "cut":
        os.truncate(file, file.stat().st_size - 100)
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["no random state", "cut", "flipped bit"])
def test_a_damaged_checkpoint_is_passed_over_to_an_older_one(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_steps": 3, "learning_rate": 1e-3}
    uninterrupted = run(tmp_path, **options)
    expected = state(uninterrupted.model)
    shutil.rmtree(tmp_path / "checkpoint-3")
    damage(tmp_path / "checkpoint-2", how)
    with pytest.raises(ValueError, match=r"checkpoint-2 is no complete checkpoint: .*(rng_state|model\.safetensors)"):
        run(tmp_path, resume=str(tmp_path / "checkpoint-2"), **options)
    with lfvila_logger(caplog):
        resumed = run(tmp_path, resume="auto", **options)
    assert "checkpoint-2 cannot be resumed from" in caplog.text and "passed over" in caplog.text
    assert not changed(expected, state(resumed.model))
    assert len(logged(resumed)) == 3 and names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_the_checkpoint_just_written_stays_whatever_the_clock_says(tmp_path: Path) -> None:
    future = time.time() + 1e6

    def leap() -> None:
        for path in tmp_path.glob("checkpoint-*"):
            os.utime(path, (future, future))

    trainer = make_run(tmp_path, max_steps=3, save_total_limit=1)
    trainer.add_callback(OnStep(leap))
    trainer.train()
    assert names(tmp_path) == ["checkpoint-3"]
    make_run(tmp_path, max_steps=2, save_total_limit=2).train()  # a run from the beginning into the same folder
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_another_number_of_processes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, max_steps=1)
    write_manifest(tmp_path / "checkpoint-1", 4)
    with lfvila_logger(caplog):
        run(tmp_path, resume="auto", max_steps=2)
    assert "written by 4 processes with batches of 2; this run has 1 with batches of 2" in caplog.text
    caplog.clear()
    with lfvila_logger(caplog):
        run(tmp_path, resume="auto", max_steps=3)
    assert "processes" not in caplog.text


def test_a_full_disk_ends_the_run_in_one_line_and_harms_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def failing(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-2" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match=r"the disk is full .* checkpoint-2 was not written .* resume_from_checkpoint"):
        run(tmp_path, max_steps=3)
    assert names(tmp_path) == ["checkpoint-1"] and problems(tmp_path / "checkpoint-1") == []
    assert not list((tmp_path / UNFINISHED).glob("*"))
    monkeypatch.undo()
    assert run(tmp_path, resume="auto", max_steps=3).state.global_step == 3


def test_errors_of_a_full_disk_are_told_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not is_disk_full(torchs, tmp_path) and not is_disk_full(OSError(errno.EACCES, "no"), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert is_disk_full(torchs, tmp_path)


@pytest.mark.slow
def test_two_processes_write_one_checkpoint_and_go_on_from_it(tmp_path: Path) -> None:
    """Nine rows, two to a process: two batches an epoch, and a row that waits for the next one."""

    def train_to_the_end(rank: int) -> None:
        torch.manual_seed(1)
        trainer = LFVilaTrainer(
            model=LFVilaModel(dropout_config()),
            args=arguments(
                tmp_path / "run",
                max_steps=5,
                save_strategy="steps",
                save_steps=3,
                per_device_train_batch_size=2,
                contrastive_chunk_size=1,
                learning_rate=1e-3,
            ),
            train_dataset=pairs(9),
        )
        trainer.train(resume_from_checkpoint="auto")
        if rank == 0:
            torch.save([state(trainer.model), logged(trainer)], tmp_path / "end.pt")

    ends = []
    for _ in range(2):
        in_processes(2, tmp_path / "errors", train_to_the_end)
        ends.append(torch.load(tmp_path / "end.pt"))
        assert names(tmp_path / "run") == ["checkpoint-3", "checkpoint-5"]
        assert {f"rng_state_{rank}.pth" for rank in range(2)} <= {
            p.name for p in (tmp_path / "run/checkpoint-3").iterdir()
        }
        assert not (tmp_path / "run" / UNFINISHED).exists()
        (tmp_path / "run" / "checkpoint-5" / "optimizer.pt").unlink()  # passed over by the second run
    (whole, log), (resumed, log_again) = ends
    assert not changed(whole, resumed)
    assert [entry["mtc_loss"] for entry in log_again] == [entry["mtc_loss"] for entry in log] and len(log) == 5


def test_a_run_killed_after_its_last_checkpoint_makes_no_step_more(tmp_path: Path) -> None:
    """Three steps of epochs of two: transformers' loop would begin another one."""
    options = {"max_steps": 3, "save_steps": 1, "learning_rate": 1e-3}
    whole = run(tmp_path, **options)
    resumed = run(tmp_path, resume="auto", **options)
    assert resumed.state.global_step == 3 and not changed(state(whole.model), state(resumed.model))


def test_what_cannot_be_resumed_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel), args=arguments(tmp_path, max_steps=1), train_dataset=pairs(2)
    )
    with pytest.raises(ValueError, match="there is no complete checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)
    make_checkpoint(tmp_path, 1)
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"no complete checkpoint: no optimizer\.pt; resume_from"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    before = torch.get_rng_state()
    trainer.train(resume_from_checkpoint="auto")  # from the beginning
    assert trainer.state.global_step == 1 and not torch.equal(before, torch.get_rng_state())


# -- FSDP 2 over gloo on CPUs (sharding.py) ---------------------------------------------------------------------------

STEPS_SHARDED = 4


def doubled(rows: TensorRows) -> TensorRows:
    rows.tensors["pixel_values_videos"] = rows.tensors["pixel_values_videos"].double()
    return rows


def train_sharded(
    folder: Path, resume: str | None = None, batch_size: int = PAIRS
) -> tuple[dict[str, Any], dict[str, float]]:
    """Four clipped steps of AdamW, a checkpoint and an evaluation after each second; the weights, whole, and ranks."""
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel).double(),
        args=arguments(
            folder,
            max_steps=STEPS_SHARDED,
            save_strategy="steps",
            save_steps=2,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=3,
            eval_strategy="steps",
            eval_steps=2,
            learning_rate=1e-3,
            max_grad_norm=0.5,
        ),
        train_dataset=doubled(pairs(2 * PAIRS)),
        eval_dataset=doubled(pairs(7)),
    )
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.state.global_step == STEPS_SHARDED
    ranks = {name: value for name, value in logged(trainer, "eval_loss")[-1].items() if "_t2v_" in name}
    return {name: whole(value).clone() for name, value in trainer.model.state_dict().items()}, ranks


def test_the_class_before_sharding_is_found() -> None:
    made = type("FSDPLFVilaModel", (FSDPModule, LFVilaModel), {})  # as fully_shard makes it
    assert unsharded_class(made) is LFVilaModel and unsharded_class(LFVilaModel) is LFVilaModel


def assert_saved_as_itself(folder: Path) -> None:
    """The configuration names LF-VILA's class, and its code lies beside it, not torch's."""
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["LFVilaModel"] and saved["auto_map"]["AutoModel"] == "modeling_lfvila.LFVilaModel"
    assert (folder / "modeling_lfvila.py").exists() and not list(folder.rglob("*fsdp_init*"))


def test_a_model_is_saved_as_what_it_was_before_sharding(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel)
    (tmp_path / "a file").touch()

    def save(_: int) -> None:
        torch.distributed.init_process_group("gloo")
        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        weights = {name: whole(value) for name, value in model.state_dict().items()}
        with pytest.raises(Exception, match="a file"):
            model.save_pretrained(tmp_path / "a file" / "below", state_dict=weights)
        assert isinstance(model, FSDPModule)
        model.save_pretrained(tmp_path / "saved", state_dict=weights)
        assert isinstance(model, FSDPModule)

    in_processes(1, tmp_path / "process", save)
    loaded = LFVilaModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert_saved_as_itself(tmp_path / "saved")


@pytest.mark.slow
def test_a_sharded_run_saves_whole_models_and_goes_on_from_them(tmp_path: Path) -> None:
    expected, ranks = train_sharded(tmp_path / "one")

    def sharded(rank: int) -> None:
        with fsdp_on_cpus():
            found = train_sharded(tmp_path / "two", batch_size=PAIRS // 2)
            if rank == 0:
                torch.save(found, tmp_path / "found.pt")
                (tmp_path / "two" / "checkpoint-4").rename(tmp_path / "last")
            torch.distributed.barrier()
            resumed = train_sharded(tmp_path / "two", "auto", PAIRS // 2)
            if rank == 0:
                torch.save(resumed, tmp_path / "resumed.pt")

    in_processes(2, tmp_path / "processes", sharded)
    (found, ranks_found), (resumed, _) = torch.load(tmp_path / "found.pt"), torch.load(tmp_path / "resumed.pt")
    assert found.keys() == expected.keys() and len(ranks) > 5 and ranks_found == pytest.approx(ranks, abs=1e-6)
    begun = state(tiny_model(LFVilaModel).double())
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-9), name
        assert torch.equal(resumed[name], found[name]), name
    assert sum(not torch.equal(begun[name], value) for name, value in expected.items()) > 100
    assert [path.name for path in checkpoints_of(tmp_path / "two")] == ["checkpoint-2", "checkpoint-4"]
    assert not any(problems(path) for path in checkpoints_of(tmp_path / "two"))
    assert not (tmp_path / "two" / UNFINISHED).exists()

    last = tmp_path / "last"
    loaded = state(LFVilaModel.from_pretrained(last, dtype=torch.float64))
    assert all(torch.allclose(loaded[name], found[name], rtol=0, atol=1e-12) for name in found)
    assert_saved_as_itself(last)

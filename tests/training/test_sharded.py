"""FSDP 2: parameters, gradients and optimizer state in shards, over gloo on CPUs (see sharding.py).

Modules: `training.checkpoints`, and `loading_lfvila` for the class under which a sharded model is saved.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_runs import PAIRS, Case, Result, gradients, in_processes, largest_error
from sharding import fsdp_on_cpus, whole
from tiny_models import tiny_model
from torch.distributed.fsdp import FSDPModule, fully_shard
from training_runs import TensorRows, arguments, logged, pairs, state

from lfvila_hf import LFVilaModel, LFVilaTrainer
from lfvila_hf.modeling_base_lfvila import unsharded_class
from lfvila_hf.training.checkpoints import UNFINISHED, whole_checkpoints

EXACT = 1e-9
CONTRASTIVE = Case(dropout="sample", dtype="float64")
FUSION = dataclasses.replace(CONTRASTIVE, phase="fusion")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@cache
def in_one_process(case: Case, folder: Path) -> Result:
    return gradients(case, folder)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("case", "parts"),
    [
        pytest.param(CONTRASTIVE, {"chunk": 2}, id="contrastive, chunks"),
        pytest.param(FUSION, {}, id="fusion"),
        pytest.param(CONTRASTIVE, {}, id="contrastive", marks=pytest.mark.slow),
        pytest.param(CONTRASTIVE, {"chunk": 3, "block": 1}, id="contrastive, blocks", marks=pytest.mark.slow),
        pytest.param(FUSION, {"chunk": 3}, id="fusion, chunks", marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(CONTRASTIVE, lora=True), {"chunk": 2}, id="adapters", marks=pytest.mark.slow),
        pytest.param(
            dataclasses.replace(CONTRASTIVE, dropout="none"),
            {"checkpointing": True},
            id="checkpointing",
            marks=pytest.mark.slow,
        ),
        pytest.param(CONTRASTIVE, {"rows": 7, "chunk": 2}, id="uneven", marks=pytest.mark.slow),
    ],
)
def test_shards_make_the_gradient_of_one_process(
    case: Case, parts: dict[str, int], folder: Path, tmp_path: Path
) -> None:
    case = dataclasses.replace(case, rows=parts.get("rows", PAIRS))
    expected = in_one_process(case, folder)
    found = gradients(dataclasses.replace(case, batch_size=4, sharded=True, **parts), tmp_path, 2)
    error, worst = largest_error(found.gradients, expected.gradients)
    assert error < EXACT, worst
    assert found.log["loss"] == pytest.approx(expected.log["loss"], rel=2e-6)
    assert found.log["grad_norm"] == pytest.approx(expected.log["grad_norm"], rel=2e-6)
    if case.dropout == "sample":
        assert expected.drops > 0 and found.drops > 0, "dropout is off"


def doubled(rows: TensorRows) -> TensorRows:
    rows.tensors["pixel_values_videos"] = rows.tensors["pixel_values_videos"].double()
    return rows


def train(folder: Path, resume: str | None = None, batch_size: int = PAIRS) -> tuple[dict[str, Any], dict[str, float]]:
    """Four clipped steps of AdamW, a checkpoint and an evaluation after each second; the weights, whole, and ranks."""
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel).double(),
        args=arguments(
            folder,
            max_steps=STEPS,
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
    assert trainer.state.global_step == STEPS
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
    expected, ranks = train(tmp_path / "one")

    def sharded(rank: int) -> None:
        with fsdp_on_cpus():
            found = train(tmp_path / "two", batch_size=PAIRS // 2)
            if rank == 0:
                torch.save(found, tmp_path / "found.pt")
                (tmp_path / "two" / "checkpoint-4").rename(tmp_path / "last")
            torch.distributed.barrier()
            resumed = train(tmp_path / "two", "auto", PAIRS // 2)
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
    assert [path.name for path in whole_checkpoints(tmp_path / "two")] == ["checkpoint-2", "checkpoint-4"]
    assert not (tmp_path / "two" / UNFINISHED).exists()

    last = tmp_path / "last"
    loaded = state(LFVilaModel.from_pretrained(last, dtype=torch.float64))
    assert all(torch.allclose(loaded[name], found[name], rtol=0, atol=1e-12) for name in found)
    assert_saved_as_itself(last)

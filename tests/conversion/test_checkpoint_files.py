"""Untrusted checkpoint files: forms that are read, and files that are refused before any of their code runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lfvila_hf.conversion.checkpoint_files import find_weights_file, not_finite, read_state_dict

STATE = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(4, dtype=torch.float16), index=torch.arange(3))


class RunsCode:
    """Object whose unrestricted unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def assert_is_state(read: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(STATE)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in STATE.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"module": STATE, "step": 7},
        {"model": STATE, "optimizer": {"lr": 1.0}},
        {"state_dict": STATE, "epoch": 3},
        {"module": {"model": STATE}},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}},
    ],
    ids=["bare", "module", "model", "state_dict", "twice", "prefix", "both"],
)
def test_a_state_dict_is_found_wherever_trainers_put_it(tmp_path: Path, wrapped: Any, zipped: bool) -> None:
    path = tmp_path / "weights.bin"
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    assert_is_state(read_state_dict(path))


def test_a_folder_with_one_file_of_weights_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    (tmp_path / "global_step7").mkdir()  # DeepSpeed leaves the shards beside it
    assert_is_state(read_state_dict(str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    [
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt",
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "mp_rank_00_model_states.pt",
        "layer_03-model_00-model_states.pt",
    ],
)
def test_sharded_states_are_refused_with_a_hint(tmp_path: Path, name: str) -> None:
    torch.save({"module": STATE}, tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match="part of a sharded DeepSpeed checkpoint.*zero_to_fp32.py"):
            read_state_dict(source)


@pytest.mark.parametrize(("tag", "named"), [("global_step100", "global_step100"), ("best", "latest")])
def test_a_deepspeed_folder_is_refused_with_the_same_hint(tmp_path: Path, tag: str, named: str) -> None:
    (tmp_path / "latest").write_text(tag, encoding="utf-8")
    (tmp_path / tag).mkdir()
    with pytest.raises(ValueError, match=f"{named}.*zero_to_fp32.py"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_before_anything_runs(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.bin", tmp_path / "trace"
    torch.save({"a": torch.ones(2), "b": RunsCode(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="refused, because reading it would run code.*mkdir.*nothing of it was run"):
        read_state_dict(path)
    assert not trace.exists()
    if zipped:  # the trap works: read without care, the file runs its code
        torch.load(path, weights_only=False)
        trace.rmdir()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": RunsCode(trace)}, protocol=protocol))
        with pytest.raises(ValueError, match=r"evil\.bin: (refused|no file of tensors|truncated or no checkpoint)"):
            read_state_dict(path)
        assert not trace.exists()


def test_objects_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content in ({"model": STATE, "config": SimpleNamespace(width=8)}, torch.nn.Linear(2, 2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"refused.*(SimpleNamespace|Linear)"):
            read_state_dict(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, part: float, zipped: bool) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.randn(2000)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    # Cut in the middle of a name, an old file looks as if it asked for something that is not allowed.
    with pytest.raises(ValueError, match=r"weights\.bin: (truncated|no file of tensors|refused.*torch\._utils\._r\))"):
        read_state_dict(path)


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    for content, message in ((b"", "it is empty"), (b"<html>Not found</html>", "no file of tensors that torch.save")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        read_state_dict(path)
    with pytest.raises(ValueError, match=r"missing\.bin: no such file"):
        read_state_dict(tmp_path / "missing.bin")
    with pytest.raises(ValueError, match=r"no pytorch_model\.bin in this folder, it holds \['weights.bin'\]"):
        read_state_dict(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="split into several files"):
        find_weights_file(tmp_path)


LOOP: dict[str, Any] = {}
LOOP["model"] = LOOP


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LOOP, "but these are none: 'model'"),  # a dictionary inside itself
        ([torch.ones(2)], "a dictionary of tensors is expected, got list"),
        ({}, "got an empty dictionary"),
        ({"a": torch.ones(2), "b": 3}, r"but these are none: 'b' \(int\)"),
        ({"a": torch.ones(2), 5: torch.ones(2)}, "but these are none: 5"),
        ({"model": {"layers": {"a": torch.ones(2)}}}, r"'layers' \(a dictionary with \['a'\]\)"),
    ],
)
def test_anything_but_named_tensors_is_an_error(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "weights.bin")


def test_tensors_that_are_not_finite_are_named() -> None:
    good, index = torch.ones(3), torch.arange(3)
    state = {"good": good, "nan": good * float("nan"), "inf": good / 0, "half": (good * 1e6).half(), "index": index}
    assert not_finite(state) == ["nan", "inf", "half"]

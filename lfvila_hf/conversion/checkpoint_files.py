# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Reader of untrusted checkpoint files: released LF-VILA checkpoints (`.bin`) and the original Swin (`.pth`).

Such a file is a pickle, and a pickle can run code. Only torch's restricted unpickler reads it (`weights_only=True`): it
refuses anything but tensors and plain containers before any call is made. No option turns that off. Every problem is
one `ValueError` that names the file.

Memory: a file in torch's zip format is memory-mapped, so only the tensors in use take memory.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

WEIGHTS_FILE = "pytorch_model.bin"
# Keys under which training frameworks store the state dict, beside optimizer, step and the like.
WRAPPERS = ("module", "model", "state_dict")
# Files that DeepSpeed writes per process.
SHARD = re.compile(r"((bf16_)?zero_pp_rank_\d+_.*|.*_optim_states|mp_rank_\d+.*|layer_\d+.*-model_.*states)\.pt")
HINT_SHARDS = (
    "it is a part of a sharded DeepSpeed checkpoint; merge the parts first with the script that DeepSpeed wrote beside "
    f"them (`python zero_to_fp32.py . {WEIGHTS_FILE}`) and pass the resulting {WEIGHTS_FILE}"
)


def read_state_dict(source: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint.

    Args:
        source: A file that `torch.save` wrote, or a folder with one `pytorch_model.bin`. The state dict may be stored
            under "module", "model" or "state_dict", and all its keys may begin with "module.".

    Returns:
        Tensors by name, on the CPU, with their stored dtypes.

    Raises:
        ValueError: The file is missing, one shard of several, truncated, no checkpoint, or it holds anything but
            tensors or no tensors.
    """
    path = find_weights_file(Path(source))
    state: Any = _load(path)
    for _ in WRAPPERS:
        if isinstance(state, Mapping):
            state = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), state)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path}: a dictionary of tensors is expected, got {_describe(state)}")
    strangers = [f"{key!r} ({_describe(value)})" for key, value in state.items() if not _is_entry(key, value)]
    if strangers:
        raise ValueError(f"{path}: a dictionary of tensors is expected, but these are none: {', '.join(strangers)}")
    prefix = "module."
    if all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return dict(state)


def find_weights_file(path: Path) -> Path:
    """Return the file to read: `path` itself, or the `pytorch_model.bin` in it.

    Raises:
        ValueError: There is no such file, or it is one shard of several.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if WEIGHTS_FILE in names:
            return path / WEIGHTS_FILE
        parts = [name for name in names if SHARD.fullmatch(name)]
        tagged = [name for name in names if name.startswith("global_step") and (path / name).is_dir()]
        # DeepSpeed writes these two files whatever the name of its tag folder is.
        marked = [name for name in names if name in ("zero_to_fp32.py", "latest")]
        if parts or tagged or marked:
            raise ValueError(f"{path / (parts or tagged or marked)[0]}: {HINT_SHARDS}")
        if f"{WEIGHTS_FILE}.index.json" in names:
            raise ValueError(f"{path}: the weights are split into several files; write one {WEIGHTS_FILE} instead")
        raise ValueError(f"{path}: no {WEIGHTS_FILE} in this folder, it holds {names or 'nothing'}")
    if SHARD.fullmatch(path.name):
        raise ValueError(f"{path}: {HINT_SHARDS}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """List the names of tensors that hold NaN or infinity."""
    return [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def _load(path: Path) -> Any:
    """Load a file with torch's restricted unpickler; every failure is a `ValueError`."""
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    if starts_as_zip and not is_zip:
        raise ValueError(f"{path}: truncated or damaged, the end of the archive is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise ValueError(
                f"{path}: refused, because reading it would run code or build objects that are no tensors "
                f"({named[1]}); nothing of it was run"
            ) from None
        raise ValueError(f"{path}: no file of tensors that torch.save wrote") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise ValueError(f"{path}: truncated or no checkpoint ({reason})") from None


def _is_entry(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def _describe(value: Any) -> str:
    """Describe a value in a few words for a message."""
    if isinstance(value, Mapping):
        return f"a dictionary with {sorted(map(str, value))[:8]}" if value else "an empty dictionary"
    return type(value).__name__

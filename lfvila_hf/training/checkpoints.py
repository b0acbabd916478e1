# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Checkpoints that are there whole or not at all, and the last one that is whole.

A checkpoint is written into `OUTPUT/.unfinished/checkpoint-N`, flushed to disk, and then renamed to
`OUTPUT/checkpoint-N`, which the file system does in one step. A process that is killed at any moment leaves either no
checkpoint of that name or a whole one; what it leaves in `.unfinished` is removed by the next run. Old checkpoints are
renamed into `.unfinished` before they are deleted, for the same reason. Resuming also passes over folders that other
software left incomplete.

Disk: one checkpoint more than are kept, while one is written.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

logger = logging.get_logger(__name__)

UNFINISHED = ".unfinished"
STATE_FILE = "trainer_state.json"
WEIGHTS = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "pytorch_model*.bin",
    "pytorch_model_fsdp*",
    "global_step*",
)
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*")
"""The last two are FSDP's: of a full state dict, and a folder of a sharded one."""


def missing_parts(checkpoint: str | os.PathLike[str], weights_only: bool = False) -> list[str]:
    """What a folder lacks of a checkpoint that training can go on from; nothing where it is whole.

    Args:
        checkpoint: the folder.
        weights_only: it was written with `save_only_model`.
    """
    folder = Path(checkpoint)
    missing = []
    try:
        json.loads((folder / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        missing.append(STATE_FILE)
    if not any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)):
        missing.append("weights")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).exists())
    if not weights_only and not any(folder.glob("global_step*")):  # DeepSpeed keeps both in there
        has_optimizer = any(any(folder.glob(name)) for name in OPTIMIZER)
        missing += [] if has_optimizer else ["optimizer.pt"]
        missing += [] if (folder / "scheduler.pt").is_file() else ["scheduler.pt"]
    return missing


def step_of(checkpoint: Path) -> int | None:
    """N of a folder `checkpoint-N`, `None` for any other name."""
    prefix, _, number = checkpoint.name.rpartition("-")
    return int(number) if prefix == PREFIX_CHECKPOINT_DIR and number.isdecimal() else None


def whole_checkpoints(folder: str | os.PathLike[str], weights_only: bool = False) -> list[Path]:
    """Checkpoints of a run that are whole, by step; incomplete ones are named in the log."""
    whole = []
    found = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    for path in sorted((one for one in found if step_of(one) is not None), key=lambda one: step_of(one) or 0):
        missing = missing_parts(path, weights_only)
        if missing:
            logger.warning("%s is not whole, it lacks %s: passed over", path, ", ".join(missing))
        else:
            whole.append(path)
    return whole


def recover(folder: str | os.PathLike[str]) -> None:
    """Tidy up what a killed process left behind.

    A checkpoint that was about to be replaced comes back unless the new one is there; anything else unfinished goes.
    """
    unfinished = Path(folder) / UNFINISHED
    for replaced in unfinished.glob("replaced-*"):
        target = Path(folder) / replaced.name.removeprefix("replaced-")
        if not target.exists():
            replaced.rename(target)
    if unfinished.exists():
        shutil.rmtree(unfinished)


def publish(written: Path, target: Path) -> None:
    """Rename a folder that is complete, after its bytes are on disk; a folder in its place is removed afterwards."""
    for path in [*written.rglob("*"), written]:
        _flush(path)
    replaced = written.parent / f"replaced-{target.name}"
    if target.exists():
        target.rename(replaced)
    written.rename(target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    with suppress(OSError):  # there is more in it
        written.parent.rmdir()


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; a reader never sees half of it."""
    doomed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):  # there is more in it
        doomed.parent.rmdir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicCheckpoints(Trainer):
    """The checkpoint half of `LFVilaTrainer`, to be put before `Trainer`."""

    args: Any
    _staging: str | None = None
    _to_push: bool = False

    def _resolved_checkpoint(self, resume_from_checkpoint: Any) -> Any:
        """What to resume from: a folder, or nothing.

        Args:
            resume_from_checkpoint: as for `Trainer.train`; besides, `"auto"`: the last whole checkpoint of
                `output_dir` if there is one, else a run from the beginning.

        Raises:
            ValueError: the folder is not whole, or there is no checkpoint.
        """
        if self.args.should_save:
            recover(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint in (None, False):
            return None
        if resume_from_checkpoint is True or resume_from_checkpoint == "auto":
            found = whole_checkpoints(self.args.output_dir, self.args.save_only_model)
            if not found and resume_from_checkpoint is True:
                raise ValueError(f"there is no whole checkpoint to resume from in {self.args.output_dir}")
            return str(found[-1]) if found else None
        missing = missing_parts(resume_from_checkpoint, self.args.save_only_model)
        if missing:
            raise ValueError(
                f"{resume_from_checkpoint} is no whole checkpoint, it lacks {', '.join(missing)}; "
                'resume_from_checkpoint=True takes the last whole one of output_dir, "auto" also where there is none'
            )
        return resume_from_checkpoint

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go; the folder of unfinished ones while one is written."""
        run_folder = super()._get_output_dir(trial)
        return run_folder if self._staging is None else os.path.join(run_folder, UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint as `Trainer` does, elsewhere, and rename it when every process is done."""
        run_folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written, target = run_folder / UNFINISHED / name, run_folder / name
        best_before = self.state.best_model_checkpoint
        self._staging = name
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        best = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        is_best = best == target or best.exists()
        self.state.best_model_checkpoint = str(best) if self.state.best_global_step and is_best else best_before
        if self.args.should_save:
            self.state.save_to_json(str(written / STATE_FILE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(written, target)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and written.exists():  # a node without a folder shared with the first one
            publish(written, target)
        if self._to_push:
            self._to_push = False
            super()._push_from_checkpoint(str(target))
        if self.args.should_save:
            self._remove_old_checkpoints(run_folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads begin when the checkpoint has its name."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)
        else:
            self._to_push = True

    def _remove_old_checkpoints(self, run_folder: Path) -> None:
        """Keep `save_total_limit` checkpoints, among them the one written last and the best one."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        found = [path for path in run_folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) is not None]
        found.sort(key=lambda path: (path.stat().st_mtime_ns, step_of(path)))
        kept = {found[-1]}
        if self.state.best_model_checkpoint is not None:
            kept.add(Path(self.state.best_model_checkpoint))
        surplus = len(found) - max(limit, len(kept))
        for path in [one for one in found if one not in kept][: max(surplus, 0)]:
            remove(path)


__all__ = ["AtomicCheckpoints", "missing_parts", "publish", "recover", "step_of", "whole_checkpoints"]

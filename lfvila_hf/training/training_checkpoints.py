# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Atomic checkpoints, and the last complete one to resume from.

A checkpoint is written into `OUTPUT/.unfinished/checkpoint-N`, flushed to disk, and then renamed to
`OUTPUT/checkpoint-N`, which the file system does in one step. A process that is killed leaves either no checkpoint of
that name or a complete one; the next run removes the rest in `.unfinished`. Old checkpoints are renamed into
`.unfinished` before they are deleted, for the same reason. Resuming also passes over folders that other software left
incomplete.

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
    """List the parts that a folder lacks of a checkpoint to resume from; empty if it is complete.

    Args:
        checkpoint: Folder of the checkpoint.
        weights_only: The checkpoint was written with `save_only_model`.
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
    """Return N of a folder `checkpoint-N`; `None` for any other name."""
    prefix, _, number = checkpoint.name.rpartition("-")
    return int(number) if prefix == PREFIX_CHECKPOINT_DIR and number.isdecimal() else None


def complete_checkpoints(folder: str | os.PathLike[str], weights_only: bool = False) -> list[Path]:
    """List the complete checkpoints of a run by step. Incomplete ones are named in the log."""
    complete = []
    found = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    for path in sorted((one for one in found if step_of(one) is not None), key=lambda one: step_of(one) or 0):
        missing = missing_parts(path, weights_only)
        if missing:
            logger.warning("%s is incomplete, it lacks %s: passed over", path, ", ".join(missing))
        else:
            complete.append(path)
    return complete


def recover(folder: str | os.PathLike[str]) -> None:
    """Clean up after a killed process.

    Restores a checkpoint that was about to be replaced, unless the new one is there, and deletes unfinished ones.
    """
    unfinished = Path(folder) / UNFINISHED
    for replaced in unfinished.glob("replaced-*"):
        target = Path(folder) / replaced.name.removeprefix("replaced-")
        if not target.exists():
            replaced.rename(target)
    if unfinished.exists():
        shutil.rmtree(unfinished)


def publish(written: Path, target: Path) -> None:
    """Flush a complete folder to disk and rename it to `target`. A folder in its place is deleted afterwards."""
    for path in [*written.rglob("*"), written]:
        _flush(path)
    replaced = written.parent / f"replaced-{target.name}"
    if target.exists():
        target.rename(replaced)
    written.rename(target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    with suppress(OSError):  # not empty
        written.parent.rmdir()


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; no reader sees half of it."""
    doomed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):  # not empty
        doomed.parent.rmdir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicCheckpointMixin(Trainer):
    """Checkpoints of `LFVilaTrainer`. A mixin in front of transformers' `Trainer`."""

    args: Any
    _staging: str | None = None
    _to_push: bool = False

    def _find_checkpoint(self, resume_from_checkpoint: Any) -> Any:
        """Return the folder to resume from; `None` for a run from the beginning.

        Args:
            resume_from_checkpoint: As for `Trainer.train`. Besides, `"auto"` takes the last complete checkpoint of
                `output_dir`, and starts from the beginning if there is none.

        Raises:
            ValueError: The folder is incomplete, or there is no checkpoint.
        """
        if self.args.should_save:
            recover(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint in (None, False):
            return None
        if resume_from_checkpoint is True or resume_from_checkpoint == "auto":
            found = complete_checkpoints(self.args.output_dir, self.args.save_only_model)
            if not found and resume_from_checkpoint is True:
                raise ValueError(f"there is no complete checkpoint to resume from in {self.args.output_dir}")
            return str(found[-1]) if found else None
        missing = missing_parts(resume_from_checkpoint, self.args.save_only_model)
        if missing:
            raise ValueError(
                f"{resume_from_checkpoint} is no complete checkpoint, it lacks {', '.join(missing)}; "
                'resume_from_checkpoint=True takes the last complete one of output_dir, "auto" starts anew without one'
            )
        return resume_from_checkpoint

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder of checkpoints; that of unfinished ones while one is written."""
        run_folder = super()._get_output_dir(trial)
        return run_folder if self._staging is None else os.path.join(run_folder, UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint as `Trainer` does, into another folder, and rename it when every process is done."""
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
        if self.args.local_process_index == 0 and written.exists():  # a node that shares no folder with the first one
            publish(written, target)
        if self._to_push:
            self._to_push = False
            super()._push_from_checkpoint(str(target))
        if self.args.should_save:
            self._remove_old_checkpoints(run_folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint, but not before it has its name."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)
        else:
            self._to_push = True

    def _remove_old_checkpoints(self, run_folder: Path) -> None:
        """Keep `save_total_limit` checkpoints, among them the last written one and the best one."""
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


__all__ = ["AtomicCheckpointMixin", "complete_checkpoints", "missing_parts", "publish", "recover", "step_of"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Atomic checkpoints, and the last complete one to resume from.

A checkpoint is written into `OUTPUT/.unfinished/checkpoint-N`, flushed to disk, and then renamed to
`OUTPUT/checkpoint-N`, which the file system does in one step. A process that is killed leaves either no checkpoint of
that name or a complete one; the next run removes the rest in `.unfinished`. Old checkpoints are renamed into
`.unfinished` before they are deleted, for the same reason.

Every checkpoint holds a manifest, `checkpoint_manifest.json`, with the size and SHA-256 of each of its files and the
number of processes that wrote it. Resuming reads all files once and passes over a checkpoint that is cut, changed or
incomplete, with a warning, to an older one. A checkpoint without a manifest (of other software, or of an older version)
must at least have all parts.

Disk: one checkpoint more than are kept, while one is written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

logger = logging.get_logger(__name__)

UNFINISHED = ".unfinished"
STATE_FILE = "trainer_state.json"
MANIFEST = "checkpoint_manifest.json"
WEIGHTS = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "pytorch_model*.bin",
    "pytorch_model_fsdp*",
    "global_step*",
)
OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_*")
"""The last two are FSDP's: of a full state dict, and a folder of a sharded one."""

DAMAGED_JSON = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Errors of reading a JSON file that is cut or has another shape."""


def problems(checkpoint: str | os.PathLike[str], weights_only: bool = False) -> list[str]:
    """List what keeps a run from resuming from a checkpoint; empty if it is complete and unchanged.

    Reads every file once if there is a manifest.

    Args:
        checkpoint: Folder of the checkpoint.
        weights_only: The checkpoint was written with `save_only_model`.
    """
    folder = Path(checkpoint)
    found = [f"no {part}" for part in _missing_parts(folder, weights_only)]
    if not (folder / MANIFEST).exists():
        return found
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        listed = [(name, entry["size"], entry["sha256"]) for name, entry in files.items()]
    except DAMAGED_JSON:
        return [*found, f"{MANIFEST} cannot be read"]
    for name, size, digest in listed:
        path = folder / name
        if not path.is_file():
            found += [] if f"no {name}" in found else [f"no {name}"]
        elif path.stat().st_size != size:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
        elif _sha256(path) != digest:
            found.append(f"{name} was changed")
    return found


def _missing_parts(folder: Path, weights_only: bool) -> list[str]:
    missing = []
    try:
        json.loads((folder / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        missing.append(STATE_FILE)
    if not any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)):
        missing.append("weights")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            missing += sorted(shard for shard in shards if not (folder / shard).exists())
        except DAMAGED_JSON:
            missing.append(index.name)
    if weights_only:
        return missing
    if not any(folder.glob("global_step*")):  # DeepSpeed keeps optimizer and schedule in there
        has_optimizer = any(any(folder.glob(name)) for name in OPTIMIZER)
        missing += [] if has_optimizer else ["optimizer.pt"]
        missing += [] if (folder / "scheduler.pt").is_file() else ["scheduler.pt"]
    return missing if any(folder.glob("rng_state*.pth")) else [*missing, "rng_state.pth"]


def write_manifest(folder: Path, world_size: int) -> None:
    """Write the manifest of a checkpoint whose files are all there."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({"world_size": world_size, "files": files}, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, "utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def step_of(checkpoint: Path) -> int | None:
    """Return N of a folder `checkpoint-N`; `None` for any other name."""
    prefix, _, number = checkpoint.name.rpartition("-")
    return int(number) if prefix == PREFIX_CHECKPOINT_DIR and number.isdecimal() else None


def checkpoints_of(folder: str | os.PathLike[str]) -> list[Path]:
    """List the checkpoints of a run by step, complete or not."""
    found = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in found if step_of(path) is not None), key=lambda path: step_of(path) or 0)


def last_complete_checkpoint(folder: str | os.PathLike[str], weights_only: bool = False) -> Path | None:
    """Find the checkpoint to resume from. Newer ones that are damaged are named in the log."""
    for path in reversed(checkpoints_of(folder)):
        found = problems(path, weights_only)
        if not found:
            return path
        logger.warning("%s cannot be resumed from (%s): passed over to an older checkpoint", path, ", ".join(found))
    return None


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


def publish(written: Path, target: Path, world_size: int = 1) -> None:
    """Add the manifest to a complete folder, flush it to disk, and rename it to `target`.

    A folder in its place is deleted afterwards.
    """
    write_manifest(written, world_size)
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
            folder, weights_only = self.args.output_dir, self.args.save_only_model
            last = self._on_main_process(lambda: last_complete_checkpoint(folder, weights_only))
            if last is None and resume_from_checkpoint is True:
                raise ValueError(f"there is no complete checkpoint to resume from in {self.args.output_dir}")
            checkpoint = None if last is None else str(last)
        else:
            found = self._on_main_process(lambda: problems(resume_from_checkpoint, self.args.save_only_model))
            if found:
                raise ValueError(
                    f"{resume_from_checkpoint} is no complete checkpoint: {', '.join(found)}; "
                    'resume_from_checkpoint=True takes the last complete one of output_dir, "auto" starts anew without '
                    "one"
                )
            checkpoint = resume_from_checkpoint
        if checkpoint is not None:
            self._warn_of_another_world_size(Path(checkpoint))
        return checkpoint

    def _on_main_process(self, function: Callable[[], Any]) -> Any:
        """Call a function that reads files in the main process, and return its result in all."""
        results = [function() if self.args.process_index == 0 else None]
        return broadcast_object_list(results)[0]

    def _warn_of_another_world_size(self, checkpoint: Path) -> None:
        """Warn that other processes or batches than before make another run."""
        state = json.loads((checkpoint / STATE_FILE).read_text("utf-8"))
        before = _world_size(checkpoint), state.get("train_batch_size")
        now = self.args.world_size, self.args.train_batch_size
        if None not in before and before != now:
            logger.warning(
                "%s was written by %d processes with batches of %d; this run has %d with batches of %d. It continues, "
                "but not as the uninterrupted run would: batches, negatives and random numbers differ",
                checkpoint,
                *before,
                *now,
            )

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
        except Exception as error:
            if not is_disk_full(error, run_folder):
                raise
            shutil.rmtree(written, ignore_errors=True)
            free = shutil.disk_usage(run_folder).free / 2**20
            raise OSError(
                errno.ENOSPC,
                f"the disk is full ({free:.0f} MiB free): {name} was not written and earlier checkpoints are unharmed; "
                'free space and go on with resume_from_checkpoint="auto"',
                str(run_folder),
            ) from error
        finally:
            self._staging = None
        best = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        is_best = best == target or best.exists()
        self.state.best_model_checkpoint = str(best) if self.state.best_global_step and is_best else best_before
        if self.args.should_save:
            self.state.save_to_json(str(written / STATE_FILE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(written, target, self.args.world_size)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and written.exists():  # a node that shares no folder with the first one
            publish(written, target, self.args.world_size)
        if self._to_push:
            self._to_push = False
            super()._push_from_checkpoint(str(target))
        if self.args.should_save:
            self._remove_old_checkpoints(target)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint, but not before it has its name."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)
        else:
            self._to_push = True

    def _remove_old_checkpoints(self, written: Path) -> None:
        """Keep `save_total_limit` checkpoints, among them the one just written and the best one.

        Goes by steps, not by the clock. Checkpoints of later steps than the one just written belong to an abandoned run
        and go first.
        """
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        step = self.state.global_step
        found = sorted(checkpoints_of(written.parent), key=lambda path: ((step_of(path) or 0) <= step, step_of(path)))
        kept = {written}
        if self.state.best_model_checkpoint is not None:
            kept.add(Path(self.state.best_model_checkpoint))
        surplus = len(found) - max(limit, len(kept))
        for path in [one for one in found if one not in kept][: max(surplus, 0)]:
            remove(path)


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tell a full disk from other errors of a save into `folder`.

    safetensors gives the reason in words only. torch does not give it at all: its writer fails, with no space left.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(cause) or "Disk quota exceeded" in str(cause):
            return True
        if "inline_container" in str(cause) and shutil.disk_usage(folder).free < 2**20:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _world_size(checkpoint: Path) -> int | None:
    """Number of processes that wrote a checkpoint; `None` if it has no manifest."""
    try:
        return int(json.loads((checkpoint / MANIFEST).read_text("utf-8"))["world_size"])
    except (OSError, ValueError, KeyError):
        return None


__all__ = [
    "AtomicCheckpointMixin",
    "checkpoints_of",
    "is_disk_full",
    "last_complete_checkpoint",
    "problems",
    "publish",
    "recover",
    "step_of",
    "write_manifest",
]

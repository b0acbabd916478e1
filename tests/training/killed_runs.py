"""A run on real video files that can be killed anywhere: two loader workers, one file that is no video, three epochs.

`train` runs it in this process; `killed` in a forked one, which ends itself with SIGKILL at a chosen moment.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_runs import OnStep, arguments, dropout_config, make_processor, write_rows

from lfvila_hf import LFVilaModel, LFVilaTrainer
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.training import training_checkpoints as checkpoints

ROWS, STEPS = 8, 10  # four batches an epoch, so that two and a half epochs are run


def write_videos(folder: Path) -> Any:
    """Seven videos and a file that is none."""
    write_rows(folder, ROWS)
    (folder / "v_3.mp4").write_bytes(b"this is no video" * 50)
    return load_retrieval(folder / "rows.jsonl", folder)


def make_trainer(rows: Any, tokenizer: Any, folder: Path, **fields: Any) -> LFVilaTrainer:
    """A trainer that writes a checkpoint every third step and keeps two; evaluation comes in between."""
    torch.manual_seed(11)  # weights to start from; the trainer sets the run's seed
    config = dropout_config()
    config.text_config.vocab_size = len(tokenizer)
    model, processor = LFVilaModel(config), make_processor(tokenizer)
    skips = {"on_error": "skip", "max_skip_fraction": 0.5, "skip_journal": str(folder / "skipped.jsonl")}
    options = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 2,
        "eval_strategy": "epoch",
        "dataloader_num_workers": 2,
        "seed": 5,
    }
    return LFVilaTrainer(
        model=model,
        args=arguments(folder, **(options | fields)),
        train_dataset=RetrievalDataset(rows, processor, training=True, seed=5, **skips),
        eval_dataset=RetrievalDataset(rows.select([0, 1]), processor, training=False),
        data_collator=LFVilaCollator(processor, seed=5),
        processing_class=processor,
    )


def train(rows: Any, tokenizer: Any, folder: Path, **fields: Any) -> LFVilaTrainer:
    """Run from the last whole checkpoint, if there is one, to the end."""
    trainer = make_trainer(rows, tokenizer, folder, **fields)
    trainer.train(resume_from_checkpoint="auto")
    return trainer


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(number: int) -> Callable[[LFVilaTrainer], None]:
    """Die in that step, after its gradients."""

    def arm(trainer: LFVilaTrainer) -> None:
        trainer.add_callback(OnStep(lambda: _die() if trainer.state.global_step == number - 1 else None))

    return arm


def while_writing(checkpoint: int, file: str) -> Callable[[LFVilaTrainer], None]:
    """Die when half of that file of that checkpoint is written."""

    def arm(trainer: LFVilaTrainer) -> None:
        save = torch.save

        def half(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            save(value, path, *args, **kwargs)
            if Path(path).name == file and f"checkpoint-{checkpoint}" in str(path):
                os.truncate(path, Path(path).stat().st_size // 2)
                _die()

        torch.save = half

    return arm


def before_renaming(checkpoint: int) -> Callable[[LFVilaTrainer], None]:
    """Die when that checkpoint is written and has not got its name."""

    def arm(trainer: LFVilaTrainer) -> None:
        publish = checkpoints.publish

        def dying(written: Path, target: Path, world_size: int) -> None:
            if target.name == f"checkpoint-{checkpoint}":
                _die()
            publish(written, target, world_size)

        checkpoints.publish = dying

    return arm


def killed(rows: Any, tokenizer: Any, folder: Path, moment: Callable[[LFVilaTrainer], None], **fields: Any) -> None:
    """Run in a process that dies at `moment`."""
    folder.mkdir(parents=True, exist_ok=True)

    def child() -> None:
        try:
            trainer = make_trainer(rows, tokenizer, folder, **fields)
            moment(trainer)
            trainer.train(resume_from_checkpoint="auto")
            (folder / "error").write_text("nothing killed it")
        except BaseException:
            (folder / "error").write_text(traceback.format_exc())
        os._exit(1)

    process = torch.multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    error = folder / "error"
    assert process.exitcode == -signal.SIGKILL, error.read_text() if error.exists() else process.exitcode

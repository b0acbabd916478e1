"""Kill a training run at random moments, again and again, and compare it with one that was never killed: `make soak`.

    python benchmarks/kill_soak.py                      # 20 kills
    python benchmarks/kill_soak.py --kills 3 --steps 20

Real H.264 files (ShapeTales), one of them broken and skipped; two loader workers, dropout, stochastic depth, jitter,
crops and flips; chunks and accumulation; a checkpoint every other step. Each attempt is a process of its own that is
ended with SIGKILL after a random time, its workers with it, and the next one resumes from the last whole checkpoint.
Nothing is lost if the end has the same weights, bit for bit, and the same log. The last line is one JSON object;
status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lfvila_hf import (
    LFVilaConfig,
    LFVilaModel,
    LFVilaProcessor,
    LFVilaTrainer,
    LFVilaTrainingArguments,
    LFVilaVideoProcessor,
)
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.shapetales import ShapeTales, make_shapetales

COMPARED = ("step", "epoch", "loss", "grad_norm", "learning_rate", "global_loss", "mtc_loss")
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def train(tales: ShapeTales, output: Path, steps: int) -> None:
    """Train to the end from the last whole checkpoint, if there is one."""
    torch.manual_seed(1)
    tokenizer = tales.word_tokenizer()
    config = LFVilaConfig.tiny(
        video_config={"num_clips": 4, "drop_path_rate": 0.2, **DROPOUT},
        text_config={"vocab_size": len(tokenizer), **DROPOUT},
    )
    video = config.video_config
    height, width = video.image_size
    processor = LFVilaProcessor(
        LFVilaVideoProcessor(
            size={"height": height, "width": width}, num_frames=video.num_frames, num_clips=video.num_clips
        ),
        tokenizer,
        max_sentences=4,
        max_sentence_length=20,
    )
    rows = load_retrieval(tales.annotations("train"), tales.videos)
    arguments = LFVilaTrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        contrastive_chunk_size=2,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        logging_steps=1,
        dataloader_num_workers=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    skips: dict[str, Any] = {
        "on_error": "skip",
        "max_skip_fraction": 0.2,
        "skip_journal": str(output / "skipped.jsonl"),
    }
    trainer = LFVilaTrainer(
        model=LFVilaModel(config),
        args=arguments,
        train_dataset=RetrievalDataset(rows, processor, training=True, seed=3, **skips),
        data_collator=LFVilaCollator(processor, seed=3),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint="auto")
    assert len(trainer.train_dataset.skip_report()) == 1  # type: ignore[union-attr]  # a RetrievalDataset
    (output / "finished.json").write_text(json.dumps(trainer.state.log_history))
    trainer.save_model(str(output / "final"))


def attempt(tales: ShapeTales, output: Path, steps: int, seconds: float | None) -> bool:
    """One process; whether it got to the end before it was killed. Its workers die with it."""
    output.mkdir(parents=True, exist_ok=True)

    def child() -> None:
        os.setsid()
        quiet = os.open(output / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            train(tales, output, steps)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = torch.multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(seconds)
    if process.is_alive() and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return False
    if process.exitcode != 0:
        raise SystemExit(
            f"error: the run ended with {process.exitcode}:\n{(output / 'output.txt').read_text()[-3000:]}"
        )
    return True


def differences(one: Path, other: Path) -> list[str]:
    """List the differences between two finished runs."""
    weights = [load_file(folder / "final" / "model.safetensors") for folder in (one, other)]
    found = [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    logs = []
    for folder in (one, other):
        entries = json.loads((folder / "finished.json").read_text())
        logs.append([{name: entry[name] for name in COMPARED} for entry in entries if "loss" in entry])
    return found + (["log"] if logs[0] != logs[1] or not logs[0] else [])


def main(arguments: list[str] | None = None) -> int:
    """Run, kill, compare; print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills")
    parser.add_argument("--steps", type=int, default=60, help="optimisation steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args(arguments)
    for name in ("kills", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(options, name)}")
    torch.set_num_threads(1)
    moments = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="lfvila_hf_soak_"))
    try:
        sizes = {
            "train_stories": 22,
            "validation_stories": 0,
            "test_stories": 0,
            "query_stories": 0,
            "clip_files": False,
        }
        tales = make_shapetales(folder / "data", num_workers=1, progress=False, min_clips=4, max_clips=4, **sizes)
        broken = tales.video_path(tales.split_rows("train")[5]["clip_id"])
        broken.write_bytes(broken.read_bytes()[:400])
        start = time.perf_counter()
        attempt(tales, folder / "whole", options.steps, None)
        whole_seconds = time.perf_counter() - start
        print(f"never killed: {options.steps} steps in {whole_seconds:.0f} s", flush=True)

        span, idle = whole_seconds / 4, 0
        reached: list[int] = []
        wrong: list[str] = []
        rounds = 0
        while len(reached) < options.kills:  # a run that gets to its end is compared, and another one begins
            rounds += 1
            run = folder / f"killed-{rounds}"
            finished = False
            while not finished:
                may_be_killed = len(reached) < options.kills
                seconds = moments.uniform(0.0, span)
                finished = attempt(tales, run, options.steps, seconds if may_be_killed else None)
                if finished:
                    break
                steps = [int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")]
                idle = idle + 1 if reached and reached[-1] == max(steps, default=0) else 0
                reached.append(max(steps, default=0))
                span *= 1.5 if idle >= 3 else 1.0  # a busier machine
                print(f"kill {len(reached)} after {seconds:.1f} s, checkpoint {reached[-1]}", flush=True)
            wrong += differences(folder / "whole", run)
        record = {
            "benchmark": "kill_soak",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "kills": len(reached),
            "runs": rounds,
            "steps": options.steps,
            "checkpoints_at_kills": reached,
            "differences": wrong,
            "identical": not wrong,
        }
        print(json.dumps(record))
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""Frames per second that the data pipeline delivers with 2 workers, against what a training step takes.

    python benchmarks/data_pipeline.py                     # workers decode; then from the frame cache
    python benchmarks/data_pipeline.py --step-seconds 0.9 --batch-size 16   # against a step that was measured elsewhere

Videos are drawn and encoded as H.264 on the spot (4 to 6 seconds long, 24 frames per second, 256 x 448 pixels). The
loader is that of the recipes: released frames, crops and size (32 of 192 x 320), a `DataLoader` with workers, batches
collated. The step is that of the tiny model on this machine (the contrastive phase on frames of its own size), or the
seconds that are given. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from lfvila_hf import LFVilaConfig, LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.shapetales import make_shapetales


def frames_per_second(dataset: Any, collate: Any, batch_size: int, workers: int, epochs: int) -> float:
    """Frames that come out of the loader in a second, without the first batch of an epoch (workers start)."""
    loader: Any = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate, persistent_workers=True)
    frames, seconds = 0, 0.0
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        batches = iter(loader)
        next(batches)
        started = time.perf_counter()
        for batch in batches:
            frames += batch["pixel_values_videos"].shape[0] * batch["pixel_values_videos"].shape[1]
        seconds += time.perf_counter() - started
    return frames / seconds


def tiny_step_seconds(batch_size: int, steps: int) -> tuple[float, int]:
    """Seconds of a training step of the tiny model, and its frames per video."""
    config = LFVilaConfig.tiny()
    model = LFVilaForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters())
    height, width = config.video_config.image_size
    batch = {
        "input_ids": torch.randint(5, 500, (batch_size, 4, 20)),
        "pixel_values_videos": torch.randn(batch_size, config.num_frames, 3, height, width),
    }
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        model(**batch, phase="contrastive").loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - started) / steps, config.num_frames


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=64, help="different videos")
    parser.add_argument("--batch-size", type=int, default=8, help="videos in a batch")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--epochs", type=int, default=2, help="times through the videos")
    parser.add_argument("--steps", type=int, default=5, help="training steps that are timed")
    parser.add_argument(
        "--step-seconds", type=float, help="seconds of a step of --batch-size videos, measured elsewhere"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(192, 320), help="height and width of a frame")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tales = make_shapetales(
            Path(folder) / "tales", num_workers=1, progress=False, train_stories=options.videos, test_stories=0,
            validation_stories=0, query_stories=0, height=256, width=448, fps=24, min_clips=2, max_clips=2,
            clip_files=False,
        )  # fmt: skip
        rows = load_retrieval(tales.annotations("train"), tales.videos)
        tokenizer: BertTokenizer = tales.word_tokenizer()
        results: dict[str, Any] = {
            "workers": options.workers,
            "batch_size": options.batch_size,
            "videos": options.videos,
        }
        sizes = {"released": (tuple(options.size), 32), "tiny": ((48, 80), 16)}
        for name, ((height, width), frames) in sizes.items():
            video_processor = LFVilaVideoProcessor(size={"height": height, "width": width}, num_frames=frames)
            processor = LFVilaProcessor(video_processor, tokenizer)
            collate = LFVilaCollator(processor)
            cache = FrameStore(Path(folder) / f"cache_{name}")
            for kind, used in (("decoded", None), ("cached", cache)):
                dataset = RetrievalDataset(rows, processor, training=True, frame_cache=used)
                if used is not None:
                    for number in range(len(dataset)):
                        dataset[number]
                rate = frames_per_second(dataset, collate, options.batch_size, options.workers, options.epochs)
                results[f"{name}_{kind}_frames_per_second"] = round(rate, 1)
        seconds, frames = tiny_step_seconds(options.batch_size, options.steps)
        results["tiny_step_seconds"] = round(seconds, 4)
        results["tiny_need_frames_per_second"] = round(options.batch_size * frames / seconds, 1)
        if options.step_seconds:
            results["need_frames_per_second"] = round(options.batch_size * 32 / options.step_seconds, 1)
    results |= {"torch": torch.__version__, "machine": platform.machine(), "cpus": os.cpu_count()}
    results["load"] = round(os.getloadavg()[0], 1)
    for name, value in results.items():
        print(f"{name:<36} {value}")
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()

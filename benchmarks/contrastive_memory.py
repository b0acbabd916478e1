"""Peak memory of a contrastive step by batch size, with and without gradient caching.

    python benchmarks/contrastive_memory.py                                    # batches 8 ... 512, chunks of 8
    python benchmarks/contrastive_memory.py --batches 8 64 --chunk 4

Every batch size and way is measured in a forked process: the memory that this process needs on top of what the model,
its gradients and the batch take, at its peak (`VmHWM`). Batches of pixels are made before; the features of the batch
and one chunk's graph are what is left. Time is in contrastive_time.py. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime

import torch
import transformers
from measuring import cpu_name, peak_rss_mb

import lfvila_hf
from lfvila_hf import LFVilaConfig, LFVilaModel
from lfvila_hf.loss_lfvila import LFVilaLoss, draw_mtc
from lfvila_hf.training.global_batch_losses import GlobalBatch, cached_backward, contrastive_shares, split_inputs

SENTENCE_LENGTH = 16


def make_model(image_size: tuple[int, int], frames: int) -> LFVilaModel:
    """A small model of four levels whose activations of one video outweigh its features by far."""
    torch.manual_seed(0)
    config = LFVilaConfig(
        video_config={
            "image_size": list(image_size),
            "num_frames": frames,
            "num_clips": 4,
            "patch_size": 8,
            "embed_dim": 32,
            "depths": [2, 2, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "temporal_windows": [2, 2, frames // 4, frames],
            "merge_after": [0, 1, 2],
            "clip_level": 2,
            "pool_size": [1, 1],
            "hidden_dropout_prob": 0.1,
        },
        text_config={
            "vocab_size": 1000,
            "hidden_size": 256,
            "num_sentence_layers": 2,
            "num_paragraph_layers": 1,
            "num_cross_modal_layers": 0,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 4 * SENTENCE_LENGTH,
        },
    )
    return LFVilaModel(config).train()


def make_step(model: LFVilaModel, batch: int, chunk: int | None) -> Callable[[], float]:
    """Forward and backward of a batch; returns the loss."""
    video = model.config.video_config
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 1000, (batch, 4, SENTENCE_LENGTH), generator=generator)  # (B, M, L)
    pixels = torch.rand(batch, video.num_frames, 3, *video.image_size, generator=generator)  # (B, T, 3, H, W)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    criterion, draw = LFVilaLoss(model.config), draw_mtc(batch, 4, seed=2)
    everyone = GlobalBatch((batch,))
    chunks = split_inputs(inputs, 1 if chunk is None else -(-batch // chunk))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> float:
        loss = cached_backward(
            lambda **part: model(**part, return_loss=False),
            chunks,
            lambda features: criterion.total(contrastive_shares(criterion, features, draw, everyone)),
        )
        return loss.item()

    return step


def measure_memory(options: argparse.Namespace, batch: int, chunk: int | None) -> dict[str, float | None]:
    """MiB that a step takes at its peak on top of model, gradients and batch, and the features' share of it."""
    model = make_model(options.image_size, options.frames)
    step = make_step(model, batch, chunk)
    gc.collect()
    before = peak_rss_mb()
    loss = step()
    config = model.config
    return {
        "step_mb": round(peak_rss_mb() - before, 1),
        "features_mb": round(batch * (2 + 4 + config.num_clips) * config.hidden_size * 4 / 2**20, 2),
        "loss": loss,
    }


def fresh(options: argparse.Namespace, batch: int, chunk: int | None) -> dict[str, float | None]:
    """`measure_memory` in a forked process, whose peak begins at what is resident when it is forked."""
    context = torch.multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(measure_memory(options, batch, chunk)))
    process.start()
    process.join()
    if process.exitcode or not receiver.poll():
        raise SystemExit(f"error: batch {batch} in chunks of {chunk} ended with {process.exitcode}")
    found: dict[str, float | None] = receiver.recv()
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128, 512], help="batch sizes")
    parser.add_argument("--whole-up-to", type=int, default=128, help="largest batch that is also made whole")
    parser.add_argument("--chunk", type=int, default=8, help="videos of a chunk")
    parser.add_argument("--frames", type=int, default=8, help="T")
    parser.add_argument("--image-size", type=int, nargs=2, default=(32, 48), help="height and width")
    options = parser.parse_args(arguments)
    for name in ("chunk", "frames"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name)}")
    if options.frames % 4:
        parser.error(f"--frames must be a multiple of the 4 clips, got {options.frames}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    rows = []
    print(f"{'batch':>6} {'whole MiB':>10} {'chunks MiB':>11} {'features MiB':>13}")
    for batch in options.batches:
        whole = fresh(options, batch, None) if batch <= options.whole_up_to else None
        parts = fresh(options, batch, options.chunk)
        rows.append({"batch": batch, "whole": whole, "chunks": parts})
        shown = f"{whole['step_mb']:10.1f}" if whole else f"{'-':>10}"
        print(f"{batch:6} {shown} {parts['step_mb']:11.1f} {parts['features_mb']:13.2f}", flush=True)
    record = {
        "benchmark": "contrastive_memory",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": vars(options),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lfvila_hf": lfvila_hf.__version__,
        },
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
        "memory": rows,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()

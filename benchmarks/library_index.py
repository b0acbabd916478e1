"""Where the time of `lfvila-hf index` goes: decoding and the model, or everything around them.

    python benchmarks/library_index.py --videos FOLDER --checkpoint CKPT

With one decoder and the model in one process, the seconds of the calling thread are counted as "decode" (waiting for
frames at the model's size), "model", "thumbnails" and "write"; what is left of "total" is glue, and "finish" is the one
step at the end that writes the new index. Without `--checkpoint` a model of the released size with random weights is
used. The last line is one JSON object; `decode_or_model` is their part of total and finish together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import torch


def load(checkpoint: str | None, processor_of: str) -> tuple[Any, Any]:
    """A checkpoint, or the released size with random weights and the processor of a checkpoint at that size."""
    from lfvila_hf import LFVilaConfig, LFVilaModel
    from lfvila_hf.library.fingerprint import load_checkpoint

    if checkpoint:
        return load_checkpoint(checkpoint)
    _, processor = load_checkpoint(processor_of)
    config = LFVilaConfig.base()
    video = config.video_config
    processor.video_processor.size = {"height": video.image_size[0], "width": video.image_size[1]}
    processor.video_processor.num_frames, processor.video_processor.num_clips = video.num_frames, video.num_clips
    return LFVilaModel(config).eval(), processor


def main() -> None:
    """Index a folder once and say where the time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", required=True, help="folder of videos")
    parser.add_argument("--checkpoint", help="checkpoint (default: the released size, random weights)")
    parser.add_argument("--processor", default="outputs/demo/checkpoint", help="where the tokenizer comes from then")
    parser.add_argument("--segment-seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()

    from lfvila_hf.library.indexing import index_folder
    from lfvila_hf.library.segments import SegmentRule

    model, processor = load(options.checkpoint, options.processor)
    with tempfile.TemporaryDirectory() as output:
        report = index_folder(
            options.videos,
            output,
            model,
            processor,
            rule=SegmentRule(options.segment_seconds),
            num_workers=options.workers,
        )
    assert report is not None
    seconds = {name: round(value, 3) for name, value in report.seconds.items()}
    whole = report.seconds["total"] + report.seconds["finish"]
    used = report.seconds["decode"] + report.seconds["model"]
    answer = {
        "benchmark": "library_index",
        "videos": report.videos,
        "segments": report.segments,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "decode_or_model": round(used / whole, 4),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

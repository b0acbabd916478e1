"""What the data tests share: a few barcode videos with annotations in the released formats, and a processor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from video_files import write_video

from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_processing_lfvila import LFVilaVideoProcessor

NUM_FRAMES = 4
HEIGHT, WIDTH = 32, 48


def make_processor(tokenizer: Any, **video_options: Any) -> LFVilaProcessor:
    """T = 4 frames of 32 x 48 pixels in K = 2 clips, up to 4 sentences of 12 tokens."""
    options: dict[str, Any] = {
        "size": {"height": HEIGHT, "width": WIDTH},
        "num_frames": NUM_FRAMES,
        "num_clips": 2,
        "crop_ratio_is_relative": True,
        **video_options,
    }
    return LFVilaProcessor(LFVilaVideoProcessor(**options), tokenizer, max_sentences=4, max_sentence_length=12)


def write_json_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_retrieval(root: Path, count: int = 6, frames: int = 30, first: int = 0) -> tuple[Path, Path]:
    """Whole videos `v_0` ... whose first frames carry the numbers 0, 100, 200 ...; gives annotation file and root."""
    videos = root / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + count):
        write_video(videos / f"v_{number}.mp4", frames, size=(64, 96), first_number=100 * number)
        rows.append({"clip_id": f"v_{number}", "text": ["A man rides.", f"The ball is in box {number}."]})
    return write_json_lines(root / f"retrieval_{first}.jsonl", rows), videos


def write_pretraining(root: Path, clip_counts: Iterable[int] = (2, 3, 5), frames: int = 7) -> tuple[Path, Path]:
    """Long videos `w_0` ... in clip files; clip c of video v starts with the barcode 1000 v + 100 c."""
    clips = root / "clips"
    rows = []
    for video, count in enumerate(clip_counts):
        (clips / f"w_{video}").mkdir(parents=True, exist_ok=True)
        row = []
        for clip in range(count):
            name = f"w_{video}.{clip}.mp4"
            write_video(clips / f"w_{video}" / name, frames, size=(64, 96), first_number=1000 * video + 100 * clip)
            row.append({"clip_id": name, "text": f"In clip {clip} the man is in box {video}."})
        rows.append(row)
    return write_json_lines(root / "pretraining.jsonl", rows), clips

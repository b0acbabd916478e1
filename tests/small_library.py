"""What the library tests share: a tiny model with its processor, a folder of small videos, made-up vectors.

The model has two clips a segment more than one and forgets nothing: its weights are large enough that every video gets
features of its own. Videos are 24 x 40 pixels; 25 frames are one second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import TEXT, VIDEO, tiny_config, tiny_model
from transformers import BertTokenizer
from video_files import write_video

from lfvila_hf import LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.search.segments import SegmentRule

D, K, T = TEXT["hidden_size"], VIDEO["num_clips"], VIDEO["num_frames"]
RULE = SegmentRule(seconds=1.0, overlap=0.5)
STORY = ["a man rides", "the ball is red", "then it is blue"]


def make_processor(vocabulary: dict[str, int]) -> LFVilaProcessor:
    """A processor for `make_model`, four sentences of ten tokens."""
    height, width = VIDEO["image_size"]
    videos = LFVilaVideoProcessor(size={"height": height, "width": width}, num_frames=T, num_clips=K)
    return LFVilaProcessor(videos, BertTokenizer(vocab=dict(vocabulary)), max_sentences=4, max_sentence_length=10)


def make_model(vocabulary: dict[str, int], seed: int = 0, **fields: Any) -> LFVilaForPreTraining:
    """A tiny pre-training model whose weights matter."""
    return tiny_model(LFVilaForPreTraining, tiny_config(text={"vocab_size": len(vocabulary)}, **fields), seed=seed)


def make_checkpoint(folder: Path, vocabulary: dict[str, int], seed: int = 0) -> Path:
    """Both, saved."""
    make_model(vocabulary, seed).save_pretrained(folder)
    make_processor(vocabulary).save_pretrained(folder)
    return folder


def make_videos(folder: Path, lengths: tuple[int, ...] = (20, 60, 25, 45), start: int = 0) -> list[Path]:
    """Videos of so many frames, `clip_0.mp4` and so on, each showing other numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_video(folder / f"clip_{start + n}.mp4", length, size=(24, 40), first_number=137 * (start + n))
        for n, length in enumerate(lengths)
    ]


def random_vectors(count: int, width: int = 64, seed: int = 0, groups: int = 0) -> np.ndarray:
    """L2-normalised vectors `(count, width)`; with `groups`, gathered around so many centres."""
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((count, width)).astype(np.float32)
    if groups:
        array = 0.5 * array + generator.standard_normal((groups, width)).astype(np.float32)[np.arange(count) % groups]
    return array / np.linalg.norm(array, axis=1, keepdims=True)

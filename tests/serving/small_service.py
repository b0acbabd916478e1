"""An encoder without a model, whose vectors say what it saw, and a small video for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from video_files import write_video

from lfvila_hf.search.encoders import Clip, StoryEncoder, as_encoder

WIDTH = 8


class CountingEncoder:
    """Sentences by their characters, clips by the mean colours of their frames."""

    name = "counting"
    fingerprint = "counting"
    frames_per_clip = 3

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        if "break" in sentences:
            raise ValueError("this encoder breaks")
        return np.array([np.bincount([ord(one) % WIDTH for one in text], minlength=WIDTH) for text in sentences], float)

    def encode_clips(self, clips: Sequence[Clip]) -> np.ndarray:
        means = [clip.frames.double().mean((0, 2, 3)).numpy() for clip in clips]
        return np.array([np.concatenate([mean, [1.0] * (WIDTH - 3)]) for mean in means])


def make_encoder() -> StoryEncoder:
    """The encoder as the service takes it; for `lfvila-hf serve small_service:make_encoder` too."""
    return as_encoder(CountingEncoder())


def make_video(folder: Path, frames: int = 10) -> bytes:
    """The bytes of a small video."""
    return write_video(folder / "small.mp4", frames, size=(24, 40)).read_bytes()


def data_url(video: bytes) -> str:
    """A video as requests carry it."""
    return f"data:video/mp4;base64,{base64.b64encode(video).decode()}"

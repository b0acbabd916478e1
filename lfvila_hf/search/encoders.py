# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Story encoders: sentences and clips in one space, for any dual encoder.

`load_encoder` finds the family of a checkpoint from its configuration; `as_encoder` wraps a model with its processor,
or an object of your own with two methods:

    class MyEncoder:
        def encode_sentences(self, sentences): ...  # list of str -> (M, D)
        def encode_clips(self, clips): ...          # list of Clip -> (N, D)

Optional attributes of such an object: `name`, `fingerprint`, `frames_per_clip` (4), `clip_seconds` (4.0), `frame_size`
(256, pixels of the shorter side that frames are scaled down to). Its vectors are L2-normalised for it.

Letters: M sentences, N clips or segments, F frames of a clip, T frames of a segment, K clips of a segment, D width.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

IRRELEVANT = frozenset(
    "_name_or_path architectures transformers_version dtype torch_dtype training_phase id2label label2id problem_type "
    "auto_map output_attentions output_hidden_states return_dict chunk_size_feed_forward use_cache "
    "is_encoder_decoder".split()
)
"""Fields of a configuration that change from save to save, or from head to head, and no feature depends on."""
OWN_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PROBES = ("a man rides a horse", "a red ball falls", "the water is blue")


@dataclass(frozen=True)
class Clip:
    """A few frames of a video, for encoders of your own.

    Args:
        frames: `(F, 3, H, W)` uint8 RGB.
        seconds: F seconds on the video.
    """

    frames: torch.Tensor
    seconds: tuple[float, ...]


class StoryEncoder:
    """Base class of the encoder families.

    Attributes:
        name: Name for people, such as "CLIPModel".
        checkpoint: Folder or repository of the weights, "" for an object.
        width: D.
        frames_per_clip: F, frames that a clip wants.
        clip_seconds: Default length of a clip.
        fingerprint: SHA-256 of all that the numbers depend on.
        dtype: Precision of the weights by name.
        text_limit: Tokens of a sentence that are read, 0 for no limit.
        num_frames: T for an encoder that reads whole segments, else 0.
        has_clips: Whether it gives clip and sentence vectors.
    """

    name: str = ""
    checkpoint: str = ""
    width: int = 0
    frames_per_clip: int = 4
    clip_seconds: float = 4.0
    fingerprint: str = ""
    dtype: str = "float32"
    text_limit: int = 0
    num_frames: int = 0
    has_clips: bool = True

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """Scale one decoded picture `(3, h, w)` uint8 to what the encoder keeps of it; runs in decoding threads."""
        raise NotImplementedError

    def encode_clips(self, frames: torch.Tensor, seconds: Sequence[Sequence[float]]) -> torch.Tensor:
        """Embed clips of prepared frames `(N, F, 3, H, W)`; returns `(N, D)`, L2-normalised float32 on the CPU."""
        raise NotImplementedError

    def encode_segments(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed segments `(N, T, 3, H, W)`; returns `(N, D)` and clips `(N, K, D)` or `None`."""
        raise ValueError(f"{self.name} reads clips, not segments")

    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embed sentences; returns `(M, D)`, L2-normalised float32 on the CPU."""
        raise NotImplementedError

    def encode_story(self, sentences: Sequence[str]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Embed a story: sentence vectors `(M, D)`, and a paragraph vector `(D,)` if the encoder has one."""
        return self.encode_stories([sentences])[0]

    def encode_stories(self, stories: Sequence[Sequence[str]]) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
        """Embed several stories at once; for each what `encode_story` returns."""
        vectors = self.encode_sentences([sentence for sentences in stories for sentence in sentences])
        return [(part, None) for part in vectors.split([len(sentences) for sentences in stories])]

    def notes(self, sentences: Sequence[str]) -> list[str]:
        """Say what the encoder cannot read of a story."""
        lengths = self.count_tokens(sentences) if self.text_limit else []
        cut = [str(number + 1) for number, length in enumerate(lengths) if length > self.text_limit]
        return [f"only the first {self.text_limit} tokens of sentence {', '.join(cut)} were read"] if cut else []

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """Count the tokens of every sentence."""
        return [0] * len(sentences)

    def to(self, device: Any, dtype: str | None = None) -> StoryEncoder:
        """Move to a device, and to a precision by its name."""
        return self


class OwnEncoder(StoryEncoder):
    """An object with `encode_sentences` and `encode_clips`.

    Args:
        own: The object.

    Raises:
        ValueError: A method is missing.
    """

    def __init__(self, own: Any) -> None:
        missing = [name for name in ("encode_sentences", "encode_clips") if not callable(getattr(own, name, None))]
        if missing:
            raise ValueError(
                f"{type(own).__name__} is no encoder: it has no method {' and no '.join(missing)}. See "
                "lfvila_hf/search/encoders.py for the two methods of an encoder"
            )
        self.own = own
        self.name = str(getattr(own, "name", type(own).__name__))
        self.frames_per_clip = int(getattr(own, "frames_per_clip", 4))
        self.clip_seconds = float(getattr(own, "clip_seconds", 4.0))
        self.frame_size = int(getattr(own, "frame_size", 256))
        probe = self.encode_sentences(PROBES)
        self.width = probe.shape[1]
        given = getattr(own, "fingerprint", None)
        self.fingerprint = str(given) if given else self._measured(probe)

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """See `StoryEncoder`."""
        return shrink(picture, self.frame_size / min(picture.shape[1:]))

    def encode_clips(self, frames: torch.Tensor, seconds: Sequence[Sequence[float]]) -> torch.Tensor:
        """See `StoryEncoder`."""
        clips = [Clip(one, tuple(times)) for one, times in zip(frames, seconds, strict=True)]
        return self._checked(self.own.encode_clips(clips), len(clips), "encode_clips")

    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """See `StoryEncoder`."""
        return self._checked(self.own.encode_sentences(list(sentences)), len(sentences), "encode_sentences")

    def notes(self, sentences: Sequence[str]) -> list[str]:
        """See `StoryEncoder`."""
        own = getattr(self.own, "notes", None)
        return list(own(sentences)) if callable(own) else []

    def _checked(self, vectors: Any, count: int, method: str) -> torch.Tensor:
        vectors = torch.as_tensor(np.asarray(vectors) if not torch.is_tensor(vectors) else vectors)
        if vectors.ndim != 2 or len(vectors) != count or (self.width and vectors.shape[1] != self.width):
            expected = f"({count}, {self.width or 'D'})"
            raise ValueError(f"{self.name}.{method} gave an array {tuple(vectors.shape)}, expected {expected}")
        return normalized(vectors, self.name)

    def _measured(self, probe: torch.Tensor) -> str:
        """A fingerprint of the answers to fixed inputs, for an object that has none."""
        frames = torch.arange(self.frames_per_clip * 3 * 64 * 64).remainder(251).to(torch.uint8)
        clip = self.encode_clips(frames.view(1, self.frames_per_clip, 3, 64, 64), [[0.0] * self.frames_per_clip])
        digest = hashlib.sha256(self.name.encode())
        digest.update((torch.cat([probe, clip]) * 100).round().to(torch.int8).numpy().tobytes())
        return digest.hexdigest()


def shrink(picture: torch.Tensor, scale: float) -> torch.Tensor:
    """Scale a picture `(3, h, w)` down; it is returned as it is if `scale` is 1 or more."""
    if scale >= 1:
        return picture
    size = [max(round(side * scale), 1) for side in picture.shape[1:]]
    return functional.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]


def normalized(vectors: torch.Tensor, name: str) -> torch.Tensor:
    """L2-normalise to float32 on the CPU.

    Raises:
        ValueError: A vector is not finite, or zero.
    """
    vectors = vectors.detach().float().cpu()
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not torch.isfinite(lengths).all() or not (lengths > 0).all():
        raise ValueError(f"{name} gives features that are not finite or zero: check its weights and its dtype")
    return vectors / lengths


def as_encoder(model: Any, processor: Any = None, checkpoint: str = "") -> StoryEncoder:
    """Wrap a model with its processor, or an object of one's own.

    Args:
        model: A `StoryEncoder`, a transformers model, a `SentenceTransformer`, or an object with two methods.
        processor: The processor of a transformers model.
        checkpoint: Folder or repository that it came from.

    Raises:
        ValueError: The model cannot put sentences and clips in one space.
    """
    from lfvila_hf.search import encoder_families as families

    if isinstance(model, StoryEncoder):
        encoder = model
    elif families.is_lfvila(model):
        encoder = families.LFVilaEncoder(model, processor)
    elif isinstance(model, torch.nn.Module):
        encoder = families.family_of(model)(model, processor)
    else:
        encoder = OwnEncoder(model)
    encoder.checkpoint = checkpoint or encoder.checkpoint
    return encoder


def load_encoder(
    checkpoint: str,
    trust_remote_code: bool = False,
    with_fusion: bool = False,
    device: Any = None,
    dtype: str | None = None,
) -> StoryEncoder:
    """Load the encoder of a folder or repository.

    Args:
        checkpoint: Folder, repository on the Hub, or `module:name` of an encoder of your own (the object, or a
            function without arguments that makes it).
        trust_remote_code: Let the checkpoint run its own Python code.
        with_fusion: Load the cross-modal encoder of LF-VILA too, to rerank hits.
        device: Device of the weights. Defaults to the CPU.
        dtype: Precision by name. Defaults to the checkpoint's.

    Raises:
        ValueError: The checkpoint is not there, is no dual encoder, or lacks weights or a vocabulary.
    """
    if OWN_OBJECT.fullmatch(checkpoint) and not os.path.exists(checkpoint):
        module, _, name = checkpoint.partition(":")
        try:
            own = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the encoder {checkpoint} cannot be imported: {error}") from error
        encoder = as_encoder(own() if isinstance(own, type) or not hasattr(own, "encode_clips") else own)
    else:
        from lfvila_hf.search import encoder_families as families

        checkpoint = os.path.abspath(checkpoint) if os.path.isdir(checkpoint) else checkpoint
        encoder = families.load(checkpoint, trust_remote_code, with_fusion)
    encoder.checkpoint = checkpoint
    return encoder.to(device or "cpu", dtype)


def default_device(checkpoint: str, offered: Any = None) -> Any:
    """Choose the device of an encoder that `load_encoder` loads.

    Args:
        checkpoint: As for `load_encoder`.
        offered: Device of this process. Defaults to "cuda" if there is one, else "cpu".

    Returns:
        The device; "cpu" for an exported folder, which runs nowhere else.
    """
    from lfvila_hf.export.manifest import is_exported

    if is_exported(checkpoint):
        return "cpu"
    return offered or ("cuda" if torch.cuda.is_available() else "cpu")


def fingerprint_of(model: torch.nn.Module, settings: Any, vocabulary: Any) -> str:
    """Compute a SHA-256 over weights, configuration, processor settings and vocabulary.

    Args:
        model: The weights count as they are, in their precision.
        settings: Anything that JSON can carry; fields that no feature depends on are left out.
        vocabulary: The same.

    Raises:
        ValueError: A weight is not finite.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"the weight {name} is not finite: the checkpoint is damaged or training diverged")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(_relevant(settings), sort_keys=True, default=str).encode())
    digest.update(json.dumps(vocabulary, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _relevant(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _relevant(item) for key, item in value.items() if key not in IRRELEVANT}
    return [_relevant(item) for item in value] if isinstance(value, list | tuple) else value


__all__ = ["Clip", "OwnEncoder", "StoryEncoder", "as_encoder", "default_device", "fingerprint_of", "load_encoder"]

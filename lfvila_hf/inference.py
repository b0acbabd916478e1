# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embeddings in one call: `encode_videos` and `encode_paragraphs`.

Sources go in, in any number and of any length; features come out on the CPU, batch by batch, so that memory is one
batch of pixels plus D numbers per video, sentence and clip. What comes out is what `LFVilaModel.similarity` takes.

Letters: B videos, M sentences, K clips, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import batch_of_videos


@dataclass
class VideoEmbeddings:
    """Features of videos.

    Attributes:
        video_embeds: `(B, D)`, L2-normalised.
        clip_embeds: `(B, K, D)`, L2-normalised; `None` without `temporal_alignment`.
        metadata: one `LFVilaVideoMetadata` per video, with the second of each frame.
    """

    video_embeds: torch.Tensor
    clip_embeds: torch.Tensor | None
    metadata: list[Any]


@dataclass
class ParagraphEmbeddings:
    """Features of paragraphs.

    Attributes:
        text_embeds: `(B, D)`, L2-normalised.
        sentence_embeds: `(B, M, D)`, L2-normalised; `None` without `temporal_alignment`.
        sentence_mask: `(B, M)`, 1 for a real sentence.
    """

    text_embeds: torch.Tensor
    sentence_embeds: torch.Tensor | None
    sentence_mask: torch.Tensor


def encode_videos(
    model: LFVilaModel,
    processor: Any,
    videos: Any,
    batch_size: int = 8,
    progress: bool = False,
    **kwargs: Any,
) -> VideoEmbeddings:
    """Embed videos.

    Args:
        model: an `LFVilaModel`; it is used as it is (device, dtype) and put in evaluation mode for the call.
        processor: its `LFVilaProcessor`.
        videos: a list (or iterator) of sources as the processor takes them: paths, bytes, open files, arrays, lists of
            clip files; a single source, a list of pictures among them, is a batch of one.
        batch_size: videos decoded and encoded at once.
        progress: whether to show a progress bar.
        **kwargs: for the video processor.

    Returns:
        Features in the order of `videos`, on the CPU, in float32.

    Raises:
        ValueError: there is no video.
        LFVilaVideoError: a video cannot be used.
    """
    if isinstance(videos, Iterator) and not hasattr(videos, "read"):  # an open file is an iterator too
        videos = list(videos)
    lazy = isinstance(videos, Sequence) and not isinstance(videos, list | tuple | str | bytes | bytearray | memoryview)
    sources = videos if lazy else batch_of_videos(videos)  # a sequence that reads its sources is cut, not listed
    embeds, clips, metadata = [], [], []
    for batch in _batches(sources, batch_size, "videos", progress):
        inputs = processor(videos=batch, return_metadata=True, **kwargs)
        metadata.extend(inputs["video_metadata"])
        with _evaluating(model):
            output = model.get_video_features(inputs["pixel_values_videos"].to(model.device), return_dict=True)
        embeds.append(output.video_embeds.float().cpu())
        if output.clip_embeds is not None:
            clips.append(output.clip_embeds.float().cpu())
    return VideoEmbeddings(torch.cat(embeds), torch.cat(clips) if clips else None, metadata)


def encode_paragraphs(
    model: LFVilaModel,
    processor: Any,
    paragraphs: str | Sequence[str | Sequence[str]] | Iterator[str | Sequence[str]],
    batch_size: int = 32,
    progress: bool = False,
    **kwargs: Any,
) -> ParagraphEmbeddings:
    """Embed paragraphs.

    Args:
        model: an `LFVilaModel`; it is used as it is (device, dtype) and put in evaluation mode for the call.
        processor: its `LFVilaProcessor`.
        paragraphs: one string (taken as one sentence) or one list of sentences each; a bare string is a batch of one.
        batch_size: paragraphs encoded at once.
        progress: whether to show a progress bar.
        **kwargs: for the processor.

    Returns:
        Features in the order of `paragraphs`, on the CPU, in float32; M is that of the longest paragraph.

    Raises:
        ValueError: there is no paragraph, or an empty one.
    """
    if isinstance(paragraphs, str):
        paragraphs = [paragraphs]
    elif isinstance(paragraphs, Iterator):
        paragraphs = list(paragraphs)
    embeds, sentences, masks = [], [], []
    for batch in _batches(paragraphs, batch_size, "paragraphs", progress):
        inputs = processor(text=[[p] if isinstance(p, str) else list(p) for p in batch], **kwargs)
        with _evaluating(model):
            ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
            output = model.get_text_features(ids, mask, return_dict=True)
        embeds.append(output.text_embeds.float().cpu())
        masks.append(output.sentence_mask.cpu())
        if output.sentence_embeds is not None:
            sentences.append(output.sentence_embeds.float().cpu())
    longest = max(mask.shape[1] for mask in masks)
    masks = [F.pad(mask, (0, longest - mask.shape[1])) for mask in masks]
    sentences = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in sentences]
    return ParagraphEmbeddings(torch.cat(embeds), torch.cat(sentences) if sentences else None, torch.cat(masks))


def _batches(items: Sequence[Any], size: int, name: str, progress: bool) -> Iterator[list[Any]]:
    """`items` in lists of `size`, with a progress bar where asked for."""
    if size < 1:
        raise ValueError(f"batch_size must be positive, got {size}")
    if len(items) == 0:
        raise ValueError(f"{name} is empty, at least one is expected")
    starts: Any = range(0, len(items), size)
    if progress:
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=f"encoding {name}", unit="batch")
    for start in starts:
        yield list(items[start : start + size])


@contextmanager
def _evaluating(model: LFVilaModel) -> Iterator[None]:
    """No gradients and evaluation mode inside, every module's own mode again after (parts may be frozen in eval)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True

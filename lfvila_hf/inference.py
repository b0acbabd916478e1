# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embeddings of videos and paragraphs in one call: `encode_videos` and `encode_paragraphs`.

Both take any number of inputs, encode them in batches and return features on the CPU, as `LFVilaModel.similarity`
takes them.

Threads decode videos ahead of the model (data/batch_decoding.py). The pixels of a video and its random draws do not
depend on its batch: with the same `seed`, one call of the processor for all videos gives the same frames. Videos of
different shape `(T, 3, H, W)` do not share a batch; if the shape changes, the batch so far is encoded.

Paragraphs are sorted by their numbers of sentences and words, because padding costs as much as real tokens. Features
come back in the order of the input.

Memory: the pixels of one batch and of `num_workers + 2` more videos, and D numbers per video, sentence and clip.

Letters: B videos, T frames, M sentences, L tokens, K clips, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import batch_of_videos
from lfvila_hf.video_reading_lfvila import describe_source


@dataclass
class VideoEmbeddings:
    """Features of videos.

    Args:
        video_embeds: `(B, D)`, L2-normalised.
        clip_embeds: `(B, K, D)`, L2-normalised; `None` without `temporal_alignment`.
        metadata: One `LFVilaVideoMetadata` per video, with the time of each frame in seconds.
    """

    video_embeds: torch.Tensor
    clip_embeds: torch.Tensor | None
    metadata: list[Any]


@dataclass
class ParagraphEmbeddings:
    """Features of paragraphs.

    Args:
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
    num_workers: int = 1,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> VideoEmbeddings:
    """Embed videos.

    Args:
        model: An `LFVilaModel`; its device and dtype are kept, and it is in evaluation mode during the call.
        processor: `LFVilaProcessor` of the model.
        videos: List or iterator of sources as the processor takes them: paths, bytes, open files, arrays, lists of
            clip files. A single source (also a list of pictures) is a batch of one.
        batch_size: Videos encoded at once. Defaults to 8.
        progress: Whether to show a progress bar. Defaults to False.
        num_workers: Videos decoded at the same time, ahead of the model; 0 decodes between batches. Defaults to 1.
        dtype: Half precision for autocast (`torch.bfloat16`, `torch.float16`). Defaults to `None`, the dtype of the
            weights.
        **kwargs: Passed to the video processor.

    Returns:
        Features in the order of `videos`, on the CPU, in float32.

    Raises:
        ValueError: There is no video, or an argument is out of range.
        LFVilaVideoError: A video cannot be decoded.
    """
    if isinstance(videos, Iterator) and not hasattr(videos, "read"):  # an open file is an iterator too
        videos = list(videos)
    lazy = isinstance(videos, Sequence) and not isinstance(videos, list | tuple | str | bytes | bytearray | memoryview)
    sources = videos if lazy else batch_of_videos(videos)  # a sequence that reads its sources is cut, not listed
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    batches = _batches(sources, batch_size, "videos", progress)
    embeds, clips, metadata = [], [], []
    for pixels, described in _pixels(batches, len(sources), processor, num_workers, kwargs):
        metadata.extend(described)
        with eval_mode(model), autocast_if(dtype, model.device):
            output = model.get_video_features(pixels.to(model.device), return_dict=True)
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
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> ParagraphEmbeddings:
    """Embed paragraphs.

    Args:
        model: An `LFVilaModel`; its device and dtype are kept, and it is in evaluation mode during the call.
        processor: `LFVilaProcessor` of the model.
        paragraphs: One string (taken as one sentence) or one list of sentences each; a bare string is a batch of one.
        batch_size: Paragraphs encoded at once. Defaults to 32.
        progress: Whether to show a progress bar. Defaults to False.
        dtype: Half precision for autocast, as for `encode_videos`. Defaults to `None`.
        **kwargs: Passed to the processor.

    Returns:
        Features in the order of `paragraphs`, on the CPU, in float32; M is that of the longest paragraph.

    Raises:
        ValueError: There is no paragraph, or an empty one.
    """
    if isinstance(paragraphs, str):
        paragraphs = [paragraphs]
    elif isinstance(paragraphs, Iterator):
        paragraphs = list(paragraphs)
    texts = [[text] if isinstance(text, str) else list(text) for text in paragraphs]
    for place, text in enumerate(texts):
        if not text or not all(isinstance(sentence, str) and sentence.strip() for sentence in text):
            processor(text=texts[: place + 1], **kwargs)  # raises, with the index in the caller's list
    order = sorted(range(len(texts)), key=lambda place: _length(texts[place]))
    embeds, sentences, masks = [], [], []
    for places in _batches(order, batch_size, "paragraphs", progress):
        inputs = processor(text=[texts[place] for place in places], **kwargs)
        with eval_mode(model), autocast_if(dtype, model.device):
            ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
            output = model.get_text_features(ids, mask, return_dict=True)
        embeds.append(output.text_embeds.float().cpu())
        masks.append(output.sentence_mask.cpu())
        if output.sentence_embeds is not None:
            sentences.append(output.sentence_embeds.float().cpu())
    longest = max(mask.shape[1] for mask in masks)
    back = torch.tensor(order).argsort()
    sentence_mask = torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for mask in masks])[back]
    sentences = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in sentences]
    sentence_embeds = torch.cat(sentences)[back] if sentences else None
    return ParagraphEmbeddings(torch.cat(embeds)[back], sentence_embeds, sentence_mask)


def _pixels(
    batches: Iterator[list[Any]], count: int, processor: Any, num_workers: int, kwargs: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, list[Any]]]:
    """Yield pixels `(B, T, 3, H, W)` and metadata of every batch of sources; videos are decoded ahead, in order."""
    work = _work_of(batches, count, processor, kwargs)

    def read(one: _Work) -> tuple[_Work, Any]:
        return one, processor(videos=[one.source], return_metadata=True, **one.kwargs)

    decoded: Iterator[tuple[int, tuple[_Work, Any]]]
    decoded = decode_videos(work, num_workers=num_workers, read=read) if num_workers else enumerate(map(read, work))
    waiting: list[torch.Tensor] = []
    described: list[Any] = []
    for _, (one, inputs) in decoded:
        pixels = inputs["pixel_values_videos"]  # (1, T, 3, H, W)
        if waiting and waiting[0].shape != pixels.shape:
            yield torch.cat(waiting), described
            waiting, described = [], []
        waiting.append(pixels)
        described.extend(inputs["video_metadata"])
        if one.last:
            yield torch.cat(waiting), described
            waiting, described = [], []


@dataclass(frozen=True)
class _Work:
    """One video to decode.

    Args:
        source: The video.
        kwargs: Arguments of the processor for it.
        last: Whether it ends a batch.
    """

    source: Any
    kwargs: dict[str, Any]
    last: bool

    @property
    def name(self) -> Any:
        """Name of the video in messages; open files have one too."""
        return describe_source(self.source)


def _work_of(batches: Iterator[list[Any]], count: int, processor: Any, kwargs: dict[str, Any]) -> Iterator[_Work]:
    """Yield every video with its generator and its entry of `video_metadata`."""
    shared = {**kwargs, **kwargs.get("videos_kwargs", {})}
    shared.pop("videos_kwargs", None)
    seed, generator = shared.pop("seed", None), shared.pop("generator", None)
    if seed is not None and generator is not None:
        raise ValueError(f"got seed={seed} and a generator; pass only one of them")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    entries = shared.pop("video_metadata", None)
    if entries is not None:
        entries = list(entries) if isinstance(entries, list | tuple) else [entries]
        if len(entries) != count:
            raise ValueError(f"{count} videos but {len(entries)} entries of video_metadata: pass one per video")
    settings = {name: getattr(processor.video_processor, name, None) for name in ("training", "sampling")} | shared
    draws = settings["training"] or settings["sampling"] == "jittered"
    place = 0
    for batch in batches:
        for number, source in enumerate(batch):
            own = dict(shared)
            if entries is not None:
                own["video_metadata"] = entries[place : place + 1]
            if draws:  # here and not in the threads, so that draws follow the order of the videos
                turn = torch.default_generator if generator is None else generator
                own["generator"] = turn.clone_state()
                torch.randint(2**62, (), generator=turn)  # the processor draws one number per video
            place += 1
            yield _Work(source, own, last=number == len(batch) - 1)


def _length(sentences: list[str]) -> tuple[int, int]:
    """Return the sort key of a paragraph: its number of sentences, then of words."""
    return len(sentences), sum(len(sentence.split()) for sentence in sentences)


def autocast_if(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to a half precision, or do nothing if `dtype` is `None`.

    Args:
        dtype: `torch.bfloat16`, `torch.float16` or `None`.
        device: Device of the computation.

    Raises:
        ValueError: Any other dtype.
    """
    if dtype is None:
        return nullcontext()
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    return torch.autocast(device.type, dtype=dtype)


def _batches(items: Sequence[Any], size: int, name: str, progress: bool) -> Iterator[list[Any]]:
    """Yield `items` in lists of `size`, with a progress bar if `progress`."""
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    if len(items) == 0:
        raise ValueError(f"{name} is empty, pass at least one")
    starts: Any = range(0, len(items), size)
    if progress:
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=f"encoding {name}", unit="batch")
    for start in starts:
        yield list(items[start : start + size])


@contextmanager
def eval_mode(model: LFVilaModel) -> Iterator[None]:
    """Set evaluation mode and inference mode, and restore the mode of every module afterwards.

    Modules are restored one by one, because frozen parts of a model in training are in evaluation mode.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True

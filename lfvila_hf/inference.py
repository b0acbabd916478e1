# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embeddings in one call: `encode_videos` and `encode_paragraphs`.

Sources go in, in any number and of any length; features come out on the CPU, batch by batch. What comes out is what
`LFVilaModel.similarity` takes.

Videos are decoded ahead in threads (data/batch_decoding.py) while the model works on those before them. The pixels of
a video do not depend on its batch, nor do random draws: each video draws from the generator as it stands at its turn,
so that `seed` gives what one call of the processor for all of them would give. Only videos of equally many frames
of one size share a batch; where a neighbour differs, a smaller batch is encoded.

Paragraphs are sorted by their number of sentences and tokens first, so that a batch holds equally long ones: sentences
that only fill up a batch cost as much as real ones. The order that was given comes back.

Memory: the pixels of one batch, of `num_workers + 2` videos more, and D numbers per video, sentence and clip.

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
    num_workers: int = 1,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> VideoEmbeddings:
    """Embed videos.

    Args:
        model: an `LFVilaModel`; it is used as it is (device, dtype) and put in evaluation mode for the call.
        processor: its `LFVilaProcessor`.
        videos: a list (or iterator) of sources as the processor takes them: paths, bytes, open files, arrays, lists of
            clip files; a single source, a list of pictures among them, is a batch of one.
        batch_size: videos encoded at once.
        progress: whether to show a progress bar.
        num_workers: videos decoded ahead at the same time, while the model works; 0 decodes between two batches.
        dtype: compute in half precision (`torch.bfloat16`, `torch.float16`) by autocast; the model's own type where not
            given. Weights stay as they are.
        **kwargs: for the video processor.

    Returns:
        Features in the order of `videos`, on the CPU, in float32.

    Raises:
        ValueError: there is no video, or numbers make no sense.
        LFVilaVideoError: a video cannot be used.
    """
    if isinstance(videos, Iterator) and not hasattr(videos, "read"):  # an open file is an iterator too
        videos = list(videos)
    lazy = isinstance(videos, Sequence) and not isinstance(videos, list | tuple | str | bytes | bytearray | memoryview)
    sources = videos if lazy else batch_of_videos(videos)  # a sequence that reads its sources is cut, not listed
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    batches = _batches(sources, batch_size, "videos", progress)
    embeds, clips, metadata = [], [], []
    for pixels, described in _pixels(batches, len(sources), processor, num_workers, kwargs):
        metadata.extend(described)
        with evaluating(model), computing_in(dtype, model.device):
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
        model: an `LFVilaModel`; it is used as it is (device, dtype) and put in evaluation mode for the call.
        processor: its `LFVilaProcessor`.
        paragraphs: one string (taken as one sentence) or one list of sentences each; a bare string is a batch of one.
        batch_size: paragraphs encoded at once.
        progress: whether to show a progress bar.
        dtype: compute in half precision by autocast, as for `encode_videos`.
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
    texts = [[text] if isinstance(text, str) else list(text) for text in paragraphs]
    for place, text in enumerate(texts):
        if not text or not all(isinstance(sentence, str) and sentence.strip() for sentence in text):
            processor(text=texts[: place + 1], **kwargs)  # raises, and names the place in the caller's list
    order = sorted(range(len(texts)), key=lambda place: _length(texts[place]))
    embeds, sentences, masks = [], [], []
    for places in _batches(order, batch_size, "paragraphs", progress):
        inputs = processor(text=[texts[place] for place in places], **kwargs)
        with evaluating(model), computing_in(dtype, model.device):
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
    """Pixels `(B, T, 3, H, W)` and metadata of every batch of sources; videos are decoded ahead, in order."""
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
    """One video, what the processor is told about it, and whether a batch ends with it."""

    source: Any
    kwargs: dict[str, Any]
    last: bool

    @property
    def name(self) -> Any:
        """How messages name it, as for an open file."""
        return describe_source(self.source)


def _work_of(batches: Iterator[list[Any]], count: int, processor: Any, kwargs: dict[str, Any]) -> Iterator[_Work]:
    """Every video with its own generator and its own entry of `video_metadata`."""
    shared = {**kwargs, **kwargs.get("videos_kwargs", {})}
    shared.pop("videos_kwargs", None)
    seed, generator = shared.pop("seed", None), shared.pop("generator", None)
    if seed is not None and generator is not None:
        raise ValueError("give a generator or a seed, not both")
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    entries = shared.pop("video_metadata", None)
    if entries is not None:
        entries = list(entries) if isinstance(entries, list | tuple) else [entries]
        if len(entries) != count:
            raise ValueError(f"{count} videos but {len(entries)} entries of video_metadata: one per video is needed")
    settings = {name: getattr(processor.video_processor, name, None) for name in ("training", "sampling")} | shared
    draws = settings["training"] or settings["sampling"] == "jittered"
    place = 0
    for batch in batches:
        for number, source in enumerate(batch):
            own = dict(shared)
            if entries is not None:
                own["video_metadata"] = entries[place : place + 1]
            if draws:  # in the order of the videos, whichever thread reads them
                turn = torch.default_generator if generator is None else generator
                own["generator"] = turn.clone_state()
                torch.randint(2**62, (), generator=turn)  # the one number that the processor draws per video
            place += 1
            yield _Work(source, own, last=number == len(batch) - 1)


def _length(sentences: list[str]) -> tuple[int, int]:
    """What a paragraph costs: the number of its sentences first, then their words."""
    return len(sentences), sum(len(sentence.split()) for sentence in sentences)


def computing_in(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to `dtype`; nothing where none is given."""
    if dtype is None:
        return nullcontext()
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    return torch.autocast(device.type, dtype=dtype)


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
def evaluating(model: LFVilaModel) -> Iterator[None]:
    """No gradients and evaluation mode inside, every module's own mode again after (parts may be frozen in eval)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True

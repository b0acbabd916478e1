"""Our checkpoints as an encoder of MTEB, so that its video-text tasks can run them (extra `mteb`).

Videos are taken from the data set undecoded and read by our own reader, a batch at a time; torchcodec is not needed. A
text is cut into sentences, which is what the text tower reads.

    import mteb
    from lfvila_hf.hub.mteb_model import LFVilaMTEB
    mteb.evaluate(LFVilaMTEB("org/lfvila-..."), mteb.get_tasks(tasks=["..."]))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from transformers import AutoModel, AutoProcessor

from lfvila_hf.inference import encode_paragraphs, encode_videos


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, which is cut after `.`, `!` or `?` where a space follows.

    Raises:
        ValueError: the text is empty.
    """
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]
    if not sentences:
        raise ValueError(f"an empty text has no sentences, got {text!r}")
    return sentences


class LFVilaMTEB(AbsEncoder):
    """An LF-VILA checkpoint for `mteb.evaluate`.

    Args:
        model_name: folder or repository of an `LFVilaModel` and its processor.
        revision: of the repository.
        device: where to compute.
        batch_size: videos decoded and encoded at once.
        **kwargs: for `AutoModel.from_pretrained`.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 8,
        **kwargs: Any,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = AutoModel.from_pretrained(model_name, revision=revision, **kwargs).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(model_name, revision=revision)
        self.batch_size = batch_size
        config = self.model.config
        fields = {
            "name": model_name if model_name.count("/") == 1 else f"local/{model_name.rstrip('/').split('/')[-1]}",
            "revision": revision or "local",
            "modalities": ["video", "text"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "embed_dim": config.hidden_size,
            "n_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "max_tokens": self.processor.max_sentences * self.processor.max_sentence_length,
            "framework": ["PyTorch", "Transformers"],
            "open_weights": True,
        }
        self.mteb_model_meta = ModelMeta.create_empty(fields)

    def encode(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        """Embed what a task gives: texts, videos, or (the sum of both) pairs.

        Args:
            inputs: MTEB's loader; its data set has a column `text`, `video` or both.
            **kwargs: what MTEB says about the task; `show_progress_bar` is heeded.

        Returns:
            `(rows, D)` on the CPU.

        Raises:
            ValueError: there is neither column.
            LFVilaVideoError: a video cannot be used.
        """
        dataset: Dataset = inputs.dataset
        progress = bool(kwargs.get("show_progress_bar", False))
        found = []
        if "text" in dataset.column_names:
            paragraphs = [split_sentences(text) for text in dataset["text"]]
            found.append(encode_paragraphs(self.model, self.processor, paragraphs, progress=progress).text_embeds)
        if "video" in dataset.column_names:
            found.append(self._videos(dataset, progress))
        if not found:
            raise ValueError(f"LF-VILA embeds texts and videos, the data set has columns {dataset.column_names}")
        return sum(found[1:], found[0])

    def _videos(self, dataset: Dataset, progress: bool) -> torch.Tensor:
        if isinstance(dataset.features["video"], Video):
            dataset = dataset.cast_column("video", Video(decode=False))
        sources = _VideoSources(dataset)
        return encode_videos(self.model, self.processor, sources, self.batch_size, progress=progress).video_embeds


class _VideoSources(Sequence[Any]):
    """The column `video` of a data set as sources for our reader, row by row, so that memory holds one batch."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        value = self.dataset[index]["video"]
        return (value["bytes"] or value["path"]) if isinstance(value, dict) and "bytes" in value else value

"""MTEB encoder of our checkpoints, for its video-text tasks (extra `mteb`).

Videos are taken from the data set undecoded and read by our reader, a batch at a time; torchcodec is not needed. Texts
are split into sentences, the input of the text tower. A blank text gets the embedding of a sentence without words.

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
from lfvila_hf.search.encoders import fingerprint_of


def split_sentences(text: str) -> list[str]:
    """Split a text after `.`, `!` or `?` where white space follows; empty for a blank text."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


class LFVilaMTEB(AbsEncoder):
    """LF-VILA checkpoint for `mteb.evaluate`.

    Args:
        model_name: Folder or repository of an `LFVilaModel` and its processor.
        revision: Revision of the repository. By default results are stored under the first digits of a SHA-256 of
            the weights and settings.
        device: Device of the model. Defaults to a GPU if there is one.
        batch_size: Texts or videos encoded at once, unless the call of `encode` says otherwise, as `mteb.evaluate`
            does.
        **kwargs: Arguments of `AutoModel.from_pretrained`.

    Raises:
        ValueError: Weights are missing: the scores of random ones would be published.
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
        model, report = AutoModel.from_pretrained(model_name, revision=revision, output_loading_info=True, **kwargs)
        if missing := sorted(report["missing_keys"]):
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ValueError(
                f"{model_name} lacks the weights {', '.join(missing[:5])}{more}. Evaluate a whole checkpoint."
            )
        self.model: Any = model.to(device).eval()
        self.processor = AutoProcessor.from_pretrained(model_name, revision=revision)
        self.batch_size = batch_size
        config = self.model.config
        fields = {
            "name": model_name if model_name.count("/") == 1 else f"local/{model_name.rstrip('/').split('/')[-1]}",
            # MTEB stores results by name and revision, and most local folders are called "checkpoint".
            "revision": revision or fingerprint_of(self.model, config.to_dict(), self.processor.to_dict())[:16],
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
        """Embed the rows of a task: texts, videos, or pairs (the sum of both embeddings).

        Args:
            inputs: MTEB's loader, whose data set has a column `text`, `video` or both.
            **kwargs: MTEB's description of the task, of which `batch_size` and `show_progress_bar` are used.

        Returns:
            Embeddings `(rows, D)` on the CPU.

        Raises:
            ValueError: The data set has neither column.
            LFVilaVideoError: A video cannot be used.
        """
        dataset: Dataset = inputs.dataset
        progress = bool(kwargs.get("show_progress_bar", False))
        batch_size = int(kwargs.get("batch_size") or self.batch_size)
        found = []
        if "text" in dataset.column_names:
            found.append(self._texts(list(dataset["text"]), batch_size, progress))
        if "video" in dataset.column_names:
            found.append(self._videos(dataset, batch_size, progress))
        if not found:
            raise ValueError(f"the data set has columns {dataset.column_names}, expected texts and videos: text, video")
        return sum(found[1:], found[0])

    def _texts(self, texts: list[str], batch_size: int, progress: bool) -> torch.Tensor:
        paragraphs = [split_sentences(text) for text in texts]
        real = [place for place, paragraph in enumerate(paragraphs) if paragraph]
        embeddings = self._blank().repeat(len(texts), 1)
        if real:
            kept = [paragraphs[place] for place in real]
            embeddings[real] = encode_paragraphs(self.model, self.processor, kept, batch_size, progress).text_embeds
        return embeddings

    @torch.no_grad()
    def _blank(self) -> torch.Tensor:
        """Embed a sentence without words, `(1, D)`."""
        inputs = self.processor(text=[""], text_kwargs={"as_sentences": True}).to(self.model.device)
        return self.model.get_text_features(**inputs).text_embeds.float().cpu()

    def _videos(self, dataset: Dataset, batch_size: int, progress: bool) -> torch.Tensor:
        if isinstance(dataset.features["video"], Video):
            dataset = dataset.cast_column("video", Video(decode=False))
        sources = _VideoSources(dataset)
        return encode_videos(self.model, self.processor, sources, batch_size, progress=progress).video_embeds


class _VideoSources(Sequence[Any]):
    """Column `video` of a data set as sources of our reader, row by row, so that memory holds one batch."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        value = self.dataset[index]["video"]
        return (value["bytes"] or value["path"]) if isinstance(value, dict) and "bytes" in value else value

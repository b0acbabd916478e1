# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Paragraphs and videos to the tensors that every LF-VILA model takes, and alignments back to seconds.

A paragraph is a list of sentences. More than `max_sentences` are joined, neighbours with the fewest characters first,
as the released retrieval loader does; fewer are filled up with empty sentences whose mask is 0. Each sentence is
padded or cut to a fixed length L, because the position of token i of sentence m is `m * L + i` in the second text
stage: L belongs to the checkpoint and is stored here.

Letters: B videos or paragraphs, N answers, M sentences, L tokens, T frames, K clips, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .alignment_lfvila import monotone_alignment
from .video_processing_lfvila import LFVilaVideoMetadata

# Sentences of a paragraph and tokens of a sentence that may be asked for; a typing error must not fill the memory.
MOST_SENTENCES = MOST_TOKENS = 4096
# Arguments of tokenizers, with the values that ask for what sentences get anyway: one length for all, ids and masks.
AS_ALWAYS: dict[str, tuple[Any, ...]] = {
    "padding": (True, "max_length", "longest"),
    "truncation": (True, "longest_first"),
    "padding_side": ("right", None),
    "add_special_tokens": (True,),
    "pad_to_multiple_of": (None,),
    "return_attention_mask": (True, None),
    "verbose": (True, False),
    **dict.fromkeys(("return_token_type_ids", "return_length", "return_special_tokens_mask"), (False, None)),
    **dict.fromkeys(("return_offsets_mapping", "return_overflowing_tokens", "is_split_into_words"), (False, None)),
}


class SentenceMoment(NamedTuple):
    """Span of the video that one sentence of a paragraph describes.

    Args:
        sentence: Number of the sentence, from 0, after merging.
        start: Second at which its clip starts.
        end: Second at which its clip ends.
        score: Cosine of sentence and clip.
    """

    sentence: int
    start: float
    end: float
    score: float


class LFVilaProcessor(ProcessorMixin):
    """Video processor and tokenizer in one.

    Args:
        video_processor: `LFVilaVideoProcessor`.
        tokenizer: Any BERT WordPiece tokenizer.
        max_sentences: Sentences of a paragraph that are kept apart, M at most.
        max_sentence_length: Tokens of a sentence, L, `[CLS]` and `[SEP]` included; longer ones are cut.
        pad_to_max_sentences: Fill every paragraph up to `max_sentences` instead of to the longest of its batch.
    """

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        max_sentences: int = 4,
        max_sentence_length: int = 50,
        pad_to_max_sentences: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_sizes(max_sentences, max_sentence_length)
        self.max_sentences = max_sentences
        self.max_sentence_length = max_sentence_length
        self.pad_to_max_sentences = pad_to_max_sentences
        super().__init__(video_processor, tokenizer, **kwargs)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Accept our video processor if the library's own base class is a placeholder (without torchvision)."""
        if argument_name == "video_processor":
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return ["input_ids", "attention_mask", "pixel_values_videos"]

    def __call__(
        self,
        text: Any = None,
        videos: Any = None,
        max_sentences: int | None = None,
        max_sentence_length: int | None = None,
        pad_to_max_sentences: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Tensors of a batch of paragraphs, of videos, or of both; their numbers need not agree.

        Args:
            text: A string (one sentence of one video), a list of strings (a batch of one-sentence paragraphs), a list
                of lists (a batch of paragraphs), or one level deeper (the answers of multiple choice questions).
            videos: One source, a list of sources (a batch), or a list of lists of sources (a batch of videos given as
                clip files); `read_frames` lists the kinds of source.
            max_sentences: The stored one if left out.
            max_sentence_length: The stored one if left out.
            pad_to_max_sentences: The stored one if left out.
            generator: Randomness of frames, crops and flips.
            kwargs: Arguments of the video processor (`training`, `seed`, `num_frames`, ...), `return_tensors` ("pt"
                if left out), `return_metadata`; also grouped as `videos_kwargs={...}` and `text_kwargs={...}`.
                `text_kwargs={"as_sentences": True}` is the layout of generic text encoders (sentence-transformers):
                a list of texts, one sentence each, blank ones included, to `(B, L)`.

        Returns:
            `input_ids` and `attention_mask` `(B, M, L)`, or `(B, N, M, L)` for multiple choice; `pixel_values_videos`
            `(B, T, 3, H, W)`; and, with `return_metadata`, `video_metadata`.

        Raises:
            ValueError: for an empty batch, paragraph or sentence, naming it, or for text of no known shape.
            LFVilaVideoError: for a video that cannot be used.
        """
        if text is None and videos is None:
            raise ValueError("LFVilaProcessor needs text, videos or both, got neither")
        kwargs = self._without_idle_arguments(kwargs)  # type: ignore[assignment]  # some of its keys
        self._check_arguments(kwargs)
        own: Any = self.valid_processor_kwargs  # 5.17 wants a class here, 5.23 is annotated with an instance
        merged = self._merge_kwargs(own, tokenizer_init_kwargs={}, **kwargs)
        data: dict[str, Any] = {}
        kind = merged["text_kwargs"].get("return_tensors") or merged["videos_kwargs"].get("return_tensors") or "pt"
        if text is not None:
            length = merged["text_kwargs"].get("max_length") if max_sentence_length is None else max_sentence_length
            length = self.max_sentence_length if length is None else length
            sentences = self.max_sentences if max_sentences is None else max_sentences
            _check_sizes(sentences, length)
            pad = self.pad_to_max_sentences if pad_to_max_sentences is None else pad_to_max_sentences
            if merged["text_kwargs"].get("as_sentences"):
                data.update(self._tokenize(text, length))
            else:
                data.update(self._encode(text, sentences, length, pad))
        if videos is not None:
            options = merged["videos_kwargs"] | {"return_tensors": "pt"}
            if generator is not None:
                options["generator"] = generator
            data.update(self.video_processor(videos, **options))
        tensors = kind if kind != "pt" else None  # they are torch tensors already
        return BatchFeature(data, tensor_type=tensors, skip_tensor_conversion=["video_metadata"])

    def post_process_alignment(
        self, outputs: Any, metadata: Sequence[LFVilaVideoMetadata]
    ) -> list[list[SentenceMoment]]:
        """Locate each sentence of each pair in its video.

        The sentences of a paragraph are mapped to the clips of its video in order, so that the mean cosine is
        highest. A clip lasts from its first sampled frame to the first frame of the next clip, the last one to the
        end of the video.

        Args:
            outputs: With `sentence_embeds (B, M, D)`, `clip_embeds (B, K, D)` and, if sentences are padded,
                `sentence_mask (B, M)`, as attributes or keys, such as the output of `LFVilaModel`.
            metadata: `video_metadata` of the same B videos.

        Returns:
            For each pair one `SentenceMoment` per real sentence, in order.

        Raises:
            ValueError: if the numbers of texts, videos and metadata differ, T is no multiple of K, or a video's
                seconds are not known.
        """
        sentence_embeds, clip_embeds = _field(outputs, "sentence_embeds"), _field(outputs, "clip_embeds")
        if not len(sentence_embeds) == len(clip_embeds) == len(metadata):
            raise ValueError(
                f"an alignment needs pairs, got {len(sentence_embeds)} texts, {len(clip_embeds)} videos "
                f"and {len(metadata)} entries of metadata"
            )
        mask = outputs.get("sentence_mask") if isinstance(outputs, Mapping) else getattr(outputs, "sentence_mask", None)
        similarity = torch.einsum("bmd,bkd->bmk", sentence_embeds.float(), clip_embeds.float())  # (B, M, K)
        _, clip_index = monotone_alignment(similarity, mask)  # (B, M)
        moments = []
        for pair, video in enumerate(metadata):
            bounds = _clip_bounds(video, similarity.shape[2])
            row = []
            for sentence, clip in enumerate(clip_index[pair].tolist()):
                if clip >= 0:
                    score = similarity[pair, sentence, clip].item()
                    row.append(SentenceMoment(sentence, bounds[clip], bounds[clip + 1], score))
            moments.append(row)
        return moments

    def _without_idle_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Drop arguments of generic callers: absent modalities, and values that ask for the default."""
        idle = {"images_kwargs", "audio_kwargs"}
        idle |= {name for name in ("images", "audio") if kwargs.get(name) is None}
        idle |= {name for name, values in AS_ALWAYS.items() if kwargs.get(name) in values}
        return {name: value for name, value in kwargs.items() if name not in idle}

    def _check_arguments(self, kwargs: Mapping[str, Any]) -> None:
        known = {"text_kwargs", "videos_kwargs", "common_kwargs", "return_tensors", "max_length"}
        known |= set(self.video_processor.valid_kwargs.__annotations__)
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise TypeError(f"{type(self).__name__} does not know the arguments {unknown}")
        given = kwargs.get("text_kwargs") or {}
        asked_anyway = {name for name, values in AS_ALWAYS.items() if given.get(name) in values}
        unknown = sorted(set(given) - {"as_sentences", "max_length", "return_tensors"} - asked_anyway)
        if unknown:
            raise ValueError(
                f"text_kwargs {unknown} cannot be set: sentences are always padded and cut to max_sentence_length"
            )

    def _tokenize(self, text: Sequence[str], length: int, width: int | None = None) -> dict[str, torch.Tensor]:
        """Tokenise each text as one sentence: `(B, L)`.

        Cut and padded on the right, which the model reads, whatever sides and lengths the tokenizer was set to.

        Args:
            text: One or more texts; a blank one is `[CLS] [SEP]`.
            length: Most tokens of one.
            width: L. Defaults to the longest one.
        """
        rows = self.tokenizer(list(text), padding=False, truncation=False, return_token_type_ids=False, verbose=False)[
            "input_ids"
        ]
        rows = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in rows]  # [SEP] stays
        input_ids = torch.full((len(rows), width or max(map(len, rows))), self.tokenizer.pad_token_id or 0)
        attention_mask = torch.zeros_like(input_ids)
        for place, row in enumerate(rows):
            input_ids[place, : len(row)] = torch.tensor(row)
            attention_mask[place, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _encode(self, text: Any, max_sentences: int, length: int, pad: bool) -> dict[str, torch.Tensor]:
        paragraphs, choices = _as_paragraphs(text)
        merged = [merge_sentences(paragraph, max_sentences) for paragraph in paragraphs]
        rows = max_sentences if pad else max(map(len, merged))
        encoded = self._tokenize([sentence for paragraph in merged for sentence in paragraph], length, length)
        fillers = {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0}
        real = torch.tensor([row < len(paragraph) for paragraph in merged for row in range(rows)])
        shape = (len(merged), rows, length) if choices is None else (-1, choices, rows, length)
        tensors = {}
        for name, filler in fillers.items():
            values = encoded[name].new_full((len(merged) * rows, length), filler)
            values[real] = encoded[name]
            tensors[name] = values.reshape(shape)  # (B, M, L) or (B, N, M, L)
        return tensors


def merge_sentences(sentences: Sequence[str], max_sentences: int) -> list[str]:
    """Join neighbouring sentences until at most `max_sentences` are left, always the pair with the fewest characters.

    Args:
        sentences: The paragraph.
        max_sentences: Most sentences that stay.
    """
    merged = list(sentences)
    while len(merged) > max_sentences:
        lengths = [len(one) + len(next_one) for one, next_one in zip(merged, merged[1:], strict=False)]
        place = lengths.index(min(lengths))
        merged[place : place + 2] = [f"{merged[place]} {merged[place + 1]}"]
    return merged


def _as_paragraphs(text: Any) -> tuple[list[list[str]], int | None]:
    """Flatten any allowed nesting to a list of paragraphs; also return the number of answers N of multiple choice."""
    if isinstance(text, str):
        return [[_sentence(text, "text")]], None
    batch = _items(text, "text")
    if all(isinstance(item, str) for item in batch):
        return [[_sentence(item, f"text {place}")] for place, item in enumerate(batch)], None
    rows = [_items(item, f"text {place}") for place, item in enumerate(batch)]
    if all(isinstance(item, str) for row in rows for item in row):
        return [
            [_sentence(item, f"sentence {number} of text {place}") for number, item in enumerate(row)]
            for place, row in enumerate(rows)
        ], None
    counts = sorted({len(row) for row in rows})
    if len(counts) > 1:
        raise ValueError(f"the questions of a batch must have equally many answers, got {counts}")
    paragraphs = []
    for place, row in enumerate(rows):
        for answer, paragraph in enumerate(row):
            name = f"answer {answer} of text {place}"
            sentences = _items(paragraph, name)
            paragraphs.append(
                [_sentence(item, f"sentence {number} of {name}") for number, item in enumerate(sentences)]
            )
    return paragraphs, counts[0]


def _items(value: Any, name: str) -> list[Any]:
    is_sequence = isinstance(value, Sequence) or getattr(value, "ndim", None) == 1  # an array or a data frame's column
    if isinstance(value, (str, bytes)) or not is_sequence:
        raise ValueError(f"{name} must be a list, as the rest of the batch is, got {value!r:.80}")
    if len(value) == 0:
        raise ValueError(f"{name} is an empty list: at least one sentence is needed")
    return list(value)


def _sentence(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {value!r:.80}")
    if not value.strip():
        raise ValueError(f"{name} is empty: a sentence needs at least one character that is no space")
    return value


def _check_sizes(max_sentences: int, max_sentence_length: int) -> None:
    if max_sentences < 1:
        raise ValueError(f"max_sentences must be at least 1, got {max_sentences}")
    if max_sentences > MOST_SENTENCES:
        raise ValueError(f"max_sentences must be at most {MOST_SENTENCES}, got {max_sentences}")
    if max_sentence_length > MOST_TOKENS:
        raise ValueError(f"max_sentence_length must be at most {MOST_TOKENS}, got {max_sentence_length}")
    if max_sentence_length < 3:
        raise ValueError(
            f"max_sentence_length must hold [CLS], a token and [SEP], so at least 3, got {max_sentence_length}"
        )


def _field(outputs: Any, name: str) -> torch.Tensor:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if value is None:
        raise ValueError(f"the outputs have no {name}: give what LFVilaModel returns for texts and videos together")
    return value


def _clip_bounds(video: LFVilaVideoMetadata, num_clips: int) -> list[float]:
    """Seconds at which the K clips start, and the end of the video: K + 1 numbers."""
    times, duration = video.timestamps, video.duration
    if len(times) % num_clips:
        raise ValueError(
            f"{len(times)} frames of {video.source} cannot be split into {num_clips} clips of equal length"
        )
    step = len(times) // num_clips
    return [*times[::step], max(duration if duration is not None else times[-1], times[-1])]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A story in words to what a library is searched with.

A string is cut into sentences at `.`, `!` and `?`; a list of strings is taken as it is. The model reads at most
`processor.max_sentences` sentences as one paragraph, but its sentence features are made sentence by sentence (the first
layers of the text tower), so a longer story is read in several paragraphs of equal length: the aligned score sees each
sentence, and the paragraph feature is the normalised mean of the paragraphs'. What the model cannot read of a story is
said in `notes`, and beyond `MAX_SENTENCES` it is refused.

Letters: M sentences, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from lfvila_hf.inference import ParagraphEmbeddings, encode_paragraphs

MAX_SENTENCES = 32
"""Sentences of a story. Four to eight is what the model was trained on."""
MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class Story:
    """A story that has been read by the model.

    Args:
        sentences: M sentences.
        embeddings: Of one paragraph: `text_embeds (1, D)`, `sentence_embeds (1, M, D)`, `sentence_mask (1, M)`.
        notes: What the model could not take in, in words.
    """

    sentences: tuple[str, ...]
    embeddings: ParagraphEmbeddings
    notes: tuple[str, ...] = ()


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; one without a full stop is one sentence."""
    parts = re.split(r"(?:(?<=[.!?。！？])|(?<=[.!?][\"'”’)\]]))\s+|\n+", text)
    return [part.strip() for part in parts if part.strip()]


def check_sentences(story: str | Sequence[str]) -> list[str]:
    """The sentences of a story.

    Raises:
        ValueError: It is empty, too long, or holds something that is no sentence.
    """
    if isinstance(story, str):
        if len(story) > MAX_CHARACTERS:
            raise ValueError(f"the story has {len(story)} characters, at most {MAX_CHARACTERS} are read: shorten it")
        sentences = split_sentences(story)
    else:
        sentences = list(story)
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"sentence {number} of the story is {sentence!r:.40}, expected words")
    if not any(character.isalnum() for sentence in sentences for character in sentence):
        raise ValueError('the story is empty: write at least one sentence, such as "A man rides. Then he falls."')
    if len(sentences) > MAX_SENTENCES:
        raise ValueError(
            f"the story has {len(sentences)} sentences, at most {MAX_SENTENCES} are read: keep the ones that matter"
        )
    return sentences


def read_story(model: Any, processor: Any, story: str | Sequence[str]) -> Story:
    """Embed a story.

    Args:
        model: An `LFVilaModel`.
        processor: Its `LFVilaProcessor`.
        story: A text, or its sentences.

    Raises:
        ValueError: See `check_sentences`.
    """
    sentences = check_sentences(story)
    most = processor.max_sentences
    groups = -(-len(sentences) // most)
    bounds = [round(number * len(sentences) / groups) for number in range(groups + 1)]
    paragraphs = [sentences[bounds[number] : bounds[number + 1]] for number in range(groups)]
    read = encode_paragraphs(model, processor, paragraphs)
    text = functional.normalize(read.text_embeds.mean(0, keepdim=True), dim=-1)  # (1, D)
    real = read.sentence_mask.bool()  # (groups, sentences of the longest)
    rows = None if read.sentence_embeds is None else read.sentence_embeds[real][None]  # (1, M, D)
    mask = torch.ones(1, len(sentences), dtype=read.sentence_mask.dtype)
    notes = []
    if groups > 1:
        notes.append(
            f"the model reads {most} sentences at a time, this story of {len(sentences)} was read in "
            f"{groups} paragraphs"
        )
    lengths = [len(ids) for ids in processor.tokenizer(sentences)["input_ids"]]
    cut = [number + 1 for number, length in enumerate(lengths) if length > processor.max_sentence_length]
    if cut:
        notes.append(
            f"only the first {processor.max_sentence_length} tokens of sentence {', '.join(map(str, cut))} were read"
        )
    return Story(tuple(sentences), ParagraphEmbeddings(text, rows, mask), tuple(notes))

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Stories: a text cut into sentences and embedded.

A string is cut at `.`, `!`, `?` and line ends; a list of strings is taken as it is. `notes` say what the encoder cannot
read of a story; beyond `MAX_SENTENCES` it is refused.

Letters: M sentences, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lfvila_hf.search.encoders import StoryEncoder

MAX_SENTENCES = 32
"""Sentences of a story. Four to eight is what LF-VILA was trained on."""
MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class Story:
    """An embedded story.

    Args:
        sentences: M sentences.
        vectors: `(M, D)`, or `None` for an encoder without sentence vectors.
        paragraph: `(D,)`, or `None` for an encoder without paragraph vectors.
        notes: What the encoder could not read, in words.
    """

    sentences: tuple[str, ...]
    vectors: torch.Tensor | None
    paragraph: torch.Tensor | None
    notes: tuple[str, ...] = ()


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences; one without a full stop is one sentence."""
    parts = re.split(r"(?:(?<=[.!?。！？])|(?<=[.!?][\"'”’)\]]))\s+|\n+", text)
    return [part.strip() for part in parts if part.strip()]


def check_sentences(story: str | Sequence[str]) -> list[str]:
    """Cut and check a story.

    Raises:
        ValueError: It is empty, too long, or holds something that is no sentence.
    """
    characters = len(story) if isinstance(story, str) else sum(len(one) for one in story if isinstance(one, str))
    if characters > MAX_CHARACTERS:
        raise ValueError(f"the story has {characters} characters, at most {MAX_CHARACTERS} are read: shorten it")
    if isinstance(story, str):
        sentences = split_sentences(story)
    else:
        sentences = list(story)
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"sentence {number} of the story is {sentence!r:.40}, expected words")
    if any("\ud800" <= character <= "\udfff" for sentence in sentences for character in sentence):
        raise ValueError("the story holds half a surrogate pair, which is no character: send whole characters")
    if not any(character.isalnum() for sentence in sentences for character in sentence):
        raise ValueError('the story is empty: write at least one sentence, such as "A man rides. Then he falls."')
    if len(sentences) > MAX_SENTENCES:
        raise ValueError(
            f"the story has {len(sentences)} sentences, at most {MAX_SENTENCES} are read: keep the ones that matter"
        )
    return sentences


def read_story(encoder: StoryEncoder, story: str | Sequence[str]) -> Story:
    """Embed a story.

    Args:
        encoder: The encoder of the library.
        story: A text, or its sentences.

    Raises:
        ValueError: See `check_sentences`.
    """
    sentences = check_sentences(story)
    vectors, paragraph = encoder.encode_story(sentences)
    return Story(tuple(sentences), vectors, paragraph, tuple(encoder.notes(sentences)))

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Timed words into sentences, and sentences into clips.

A sentence ends with `.`, `!` or `?` (or their like in other scripts) that is no abbreviation, initial or number; where
subtitles have no punctuation, as those of speech recognisers do, at a pause, and at the latest after so many words or
seconds. A clip is one sentence; sentences too short for a clip take in the following ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .runs import TimedClip
from .subtitles import TimedWord

_SENTENCE_END = re.compile(r"[.!?…。！？؟।][\"'”’»)\]]*$")
_NO_END = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|no|fig|jr|sr|e\.g|i\.e|u\.s|approx)|\b[a-z])\.$", re.IGNORECASE
)


@dataclass(frozen=True)
class SentenceRules:
    """How words become clips.

    Args:
        min_seconds: Shortest clip, where more follows without a pause.
        max_seconds: Longest clip; a longer sentence is cut between words.
        max_words: Most words of a clip. LF-VILA reads 50 tokens of each.
        pause: Seconds of silence that end a sentence.
    """

    min_seconds: float = 5.0
    max_seconds: float = 20.0
    max_words: int = 40
    pause: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds <= self.max_seconds < 1e6 or self.max_seconds == 0:
            raise ValueError(
                f"min_seconds must lie in 0 to max_seconds, which must be above 0, got {self.min_seconds} and "
                f"{self.max_seconds}"
            )
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {self.max_words}")
        if not 0 <= self.pause < 1e6:
            raise ValueError(f"pause must be 0 seconds or more, got {self.pause}")


def ends_sentence(word: str) -> bool:
    """Whether a sentence ends with this word."""
    return bool(_SENTENCE_END.search(word)) and not _NO_END.search(word)


def sentences_of(words: Sequence[TimedWord], rules: SentenceRules) -> Iterator[list[TimedWord]]:
    """Runs of words that are sentences, none longer than a clip may be; every word is in one."""
    current: list[TimedWord] = []
    for word in words:
        if current and (
            word.start - current[-1].end > rules.pause * 1000
            or len(current) >= rules.max_words
            or word.end - current[0].start > rules.max_seconds * 1000
        ):
            yield current
            current = []
        current.append(word)
        if ends_sentence(word.text):
            yield current
            current = []
    if current:
        yield current


def clips_of(video_id: str, words: Sequence[TimedWord], rules: SentenceRules) -> list[TimedClip]:
    """The clips of a video, numbered in the order of time."""
    clips: list[list[TimedWord]] = []
    for sentence in sentences_of(words, rules):
        if clips and _joins(clips[-1], sentence, rules):
            clips[-1] = clips[-1] + sentence
        else:
            clips.append(sentence)
    made = []
    for number, clip in enumerate(clips):
        text = " ".join(word.text for word in clip)
        made.append(TimedClip(f"{video_id}.{number}.mp4", clip[0].start, clip[-1].end, text))
    return made


def _joins(clip: list[TimedWord], sentence: list[TimedWord], rules: SentenceRules) -> bool:
    """Whether a clip is too short by itself and there is room for the next sentence."""
    return (
        clip[-1].end - clip[0].start < rules.min_seconds * 1000
        and sentence[0].start - clip[-1].end <= rules.pause * 1000
        and sentence[-1].end - clip[0].start <= rules.max_seconds * 1000
        and len(clip) + len(sentence) <= rules.max_words
    )

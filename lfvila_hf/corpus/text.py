# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Cleaning and checking of transcripts.

Cleaning changes no word: HTML entities and markup, control and zero-width characters, the sound tags of speech
recognisers (`[Music]`), speaker marks (`>>`) and runs of space are removed; Unicode is composed (NFC). Checks leave a
clip out, with the reason. Neither depends on a language: letters are what Unicode calls letters, and a text without
spaces between words (Chinese, Japanese, Thai) counts each such letter as a word.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass

from lfvila_hf.data.subtitles import strip_markup, strip_sound_tags

_SPEAKER_MARK = re.compile(r"(?:^|(?<=\s))>{2,3}(?=\s|$|\w)")
# Control characters except white space, zero-width and direction marks, halves of surrogate pairs, non-characters. The
# joiners U+200C and U+200D stay: words of several scripts are spelt with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ud800-\udfff\ufffe\uffff]"
)
_NO_LETTERS = {ord(letter): None for letter in string.ascii_letters}
_WORD = re.compile(r"\S+")
# Scripts that are written without spaces between words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class TextRules:
    """Checks that a transcript must pass.

    Args:
        min_words: Fewest words.
        max_words: Most words; `None` for no bound.
        min_letters: Smallest share of letters among the visible characters, 0 to 1.
        keep_sound_tags: Keep `[Music]` and the like.
    """

    min_words: int = 1
    max_words: int | None = 512
    min_letters: float = 0.4
    keep_sound_tags: bool = False

    def __post_init__(self) -> None:
        if self.min_words < 1:
            raise ValueError(f"min_words must be at least 1, got {self.min_words}")
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError(f"max_words must be at least min_words={self.min_words}, got {self.max_words}")
        if not 0 <= self.min_letters <= 1:
            raise ValueError(f"min_letters must lie in 0 to 1, got {self.min_letters}")


def clean_text(text: str, keep_sound_tags: bool = False) -> str:
    """Remove from a transcript what is not speech. The result may be empty.

    Cleaning twice gives the same as cleaning once.
    """
    if text.isascii() and not _needs_work(text):
        return " ".join(text.split())
    before = None
    while before != text:
        before = text
        text = _clean_once(text, keep_sound_tags)
    return text


def count_words(text: str) -> int:
    """Count words: runs between spaces, and every letter of a script that is written without spaces."""
    if text.isascii():
        return len(text.split())
    return len(_WORD.findall(_UNSPACED.sub(" x ", text)))


def check_text(text: str, words: int, rules: TextRules) -> str | None:
    """Return the reason why a clean text of so many words cannot be used, or `None`."""
    if words < rules.min_words:
        return f"{words} words, expected at least {rules.min_words}" if words else "empty"
    if rules.max_words is not None and words > rules.max_words:
        return f"{words} words, expected at most {rules.max_words}"
    visible = len(text) - text.count(" ")
    letters = _count_letters(text)
    if letters < rules.min_letters * visible:
        return f"{letters} letters in {visible} characters, expected at least {rules.min_letters:g} of them"
    return None


def _count_letters(text: str) -> int:
    if text.isascii():
        return len(text) - len(text.translate(_NO_LETTERS))
    return sum(map(str.isalpha, text))


def _needs_work(text: str) -> bool:
    return any(mark in text for mark in "&<>[{\x7f") or not text.isprintable()


def _clean_once(text: str, keep_sound_tags: bool) -> str:
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", strip_markup(text)))
    text = text if keep_sound_tags else strip_sound_tags(text)
    return " ".join(_SPEAKER_MARK.sub(" ", text).split())

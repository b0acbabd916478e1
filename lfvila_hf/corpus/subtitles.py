# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""SubRip (`.srt`) and WebVTT (`.vtt`) files as timed words.

Both formats are lists of cues: a line `START --> END` (with `,` or `.` before the fraction; WebVTT may leave out the
hours and add settings), then text up to a blank line. What is around it varies more than the standards say, so nothing
but the arrow is relied on: numbers of cues, headers, notes and styles are passed over.

Captions of speech recognisers roll: each cue repeats the line above the new one, and the time of each new word stands
in it (`<00:00:01.920>`). A cue's leading words that end the text before it are therefore left out, and word times are
used where they are. Elsewhere the words of a cue share its time by their length.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from typing import NamedTuple

from .records import parse_time
from .text import clean_text

SUBTITLE_ENDINGS = (".vtt", ".srt")
"""In the order in which they are taken where a video has both: WebVTT may hold the times of words."""

MAX_FILE_BYTES = 64 * 2**20
_ARROW = re.compile(r"^\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")
_BLOCK = re.compile(r"^(WEBVTT|NOTE|STYLE|REGION)\b")
_WORD_TIME = re.compile(r"<(\d{1,4}:)?(\d{1,2}:\d{2}[.,]\d{1,3})>")
# How many words a rolling caption may repeat.
_MAX_REPEATED = 60


class Cue(NamedTuple):
    """A subtitle: milliseconds, and its text with markup."""

    start: int
    end: int
    text: str


class TimedWord(NamedTuple):
    """A word and when it is said, in milliseconds."""

    text: str
    start: int
    end: int


class SubtitleProblem(NamedTuple):
    """What is wrong with a cue: a kind of `problems.PROBLEM_KINDS`, the line (counted from 0), what is there."""

    kind: str
    line: int
    detail: str


def read_cues(path: str | os.PathLike[str]) -> tuple[list[Cue], list[SubtitleProblem]]:
    """The cues of a file in the order of time, and what is wrong with others.

    Raises:
        ValueError: Where the file is too large to be subtitles, or has no cue at all.
    """
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{os.fspath(path)} has {size} bytes, subtitles have at most {MAX_FILE_BYTES}")
    lines = _decoded(Path(path).read_bytes()).splitlines()
    cues: list[Cue] = []
    problems: list[SubtitleProblem] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        place = number
        number += 1
        if "-->" not in line:
            if _BLOCK.match(line):
                while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
                    number += 1
            continue
        text: list[str] = []
        # A line of white space alone is part of rolling captions; the end of a cue is a line with nothing in it, or the
        # next arrow, with the number of its cue before it.
        while number < len(lines) and lines[number] != "" and "-->" not in lines[number]:
            text.append(lines[number])
            number += 1
        if number < len(lines) and "-->" in lines[number] and text and text[-1].strip().isdigit():
            text.pop()
        _add_cue(line, "\n".join(text), place, cues, problems)
    if not cues and not problems:
        raise ValueError(f"{os.fspath(path)} has no line START --> END, expected SubRip or WebVTT subtitles")
    return sorted(cues, key=lambda cue: (cue.start, cue.end)), problems


def timed_words(cues: list[Cue]) -> list[TimedWord]:
    """The words of all cues in the order in which they are said, repeated ones left out."""
    words: list[TimedWord] = []
    for cue in cues:
        new = _words_of(cue)
        first_line = cue.text.strip().partition("\n")
        one_word_line = bool(first_line[2]) and len(first_line[0].split()) == 1
        repeated = _repeated(words, new, one_word_line)
        # The time before the first word with a time of its own belongs to the new words alone.
        new = _words_of(cue, repeated) if repeated else new
        for word in new:
            start = max(word.start, words[-1].start if words else 0)
            words.append(TimedWord(word.text, start, max(word.end, start + 1)))
    return words


def _add_cue(line: str, text: str, place: int, cues: list[Cue], problems: list[SubtitleProblem]) -> None:
    found = _ARROW.match(line)
    try:
        if not found:
            raise ValueError("no two times")
        start, end = parse_time(found[1]), parse_time(found[2])
    except ValueError:
        problems.append(SubtitleProblem("bad_span", place, line.strip()))
        return
    if end <= start:
        problems.append(SubtitleProblem("reversed_span", place, line.strip()))
        return
    cues.append(Cue(start, end, text))


def _words_of(cue: Cue, skip: int = 0) -> list[TimedWord]:
    """The words of a cue with their times, the first `skip` left out."""
    pieces = _WORD_TIME.split(cue.text)  # text, hours, rest of a time, text, ...
    starts = [cue.start]
    texts = [pieces[0]]
    for place in range(1, len(pieces), 3):
        time = parse_time((pieces[place] or "00:") + pieces[place + 1])
        if starts[-1] <= time <= cue.end:
            starts.append(time)
            texts.append(pieces[place + 2])
        else:
            texts[-1] += pieces[place + 2]
    words: list[TimedWord] = []
    for position, text in enumerate(texts):
        end = starts[position + 1] if position + 1 < len(starts) else cue.end
        spoken = clean_text(text.replace("\n", " ")).split()
        skipped, skip = min(skip, len(spoken)), max(skip - len(spoken), 0)
        words += _spread(spoken[skipped:], starts[position], end)
    return words


def _spread(words: list[str], start: int, end: int) -> list[TimedWord]:
    """Words that share a time by their number of letters."""
    total = sum(len(word) + 1 for word in words)
    found, before = [], 0
    for word in words:
        after = before + len(word) + 1
        found.append(TimedWord(word, start + (end - start) * before // total, start + (end - start) * after // total))
        before = after
    return found


def _repeated(words: list[TimedWord], new: list[TimedWord], one_word_line: bool) -> int:
    """How many of the first new words are the last ones said, if they follow at once.

    A single word may well be said twice; it counts as repeated where it is a whole cue or a line of its own.
    """
    if not words or not new or new[0].start - words[-1].end > 2000:
        return 0
    for count in range(min(len(words), len(new), _MAX_REPEATED), 0, -1):
        if count == 1 < len(new) and not one_word_line:
            continue
        if [word.text for word in words[-count:]] == [word.text for word in new[:count]]:
            return count
    return 0


def _decoded(content: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")

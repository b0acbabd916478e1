# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Subtitle files (SubRip, WebVTT, SubStation Alpha) as cues and as timed words.

pysubs2 cuts a file into events. This module adds:

- the encoding: UTF-8, UTF-16, or a legacy one that charset-normalizer and the alphabets of Latin script agree on;
- times without a fraction or without hours, and a report of times that cannot be read;
- WebVTT notes, styles and identifiers, which are no text;
- word times (`<00:00:01.920>`) and rolling captions, in which every cue repeats the line above the new one.

Seconds are counted as the video's container counts them; times are kept in whole milliseconds.
"""

from __future__ import annotations

import codecs
import html
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import charset_normalizer
import pysubs2
from pysubs2.formats.subrip import SubripFormat

SUBTITLE_ENDINGS = (".vtt", ".srt", ".ass", ".ssa")
"""In order of preference if a video has several: WebVTT may hold the times of words."""

MAX_FILE_BYTES = 64 * 2**20
MAX_REPEATED_WORDS = 60
"""Words that a rolling caption may repeat."""
MAX_PAUSE_MS = 2000
"""Milliseconds after which equal words are said again, not repeated."""
SURE_BYTES = 40
"""Bytes beyond ASCII from which the guess of an encoding counts as sure."""

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?", re.ASCII)
_TIME = r"-?\d+(?:\s*[:.,]\s*\d+)*"  # spaces inside times come from text recognition
_TIME_LINE = re.compile(rf"^\s*({_TIME}|\S+?)\s*(?=-->)|(?<=-->)\s*({_TIME}|\S+)", re.ASCII)
_WEBVTT_BLOCK = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)\b")
_WORD_TIME = re.compile(r"<((?:\d{1,4}:)?\d{1,2}:\d{2}[.,]\d{1,3})>")
# The tags of subtitles, not every word in angle brackets.
_INLINE_TAG = re.compile(
    r"<\s*/?\s*(?:i|b|u|s|em|strong|font|c|v|ruby|rt|lang|span)(?:[\s./][^<>]{0,400})?>", re.IGNORECASE
)
_BLOCK_TAG = re.compile(r"<\s*/?\s*(?:p|br|div)(?:[\s./][^<>]{0,400})?>", re.IGNORECASE)
# SubStation Alpha: {\p1} begins a drawing, of which no letter is text, and {\p0} ends it.
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9][^{}]*\}.*?(?=\{[^{}]*\\p0[^{}]*\}|\Z)", re.DOTALL)
_OVERRIDE = re.compile(r"\{[^{}]*\\[^{}]*\}")
_SOUND_TAG = re.compile(r"(\s*)(?:\[[^\[\]]{1,40}\]|[♩♪♫♬]+)(?=([,.;:!?…])?)")

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Encodings of subtitles before UTF-8. charset-normalizer tells scripts apart, but not the code pages of Latin script.
_LEGACY = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "cp1251", "koi8_r", "cp866", "iso8859_5", "cp1253",
           "cp1255", "cp1256", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949")  # fmt: skip
_CENTRAL_EUROPEAN = "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű čćđšž ăâîşţ"
# Letters beyond a to z of the languages that each code page was made for; the first page wins a tie.
_LATIN_ALPHABETS = {
    "cp1252": "àâæçéèêëîïôœùûüÿ äöüß áéíñóúü àáâãçéêíóôõú àèéìíòóù åäéö æøåé áæðéíóöþúý éëïöü",
    "cp1250": _CENTRAL_EUROPEAN,
    "iso8859_2": _CENTRAL_EUROPEAN,
    "cp1254": "âçğıi̇îöşûü",
    "cp1257": "ąčęėįšųūž āčēģīķļņšūž äõöüšž",
}
_PUNCTUATION = "¡¿«»‹›‘’‚“”„–—…·•©®™°ªº€£ \ufeff"


class Cue(NamedTuple):
    r"""Subtitle.

    Attributes:
        start: Milliseconds.
        end: Milliseconds, after `start`.
        text: Text as it is shown, lines separated by `\n`; word times are kept, other markup is removed.
    """

    start: int
    end: int
    text: str


class TimedWord(NamedTuple):
    """Word and the milliseconds in which it is said."""

    text: str
    start: int
    end: int


class SubtitleProblem(NamedTuple):
    """Part of a subtitle file that cannot be used.

    Attributes:
        kind: `bad_span`, `reversed_span` or `guessed_encoding`.
        line: Counted from 0.
        detail: The offending line, or the guess.
    """

    kind: str
    line: int
    detail: str


class SubtitleError(ValueError):
    """Error of a subtitle file that cannot be used at all; the message names it."""


class _CueFormat(SubripFormat):
    """SubRip and WebVTT with every form of time that files in the wild have.

    pysubs2 takes any line with two time stamps for the beginning of a cue, so also one with two word times, and does
    not know times without a fraction. Here the beginning is a line `START --> END`; a time that cannot be read is -1.
    """

    TIMESTAMP = _TIME_LINE

    @staticmethod
    def timestamp_to_ms(groups: Sequence[str]) -> int:
        """Convert the groups of one match of `TIMESTAMP`."""
        try:
            return parse_clock(re.sub(r"\s", "", "".join(groups)))
        except ValueError:
            return -1


class SubtitleFolder:
    """Subtitle files of one folder, by video.

    A file belongs to a video if it is named `STEM.vtt` or `STEM.TAG.vtt`, with any of `SUBTITLE_ENDINGS` in small or
    capital letters; both parts may hold dots. Of one name only the first ending is taken.

    Args:
        folder: Listed once. May be missing: then no video has subtitles.
        stems: Names of all videos without their endings. A file that fits several belongs to the longest. Without
            them it belongs to every video that it fits.
    """

    def __init__(self, folder: Path, stems: Iterable[str] = ()) -> None:
        # One system composes letters in the names of files, another one does not.
        known = {unicodedata.normalize("NFC", stem) for stem in stems}
        self._found: dict[str, dict[str, Path]] = {}
        listed = folder.iterdir() if folder.is_dir() else ()
        paths = [path for path in listed if path.suffix.lower() in SUBTITLE_ENDINGS]
        for path in sorted(paths, key=lambda path: (SUBTITLE_ENDINGS.index(path.suffix.lower()), path.name)):
            parts = unicodedata.normalize("NFC", path.name).split(".")[:-1]
            fits = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
            for stem in [stem for stem in fits if stem in known][:1] if known else fits:
                self._found.setdefault(stem, {}).setdefault(".".join(parts)[len(stem) + 1 :], path)

    def find(self, stem: str, language: str | None = None) -> list[Path]:
        """List the files of a video, several if they differ in their tag.

        Args:
            stem: Name of the video without its ending.
            language: Take the file with this tag, else those whose tag begins with it (`en`: `en-US`, `en-orig`).
                Defaults to the file without a tag, else all.
        """
        found = self._found.get(unicodedata.normalize("NFC", stem), {})
        if language is None:
            return [found[""]] if "" in found else [found[tag] for tag in sorted(found)]
        fits = {tag: found[tag] for tag in sorted(found) if re.match(rf"{re.escape(language)}(?![^\W_])", tag)}
        return [fits[language]] if language in fits else list(fits.values())


def read_cues(path: str | os.PathLike[str]) -> tuple[list[Cue], list[SubtitleProblem]]:
    """Read the cues of a subtitle file.

    Returns:
        Cues in order of time, and the problems of others. A cue without text is kept.

    Raises:
        SubtitleError: If the file is too large, holds no cue, or its encoding cannot be told.
    """
    name = os.fspath(path)
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise SubtitleError(f"{name} has {size} bytes. Subtitles have at most {MAX_FILE_BYTES}.")
    text, problems = _decoded(Path(path).read_bytes(), name)
    text = re.sub(r"\r+\n|\r", "\n", text)
    if "[Script Info]" in text or "[Events]" in text:
        cues = _substation_cues(text)
    else:
        cues = _arrow_cues(text, problems)
    if not cues and not any(problem.kind != "guessed_encoding" for problem in problems):
        raise SubtitleError(f"{name} has no line START --> END. Expected SubRip, WebVTT or SubStation Alpha subtitles.")
    return sorted(cues, key=lambda cue: (cue.start, cue.end)), problems


def timed_words(cues: Iterable[Cue]) -> list[TimedWord]:
    """List the words of cues as they are said: sound tags such as `[Music]` and repeated words left out.

    Args:
        cues: In order of time.
    """
    return [word for words in _words_of_cues(cues, sound_tags=False) for word in words]


def spoken_cues(cues: Sequence[Cue]) -> list[Cue]:
    """Cut from each cue the text that repeats the one before, and drop cues that are then empty.

    Args:
        cues: In order of time.

    Returns:
        Cues on one line, without word times. A cue that repeats something begins with its first new word.
    """
    found = []
    for cue, words in zip(cues, _words_of_cues(cues, sound_tags=True), strict=True):
        if words:
            text = " ".join(word.text for word in words)
            whole = len(words) == len(_words_of(cue, sound_tags=True))
            found.append(Cue(cue.start if whole else words[0].start, max(cue.end, words[-1].end), text))
    return found


def parse_clock(text: str) -> int:
    """Convert `HH:MM:SS.mmm`, `MM:SS` and their like, with a point or comma, to milliseconds.

    Raises:
        ValueError: If it is no time.
    """
    found = _CLOCK.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time. Expected HH:MM:SS.mmm.")
    hours, minutes, seconds, fraction = found.groups()
    if (int(minutes) >= 60 and hours is not None) or int(seconds) >= 60:
        raise ValueError(f"{text!r} is no time. Minutes and seconds end at 59.")
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole * 1000 + (round(int(fraction) * 1000 / 10 ** len(fraction)) if fraction else 0)


def strip_markup(text: str) -> str:
    """Remove tags, override blocks and drawings of subtitles; HTML entities become their characters.

    Word times stay. `&lt;i&gt;` becomes `<i>`: call it again if text may be escaped twice.
    """
    text = _OVERRIDE.sub("", _DRAWING.sub("", text))
    return html.unescape(_BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text)))


def strip_sound_tags(text: str) -> str:
    """Remove the marks of sounds that are no speech: `[Music]`, notes."""
    return _SOUND_TAG.sub(lambda found: "" if found[2] else f"{found[1]} ", text)  # no space before a comma


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _substation_cues(text: str) -> list[Cue]:
    events = pysubs2.SSAFile.from_string(text, "ass")
    cues = []
    for event in events:
        if not event.is_comment and event.start < event.end:
            shown = _DRAWING.sub("", event.text)
            shown = re.sub(r"\{[^{}]*\}", "", shown)  # override blocks and comments
            shown = shown.replace(r"\N", "\n").replace(r"\n", "\n").replace(r"\h", " ")
            cues.append(Cue(event.start, event.end, shown))
    return cues


def _arrow_cues(text: str, problems: list[SubtitleProblem]) -> list[Cue]:
    """Cues of SubRip and WebVTT; those that cannot be used go to the problems."""
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if _begins_cue(line)]
    file = pysubs2.SSAFile()
    _CueFormat.from_file(file, io.StringIO(_with_numbers(lines)), "srt", keep_html_tags=True)
    cues = []
    for place, event in zip(places, file, strict=True):
        if event.start < 0 or event.end < 0:
            problems.append(SubtitleProblem("bad_span", place, lines[place].strip()))
        elif event.end <= event.start:
            problems.append(SubtitleProblem("reversed_span", place, lines[place].strip()))
        else:
            cues.append(Cue(event.start, event.end, strip_markup(event.text.replace(r"\N", "\n").replace(r"\h", " "))))
    return cues


def _begins_cue(line: str) -> bool:
    return len(_TIME_LINE.findall(line)) == 2


def _with_numbers(lines: Sequence[str]) -> str:
    """Text in which exactly one number stands before every cue, and notes, styles and identifiers are gone.

    pysubs2 removes one number at the end of a cue's text: without this it would remove a last line "1984" that is
    spoken.
    """
    is_webvtt = any(line.lstrip("\ufeff").startswith("WEBVTT") for line in lines[:3])
    kept: list[str] = []
    in_block = False
    for line in lines:
        if _begins_cue(line):
            in_block = False
            if kept and (kept[-1].strip().isdigit() or is_webvtt) and _is_identifier(kept):
                kept.pop()
            kept += ["", "0", line]
        elif in_block:
            in_block = bool(line.strip())
        elif is_webvtt and _WEBVTT_BLOCK.match(line.lstrip("\ufeff")) and (not kept or not kept[-1].strip()):
            in_block = True
        else:
            kept.append(line)
    return "\n".join([*kept, "", "0", ""])


def _is_identifier(lines: Sequence[str]) -> bool:
    """Tell whether the last line stands alone before a cue, or is a number under the text of the cue before."""
    above = lines[-2] if len(lines) > 1 else ""
    return bool(lines[-1].strip()) and (above == "" or (lines[-1].strip().isdigit() and not _begins_cue(above)))


def _decoded(content: bytes, name: str) -> tuple[str, list[SubtitleProblem]]:
    """Decode a file to text, with a problem if its encoding is a guess."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace"), []
    try:
        text = content.decode("utf-8")
        if content.startswith(b"\x1b$") or b"\n\x1b$" in content:
            return content.decode("iso2022_jp", "replace"), []
        if "\0" not in text:
            return text, []
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        damaged = text.count("\ufffd")
        if 10 * damaged <= sum(letter > "\x7f" for letter in text) - damaged:
            return text, [SubtitleProblem("guessed_encoding", 0, f"UTF-8 with {damaged} damaged characters")]
    if b"\0" in content:
        utf16 = charset_normalizer.from_bytes(content, cp_isolation=["utf_16_le", "utf_16_be"]).best()
        if utf16 is None:
            raise SubtitleError(f"{name} is no text: it holds null bytes and is not UTF-16.")
        return str(utf16), []
    # The lines of times and numbers are ASCII in every encoding, and would only water down the statistics.
    spoken = b"\n".join(line for line in content.splitlines() if not line.isascii())
    beyond_ascii = sum(byte > 0x7F for byte in spoken)
    letters = sum(chr(byte).isalpha() for byte in spoken if byte < 0x80)
    found = charset_normalizer.from_bytes(spoken, cp_isolation=list(_LEGACY), threshold=0.4)
    encodings = [match.encoding for match in found if match.chaos <= found[0].chaos + 0.1]
    if beyond_ascii < 0.4 * (beyond_ascii + letters) or (encodings and encodings[0] in _LATIN_ALPHABETS):
        encodings = _latin_encodings(spoken)
    elif beyond_ascii >= SURE_BYTES:
        del encodings[1:]
    try:
        text = content.decode(encodings[0])
    except (IndexError, UnicodeDecodeError):
        guess = encodings[0] if encodings else "none"
        raise SubtitleError(
            f"{name} is not UTF-8 and its encoding cannot be told (guess: {guess}). Convert it to UTF-8."
        ) from None
    if len(encodings) == 1:
        return text, []
    detail = f"read as {encodings[0]}; {', '.join(encodings[1:])} would be possible too. Convert it to UTF-8."
    return text, [SubtitleProblem("guessed_encoding", 0, detail)]


def _latin_encodings(content: bytes) -> list[str]:
    """List the code page of Latin script that fits best, then those that fit as well and give another text."""
    fits: dict[str, tuple[float, str]] = {}
    for page, alphabets in _LATIN_ALPHABETS.items():
        try:
            text = content.decode(page).lower()
        except UnicodeDecodeError:
            continue
        letters = [letter for letter in text if letter > "\x7f" and letter not in _PUNCTUATION]
        hits = max(sum(letter in alphabet for letter in letters) for alphabet in alphabets.split())
        share = hits / len(letters) if letters else 1.0
        fits[page] = share, text
    if not fits:
        return []
    best = max(fits, key=lambda page: fits[page][0])
    share, text = fits[best]
    return [best, *(page for page in fits if fits[page][0] == share and fits[page][1] != text)]


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _words_of_cues(cues: Iterable[Cue], sound_tags: bool) -> list[list[TimedWord]]:
    """List the words that each cue adds, in order; those of rolling captions at the time at which they are new."""
    said: list[TimedWord] = []
    found = []
    for cue in cues:
        new = _words_of(cue, sound_tags)
        first_line = cue.text.strip().partition("\n")
        one_word_line = bool(first_line[2]) and len(first_line[0].split()) == 1
        repeated = _count_repeated(said, new, one_word_line)
        # The time before the first word with a time of its own belongs to the new words alone.
        new = _words_of(cue, sound_tags, repeated) if repeated else new
        words = []
        for word in new:
            start = max(word.start, said[-1].start if said else 0)
            words.append(TimedWord(word.text, start, max(word.end, start + 1)))
            said.append(words[-1])
        del said[: -MAX_REPEATED_WORDS - 1]
        found.append(words)
    return found


def _words_of(cue: Cue, sound_tags: bool, skip: int = 0) -> list[TimedWord]:
    """List the words of a cue with their times, the first `skip` left out."""
    pieces = _WORD_TIME.split(cue.text)  # text, time, text, ...
    starts, texts = [cue.start], [pieces[0]]
    for stamp, text in zip(pieces[1::2], pieces[2::2], strict=True):
        try:
            time = parse_clock(stamp)
        except ValueError:
            time = -1
        if starts[-1] <= time <= cue.end:
            starts.append(time)
            texts.append(text)
        else:
            texts[-1] += text
    words: list[TimedWord] = []
    for start, end, text in zip(starts, [*starts[1:], cue.end], texts, strict=True):
        spoken = (text if sound_tags else strip_sound_tags(text)).split()
        skipped, skip = min(skip, len(spoken)), max(skip - len(spoken), 0)
        words += _spread(spoken[skipped:], start, end)
    return words


def _spread(words: Sequence[str], start: int, end: int) -> list[TimedWord]:
    """Words that share a time by their number of letters."""
    total = sum(len(word) + 1 for word in words)
    found, before = [], 0
    for word in words:
        after = before + len(word) + 1
        found.append(TimedWord(word, start + (end - start) * before // total, start + (end - start) * after // total))
        before = after
    return found


def _count_repeated(said: Sequence[TimedWord], new: Sequence[TimedWord], one_word_line: bool) -> int:
    """Count the first new words that are the last ones said and follow at once.

    A single word may well be said twice; it counts as repeated if it is a whole cue or a line of its own.
    """
    if not said or not new or new[0].start - said[-1].end > MAX_PAUSE_MS:
        return 0
    for count in range(min(len(said), len(new), MAX_REPEATED_WORDS), 0, -1):
        if count == 1 < len(new) and not one_word_line:
            continue
        if [word.text for word in said[-count:]] == [word.text for word in new[:count]]:
            return count
    return 0

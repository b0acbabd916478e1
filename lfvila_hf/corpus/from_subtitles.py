# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Input of a build from a folder of videos with subtitles: the same metadata and transcripts as HD-VILA-100M's.

    OUTPUT/source/metadata.jsonl      video_id, duration, and the clip spans
    OUTPUT/source/transcripts.jsonl   one sentence or more per clip
    OUTPUT/source/sources.jsonl       the file of each video, for `corpus cut --sources`
    OUTPUT/source/problems.jsonl      videos and cues that could not be used, with the line

The subtitles of `talk.mp4` are `talk.vtt` or `talk.en-US.srt` (`data.subtitles` says more). The id of a video is its
name without the ending. Its duration is read from the video, so that the build finds spans beyond its end.

Words become sentences, and sentences clips. A sentence ends with `.`, `!` or `?` (or their like in other scripts)
unless it is an abbreviation, initial or number. Subtitles of speech recognisers have no punctuation: there a sentence
ends at a pause, and at the latest after `max_words` or `max_seconds`. Sentences too short for a clip are joined with
the next ones.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lfvila_hf.data.subtitles import SubtitleError, SubtitleFolder, TimedWord, read_cues, timed_words
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, probe_video
from lfvila_hf.video_sources_lfvila import VIDEO_EXTENSIONS

from .contiguous_clips import TimedClip
from .inputs import RecordProblem, checked_video_id, clock

INPUT_KINDS = {
    "no_subtitles": "a video without subtitles",
    "several_subtitles": "a video with subtitles in several languages: choose one with --language",
    "unusable_subtitles": "a subtitle file without a cue, or in an unknown encoding",
    "guessed_encoding": "a subtitle file whose encoding is a guess: convert it to UTF-8",
    "unusable_video": "a video that cannot be decoded",
    "same_name": "a video with the name of another one in another folder (the first in alphabetical order is taken)",
    "bad_video_id": "a name that cannot be a video id",
    "bad_span": "a cue whose times cannot be read",
    "reversed_span": "a cue that ends where or before it begins",
    "no_words": "subtitles without words",
}
"""Kinds of problems with a folder of videos; the build itself looks for more."""

_SENTENCE_END = re.compile(r"[.!?…。！？؟।][\"'”’»)\]]*$")
_NO_END = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|no|fig|jr|sr|e\.g|i\.e|u\.s|approx)|\b[a-z])\.$", re.IGNORECASE
)


@dataclass(frozen=True)
class SentenceRules:
    """Rules for cutting words into clips.

    Args:
        min_seconds: Shortest clip, if more follows without a pause.
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


@dataclass(frozen=True)
class SubtitleSource:
    """Files that `write_source` wrote.

    Attributes:
        metadata: For `build_corpus`.
        transcripts: For `build_corpus`.
        videos: Number of videos that gave clips.
        problems: Number of problems by kind.
    """

    metadata: Path
    transcripts: Path
    videos: int
    problems: dict[str, int]


def write_source(
    videos: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    rules: SentenceRules | None = None,
    subtitles: str | os.PathLike[str] | None = None,
    language: str | None = None,
    strict: bool = False,
) -> SubtitleSource:
    """Write metadata and transcripts of a folder of videos.

    Args:
        videos: Folder, with sub-folders.
        folder: Output folder; made if missing.
        rules: Rules for cutting words into clips.
        subtitles: Folder of the subtitles, with the same sub-folders. Defaults to `videos`.
        language: Tag of the subtitles to take, see `SubtitleFolder.find`.
        strict: Make any problem an error.

    Raises:
        ValueError: If no video gives a clip, and with `strict` for the first problem.
    """
    rules = rules or SentenceRules()
    root, texts, target = Path(videos), Path(subtitles or videos), Path(folder)
    if not root.is_dir() or not texts.is_dir():
        raise ValueError(f"there is no folder {root if not root.is_dir() else texts}")
    target.mkdir(parents=True, exist_ok=True)
    problems: Counter[str] = Counter()
    count = 0
    with ExitStack() as stack:
        names = ("metadata", "transcripts", "sources", "problems")
        files = {name: stack.enter_context((target / f"{name}.jsonl").open("w", encoding="utf-8")) for name in names}

        def report(kind: str, place: str, detail: str) -> None:
            if strict:
                raise ValueError(f"{place}: {kind} ({INPUT_KINDS[kind]}): {detail}")
            problems[kind] += 1
            files["problems"].write(json.dumps({"kind": kind, "place": place, "detail": detail}) + "\n")

        seen: dict[str, Path] = {}
        for parent, group in groupby(find_videos(root), key=lambda path: path.parent):
            paths = list(group)
            found = SubtitleFolder(texts / parent.relative_to(root), [path.stem for path in paths])
            for path in paths:
                if path.stem in seen:
                    report("same_name", str(path), f"already taken from {seen[path.stem]}")
                    continue
                seen[path.stem] = path
                row = _row_of(path, found.find(path.stem, language), rules, report)
                if row is None:
                    continue
                count += 1
                transcripts = [{"clip_id": clip["clip_id"], "text": clip.pop("text")} for clip in row["clip"]]
                files["metadata"].write(json.dumps(row) + "\n")
                files["transcripts"].writelines(json.dumps(one) + "\n" for one in transcripts)
                files["sources"].write(json.dumps({"video_id": path.stem, "path": os.path.abspath(path)}) + "\n")
    if not count:
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(problems.items())) or "no video file"
        raise ValueError(f"no video of {root} gives a clip: {counts}")
    return SubtitleSource(target / "metadata.jsonl", target / "transcripts.jsonl", count, dict(problems))


def find_videos(root: Path) -> Iterator[Path]:
    """Yield the video files below a folder in alphabetical order, without hidden files and links to folders."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
                yield Path(folder) / name


def ends_sentence(word: str) -> bool:
    """Check whether a sentence ends with this word."""
    return bool(_SENTENCE_END.search(word)) and not _NO_END.search(word)


def sentences_of(words: Sequence[TimedWord], rules: SentenceRules) -> Iterator[list[TimedWord]]:
    """Cut words into sentences, none longer than a clip may be; every word is in one."""
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
    """Cut the words of a video into clips, numbered in order of time."""
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


def _row_of(
    path: Path, found: Sequence[Path], rules: SentenceRules, report: Callable[[str, str, str], None]
) -> dict[str, Any] | None:
    """Make the metadata row of one video, with its transcripts; `None` after a report if that is impossible."""
    try:
        video_id = checked_video_id(path.stem)
    except RecordProblem as problem:
        report("bad_video_id", str(path), problem.detail)
        return None
    if len(found) != 1:
        kind = "several_subtitles" if found else "no_subtitles"
        report(kind, str(path), ", ".join(one.name for one in found))
        return None
    try:
        cues, wrong = read_cues(found[0])
    except SubtitleError as error:
        report("unusable_subtitles", str(found[0]), str(error))
        return None
    for bad in wrong:
        report(bad.kind, f"{found[0]}:{bad.line + 1}", bad.detail)
    clips = clips_of(video_id, timed_words(cues), rules)
    if not clips:
        report("no_words", str(found[0]), f"{len(cues)} cues")
        return None
    try:
        duration = probe_video(path).duration
    except LFVilaVideoError as error:
        report("unusable_video", str(path), error.reason)
        return None
    rows = [{"clip_id": c.clip_id, "span": [clock(c.start), clock(c.end)], "text": c.text} for c in clips]
    return {"video_id": video_id, "url": "", "duration": duration, "clip": rows}


def _joins(clip: list[TimedWord], sentence: list[TimedWord], rules: SentenceRules) -> bool:
    """Check whether a clip is too short by itself and has room for the next sentence."""
    return (
        clip[-1].end - clip[0].start < rules.min_seconds * 1000
        and sentence[0].start - clip[-1].end <= rules.pause * 1000
        and sentence[-1].end - clip[0].start <= rules.max_seconds * 1000
        and len(clip) + len(sentence) <= rules.max_words
    )

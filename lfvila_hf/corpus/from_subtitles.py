# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A folder of videos with subtitles as the input of a build: the same metadata and transcripts as HD-VILA-100M's.

    OUTPUT/source/metadata.jsonl      video_id, duration, and the clip spans, made of the times of sentences
    OUTPUT/source/transcripts.jsonl   one sentence or more per clip
    OUTPUT/source/sources.jsonl       the file of each video, for `corpus cut --sources`
    OUTPUT/source/problems.jsonl      videos and cues that could not be used, with the line

A video's subtitles have its name and another ending (`talk.mp4`: `talk.vtt`, `talk.en.srt`). Its id is its name without
the ending. The duration is asked of the video itself, so that spans beyond its end are found by the build.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfvila_hf.data.annotations import VIDEO_EXTENSIONS
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, probe_video

from .records import RecordProblem, checked_video_id, clock
from .sentences import SentenceRules, clips_of
from .subtitles import SUBTITLE_ENDINGS, read_cues, timed_words

INPUT_KINDS = {
    "no_subtitles": "a video without subtitles",
    "several_subtitles": "a video with subtitles in several languages: say which with --language",
    "unusable_subtitles": "a subtitle file without a cue",
    "unusable_video": "a video that cannot be decoded",
    "same_name": "a video with the name of another one in another folder (the first in alphabetical order is taken)",
    "bad_video_id": "a name that can be no video id",
    "bad_span": "a cue whose times cannot be read",
    "reversed_span": "a cue that ends where or before it begins",
    "no_words": "subtitles without words",
}
"""What can be wrong with a folder of videos, beyond what the build itself looks for."""


@dataclass(frozen=True)
class SubtitleSource:
    """What `write_source` made.

    Attributes:
        metadata: For `build_corpus`.
        transcripts: For `build_corpus`.
        videos: How many videos gave clips.
        problems: Problems by kind.
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
    """Make metadata and transcripts of a folder of videos.

    Args:
        videos: Folder, with sub-folders.
        folder: Where to write; made if it is not there.
        rules: How words become clips.
        subtitles: Folder of the subtitles, with the same sub-folders; that of the videos by default.
        language: Take `name.LANGUAGE.vtt` and no other.
        strict: Make any problem an error.

    Raises:
        ValueError: Where no video gives a clip, and with `strict` for the first problem.
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
        for path in find_videos(root):
            if path.stem in seen:
                report("same_name", str(path), f"already taken from {seen[path.stem]}")
                continue
            seen[path.stem] = path
            row = _row_of(path, texts / path.parent.relative_to(root), rules, language, report)
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
    """The video files below a folder, in alphabetical order; hidden ones and links to folders are passed over."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
                yield Path(folder) / name


def find_subtitles(folder: Path, stem: str, language: str | None = None) -> list[Path]:
    """The subtitle files of a video: `stem.vtt`, `stem.LANGUAGE.vtt`; of one name only the first ending."""
    if not folder.is_dir():
        return []
    found: dict[str, Path] = {}
    for ending in SUBTITLE_ENDINGS:
        for path in sorted(folder.iterdir()):
            name, own_ending = os.path.splitext(path.name)
            tag = name.removeprefix(f"{stem}.") if name.startswith(f"{stem}.") else ""
            fits = name == stem or (tag and len(tag) <= 12 and "." not in tag)
            if own_ending.lower() == ending and fits and (language is None or tag == language):
                found.setdefault(name, path)
    # subtitles without a language are the video's own
    return [found[stem]] if stem in found else list(found.values())


def _row_of(path: Path, folder: Path, rules: SentenceRules, language: str | None, report: Any) -> dict[str, Any] | None:
    """The metadata row of one video, with its transcripts; `None` where it has none, which is reported."""
    try:
        video_id = checked_video_id(path.stem)
    except RecordProblem as problem:
        return report("bad_video_id", str(path), problem.detail)
    found = find_subtitles(folder, path.stem, language)
    if len(found) != 1:
        kind = "several_subtitles" if found else "no_subtitles"
        return report(kind, str(path), ", ".join(one.name for one in found))
    try:
        cues, wrong = read_cues(found[0])
    except ValueError as error:
        return report("unusable_subtitles", str(found[0]), str(error))
    for bad in wrong:
        report(bad.kind, f"{found[0]}:{bad.line + 1}", bad.detail)
    clips = clips_of(video_id, timed_words(cues), rules)
    if not clips:
        return report("no_words", str(found[0]), f"{len(cues)} cues")
    try:
        duration = probe_video(path).duration
    except LFVilaVideoError as error:
        return report("unusable_video", str(path), error.reason)
    rows = [{"clip_id": c.clip_id, "span": [clock(c.start), clock(c.end)], "text": c.text} for c in clips]
    return {"video_id": video_id, "url": "", "duration": duration, "clip": rows}

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Layouts of paragraph retrieval data sets, as their makers published them.

- ActivityNet Captions: `{video: {"duration", "timestamps", "sentences"}}` in `train.json`, `val_1.json`, `val_2.json`,
  with lists of ids as collaborative-experts has them; or the paragraphs of later work, `[{"video_id", "desc"}]`.
- DiDeMo: `[{"video", "description", "times", ...}]` in `train_data.json`, ...; all descriptions of a video are one
  paragraph, in the order of the file (the usual reading; the paper does not state one), or by their median time.
- QuerYD: `raw_captions_combined_filtered.json`, `{video: [[word, ...], ...]}`, and `times_captions_combined_filtered`.
- Condensed Movie: `descriptions.csv`, `clips.csv`, `split.csv`; one sentence per clip. Descriptions that occur twice
  are left out, as their makers' loader does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from .annotation_files import Source, TaskRow, expect, normal_split, read_json, read_table, split_of
from .video_folder import stem

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def activitynet_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of ActivityNet Captions, or of a list of `{"video_id", "desc"}`."""
    by_split: dict[str, dict[str, dict[str, Any]]] = {}
    for path in source.files("*.json"):
        captions = read_json(path)
        if isinstance(captions, dict):
            entries = {name: _captions(entry, f"{path}: {name}", source.order) for name, entry in captions.items()}
        else:
            entries = {}
            for number, entry in enumerate(expect(captions, list, str(path))):
                where = f"{path}: entry {number}"
                text = _field(entry, "desc", str, where)
                entries[_field(entry, "video_id", str, where)] = {"text": split_sentences(text)}
        by_split.setdefault(_split_or_all(path, source), {}).update(entries)
    yield from _by_lists(source, by_split)


def didemo_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of DiDeMo's `*_data.json`, or of a list of `{"video_id", "desc"}`."""
    by_split: dict[str, dict[str, dict[str, Any]]] = {}
    for path in source.files("*_data*.json", "*.json"):
        told: dict[str, list[tuple[float, str]]] = {}
        for number, entry in enumerate(expect(read_json(path), list, str(path))):
            where = f"{path}: entry {number}"
            if "desc" in entry:
                sentences = split_sentences(_field(entry, "desc", str, where))
                told[_field(entry, "video_id", str, where)] = [(0.0, sentence) for sentence in sentences]
                continue
            begins = [segment[0] for segment in _field(entry, "times", list, where)]
            sentence = _field(entry, "description", str, where).strip()
            if sentence:
                told.setdefault(stem(_field(entry, "video", str, where)), []).append((median(begins or [0]), sentence))
        paragraphs = {video: {"text": _ordered(sentences, source.order)} for video, sentences in told.items()}
        by_split.setdefault(_split_or_all(path, source), {}).update(paragraphs)
    yield from _by_lists(source, by_split)


def queryd_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of QuerYD, as JSON; the splits are lists of ids, given or found as `train_list.txt` and so on."""
    captions_path = source.files("raw_captions_combined_filtered.json", "raw_captions*.json")[0]
    folder = captions_path.parent
    captions = expect(read_json(captions_path), dict, str(captions_path))
    times_path = folder / captions_path.name.replace("raw_captions", "times_captions")
    times = expect(read_json(times_path), dict, str(times_path)) if times_path.is_file() else {}
    if not source.lists:
        source.lists = {split_of(path): path for path in sorted(folder.glob("*list*.txt"))}
    if not source.lists:
        raise ValueError(f"{folder} has no train_list.txt, val_list.txt, test_list.txt: give lists with --list")
    paragraphs = {}
    for name, told in captions.items():
        sentences = [" ".join(words) if isinstance(words, list) else str(words) for words in told]
        spans = times.get(name)
        if spans is not None and len(spans) != len(sentences):
            raise ValueError(f"{times_path}: {name} has {len(spans)} times for {len(sentences)} captions")
        begins = [span[0] for span in spans] if spans else [0.0] * len(sentences)
        kept = [
            (begin, sentence.strip()) for begin, sentence in zip(begins, sentences, strict=True) if sentence.strip()
        ]
        paragraphs[name] = {"text": _ordered(kept, source.order)}
    yield from _by_lists(source, {"all": paragraphs})


def condensed_movie_rows(source: Source) -> Iterator[TaskRow]:
    """Yield the rows of Condensed Movie's metadata folder."""
    tables = {}
    for name in ("descriptions", "clips", "split"):
        tables[name] = read_table(source.files(f"{name}.csv", f"*/{name}.csv")[0])
    split_of_film = {row["imdbid"]: normal_split(row["split"]) for row in tables["split"]}
    film_of_clip = {row["videoid"]: row["imdbid"] for row in tables["clips"]}
    seen = Counter(row["description"].strip() for row in tables["descriptions"])
    for row in tables["descriptions"]:
        clip, text = row["videoid"], row["description"].strip()
        split = split_of_film.get(film_of_clip.get(clip, row.get("imdbid", "")), "")
        if not split:
            source.leave_out("?", clip, "its film is in no split")
        elif not text:
            source.leave_out(split, clip, "it has no description")
        elif seen[text] > 1:
            source.leave_out(split, clip, f"its description stands {seen[text]} times in the file")
        else:
            yield TaskRow(split, clip, "clip_id", {"text": text})


def split_sentences(text: str) -> list[str]:
    """Split a paragraph after full stops, question and exclamation marks."""
    return [sentence.strip() for sentence in SENTENCE_END.split(text.strip()) if sentence.strip()]


def _captions(entry: Any, where: str, order: str) -> dict[str, Any]:
    sentences = [str(sentence).strip() for sentence in _field(entry, "sentences", list, where)]
    spans = entry.get("timestamps") or [[0.0, 0.0]] * len(sentences)
    if len(spans) != len(sentences):
        raise ValueError(f"{where}: {len(sentences)} sentences with {len(spans)} timestamps")
    told = [(span, sentence) for span, sentence in zip(spans, sentences, strict=True) if sentence]
    if order == "time":
        told.sort(key=lambda one: one[0][0])
    row: dict[str, Any] = {"text": [sentence for _, sentence in told]}
    if entry.get("timestamps"):
        row["timestamps"] = [[float(second) for second in span] for span, _ in told]
    if entry.get("duration") is not None:
        row["duration"] = float(entry["duration"])
    return row


def _ordered(told: list[tuple[float, str]], order: str) -> list[str]:
    return [sentence for _, sentence in (sorted(told, key=lambda one: one[0]) if order == "time" else told)]


def _split_or_all(path: Any, source: Source) -> str:
    try:
        return split_of(path)
    except ValueError:
        if source.lists:
            return "all"
        raise


def _by_lists(source: Source, by_split: dict[str, dict[str, dict[str, Any]]]) -> Iterator[TaskRow]:
    """Yield the rows of each split; with lists, exactly of the listed ids, from the file of that split if there is one.

    Endings are ignored: DiDeMo names one video with several in its annotations, and with another one in the lists.
    """
    lists = source.listed() or {split: list(entries) for split, entries in by_split.items()}
    by_split = {split: {stem(name): entry for name, entry in entries.items()} for split, entries in by_split.items()}
    every = {name: entry for entries in by_split.values() for name, entry in entries.items()}
    for split, names in lists.items():
        own = by_split.get(split, {})
        for name in names:
            entry = own.get(stem(name)) or every.get(stem(name))
            if entry is None:
                source.leave_out(split, name, "the list names it, no annotation file does")
            elif not entry["text"]:
                source.leave_out(split, name, "it has no sentence")
            else:
                yield TaskRow(split, name, "clip_id", entry)


def _field(entry: Any, name: str, kind: type, where: str) -> Any:
    if name not in expect(entry, dict, where):
        raise ValueError(f"{where} lacks {name!r}, it has {sorted(entry)}")
    return expect(entry[name], kind, f"{where}: {name}")

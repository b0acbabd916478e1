# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Loaders of the released retrieval and pre-training annotations, as `datasets` of paths and sentences.

Nothing is decoded here. Both formats are JSON lines (the released loaders run `eval` over each line; here it is JSON
and nothing else):

- retrieval: `{"clip_id": "v_abc", "text": [sentence, ...] or "one string", ...}`, video at `ROOT/v_abc.mp4`;
- pre-training: one long video per line, `[{"clip_id": "VIDEO.3.mp4", "text": sentence}, ...]`, clips at
  `ROOT/VIDEO/VIDEO.3.mp4`.

A row that cannot be used raises an `AnnotationError` that names file and line; the policy `skip` counts it instead
(`skipping`). Map-style data sets hold paths and text in memory, some hundred bytes per sentence. With `streaming=True`
lines are read as they are needed, files are the shards, and memory does not grow with the number of rows.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..video_sources_lfvila import VIDEO_EXTENSIONS
from .skipping import SkipLog

logger = logging.getLogger(__name__)
OWN_COLUMNS = ("id", "video", "clips", "sentences", "place")

ID_FIELDS = ("clip_id", "video_id", "video_name")
"""Fields that name the video of a row in the released formats."""

Parser = Callable[..., dict[str, Any]]


class AnnotationError(ValueError):
    """Error of an annotation row that cannot be used; the message names file, line, value and expectation.

    Args:
        place: File and line, `train.jsonl:12`.
        reason: Explanation. A single argument is the whole message, because loader workers rebuild errors like that.
    """

    def __init__(self, place: str, reason: str | None = None) -> None:
        self.place = place
        self.reason = reason
        super().__init__(place if reason is None else f"{place}: {reason}")

    def __reduce__(self) -> tuple[type[AnnotationError], tuple[str, str | None]]:
        """Keep both parts if the error crosses a process border."""
        return type(self), (self.place, self.reason)


def load_retrieval(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    video_root: str | os.PathLike[str],
    *,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load paragraphs of whole videos in the released retrieval format.

    Args:
        path: A JSON lines file, a pattern such as `rows-*.jsonl`, or several of either.
        video_root: Folder (or address) of the videos; `resolve_video` says how a `clip_id` becomes a file.
        streaming: Return a `datasets.IterableDataset` that reads lines as they are needed.
        check_files: Treat a missing video as an error of its row. Otherwise it is an error of decoding.
        skips: Policy for rows that cannot be used. By default they raise.

    Returns:
        A `datasets.Dataset` with the columns `id`, `video` (path), `sentences` (list of strings), `place` (file and
        line) and every other field of the rows (where the values of a field are of different types: as JSON text).
        A stream gives the same rows; a field that a row does not have is then missing instead of None.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    return load_rows(path, _parse_retrieval, os.fspath(video_root), streaming, check_files, skips)


def load_pretraining(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    video_root: str | os.PathLike[str],
    *,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load long videos as runs of clips with one sentence each, in the released pre-training format.

    Args:
        path: A JSON lines file, a pattern, or several of either.
        video_root: Folder (or address) that has one folder of clips per video.
        streaming: Return a `datasets.IterableDataset`.
        check_files: Treat a missing clip as an error of its row. It costs one file system call per clip.
        skips: Policy for rows that cannot be used. By default they raise.

    Returns:
        A `datasets.Dataset` (or stream) with the columns `id` (name of the long video), `clips` (paths), `sentences`
        (one per clip) and `place`.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    return load_rows(path, _parse_pretraining, os.fspath(video_root), streaming, check_files, skips)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Yield `(place, value)` of every line that is not blank; `place` is `path:line`, counted from 1.

    Raises:
        AnnotationError: A line is not UTF-8 or not JSON.
    """
    for place, line in _lines(path):
        yield place, _parse_line(place, line)


def field_of(row: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """Return the value of one field of a row.

    Raises:
        AnnotationError: The row is no object, lacks the field, or has another type in it.
    """
    if not isinstance(row, dict):
        raise AnnotationError(place, f"expected a JSON object with the field {name!r}, got {_short(row)}")
    if name not in row:
        raise AnnotationError(place, f"the field {name!r} is missing; the row has {sorted(row)}")
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = row[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join({"str": "string", "dict": "object"}.get(one.__name__, one.__name__) for one in kinds)
        raise AnnotationError(place, f"the field {name!r} must be {expected}, got {_short(value)}")
    return value


def sentences_of(row: Any, name: str, place: str) -> list[str]:
    """Return a field that holds one sentence or a list of them as a list.

    Raises:
        AnnotationError: There is no sentence, one is empty, or one is no string.
    """
    value = field_of(row, name, (str, list), place)
    sentences = [value] if isinstance(value, str) else value
    if not sentences:
        raise AnnotationError(place, f"the field {name!r} is an empty list, expected at least one sentence")
    for number, sentence in enumerate(sentences):
        where = f"the field {name!r}" if isinstance(value, str) else f"sentence {number} of {name!r}"
        if not isinstance(sentence, str):
            raise AnnotationError(place, f"{where} must be a string, got {_short(sentence)}")
        if not sentence.strip():
            raise AnnotationError(place, f"{where} is empty")
    return list(sentences)


def resolve_video(video_root: str, name: str, place: str, check_file: bool = True) -> str:
    """Find a video below a root folder.

    A file of exactly that name is taken whatever it is called. A name that ends like a video file is that file. To any
    other `.mp4` is added, and where that file is missing the one other known ending (`VIDEO_EXTENSIONS`, small or
    capital letters) for which there is a file.

    Args:
        video_root: Folder, or an address with `://`, in which nothing is looked up.
        name: `clip_id` of the annotation; may name a subfolder, with `/`.
        place: Annotation file and line, for the error.
        check_file: Check that the file exists.

    Raises:
        AnnotationError: The name leaves the root, there is no such file, or several fit.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or ".." in parts or os.path.isabs(name) or parts[0].endswith(":"):
        raise AnnotationError(place, f"{name!r} is no name of a video inside {video_root}")
    has_ending = os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS
    is_address = "://" in video_root
    path = posixpath.join(video_root, name) if is_address else os.path.join(video_root, name)
    if not is_address and check_file and os.path.isfile(path):
        return path
    first = path if has_ending else path + VIDEO_EXTENSIONS[0]
    if is_address or not check_file or os.path.exists(first):
        return first
    if has_ending:
        raise AnnotationError(place, f"there is no file {first}")
    endings = dict.fromkeys(cased for ending in VIDEO_EXTENSIONS for cased in (ending, ending.upper()))
    found = [path + ending for ending in endings if os.path.exists(path + ending)]
    if len(found) > 1 and not all(os.path.samefile(found[0], other) for other in found[1:]):
        raise AnnotationError(place, f"{name!r} could be any of {', '.join(found)}")
    if not found:
        raise AnnotationError(place, f"there is no file {first}, nor one with another known ending")
    return found[0]


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def _parse_retrieval(row: Any, place: str, video_root: str, check_files: bool) -> dict[str, Any]:
    clip_id = field_of(row, "clip_id", str, place)
    sentences = sentences_of(row, "text", place)
    others = {name: value for name, value in row.items() if name not in ("clip_id", "text")}
    taken = sorted(set(others) & set(OWN_COLUMNS))
    if taken:
        raise AnnotationError(place, f"the field {taken[0]!r} has the name of a column of the data set; rename it")
    video = resolve_video(video_root, clip_id, place, check_files)
    return {"id": clip_id, "video": video, "sentences": sentences, "place": place, **others}


def _parse_pretraining(row: Any, place: str, video_root: str, check_files: bool) -> dict[str, Any]:
    if not isinstance(row, list) or not row:
        raise AnnotationError(place, f"expected a list of clips, at least one, got {_short(row)}")
    names, clips, sentences = [], [], []
    for clip in row:
        clip_id = field_of(clip, "clip_id", str, place)
        video, number, ending = ([*clip_id.rsplit(".", 2), "", ""])[:3]
        if not video or not number.isdigit() or f".{ending.lower()}" not in VIDEO_EXTENSIONS:
            raise AnnotationError(place, f"a clip_id must look like 'VIDEO.3.mp4', got {clip_id!r}")
        field_of(clip, "text", str, place)
        sentences += sentences_of(clip, "text", place)
        names.append(video)
        clips.append(resolve_video(video_root, f"{video}/{clip_id}", place, check_files))
    return {"id": names[0], "clips": clips, "sentences": sentences, "place": place}


def _rows(
    files: Sequence[str], parse: Parser, video_root: str, check_files: bool, skips: SkipLog
) -> Iterator[dict[str, Any]]:
    """Yield the usable rows of some files. `datasets` splits this generator by its list of files."""
    count = 0
    for path in files:
        for place, line in _lines(path):
            count += 1
            value: Any = None
            try:
                value = _parse_line(place, line)
                row = parse(value, place, video_root, check_files)
            except AnnotationError as error:
                skips.handle(error, sample=_name_of(value), place=place, rows_read=count)
                continue
            yield row


def load_rows(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    parse: Parser,
    video_root: str,
    streaming: bool = False,
    check_files: bool = True,
    skips: SkipLog | None = None,
) -> Any:
    """Load rows of any JSON lines format; the loaders of all formats call this.

    Args:
        path: A JSON lines file, a pattern, or several of either.
        parse: `parse(value, place, video_root, check_files)` makes a row of one line's value, or raises
            `AnnotationError`. With `streaming` it must be picklable.
        video_root: Folder (or address) of the videos.
        streaming: Return a `datasets.IterableDataset`.
        check_files: Treat a missing video as an error of its row.
        skips: Policy for rows that cannot be used. By default they raise.

    Raises:
        AnnotationError: A row cannot be used, and the policy is to raise.
        ValueError: There is no such file, or no file has a row.
    """
    from datasets import Dataset, IterableDataset

    files = _files(path)
    skips = skips or SkipLog("raise")
    if streaming:
        options = {"parse": parse, "video_root": video_root, "check_files": check_files, "skips": skips}
        return IterableDataset.from_generator(_rows, gen_kwargs={"files": files, **options})
    if skips.total is None and skips.on_error == "skip":
        skips.total = sum(1 for file in files for _ in _lines(file))
    rows = list(_rows(files, parse, video_root, check_files, skips))
    if not rows:
        raise ValueError(f"{', '.join(files)}: no usable row in {'this file' if len(files) == 1 else 'these files'}")
    return Dataset.from_dict(_columns(rows))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns that Arrow can hold; a field whose values are of several types becomes JSON text."""
    import pyarrow

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name in names:
        try:
            pyarrow.array(columns[name])
        except (pyarrow.ArrowException, OverflowError) as error:
            logger.warning("the field %r is kept as JSON text: %s", name, error)
            columns[name] = [json.dumps(row[name]) if name in row else None for row in rows]
    return columns


def _files(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    files: list[str] = []
    for one in [os.fspath(item) for item in given]:
        found = [one] if os.path.isfile(one) else sorted(glob.glob(one))
        if not found:
            raise ValueError(f"there is no annotation file {one}")
        files += found
    if not files:
        raise ValueError("no annotation file was given")
    return files


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{os.fspath(path)}:{number}", line


def _parse_line(place: str, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnnotationError(place, f"not UTF-8: {error}") from error
    except ValueError as error:
        raise AnnotationError(place, f"not JSON: {error}") from error
    except RecursionError as error:
        raise AnnotationError(place, "nested too deep for JSON") from error


def _name_of(value: Any) -> str:
    """Return the id of a row that may be anything, for a report."""
    first = value[0] if isinstance(value, list) and value else value
    names = [first.get(field) for field in ID_FIELDS] if isinstance(first, dict) else []
    return next((name for name in names if isinstance(name, str)), "?")


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, (bytes, bytearray)) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = [
    "VIDEO_EXTENSIONS",
    "AnnotationError",
    "field_of",
    "load_pretraining",
    "load_retrieval",
    "load_rows",
    "read_json_lines",
    "resolve_video",
    "sentences_of",
]

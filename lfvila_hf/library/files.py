# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Which files of a folder are videos of a library, and what a library calls them.

A file is a video by its suffix. Links are followed only where they stay inside the folder: an index must not become a
way to read what lies elsewhere. With a root folder, a video is called by its path below it, with `/` on every system.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath

from lfvila_hf.library.embedding import VideoFile
from lfvila_hf.library.store import Problem
from lfvila_hf.library.table import FileStamp
from lfvila_hf.video_reading_lfvila import LFVilaVideoError
from lfvila_hf.video_sources_lfvila import VIDEO_EXTENSIONS

VIDEO_SUFFIXES = frozenset(VIDEO_EXTENSIONS)


def listed(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], root: str
) -> tuple[list[VideoFile], list[Problem]]:
    """The videos of files and folders, in order of their names, each once; and those that cannot be used as they are.

    Args:
        sources: A file, a folder or a list of them. A file that is named is a video whatever its suffix.
        root: Folder that names are relative to, "" for absolute names.

    Raises:
        ValueError: A source is not there, or lies outside the root.
    """
    items = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    return find_videos([os.fspath(item) for item in items], root)


def find_videos(items: list[str], root: str, strict: bool = False) -> tuple[list[VideoFile], list[Problem]]:
    """See `listed`.

    Args:
        items: Files and folders.
        root: Folder that names are relative to, "" for absolute names.
        strict: Raise what would be a problem.
    """
    found: dict[str, VideoFile] = {}
    problems: dict[str, Problem] = {}
    for item in items:
        if not os.path.exists(item):
            raise LFVilaVideoError(item, "no such file or folder")
        inside = os.path.realpath(root or (item if os.path.isdir(item) else os.path.dirname(os.path.abspath(item))))
        for file in _walk(item) if os.path.isdir(item) else [item]:
            name, reason = _name(file, root, inside)
            if not reason:
                try:
                    found[name] = VideoFile(name, os.path.abspath(file), FileStamp.of(file))
                    continue
                except OSError as error:
                    reason = f"the file cannot be looked at ({error.strerror or error})"
            if strict:
                raise LFVilaVideoError(file, reason)
            problems[name] = Problem(name, reason, 0, 0)
    return [found[name] for name in sorted(found)], [problems[name] for name in sorted(problems)]


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield os.path.join(parent, name)


def _name(file: str, root: str, inside: str) -> tuple[str, str]:
    """What a library calls a file, and why it cannot have it ("" if it can)."""
    absolute = os.path.abspath(file)
    if root:
        # The folder may have been named through a link: its own real name is what counts.
        real_parent = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
        if not real_parent.startswith(root + os.sep):
            raise ValueError(f"the video {file} is outside the library's folder {root}")
        name = PurePath(os.path.relpath(real_parent, root)).as_posix()
    else:
        name = absolute
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode(), "its name is not valid UTF-8: rename it"
    if os.path.islink(absolute) and not os.path.realpath(absolute).startswith(inside + os.sep):
        return name, "it is a link to a place outside the folder"
    return name, ""


def name_in(path: str, root: str, known: Collection[str]) -> str:
    """What a library calls a path that a person wrote.

    Raises:
        ValueError: It is not in the library.
    """
    candidates = [path, os.path.abspath(path)]
    if root:
        candidates.append(PurePath(os.path.relpath(os.path.realpath(path), root)).as_posix())
    for name in candidates:
        if name in known:
            return name
    raise ValueError(f"the video {path} is not in this library")

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Video files of a folder by name, and a check that they decode.

A folder is listed once, with its sub-folders (COIN's downloads are one folder per class). A video is found by its name
with or without ending, and with or without the `v_` of ActivityNet; a file that is named exactly is found whatever its
ending. One that is stored as segments
`VIDEO_START_END.mp4` is found by the seconds that a row is about. Two files that fit are an error, not a guess. The
check reads a few frames spread over the video, several files at once in threads. Memory: the list of files.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..video_reading_lfvila import LFVilaVideoError, read_frames
from ..video_sources_lfvila import VIDEO_EXTENSIONS

SEGMENT = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")
CHECKED_FRAMES = 4


class VideoPlace(NamedTuple):
    """File of a video, or of a segment of one."""

    path: str
    """Relative to the folder of the videos."""
    start: float = 0.0
    """Second of the video at which the file begins."""
    end: float = math.inf
    """Second of the video at which the file ends, if its name states it."""


class VideoFolder:
    """The video files below a folder, by name.

    Args:
        root: The folder.

    Raises:
        ValueError: If there is no such folder, or no video in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"there is no folder of videos at {root}")
        self.root = root
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_file: dict[str, list[str]] = defaultdict(list)
        self.segments: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for folder, _, names in os.walk(root):
            for name in sorted(names):
                bare = stem(name)
                path = (Path(folder) / name).relative_to(root).as_posix()
                self.by_file[name].append(path)
                if bare != name:
                    self.by_name[bare].append(path)
                    found = SEGMENT.fullmatch(bare)
                    if found:
                        self.segments[found[1]].append((float(found[2]), float(found[3]), path))
        if not self.by_file:
            raise ValueError(f"{root} has no file")

    def find(self, name: str, span: tuple[float, float] | None = None) -> VideoPlace:
        """Find the file of a video, or of the one segment of it that holds a span.

        Args:
            name: Name of the video, with or without ending.
            span: Seconds that a segment must hold, if the video is stored as segments.

        Raises:
            ValueError: If no file or more than one fits.
        """
        bare = stem(name)
        # An id may begin with "v_" itself, so the prefix is also tried before it.
        names = (bare, f"v_{bare}", bare.removeprefix("v_"))
        for paths in (self.by_file.get(name, []), *(self.by_name.get(one, []) for one in names)):
            if len(paths) > 1:
                raise ValueError(f"could be any of {', '.join(paths)}")
            if paths:
                return VideoPlace(paths[0])
        around = [
            VideoPlace(path, start, end)
            for start, end, path in self.segments.get(bare, [])
            if span is not None and start <= span[0] < end and span[1] <= end + 1
        ]
        if len(around) > 1:
            raise ValueError(f"could be any of {', '.join(place.path for place in around)}")
        if not around:
            raise ValueError("there is no such file")
        return around[0]


def stem(name: str) -> str:
    """Return the name of a video without its ending, or without the bare dot that DiDeMo has for unknown ones."""
    bare, ending = os.path.splitext(name)
    return bare if ending.lower() in VIDEO_EXTENSIONS or ending == "." else name


def check_videos(root: Path, paths: Iterable[str], level: str, workers: int) -> dict[str, str]:
    """Check that files can be used.

    Args:
        root: Folder of the paths.
        paths: Files to check.
        level: `"decode"` reads a few frames over the whole length; `"exists"` checks the size only.
        workers: Number of files that are read at once.

    Returns:
        Reasons by path, of the files that cannot be used.
    """

    def reason(path: str) -> str | None:
        if level == "exists":
            return None if (root / path).stat().st_size else "the file is empty"
        try:
            read_frames(str(root / path), num_frames=CHECKED_FRAMES)
        except LFVilaVideoError as error:
            return error.reason
        return None

    ordered = sorted(set(paths))
    with ThreadPoolExecutor(workers) as pool:
        reasons = dict(zip(ordered, pool.map(reason, ordered), strict=True))
    return {path: why for path, why in reasons.items() if why is not None}

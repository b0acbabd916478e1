# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Index a folder of videos: find, embed, put in place; stop at any time and go on.

1. Files are listed. Those that the index in place knows, with the same size and time of change, are left as they are.
2. Every other file is read and embedded by itself; its rows go to one file of the *work folder*, which appears in one
   rename. A file that cannot be used gets its reason there instead. Both carry the file's size and time of change in
   their name, so a run that was killed is continued by looking at the names.
3. When all files are done, the first process writes the new index and puts it in place in one rename
   (`lfvila_hf.library.store`). Rows of files that are gone or changed stay behind. The work folder is removed.

Since the rows of a file depend on that file alone, it does not matter how often a run was killed, how many processes
shared the files, or whether they ran on a Ray cluster: the index is the same, byte for byte (on one kind of machine).

Memory: one batch of segments per decoder and process; in step 3, one part of the table.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

import lfvila_hf
from lfvila_hf.library.embedding import SegmentEncoder, Stopwatch, VideoFile
from lfvila_hf.library.files import find_videos
from lfvila_hf.library.fingerprint import fingerprint
from lfvila_hf.library.library_view import check_version
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.store import Maker, Manifest, Problem, Store
from lfvila_hf.library.table import FileStamp, video_id, write_table
from lfvila_hf.library.vectors import SearchKind
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

logger = logging.getLogger(__name__)

BARRIER_DAYS = 30


@dataclass(frozen=True)
class IndexReport:
    """What a run did.

    Args:
        videos: In the index now.
        segments: In the index now.
        embedded: Videos whose rows are new.
        unchanged: Videos that were left as they were.
        removed: Videos that are gone.
        problems: Files that could not be used.
        search: Kind of search and its settings.
        seconds: Where the time of this process went: "decode" (waiting for frames), "model", "thumbnails", "write",
            "finish" (the new index), "total" (from the first file to the last, without "finish").
    """

    videos: int
    segments: int
    embedded: int
    unchanged: int
    removed: int
    problems: tuple[Problem, ...]
    search: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.videos} videos in {self.segments} segments: {self.embedded} embedded, {self.unchanged} unchanged, "
            f"{self.removed} removed; search: {self.search['kind']}"
        ]
        if self.problems:
            lines.append(f"{len(self.problems)} files could not be used:")
            lines += [f"  {problem.path}: {problem.reason}" for problem in self.problems]
        return "\n".join(lines)


class WorkFolder:
    """Rows of finished videos, one Parquet file each, until the index is put in place.

    Args:
        address: Folder, on any file system that fsspec knows.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.files, self.path = fsspec.core.url_to_fs(address)

    def done(self) -> set[str]:
        """Names of what is finished."""
        if not self.files.exists(self.path):
            return set()
        self.files.invalidate_cache()
        names = (os.path.basename(name.rstrip("/")) for name in self.files.ls(self.path, detail=False))
        return {name for name in names if not name.startswith(".")}

    def save(self, video: VideoFile, answer: pa.Table | LFVilaVideoError) -> None:
        """Keep the rows of a video, or why there are none. It is there as a whole or not at all."""
        self.files.makedirs(self.path, exist_ok=True)
        name = work_name(video, not isinstance(answer, LFVilaVideoError))
        temporary = f"{self.path}/.{name}.{os.getpid()}"
        with self.files.open(temporary, "wb") as file:
            if isinstance(answer, LFVilaVideoError):
                file.write(json.dumps({"path": video.path, "reason": answer.reason}).encode())
            else:
                write_table(answer, file)
        self.files.mv(temporary, f"{self.path}/{name}")

    def rows(self, video: VideoFile) -> pa.Table:
        """The rows of a finished video."""
        with self.files.open(f"{self.path}/{work_name(video, True)}", "rb") as file:
            return pq.read_table(file)

    def reason(self, video: VideoFile) -> str:
        """Why a video has no rows."""
        with self.files.open(f"{self.path}/{work_name(video, False)}", "rb") as file:
            return str(json.loads(file.read())["reason"])

    def remove(self) -> None:
        """Remove the folder."""
        if self.files.exists(self.path):
            self.files.rm(self.path, recursive=True)


def work_name(video: VideoFile, usable: bool) -> str:
    """The name of a finished video in the work folder: which video, in which state."""
    stamp = f"{video.stamp.size:x}-{video.stamp.mtime_ns:x}"
    return f"{video_id(video.path)}-{stamp}.{'parquet' if usable else 'json'}"


class Processes:
    """The processes of this run: one, or those that `accelerate launch` started."""

    def __init__(self) -> None:
        self.state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState(timeout=timedelta(days=BARRIER_DAYS))
        self.index = self.state.process_index if self.state else 0
        self.count = self.state.num_processes if self.state else 1

    @property
    def device(self) -> Any:
        """Where this process's model belongs, or `None` for the default."""
        return self.state.device if self.state else None

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.state:
            self.state.wait_for_everyone()

    def share(self, files: list[VideoFile]) -> list[VideoFile]:
        """The files of this process: all get about the same number of bytes, and every process knows who has what."""
        loads = [0] * self.count
        mine = []
        for file in sorted(files, key=lambda one: (-one.stamp.size, one.path)):
            owner = loads.index(min(loads))
            loads[owner] += file.stamp.size
            if owner == self.index:
                mine.append(file)
        return sorted(mine, key=lambda one: one.path)


Embed = Callable[[list[VideoFile], WorkFolder], Iterable[VideoFile]]
"""Finishes files in a work folder and yields each when it is done."""


def index_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: Any,
    processor: Any,
    checkpoint: str = "",
    rule: SegmentRule | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    kind: SearchKind = "auto",
    rebuild: bool = False,
    retry: bool = False,
    work: str | None = None,
    progress: bool = False,
    embed: Embed | None = None,
    made_by: str | None = None,
    options: dict[str, Any] | None = None,
) -> IndexReport | None:
    """Bring an index up to date with a folder.

    Args:
        folder: Videos, in subfolders too.
        output: Folder of the index.
        model: The model, on its device.
        processor: Its processor.
        checkpoint: Where the model came from; the index remembers it for searching.
        rule: How videos are cut.
        batch_size: Segments in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
        kind: How the index will be searched.
        rebuild: Begin anew, whatever made the index that is there.
        retry: Read files again that could not be used and have not changed since.
        work: Work folder on any file system that fsspec knows; in `output`, if left out.
        progress: Whether to show a progress bar with the time left.
        embed: Does the work elsewhere (Ray); in this process and its siblings, if left out.
        made_by: The fingerprint, where it was taken before the model was cast; taken here, if left out.
        options: Settings of the video processor, such as `isolated`.

    Returns:
        What was done; `None` in all processes but the first.

    Raises:
        ValueError: The folder is not there, the index is of another folder, checkpoint or version, or another run is
            at work on it.
    """
    root = os.path.realpath(folder)
    if not os.path.isdir(root):
        raise ValueError(f"there is no folder {os.fspath(folder)}")
    rule = rule or SegmentRule()
    made_by = made_by or fingerprint(model, processor)
    maker = Maker(made_by, checkpoint, lfvila_hf.__version__, processor.video_processor.num_frames, rule)
    store, processes = Store(output), Processes()
    before = Manifest(maker, root)
    if store.exists() and not rebuild:
        before = _continued(store.read(), maker, root, os.fspath(output))
    files, problems = find_videos([root], root)
    known = _known(store, before)
    settled = {} if retry else {one.path: one for one in before.problems}
    new = [file for file in files if known.get(file.path) != file.stamp and not _settled(settled, file)]
    address = (work or os.path.join(os.path.abspath(output), "work")).rstrip("/")
    folder_name = f"{made_by[:12]}-{rule.seconds:g}-{rule.overlap:g}-{video_id(root)[:8]}"
    # Of another model's work, or another cut or folder, nothing can be used: it has another name.
    shelf = WorkFolder(f"{address}/{folder_name}")
    watch = Stopwatch()
    with _only_run(store, processes):
        with watch("total"):
            if embed is None:
                encoder = SegmentEncoder(model, processor, rule, batch_size, num_workers, **(options or {}))
                encoder.watch = watch

                def embed(files: list[VideoFile], shelf: WorkFolder) -> Iterable[VideoFile]:
                    return embed_here(encoder, processes.share(files), shelf)

            _finish_files(embed, new, shelf, progress and processes.index == 0, processes)
            processes.wait()
        if processes.index:
            return None
        with watch("finish"):
            report = _put_in_place(store, before, files, problems, settled, new, shelf, kind)
            # A folder that somebody named may hold other things than this run's.
            (shelf if work else WorkFolder(address)).remove()
    return replace(report, seconds=watch.seconds)


def embed_here(encoder: SegmentEncoder, files: list[VideoFile], shelf: WorkFolder) -> Iterator[VideoFile]:
    """Finish files in this process."""
    done = shelf.done()
    waiting = [one for one in files if not {work_name(one, True), work_name(one, False)} & done]
    for video in files:
        if video not in waiting:
            yield video
    for video, answer in encoder.encode_files(waiting):
        with encoder.watch("write"):
            if not isinstance(answer, LFVilaVideoError):
                answer = _unchanged(video, answer)
            shelf.save(video, answer)
        yield video


def _unchanged(video: VideoFile, table: pa.Table) -> pa.Table | LFVilaVideoError:
    """The rows, unless the file is another one by now."""
    try:
        if FileStamp.of(video.file) == video.stamp:
            return table
    except OSError:
        pass
    return LFVilaVideoError(video.file, "the file changed or went away while it was read; the next run looks again")


def _finish_files(embed: Embed, new: list[VideoFile], shelf: WorkFolder, progress: bool, processes: Processes) -> None:
    from tqdm.auto import tqdm

    share = processes.share(new)
    total = sum(one.stamp.size for one in share)
    title = "indexing" if processes.count == 1 else f"indexing (1 of {processes.count} processes)"
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not progress) as bar:
        for number, video in enumerate(embed(new, shelf), start=1):
            bar.update(video.stamp.size)
            bar.set_postfix_str(f"{number} of {len(share)} videos")


def _continued(before: Manifest, maker: Maker, root: str, output: str) -> Manifest:
    """The manifest of an index that this run may go on with."""
    check_version(before.maker.version, output)
    if before.maker.fingerprint != maker.fingerprint:
        raise ValueError(
            f"the index {output} was made with another checkpoint (fingerprint {before.maker.fingerprint[:12]}, from "
            f"{before.maker.checkpoint or 'a model object'}; this one has {maker.fingerprint[:12]}): use another "
            "--output, or --rebuild to embed all videos again"
        )
    if before.maker.rule != maker.rule:
        raise ValueError(
            f"the index {output} has segments of {before.maker.rule.seconds:g} s with overlap "
            f"{before.maker.rule.overlap:g}, asked for were {maker.rule.seconds:g} s and {maker.rule.overlap:g}: use "
            "another --output, or --rebuild"
        )
    if before.root != root:
        raise ValueError(
            f"the index {output} is of the folder {before.root or '(single files)'}, not of {root}: use another "
            "--output, or --rebuild"
        )
    return replace(before, maker=maker)


def _known(store: Store, manifest: Manifest) -> dict[str, FileStamp]:
    rows = store.light_rows(manifest)
    if rows is None:
        return {}
    columns = [rows.column(name).to_pylist() for name in ("path", "file_size", "file_mtime_ns")]
    return {path: FileStamp(size, time) for path, size, time in zip(*columns, strict=True)}


def _settled(settled: dict[str, Problem], file: VideoFile) -> bool:
    one = settled.get(file.path)
    return one is not None and (one.file_size, one.file_mtime_ns) == (file.stamp.size, file.stamp.mtime_ns)


def _put_in_place(
    store: Store,
    before: Manifest,
    files: list[VideoFile],
    problems: list[Problem],
    settled: dict[str, Problem],
    new: list[VideoFile],
    shelf: WorkFolder,
    kind: SearchKind,
) -> IndexReport:
    done = shelf.done()
    added = [video for video in new if work_name(video, True) in done]
    failed = [video for video in new if work_name(video, False) in done and video not in added]
    if len(added) + len(failed) != len(new):
        missing = next(video.path for video in new if video not in added and video not in failed)
        raise ValueError(f"{len(new) - len(added) - len(failed)} videos are not done, {missing} is one: run it again")
    unchanged = {video.path for video in files} - {video.path for video in new}
    every = [
        *problems,
        *(settled[video.path] for video in files if video.path in unchanged and video.path in settled),
        *(Problem(one.path, shelf.reason(one), one.stamp.size, one.stamp.mtime_ns) for one in failed),
    ]
    every.sort(key=lambda one: one.path)
    keep = unchanged - {one.path for one in every}
    had = set(_known(store, before))
    manifest = store.commit(
        replace(before, problems=tuple(every)),
        lambda path: path in keep,
        [(video.path, partial(shelf.rows, video)) for video in added],
        kind,
    )
    return IndexReport(
        videos=len(keep & had) + len(added),
        segments=manifest.num_rows,
        embedded=len(added),
        unchanged=len(keep & had),
        removed=len(had - {video.path for video in files}),
        problems=manifest.problems,
        search={name: value for name, value in manifest.search.items() if name != "file"},
    )


def _only_run(store: Store, processes: Processes) -> Any:
    """A lock on the index while this run is at work; the system takes it back when the process dies."""
    import contextlib

    if processes.index:
        return contextlib.nullcontext()
    from filelock import FileLock, Timeout

    store.folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(str(store.folder / ".lock"), timeout=0).acquire()
    except Timeout:
        raise ValueError(f"another run is at work on the index {store.folder}: wait for it, or stop it") from None

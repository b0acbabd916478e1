# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Cutting of all videos of a corpus into clip files, in parallel; a stopped run is resumed by running it again.

    OUTPUT/
      VIDEO/VIDEO.3.mp4          clip files, at the paths that `data.annotations.load_pretraining` expects
      ledger.jsonl               one line per video that was worked on: clips cut, clips failed, reasons
      cut_parameters.json        parameters of the clips; resuming with other parameters is an error

A clip file has its name only after it was read again and found right (`cutting`). So a file that exists is done, and
resuming costs one look at the file system per clip. A video that kills its worker (a crash in a decoder) is found by
running the videos that were under way one by one, recorded, and left out. Failures are tried again by the next run.

Memory: the videos that are under way; nothing grows with the corpus.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

from lfvila_hf.data.annotations import AnnotationError, read_json_lines, resolve_video
from lfvila_hf.video_sources_lfvila import LFVilaVideoError

from .cutting import ClipWish, CutClip, CutParameters, cut_video
from .engines import default_workers, worker_context
from .inputs import RecordProblem, checked_video_id, find_files, parse_json_line, read_lines, read_video, video_of_clip
from .output_folders import LOCK, locked, read_rows

LEDGER, PARAMETERS, UNFINISHED = "ledger.jsonl", "cut_parameters.json", ".unfinished"


@dataclass(frozen=True)
class VideoWish:
    """The clips to cut from one video."""

    video_id: str
    clips: tuple[ClipWish, ...]


@dataclass
class CutSummary:
    """Summary of a run.

    Attributes:
        cut: Number of clips cut.
        there: Number of clips of earlier runs.
        failed: Number of clips that could not be cut.
        frames: Number of frames in the clips cut.
        bytes: Size of the clips cut.
        failures: Number of failed clips by kind.
        seconds: Wall seconds.
    """

    cut: int
    there: int
    failed: int
    frames: int
    bytes: int
    failures: Counter[str]
    seconds: float


@dataclass(frozen=True)
class _Task:
    """Task of a worker: one video. `source` is its file, or `None` with a reason."""

    wish: VideoWish
    source: str | None
    output: str
    parameters: CutParameters
    reason: str = ""


def cut_corpus(
    output: str | os.PathLike[str],
    videos: Iterable[VideoWish],
    find_source: Callable[[str], str],
    parameters: CutParameters | None = None,
    workers: int | None = None,
) -> CutSummary:
    """Cut the clips of many videos.

    Args:
        output: Folder of the clips; a new one, or one of an earlier run with the same parameters.
        videos: Clips by video; read lazily.
        find_source: Maps a video id to its file; raises `ValueError` if there is none.
        parameters: Parameters of the clip files. Defaults to `CutParameters()`.
        workers: Number of processes; 1 works in this one. Defaults to the number of cores.

    Returns:
        Summary. Failures are in the ledger, and do not stop the run.

    Raises:
        ValueError: If the folder is of a run with other parameters, holds other things, or another run writes to it.
        OSError: If a file cannot be written, as on a full disk. What is cut stays; run it again to resume.
    """
    parameters = parameters or CutParameters()
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    folder = _made_folder(Path(output))
    summary = CutSummary(0, 0, 0, 0, 0, Counter(), 0.0)
    start = time.perf_counter()
    tasks = _open_tasks(videos, folder, find_source, parameters, summary)
    with locked(folder):
        _check_parameters(folder, parameters)
        try:
            with _open_ledger(folder / LEDGER) as ledger:
                for task, clips in run_tasks(cut_task, tasks, workers, _crashed):
                    _record(ledger, task, clips, summary)
        finally:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    summary.seconds = time.perf_counter() - start
    return summary


def cut_task(task: _Task) -> list[CutClip]:
    """Cut one video; a clip that cannot be cut is a result too."""
    if task.source is None:
        return _all_failed(task, task.reason)
    output = Path(task.output)
    folder = output / task.wish.video_id
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return _all_failed(task, f"bad_folder: {folder} is a {'link' if folder.is_symlink() else 'file'}")
    unfinished = output / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    try:
        return cut_video(task.source, task.wish.clips, folder, task.parameters, unfinished)
    except LFVilaVideoError as error:
        return _all_failed(task, f"unusable_video: {error}")
    finally:
        # Where the metadata name a video twice another process may be at work in the folder, or have removed it.
        with contextlib.suppress(OSError):
            folder.rmdir()


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, crashed: Callable[[Any], Any]
) -> Iterator[tuple[Any, Any]]:
    """Run a function over tasks in processes, and survive a process that dies.

    Args:
        function: Importable by name, as are its arguments.
        tasks: Read a few ahead of the workers.
        workers: Number of processes; 1 works in this one.
        crashed: Makes the answer for a task that killed its process.

    Yields:
        Task and answer, in the order of completion.
    """
    if workers == 1:
        for task in tasks:
            yield task, function(task)
        return
    waiting = iter(tasks)
    context = worker_context(["lfvila_hf.corpus.cutting_jobs"])
    while True:
        under_way: dict[Future[Any], Any] = {}
        pool = ProcessPoolExecutor(workers, mp_context=context)
        try:
            while True:
                for task in islice(waiting, 2 * workers - len(under_way)):
                    under_way[pool.submit(function, task)] = task
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    answer = future.result()
                    yield under_way.pop(future), answer
        except BrokenProcessPool:
            suspects = list(under_way.values())
        finally:
            pool.shutdown(cancel_futures=True)
        # Each alone, so that the one that kills its process is known by that.
        for task in suspects:
            with ProcessPoolExecutor(1, mp_context=context) as alone:
                try:
                    yield task, alone.submit(function, task).result()
                except BrokenProcessPool:
                    yield task, crashed(task)


def wishes_of_corpus(corpus: str | os.PathLike[str]) -> Iterator[VideoWish]:
    """Yield the clips of a built corpus, video by video.

    Raises:
        ValueError: If there is no corpus, a file of it is damaged, or an id in it is no file name.
    """
    rows = (row for _, row in read_rows(corpus, ("video_id", "clip_ids", "starts", "ends")))
    for video_id, group in groupby(rows, key=lambda row: row["video_id"]):
        clips: dict[str, ClipWish] = {}
        for row in group:
            for clip_id, start, end in zip(row["clip_ids"], row["starts"], row["ends"], strict=True):
                clips[clip_id] = ClipWish(clip_id, round(start * 1000), round(end * 1000))
        yield _checked(video_id, clips.values())


def wishes_of_metadata(metadata: Sequence[str | os.PathLike[str]]) -> Iterator[VideoWish]:
    """Yield all clips of HD-VILA-100M metadata, row by row.

    Raises:
        ValueError: For the first row or span that cannot be used, with its place.
    """
    for path in find_files(metadata):
        for place, line in read_lines(path):
            try:
                video, problems = read_video(parse_json_line(line))
            except RecordProblem as problem:
                raise ValueError(f"{place}: {problem}") from None
            if problems:
                raise ValueError(f"{place}: {problems[0]}")
            yield _checked(video.video_id, [ClipWish(clip.clip_id, clip.start, clip.end) for clip in video.clips])


def source_finder(
    root: str | os.PathLike[str] | None = None, sources: str | os.PathLike[str] | None = None
) -> Callable[[str], str]:
    """Return a function from a video id to its file.

    Args:
        root: Folder of files named by the id (any known ending).
        sources: JSON lines `{"video_id": ..., "path": ...}`, as `from-subtitles` writes them; relative paths are
            relative to `root`, else to that file's folder.

    Raises:
        ValueError: If neither is given, or `sources` has another layout.
    """
    if sources is None:
        if root is None:
            raise ValueError("no videos were given: pass --videos FOLDER, or --sources JSONL")
        return lambda video_id: resolve_video(os.fspath(root), video_id, video_id)
    base = Path(root) if root is not None else Path(sources).parent
    known: dict[str, str] = {}
    for place, row in read_json_lines(sources):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("video_id", "path")):
            raise ValueError(f"{place}: expected an object with video_id and path")
        known[row["video_id"]] = os.path.join(base, row["path"])

    def find(video_id: str) -> str:
        if video_id not in known:
            raise ValueError(f"{video_id} is not in {os.fspath(sources)}")
        return known[video_id]

    return find


def read_ledger(output: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read the last line of the ledger about each video; a last line that a stopped run cut off is ignored.

    Raises:
        ValueError: If another line is damaged, with file and line.
    """
    latest: dict[str, dict[str, Any]] = {}
    path = Path(output) / LEDGER
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            latest[row["video_id"]] = row
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path}:{number}: damaged line, expected a JSON object with video_id") from None
    return latest


def _open_tasks(
    videos: Iterable[VideoWish],
    folder: Path,
    find_source: Callable[[str], str],
    parameters: CutParameters,
    summary: CutSummary,
) -> Iterator[_Task]:
    """Yield the clips of each video that are not cut yet."""
    for wish in videos:
        missing = tuple(clip for clip in wish.clips if not (folder / wish.video_id / clip.clip_id).is_file())
        summary.there += len(wish.clips) - len(missing)
        if not missing:
            continue
        left = VideoWish(wish.video_id, missing)
        try:
            yield _Task(left, find_source(wish.video_id), str(folder), parameters)
        except AnnotationError as error:
            yield _Task(left, None, str(folder), parameters, f"missing_video: {error.reason}")
        except ValueError as error:
            yield _Task(left, None, str(folder), parameters, f"missing_video: {error}")


def _record(ledger: Any, task: _Task, clips: list[CutClip], summary: CutSummary) -> None:
    done = [clip for clip in clips if not clip.reason]
    failed = [clip for clip in clips if clip.reason]
    row = {
        "video_id": task.wish.video_id,
        "source": task.source,
        "cut": [[clip.clip_id, clip.frames, clip.bytes] for clip in done],
        "failed": [[clip.clip_id, clip.reason] for clip in failed],
    }
    ledger.write(json.dumps(row) + "\n")
    ledger.flush()
    summary.cut += len(done)
    summary.failed += len(failed)
    summary.frames += sum(clip.frames for clip in done)
    summary.bytes += sum(clip.bytes for clip in done)
    summary.failures.update(clip.reason.partition(":")[0] for clip in failed)


def _all_failed(task: _Task, reason: str) -> list[CutClip]:
    return [CutClip(clip.clip_id, 0, 0, reason) for clip in task.wish.clips]


def _crashed(task: _Task) -> list[CutClip]:
    return _all_failed(task, "crashed: the process that decoded it died")


def _checked(video_id: str, clips: Iterable[ClipWish]) -> VideoWish:
    """Check that the ids of a video can become file names."""
    try:
        checked_video_id(video_id)
        for clip in clips:
            if video_of_clip(clip.clip_id) != video_id:
                raise RecordProblem("foreign_clip", f"{clip.clip_id} with the video {video_id}")
            if clip.start < 0 or clip.end <= clip.start:
                raise RecordProblem("bad_span", f"{clip.clip_id}: {clip.start} to {clip.end} ms")
    except RecordProblem as problem:
        raise ValueError(f"the corpus cannot be cut: {problem}") from None
    return VideoWish(video_id, tuple(clips))


def _made_folder(output: Path) -> Path:
    """Make the output folder, or check that an earlier run made it."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file. Give a folder.")
    output.mkdir(parents=True, exist_ok=True)
    if not (output / PARAMETERS).exists() and any(path.name != LOCK for path in output.iterdir()):
        raise ValueError(f"{output} holds other things: give a new or empty folder")
    return output


def _check_parameters(output: Path, parameters: CutParameters) -> None:
    """Write the parameters of the clips, or check that an earlier run had the same."""
    path = output / PARAMETERS
    wanted = {name: value for name, value in asdict(parameters).items() if name != "max_seconds"}
    if not path.exists():
        temporary = path.with_name(f".{PARAMETERS}")
        temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in wanted if there.get(name) != wanted[name])
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is damaged: give a new folder") from None
    if changed:
        raise ValueError(
            f"the clips in {output} were cut with {changed[0]}={there.get(changed[0])!r}, not "
            f"{wanted[changed[0]]!r}: give a new folder"
        )
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def _open_ledger(path: Path) -> TextIO:
    """Open the ledger to append to it; a last line that a stopped run cut off is removed."""
    file = path.open("a+b")
    size = file.tell()
    while size > 0:
        start = max(size - 4096, 0)
        file.seek(start)
        newline = file.read(size - start).rfind(b"\n")
        if newline >= 0:
            size = start + newline + 1
            break
        size = start
    file.truncate(size)
    return io.TextIOWrapper(file, encoding="utf-8")

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Index a folder of videos: list, embed, commit in groups; stop at any time and go on.

1. Files are listed. Those that the table knows, with the same size and time of change, are left as they are; rows of
   files that are gone are removed.
2. Every other file is embedded by itself, and its rows are committed with those of a few others: after `group_videos`
   files or `GROUP_SECONDS`. A killed run loses the group at work; the next one goes on from what the table holds.
3. Small files of the table are joined, and the block for the scan is made.

The rows of a file depend on the file, the encoder and the settings alone, so the content of an index does not depend on
kills, the number of processes, or a cluster. There is one writer at a time: processes of one run take turns by a lock,
actors of Ray send their rows to the process that called them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from tqdm.auto import tqdm

from lfvila_hf.search.embedding import Stopwatch, VideoEmbedder
from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.search.formats import printable
from lfvila_hf.search.index import Index, Provenance, only_writer, row_of_problem, rows_of_video
from lfvila_hf.search.segments import CHANGED, Problem, SegmentRule, VideoFile, find_videos
from lfvila_hf.search.video_library import problems_of, provenance_of
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

GROUP_VIDEOS = 64
GROUP_SECONDS = 30.0
BARRIER_DAYS = 30

Embed = Callable[[list[VideoFile], Provenance], Iterable[tuple[VideoFile, "pa.Table | str"]]]
"""Embeds files; yields the rows of each, or the reason why it has none, in any order."""


@dataclass(frozen=True)
class IndexReport:
    """Result of a run.

    Args:
        videos: Videos in the index now.
        segments: Segments in the index now.
        embedded: Videos whose rows are new.
        unchanged: Videos that were left as they were.
        removed: Videos that are gone.
        problems: Files that cannot be used.
        seconds: Where the time of this process went: "decode" (waiting for frames), "model", "thumbnails", "write",
            "finish", "total" (from the first file to the last, without "finish").
    """

    videos: int
    segments: int
    embedded: int
    unchanged: int
    removed: int
    problems: tuple[Problem, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{_many(self.videos, 'video')} in {_many(self.segments, 'segment')}: {self.embedded} embedded, "
            f"{self.unchanged} unchanged, {self.removed} removed"
        ]
        if self.problems:
            lines.append(f"{_many(len(self.problems), 'file')} could not be used:")
            lines += [f"  {printable(problem.path)}: {printable(problem.reason)}" for problem in self.problems]
        return "\n".join(lines)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


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
        """Device of this process's model, `None` for the default."""
        return self.state.device if self.state else None

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.state:
            self.state.wait_for_everyone()

    def share(self, files: list[VideoFile]) -> list[VideoFile]:
        """The files of this process: all get about the same number of bytes, and every process knows who has which."""
        loads = [0] * self.count
        mine = []
        for file in sorted(files, key=lambda one: (-one.size, one.path)):
            owner = loads.index(min(loads))
            loads[owner] += file.size
            if owner == self.index:
                mine.append(file)
        return sorted(mine, key=lambda one: one.path)


def index_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    encoder: StoryEncoder,
    rule: SegmentRule | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    rebuild: bool = False,
    retry: bool = False,
    isolated: bool = False,
    progress: bool = False,
    embed: Embed | None = None,
    group_videos: int = GROUP_VIDEOS,
) -> IndexReport | None:
    """Bring an index up to date with a folder.

    Args:
        folder: Videos, in subfolders too.
        output: Folder or address of the index.
        encoder: The encoder.
        rule: Rule by which videos are cut. Defaults to segments of 60 s that overlap by half.
        batch_size: Segments or clips in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
        rebuild: Begin anew, whatever made the index that is there.
        retry: Read files again that could not be used, though they have not changed.
        isolated: Decode in processes of their own.
        progress: Whether to show a progress bar.
        embed: Embeds files in another way than this process does, such as a `RayEmbedding`.
        group_videos: Files of one commit.

    Returns:
        The report, `None` in all processes but the first.

    Raises:
        ValueError: There is no folder, another run is at work, or the index was made by another encoder, rule or
        folder.
    """
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {os.fspath(folder)}")
    processes = Processes()
    root = os.path.realpath(folder)
    provenance = provenance_of(encoder, rule, root)
    watch = Stopwatch()
    with contextlib.nullcontext() if processes.index else only_writer(output):
        if processes.index == 0 and (rebuild or not Index.exists(output)):
            Index.create(output, provenance)
        processes.wait()
        index = Index.open(output)
        index.provenance.check_continues(provenance, os.fspath(output))
        files, unlisted = find_videos(folder, root)
        light = index.light()
        known, unusable = _stamps(light, usable=True), _stamps(light, usable=False)
        settled = known if retry else {**unusable, **known}
        new = [file for file in files if (file.size, file.mtime_ns) != settled.get(file.path)]
        gone = {*known, *unusable} - {file.path for file in files}
        processes.wait()
        if processes.index == 0 and gone:
            index.commit([], gone)
        with watch("total"):
            if embed is None:
                embedder = VideoEmbedder(encoder, provenance.rule, batch_size, num_workers, isolated)
                embedder.watch = watch

                def embed(some: list[VideoFile], provenance: Provenance) -> Iterator[tuple[VideoFile, Any]]:
                    return embed_here(embedder, processes.share(some), provenance)

            passing = _commit_in_groups(index, embed(new, provenance), new, processes, watch, progress, group_videos)
            processes.wait()
        if processes.index:
            return None
        with watch("finish"):
            index.table.checkout_latest()
            if new or gone:
                index.compact()
            light = index.light()
            usable = light.filter(pc.greater_equal(light.column("segment"), 0))
            index.block(usable)
    have = _stamps(light, usable=True)
    problems = sorted([*unlisted, *problems_of(light), *passing], key=lambda one: one.path)
    return IndexReport(
        videos=len(have),
        segments=len(usable),
        embedded=sum(file.path in have for file in new),
        unchanged=len(have) - sum(file.path in have for file in new),
        removed=len(gone & set(known)),
        problems=tuple(problems),
        seconds=watch.seconds,
    )


def embed_here(
    embedder: VideoEmbedder, files: list[VideoFile], provenance: Provenance
) -> Iterator[tuple[VideoFile, pa.Table | str]]:
    """Embed files in this process."""
    for video, duration, answer in embedder.embed(files):
        if isinstance(answer, LFVilaVideoError):
            yield video, answer.reason
        else:
            yield video, rows_of_video(provenance, video, duration, answer)


def _commit_in_groups(
    index: Index,
    answers: Iterable[tuple[VideoFile, pa.Table | str]],
    new: list[VideoFile],
    processes: Processes,
    watch: Stopwatch,
    progress: bool,
    group_videos: int,
) -> list[Problem]:
    """Commit rows as they come; returns the files whose fault may pass, which the next run reads again."""
    share = processes.share(new)
    title = "indexing" if processes.count == 1 else f"indexing (1 of {processes.count} processes)"
    passing: list[Problem] = []
    group: dict[str, pa.Table] = {}
    last = time.monotonic()

    def commit() -> None:
        nonlocal last
        with watch("write"), _turn(index):
            index.commit(list(group.values()), group)
        group.clear()
        last = time.monotonic()

    with tqdm(
        total=sum(one.size for one in share),
        desc=title,
        unit="B",
        unit_scale=True,
        disable=not progress or processes.index > 0,
    ) as bar:
        for number, (video, answer) in enumerate(answers, start=1):
            if answer == CHANGED:
                passing.append(Problem(video.path, CHANGED))
            elif isinstance(answer, str):
                problem = Problem(video.path, answer, video.size, video.mtime_ns)
                group[video.path] = row_of_problem(index.provenance, problem)
            else:
                group[video.path] = answer
            bar.update(video.size)
            bar.set_postfix_str(f"{number} of {len(share)} videos")
            if len(group) >= group_videos or (group and time.monotonic() - last > GROUP_SECONDS):
                commit()
        if group:
            commit()
    return passing


def _stamps(light: pa.Table, usable: bool) -> dict[str, tuple[int, int]]:
    """Size and time of the files that have rows, or that could not be used."""
    columns = (light.column(name).to_pylist() for name in ("path", "segment", "file_size", "mtime_ns"))
    return {path: (size, time) for path, segment, size, time in zip(*columns, strict=True) if (segment >= 0) == usable}


def _turn(index: Index) -> Any:
    """The turn of one of several processes to write; object storage settles it by Lance's own commits."""
    return contextlib.nullcontext() if index.folder is None else FileLock(index.folder / ".turn")


# -- Ray -------------------------------------------------------------------------------------------------------------


class RayEmbedding:
    """Embeds files on a Ray cluster; for `index_folder(embed=...)`.

    The files become a Ray Data set, and a pool of actors, each with an encoder of its own, maps over it. Rows come
    back to the calling process, which is the only writer. Ray starts an actor anew when its worker or node dies. The
    videos have to lie on a file system that all nodes see.

    Args:
        checkpoint: Folder or repository that every node can load.
        batch_size: Segments or clips in one pass of a model.
        actors: Models at work.
        address: Address of a running cluster. Defaults to the running one, or a new one.
        dtype: Precision by name. Defaults to the checkpoint's.
        trust_remote_code: Let the checkpoint run its own Python code.
        isolated: Decode in processes of their own.

    Raises:
        ImportError: Ray is not installed.
        ValueError: There is no actor.
    """

    def __init__(
        self,
        checkpoint: str,
        batch_size: int = 8,
        actors: int = 1,
        address: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        isolated: bool = False,
    ) -> None:
        if actors < 1:
            raise ValueError(f"actors must be at least 1, got {actors}")
        from lfvila_hf.corpus.engines import RayEngine

        self.engine, self.actors = RayEngine(address), actors
        self.arguments = (checkpoint, batch_size, dtype, trust_remote_code, isolated)

    def __call__(self, files: list[VideoFile], provenance: Provenance) -> Iterator[tuple[VideoFile, pa.Table | str]]:
        """Embed files; yields each when its rows are here."""
        if not files:
            return
        import ray

        gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
        items = ray.data.from_items([{"file": pickle.dumps(one)} for one in files], override_num_blocks=len(files))
        done = items.map_batches(
            EmbeddingActor,
            fn_constructor_args=(pickle.dumps(provenance), *self.arguments),
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            batch_size=1,
            num_cpus=None if gpus else 1,
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            yield pickle.loads(row["answer"])

    def close(self) -> None:
        """Leave the cluster."""
        self.engine.close()


class EmbeddingActor:
    """An encoder on a node.

    Args:
        provenance: Pickled provenance of the caller's index.
        checkpoint: Folder or repository; it and the others are as for `RayEmbedding`.
        batch_size: Segments or clips in one pass.
        dtype: Precision by name, or `None`.
        trust_remote_code: Let the checkpoint run its own Python code.
        isolated: Decode in processes of their own.
    """

    def __init__(
        self,
        provenance: bytes,
        checkpoint: str,
        batch_size: int,
        dtype: str | None,
        trust_remote_code: bool,
        isolated: bool,
    ) -> None:
        from lfvila_hf.search.encoders import default_device, load_encoder

        encoder = load_encoder(checkpoint, trust_remote_code, device=default_device(checkpoint), dtype=dtype)
        self.provenance = pickle.loads(provenance)
        self.provenance.check_continues(replace(self.provenance, fingerprint=encoder.fingerprint), "of the caller")
        self.embedder = VideoEmbedder(encoder, self.provenance.rule, batch_size, isolated=isolated)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Embed the files of a batch."""
        files = [pickle.loads(one) for one in batch["file"]]
        return {"answer": [pickle.dumps(one) for one in embed_here(self.embedder, files, self.provenance)]}


__all__ = ["IndexReport", "RayEmbedding", "index_folder"]

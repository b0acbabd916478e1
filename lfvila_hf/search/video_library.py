# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`VideoLibrary`: videos that can be searched by a story.

    library = VideoLibrary.from_checkpoint("google/siglip2-base-patch16-224")
    library.add("videos/")
    for hit in library.search("First a red star falls. Then a blue ring grows."):
        print(hit.path, hit.score, [(moment.text, moment.found, moment.spans) for moment in hit.moments])
    library.save("index")                        # VideoLibrary.load("index") another day

A library in memory holds the rows that were added since it was loaded. Those of an opened index stay on disk: the scan
maps their vectors into memory. The encoder is loaded when a question first needs it, and refused if it is not the one
that made the vectors.

Letters: N segments, C clips, M sentences, D width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lfvila_hf.search.embedding import VideoEmbedder
from lfvila_hf.search.encoders import StoryEncoder, as_encoder, load_encoder
from lfvila_hf.search.index import LIGHT, Index, Provenance, checked_rows, only_writer, row_of_problem, rows_of_video
from lfvila_hf.search.ranking import Hit, Hits, Scan, Score, View, rank_by_segments, rank_by_story, reordered
from lfvila_hf.search.segments import VIDEO_SUFFIXES, Problem, SegmentRule, find_videos, library_name, open_video
from lfvila_hf.search.story_sentences import Story, read_story
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

logger = logging.getLogger(__name__)

Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def provenance_of(encoder: StoryEncoder, rule: SegmentRule | None, root: str) -> Provenance:
    """The provenance of an index that an encoder makes."""
    rule = rule or SegmentRule()
    whole = bool(encoder.num_frames)
    clip_seconds = 0.0 if whole else rule.clip_seconds or encoder.clip_seconds
    return Provenance(
        encoder.fingerprint,
        encoder.name,
        encoder.checkpoint,
        encoder.width,
        encoder.has_clips,
        whole,
        encoder.num_frames or encoder.frames_per_clip,
        encoder.dtype,
        replace(rule, clip_seconds=clip_seconds),
        root,
    )


class VideoLibrary:
    """Videos, cut into segments, embedded, and searchable.

    Args:
        model: A model (see `lfvila_hf.search.encoders.as_encoder`), or an encoder. With an `LFVilaForPreTraining`, hits
            can be reranked.
        processor: Processor of a transformers model.
        rule: Rule by which videos are cut. Defaults to segments of 60 s that overlap by half.
        root: Folder of the videos. Paths are then kept relative to it, so that folder and index can be moved; without
            it they are absolute.
        checkpoint: Where the model came from, for the next time.
        batch_size: Segments or clips in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        rule: SegmentRule | None = None,
        root: str | os.PathLike[str] | None = None,
        checkpoint: str = "",
        batch_size: int = 8,
        num_workers: int = 1,
    ) -> None:
        encoder = as_encoder(model, processor, checkpoint)
        self._encoder: StoryEncoder | None = encoder
        self.batch_size, self.num_workers, self.trust_remote_code = batch_size, num_workers, False
        self._open(provenance_of(encoder, rule, "" if root is None else os.path.realpath(root)), None)

    def _open(self, provenance: Provenance, index: Index | None) -> None:
        self.provenance, self._index = provenance, index
        self._added: dict[str, pa.Table] = {}
        self._removed: set[str] = set()
        self._view: View | None = None

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str, with_fusion: bool = False, trust_remote_code: bool = False, **options: Any
    ) -> VideoLibrary:
        """Make an empty library for the model of a folder or a repository.

        Args:
            checkpoint: Folder or repository; see `lfvila_hf.search.encoders.load_encoder`.
            with_fusion: Load the cross-modal encoder of LF-VILA too, to rerank hits.
            trust_remote_code: Let the checkpoint run its own Python code.
            **options: Further arguments of the class.
        """
        return cls(load_encoder(checkpoint, trust_remote_code, with_fusion), **options)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        model: Any = None,
        processor: Any = None,
        root: str | os.PathLike[str] | None = None,
        trust_remote_code: bool = False,
    ) -> VideoLibrary:
        """Open an index.

        Args:
            folder: Folder or address that `save` or `lfvila-hf index` wrote.
            model: The model that made it, or its encoder. Defaults to the checkpoint that the index names, loaded when
                first needed.
            processor: Processor of a transformers model.
            root: Where the videos are now. Defaults to the folder that was indexed.
            trust_remote_code: Let the checkpoint run its own Python code.

        Raises:
            ValueError: There is no index, it is damaged or of another version, or the model is not the one that made
                it.
        """
        index = Index.open(folder)
        library = cls.__new__(cls)
        provenance = index.provenance if root is None else replace(index.provenance, root=os.path.realpath(root))
        library._encoder = None
        library.batch_size, library.num_workers, library.trust_remote_code = 8, 1, trust_remote_code
        library._open(provenance, index)
        if model is not None:
            library.use_model(model, processor)
        return library

    def use_model(self, model: Any, processor: Any = None) -> None:
        """Give the library its model.

        Raises:
            ValueError: It is not the model that made the vectors.
        """
        encoder = as_encoder(model, processor)
        wanted = self.provenance
        if encoder.fingerprint != wanted.fingerprint:
            raise ValueError(
                f"this index was made with another checkpoint (fingerprint {wanted.fingerprint[:12]}, from "
                f"{wanted.checkpoint or wanted.encoder}), the model at hand has {encoder.fingerprint[:12]}: vectors of "
                "two models cannot be compared, index the videos again or use the first model"
            )
        self._encoder = encoder

    @property
    def encoder(self) -> StoryEncoder:
        """The encoder, loaded when first needed."""
        if self._encoder is None:
            checkpoint = self.provenance.checkpoint
            if not checkpoint:
                raise ValueError(
                    "the index names no checkpoint: give --model, or model and processor to VideoLibrary.load"
                )
            if ":" in checkpoint and not os.path.exists(checkpoint):
                # An index of somebody else must not choose what is imported here.
                raise ValueError(f"the index was made with your own encoder {checkpoint}: give it again with --model")
            if os.path.isabs(checkpoint) and not os.path.isdir(checkpoint):
                raise ValueError(f"the checkpoint of this index is no longer at {checkpoint}: give --model")
            self.use_model(load_encoder(checkpoint, self.trust_remote_code))
        assert self._encoder is not None
        return self._encoder

    @property
    def model(self) -> Any:
        """The model of the encoder, loaded when first needed."""
        encoder = self.encoder
        return next((getattr(encoder, name) for name in ("whole", "model", "own") if hasattr(encoder, name)), encoder)

    @property
    def processor(self) -> Any:
        """The processor of an LF-VILA model, `None` for any other."""
        return getattr(self.encoder, "processor", None)

    # -- content -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.view.stamps)

    def __contains__(self, path: object) -> bool:
        return path in self.view.stamps

    @property
    def paths(self) -> list[str]:
        """Names of all videos, in order."""
        return list(self.view.stamps)

    @property
    def num_segments(self) -> int:
        """Segments of all videos."""
        return len(self.view.rows)

    @property
    def view(self) -> View:
        """Rows and vectors of what is in the library now."""
        if self._view is None:
            self._view = self._make_view()
        return self._view

    def _make_view(self) -> View:
        has_vector, width = self.provenance.has_vector, self.provenance.width
        views = []
        if self._index is not None:
            rows = self._index.light()
            rows = rows.filter(pc.greater_equal(rows.column("segment"), 0))
            base = View(rows, self._index.block(rows), has_vector)
            gone = self._removed | set(self._added)
            if not gone:
                return base
            views.append(base.take([n for n, path in enumerate(rows.column("path").to_pylist()) if path not in gone]))
        for table in self._added.values():
            own = [row for batch in table.to_batches() for row in checked_rows(batch, width, "memory")]
            vectors = [row["vector"][None] for row in own if has_vector]
            block = np.concatenate([*(row["clips"] for row in own), *vectors])
            views.append(View(table.select(list(LIGHT)).replace_schema_metadata(None), block, has_vector))
        if not views:
            return View(self.provenance.schema.empty_table().select(list(LIGHT)), np.zeros((0, 1), np.float32), False)
        rows = pa.concat_tables([view.rows for view in views])
        clips = [view.block[: view.offsets[-1]] for view in views]
        vectors = [view.block[view.offsets[-1] :] for view in views]
        joined = View(rows, np.concatenate([*clips, *vectors]), has_vector)
        return joined.take(pc.sort_indices(rows, [("path", "ascending"), ("segment", "ascending")]).to_pylist())

    def file_of(self, path: str) -> str:
        """The path on disk of a video of the library.

        Raises:
            ValueError: The video is not in the library.
        """
        self.view.rows_of(path)  # refuses what is not in it
        return os.path.join(self.provenance.root, path)

    def open_file(self, path: str) -> int:
        """Open a video of the library and return its descriptor.

        Raises:
            LFVilaVideoError: The file is gone, has changed, is no video by its suffix, or lies behind a link.
            ValueError: The video is not in the library.
        """
        self.view.rows_of(path)  # refuses what is not in it
        if os.path.splitext(path)[1].lower() not in VIDEO_SUFFIXES:
            raise LFVilaVideoError(path, "its name is not that of a video")
        descriptor = open_video(self.provenance.root, path)
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != self.view.stamps[path]:
            os.close(descriptor)
            raise LFVilaVideoError(path, "the file changed since it was indexed: index the folder again")
        return descriptor

    def segments_of(self, path: str) -> list[dict[str, Any]]:
        """The rows of one video, in order, without vectors and thumbnails."""
        return [self.view.row(number) for number in self.view.rows_of(path)]

    def thumbnail(self, path: str, segment: int) -> bytes:
        """The JPEG of a segment.

        Raises:
            ValueError: There is no such segment, or its row is damaged.
        """
        if not 0 <= segment < len(self.view.rows_of(path)):
            raise ValueError(f"there is no segment {segment} of {path} in this library")
        if path in self._added:
            return self._added[path].column("thumbnail")[segment].as_py()
        assert self._index is not None
        return self._index.row(path, segment)["thumbnail"]

    def add(self, sources: Sources, on_error: str = "raise", progress: bool = False) -> list[Problem]:
        """Embed videos and take them in; those that are in already and have not changed are left as they are.

        Args:
            sources: A file, a folder (searched for videos, subfolders too), or a list of them.
            on_error: "raise", or "skip" to leave unusable videos out and return them.
            progress: Whether to show a progress bar.

        Returns:
            The videos that were left out, and why.

        Raises:
            LFVilaVideoError: A video cannot be used, and the policy is to raise.
            ValueError: There is nothing to add, or a file is outside `root`.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
        files, problems = find_videos(sources, self.provenance.root)
        if not files and not problems:
            raise ValueError(f"there is no video in {sources}")
        if problems and on_error == "raise":
            raise LFVilaVideoError(problems[0].path, problems[0].reason)
        known = self.view.stamps
        new = [file for file in files if known.get(file.path) != (file.size, file.mtime_ns)]
        embedder = VideoEmbedder(self.encoder, self.provenance.rule, self.batch_size, self.num_workers)
        answers: Any = embedder.embed(new)
        if progress:
            from tqdm.auto import tqdm

            answers = tqdm(answers, total=len(new), desc="indexing", unit="video")
        for video, duration, answer in answers:
            if isinstance(answer, LFVilaVideoError):
                if on_error == "raise":
                    raise answer
                problems.append(Problem(video.path, answer.reason, video.size, video.mtime_ns))
                continue
            self._added[video.path] = rows_of_video(self.provenance, video, duration, answer)
            self._removed.discard(video.path)
            self._view = None
        for problem in problems:
            logger.warning("left out %s: %s", problem.path, problem.reason)
        return problems

    def remove(self, paths: Sources) -> None:
        """Take videos out.

        Raises:
            ValueError: One of them is not in the library; nothing is removed then.
        """
        items = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        names = [self._name_of(item) for item in items]
        for item, name in zip(items, names, strict=True):
            if name not in self:
                raise ValueError(f"the video {item} is not in this library")
        for name in names:
            self._added.pop(name, None)
            self._removed.add(name)
        self._view = None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the library to a folder or an address, replacing the index that is there in one version.

        Raises:
            ValueError: `lfvila-hf index` is at work there, or a row is damaged.
        """
        kept = set(self.paths) - set(self._added)
        kept_problems = [] if self._index is None else problems_of(self._index.light())

        def rows() -> Iterator[pa.Table]:
            if self._index is not None:
                yield from self._index.tables(kept)
            yield from self._added.values()
            yield from (row_of_problem(self.provenance, one) for one in kept_problems if one.path not in self._added)

        with only_writer(folder):
            index = Index.create(folder, self.provenance, rows())
        self._open(self.provenance, index)

    # -- questions ---------------------------------------------------------------------------------------------------

    def search(
        self,
        story: str | Sequence[str] | Story,
        top_k: int = 10,
        score: Score | None = None,
        candidates: int | None = None,
        rerank: int = 0,
        path: str | None = None,
        per_video: int = 1,
        false_rate: float = 0.1,
    ) -> Hits:
        """Find the videos that tell a story, and when.

        Args:
            story: A text, its sentences, or an embedded story of `read_story`.
            top_k: Hits wanted.
            score: "global", "aligned" or "both". Defaults to "both" if the index has segment and clip vectors, else to
                the one that it has.
            candidates: Segments that are aligned at most. Defaults to as many as an exact answer takes.
            rerank: How many of the first hits the video-text matching head puts in order; their segments are decoded
                again.
            path: Only this video.
            per_video: Hits of one video at most.
            false_rate: Share of foreign sentences that may be reported as found in a video.

        Returns:
            Hits, best first, with `notes` and `missing` (numbers of the sentences that are nowhere in the library).

        Raises:
            ValueError: The story is empty or too long, a number makes no sense, or reranking is not possible.
        """
        check_counts(top_k=top_k, per_video=per_video, **({} if candidates is None else {"candidates": candidates}))
        read = story if isinstance(story, Story) else self.read_story(story)
        if not self.num_segments:
            return Hits()
        path = None if path is None else self._name_of(path)
        hits = rank_by_story(self.view, read, score, max(top_k, rerank), per_video, path, candidates, false_rate)
        if rerank:
            from lfvila_hf.search.reranking import match_probabilities

            some = hits[:rerank]
            matches = match_probabilities(self.encoder, list(read.sentences), some, self.provenance, self.view.stamps)
            hits = reordered(hits, matches)
        return hits.like_this(hits[:top_k])

    def read_story(self, story: str | Sequence[str]) -> Story:
        """Embed a story."""
        return read_story(self.encoder, story)

    def search_by_video(self, video: str | os.PathLike[str], top_k: int = 10) -> Hits:
        """Find the videos that look like a video: one of the library, or any file.

        Raises:
            LFVilaVideoError: The file cannot be used.
        """
        check_counts(top_k=top_k)
        name = self._name_of(video)
        if not self.num_segments:
            return Hits()
        return rank_by_segments(self.view, self._view_of(name).segment_vectors(), top_k, name if name in self else None)

    def rank_texts(
        self, video: str | os.PathLike[str], texts: Sequence[str | Sequence[str]], score: Score | None = None
    ) -> list[tuple[int, float]]:
        """Rank texts for a video, by its best segment.

        Args:
            video: One of the library, or any file.
            texts: The texts.
            score: As for `search`.

        Returns:
            Number and score of every text, best first.
        """
        if not texts:
            raise ValueError("there is no text to rank, at least one is expected")
        view = self._view_of(self._name_of(video))
        scores = []
        for text in texts:
            scan = Scan(view, self.read_story(text))
            order = score or scan.best_score
            scan.bound(order)  # refuses a score that there is not
            every = scan.scores(torch.arange(len(view.rows)))
            scores.append(float(every[order].max()))
        return sorted(enumerate(scores), key=lambda one: -one[1])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _name_of(self, video: str | os.PathLike[str]) -> str:
        """The name of a video in the library if it is in it; else the path as it is."""
        text = os.fspath(video)
        if text in self.view.stamps:
            return text
        try:
            name = library_name(text, self.provenance.root)
        except ValueError:
            return text
        return name if name in self.view.stamps else text

    def _view_of(self, name: str) -> View:
        """The segments of one video, of the library or of any file."""
        if name in self:
            return self.view.take(self.view.rows_of(name))
        single = VideoLibrary(self.encoder, rule=self.provenance.rule, batch_size=self.batch_size)
        single.add([name])
        return single.view


def problems_of(light: pa.Table) -> list[Problem]:
    """The files of an index that cannot be used."""
    rows = light.filter(pc.less(light.column("segment"), 0)).to_pylist()
    return [Problem(row["path"], row["problem"], row["file_size"], row["mtime_ns"]) for row in rows]


def check_counts(**counts: int) -> None:
    """Refuse numbers below 1 by their names."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


__all__ = ["Hit", "VideoLibrary"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`VideoLibrary`: videos that can be searched by a story.

    library = VideoLibrary.from_checkpoint("outputs/demo/checkpoint")
    library.add("videos/")
    for hit in library.search("First a red star falls. Then a blue ring grows."):
        print(hit.path, hit.score, [(moment.sentence, moment.start) for moment in hit.moments])
    library.save("index")                        # VideoLibrary.load("index") another day

A library in memory holds the rows that were added since it was loaded; what was loaded stays in files that are mapped
into memory, so opening an index costs the light columns (some 100 bytes a segment) and its FAISS index. The model is
loaded when a question first needs it, and refused where it is not the one that made the vectors.

Letters: N segments, M sentences, K clips, D width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import lfvila_hf
from lfvila_hf.library import ranking
from lfvila_hf.library.embedding import SegmentEncoder, towers_of
from lfvila_hf.library.files import find_videos, listed, name_in
from lfvila_hf.library.fingerprint import fingerprint, load_checkpoint
from lfvila_hf.library.library_view import LibraryView, check_counts, check_version
from lfvila_hf.library.ranking import Hit
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.store import Maker, Manifest, Problem, Store
from lfvila_hf.library.stories import Story, read_story
from lfvila_hf.library.table import vectors_of
from lfvila_hf.library.vectors import SearchKind
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

logger = logging.getLogger(__name__)

Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
DEFAULT_CANDIDATES = 200


class VideoLibrary(LibraryView):
    """Videos, cut into segments, embedded, and searchable.

    Args:
        model: An `LFVilaModel`, or a model that holds one. With an `LFVilaForPreTraining`, hits can be reranked.
        processor: Its `LFVilaProcessor`.
        rule: How videos are cut.
        root: Folder that the videos are in. Paths are then kept relative to it, so that folder and index can be moved;
            without it they are absolute.
        checkpoint: Where the model came from, for the next time.
        batch_size: Segments in one pass of the model.
        num_workers: Videos decoded ahead at the same time.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        rule: SegmentRule | None = None,
        root: str | os.PathLike[str] | None = None,
        checkpoint: str = "",
        batch_size: int = 8,
        num_workers: int = 1,
    ) -> None:
        towers_of(model)
        self._model, self._processor = model, processor
        maker = Maker(
            fingerprint(model, processor),
            checkpoint,
            lfvila_hf.__version__,
            processor.video_processor.num_frames,
            rule or SegmentRule(),
        )
        self._setup(Manifest(maker, root="" if root is None else os.path.realpath(root)), None, batch_size, num_workers)

    def _setup(self, manifest: Manifest, store: Store | None, batch_size: int = 8, num_workers: int = 1) -> None:
        self.manifest = manifest
        self.batch_size, self.num_workers = batch_size, num_workers
        self._store = store
        self._added: dict[str, pa.Table] = {}
        self._removed: set[str] = set()
        self._view = None

    @classmethod
    def from_checkpoint(cls, checkpoint: str, with_fusion: bool = False, **options: Any) -> VideoLibrary:
        """An empty library for the model of a folder or a repository.

        Args:
            checkpoint: Folder or repository.
            with_fusion: Load the cross-modal encoder too, to rerank hits.
            **options: Further arguments of the class.
        """
        return cls(*load_checkpoint(checkpoint, with_fusion), checkpoint=checkpoint, **options)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        model: Any = None,
        processor: Any = None,
        root: str | os.PathLike[str] | None = None,
    ) -> VideoLibrary:
        """Open an index.

        Args:
            folder: What `save` or `lfvila-hf index` wrote.
            model: The model that made it; loaded from the checkpoint that the index names when first needed.
            processor: The same.
            root: Where the videos are now, if they were moved.

        Raises:
            ValueError: There is no index, it is damaged or of another version, or the model is not the one that made
                it.
        """
        store = Store(folder)
        manifest = store.read()
        check_version(manifest.maker.version, str(folder))
        library = cls.__new__(cls)
        if root is not None:
            from dataclasses import replace

            manifest = replace(manifest, root=os.path.realpath(root))
        library._model = library._processor = None
        library._setup(manifest, store)
        if model is not None:
            library.use_model(model, processor)
        return library

    def use_model(self, model: Any, processor: Any) -> None:
        """Give the library its model.

        Raises:
            ValueError: It is not the model that made the vectors.
        """
        found, wanted = fingerprint(model, processor), self.manifest.maker.fingerprint
        if found != wanted:
            raise ValueError(
                f"this index was made with another checkpoint (fingerprint {wanted[:12]}, "
                f"from {self.manifest.maker.checkpoint or 'a model object'}), the model at hand has {found[:12]}: "
                "vectors of two models cannot be compared, index the videos again or use the first model"
            )
        self._model, self._processor = model, processor

    @property
    def model(self) -> Any:
        """The model, loaded when first needed."""
        if self._model is None:
            checkpoint = self.manifest.maker.checkpoint
            if not checkpoint:
                raise ValueError("the index names no checkpoint: give model and processor to VideoLibrary.load")
            self.use_model(*load_checkpoint(checkpoint))
        return self._model

    @property
    def processor(self) -> Any:
        """The processor of the model."""
        return self._processor if self.model is not None else None

    # -- content -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.view.stamps)

    def __contains__(self, path: object) -> bool:
        return path in self.view.stamps

    @property
    def paths(self) -> list[str]:
        """Every video, as the table names it, in order."""
        return list(self.view.stamps)

    @property
    def num_segments(self) -> int:
        """Segments of all videos."""
        return self.view.rows.num_rows

    def file_of(self, path: str) -> str:
        """Where a video of the library is on disk. What is not in the library has no file.

        Raises:
            ValueError: The video is not in the library, or its name leads out of the library's folder.
        """
        if path not in self:
            raise ValueError(f"the video {path} is not in this library")
        root = self.manifest.root
        file = os.path.realpath(os.path.join(root, path) if root else path)
        if root and not file.startswith(root + os.sep):
            raise ValueError(f"the video {path} leads out of the library's folder")
        return file

    def segments_of(self, path: str) -> list[dict[str, Any]]:
        """The rows of one video, in order, without vectors and thumbnails."""
        rows = [self.view.row(int(number)) for number in ranking.rows_of(self.view, path)]
        return sorted(rows, key=lambda row: row["segment"])

    def thumbnail(self, row: int) -> bytes:
        """The JPEG of a segment, by its number in the library."""
        for table in self._loaded_last_to_first():
            if row >= table[0]:
                return table[1](row - table[0])["bytes"]
        raise ValueError(f"there is no segment {row}")

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
        root = self.manifest.root
        files, problems = listed(sources, root)
        if not files and not problems:
            raise ValueError(f"there is no video in {sources}")
        known = self.view.stamps
        new = [file for file in files if known.get(file.path) != (file.stamp.size, file.stamp.mtime_ns)]
        encoder = SegmentEncoder(
            self.model, self.processor, self.manifest.maker.rule, self.batch_size, self.num_workers
        )
        answers: Any = encoder.encode_files(new)
        if progress:
            from tqdm.auto import tqdm

            answers = tqdm(answers, total=len(new), desc="indexing", unit="video")
        for video, answer in answers:
            if isinstance(answer, LFVilaVideoError):
                problems.append(Problem(video.path, answer.reason, video.stamp.size, video.stamp.mtime_ns))
                if on_error == "raise":
                    raise answer
                continue
            self._added[video.path] = answer
            self._removed.discard(video.path)
            self._view = None
        if on_error == "raise" and problems:
            raise LFVilaVideoError(problems[0].path, problems[0].reason)
        for problem in problems:
            logger.warning("left out %s: %s", problem.path, problem.reason)
        return problems

    def remove(self, paths: Sources) -> None:
        """Take videos out.

        Raises:
            ValueError: One of them is not in the library; nothing is removed then.
        """
        items = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        names = [name_in(os.fspath(item), self.manifest.root, set(self.paths)) for item in items]
        for name in names:
            self._added.pop(name, None)
            self._removed.add(name)
        self._view = None

    def save(self, folder: str | os.PathLike[str], kind: SearchKind = "auto") -> None:
        """Write the library to a folder, replacing the index that is there in one piece.

        Args:
            folder: For `VideoLibrary.load`.
            kind: How it will be searched: "auto", "exact", "sq8", "ivf" (`lfvila_hf.library.vectors`).
        """
        store = Store(folder)
        tables = [(path, lambda table=table: table) for path, table in self._added.items()]
        gone = self._removed | set(self._added)
        manifest = store.commit(self.manifest, lambda path: path not in gone, tables, kind, source=self._store)
        self._setup(manifest, store, self.batch_size, self.num_workers)

    # -- questions ---------------------------------------------------------------------------------------------------

    def search(
        self,
        story: str | Sequence[str] | Story,
        top_k: int = 10,
        score: ranking.Score | None = None,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: int = 0,
        path: str | None = None,
    ) -> list[Hit]:
        """Which videos tell a story, and when.

        Args:
            story: A text, its sentences, or what `read_story` made of them.
            top_k: Videos wanted.
            score: "global", "aligned" or "both"; by default "both" where there are clip features.
            candidates: Segments that the global score passes on to the alignment.
            rerank: How many of the first hits the video-text matching head puts in order; their segments are decoded
                again.
            path: Only this video, all of its segments considered.

        Returns:
            One hit per video, best first.

        Raises:
            ValueError: The story is empty or too long, a number makes no sense, or reranking is not possible.
        """
        check_counts(top_k=top_k, candidates=candidates)
        read = story if isinstance(story, Story) else self.read_story(story)
        if not self.num_segments:
            return []
        if score is None:
            score = "global" if self.view.clips is None or read.embeddings.sentence_embeds is None else "both"
        wanted = max(top_k, rerank)
        hits = ranking.rank_by_story(self.view, read, score, wanted, candidates, path)
        if rerank:
            from lfvila_hf.library.reranking import match_probabilities

            some = hits[:rerank]
            files = [self.file_of(hit.path) for hit in some]
            matches = match_probabilities(self.model, self.processor, list(read.sentences), some, files)
            hits = ranking.reordered(hits, matches)
        return hits[:top_k]

    def read_story(self, story: str | Sequence[str]) -> Story:
        """What the model makes of a story."""
        return read_story(towers_of(self.model), self.processor, story)

    def search_by_video(
        self, video: str | os.PathLike[str], top_k: int = 10, candidates: int = DEFAULT_CANDIDATES
    ) -> list[Hit]:
        """Which videos look like a video: one of the library, or any file.

        Raises:
            LFVilaVideoError: The file cannot be used.
        """
        check_counts(top_k=top_k, candidates=candidates)
        name = self._name_of(video)
        if not self.num_segments:
            return []
        return ranking.rank_by_segments(
            self.view, self._segments_of_video(name)[0], top_k, candidates, name if name in self else None
        )

    def rank_texts(
        self, video: str | os.PathLike[str], texts: Sequence[str | Sequence[str]], score: ranking.Score | None = None
    ) -> list[tuple[int, float]]:
        """Which of some texts tells a video, by its best segment.

        Args:
            video: One of the library, or any file.
            texts: The texts.
            score: As for `search`.

        Returns:
            Number and score of every text, best first.
        """
        if not texts:
            raise ValueError("there is no text to rank, at least one is expected")
        segments, clips = self._segments_of_video(self._name_of(video))
        score = score or ("global" if clips is None else "both")
        if score not in ("global", "aligned", "both"):
            raise ValueError(f"the score must be one of global, aligned, both, got {score!r}")
        from lfvila_hf.inference import VideoEmbeddings

        side = VideoEmbeddings(torch.from_numpy(segments), None if clips is None else torch.from_numpy(clips), [])
        towers = towers_of(self.model)
        scores = [
            float(towers.similarity(self.read_story(text).embeddings, side, score).max())  # (1, N)
            for text in texts
        ]
        return sorted(enumerate(scores), key=lambda one: -one[1])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _name_of(self, video: str | os.PathLike[str]) -> str:
        """What the library calls a video, where it has it; the path as it is otherwise."""
        try:
            return name_in(os.fspath(video), self.manifest.root, self.view.stamps.keys())
        except ValueError:
            return os.fspath(video)

    def _segments_of_video(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Segment features `(n, D)` and clip features `(n, K, D)` of a video of the library or of any file."""
        if name in self:
            rows = ranking.rows_of(self.view, name)
            clips = None if self.view.clips is None else np.asarray(self.view.clips[rows], dtype=np.float32)
            return np.asarray(self.view.segments[rows]), clips
        (file,), _ = find_videos([name], "", strict=True)
        encoder = SegmentEncoder(self.model, self.processor, self.manifest.maker.rule, self.batch_size)
        ((_, answer),) = encoder.encode_files([file])
        if isinstance(answer, LFVilaVideoError):
            raise answer
        segments = vectors_of(answer, "segment_embedding")
        if "clip_embeddings" not in answer.column_names:
            return segments, None
        return segments, vectors_of(answer, "clip_embeddings").reshape(len(segments), -1, segments.shape[1])


__all__ = ["Hit", "VideoLibrary"]

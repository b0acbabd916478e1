# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embedding on a Ray cluster: `lfvila-hf index --engine ray`.

The files of a run become a Ray Data set, and a pool of actors, each with a model of its own, maps over it: the same
`embed_here` as in one process, into the same work folder. That folder has to be on a file system that all nodes see
(`--work` takes any fsspec address), and so have the videos. Ray starts an actor anew when its worker or node dies and
gives its files to it again; a file that was half done leaves nothing behind, because rows appear in one rename.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from lfvila_hf.corpus.engines import RayEngine
from lfvila_hf.library.embedding import SegmentEncoder, VideoFile
from lfvila_hf.library.indexing import WorkFolder, embed_here
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.table import FileStamp


class RayEmbedding:
    """Finishes files on a Ray cluster; for `index_folder(embed=...)`.

    Args:
        checkpoint: Folder or repository that every node can load.
        rule: How videos are cut.
        batch_size: Segments in one pass of a model.
        actors: Models at work.
        address: Address of a running cluster; see `lfvila_hf.corpus.engines.RayEngine`.
        dtype: Precision of the models by name; the checkpoint's, if left out.
        gpus: GPUs of each actor; one where the cluster has any, if left out.
        options: Settings of the video processor.

    Raises:
        ImportError: Where Ray is not installed.
        ValueError: For fewer than one actor.
    """

    def __init__(
        self,
        checkpoint: str,
        rule: SegmentRule,
        batch_size: int = 8,
        actors: int = 1,
        address: str | None = None,
        dtype: str | None = None,
        gpus: float | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        if actors < 1:
            raise ValueError(f"actors must be at least 1, got {actors}")
        self.engine = RayEngine(address)
        self.actors, self.gpus = actors, gpus
        self.arguments = {
            "checkpoint": checkpoint,
            "rule": asdict(rule),
            "batch_size": batch_size,
            "dtype": dtype,
            "options": options or {},
        }

    def __call__(self, files: list[VideoFile], shelf: WorkFolder) -> Iterator[VideoFile]:
        """Finish files in the work folder; yields each when it is done, in the order in which they are."""
        if not files:
            return
        import ray

        by_path = {video.path: video for video in files}
        rows = [{"path": one.path, "file": one.file, **asdict(one.stamp)} for one in files]
        gpus = self.gpus if self.gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
        done = tasks.map_batches(
            EmbeddingActor,
            fn_constructor_kwargs={**self.arguments, "work": shelf.address},
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            batch_size=1,
            num_cpus=None if gpus else 1,
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            yield by_path[str(row["path"])]

    def close(self) -> None:
        """Leave the cluster."""
        self.engine.close()


class EmbeddingActor:
    """A model on a node.

    Args:
        checkpoint: Folder or repository.
        rule: Fields of a `SegmentRule`.
        batch_size: Segments in one pass.
        dtype: Precision by name, or `None`.
        options: Settings of the video processor.
        work: Address of the work folder.
    """

    def __init__(
        self,
        checkpoint: str,
        rule: dict[str, float],
        batch_size: int,
        dtype: str | None,
        options: dict[str, Any],
        work: str,
    ) -> None:
        import torch

        from lfvila_hf.library.fingerprint import load_checkpoint

        model, processor = load_checkpoint(checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
        self.encoder = SegmentEncoder(model, processor, SegmentRule(**rule), batch_size, **options)
        self.shelf = WorkFolder(work)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Finish the files of a batch; returns their paths."""
        fields = zip(*(batch[name].tolist() for name in ("path", "file", "size", "mtime_ns")), strict=True)
        files = [VideoFile(path, file, FileStamp(size, time)) for path, file, size, time in fields]
        finished = [video.path for video in embed_here(self.encoder, files, self.shelf)]
        return {"path": np.array(finished, dtype=object)}

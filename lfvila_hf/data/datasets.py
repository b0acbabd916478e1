# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Data sets for a torch `DataLoader` and the Trainer: annotation rows in, decoded samples out.

`RetrievalDataset` and `PreTrainingDataset` take the rows that `annotations` loads and decode in whichever process asks.
`StreamedDataset` does the same for a stream of rows. A sample is a `VideoTextSample`, which `collating.LFVilaCollator`
turns into model inputs.

Every random choice (jitter, crop, flip, first clip) is a function of the seed, the epoch and the sample, by
`loss_lfvila.random_keys`. There is no generator state, so any number of workers and any resumed run make the same
samples. A sample's number is a hash of its id and line, so it does not depend on order, shuffling or streaming. The
epoch lives in shared memory: `set_epoch`, which the Trainer calls, reaches running workers.

A video that cannot be used is handled by `skipping.SkipLog`: `raise`, or `skip`, which gives `None` for the sample and
a smaller batch. It is never replaced by another sample.
"""

from __future__ import annotations

import copy
import operator
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..loss_lfvila import random_keys
from ..video_reading_lfvila import LFVilaVideoError
from .annotations import AnnotationError
from .cached_reading import CachedVideoReader, VideoSegments
from .frame_store import FrameStore
from .skipping import OnError, SkipLog, SkipReport

SAMPLE_STREAM = 16
ORDER_STREAM = 17
"""Streams of `random_keys` that samples are made from; the losses use 0 to 2."""


@dataclass(frozen=True)
class VideoTextSample:
    """One video with its paragraph.

    It is no dictionary, because the Trainer compares the keys of a dictionary with the model's arguments.

    Attributes:
        id: Name of the sample in its annotation.
        place: Annotation file and line.
        sentences: The paragraph.
        pictures: `(T, 3, H, W)` float32 in 0 ... 255.
        times: Seconds of the T frames on the (joined) video.
        duration: Seconds of that video.
        number: Hash of id and line, in 0 ... 2**32 - 1; seed of the random choices for this sample.
        epoch: Epoch of these random choices.
        row: Annotation row with all its fields.
        num_clips: Number of clip files that the video was read from; `None` for a whole video.
    """

    id: str
    place: str
    sentences: tuple[str, ...]
    pictures: torch.Tensor
    times: tuple[float, ...] | None
    duration: float | None
    number: int
    epoch: int
    row: dict[str, Any] = field(repr=False)
    num_clips: int | None = None


class RowReader:
    """Reader of one kind of row; subclasses choose files and sentences.

    Attributes:
        columns: Columns that a row must have.

    Args:
        processor: `LFVilaProcessor`.
        training: Make random choices; otherwise those of evaluation, which are fixed.
        seed: Seed of the run.
        frame_cache: Store of decoded frames. By default every read decodes.
    """

    columns: tuple[str, ...] = ("id", "sentences", "place")

    def __init__(self, processor: Any, *, training: bool, seed: int = 0, frame_cache: FrameStore | None = None) -> None:
        self.pictures = CachedVideoReader(processor.video_processor, frame_cache)
        self.training = training
        self.seed = seed

    def select(self, row: dict[str, Any], key: int) -> tuple[str | list[str] | VideoSegments, Sequence[str]]:
        """Choose the file, clip files or segments of a sample and its sentences.

        Args:
            row: An annotation row.
            key: A random integer in 0 ... 2**32 - 1 that belongs to this sample and epoch.
        """
        raise NotImplementedError

    def files(self, row: dict[str, Any]) -> str | list[str] | VideoSegments:
        """Return the file, all clip files or all segments of a row."""
        return row["video"]

    def fill(self, row: dict[str, Any]) -> None:
        """Put all frames of a row into the frame store.

        Raises:
            LFVilaVideoError: Names the video, and the row it belongs to.
        """
        with _named_row(row):
            self.pictures.fill(self.files(row))

    def __call__(self, row: dict[str, Any], epoch: int) -> VideoTextSample:
        """Decode one row.

        Raises:
            LFVilaVideoError: Names the video, and the row it belongs to.
            AnnotationError: The row does not fit the model.
            ValueError: A column is missing.
        """
        missing = [name for name in self.columns if name not in row]
        if missing:
            raise ValueError(f"a row lacks {missing}, it has {sorted(row)}: expected rows as the loaders make them")
        number = zlib.crc32(f"{row['id']}:{row['place'].rpartition(':')[2]}".encode())
        keys = random_keys(self.seed, epoch, torch.tensor([number]), 3, SAMPLE_STREAM)
        high, low, key = keys[0].tolist()
        source, sentences = self.select(row, key)
        with _named_row(row):
            read = self.pictures.read(source, training=self.training, seed=high << 30 ^ low)
        return VideoTextSample(
            id=row["id"],
            place=row["place"],
            sentences=tuple(sentences),
            pictures=read.frames,
            times=None if read.times is None else tuple(read.times),
            duration=read.metadata.duration,
            number=number,
            epoch=epoch,
            row=row,
            num_clips=None if isinstance(source, str) or getattr(source, "is_spread", False) else len(source),
        )


class RetrievalReader(RowReader):
    """Reader of rows of `load_retrieval`: a whole video and all its sentences."""

    columns = (*RowReader.columns, "video")

    def select(self, row: dict[str, Any], key: int) -> tuple[str, Sequence[str]]:
        """Return the video and its paragraph as they are."""
        return row["video"], row["sentences"]


class PreTrainingReader(RowReader):
    """Reader of rows of `load_pretraining`: K consecutive clips of a long video, T / K frames and one sentence of each.

    The first clip is drawn anew in every epoch, the last possible start included; it is 0 in evaluation.

    Args:
        processor: `LFVilaProcessor`; its video processor's `num_clips` is K.
        min_clips: Take rows of fewer than K clips, but at least this many, as a whole, with T / K frames of each clip.
            A batch then needs rows of one length (`sampling.EqualLengthSampler`). Defaults to K, as released.
        shuffle_clips: In training, put the clips and their sentences in a random order. It makes an order twin of every
            sample in every epoch, and suits texts in which no sentence refers to the one before it.
        options: As for `RowReader`.

    Raises:
        ValueError: T is no multiple of K, the processor would join some of the K sentences, or `min_clips` does not
            lie in 1 to K.
    """

    columns = (*RowReader.columns, "clips")

    def __init__(
        self, processor: Any, *, min_clips: int | None = None, shuffle_clips: bool = False, **options: Any
    ) -> None:
        super().__init__(processor, **options)
        self.num_clips = int(processor.video_processor.num_clips)
        self.min_clips = self.num_clips if min_clips is None else min_clips
        self.shuffle_clips = shuffle_clips
        if not 1 <= self.min_clips <= self.num_clips:
            raise ValueError(f"min_clips={min_clips} must lie in 1 to num_clips={self.num_clips}")
        num_frames = processor.video_processor.num_frames
        if num_frames % self.num_clips:
            raise ValueError(f"num_frames={num_frames} must be a multiple of num_clips={self.num_clips}")
        if processor.max_sentences < self.num_clips:
            raise ValueError(
                f"the processor keeps max_sentences={processor.max_sentences} sentences apart, "
                f"expected at least num_clips={self.num_clips}: one for each clip"
            )

    def select(self, row: dict[str, Any], key: int) -> tuple[list[str] | VideoSegments, Sequence[str]]:
        """Choose K clips from a random start on (in evaluation from the first one) and their sentences."""
        start, count = self._part(row, key)
        places = list(range(start, start + count))
        if self.training and self.shuffle_clips:
            order = random_keys(self.seed, key, torch.tensor([0]), count, ORDER_STREAM)[0].argsort()
            places = [places[number] for number in order.tolist()]
        return [row["clips"][place] for place in places], [row["sentences"][place] for place in places]

    def files(self, row: dict[str, Any]) -> list[str] | VideoSegments:
        """Return all clip files of a row."""
        return list(row["clips"])

    def _part(self, row: dict[str, Any], key: int) -> tuple[int, int]:
        """Draw the first clip of a sample; return its number and the number of clips."""
        count = self.length(row)
        starts = len(row["sentences"]) - count + 1
        return key % starts if self.training else 0, count

    def length(self, row: dict[str, Any]) -> int:
        """Return the number of clips that a sample takes of a row: K, or all if there are fewer.

        Raises:
            AnnotationError: There are fewer than `min_clips`.
        """
        clips = len(row["sentences"])  # one for each clip
        if clips < self.min_clips:
            raise AnnotationError(row["place"], f"{row['id']!r} has {clips} clips, expected at least {self.min_clips}")
        return min(clips, self.num_clips)


class SegmentReader(PreTrainingReader):
    """Reader of whole videos whose sentences have times: K consecutive segments and their sentences.

    Rows are those of `load_retrieval` with the fields `seconds`, the start of each sentence's segment, and `duration`,
    the end of the last one. A segment is read like a clip file, so no clip files are needed.

    Args:
        processor: `LFVilaProcessor`.
        is_spread: Take a video as a whole: T frames, evenly spread, of those that its segments have, and all sentences.
            The fusion phase needs T frames of every video, however many segments it has.
        options: As for `PreTrainingReader`, without `shuffle_clips`.
    """

    columns = (*RowReader.columns, "video", "seconds", "duration")

    def __init__(
        self, processor: Any, *, min_clips: int | None = None, is_spread: bool = False, **options: Any
    ) -> None:
        super().__init__(processor, min_clips=min_clips, **options)
        self.is_spread = is_spread

    def select(self, row: dict[str, Any], key: int) -> tuple[VideoSegments, Sequence[str]]:
        """Choose K segments from a random start on (in evaluation from the first one) and their sentences."""
        start, count = (0, len(row["sentences"])) if self.is_spread else self._part(row, key)
        return self._segments(row, start, count), row["sentences"][start : start + count]

    def files(self, row: dict[str, Any]) -> VideoSegments:
        """Return all segments of a row."""
        return self._segments(row, 0, len(row["sentences"]))

    def _segments(self, row: dict[str, Any], start: int, count: int) -> VideoSegments:
        borders = (*map(float, row["seconds"]), float(row["duration"]))
        if len(borders) != len(row["sentences"]) + 1 or not all(map(operator.lt, borders, borders[1:])):
            raise AnnotationError(
                row["place"],
                f"'seconds' and 'duration' must rise, with one second for each of {len(row['sentences'])} sentences, "
                f"got {list(borders)}",
            )
        return VideoSegments(row["video"], borders, start, count, self.is_spread)


class VideoTextDataset(torch.utils.data.Dataset[VideoTextSample | None]):
    """Map-style data set of decoded samples.

    Args:
        rows: A sequence of rows, such as a `datasets.Dataset`.
        reader: Reader that makes samples of rows.
        skips: Policy for samples that cannot be used.

    Raises:
        ValueError: There is no row.
    """

    def __init__(self, rows: Any, reader: RowReader, skips: SkipLog) -> None:
        if len(rows) == 0:
            raise ValueError("rows is empty, expected at least one row")
        self.rows = rows
        self.reader = reader
        self.skips = skips
        if skips.total is None:
            skips.total = len(rows)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> VideoTextSample | None:
        """Decode one sample; `None` if it is skipped.

        Raises:
            LFVilaVideoError: The video cannot be used and the policy is to raise.
            ValueError: Too many samples are skipped.
        """
        return _sample(self.reader, self.rows[index], self.epoch, self.skips)

    @property
    def epoch(self) -> int:
        """Epoch of the random choices."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, also in running workers. The Trainer calls this."""
        self._epoch.fill_(epoch)

    def skip_report(self) -> SkipReport:
        """Return what was skipped so far, in this process and its workers."""
        return self.skips.report()

    def without_skipped(self) -> VideoTextDataset:
        """Return this data set without the rows that were skipped so far, so that batches are full."""
        return self._without(self.skip_report())

    def without_unusable(self, *, num_workers: int | None = None) -> VideoTextDataset:
        """Read every row once and return this data set without those that cannot be used.

        In a distributed run every process reads all rows, and all leave out the same ones. A frame store is filled on
        the way.

        Args:
            num_workers: Number of processes that decode; 0 decodes in this one. Defaults to the number of cores, at
                most 8.

        Raises:
            LFVilaVideoError: A video cannot be used and the policy is to raise.
            ValueError: Too many samples are skipped.
        """
        self._try_rows(range(len(self.rows)), lambda row: self.reader(row, self.epoch), num_workers)
        return self.without_skipped()

    def fill_frame_cache(self, *, num_workers: int | None = None, progress: bool = True) -> None:
        """Decode every video that is not in the frame store yet, on all cores.

        In a distributed run every process decodes its share of the rows. A run that was killed goes on where it was.

        Args:
            num_workers: As for `without_unusable`.
            progress: Show a progress bar.

        Raises:
            LFVilaVideoError: A video cannot be used and the policy is to raise.
            ValueError: The data set has no frame store, or too many samples are skipped.
        """
        if self.reader.pictures.frame_cache is None:
            raise ValueError("this data set has no frame store to fill, pass frame_cache=FrameStore(folder)")
        rank, processes = _place_among_processes()
        mine = range(rank, len(self.rows), processes)
        self._try_rows(mine, self.reader.fill, num_workers, progress)

    def _try_rows(
        self, indices: range, work: Callable[[dict[str, Any]], Any], num_workers: int | None, progress: bool = False
    ) -> None:
        """Do something with rows in loader workers; errors go to `skips`."""
        from tqdm.auto import tqdm

        trial = _Trial(self.rows, indices, work)
        workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        loader = torch.utils.data.DataLoader(
            trial,
            batch_size=None,
            num_workers=min(workers, len(trial)),
            # The work is a closure, which only a forked worker inherits.
            multiprocessing_context="fork" if workers and hasattr(os, "fork") else None,
        )
        for index, error in zip(indices, tqdm(loader, "decoding", unit="video", disable=not progress), strict=True):
            if error is not None:
                row = self.rows[index]
                self.skips.handle(error, sample=row["id"], place=row["place"])

    def _without(self, report: SkipReport) -> VideoTextDataset:
        skipped = {(one.sample, one.place) for one in report.skipped}
        kept = [index for index, row in enumerate(self.rows) if (row["id"], row["place"]) not in skipped]
        smaller = copy.copy(self)
        smaller.rows = torch.utils.data.Subset(self.rows, kept)
        return smaller


class _Trial(torch.utils.data.Dataset[Exception | None]):
    """Data set of the errors that some work on rows raises."""

    def __init__(self, rows: Any, indices: range, work: Callable[[dict[str, Any]], Any]) -> None:
        self.rows = rows
        self.indices = indices
        self.work = work

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> LFVilaVideoError | AnnotationError | None:
        try:
            self.work(self.rows[self.indices[number]])
        except (LFVilaVideoError, AnnotationError) as error:
            return error
        return None


class RetrievalDataset(VideoTextDataset):
    """Whole videos and their paragraphs.

    Args:
        rows: Rows of `load_retrieval`.
        processor: `LFVilaProcessor`.
        training: Jitter frames, crop and flip at random.
        seed: Seed of the run.
        on_error: `"raise"` or `"skip"`, see `SkipLog`.
        max_skip_fraction: Ceiling for `"skip"`.
        frame_cache: Store of decoded frames. By default every read decodes.
        skip_journal: File that keeps what was skipped. Processes of a distributed run that share it count together.
            Defaults to a temporary file of this process.
    """

    def __init__(
        self,
        rows: Any,
        processor: Any,
        *,
        training: bool,
        seed: int = 0,
        on_error: OnError = "raise",
        max_skip_fraction: float = 0.01,
        frame_cache: FrameStore | None = None,
        skip_journal: str | None = None,
    ) -> None:
        reader = RetrievalReader(processor, training=training, seed=seed, frame_cache=frame_cache)
        super().__init__(rows, reader, SkipLog(on_error, max_skip_fraction, journal=skip_journal))


class PreTrainingDataset(VideoTextDataset):
    """K consecutive clips of each long video and their K sentences.

    Args:
        rows: Rows of `load_pretraining`, or rows of `load_retrieval` whose sentences have times (`SegmentReader`).
        processor: `LFVilaProcessor`.
        training: Draw the first clip, crop and flip at random.
        seed: Seed of the run.
        on_error: `"raise"` or `"skip"`, see `SkipLog`.
        max_skip_fraction: Ceiling for `"skip"`.
        frame_cache: Store of decoded frames. By default every read decodes.
        skip_journal: File that keeps what was skipped. Processes of a distributed run that share it count together.
            Defaults to a temporary file of this process.
        min_clips: See `PreTrainingReader`.
        shuffle_clips: See `PreTrainingReader`.
    """

    def __init__(
        self,
        rows: Any,
        processor: Any,
        *,
        training: bool,
        seed: int = 0,
        on_error: OnError = "raise",
        max_skip_fraction: float = 0.01,
        frame_cache: FrameStore | None = None,
        skip_journal: str | None = None,
        min_clips: int | None = None,
        shuffle_clips: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "training": training,
            "seed": seed,
            "frame_cache": frame_cache,
            "min_clips": min_clips,
        }
        is_timed = len(rows) > 0 and "clips" not in rows[0] and "seconds" in rows[0]
        if is_timed and shuffle_clips:
            raise ValueError("shuffle_clips needs clip files, these rows have segments of whole videos")
        reader = (
            SegmentReader(processor, **options)
            if is_timed
            else PreTrainingReader(processor, shuffle_clips=shuffle_clips, **options)
        )
        super().__init__(rows, reader, SkipLog(on_error, max_skip_fraction, journal=skip_journal))

    def lengths(self) -> list[int]:
        """Return the number of clips that a sample of each row takes, for `EqualLengthSampler`.

        Raises:
            AnnotationError: A row has too few clips.
        """
        return [self.reader.length(row) for row in self.rows]  # type: ignore[attr-defined]  # a PreTrainingReader


class StreamedDataset(torch.utils.data.IterableDataset[VideoTextSample]):
    """Iterable data set of decoded samples.

    Skipped samples are left out of the stream, so batches stay full. Loader workers share the shards (annotation
    files) of a `datasets.IterableDataset` between them; for several ranks split it first, with
    `datasets.distributed.split_dataset_by_node`.

    Args:
        rows: A `datasets.IterableDataset`, shuffled or not.
        reader: `RetrievalReader(...)` or `PreTrainingReader(...)`.
        skips: Policy for samples that cannot be used. By default they raise.

    Raises:
        ValueError: `rows` is no such stream; every worker would read all of them.
    """

    def __init__(self, rows: Any, reader: RowReader, skips: SkipLog | None = None) -> None:
        from datasets import IterableDataset

        if not isinstance(rows, IterableDataset):
            raise ValueError(f"rows of a stream: expected a datasets.IterableDataset, got {type(rows).__name__}")
        self.rows = rows
        self.reader = reader
        self.skips = skips or SkipLog("raise")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[VideoTextSample]:
        for count, row in enumerate(self.rows, start=1):
            sample = _sample(self.reader, row, int(self._epoch), self.skips, count)
            if sample is not None:
                yield sample

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; a shuffled stream takes another order."""
        self._epoch.fill_(epoch)
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def skip_report(self) -> SkipReport:
        """Return what was skipped so far, in this process and its workers."""
        return self.skips.report()


@contextmanager
def _named_row(row: dict[str, Any]) -> Iterator[None]:
    """Add the row to an error of its video."""
    try:
        yield
    except LFVilaVideoError as error:
        reason = f"{error.reason} (sample {row['id']!r} of {row['place']})"
        raise LFVilaVideoError(error.source, reason, error.position) from error


def _place_among_processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; 0 and 1 outside a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _sample(
    reader: RowReader, row: dict[str, Any], epoch: int, skips: SkipLog, rows_read: int = 0
) -> VideoTextSample | None:
    try:
        return reader(row, epoch)
    except (LFVilaVideoError, AnnotationError) as error:
        skips.handle(error, sample=row["id"], place=row["place"], rows_read=rows_read)
        return None


__all__ = [
    "PreTrainingDataset",
    "PreTrainingReader",
    "RetrievalDataset",
    "RetrievalReader",
    "RowReader",
    "SegmentReader",
    "StreamedDataset",
    "VideoTextDataset",
    "VideoTextSample",
]

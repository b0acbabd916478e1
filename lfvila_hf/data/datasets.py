# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Data sets for a torch `DataLoader` (and so for the Trainer): annotation rows in, decoded samples out.

`RetrievalDataset` and `PreTrainingDataset` take rows as `annotations` loads them and decode in whichever process asks.
`StreamedDataset` does the same for a stream of rows. A sample is a `VideoTextSample`, which `collating.LFVilaCollator`
turns into model inputs.

Every random choice (jitter, crop, flip, first clip) is a function of the seed, the epoch and the sample, by
`loss_lfvila.random_keys`; there is no generator state, so that any number of workers and any resumed run make the same
samples. The sample's number behind it is a hash of its id and line, so that order, shuffling and streaming do not
matter either. The epoch lives in shared memory: `set_epoch` (which the Trainer calls) reaches workers that are alive.

A video that cannot be used is handled by `skipping.SkipLog`: `raise`, or `skip`, where the sample is `None` and the
batch that much smaller. It is never another sample.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..loss_lfvila import random_keys
from ..video_reading_lfvila import LFVilaVideoError
from .annotations import AnnotationError
from .batch_decoding import decode_videos
from .frame_cache import FrameCache
from .pictures import PictureReader
from .skipping import OnError, SkipLog, SkipReport

SAMPLE_STREAM = 16
ORDER_STREAM = 17
"""Stream of `random_keys` that samples are made from; the losses use 0 to 2."""


@dataclass(frozen=True)
class VideoTextSample:
    """One video with its paragraph. No dictionary, whose keys the Trainer would compare with the model's arguments.

    Attributes:
        id: Name of the sample in its annotation.
        place: Annotation file and line.
        sentences: The paragraph.
        pictures: `(T, 3, H, W)` float32 in 0 ... 255.
        times: Seconds of the T frames on the (joined) video.
        duration: Seconds of that video.
        number: Hash of id and line, in 0 ... 2**32 - 1; what random choices for this sample are made from.
        epoch: The epoch it was made for.
        row: The annotation row, with all its fields.
        num_clips: Clips that the video was put together from, `None` for a whole video.
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
    """What one kind of row becomes; subclasses say which files and sentences.

    Attributes:
        columns: What a row must have.

    Args:
        processor: `LFVilaProcessor`.
        training: Random choices, or the evaluation's fixed ones.
        seed: Seed of the run.
        frame_cache: Where decoded frames are kept.
    """

    columns: tuple[str, ...] = ("id", "sentences", "place")

    def __init__(self, processor: Any, *, training: bool, seed: int = 0, frame_cache: FrameCache | None = None) -> None:
        self.pictures = PictureReader(processor.video_processor, frame_cache)
        self.training = training
        self.seed = seed

    def select(self, row: dict[str, Any], key: int) -> tuple[str | list[str], Sequence[str]]:
        """The file or clip files of a row, and the sentences that go with them.

        Args:
            row: An annotation row.
            key: A random integer in 0 ... 2**32 - 1 that belongs to this sample and epoch.
        """
        raise NotImplementedError

    def __call__(self, row: dict[str, Any], epoch: int) -> VideoTextSample:
        """Decode one row.

        Raises:
            LFVilaVideoError: Names the video, and the row it belongs to.
            AnnotationError: Where the row does not fit the model.
            ValueError: Where a column is missing.
        """
        missing = [name for name in self.columns if name not in row]
        if missing:
            raise ValueError(f"a row lacks {missing}, it has {sorted(row)}: expected rows as the loaders make them")
        number = zlib.crc32(f"{row['id']}:{row['place'].rpartition(':')[2]}".encode())
        keys = random_keys(self.seed, epoch, torch.tensor([number]), 3, SAMPLE_STREAM)
        high, low, key = keys[0].tolist()
        source, sentences = self.select(row, key)
        try:
            read = self.pictures.read(source, training=self.training, seed=high << 30 ^ low)
        except LFVilaVideoError as error:
            reason = f"{error.reason} (sample {row['id']!r} of {row['place']})"
            raise LFVilaVideoError(error.source, reason, error.position) from error
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
            num_clips=None if isinstance(source, str) else len(source),
        )


class RetrievalReader(RowReader):
    """Rows of `load_retrieval`: a whole video and all its sentences."""

    columns = (*RowReader.columns, "video")

    def select(self, row: dict[str, Any], key: int) -> tuple[str, Sequence[str]]:
        """The video and its paragraph, as they are."""
        return row["video"], row["sentences"]


class PreTrainingReader(RowReader):
    """Rows of `load_pretraining`: K consecutive clips of a long video, T / K frames and one sentence of each.

    The first clip is drawn anew in every epoch, the last possible start included; it is 0 in evaluation.

    Args:
        processor: `LFVilaProcessor`; its video processor's `num_clips` is K.
        min_clips: Rows with fewer than K clips, but at least this many, are taken whole, with T / K frames of each
            clip; a batch then needs rows of one length (`sampling.EqualLengthSampler`). K where left out, as released.
        shuffle_clips: In training, put the clips (and their sentences with them) in a random order. It makes an order
            twin of every sample in every epoch, and fits texts in which no sentence refers to the one before it.
        options: As for `RowReader`.

    Raises:
        ValueError: Where T is no multiple of K, the processor would join some of the K sentences, or `min_clips` does
            not lie in 1 to K.
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

    def select(self, row: dict[str, Any], key: int) -> tuple[list[str], Sequence[str]]:
        """K clips from a random (in evaluation: the first) start on, and their sentences."""
        count = self.length(row)
        starts = len(row["clips"]) - count + 1
        start = key % starts if self.training else 0
        places = list(range(start, start + count))
        if self.training and self.shuffle_clips:
            order = random_keys(self.seed, key, torch.tensor([0]), count, ORDER_STREAM)[0].argsort()
            places = [places[number] for number in order.tolist()]
        return [row["clips"][place] for place in places], [row["sentences"][place] for place in places]

    def length(self, row: dict[str, Any]) -> int:
        """How many clips of a row a sample takes: K, or all where there are fewer.

        Raises:
            AnnotationError: Where there are fewer than `min_clips`.
        """
        clips = len(row["clips"])
        if clips < self.min_clips:
            raise AnnotationError(row["place"], f"{row['id']!r} has {clips} clips, expected at least {self.min_clips}")
        return min(clips, self.num_clips)


class VideoTextDataset(torch.utils.data.Dataset[VideoTextSample | None]):
    """Map-style data set of decoded samples.

    Args:
        rows: A sequence of rows, such as a `datasets.Dataset`.
        reader: What a row becomes.
        skips: Policy for samples that cannot be used.
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
        """Decode one sample; `None` where it is skipped.

        Raises:
            LFVilaVideoError: Where the video cannot be used and the policy is to raise.
            ValueError: Where too many samples are skipped.
        """
        return _sample(self.reader, self.rows[index], self.epoch, self.skips)

    @property
    def epoch(self) -> int:
        """The epoch that samples are made for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; the Trainer does. Workers that are alive hear of it."""
        self._epoch.fill_(epoch)

    def skip_report(self) -> SkipReport:
        """What was skipped so far, in this process and its workers."""
        return self.skips.report()

    def without_skipped(self) -> VideoTextDataset:
        """A data set like this one without the rows that were skipped so far, whose batches are therefore full."""
        return self._without(self.skip_report())

    def without_unusable(self, *, num_workers: int | None = None) -> VideoTextDataset:
        """Try every row once, and give a data set like this one without those that cannot be used.

        In a distributed run every process calls this; each tries its share of the rows, and all of them leave out the
        same ones. A frame cache is filled on the way.

        Args:
            num_workers: Rows decoded at the same time; the machine's cores, at most 8, where left out.

        Raises:
            LFVilaVideoError: On every process, where a video cannot be used and the policy is to raise.
            ValueError: On every process, where too many samples are skipped.
        """
        rank, processes = _place_among_processes()
        mine = range(rank, len(self.rows), processes)
        failure: Exception | None = None
        for place, error in decode_videos(mine, read=self._problem, num_workers=num_workers):
            if error is None:
                continue
            row = self.rows[mine[place]]
            try:
                self.skips.note(error, sample=row["id"], place=row["place"])
            except (LFVilaVideoError, AnnotationError) as raised:
                failure = raised
                break
        return self._without(self.skips.agree(failure))

    def _problem(self, index: int) -> LFVilaVideoError | AnnotationError | None:
        """What is wrong with a row."""
        try:
            self.reader(self.rows[index], self.epoch)
        except (LFVilaVideoError, AnnotationError) as error:
            return error
        return None

    def _without(self, report: SkipReport) -> VideoTextDataset:
        skipped = {(one.sample, one.place) for one in report.skipped}
        kept = [index for index, row in enumerate(self.rows) if (row["id"], row["place"]) not in skipped]
        smaller = copy.copy(self)
        smaller.rows = torch.utils.data.Subset(self.rows, kept)
        return smaller


class RetrievalDataset(VideoTextDataset):
    """Whole videos and their paragraphs.

    Args:
        rows: What `load_retrieval` gives.
        processor: `LFVilaProcessor`.
        training: Jittered frames, random crop and flip.
        seed: Seed of the run.
        on_error: `"raise"` or `"skip"`, see `SkipLog`.
        max_skip_fraction: Ceiling for `"skip"`.
        frame_cache: Where decoded frames are kept; every read decodes where left out.
        skip_journal: File that keeps what was skipped, the same for all processes of a distributed run; a temporary
            one where left out.
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
        frame_cache: FrameCache | None = None,
        skip_journal: str | None = None,
    ) -> None:
        reader = RetrievalReader(processor, training=training, seed=seed, frame_cache=frame_cache)
        super().__init__(rows, reader, SkipLog(on_error, max_skip_fraction, journal=skip_journal))


class PreTrainingDataset(VideoTextDataset):
    """K consecutive clips of each long video and their K sentences.

    Args:
        rows: What `load_pretraining` gives.
        processor: `LFVilaProcessor`.
        training: A random first clip, random crop and flip.
        seed: Seed of the run.
        on_error: `"raise"` or `"skip"`, see `SkipLog`.
        max_skip_fraction: Ceiling for `"skip"`.
        frame_cache: Where decoded frames are kept; every read decodes where left out.
        skip_journal: File that keeps what was skipped, the same for all processes of a distributed run; a temporary
            one where left out.
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
        frame_cache: FrameCache | None = None,
        skip_journal: str | None = None,
        min_clips: int | None = None,
        shuffle_clips: bool = False,
    ) -> None:
        reader = PreTrainingReader(
            processor,
            training=training,
            seed=seed,
            frame_cache=frame_cache,
            min_clips=min_clips,
            shuffle_clips=shuffle_clips,
        )
        super().__init__(rows, reader, SkipLog(on_error, max_skip_fraction, journal=skip_journal))

    def lengths(self) -> list[int]:
        """Clips that a sample of each row takes; what `EqualLengthSampler` goes by.

        Raises:
            AnnotationError: For a row with too few clips.
        """
        return [self.reader.length(row) for row in self.rows]  # type: ignore[attr-defined]  # a PreTrainingReader


class StreamedDataset(torch.utils.data.IterableDataset[VideoTextSample]):
    """Decoded samples of a stream of rows.

    Skipped samples are left out of the stream, so that batches stay full. Loader workers share the shards (annotation
    files) of a `datasets.IterableDataset` between them; for several ranks split it first, with
    `datasets.distributed.split_dataset_by_node`.

    Args:
        rows: A `datasets.IterableDataset`, shuffled or not.
        reader: What a row becomes: `RetrievalReader(...)` or `PreTrainingReader(...)`.
        skips: Policy for samples that cannot be used; raises where left out.

    Raises:
        ValueError: For rows that are no such stream: every worker would read all of them.
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
        """Say which epoch begins; a shuffled stream takes another order."""
        self._epoch.fill_(epoch)
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def skip_report(self) -> SkipReport:
        """What was skipped so far, in this process and its workers."""
        return self.skips.report()


def _place_among_processes() -> tuple[int, int]:
    """The rank of this process and how many there are; 0 and 1 outside a distributed run."""
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
    "StreamedDataset",
    "VideoTextDataset",
    "VideoTextSample",
]

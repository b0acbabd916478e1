"""Data sets: samples equal to the processor's, the same from any worker, and what becomes of videos that are broken.

Frames are told by their barcodes (`video_files`). Also pins `pictures`, through which every sample comes. Annotation
files have their own tests, the frame cache too (`test_frame_cache`), the collator as well.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import make_processor, write_json_lines, write_pretraining, write_retrieval
from torch.utils.data import DataLoader
from video_files import read_barcode, read_barcodes

from lfvila_hf.data.annotations import AnnotationError, load_pretraining, load_retrieval
from lfvila_hf.data.datasets import (
    PreTrainingDataset,
    PreTrainingReader,
    RetrievalDataset,
    RetrievalReader,
    SegmentReader,
    StreamedDataset,
    VideoTextSample,
)
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

CLIP_FRAMES = 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_retrieval(root)
    write_pretraining(root, frames=CLIP_FRAMES)
    return root


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    return make_processor(tiny_tokenizer)


@pytest.fixture
def plain_processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    """Leaves every pixel where it is, so that barcodes can be read back."""
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip_probability": 0.0, "do_center_crop": False}
    return make_processor(tiny_tokenizer, size={"height": 64, "width": 96}, **whole)


@pytest.fixture
def rows(corpus: Path) -> Any:
    return load_retrieval(corpus / "retrieval_0.jsonl", corpus / "videos")


@pytest.fixture
def clip_rows(corpus: Path) -> Any:
    return load_pretraining(corpus / "pretraining.jsonl", corpus / "clips")


@pytest.fixture
def broken_rows(corpus: Path, tmp_path: Path) -> Any:
    """Six good rows, and two in between whose files are there and hold no video."""
    (corpus / "videos" / "text.mp4").write_text("no video")
    (corpus / "videos" / "empty.mp4").touch()
    names = ["v_0", "text", "v_1", "v_2", "empty", "v_3", "v_4", "v_5"]
    path = write_json_lines(tmp_path / "broken.jsonl", [{"clip_id": name, "text": "A man."} for name in names])
    return load_retrieval(path, corpus / "videos")


def one_sample(samples: list[VideoTextSample]) -> VideoTextSample:
    """Collate a batch of one: what a worker made, unchanged."""
    return samples[0]


def samples_of(dataset: Any, **loader: Any) -> list[VideoTextSample]:
    """All samples by way of a loader.

    An error loses its traceback, which would keep the loader's workers alive; ending them late takes torch 5 s each.
    """
    try:
        return list(DataLoader(dataset, batch_size=1, collate_fn=one_sample, **loader))
    except Exception as error:
        problem = error.with_traceback(None)
    problem.__context__ = None
    raise problem


def same(one: VideoTextSample, other: VideoTextSample) -> bool:
    fields = ("id", "place", "sentences", "times", "number", "epoch")
    return all(getattr(one, name) == getattr(other, name) for name in fields) and torch.equal(
        one.pictures, other.pictures
    )


# -- samples ---------------------------------------------------------------------------------------------------------


def test_an_evaluation_sample_is_what_the_processor_makes_of_the_file(rows: Any, processor: LFVilaProcessor) -> None:
    dataset = RetrievalDataset(rows, processor, training=False)
    assert len(dataset) == 6
    for index in (0, 5):
        sample = dataset[index]
        assert sample is not None
        expected = processor(videos=rows[index]["video"], return_metadata=True)
        pixels = processor.video_processor.normalize_pictures(sample.pictures)
        assert torch.equal(pixels, expected["pixel_values_videos"][0])
        assert list(sample.times or ()) == expected["video_metadata"][0].timestamps
        assert sample.times == pytest.approx([frame / 25 for frame in (0, 9, 19, 29)])  # linspace(0, 29, 4)
        assert sample.duration == expected["video_metadata"][0].duration
        assert sample.sentences == tuple(rows[index]["sentences"])
        assert (sample.id, sample.place, sample.row) == (f"v_{index}", rows[index]["place"], rows[index])


def test_training_varies_with_epoch_sample_and_seed_and_with_nothing_else(
    rows: Any, processor: LFVilaProcessor
) -> None:
    dataset = RetrievalDataset(rows, processor, training=True, seed=1)
    first = [dataset[index] for index in range(6)]
    torch.manual_seed(99)
    again = [dataset[index] for index in reversed(range(6))][::-1]
    assert all(same(one, other) for one, other in zip(first, again, strict=True))

    dataset.set_epoch(1)
    next_epoch = [dataset[index] for index in range(6)]
    other_seed = [RetrievalDataset(rows, processor, training=True, seed=2)[index] for index in range(6)]
    for changed in (next_epoch, other_seed):
        assert not any(torch.equal(one.pictures, two.pictures) for one, two in zip(first, changed, strict=True))
    assert len({sample.times for sample in [*first, *next_epoch, *other_seed]}) > 3  # frames are jittered

    dataset.set_epoch(0)
    assert same(dataset[3], first[3])


def test_a_row_gives_the_same_sample_wherever_it_stands(rows: Any, processor: LFVilaProcessor) -> None:
    shuffled = rows.shuffle(seed=3)
    assert shuffled["id"][:] != rows["id"][:]
    by_id = {
        sample.id: sample for sample in map(RetrievalDataset(rows, processor, training=True).__getitem__, range(6))
    }
    dataset = RetrievalDataset(shuffled, processor, training=True)
    assert all(same(dataset[index], by_id[shuffled[index]["id"]]) for index in range(6))


def test_rows_of_one_video_are_augmented_apart(corpus: Path, tmp_path: Path, processor: LFVilaProcessor) -> None:
    path = write_json_lines(tmp_path / "twice.jsonl", [{"clip_id": "v_0", "text": "A man."}] * 2)
    dataset = RetrievalDataset(load_retrieval(path, corpus / "videos"), processor, training=True)
    assert dataset[0].number != dataset[1].number
    assert not torch.equal(dataset[0].pictures, dataset[1].pictures)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_hear_of_the_epoch(
    rows: Any, processor: LFVilaProcessor, workers: int, persistent: bool
) -> None:
    dataset = RetrievalDataset(rows, processor, training=True, seed=5)
    loader = DataLoader(
        dataset, batch_size=1, collate_fn=one_sample, num_workers=workers, persistent_workers=persistent
    )
    for epoch in (0, 1, 4):
        dataset.set_epoch(epoch)
        expected = [dataset[index] for index in range(6)]
        assert [sample.epoch for sample in expected] == [epoch] * 6
        assert all(same(one, other) for one, other in zip(loader, expected, strict=True))


@pytest.mark.slow
def test_spawned_workers_give_the_same_samples(rows: Any, processor: LFVilaProcessor) -> None:
    dataset = RetrievalDataset(rows, processor, training=True, seed=5)
    dataset.set_epoch(2)
    spawned = samples_of(dataset, num_workers=1, multiprocessing_context="spawn")
    assert all(same(sample, dataset[index]) for index, sample in enumerate(spawned))
    assert len(spawned) == 6


def test_no_rows_are_an_error(processor: LFVilaProcessor) -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        RetrievalDataset([], processor, training=True)


# -- clips -----------------------------------------------------------------------------------------------------------


def test_evaluation_takes_the_first_clips_with_their_frames_and_sentences(
    clip_rows: Any, plain_processor: LFVilaProcessor
) -> None:
    processor = plain_processor
    dataset = PreTrainingDataset(clip_rows, processor, training=False)
    for video, row in enumerate(clip_rows):
        sample = dataset[video]
        assert sample.sentences == (f"In clip 0 the man is in box {video}.", f"In clip 1 the man is in box {video}.")
        # linspace(0, 7, 2 + 1)[:-1] = 0, 3.5 -> frames 0 and 3 of each of the 2 clips
        numbers = [1000 * video + offset for offset in (0, 3, 100, 103)]
        assert read_barcodes(sample.pictures) == numbers
        assert sample.times == pytest.approx([0, 3 / 25, 7 / 25, 10 / 25])
        expected = processor(videos=[row["clips"][:2]])["pixel_values_videos"][0]
        assert torch.equal(processor.video_processor.normalize_pictures(sample.pictures), expected)


def test_training_takes_consecutive_clips_from_every_possible_start(
    clip_rows: Any, plain_processor: LFVilaProcessor
) -> None:
    dataset = PreTrainingDataset(clip_rows, plain_processor, training=True)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for epoch in range(40):
        dataset.set_epoch(epoch)
        for video, starts in seen.items():
            sample = dataset[video]
            first = read_barcode(sample.pictures[0]) % 1000 // 100
            numbers = [1000 * video + 100 * clip + frame for clip in (first, first + 1) for frame in (0, 3)]
            assert read_barcodes(sample.pictures) == numbers
            assert sample.sentences == tuple(
                f"In clip {clip} the man is in box {video}." for clip in (first, first + 1)
            )
            starts.append(first)
    assert {video: sorted(set(starts)) for video, starts in seen.items()} == {0: [0], 1: [0, 1], 2: [0, 1, 2, 3]}
    assert all(4 <= seen[2].count(first) <= 16 for first in range(4))  # 10 each on average


def test_fewer_clips_than_the_model_needs_are_an_error_that_names_file_and_line(
    corpus: Path, clip_rows: Any, tiny_tokenizer: Any
) -> None:
    dataset = PreTrainingDataset(clip_rows, make_processor(tiny_tokenizer, num_clips=4, num_frames=4), training=True)
    with pytest.raises(AnnotationError, match=r"pretraining\.jsonl:1: 'w_0' has 2 clips, expected at least 4"):
        dataset[0]
    assert dataset[2] is not None


@pytest.mark.parametrize("store", ["none", "source"])
def test_timed_sentences_make_segments_of_a_whole_video_that_are_read_like_clips(
    corpus: Path, plain_processor: LFVilaProcessor, tmp_path: Path, store: str
) -> None:
    """Segments of 10, 7 and 13 of 30 frames; two of three are taken, two frames of each."""
    row = {"clip_id": "v_1", "text": ["One.", "Two.", "Three."], "seconds": [0.0, 0.4, 0.68], "duration": 1.2}
    rows = load_retrieval(write_json_lines(tmp_path / "timed.jsonl", [row]), corpus / "videos")
    options = {} if store == "none" else {"frame_cache": FrameStore(tmp_path / "store", resolution="source")}
    dataset = PreTrainingDataset(rows, plain_processor, training=True, **options)
    assert dataset.lengths() == [2]
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        assert sample is not None and sample.num_clips == 2
        numbers = [100, 105, 110, 113] if sample.sentences == ("One.", "Two.") else [110, 113, 117, 123]
        assert read_barcodes(sample.pictures) == numbers
        first = numbers[0] - 100
        assert sample.times == pytest.approx([(number - 100 - first) / 25 for number in numbers])
        assert sample.duration == pytest.approx(0.68 if first == 0 else 0.8)
        seen.add(sample.sentences)
    assert seen == {("One.", "Two."), ("Two.", "Three.")}
    spread = SegmentReader(plain_processor, training=True, is_spread=True, **options)(rows[0], 0)
    assert (spread.sentences, spread.num_clips) == (("One.", "Two.", "Three."), None)
    assert read_barcodes(spread.pictures) == [100, 110, 117, 123]  # of 100, 105, 110, 113, 117, 123
    if options:
        dataset.fill_frame_cache(num_workers=0, progress=False)
        assert (options["frame_cache"].misses, len(options["frame_cache"])) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"seconds": [0.0, 0.4], "duration": 0.4}, AnnotationError, r"must rise, with one second for each of 2"),
        ({"seconds": [0.0], "duration": 1.0}, AnnotationError, r"timed\.jsonl:1: 'seconds' and 'duration'"),
        ({"seconds": [0.0, 5.0], "duration": 9.0}, LFVilaVideoError, r"v_1\.mp4: its segments do not fit it: second 2"),
    ],
)
def test_seconds_that_do_not_fit_are_an_error_of_the_row(
    corpus: Path, processor: LFVilaProcessor, tmp_path: Path, fields: Any, error: Any, message: str
) -> None:
    row = {"clip_id": "v_1", "text": ["One.", "Two."], **fields}
    rows = load_retrieval(write_json_lines(tmp_path / "timed.jsonl", [row]), corpus / "videos")
    with pytest.raises(error, match=message):
        PreTrainingDataset(rows, processor, training=True)[0]
    with pytest.raises(ValueError, match="shuffle_clips needs clip files"):
        PreTrainingDataset(rows, processor, training=True, shuffle_clips=True)


def test_a_processor_that_does_not_fit_the_clips_is_an_error(clip_rows: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="num_frames=4 must be a multiple of num_clips=3"):
        PreTrainingDataset(clip_rows, make_processor(tiny_tokenizer, num_clips=3), training=True)
    processor = make_processor(tiny_tokenizer, num_clips=4, num_frames=8)
    processor.max_sentences = 3
    with pytest.raises(ValueError, match="max_sentences=3 sentences apart, expected at least num_clips=4"):
        PreTrainingDataset(clip_rows, processor, training=True)
    with pytest.raises(ValueError, match="do_sample_frames and do_resize"):
        PreTrainingDataset(clip_rows, make_processor(tiny_tokenizer, do_resize=False), training=True)


# -- videos that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_raise_names_the_video_the_sample_and_the_annotation_line(
    broken_rows: Any, processor: LFVilaProcessor, workers: int
) -> None:
    dataset = RetrievalDataset(broken_rows, processor, training=True)
    with pytest.raises(LFVilaVideoError, match=r"text\.mp4: .*\(sample 'text' of .*broken\.jsonl:2\)") as caught:
        samples_of(dataset, num_workers=workers)
    # A worker's error is made anew by torch from its traceback alone; the parts are read back out of that.
    assert caught.value.source.endswith("text.mp4")
    assert caught.value.reason.startswith("no video data that can be decoded")
    assert caught.value.reason.endswith("broken.jsonl:2)")
    assert ("worker process" in str(caught.value)) is bool(workers)


def test_workers_decode_ahead_while_a_step_computes(rows: Any, processor: LFVilaProcessor) -> None:
    class Stamped(RetrievalDataset):
        """Says when each sample was decoded, on the clock that all processes of a machine share."""

        def __getitem__(self, index: int) -> Any:
            begin = time.monotonic()
            assert super().__getitem__(index) is not None
            return index, begin, time.monotonic()

    dataset = Stamped(rows, processor, training=True)
    loader = DataLoader(dataset, batch_size=1, collate_fn=lambda samples: samples[0], num_workers=1, prefetch_factor=2)
    decoded, steps = {}, {}
    for index, begin, end in loader:
        decoded[index] = begin, end
        start = time.monotonic()
        time.sleep(0.2)  # stands for a step
        steps[index] = start, time.monotonic()
    # The next sample is under way, or there, before the step before it ends.
    assert all(decoded[index + 1][0] < steps[index][1] for index in range(len(rows) - 1))
    assert len(steps) == len(rows) > 3


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_gives_none_counts_once_and_never_another_sample(
    broken_rows: Any, processor: LFVilaProcessor, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = RetrievalDataset(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.25)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        with caplog.at_level(logging.WARNING):
            samples = samples_of(dataset, num_workers=workers)
        ids = [None if sample is None else sample.id for sample in samples]
        assert ids == ["v_0", None, "v_1", "v_2", None, "v_3", "v_4", "v_5"]
    report = dataset.skip_report()
    assert report.total == 8
    assert sorted(one.sample for one in report.skipped) == ["empty", "text"]
    assert all("broken.jsonl:" in one.place and one.sample in one.reason for one in report.skipped)
    assert workers or "skipped text of" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_more_broken_videos_than_the_ceiling_are_an_error(
    broken_rows: Any, processor: LFVilaProcessor, workers: int
) -> None:
    dataset = RetrievalDataset(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.2)
    with pytest.raises(ValueError, match=r"2 of 8 samples could not be used, more than max_skip_fraction=0\.2"):
        samples_of(dataset, num_workers=workers)


def test_the_data_set_without_what_was_skipped_has_full_batches(broken_rows: Any, processor: LFVilaProcessor) -> None:
    dataset = RetrievalDataset(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.25)
    dataset.set_epoch(3)
    expected = [sample for sample in samples_of(dataset) if sample is not None]
    smaller = dataset.without_skipped()
    assert len(smaller) == len(expected) == 6
    assert all(same(smaller[index], sample) for index, sample in enumerate(expected))
    smaller.set_epoch(4)
    assert smaller[0].epoch == 4
    assert len(smaller.skip_report()) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_can_be_tried_before_training(
    broken_rows: Any, processor: LFVilaProcessor, tmp_path: Path, workers: int
) -> None:
    options = {"on_error": "skip", "frame_cache": FrameStore(tmp_path / "store")}
    dataset = RetrievalDataset(broken_rows, processor, training=True, max_skip_fraction=0.25, **options)
    smaller = dataset.without_unusable(num_workers=workers)
    assert [row["id"] for row in smaller.rows] == ["v_0", "v_1", "v_2", "v_3", "v_4", "v_5"]
    assert "2 of 8 samples were skipped" in str(smaller.skip_report())
    assert len(options["frame_cache"]) == 6
    with pytest.raises(LFVilaVideoError, match=r"text\.mp4"):
        RetrievalDataset(broken_rows, processor, training=True).without_unusable(num_workers=workers)
    strict = RetrievalDataset(broken_rows, processor, training=True, max_skip_fraction=0.1, **options)
    with pytest.raises(ValueError, match="of 8 samples could not be used"):
        strict.without_unusable(num_workers=workers)


def test_rows_without_the_columns_of_the_loaders_are_an_error(processor: LFVilaProcessor) -> None:
    dataset = RetrievalDataset([{"id": "a", "sentences": ["A."], "video": "a.mp4"}], processor, training=True)
    with pytest.raises(ValueError, match=r"a row lacks \['place'\], it has \['id', 'sentences', 'video'\]"):
        dataset[0]


def test_an_error_that_is_not_the_videos_is_never_skipped(
    rows: Any, processor: LFVilaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = RetrievalDataset(rows, processor, training=True, on_error="skip", max_skip_fraction=1.0)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(dataset.reader.pictures, "read", fail)
    with pytest.raises(MemoryError):
        dataset[0]


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path, corpus: Path) -> str:
    """Three annotation files of two rows each."""
    for number in range(3):
        names = [f"v_{2 * number}", f"v_{2 * number + 1}"]
        rows = [{"clip_id": name, "text": ["A man rides.", name.replace("_", " ")]} for name in names]
        write_json_lines(tmp_path / "shards" / f"{number}.jsonl", rows)
    return str(tmp_path / "shards" / "*.jsonl")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_gives_the_samples_of_the_map_style_data_set(
    corpus: Path, shards: str, processor: LFVilaProcessor, workers: int
) -> None:
    table = RetrievalDataset(load_retrieval(shards, corpus / "videos"), processor, training=True, seed=4)
    stream = StreamedDataset(
        load_retrieval(shards, corpus / "videos", streaming=True), RetrievalReader(processor, training=True, seed=4)
    )
    for epoch in range(2):
        table.set_epoch(epoch)
        stream.set_epoch(epoch)
        expected = {sample.id: sample for sample in (table[index] for index in range(6))}
        found = samples_of(stream, num_workers=workers)
        assert sorted(sample.id for sample in found) == sorted(expected)
        assert all(same(sample, expected[sample.id]) for sample in found)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_a_shuffled_stream_takes_another_order_in_every_epoch(
    corpus: Path, shards: str, processor: LFVilaProcessor, options: dict[str, Any]
) -> None:
    rows = load_retrieval(shards, corpus / "videos", streaming=True).shuffle(seed=1, buffer_size=6)
    stream = StreamedDataset(rows, RetrievalReader(processor, training=False))
    loader = DataLoader(stream, batch_size=1, collate_fn=one_sample, **options)
    orders = []
    for epoch in range(4):
        stream.set_epoch(epoch)
        samples = list(loader)
        assert {sample.epoch for sample in samples} == {epoch}
        orders.append(tuple(sample.id for sample in samples))
    assert len(set(orders)) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(f"v_{number}" for number in range(6))}


def test_a_stream_of_clips_leaves_broken_videos_out_and_reports_them(
    corpus: Path, tmp_path: Path, processor: LFVilaProcessor
) -> None:
    (corpus / "clips" / "x").mkdir(exist_ok=True)
    for clip in range(2):
        (corpus / "clips" / "x" / f"x.{clip}.mp4").write_text("no video")
    lines = (corpus / "pretraining.jsonl").read_text().splitlines()
    broken = '[{"clip_id": "x.0.mp4", "text": "A."}, {"clip_id": "x.1.mp4", "text": "B."}]'
    path = tmp_path / "pretraining.jsonl"
    path.write_text("\n".join([lines[0], broken, *lines[1:]]) + "\n")
    reader = PreTrainingReader(processor, training=False)
    rows = load_pretraining(path, corpus / "clips", streaming=True)
    stream = StreamedDataset(rows, reader, SkipLog("skip"))
    assert [sample.id for sample in stream] == ["w_0", "w_1", "w_2"]
    assert [one.sample for one in stream.skip_report().skipped] == ["x"]
    with pytest.raises(LFVilaVideoError, match=r"x\.0\.mp4: .*pretraining\.jsonl:2"):
        list(StreamedDataset(rows, reader))


def test_a_stream_must_be_one_that_workers_can_share(rows: Any, processor: LFVilaProcessor) -> None:
    reader = RetrievalReader(processor, training=False)
    with pytest.raises(ValueError, match=r"expected a datasets.IterableDataset, got Dataset"):
        StreamedDataset(rows, reader)

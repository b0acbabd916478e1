"""The frame store: exactness against direct decoding, entries of changed files, faults of disks, several processes.

Exactness is held against direct decoding through the data sets. Frames are told by their barcodes (`video_files`).
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import NUM_FRAMES, make_processor, write_pretraining, write_retrieval
from torch.utils.data import DataLoader
from video_files import read_barcodes, write_video

from lfvila_hf.data import frame_store
from lfvila_hf.data.annotations import load_pretraining, load_retrieval
from lfvila_hf.data.datasets import PreTrainingDataset, RetrievalDataset, VideoTextSample
from lfvila_hf.data.frame_store import FrameStore, StoredVideo, file_stamp
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoInfo, uniform_indices

NUM_VIDEOS = 4
FRAMES = 120  # more than the 4 T = 16 that are stored


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_retrieval(root, NUM_VIDEOS, FRAMES)
    write_pretraining(root)
    return root


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    return make_processor(tiny_tokenizer)


@pytest.fixture
def rows(corpus: Path) -> Any:
    return load_retrieval(corpus / "retrieval_0.jsonl", corpus / "videos")


@pytest.fixture
def clip_rows(corpus: Path) -> Any:
    return load_pretraining(corpus / "pretraining.jsonl", corpus / "clips")


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"any file")
    return str(path)


def pictures(first: int = 0, count: int = 3) -> StoredVideo:
    """Frames whose every byte is their number."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    data = np.broadcast_to(numbers[:, None, None, None], (count, 3, 8, 10)).copy()
    info = VideoInfo("a.mp4", 40, 4.0, 10.0, 10, 8, notes=("odd",))
    return StoredVideo(data, np.arange(count) * 10, [float(n) for n in range(count)], info)


def put(store: FrameStore, path: str, video: StoredVideo, settings: Any = None) -> None:
    stamp = file_stamp(path)
    assert stamp is not None
    store.put(path, settings or {"size": 1}, video, stamp)


def found(store: FrameStore, path: str, settings: Any = None) -> list[int] | None:
    """First byte of every stored frame."""
    video = store.get(path, settings or {"size": 1})
    return None if video is None else video.pictures[:, 0, 0, 0].tolist()


def one_sample(samples: list[VideoTextSample]) -> VideoTextSample:
    return samples[0]


# -- through the data sets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["retrieval", "pretraining"])
@pytest.mark.parametrize("training", [False, True])
def test_pictures_stored_as_they_are_give_the_very_samples_of_direct_decoding(
    rows: Any, clip_rows: Any, processor: LFVilaProcessor, tmp_path: Path, kind: str, training: bool
) -> None:
    # All frames of these short videos are stored, so that jittered training is exact as well.
    store = FrameStore(tmp_path, resolution="source", frames_per_video=FRAMES)
    make, given = (RetrievalDataset, rows) if kind == "retrieval" else (PreTrainingDataset, clip_rows)
    direct, cached = (make(given, processor, training=training, seed=3, frame_cache=one) for one in (None, store))
    for epoch in range(3):
        direct.set_epoch(epoch)
        cached.set_epoch(epoch)
        for index in range(len(given)):
            one, other = direct[index], cached[index]
            assert torch.equal(one.pictures, other.pictures)
            assert (one.times, one.duration, one.sentences) == (other.times, other.duration, other.sentences)
    assert store.hits >= store.misses > 0


@pytest.mark.parametrize("resolution", ["source", "reduced"])
def test_evaluation_takes_the_very_frames_of_direct_decoding_of_a_long_video(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path, resolution: Any
) -> None:
    store = FrameStore(tmp_path, resolution=resolution, frames_per_video=6)  # a grid without the evaluation's frames
    direct = RetrievalDataset(rows, processor, training=False)
    cached = RetrievalDataset(rows, processor, training=False, frame_cache=store)
    assert not set(uniform_indices(FRAMES, NUM_FRAMES)) <= set(uniform_indices(FRAMES, 6))
    for index in [*range(NUM_VIDEOS), *range(NUM_VIDEOS)]:
        one, other = direct[index], cached[index]
        assert one.times == other.times
        difference = (one.pictures - other.pictures).abs().max().item()
        # Stored pictures are rounded to whole grey levels; a mean of roundings is no larger than the largest.
        assert difference == 0 if resolution == "source" else 0 < difference <= 0.5 + 1e-3
    assert (store.hits, store.misses) == (NUM_VIDEOS, NUM_VIDEOS)


def test_jittered_frames_of_a_long_video_are_the_nearest_that_are_stored(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path
) -> None:
    direct = RetrievalDataset(rows, processor, training=True)
    cached = RetrievalDataset(rows, processor, training=True, frame_cache=FrameStore(tmp_path))
    bound = np.ceil((FRAMES - 1) / (2 * (4 * NUM_FRAMES - 1)))
    offsets = []
    for epoch in range(10):
        direct.set_epoch(epoch)
        cached.set_epoch(epoch)
        one, other = direct[0].times or (), cached[0].times or ()
        offsets += [round(25 * abs(first - second)) for first, second in zip(one, other, strict=True)]
    assert 0 < max(offsets) <= bound
    assert bound <= FRAMES / NUM_FRAMES / 6


def test_a_training_sample_of_reduced_pictures_has_the_same_frames_crop_and_flip(
    rows: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    processor = make_processor(tiny_tokenizer, crop_scale=(0.5, 0.6))
    store = FrameStore(tmp_path, frames_per_video=FRAMES)
    direct = RetrievalDataset(rows, processor, training=True)
    cached = RetrievalDataset(rows, processor, training=True, frame_cache=store)
    for epoch in range(6):
        direct.set_epoch(epoch)
        cached.set_epoch(epoch)
        one, other = direct[epoch % NUM_VIDEOS], cached[epoch % NUM_VIDEOS]
        assert one.times == other.times
        close = (one.pictures - other.pictures).abs().mean().item()
        mirrored = (one.pictures - other.pictures.flip(-1)).abs().mean().item()
        assert close < 12  # two scalings blur; the same barcode at another place or mirrored is far off
        assert mirrored > 3 * close


def test_frames_carry_their_own_number_and_second_and_large_pictures_are_reduced(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", 50, size=(64, 96))
    source = FrameStore(tmp_path / "source", frames_per_video=11, resolution="source")
    reduced = FrameStore(tmp_path / "reduced", frames_per_video=11)
    stored = sorted({*uniform_indices(50, 11), *uniform_indices(50, NUM_FRAMES)})
    for store, shape in ((source, (64, 96)), (reduced, (40, 64))):
        reader = RetrievalDataset([{}], make_processor(tiny_tokenizer), training=False, frame_cache=store).reader
        for _ in range(2):
            video = reader.pictures.stored_frames(str(path), NUM_FRAMES, "video")
            assert video.indices.tolist() == stored
            assert video.pictures.shape == (len(stored), 3, *shape)
            frames = video.take([0, 1, 24, 26, 49])
            nearest = [min(stored, key=lambda index: (abs(index - wanted), index)) for wanted in (0, 1, 24, 26, 49)]
            assert frames.indices == nearest
            assert frames.times == pytest.approx([index / 25 for index in nearest])
            assert (frames.metadata.total_num_frames, frames.metadata.height, frames.metadata.width) == (50, 64, 96)
            if store is source:
                assert read_barcodes(frames.frames) == nearest
    assert (source.hits, source.misses) == (1, 1)


def test_the_nearest_stored_frame_is_the_earlier_of_two() -> None:
    video = StoredVideo(np.zeros((4, 3, 2, 2), np.uint8), np.array([0, 4, 10, 19]), [0.0] * 4, pictures().info)
    assert video.positions([0, 2, 3, 7, 8, 14, 15, 19]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_changed_video_is_decoded_again(processor: LFVilaProcessor, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, size=(64, 96))
    store = FrameStore(tmp_path / "store", resolution="source")
    reader = RetrievalDataset([{}], processor, training=False, frame_cache=store).reader.pictures
    for first in (0, 500):
        write_video(path, 40, size=(64, 96), first_number=first)
        for _ in range(2):
            assert (
                read_barcodes(torch.tensor(reader.stored_frames(str(path), NUM_FRAMES, "video").pictures))[0] == first
            )
    assert (store.hits, store.misses) == (2, 2)
    # Sampling, T and what may be missing at the end of a file decide about pixels too.
    for num_frames, rule, truncated in ((8, "video", False), (NUM_FRAMES, "clip", False), (NUM_FRAMES, "video", True)):
        processor.video_processor.accept_truncated = truncated
        reader.stored_frames(str(path), num_frames, rule)  # type: ignore[arg-type]  # one of the two rules
    assert (store.hits, store.misses, len(store)) == (2, 5, 4)


def test_a_video_that_changes_while_it_is_decoded_is_not_stored(
    processor: LFVilaProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", 40, size=(64, 96))
    store = FrameStore(tmp_path / "store")
    reader = RetrievalDataset([{}], processor, training=False, frame_cache=store).reader.pictures
    decode = reader._decode

    def change(*arguments: Any) -> StoredVideo:
        video = decode(*arguments)
        os.utime(path, (1000, 1000))
        return video

    monkeypatch.setattr(reader, "_decode", change)
    reader.stored_frames(str(path), NUM_FRAMES, "video")
    assert len(store) == 0


def test_a_video_that_cannot_be_used_is_an_error_and_leaves_nothing(processor: LFVilaProcessor, tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "store")
    reader = RetrievalDataset([{}], processor, training=False, frame_cache=store).reader.pictures
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(LFVilaVideoError, match=name):
            reader.stored_frames(str(tmp_path / name), NUM_FRAMES, "video")
    with pytest.raises(ValueError, match="files on this machine, expected a path, got 'http"):
        reader.stored_frames("http://example.org/a.mp4", NUM_FRAMES, "video")
    assert len(store) == 0


def test_pictures_cannot_be_stored_as_they_are_if_the_decoder_scales_them(
    rows: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    processor = make_processor(tiny_tokenizer, scale_in_decoder=True)
    with pytest.raises(ValueError, match="scale_in_decoder must be False"):
        RetrievalDataset(rows, processor, training=True, frame_cache=FrameStore(tmp_path, resolution="source"))
    sample = RetrievalDataset(rows, processor, training=True, frame_cache=FrameStore(tmp_path))[0]
    assert sample.pictures.shape == (NUM_FRAMES, 3, 32, 48)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_is_filled_ahead_and_a_second_time_nothing_is_decoded(
    rows: Any, clip_rows: Any, processor: LFVilaProcessor, tmp_path: Path, workers: int
) -> None:
    for make, given, count in ((RetrievalDataset, rows, NUM_VIDEOS), (PreTrainingDataset, clip_rows, 10)):
        for misses in (count, 0):
            store = FrameStore(tmp_path / make.__name__)
            dataset = make(given, processor, training=True, frame_cache=store)
            dataset.fill_frame_cache(num_workers=workers, progress=False)
            assert len(store) == count
            if not workers:
                assert store.misses == misses
        for index in range(len(given)):
            dataset[index]
        assert store.misses == 0
    with pytest.raises(ValueError, match="no frame store to fill"):
        RetrievalDataset(rows, processor, training=True).fill_frame_cache()


def test_loader_workers_share_a_store_that_they_fill(rows: Any, processor: LFVilaProcessor, tmp_path: Path) -> None:
    direct = RetrievalDataset(rows, processor, training=False, frame_cache=FrameStore(tmp_path / "other"))
    expected = [direct[index] for index in range(NUM_VIDEOS)]
    store = FrameStore(tmp_path / "store")
    dataset = RetrievalDataset(rows, processor, training=False, frame_cache=store)
    order = [*range(NUM_VIDEOS)] * 6
    samples = list(DataLoader(dataset, batch_size=1, collate_fn=one_sample, num_workers=2, sampler=order))
    for position, sample in zip(order, samples, strict=True):
        assert torch.equal(sample.pictures, expected[position].pictures)
    assert len(store) == NUM_VIDEOS


# -- entries ---------------------------------------------------------------------------------------------------------


def test_an_entry_belongs_to_a_path_its_file_and_the_settings(tmp_path: Path, video: str) -> None:
    store = FrameStore(tmp_path / "store")
    put(store, video, pictures(1))
    read = store.get(video, {"size": 1})
    assert read is not None and read.info == pictures().info
    assert (read.indices.tolist(), list(read.seconds)) == ([0, 10, 20], [0.0, 1.0, 2.0])
    assert found(FrameStore(tmp_path / "store"), video) == [1, 2, 3], "another run reads it"
    copied = pickle.loads(pickle.dumps(store))
    assert copied._map is None and found(copied, video) == [1, 2, 3]
    assert found(store, video, {"size": 2}) is None
    assert found(store, shutil.copy(video, tmp_path / "b.mp4")) is None
    os.utime(video, ns=(1, 1))
    assert found(store, video) is None
    put(store, video, pictures(7))
    assert found(store, video) == [7, 8, 9]
    Path(video).unlink()
    assert found(store, video) is None
    assert sorted(path.name for path in store.folder.iterdir()) == ["frames.u8", "index.jsonl", "lock"]


def _fill(folder: Path, video: str, first: int) -> None:
    store = FrameStore(folder)
    for number in range(20):
        put(store, video, pictures(first + number), {"number": first + number})


def test_processes_fill_one_store_at_the_same_time(tmp_path: Path, video: str) -> None:
    store = FrameStore(tmp_path / "store")
    context = multiprocessing.get_context("spawn" if not hasattr(os, "fork") else "fork")
    processes = [context.Process(target=_fill, args=(store.folder, video, first)) for first in (0, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(store) == 40
    for number in (*range(20), *range(100, 120)):
        assert found(store, video, {"number": number}) == [number, number + 1, number + 2]
    assert store.size() == os.path.getsize(store.folder / "frames.u8") == 40 * pictures().pictures.nbytes


def test_threads_fill_one_store_at_the_same_time(tmp_path: Path, video: str) -> None:
    store = FrameStore(tmp_path / "store")
    errors = []

    def fill(first: int) -> None:
        try:
            for number in range(first, first + 25):
                if found(store, video, {"number": number}) is None:
                    put(store, video, pictures(number), {"number": number})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 25, 50, 75)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    for one in (store, FrameStore(tmp_path / "store")):
        assert [found(one, video, {"number": n}) for n in range(100)] == [[n, n + 1, n + 2] for n in range(100)]


def test_a_video_that_two_processes_decode_is_stored_once(tmp_path: Path, video: str) -> None:
    stores = [FrameStore(tmp_path / "store") for _ in range(2)]
    for store in stores:
        put(store, video, pictures())
    assert [found(store, video) for store in stores] == [[0, 1, 2]] * 2
    assert stores[0].size() == pictures().pictures.nbytes


def test_a_folder_that_is_deleted_and_filled_again_is_read_anew(tmp_path: Path, video: str) -> None:
    old = FrameStore(tmp_path / "store")
    for number in range(9):
        put(old, video, pictures(number), {"number": number})
    shutil.rmtree(old.folder)
    new = FrameStore(tmp_path / "store")
    put(new, video, pictures(50, 100), {"number": 50})
    put(old, video, pictures(8), {"number": 8})
    for store in (old, new):
        assert found(store, video, {"number": 0}) is None
        assert found(store, video, {"number": 50}) == [*range(50, 150)]
        assert found(store, video, {"number": 8}) == [8, 9, 10]
        assert store.size() == 103 * 3 * 8 * 10


@pytest.mark.parametrize("change", ["folder deleted", "frames deleted", "made anew by another version"])
def test_a_store_that_goes_away_is_one_warning_and_nothing_is_overwritten(
    tmp_path: Path, video: str, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FrameStore(tmp_path / "store")
    put(store, video, pictures())
    kept = {}
    if change == "folder deleted":
        shutil.rmtree(store.folder)
    elif change == "frames deleted":
        (store.folder / "frames.u8").unlink()
        with (store.folder / "index.jsonl").open("a") as file:
            file.write("a damaged line\n")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(frame_store, "HEADER", b'{"frame_store": 999}')
            put(FrameStore(tmp_path / "store"), video, pictures(5, 100))
        kept = {path: path.read_bytes() for path in store.folder.iterdir()}
    caplog.clear()
    for number in range(3):
        assert found(store, video, {"number": number}) is None
        put(store, video, pictures(), {"number": number})
    assert caplog.text.count("cannot be written") == 1
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.parametrize("damage", ["a byte of a frame", "frames are cut off", "no frames", "the line"])
def test_a_damaged_entry_is_noticed_and_made_again(
    tmp_path: Path, video: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(FrameStore(tmp_path / "store"), video, pictures())
    frames, index = tmp_path / "store" / "frames.u8", tmp_path / "store" / "index.jsonl"
    if damage == "a byte of a frame":
        content = bytearray(frames.read_bytes())
        content[500] ^= 1
        frames.write_bytes(content)
    elif damage == "the line":
        index.write_bytes(index.read_bytes().replace(b'"crc"', b'"cru"'))
    else:
        os.truncate(frames, 100 if damage == "frames are cut off" else 0)
    store = FrameStore(tmp_path / "store")
    assert found(store, video) is None
    assert "damaged" in caplog.text
    put(store, video, pictures())
    assert found(store, video) == found(FrameStore(tmp_path / "store"), video) == [0, 1, 2]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path, video: str) -> None:
    """Pictures without a line, and half a line."""
    store = FrameStore(tmp_path / "store")
    put(store, video, pictures())
    frames, index = tmp_path / "store" / "frames.u8", tmp_path / "store" / "index.jsonl"
    line = index.read_bytes().splitlines(keepends=True)[-1]
    with index.open("ab") as file:
        file.write(line[: len(line) // 2])
    with frames.open("ab") as file:
        file.write(bytes(1000))
    put(FrameStore(tmp_path / "store"), video, pictures(5), {"size": 2})
    for one in (store, FrameStore(tmp_path / "store")):
        assert found(one, video) == [0, 1, 2]
        assert found(one, video, {"size": 2}) == [5, 6, 7]
    assert frames.stat().st_size == 2 * pictures().pictures.nbytes
    assert len(index.read_bytes().splitlines()) == 3


def test_a_store_of_another_version_is_made_anew_in_one_line(
    tmp_path: Path, video: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FrameStore(tmp_path / "store")
    put(store, video, pictures())
    read = store.get(video, {"size": 1})
    index = store.folder / "index.jsonl"
    index.write_bytes(index.read_bytes().replace(frame_store.HEADER, b'{"frame_store": 999}'))
    other = FrameStore(tmp_path / "store")
    assert [record.getMessage() for record in caplog.records] == [
        f"frame store {store.folder} is of another version: it is made anew"
    ]
    assert (len(other), found(other, video)) == (0, None)
    assert read is not None and read.pictures.max() == 2, "a process that has mapped the old one reads on"
    put(other, video, pictures(3))
    assert json.loads(index.read_bytes().splitlines()[0]) == {"frame_store": frame_store.FORMAT}
    assert found(other, video) == [3, 4, 5]


# -- disks -----------------------------------------------------------------------------------------------------------


def test_a_full_store_takes_nothing_more_and_says_so_once(
    tmp_path: Path, video: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FrameStore(tmp_path / "store", max_bytes=int(2.5 * pictures().pictures.nbytes))
    for number in range(5):
        put(store, video, pictures(number), {"number": number})
    assert [found(store, video, {"number": number}) for number in range(5)] == [[0, 1, 2], [1, 2, 3], None, None, None]
    assert len(caplog.records) == 1 and "has reached max_bytes=1800" in caplog.text


@pytest.mark.parametrize("full", ["frames.u8", "index.jsonl"])
def test_a_full_disk_is_one_warning_and_what_was_stored_stays(
    tmp_path: Path, video: str, full: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FrameStore(tmp_path / "store")
    put(store, video, pictures())
    write = frame_store._write_at

    def disk_is_full(path: Path, offset: int, data: Any) -> None:
        if path.name == full:
            write(path, offset, memoryview(data).cast("B")[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, offset, data)

    monkeypatch.setattr(frame_store, "_write_at", disk_is_full)
    for number in range(3):
        put(store, video, pictures(), {"number": number})
    monkeypatch.undo()
    assert len(caplog.records) == 1 and "cannot be written (disk is full)" in caplog.text
    assert found(store, video) == [0, 1, 2]
    assert (store.folder / "frames.u8").stat().st_size == pictures().pictures.nbytes
    later = FrameStore(tmp_path / "store")
    put(later, video, pictures(4), {"number": 4})
    assert found(later, video, {"number": 4}) == [4, 5, 6]


def test_without_write_permission_decoding_goes_on(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    dataset = RetrievalDataset(rows, processor, training=False, frame_cache=FrameStore(tmp_path / "file" / "store"))
    plain = RetrievalDataset(rows, processor, training=False)
    assert [(dataset[0].pictures - plain[0].pictures).abs().max().item() <= 0.5 + 1e-3 for _ in range(2)] == [True] * 2
    assert len(caplog.records) == 1 and "cannot be written (Not a directory)" in caplog.text


def test_a_store_that_may_only_be_read_is_read(
    tmp_path: Path, video: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(FrameStore(tmp_path / "store"), video, pictures())

    def forbidden(*arguments: Any) -> None:  # permissions do not hold back a root user
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", forbidden)
    store = FrameStore(tmp_path / "store")
    assert found(store, video) == [0, 1, 2]
    put(store, video, pictures(4), {"number": 4})
    assert found(store, video, {"number": 4}) is None
    assert len(caplog.records) == 1 and "cannot be written (Permission denied)" in caplog.text


def test_an_index_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").write_text('{"name": "mine"}\n')
    with pytest.raises(ValueError, match=r"index\.jsonl is not of a frame store\. Give the store another folder"):
        FrameStore(tmp_path)
    assert (tmp_path / "index.jsonl").read_text() == '{"name": "mine"}\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes must be at least 1, got 0"),
        ({"frames_per_video": 1}, "frames_per_video must be at least 2, got 1"),
        ({"resolution": "tiny"}, "got 'tiny'"),
    ],
)
def test_settings_that_make_no_sense_are_errors(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameStore(tmp_path, **options)

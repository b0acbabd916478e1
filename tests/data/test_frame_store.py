"""The frame cache: which frames and pixels come out of it, and what makes, keeps, damages and removes an entry.

Exactness is held against direct decoding through the data sets. Frames are told by their barcodes (`video_files`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import NUM_FRAMES, make_processor, write_pretraining, write_retrieval
from torch.utils.data import DataLoader
from video_files import read_barcodes, write_video

from lfvila_hf.data import frame_cache
from lfvila_hf.data.annotations import load_pretraining, load_retrieval
from lfvila_hf.data.datasets import PreTrainingDataset, RetrievalDataset, VideoTextSample
from lfvila_hf.data.frame_cache import CachedVideo, FrameCache
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoInfo, uniform_indices

NUM_VIDEOS = 4
FRAMES = 120  # more than the 4 T = 16 that are held


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


def read(cache: FrameCache, path: Path | str, wanted: list[int] | None = None, **options: Any) -> Any:
    """Frames of a file as they are, without a data set."""
    settings: dict[str, Any] = {"num_frames": NUM_FRAMES, "rule": "video", "reduced_size": (1000, 1000)}
    return cache.read(
        str(path),
        lambda count: uniform_indices(count, NUM_FRAMES) if wanted is None else wanted,
        resize=lambda picture, size: torch.nn.functional.interpolate(picture[None], size)[0],
        **{**settings, **options},
    )


def one_sample(samples: list[VideoTextSample]) -> VideoTextSample:
    return samples[0]


# -- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["retrieval", "pretraining"])
@pytest.mark.parametrize("training", [False, True])
def test_pictures_kept_as_they_are_give_the_very_samples_of_direct_decoding(
    rows: Any, clip_rows: Any, processor: LFVilaProcessor, tmp_path: Path, kind: str, training: bool
) -> None:
    # All frames of these short videos are held, so that jittered training is exact as well.
    cache = FrameCache(tmp_path, resolution="source", frames_per_video=FRAMES)
    make, given = (RetrievalDataset, rows) if kind == "retrieval" else (PreTrainingDataset, clip_rows)
    direct, cached = (make(given, processor, training=training, seed=3, frame_cache=one) for one in (None, cache))
    for epoch in range(3):
        direct.set_epoch(epoch)
        cached.set_epoch(epoch)
        for index in range(len(given)):
            one, other = direct[index], cached[index]
            assert torch.equal(one.pictures, other.pictures)
            assert one.times == other.times
            assert one.duration == other.duration
            assert one.sentences == other.sentences
    assert cache.hits >= cache.misses > 0


@pytest.mark.parametrize("resolution", ["source", "reduced"])
def test_evaluation_takes_the_very_frames_of_direct_decoding_of_a_long_video(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path, resolution: Any
) -> None:
    cache = FrameCache(tmp_path, resolution=resolution, frames_per_video=6)  # a grid without the evaluation's frames
    direct = RetrievalDataset(rows, processor, training=False)
    cached = RetrievalDataset(rows, processor, training=False, frame_cache=cache)
    grid = set(uniform_indices(FRAMES, 6))
    assert not set(uniform_indices(FRAMES, NUM_FRAMES)) <= grid
    for index in [*range(NUM_VIDEOS), *range(NUM_VIDEOS)]:
        one, other = direct[index], cached[index]
        assert one.times == other.times
        difference = (one.pictures - other.pictures).abs().max().item()
        # Held pictures are rounded to whole grey levels; a mean of roundings is no larger than the largest.
        assert difference == 0 if resolution == "source" else 0 < difference <= 0.5 + 1e-3
    assert (cache.hits, cache.misses) == (NUM_VIDEOS, NUM_VIDEOS)


def test_jittered_frames_of_a_long_video_are_the_nearest_that_are_held(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path
) -> None:
    cache = FrameCache(tmp_path)
    direct = RetrievalDataset(rows, processor, training=True)
    cached = RetrievalDataset(rows, processor, training=True, frame_cache=cache)
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
    cache = FrameCache(tmp_path, frames_per_video=FRAMES)
    direct = RetrievalDataset(rows, processor, training=True)
    cached = RetrievalDataset(rows, processor, training=True, frame_cache=cache)
    for epoch in range(6):
        direct.set_epoch(epoch)
        cached.set_epoch(epoch)
        one, other = direct[epoch % NUM_VIDEOS], cached[epoch % NUM_VIDEOS]
        assert one.times == other.times
        close = (one.pictures - other.pictures).abs().mean().item()
        mirrored = (one.pictures - other.pictures.flip(-1)).abs().mean().item()
        assert close < 12  # two scalings blur; the same barcode at another place or mirrored is far off
        assert mirrored > 3 * close


def test_frames_carry_their_own_number_and_second(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 50, size=(64, 96))
    cache = FrameCache(tmp_path / "cache", frames_per_video=11, resolution="source")
    held = sorted({*uniform_indices(50, 11), *uniform_indices(50, NUM_FRAMES)})
    for _ in range(2):
        frames = read(cache, path, [0, 1, 24, 26, 49])
        nearest = [min(held, key=lambda index: (abs(index - wanted), index)) for wanted in (0, 1, 24, 26, 49)]
        assert frames.indices == nearest == read_barcodes(frames.frames)
        assert frames.times == pytest.approx([index / 25 for index in nearest])
        assert frames.metadata.total_num_frames == 50
        assert (frames.metadata.height, frames.metadata.width) == (64, 96)


def test_the_nearest_held_frame_is_the_earlier_of_two() -> None:
    info = VideoInfo("x", 20, 1.0, 20.0, 4, 4)
    pictures = np.zeros((4, 3, 2, 2), dtype=np.uint8)
    video = CachedVideo(pictures, np.array([0, 4, 10, 19]), [0.0] * 4, info)
    assert video.positions([0, 2, 3, 7, 8, 14, 15, 19]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_large_pictures_are_held_reduced_and_small_ones_as_they_are(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5, size=(64, 96))
    cache = FrameCache(tmp_path / "cache")
    assert read(cache, path, reduced_size=(20, 30)).frames.shape == (NUM_FRAMES, 3, 20, 30)
    assert read(cache, path, reduced_size=(20, 30)).frames.dtype == torch.uint8
    assert read(cache, path, reduced_size=(64, 97)).frames.shape == (NUM_FRAMES, 3, 64, 96)
    assert (cache.hits, cache.misses) == (1, 2)


# -- entries ---------------------------------------------------------------------------------------------------------


def test_a_changed_file_or_setting_is_another_entry(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40, size=(64, 96))
    cache = FrameCache(tmp_path / "cache")
    assert read_barcodes(read(cache, path).frames)[0] == 0
    write_video(path, 40, size=(64, 96), first_number=500)
    assert read_barcodes(read(cache, path).frames)[0] == 500
    for change in ({"num_frames": 8}, {"rule": "clip"}, {"accept_truncated": True}, {"reduced_size": (32, 48)}):
        read(cache, path, **change)
    read(FrameCache(tmp_path / "cache", frames_per_video=20), path)
    assert len(cache) == 7
    assert cache.hits == 0


def test_a_file_of_the_same_content_is_the_same_entry_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", 40, size=(64, 96))
    cache = FrameCache(tmp_path / "cache")
    first = read(cache, path)
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(path, tmp_path / "elsewhere" / "b.mp4")
    os.utime(path, (1000, 1000))
    for other in (copy, path):
        again = read(cache, other)
        assert torch.equal(again.frames, first.frames)
        assert again.metadata.source == str(other)
    assert (cache.hits, cache.misses, len(cache)) == (2, 1, 1)

    def no_streams(*data: bytes) -> Any:
        assert data, "the file was hashed again"
        return hashlib.new("sha256", *data)

    monkeypatch.setattr(frame_cache, "hashlib", SimpleNamespace(sha256=no_streams))
    assert torch.equal(read(cache, copy).frames, first.frames)


def test_an_entry_is_a_numpy_file_that_can_be_mapped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 9, size=(64, 96))
    cache = FrameCache(tmp_path / "cache")
    read(cache, path)
    (entry,) = (tmp_path / "cache").glob("*/*.npy")
    pictures = np.load(entry, mmap_mode="r")
    assert pictures.shape == (9, 3, 64, 96)
    assert read_barcodes(torch.tensor(np.array(pictures))) == list(range(9))
    described = json.loads(entry.read_bytes()[pictures.offset + pictures.nbytes :])
    assert described["indices"] == list(range(9))
    assert cache.size() == entry.stat().st_size


@pytest.mark.parametrize("damage", ["a byte of a frame", "the end", "the beginning", "the description", "all"])
def test_a_damaged_entry_is_noticed_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.mp4", 9, size=(64, 96))
    cache = FrameCache(tmp_path / "cache")
    expected = read(cache, path).frames
    (entry,) = (tmp_path / "cache").glob("*/*.npy")
    content = bytearray(entry.read_bytes())
    if damage == "a byte of a frame":
        content[500] ^= 1
    elif damage == "the end":
        del content[-200:]
    elif damage == "the beginning":
        content[:10] = bytes(10)
    elif damage == "the description":
        content[-20:] = b"{}" * 10
    else:
        content.clear()
    entry.write_bytes(content)
    assert torch.equal(read(cache, path).frames, expected)
    assert "the frame cache is damaged" in caplog.text
    assert (cache.hits, cache.misses) == (0, 2)
    assert torch.equal(read(cache, path).frames, expected)
    assert cache.hits == 1


def test_a_video_that_cannot_be_used_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(LFVilaVideoError, match=name):
            read(cache, tmp_path / name)
    assert len(cache) == 0
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def test_only_files_of_this_machine_are_held(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    with pytest.raises(ValueError, match="files on this machine, expected a path, got 'http"):
        read(cache, "http://example.org/a.mp4")
    with pytest.raises(ValueError, match="expected a path"):
        cache.read(b"bytes", list, num_frames=1, rule="video", reduced_size=(1, 1), resize=lambda one, _: one)


# -- disk ------------------------------------------------------------------------------------------------------------


def test_disk_is_bounded_and_what_was_unused_for_longest_goes_first(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{number}.mp4", 9, size=(64, 96), first_number=number) for number in range(5)]
    probe = FrameCache(tmp_path / "probe")
    read(probe, paths[0])
    entry_size = probe.size()
    cache = FrameCache(tmp_path / "cache", max_bytes=int(3.5 * entry_size))
    entries: list[Path] = []
    for number in range(3):
        read(cache, paths[number])
        entries += [entry for entry in cache.folder.glob("*/*.npy") if entry not in entries]
        os.utime(entries[-1], (1000 + number, 1000 + number))
    read(cache, paths[0])  # used again: now the youngest
    assert cache.hits == 1
    read(cache, paths[3])
    assert cache.size() <= cache.max_bytes
    assert entries[0].exists()
    assert not entries[1].exists()
    read(cache, paths[0])
    assert cache.hits == 2


def test_a_video_larger_than_the_cache_is_decoded_every_time_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.mp4", 9, size=(64, 96))
    cache = FrameCache(tmp_path / "cache", max_bytes=1000)
    assert torch.equal(read(cache, path).frames, read(cache, path).frames)
    assert (cache.hits, cache.misses, cache.size()) == (0, 2, 0)
    assert len([record for record in caplog.records if "max_bytes=1000" in record.getMessage()]) == 1


def test_a_count_of_bytes_that_is_wrong_or_gone_is_made_again(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{number}.mp4", 9, size=(64, 96), first_number=number) for number in range(3)]
    cache = FrameCache(tmp_path / "cache")
    read(cache, paths[0])
    (cache.folder / "bytes_in_use").write_text("nonsense")
    read(cache, paths[1])
    assert int((cache.folder / "bytes_in_use").read_text()) == cache.size()
    (cache.folder / "bytes_in_use").write_text(str(cache.max_bytes))  # too high: nothing has to go for it
    read(cache, paths[2])
    assert int((cache.folder / "bytes_in_use").read_text()) == cache.size()
    assert len(cache) == 3


def test_files_left_by_a_process_that_died_go_when_room_is_made(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{number}.mp4", 9, size=(64, 96), first_number=number) for number in range(2)]
    cache = FrameCache(tmp_path / "cache")
    old, young = (cache.folder / f"{name}.unfinished" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (1000, 1000))
    read(cache, paths[0])
    tight = FrameCache(tmp_path / "cache", max_bytes=int(cache.size() * 1.5))
    read(tight, paths[1])
    assert not old.exists()
    assert young.exists()
    assert len(cache) == 1


@pytest.mark.parametrize("entries", [1.6, 100])
def test_processes_share_a_cache_and_its_bound(
    rows: Any, processor: LFVilaProcessor, tmp_path: Path, entries: float
) -> None:
    probe = FrameCache(tmp_path / "probe")
    direct = RetrievalDataset(rows, processor, training=False, frame_cache=probe)
    expected = [direct[index] for index in range(NUM_VIDEOS)]
    bound = int(entries * probe.size() / NUM_VIDEOS)
    cache = FrameCache(tmp_path / "cache", max_bytes=bound)
    dataset = RetrievalDataset(rows, processor, training=False, frame_cache=cache)
    loader = DataLoader(
        dataset, batch_size=1, collate_fn=one_sample, num_workers=2, sampler=[*range(NUM_VIDEOS)] * 6, prefetch_factor=4
    )
    count = 0
    for position, sample in enumerate(loader):
        assert torch.equal(sample.pictures, expected[position % NUM_VIDEOS].pictures)
        assert cache.size() <= bound
        count += 1
    assert count == 6 * NUM_VIDEOS
    assert len(cache) == min(int(entries), NUM_VIDEOS)
    assert not list(cache.folder.glob("*.unfinished"))


def test_another_run_reads_what_an_earlier_one_decoded(
    corpus: Path, processor: LFVilaProcessor, tmp_path: Path
) -> None:
    shutil.copytree(corpus / "videos", tmp_path / "videos")
    rows = load_retrieval(corpus / "retrieval_0.jsonl", tmp_path / "videos")
    first, second = (FrameCache(tmp_path / "cache") for _ in range(2))
    one, other = (RetrievalDataset(rows, processor, training=False, frame_cache=cache)[1] for cache in (first, second))
    assert torch.equal(one.pictures, other.pictures)
    assert (first.misses, second.misses, second.hits) == (1, 0, 1)


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
        FrameCache(tmp_path, **options)


def test_pictures_cannot_be_kept_as_they_are_where_the_decoder_scales_them(
    rows: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    processor = make_processor(tiny_tokenizer, scale_in_decoder=True)
    with pytest.raises(ValueError, match="scale_in_decoder must be False"):
        RetrievalDataset(rows, processor, training=True, frame_cache=FrameCache(tmp_path, resolution="source"))
    sample = RetrievalDataset(rows, processor, training=True, frame_cache=FrameCache(tmp_path))[0]
    assert sample.pictures.shape == (NUM_FRAMES, 3, 32, 48)

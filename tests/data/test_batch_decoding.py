"""Many videos at once: order, the bound on what is held, the policy for broken ones, stopping early, a busy caller.

What one read gives is tested in `test_video_reading_lfvila.py`, the policy itself in `test_skipping.py`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from video_files import read_barcodes, write_video

from lfvila_hf.data import batch_decoding
from lfvila_hf.data.batch_decoding import decode_videos
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoFrames, close_decoder_processes, read_frames
from lfvila_hf.video_sources_lfvila import Deadline


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    # of unequal cost, so that later ones are ready before earlier ones
    return [write_video(folder / f"{n}.mp4", 60 - 9 * n, first_number=100 * n) for n in range(6)]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    assert sys.getswitchinterval() == interval
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lfvila-decoding")]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_frames_come_in_the_order_of_the_sources(videos: list[Path], workers: int) -> None:
    found = list(decode_videos(videos, num_workers=workers, num_frames=4))
    assert [position for position, _ in found] == list(range(6))
    for position, frames in found:
        alone = read_frames(videos[position], num_frames=4)
        assert torch.equal(frames.frames, alone.frames)
        assert read_barcodes(frames.frames)[0] == 100 * position


def test_sources_of_every_kind_may_be_mixed_and_endless(videos: list[Path]) -> None:
    def sources() -> Iterator[Any]:
        while True:
            yield videos[1]
            yield videos[2].read_bytes()
            yield [videos[3], videos[4]]

    stream = decode_videos(sources(), num_workers=2, num_frames=2)
    firsts = [read_barcodes(next(stream)[1].frames)[0] for _ in range(7)]
    assert firsts == [100, 200, 300, 100, 200, 300, 100]
    stream.close()


def test_no_more_is_read_ahead_than_workers_and_prefetch(videos: list[Path]) -> None:
    asked: list[int] = []

    def sources() -> Iterator[Path]:
        for number in range(40):
            asked.append(number)
            yield videos[number % 6]

    for workers, prefetch in ((1, 0), (2, 3)):
        asked.clear()
        for position, _ in decode_videos(sources(), num_workers=workers, prefetch=prefetch, indices=[0]):
            assert len(asked) <= position + workers + prefetch
        assert len(asked) == 40


def test_several_videos_are_decoded_at_the_same_time_and_no_more_than_workers() -> None:
    lock, meeting = threading.Lock(), threading.Barrier(3, timeout=20)
    running, most = 0, 0

    def read(source: int) -> VideoFrames:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait()  # is only passed where three are here at once
        with lock:
            running -= 1
        return read_frames(torch.full((1, 3, 2, 2), source, dtype=torch.uint8))

    values = [int(frames.frames[0, 0, 0, 0]) for _, frames in decode_videos(range(9), num_workers=3, read=read)]
    assert values == list(range(9))
    assert most == 3


def test_raise_names_the_video_and_stops_the_others(videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    found = []
    with pytest.raises(LFVilaVideoError, match="text.mp4"):
        for position, _ in decode_videos([videos[0], tmp_path / "text.mp4", videos[1]], num_workers=2, num_frames=2):
            found.append(position)
    assert found == [0]


def test_skip_leaves_broken_videos_out_reports_them_and_has_a_ceiling(videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    mixed = [videos[0], tmp_path / "text.mp4", videos[1], tmp_path / "absent.mp4", videos[2]]
    skips = SkipLog("skip", max_skip_fraction=0.4)
    assert [position for position, _ in decode_videos(mixed, skips=skips, num_workers=2, num_frames=2)] == [0, 2, 4]
    report = skips.report()
    assert [(one.sample, one.place) for one in report.skipped] == [
        (str(tmp_path / "text.mp4"), "video 1"),
        (str(tmp_path / "absent.mp4"), "video 3"),
    ]
    assert report.total == 5
    with pytest.raises(ValueError, match="2 of 5 samples could not be used"):
        list(decode_videos(mixed, skips=SkipLog("skip", max_skip_fraction=0.3), num_frames=2))


def test_what_is_not_the_videos_fault_is_never_skipped(videos: list[Path]) -> None:
    skips = SkipLog("skip", max_skip_fraction=1.0)
    with pytest.raises(ValueError, match="frame 99 was asked for"):
        list(decode_videos(videos, skips=skips, indices=[99]))
    assert len(skips.report()) == 0
    with pytest.raises(ValueError, match="num_workers must be at least 1 and prefetch at least 0, got 0 and 2"):
        decode_videos(videos, num_workers=0)
    assert list(decode_videos([])) == []


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_going_away_stops_what_is_being_decoded(videos: list[Path], isolated: bool) -> None:
    begun = threading.Event()

    def slow(picture: torch.Tensor) -> torch.Tensor:
        begun.set()
        time.sleep(0.01)
        return picture

    stream = decode_videos([videos[5], *[videos[0]] * 3], num_workers=2, prefetch=0, transform=slow, isolated=isolated)
    next(stream)
    assert begun.is_set()
    stream.close()  # the fixture sees that no thread is left
    close_decoder_processes()


def test_a_deadline_ends_when_nobody_waits() -> None:
    stop = threading.Event()
    token = batch_decoding.STOP.set(stop)
    deadline = Deadline("a.mp4", None)
    batch_decoding.STOP.reset(token)
    deadline.check()
    stop.set()
    with pytest.raises(LFVilaVideoError, match="a.mp4: reading was stopped"):
        deadline.check()
    Deadline("b.mp4", None).check()


def test_a_busy_caller_does_not_bring_decoding_to_a_halt(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", 1500, gop=100)

    def seconds(busy: bool, **options: Any) -> float:
        """Of decoding one video, beside a thread that is busy in pure Python or not."""
        done = threading.Event()

        def spin() -> None:
            while not done.is_set():
                sum(range(100))

        thread = threading.Thread(target=spin)
        if busy:
            thread.start()
        start = time.perf_counter()
        try:
            ((_, frames),) = decode_videos([path], num_workers=1, num_frames=16, **options)
        finally:
            done.set()
        taken = time.perf_counter() - start
        if busy:
            thread.join()
        assert len(frames) == 16
        return taken

    alone = min(seconds(False) for _ in range(3))
    beside = min(seconds(True) for _ in range(2))
    assert beside < 15 * alone, f"{beside:.2f} s beside a busy thread, {alone:.2f} s alone"


def test_pools_side_by_side_leave_the_switch_interval_as_it_was(videos: list[Path]) -> None:
    before = sys.getswitchinterval()
    one, two = (decode_videos(videos, num_workers=1, indices=[0]) for _ in range(2))
    next(one)
    assert sys.getswitchinterval() < before
    next(two)
    one.close()
    assert sys.getswitchinterval() < before
    two.close()
    assert sys.getswitchinterval() == pytest.approx(before)

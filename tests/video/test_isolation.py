"""Decoding in a process of its own: the same frames, and no harm from files that crash, hang or eat memory.

The child is made to misbehave through its own process number or through what it is asked. A sample of mutated files
goes through it; `fuzz_videos.py` runs many more.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fuzz_videos import LIMITS, SEEDS, fuzz
from video_files import read_barcodes, write_video

from lfvila_hf.video import isolation
from lfvila_hf.video_reading_lfvila import (
    LFVilaVideoError,
    VideoLimits,
    close_decoder_processes,
    read_clips,
    read_frames,
    uniform_indices,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="decoding in a process of its own needs a POSIX system")


@pytest.fixture(autouse=True, scope="module")
def _no_children_left() -> Iterator[None]:
    yield
    close_decoder_processes()


@pytest.fixture
def fresh_pool() -> None:
    close_decoder_processes()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", 40)


def _idle() -> list[isolation.DecoderProcess]:
    return isolation._POOL._idle


def test_the_frames_are_the_same_as_without(video: Path) -> None:
    for source in (video, video.read_bytes(), video.open("rb")):
        here = read_frames(source, num_frames=6)
        there = read_frames(source, num_frames=6, isolated=True)
        assert torch.equal(here.frames, there.frames)
        assert read_barcodes(there.frames) == uniform_indices(40, 6)
        assert (here.times, here.indices, here.decoded_frames) == (there.times, there.indices, there.decoded_frames)
        assert here.metadata == there.metadata


def test_repeats_order_transforms_and_jitter_survive_the_way(video: Path) -> None:
    read = read_frames(video, indices=[30, 2, 30, 5], isolated=True)
    assert read_barcodes(read.frames) == [30, 2, 30, 5]
    small = read_frames(video, num_frames=4, transform=lambda picture: picture[:, ::2, ::2].float(), isolated=True)
    assert (tuple(small.frames.shape), small.frames.dtype) == ((4, 3, 32, 48), torch.float32)
    for seed in range(3):
        here, there = (
            read_frames(
                video,
                num_frames=4,
                sampling="jittered",
                generator=torch.Generator().manual_seed(seed),
                isolated=isolated,
            )
            for isolated in (False, True)
        )
        assert here.indices == there.indices
    assert read_barcodes(read_clips([video, video], num_frames=4, isolated=True).frames) == [0, 20, 0, 20]


@pytest.mark.usefixtures("fresh_pool")
def test_one_child_serves_many_videos_and_threads_get_their_own(video: Path) -> None:
    read_frames(video, num_frames=2, isolated=True)
    (first,) = _idle()
    read_frames(video, num_frames=2, isolated=True)
    assert _idle() == [first]
    with ThreadPoolExecutor(2) as pool:
        reads = list(pool.map(lambda count: read_frames(video, num_frames=count, isolated=True), [3, 4, 5, 6]))
    assert [len(read) for read in reads] == [3, 4, 5, 6]
    assert 1 <= len(_idle()) <= 2


def test_errors_of_the_video_and_of_the_caller_keep_their_kind(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 100)
    with pytest.raises(LFVilaVideoError, match="text.mp4: no video data"):
        read_frames(tmp_path / "text.mp4", num_frames=2, isolated=True)
    with pytest.raises(ValueError, match="frame 40 was asked for") as caught:
        read_frames(video, indices=[40], isolated=True)
    assert not isinstance(caught.value, LFVilaVideoError)

    def fail(picture: torch.Tensor) -> torch.Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        read_frames(video, num_frames=2, transform=fail, isolated=True)
    assert read_barcodes(read_frames(video, indices=[7], isolated=True).frames) == [7]


@pytest.mark.usefixtures("fresh_pool")
def test_a_child_knows_no_tokens(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read_frames(video, num_frames=2, isolated=True)
    (child,) = _idle()
    assert b"hf_secret" not in Path(f"/proc/{child.pid}/environ").read_bytes()


@pytest.mark.usefixtures("fresh_pool")
def test_a_crash_is_the_one_error_and_the_next_video_is_read(video: Path) -> None:
    read_frames(video, num_frames=2, isolated=True)
    (child,) = _idle()
    killer = threading.Timer(0.3, os.kill, (child.pid, signal.SIGSEGV))
    os.kill(child.pid, signal.SIGSTOP)
    killer.start()
    os_continue = threading.Timer(0.4, _continue, (child.pid,))
    os_continue.start()
    with pytest.raises(LFVilaVideoError, match="a.mp4: the decoder process died \\(signal SIGSEGV\\)"):
        read_frames(video, num_frames=2, isolated=True)
    assert read_barcodes(read_frames(video, indices=[3], isolated=True).frames) == [3]


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


@pytest.mark.usefixtures("fresh_pool")
def test_a_hang_ends_at_the_limit(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "GRACE", 0.5)
    limits = VideoLimits(max_seconds=0.5)
    read_frames(video, num_frames=2, isolated=True, limits=limits)
    (child,) = _idle()
    os.kill(child.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(LFVilaVideoError, match="did not answer for 1 s and was ended"):
        read_frames(video, num_frames=2, isolated=True, limits=limits)
    assert time.monotonic() - start < 4
    assert not child.alive
    assert len(read_frames(video, num_frames=2, isolated=True, limits=limits)) == 2


def test_memory_is_limited_in_the_child_only(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", 3, size=(1088, 1920), options={"preset": "ultrafast"})
    with pytest.raises(LFVilaVideoError, match="memory|died|decoded"):
        read_frames(path, isolated=True, limits=VideoLimits(max_memory_bytes=8 * 2**20))
    assert len(read_frames(path, isolated=True)) == 3


@pytest.mark.parametrize(
    "answers",
    [
        [b"not json"],
        [b'{"kind": "unheard of"}'],
        [b'{"kind": "picture", "shape": [3, 100000, 100000]}'],
        [b'{"kind": "picture", "shape": [3, 2, 2]}', b"123"],
        [b'{"kind": "picture", "shape": ["3", 2, 2]}'],
        [b'{"kind": "error", "type": "SystemExit", "message": ""}'],
        [b'{"kind": "result", "order": [5], "times": [0], "indices": [0], "metadata": {}, "decoded_frames": 1}'],
        [
            b'{"kind": "picture", "shape": [3, 1, 1]}',
            b"123",
            b'{"kind": "result", "order": [0], "times": [0], "indices": [0], "decoded_frames": 1, "metadata": {'
            b'"source": "", "total_num_frames": 2, "duration": Infinity, "fps": 1, "width": 1, "height": 1, "notes": []'
            b"}}",
        ],
        [b"[" * 100000],
    ],
)
@pytest.mark.usefixtures("fresh_pool")
def test_a_child_that_lies_is_not_believed(video: Path, answers: list[bytes]) -> None:
    import socket
    from multiprocessing.connection import Connection

    read_frames(video, num_frames=2, isolated=True)
    (child,) = _idle()
    ours, theirs = socket.socketpair()
    child._connection = Connection(ours.detach())
    liar = Connection(theirs.detach())
    for answer in answers:
        liar.send_bytes(answer)
    with pytest.raises(LFVilaVideoError, match="no proper answer"):
        read_frames(video, num_frames=2, isolated=True)
    liar.close()


# Mutated files.


def test_a_few_mutated_files_give_frames_or_the_one_error(tmp_path: Path) -> None:
    outcome = fuzz(tmp_path, range(10_000, 10_066))
    assert not outcome.escaped, outcome.escaped
    assert min(outcome.total("frames"), outcome.total("error")) > 10


@pytest.mark.slow
def test_mutated_files_give_frames_or_the_one_error(tmp_path: Path) -> None:
    outcome = fuzz(tmp_path, range(500))
    assert not outcome.escaped, outcome.escaped
    assert outcome.total("frames") > 50
    assert outcome.total("error") > 50
    assert sum(sum(counts.values()) for counts in outcome.counts.values()) == 500
    assert len(outcome.counts) == len(SEEDS) + 1 >= 9, "at least eight whole files of other containers and codecs"
    # The cap is on what is added to the address space of a loaded interpreter, which has about 300 MiB resident.
    assert LIMITS.max_memory_bytes is not None
    assert outcome.peak_child < LIMITS.max_memory_bytes / 2**20 + 500
    assert outcome.peak_growth < 200

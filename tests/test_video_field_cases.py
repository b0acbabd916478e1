"""Kinds of real files that once gave wrong frames, wrong seconds or a silent loss: one test a kind, on small files."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from video_files import assert_sequential, barcode_picture, read_barcodes, sequential_frames, write_video

from lfvila_hf.video_decoding_lfvila import VideoSession
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, probe_video, read_frames

REQUESTS: tuple[dict[str, Any], ...] = ({"indices": [0]}, {"num_frames": 8}, {}, {"num_frames": 8, "num_threads": 2})


def _same_answer(path: Path, **options: Any) -> Any:
    """Read a video in several ways; what is said of it must be the same, first read or not."""
    answers = []
    for source in (path, path.read_bytes()):
        for request in REQUESTS:
            info = read_frames(source, **request, **options).metadata
            answers.append((info.total_num_frames, info.duration, info.notes))
    assert len(set(answers)) == 1, answers
    return info


def test_side_data_of_an_unknown_kind_is_no_obstacle(tmp_path: Path) -> None:
    turned = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    with av.open(str(tmp_path / "exif.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(barcode_picture(number), format="rgb24").reformat(format="yuvj420p")
            frame.pts = number
            for packet in stream.encode(frame):
                data = bytes(packet)
                changed = av.Packet(data[:2] + b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned + data[2:])
                changed.pts = changed.dts = packet.pts
                changed.time_base, changed.stream, changed.is_keyframe = packet.time_base, stream, True
                container.mux(changed)
    with av.open(str(tmp_path / "exif.mkv")) as container, pytest.raises(ValueError, match="is not a valid Type"):
        list(next(container.decode(video=0)).side_data)
    read = read_frames(tmp_path / "exif.mkv")
    assert len(read) == 5
    assert read.metadata.rotation % 360 == 270
    assert read_barcodes(torch.rot90(read.frames, 1, (2, 3))) == list(range(5))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.flv", "a.avi", "a.ts", "a.mp4", "a.mpg"])
def test_a_hole_in_the_middle_is_noted(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4", "mpg": "mpeg2video"}.get(name[2:], "libx264")
    options = {"deadline": "realtime", "cpu-used": "8"} if name == "a.webm" else {}
    faststart = {"movflags": "faststart"} if name == "a.mp4" else None
    path = write_video(tmp_path / name, 150, codec=codec, gop=25, options=options, container_options=faststart)
    assert _same_answer(path).notes == ()
    data = bytearray(path.read_bytes())
    start, end = len(data) * 4 // 10, len(data) * 6 // 10
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        read = assert_sequential(path)
    assert read.metadata.total_num_frames < 150
    assert "gap" in caplog.text or "damaged: the file promises 150 frames" in caplog.text
    for request in REQUESTS:
        info = read_frames(path, **request).metadata
        assert info.total_num_frames == read.metadata.total_num_frames
        assert info.notes


def test_pictures_that_stand_long_are_a_gap_in_a_film_and_none_in_an_animation(tmp_path: Path) -> None:
    ticks = [*range(20), *range(120, 140)]
    film = probe_video(write_video(tmp_path / "film.mkv", 40, ticks=ticks))
    assert film.notes == ("1 gap in time, the longest of 4.04 s after 0.76 s (frames are usually 0.040 s apart)",)
    animation = write_video(tmp_path / "a.gif", 40, ticks=ticks, codec="gif", pixel_format="rgb8")
    assert probe_video(animation).notes == ()


def test_an_encrypted_track_is_an_error_that_says_so(tmp_path: Path) -> None:
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    path = write_video(tmp_path / "secret.mp4", 30, container_options=options)
    for request in REQUESTS:
        with pytest.raises(LFVilaVideoError, match="its video track is encrypted"):
            read_frames(path, **request)


def test_frames_that_are_mostly_corrupt_are_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", 60, gop=60, size=(128, 192), bframes=0)
    generator = np.random.default_rng(0)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    for packet in range(20, len(data) // 188, 3):  # keep the packets' headers, spoil every third one's content
        data[packet * 188 + 100 : packet * 188 + 188] = generator.integers(0, 256, 88, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    with pytest.raises(LFVilaVideoError, match=r"\d+ of \d+ frames are damaged beyond use"):
        read_frames(path)


def test_a_demuxer_that_says_try_again_is_tried_again(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.ts", 120, gop=20).read_bytes()
    path = tmp_path / "hole.ts"
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + bytes(400_000) + data[middle:])
    info = _same_answer(path)
    assert info.total_num_frames >= 119
    assert "the demuxer lost its place" in " ".join(info.notes)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_still_beside_a_video_is_not_the_video(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"shots.{ending}"
    with av.open(str(path), "w") as container:
        still, film = (container.add_stream("libx264", rate=rate, options={"bf": "0"}) for rate in (1, 25))
        still.width, still.height, still.pix_fmt = 192, 128, "yuv420p"
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        for stream, count, size in ((still, 2, (128, 192)), (film, 50, (64, 96))):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(barcode_picture(100 * (count < 9) + number, *size), format="rgb24")
                frame.pts, frame.time_base = number, 1 / stream.average_rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    read = read_frames(path, num_frames=4)
    assert read_barcodes(read.frames) == [0, 16, 32, 49]


def test_two_threads_fall_back_like_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 240, gop=20)
    data = bytearray(path.read_bytes())
    for place in (len(data) * 3 // 10, len(data) * 8 // 10):
        data[place : place + 200] = np.random.default_rng(0).integers(0, 256, 200, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    assert len(sequential_frames(path)) < 240
    expected = read_frames(path.read_bytes(), num_frames=60)
    for _ in range(3):
        read = read_frames(path.read_bytes(), num_frames=60, num_threads=2)
        assert torch.equal(read.frames, expected.frames)
        assert read.metadata == expected.metadata


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_seconds_count_from_the_start_of_the_sound_where_pictures_begin_later(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"late.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        codec, kind, number_format = ("aac", np.float32, "fltp") if ending == "mp4" else ("pcm_s16le", np.int16, "s16")
        sound = container.add_stream(codec, rate=48000, layout="mono")
        for number in range(3 * 48):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1000), kind), format=number_format, layout="mono")
            block.rate, block.pts = 48000, 1000 * number
            container.mux(sound.encode(block))
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(barcode_picture(number), format="rgb24")
            frame.pts = 25 + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    read = read_frames(path, num_frames=6)
    assert read.times == pytest.approx([1 + index / 25 for index in read.indices], abs=0.03)
    assert read.times[0] > 0.9
    assert read.metadata.duration == pytest.approx(3, abs=0.03)
    assert read.metadata.fps == pytest.approx(25, abs=0.1)
    second = read.times[0]
    assert read_frames(path, times=[0.0, second, second + 0.05, 2.95]).indices == [0, 0, 1, 48]


def test_a_coarse_clock_gives_the_frame_on_screen_and_not_the_next(tmp_path: Path) -> None:
    array = np.zeros((4, 3, 8, 8), np.uint8)
    assert read_frames(array, times=[0.0, 0.6, 0.99, 1.0, 3.9], fps=1).indices == [0, 0, 0, 1, 3]
    path = write_video(tmp_path / "a.avi", 20, codec="mpeg4", bframes=0, fps=10)
    assert read_frames(path, times=[0.06, 0.1, 0.19, 0.2999, 0.3]).indices == [0, 1, 1, 3, 3]  # 0.1 ms are rounding


def test_a_broken_unit_is_found_whichever_frames_are_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30, gop=30)
    with av.open(str(path)) as container:
        entry = list(container.streams.video[0].index_entries)[-1]
        place, size = entry.pos, entry.size
    data = bytearray(path.read_bytes())
    data[place : place + 4] = (size - 8).to_bytes(4, "big")
    data[place + size - 4 : place + size] = bytes(4)
    path.write_bytes(data)
    info = _same_answer(path)
    assert info.total_num_frames == len(sequential_frames(path)) == 29
    assert info.notes[0] == "damaged: the file promises 30 frames (1.20 s), 29 (1.16 s) can be read"


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_a_leap_in_time_of_the_last_frame_is_known_whichever_frames_are_asked_for(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / f"a.{ending}", 4, ticks=[0, 1, 2, 3000])  # with B-frames: decoding times are even
    info = _same_answer(path)
    assert info.duration == pytest.approx(120.04, abs=0.01)
    assert info.notes[0].startswith("1 gap in time, the longest of 119.92 s after 0.08 s")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"YUV4MPEG2 W16 H16 F1:2147483647 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + bytes(384)) * 3, "max_duration"),
        (b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + bytes(384)) * 3, ""),
    ],
)
def test_seconds_that_a_file_claims_are_bounded(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.y4m").write_bytes(content)
    if not reason:
        assert probe_video(tmp_path / "a.y4m").total_num_frames == 3
        return
    with pytest.raises(LFVilaVideoError, match=f"its time stamps claim 6442450941 s, above the limit .*{reason}"):
        probe_video(tmp_path / "a.y4m")


def test_the_limit_of_returned_bytes_holds_for_transforms_isolation_and_arrays(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    limits = VideoLimits(max_output_bytes=1_000_000)
    seen = []

    def enlarge(picture: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return torch.zeros(3, 200, 200)

    array = np.zeros((4, 3, 64, 96), np.uint8)
    for source, options in ((path, {}), (path, {"isolated": True}), (array, {"indices": [0, 1, 2]})):
        seen.clear()
        request = {"num_frames": 12, **options} if source is path else options
        with pytest.raises(LFVilaVideoError, match="exceed the limit of 1000000 bytes \\(max_output_bytes\\)"):
            read_frames(source, transform=enlarge, limits=limits, **request)
        assert len(seen) <= 3
    with pytest.raises(LFVilaVideoError, match="max_output_bytes"):
        read_frames(array, indices=[0] * 100, limits=limits)
    with pytest.raises(LFVilaVideoError, match="max_output_bytes"):
        read_frames(path, isolated=True, indices=[0] * 100, limits=limits)
    assert len(read_frames(path, limits=limits, size=(16, 16), isolated=True)) == 30


def test_the_table_of_frames_is_made_once_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mkv", 60)
    made = []
    original = VideoSession.packet_table
    tables = {"header": VideoSession.header_table, "frames": VideoSession.counted_table}
    tables["packets"] = lambda session: made.append(1) or original(session)
    from lfvila_hf import video_decoding_lfvila as decoding

    monkeypatch.setattr(decoding, "TABLES", {origin: tables[origin] for origin in decoding.TABLES})
    for start in range(0, 60, 10):
        assert read_barcodes(read_frames(path, indices=[start, start + 3]).frames) == [start, start + 3]
    assert len(made) == 1
    path.write_bytes(write_video(tmp_path / "b.mkv", 50, first_number=100).read_bytes())
    assert read_barcodes(read_frames(path, indices=[3, 49]).frames) == [103, 149]
    assert len(made) == 2

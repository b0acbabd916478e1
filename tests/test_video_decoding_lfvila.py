"""Decoding: frames equal a full sequential decode, whatever the container, and no more is decoded than needed.

There is one test per trap of real files: cover pictures, rotation, missing counts, seeks that land late, packets
without time stamps, variable rate, cut files, joined streams. The public arguments are tested in
`test_video_reading_lfvila.py`.
"""

from __future__ import annotations

import io
import itertools
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from video_files import (
    assert_sequential,
    barcode_picture,
    copy_packets,
    move_metadata_first,
    read_barcodes,
    write_sound,
    write_streams,
    write_video,
)

from lfvila_hf.video_decoding_lfvila import (
    DecodingPlan,
    FrameGroup,
    FrameTable,
    _interpolated,
    _longest_ascent,
    _longest_first,
)
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames, uniform_indices

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COUNT = 30


# The generated family: 5 containers x 4 codecs x constant and variable rate x with and without B-frames x open and
# closed.

VARIABLE = [2 * index + (7 * index * index) % 2 + 3 * (index // 9) for index in range(COUNT)]
CODECS = {
    "h264": ("libx264", ("mp4", "mkv", "mov", "ts", "flv"), (0, 3), (False, True)),
    "hevc": ("libx265", ("mp4", "mkv", "mov", "ts", "flv"), (0, 3), (False, True)),
    "vp9": ("libvpx-vp9", ("mp4", "mkv", "webm", "flv", "nut"), (0,), (False,)),
    "mpeg4": ("mpeg4", ("mp4", "mkv", "mov", "ts", "avi"), (0, 2), (False,)),
}


def _encoder_options(codec: str, bframes: int, open_gop: bool) -> dict[str, str]:
    if codec == "libx264":
        return {"x264-params": f"open-gop={int(open_gop)}"}
    if codec == "libx265":
        structure = f"keyint=9:min-keyint=9:open-gop={int(open_gop)}:bframes={bframes}"
        return {"x265-params": f"{structure}:log-level=none:pools=1"}
    return {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx-vp9" else {}


@pytest.mark.parametrize("name", CODECS)
def test_the_generated_family_equals_a_full_sequential_decode(tmp_path: Path, name: str) -> None:
    codec, containers, bframes, open_gops = CODECS[name]
    seen = 0
    for ending, count, open_gop, variable in itertools.product(containers, bframes, open_gops, (False, True)):
        path = tmp_path / f"{name}-{count}-{open_gop}-{variable}.{ending}"
        options = _encoder_options(codec, count, open_gop)
        ticks = VARIABLE if variable else None
        write_video(path, COUNT, codec=codec, gop=9, bframes=count, options=options, ticks=ticks)
        read = assert_sequential(path)
        assert read_barcodes(read.frames) == read.indices
        whole = read_frames(path)
        assert read_barcodes(whole.frames) == list(range(COUNT))
        if ending != "avi":  # which has no time stamps of its own
            shown = VARIABLE if variable else range(COUNT)
            assert whole.times == pytest.approx([(tick - shown[0]) / 25 for tick in shown], abs=2e-3)
        seen += 1
    assert seen == len(containers) * len(bframes) * len(open_gops) * 2


# Traps of real files.


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "film.mp4", [(64, 96)], cover=True)
    move_metadata_first(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg", "or there would be nothing to fall for"
    assert read_barcodes(read_frames(path, num_frames=4).frames) == uniform_indices(20, 4)
    cover_only = write_sound(tmp_path / "song.m4a", cover=True)
    with pytest.raises(LFVilaVideoError, match="only audio, video \\(a cover picture is no video"):
        read_frames(cover_only, num_frames=4)
    with pytest.raises(LFVilaVideoError, match="no video stream in it, only audio$"):
        read_frames(write_sound(tmp_path / "voice.m4a"), num_frames=4)


def test_the_best_of_several_streams_is_read(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "two.mkv", [(32, 48), (64, 96)])
    read = read_frames(path, num_frames=4)
    assert tuple(read.frames.shape[2:]) == (64, 96)
    assert read_barcodes(read.frames) == [100 + index for index in uniform_indices(20, 4)]


def test_counts_and_durations_may_be_missing(tmp_path: Path) -> None:
    bare = copy_packets(write_video(tmp_path / "a.mp4", COUNT), tmp_path / "bare.h264")
    for path in (
        write_video(tmp_path / "a.mkv", COUNT),
        write_video(tmp_path / "a.ts", COUNT),
        write_video(tmp_path / "a.flv", COUNT),
        write_video(tmp_path / "f.mp4", COUNT, container_options={"movflags": "frag_keyframe+empty_moov"}),
        bare,
    ):
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        read = assert_sequential(path)
        assert read.metadata.total_num_frames == COUNT
        assert read.metadata.duration == pytest.approx(COUNT / 25, abs=2e-3)
    with av.open(str(bare)) as container:
        assert container.duration is None


@pytest.mark.parametrize("ending", ["ts", "mpg"])
def test_seeks_that_land_late_are_moved_back(tmp_path: Path, ending: str) -> None:
    codec = "mpeg2video" if ending == "mpg" else "libx264"
    path = write_video(tmp_path / f"a.{ending}", 120, codec=codec, gop=15, size=(128, 192))
    late = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        keys = [packet.pts for packet in container.demux(stream) if packet.is_keyframe and packet.size]
        for key in keys[1:]:
            container.seek(key, stream=stream)
            packets = (packet.pts for packet in container.demux(stream) if packet.is_keyframe and packet.size)
            landed = next(packets, None)
            late += landed is None or landed > key
    assert late, "or there would be nothing to fall for"
    for frame in (*range(0, 120, 15), *range(14, 120, 15)):
        assert read_barcodes(read_frames(path, indices=[frame]).frames) == [frame]


def test_packets_may_lack_time_stamps(tmp_path: Path) -> None:
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "libx264"), ("b.avi", "mpeg4")):
        path = write_video(tmp_path / name, COUNT, codec=codec)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
        order = [packet.pts for packet in packets]
        assert None in [packet.dts for packet in packets] or order != [packet.dts for packet in packets]
        read = assert_sequential(path)
        assert read_barcodes(read.frames) == read.indices


def test_time_stamps_out_of_order_are_made_up_and_said_so(tmp_path: Path) -> None:
    one = write_video(tmp_path / "one.ts", COUNT, gop=10)
    two = write_video(tmp_path / "two.ts", COUNT, gop=10, first_number=100)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    read = assert_sequential(joined)
    assert read_barcodes(read.frames) == [0, 8, 16, 25, 103, 112, 120, 129]
    assert read.times == pytest.approx([index / 25 for index in read.indices])
    assert "time stamps" in read.metadata.notes[0]


def test_a_few_bad_time_stamps_are_repaired_from_their_neighbours() -> None:
    assert _longest_ascent([0, 1, 99, 2, None, 4, 3, 5]) == [0, 1, 3, 6, 7]
    assert _longest_ascent([None, None]) == []
    table = _interpolated([1, 2, 5], np.asarray([10, 20, 50]), 7, Fraction(1, 100))
    assert [table.seconds(index) for index in range(7)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], abs=1e-3)
    assert table.duration == pytest.approx(0.7, abs=1e-3)


def test_the_mean_rate_is_not_the_clock_of_a_variable_video(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv", "ts"):
        path = write_video(tmp_path / f"a.{ending}", COUNT, ticks=VARIABLE)
        read = assert_sequential(path)
        by_rate = [index / read.metadata.fps for index in read.indices]
        assert max(abs(one - other) for one, other in zip(by_rate, read.times, strict=True)) > 0.05
        seconds = [tick / 25 for tick in VARIABLE[::5]]
        assert read_frames(path, times=seconds).indices == list(range(0, COUNT, 5))


@pytest.mark.parametrize(("name", "ticks"), [("a.mp4", None), ("variable.mp4", VARIABLE * 4), ("a.avi", None)])
def test_a_file_whose_end_is_missing_is_an_error_whatever_is_asked(
    tmp_path: Path, name: str, ticks: list[int] | None
) -> None:
    if ticks is not None:
        ticks = [tick + 100 * (place // COUNT) for place, tick in enumerate(ticks)]
    options = {} if name.endswith("avi") else {"movflags": "faststart"}
    path = write_video(tmp_path / name, 120, size=(128, 192), container_options=options, ticks=ticks)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    reason = r"at frame \d+ \(\d+\.\d\d s\): truncated: the file promises 120 frames"
    for wanted in ({"num_frames": 8}, {"indices": [0, 10, 20]}, {}):
        with pytest.raises(LFVilaVideoError, match=reason):
            read_frames(path, **wanted)
    read = assert_sequential(path, accept_truncated=True)
    assert "truncated" in " ".join(read.metadata.notes)


@pytest.mark.parametrize("ending", ["mkv", "ts", "flv"])
def test_a_cut_file_without_a_count_gives_the_frames_that_are_there(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / f"a.{ending}", 120, size=(128, 192))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        read = assert_sequential(path)
    assert 40 < read.metadata.total_num_frames < 90
    if ending != "ts":
        assert "the header promises 4.8" in read.metadata.notes[-1]
        assert "the header promises 4.8" in caplog.text


def test_threads_share_paths_and_bytes_but_never_a_file_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 80, gop=10)
    opened = []
    original = DecodingPlan.reopened
    monkeypatch.setattr(DecodingPlan, "reopened", lambda plan: opened.append(1) or original(plan))
    expected = read_frames(path, num_frames=16)
    for source, shared in ((path, True), (path.read_bytes(), True), (path.open("rb"), False)):
        opened.clear()
        read = read_frames(source, num_frames=16, num_threads=2)
        assert bool(opened) is shared
        assert torch.equal(read.frames, expected.frames)
        assert read.decoded_frames == expected.decoded_frames
    opened.clear()
    assert read_barcodes(read_frames(path, num_frames=3, num_threads=2).frames) == [0, 39, 79]
    assert not opened, "three short groups are too little to share"


def test_threads_take_the_longest_groups_first() -> None:
    table = FrameTable(10 * np.arange(1000), Fraction(1, 100), 10_000, "header")
    groups = [FrameGroup(0, [10, 18], None), FrameGroup(2000, [448], None), FrameGroup(5000, [598], None)]
    assert [group.cost(table) for group in groups] == [20, 250, 100]
    ordered, saved = _longest_first(groups, table, 2)
    assert [group.key for group in ordered] == [2000, 5000, 0]
    assert saved == 120, "the long group alone, the two others together"
    assert _longest_first(groups, table, 1)[1] == 0


def test_sound_between_the_pictures_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "loud.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        for second in range(6):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 96000), np.int16), format="s16", layout="stereo")
            block.rate, block.pts = 48000, 48000 * second
            container.mux(sound.encode(block))
            for number in range(25 * second, 25 * (second + 1)):
                frame = av.VideoFrame.from_ndarray(barcode_picture(number, 64, 96), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))

    class Counted(io.FileIO):
        bytes_read = 0

        def read(self, size: int | None = -1, /) -> Any:
            data = super().read(size)
            self.bytes_read += len(data or b"")
            return data

    with Counted(path) as file:
        read = read_frames(file, indices=range(0, 150, 5))
        assert read_barcodes(read.frames) == list(range(0, 150, 5))
        assert file.bytes_read < path.stat().st_size / 2


# Odd files.


def test_an_edit_list_hides_the_frames_before_it(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 60, gop=20)
    cut = copy_packets(whole, tmp_path / "cut.mp4", delay=-512 * 7)
    with av.open(str(cut)) as container:
        assert sum(entry.is_discard for entry in container.streams.video[0].index_entries) == 7
    read = assert_sequential(cut)
    assert read_barcodes(read.frames) == [index + 7 for index in uniform_indices(53, 8)]
    assert read.times is not None
    assert (read.times[0], read.metadata.duration) == (0, pytest.approx(53 / 25))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_intra_refresh_without_clean_key_frames_is_exact(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / f"a.{ending}", 60, gop=20, bframes=0, options={"x264-params": "intra-refresh=1"})
    read = assert_sequential(path)
    assert read_barcodes(read.frames) == read.indices


def test_hidden_reference_packets_of_vp8_are_no_frames(tmp_path: Path) -> None:
    shown = write_video(tmp_path / "shown.webm", 60, codec="libvpx", gop=30, options={"deadline": "realtime"})
    hidden = {7, 8, 29, 41}
    with av.open(str(shown)) as reader, av.open(str(tmp_path / "some.webm"), "w") as writer:
        stream = reader.streams.video[0]
        copied = writer.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xEF if number in hidden else 0xFF  # the bit that says "show this frame"
            changed = av.Packet(bytes(data))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe = packet.is_keyframe
            changed.stream = copied
            writer.mux(changed)
    read = assert_sequential(tmp_path / "some.webm")
    assert read.metadata.total_num_frames == 56
    assert read_barcodes(read_frames(tmp_path / "some.webm").frames) == [n for n in range(60) if n not in hidden]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_noise_in_the_middle_gives_the_frames_of_a_sequential_decode(tmp_path: Path, ending: str) -> None:
    options = {"movflags": "faststart"} if ending == "mp4" else None
    path = write_video(tmp_path / f"a.{ending}", 120, gop=20, size=(128, 192), container_options=options)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    read = assert_sequential(path)
    assert read.metadata.total_num_frames < 120
    if ending != "mkv":
        assert "damaged" in " ".join(read.metadata.notes)


def test_a_stream_that_starts_before_its_first_key_frame_is_counted(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.ts", 60, gop=20)
    with av.open(str(whole)) as reader, av.open(str(tmp_path / "late.ts"), "w") as writer:
        stream = reader.streams.video[0]
        copied = writer.add_stream_from_template(stream)
        for number, packet in enumerate(reader.demux(stream)):
            if packet.dts is not None and number >= 13:
                packet.stream = copied
                writer.mux(packet)
    assert_sequential(tmp_path / "late.ts")


# Orientation, colour, size.


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotated_video_comes_out_upright_and_scaling_knows_of_it(tmp_path: Path, angle: int) -> None:
    path = write_video(tmp_path / "turned.mp4", 10, rotation=angle)
    stored = read_frames(write_video(tmp_path / "plain.mp4", 10), indices=[0, 7]).frames
    read = read_frames(path, indices=[0, 7])
    assert read.metadata.rotation % 360 == angle
    assert torch.equal(torch.rot90(stored, angle // 90, (2, 3)), read.frames)
    upright = (64, 96) if angle == 180 else (96, 64)
    assert tuple(read.frames.shape[2:]) == (read.metadata.height, read.metadata.width) == upright
    small = read_frames(path, indices=[0, 7], size=(upright[0] // 2, upright[1] // 2))
    assert (small.frames.float() - torch.nn.functional.avg_pool2d(read.frames.float(), 2)).abs().mean() < 6


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_a_mirrored_picture_is_mirrored_back(tmp_path: Path, angle: int) -> None:
    stored = read_frames(write_video(tmp_path / "plain.mp4", 5)).frames
    read = read_frames(write_video(tmp_path / "mirrored.mp4", 5, rotation=angle, mirrored=True)).frames
    assert torch.equal(read, torch.rot90(stored, angle // 90, (2, 3)).flip(3))


def test_full_range_and_colour_matrix_are_read_from_the_file(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 30, 120)]
    for matrix, kind, number in (
        ("bt709", "tv", 1),
        ("bt709", "pc", 1),
        ("smpte170m", "tv", 6),
        ("smpte170m", "pc", 6),
    ):
        path = tmp_path / f"{matrix}-{kind}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
            context = stream.codec_context
            context.color_range = 2 if kind == "pc" else 1
            context.colorspace = context.color_primaries = context.color_trc = number
            for position, colour in enumerate(colours):
                picture = np.broadcast_to(np.asarray(colour, np.uint8), (64, 64, 3))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame = frame.reformat(
                    format="yuv444p", dst_colorspace=number, dst_color_range=context.color_range, src_color_range=2
                )
                frame.pts = position
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        means = read_frames(path).frames.float().mean((2, 3))
        assert (means - torch.tensor(colours)).abs().max() < 4, f"{matrix} {kind}"


def test_pictures_that_change_their_size_are_an_error_without_a_size(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.ts", 10, size=(64, 96))
    large = write_video(tmp_path / "large.ts", 10, size=(128, 192))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(LFVilaVideoError, match=r"at frame \d+: the picture size changes .* give size"):
        read_frames(joined)
    assert tuple(read_frames(joined, size=(64, 96)).frames.shape) == (20, 3, 64, 96)


# What a plan costs.


def _reference_numbers(path: Path) -> tuple[list[bool], list[int], list[bool]]:
    """Of an H.264 mp4, in decode order: is it referenced, its number in display order, is it a key frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        referenced = []
        for packet in packets:
            data, place, found = bytes(packet), 0, False
            while place + 5 <= len(data):
                size = int.from_bytes(data[place : place + 4], "big")
                kind = data[place + 4]
                if kind & 0x1F in (1, 5):
                    found |= bool(kind & 0x60)
                place += 4 + size
            referenced.append(found)
    order = {pts: number for number, pts in enumerate(sorted(packet.pts for packet in packets))}
    return referenced, [order[packet.pts] for packet in packets], [packet.is_keyframe for packet in packets]


@pytest.mark.parametrize("num_frames", [1, 4, 16, 32])
@pytest.mark.parametrize(("bframes", "gop"), [(3, 50), (0, 50), (3, 1000), (5, 12)])
def test_no_more_is_decoded_than_references_and_targets(
    tmp_path: Path, num_frames: int, bframes: int, gop: int
) -> None:
    options = {"x264-params": "b-adapt=0:scenecut=0"}
    path = write_video(tmp_path / "a.mp4", 300, bframes=bframes, gop=gop, options=options)
    referenced, numbers, keys = _reference_numbers(path)
    wanted = set(uniform_indices(300, num_frames))
    bound, since_key = 0, []
    for is_referenced, number, is_key in zip(referenced, numbers, keys, strict=True):
        if is_key:
            since_key = []
        since_key.append(is_referenced or number in wanted)
        if number in wanted:
            bound += sum(since_key)
            since_key = []
    read = read_frames(path, num_frames=num_frames)
    assert read_barcodes(read.frames) == uniform_indices(300, num_frames)
    assert num_frames <= read.decoded_frames <= 1.02 * bound
    if bframes:
        assert bound < 0.8 * 300


def test_a_long_video_costs_no_more_than_the_groups_that_are_wanted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1000, gop=25)
    read = read_frames(path, indices=[500])
    assert read_barcodes(read.frames) == [500]
    assert read.decoded_frames <= 25


def test_a_real_file_costs_references_and_targets() -> None:
    path = SHARED / "derived" / "real_footage_30s_barcode.mp4"
    if not path.exists():
        pytest.skip("the real footage (../shared/data/derived) is not here")
    read = read_frames(path, num_frames=32, size=(192, 320))
    assert read.decoded_frames == 524  # of 900; 526 reference frames and targets were counted for it
    assert tuple(read.frames.shape) == (32, 3, 192, 320)


# Real files.


@pytest.mark.parametrize("folder", ["formats", "videos"])
def test_every_real_file_equals_a_full_sequential_decode(folder: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"the real videos (../shared/data/{folder}) are not here")
    endings = (".mp4", ".mov", ".mkv", ".webm", ".avi")
    paths = [path for path in sorted((SHARED / folder).iterdir()) if path.suffix in endings]
    # `sequential_frames` takes the first of several streams, the reader the best one
    paths = [path for path in paths if path.stat().st_size < 800_000 and "nasa_13s" not in path.name]
    assert len(paths) >= 6
    for path in paths:
        assert_sequential(path, num_frames=6)

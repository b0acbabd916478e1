"""Reading: the right frames at the right seconds, or one error that names the reason; sampling rules; arrays.

Every file is written here, with its frame numbers in the picture (`video_files`). Decoding and hostile files are tested
in `test_video_decoding_lfvila.py` and `test_video_sources_lfvila.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from video_files import barcode_picture, read_barcodes, sequential_frames, write_video

from lfvila_hf.video_reading_lfvila import (
    LFVilaVideoError,
    clip_indices,
    jittered_indices,
    probe_video,
    read_clips,
    read_frames,
    uniform_indices,
)

VARIABLE = [index + 3 * (index // 3) + 7 * (index // 9) for index in range(30)]

FAMILY: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "reordered.avi": {},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "8"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "many_b.mp4": {"bframes": 5, "gop": 30},
    "variable.mp4": {"ticks": VARIABLE},
    "variable.mkv": {"ticks": VARIABLE},
    "late.mp4": {"ticks": [180 + index for index in range(30)]},
    "late.mkv": {"ticks": [180 + index for index in range(30)]},
    "one_key.mp4": {"gop": 250},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "four_four_four.mp4": {"pixel_format": "yuv444p"},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "odd_size.mkv": {"pixel_format": "yuv444p", "size": (63, 95)},
    "odd_size.mp4": {"pixel_format": "yuv420p", "codec": "mpeg4", "size": (63, 95)},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, 30, **options) for name, options in FAMILY.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_frames_and_metadata_equal_a_full_sequential_decode(family: dict[str, Path], name: str) -> None:
    expected = sequential_frames(family[name])
    assert len(expected) == 30
    for wanted in (uniform_indices(30, 8), [29], [0], [17, 3, 17, 11], list(range(30))):
        read = read_frames(family[name], indices=wanted)
        assert read_barcodes(read.frames) == wanted
        assert read.indices == wanted
        for frame, index in zip(read.frames, wanted, strict=True):
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), expected[index])
    ticks = FAMILY[name].get("ticks", list(range(30)))
    assert read.metadata.total_num_frames == 30
    assert read.times == pytest.approx([(tick - ticks[0]) / 25 for tick in ticks], abs=2e-3)
    assert read.metadata.duration == pytest.approx((ticks[-1] - ticks[0] + 1) / 25, abs=0.05)
    assert (read.metadata.height, read.metadata.width) == FAMILY[name].get("size", (64, 96))
    assert read.metadata.variable_rate == name.startswith("variable")
    assert probe_video(family[name]) == read.metadata


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_sound_beside_the_pictures_changes_nothing(tmp_path: Path, ending: str) -> None:
    silent = write_video(tmp_path / "silent.mp4", 30)
    path = tmp_path / f"talking.{ending}"
    with av.open(str(silent)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        sound = writer.add_stream("aac", rate=48000, layout="mono")
        copied = writer.add_stream_from_template(stream)
        for number in range(70):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            block.rate, block.pts = 48000, number * 1024
            writer.mux(sound.encode(block))
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                writer.mux(packet)
        writer.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert {stream.type for stream in container.streams} == {"audio", "video"}
    read = read_frames(path, num_frames=8)
    assert read_barcodes(read.frames) == uniform_indices(30, 8)
    assert torch.equal(read.frames, read_frames(silent, num_frames=8).frames)
    late = 1024 / 48000 if ending == "ts" else 0  # the encoder delay of AAC, which a transport stream cannot skip
    assert read.times == pytest.approx([late + index / 25 for index in read.indices], abs=2e-3)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "late.mp4", "plain.mp4"])
def test_a_second_gives_the_frame_on_screen(family: dict[str, Path], name: str) -> None:
    ticks = FAMILY[name].get("ticks", list(range(30)))
    seconds = [(tick - ticks[0]) / 25 for tick in ticks]
    wanted = [seconds[4], seconds[4] + 0.03, seconds[20], seconds[29] + 0.01, 0.0]
    assert read_frames(family[name], times=wanted).indices == [4, 4, 20, 29, 0]


def test_scaling_while_decoding_keeps_the_frame(family: dict[str, Path]) -> None:
    read = read_frames(family["plain.mp4"], num_frames=5, size=(32, 64))
    assert tuple(read.frames.shape) == (5, 3, 32, 64)
    assert read_barcodes(read.frames) == uniform_indices(30, 5)


def test_a_transform_sees_every_kept_picture_and_its_result_is_stacked(family: dict[str, Path]) -> None:
    seen: list[tuple[int, ...]] = []

    def shrink(picture: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(picture.shape))
        return picture[:, ::2, ::2]

    read = read_frames(family["plain.mp4"], num_frames=4, transform=shrink)
    assert seen == [(3, 64, 96)] * 4
    assert tuple(read.frames.shape) == (4, 3, 32, 48)


def test_a_short_video_repeats_frames_as_the_released_rule_does(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", 3)
    assert read_barcodes(read_frames(path, num_frames=8).frames) == [0, 0, 0, 0, 1, 1, 1, 2]
    one = write_video(tmp_path / "one.mp4", 1)
    assert read_barcodes(read_frames(one, num_frames=4).frames) == [0, 0, 0, 0]


# Sampling rules.


def test_the_rules_are_truncated_lines() -> None:
    assert uniform_indices(900, 32)[:4] == [0, 29, 58, 87]
    assert uniform_indices(900, 32)[-1] == 899
    assert uniform_indices(1, 4) == [0, 0, 0, 0]
    assert clip_indices(100, 8) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert clip_indices(3, 8) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_jitter_moves_both_ends_by_at_most_one_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [jittered_indices(320, 32, generator) for _ in range(200)]
    assert {indices[0] for indices in drawn} == set(range(11))
    assert {indices[-1] for indices in drawn} == set(range(309, 320))
    assert all(len(indices) == 32 and indices == sorted(indices) for indices in drawn)
    again = torch.Generator().manual_seed(0)
    assert [jittered_indices(320, 32, again) for _ in range(200)] == drawn
    assert jittered_indices(5, 32, generator) == uniform_indices(5, 32)


@pytest.mark.parametrize("rule", [uniform_indices, jittered_indices, clip_indices])
def test_sampling_of_nothing_is_refused(rule: Any) -> None:
    with pytest.raises(ValueError, match="0 of 10"):
        rule(10, 0)
    with pytest.raises(ValueError, match="4 of 0"):
        rule(0, 4)


# Clip files.


def test_clip_files_make_one_long_video(tmp_path: Path) -> None:
    clips = [
        write_video(tmp_path / "a.mp4", 20, first_number=0),
        write_video(tmp_path / "b.mkv", 10, first_number=100, fps=10),
        write_video(tmp_path / "c.mp4", 3, first_number=200),
    ]
    read = read_clips(clips, num_frames=12)
    assert read_barcodes(read.frames) == [0, 5, 10, 15, 100, 102, 105, 107, 200, 200, 201, 202]
    assert read.indices == [0, 5, 10, 15, 20, 22, 25, 27, 30, 30, 31, 32]
    local = [0, 0.2, 0.4, 0.6, 0, 0.2, 0.5, 0.7, 0, 0, 0.04, 0.08]
    starts = [0] * 4 + [0.8] * 4 + [1.8] * 4
    assert read.times == pytest.approx([start + second for start, second in zip(starts, local, strict=True)], abs=2e-3)
    assert read.metadata.duration == pytest.approx(1.92, abs=2e-3)
    assert read.metadata.total_num_frames == 33


def test_frames_that_clips_cannot_share_are_refused(tmp_path: Path) -> None:
    clips = [write_video(tmp_path / f"{number}.mp4", 5) for number in range(3)]
    with pytest.raises(ValueError, match="8 frames cannot be shared by 3 clip files"):
        read_clips(clips, num_frames=8)
    with pytest.raises(ValueError, match="at least one clip"):
        read_clips([], num_frames=8)


# Arrays and lists of pictures.


def test_arrays_and_lists_of_pictures_are_videos() -> None:
    pictures = [barcode_picture(number, 32, 48) for number in range(10)]
    array = np.stack(pictures)
    first = torch.from_numpy(array).permute(0, 3, 1, 2)
    for source in (array, pictures, first, list(first), first.float() / 255, torch.from_numpy(array)):
        read = read_frames(source, num_frames=4, fps=5)
        assert read_barcodes(read.frames) == [0, 3, 6, 9]
        assert read.frames.dtype == torch.uint8
        assert read.times == [0, 0.6, 1.2, 1.8]
        assert read.metadata.duration == 2
    assert read_frames(array, num_frames=4).times is None
    assert read_frames(array, times=[0.5], fps=5).indices == [2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((0, 3, 8, 8), np.uint8), "no frame"),
        (np.zeros((4, 5, 8, 8), np.uint8), "3 channels"),
        (np.zeros((4, 3, 8, 8), np.int64), "int64"),
        (np.full((4, 3, 8, 8), 2.0), "0 to 1, got 2 to 2"),
        (np.full((4, 3, 8, 8), np.nan), "nan"),
        ([np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 9), np.uint8)], "differ in shape"),
    ],
)
def test_arrays_that_are_no_video_are_refused(source: Any, message: str) -> None:
    with pytest.raises(LFVilaVideoError, match=message):
        read_frames(source, num_frames=2)


def test_an_ambiguous_array_needs_its_layout() -> None:
    array = np.zeros((4, 3, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="input_data_format"):
        read_frames(array, num_frames=2)
    assert tuple(read_frames(array, num_frames=2, input_data_format="channels_last").frames.shape) == (2, 3, 3, 5)
    with pytest.raises(ValueError, match="give fps"):
        read_frames(np.zeros((4, 3, 8, 8), np.uint8), times=[0.0])


# Bad input.


def test_frames_and_seconds_outside_the_video_are_refused(family: dict[str, Path]) -> None:
    path = family["plain.mp4"]
    with pytest.raises(ValueError, match="frame 30 was asked for, .*plain.mp4 has the frames 0 to 29"):
        read_frames(path, indices=[0, 30])
    with pytest.raises(ValueError, match="frame -1"):
        read_frames(path, indices=[-1])
    with pytest.raises(ValueError, match="second 3 was asked for, the video runs from 0 to 1.2 s"):
        read_frames(path, times=[3.0])
    with pytest.raises(ValueError, match="one of num_frames, indices and times"):
        read_frames(path, num_frames=2, times=[0.0])
    with pytest.raises(ValueError, match="sampling must be one of uniform, jittered, clip, got 'middle'"):
        read_frames(path, num_frames=2, sampling="middle")

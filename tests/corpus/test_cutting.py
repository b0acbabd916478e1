"""A clip holds exactly the frames on screen at its times, in the promised form, from sources of many kinds.

Frames are told apart by the bar codes of video_files.py. Many videos, going on and crashes are in test_cutting_jobs.py.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from video_files import read_barcodes, write_video

from lfvila_hf.corpus.cutting import ClipWish, CutParameters, check_clip, cut_video, frame_times
from lfvila_hf.video_decoding_lfvila import VideoSession
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames

SMALL = CutParameters(height=64, crf=12)
SPANS = [(0, 4000), (3500, 9100), (1234, 1999), (9000, 12_000)]


def wishes(spans: list[tuple[int, int]]) -> list[ClipWish]:
    return [ClipWish(f"v.{number}.mp4", *span) for number, span in enumerate(spans)]


def on_screen(wish: ClipWish, rate: Fraction, times: list[float], end: float) -> list[int]:
    """The numbers of the frames on screen at the times of a clip, by looking through all of them."""
    count = math.ceil((wish.end - wish.start) / 1000 * rate)
    seconds = [wish.start / 1000 + number / float(rate) for number in range(count)]
    return [
        max(n for n, time in enumerate(times) if time <= second + 5e-4) for second in seconds if second < end - 1e-9
    ]


@pytest.mark.parametrize("rate", ["3", "1", "7.5", "25", "30000/1001", "60"])
def test_a_clip_holds_the_frames_on_screen_at_its_times(rate: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 300, fps=25, gop=40, bframes=2, size=(96, 128))
    parameters = CutParameters(fps=rate, height=64, crf=12)
    clips = cut_video(source, wishes(SPANS), tmp_path, parameters)
    for wish, clip in zip(wishes(SPANS), clips, strict=True):
        read = read_frames(tmp_path / clip.clip_id)
        expected = on_screen(wish, Fraction(rate), [number / 25 for number in range(300)], 12.0)
        assert read_barcodes(read.frames) == expected
        assert len(expected) == clip.frames > 0
        assert read.times == pytest.approx([number / float(Fraction(rate)) for number in range(clip.frames)], abs=1e-3)
        assert clip.bytes == (tmp_path / clip.clip_id).stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.mp4", *(clip.clip_id for clip in clips)]


def irregular() -> list[int]:
    """Times of 150 frames on a clock of 1/25 s, with pauses."""
    draw = np.random.default_rng(1)
    return np.cumsum(draw.integers(1, 4, 150)).tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("variable.mp4", {"ticks": irregular()}),
        ("clip.mkv", {}),
        ("clip.webm", {"codec": "libvpx"}),
        ("packed.avi", {"codec": "mpeg4"}),
        ("stream.ts", {}),
        ("all_intra.mp4", {"gop": 1, "bframes": 0}),
        ("fragmented.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("odd.mp4", {"size": (98, 130), "pixel_format": "yuv444p"}),
    ],
)
def test_every_kind_of_source_is_cut_to_the_frame(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    source = write_video(tmp_path / name, 150, **{"size": (96, 128), **options})
    whole = read_frames(source)
    assert whole.times is not None
    numbers = read_barcodes(whole.frames)
    spans = [(0, 1500), (1200, 4321), (4000, 5900)]
    cut_video(source, wishes(spans), tmp_path, SMALL)
    for wish in wishes(spans):
        expected = on_screen(wish, Fraction(3), whole.times, whole.metadata.duration or 0)
        assert read_barcodes(read_frames(tmp_path / wish.clip_id).frames) == [numbers[index] for index in expected]


@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (-90, False), (None, True), (90, True)])
def test_rotated_video_comes_out_upright(rotation: int | None, mirrored: bool, tmp_path: Path) -> None:
    source = write_video(tmp_path / "s.mp4", 30, size=(96, 160), rotation=rotation, mirrored=mirrored)
    cut_video(source, wishes([(0, 1000)]), tmp_path, CutParameters(height=96, crf=8))
    clip = read_frames(tmp_path / "v.0.mp4")
    assert clip.metadata.rotation == 0
    height, width = clip.frames.shape[2:]
    expected = read_frames(source, indices=[0, 8, 16], size=(height, width)).frames
    assert (height, width) == ((96, 58) if rotation in (90, -90) else (96, 160))
    assert (clip.frames.float() - expected.float()).abs().mean() < 6


def test_full_range_and_limited_range_sources_give_the_same_colours(tmp_path: Path) -> None:
    grey = torch.full((10, 3, 64, 96), 200, dtype=torch.uint8)
    grey[:, :, :, :48] = 16
    for name, pixel_format in (("limited.mp4", "yuv420p"), ("full.mp4", "yuvj420p")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
            for picture in grey:
                frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        cut_video(tmp_path / name, [ClipWish(f"{name[:4]}.0.mp4", 0, 1000)], tmp_path, SMALL)
        means = [read_frames(tmp_path / f"{name[:4]}.0.mp4").frames[..., half].float().mean() for half in (20, 70)]
        source = [read_frames(tmp_path / name).frames[..., half].float().mean() for half in (20, 70)]
        assert np.allclose(means, source, atol=4), (name, means, source)


def test_the_form_of_a_clip_file(tmp_path: Path) -> None:
    source = write_video(tmp_path / "s.mp4", 250, size=(90, 160))
    cut_video(source, wishes([(0, 9000)]), tmp_path, CutParameters(height=48, gop_seconds=1))
    with av.open(str(tmp_path / "v.0.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (48, 86)
        assert stream.average_rate == 3
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 27, 3))
    assert all(packet.pts == packet.dts for packet in packets)


def test_a_span_beyond_the_video_is_a_reason_and_costs_the_others_nothing(tmp_path: Path) -> None:
    source = write_video(tmp_path / "s.mp4", 100, fps=25)
    spans = [(0, 1000), (3000, 4400), (3000, 9000), (4100, 4400)]
    clips = cut_video(source, wishes(spans), tmp_path, SMALL)
    assert [clip.frames for clip in clips] == [3, 3, 0, 0]
    assert clips[2].reason == "beyond_file: it ends at 9 s, the video at 4 s"
    assert clips[3].reason == "beyond_file: it begins at 4.1 s, where the video ends"
    assert not (tmp_path / "v.2.mp4").exists()
    none = cut_video(source, wishes(spans)[2:], tmp_path, SMALL)
    assert [bool(clip.reason) for clip in none] == [True, True]


@pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 5000])
def test_a_file_that_is_no_video_is_the_one_error_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "s.mp4"
    source.write_bytes(content)
    with pytest.raises(LFVilaVideoError):
        cut_video(source, wishes(SPANS), tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["s.mp4"]


def test_a_truncated_video_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "s.mp4", 200, size=(128, 192), container_options={"movflags": "faststart"}, options={"crf": "4"}
    )
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(LFVilaVideoError, match="truncated|promises"):
        cut_video(source, wishes([(0, 2000), (5000, 7500)]), tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["s.mp4"]


def test_a_clip_that_is_not_as_it_must_be_is_found(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mp4", 9, fps=3, size=(64, 96))
    check_clip(path, 9, (64, 96), Fraction(3))
    for frames, size, rate, said in [
        (8, (64, 96), 3, "9 frames, 8"),
        (9, (64, 98), 3, "98 x 64"),
        (9, (64, 96), 4, "place"),
    ]:
        with pytest.raises(LFVilaVideoError, match=said):
            check_clip(path, frames, size, Fraction(rate))


def test_a_clip_that_fails_its_check_is_a_reason_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *rest: object) -> None:
        raise LFVilaVideoError(str(path), "damaged on its way")

    monkeypatch.setattr("lfvila_hf.corpus.cutting.check_clip", fail)
    source = write_video(tmp_path / "s.mp4", 50)
    (clip,) = cut_video(source, wishes([(0, 1000)]), tmp_path, SMALL)
    assert clip.reason == "bad_output: damaged on its way"
    assert [path.name for path in tmp_path.iterdir()] == ["s.mp4"]


def test_times_of_frames_are_exact() -> None:
    assert frame_times(ClipWish("v.0.mp4", 100, 1100), Fraction(3)) == [
        Fraction(1, 10) + Fraction(n, 3) for n in range(3)
    ]
    assert len(frame_times(ClipWish("v.0.mp4", 0, 1), Fraction(3))) == 1
    assert len(frame_times(ClipWish("v.0.mp4", 0, 10_001), Fraction(3))) == 31
    assert len(frame_times(ClipWish("v.0.mp4", 0, 10_000), Fraction(3), Fraction(5))) == 15


@pytest.mark.parametrize(
    ("stored", "aspect", "rotation", "shown"),
    [
        ((576, 720), Fraction(64, 45), None, (240, 426)),  # 16:9 on a PAL DVD
        ((360, 640), Fraction(2), None, (240, 854)),
        ((128, 96), Fraction(1, 2), None, (240, 90)),
        ((96, 64), Fraction(3, 2), 90, (240, 240)),
        ((96, 64), Fraction(1000), None, (240, 160)),  # absurd values count as square
    ],
)
def test_clips_have_the_proportions_that_are_shown(
    stored: tuple[int, int], aspect: Fraction, rotation: int | None, shown: tuple[int, int], tmp_path: Path
) -> None:
    plain = write_video(tmp_path / "plain.mp4", 6, size=stored, rotation=rotation)
    source = tmp_path / "s.mp4"
    with_pixel_aspect(plain, source, aspect)
    (clip,) = cut_video(source, wishes([(0, 200)]), tmp_path, CutParameters(height=240, preset="ultrafast"))
    assert clip.reason == ""
    with av.open(str(tmp_path / "v.0.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == shown
        assert stream.sample_aspect_ratio in (None, 1)


def with_pixel_aspect(source: Path, target: Path, aspect: Fraction) -> None:
    """Copy a video with another shape of its pixels in the container."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        stream.codec_context.sample_aspect_ratio = aspect
        for packet in old.demux(template):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def test_a_clip_across_a_change_of_size_costs_the_others_nothing(tmp_path: Path) -> None:
    for name, size in (("a.ts", (64, 96)), ("b.ts", (96, 64))):
        write_video(tmp_path / name, 50, fps=25, size=size, bframes=0)
    source = tmp_path / "s.ts"
    shifted(tmp_path / "b.ts", tmp_path / "c.ts", 2.0)
    source.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "c.ts").read_bytes())
    spans = [(0, 1000), (1000, 3000), (2500, 3900)]
    clips = cut_video(source, wishes(spans), tmp_path, SMALL)
    assert [bool(clip.reason) for clip in clips] == [False, True, False]
    assert clips[1].reason.startswith(f"size_changes: the picture of {source} becomes 64 x 96 at 2")
    assert [path.name for path in sorted(tmp_path.glob("*.mp4"))] == ["v.0.mp4", "v.2.mp4"]
    sizes = [read_frames(tmp_path / f"v.{n}.mp4").frames.shape[2:] for n in (0, 2)]
    assert [tuple(size) for size in sizes] == [(64, 96), (64, 42)]


def shifted(source: Path, target: Path, seconds: float) -> None:
    """Copy a video with later time stamps."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        for packet in old.demux(template):
            if packet.dts is not None:
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
                packet.stream = stream
                new.mux(packet)


def test_seconds_count_from_the_start_of_the_container(tmp_path: Path) -> None:
    """The sound begins one second before the pictures, as subtitles and players count."""
    pictures = write_video(tmp_path / "pictures.mkv", 100, fps=25, size=(64, 96), bframes=0)
    source = tmp_path / "s.mkv"
    with av.open(str(pictures)) as old, av.open(str(source), "w") as new:
        template = old.streams.video[0]
        stream, sound = new.add_stream_from_template(template), new.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        new.mux(sound.encode(silence))
        for packet in old.demux(template):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + 1000, packet.dts + 1000  # Matroska counts milliseconds
                packet.stream = stream
                new.mux(packet)
    clips = cut_video(source, wishes([(1000, 2000), (4000, 5000), (4900, 5600)]), tmp_path, SMALL)
    assert [clip.reason.partition(":")[0] for clip in clips] == ["", "", "beyond_file"]
    assert read_barcodes(read_frames(tmp_path / "v.0.mp4").frames) == [0, 8, 16]
    assert read_barcodes(read_frames(tmp_path / "v.1.mp4").frames) == [75, 83, 91]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_ends_the_run_and_says_so(tmp_path: Path) -> None:
    source = write_video(tmp_path / "s.mp4", 50)
    (tmp_path / f"{os.getpid()}.v.0.mp4").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: free some and run it again to resume"):
        cut_video(source, wishes([(0, 1000)]), tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["s.mp4"]


def test_the_frames_of_a_video_are_listed_once_for_all_its_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "s.mkv", 1500, size=(32, 48), gop=25, bframes=0)
    read = []
    packets = VideoSession.packets

    def counted(self: VideoSession) -> Any:
        for packet in packets(self):
            read.append(packet.size)
            yield packet

    monkeypatch.setattr("lfvila_hf.corpus.cutting.check_clip", lambda *_: None)
    monkeypatch.setattr(VideoSession, "packets", counted)
    clips = cut_video(source, wishes([(n * 1000, n * 1000 + 900) for n in range(60)]), tmp_path, SMALL)
    assert all(clip.frames == 3 for clip in clips)
    # once to list them, at most twice to decode 60 groups (the packet at which a seek lands is read again)
    assert len(read) < 3.2 * 1500

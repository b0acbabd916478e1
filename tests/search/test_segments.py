"""Files and segments: what is found, where videos are cut, which frames are read, what a file may claim."""

from __future__ import annotations

import io
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_library import RULE, T, make_model, make_processor, make_videos
from test_encoders import OwnEncoder
from video_files import read_barcode, write_video

from lfvila_hf.search.embedding import VideoEmbedder
from lfvila_hf.search.encoders import as_encoder
from lfvila_hf.search.segments import SegmentReader, SegmentRule, find_videos, open_video, thumbnail
from lfvila_hf.video_reading_lfvila import LFVilaVideoError


@settings(deadline=None)
@given(st.floats(0.1, 600), st.floats(0.5, 600), st.floats(0, 0.95))
def test_segments_cover_a_video_evenly(duration: float, seconds: float, overlap: float) -> None:
    rule = SegmentRule(seconds, overlap)
    spans = rule.cut(duration)
    assert len(spans) == rule.count(duration) and spans[0][0] == 0 and spans[-1][1] == duration
    assert all(abs(end - start - min(seconds, duration)) < 1e-6 for start, end in spans)
    steps = np.diff([start for start, _ in spans])
    assert (steps > 0).all() and (len(steps) == 0 or steps.max() - steps.min() < 1e-6), "no two nearly equal ones"
    assert (steps <= seconds * (1 - overlap) + 1e-3).all()
    edges, windows = rule.windows(duration, min(seconds, 4.0))
    assert edges[0] == 0 and edges[-1] == duration and np.allclose(np.diff(edges), edges[1])
    assert windows[0][0] == 0 and windows[-1][1] == len(edges) - 1
    assert all(a < c <= b for (a, b), (c, _) in zip(windows, windows[1:], strict=False)), "no clip is left out"


def test_the_cut_is_the_one_of_the_documentation() -> None:
    assert SegmentRule(60, 0.5).cut(150) == [(0, 60), (30, 90), (60, 120), (90, 150)]
    assert SegmentRule(60, 0.5).cut(100) == [(0, 60), (20, 80), (40, 100)]
    assert SegmentRule(60, 0).cut(120) == [(0, 60), (60, 120)]
    edges, windows = SegmentRule(60, 0.5).windows(100, 4)
    assert len(edges) == 26 and windows == [(0, 15), (5, 20), (10, 25)]


@pytest.mark.parametrize(
    "fields",
    [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (10, 1.0), (10, -0.1), (10, 0.5, -1.0), (10, 0.5, float("inf"))],
)
def test_rules_that_make_no_sense_are_refused(fields: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"(segments|clips) must|overlap of segments must"):
        SegmentRule(*fields)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("segments") / "a.mp4", 75, size=(64, 96))  # three seconds


class WholeFrames(OwnEncoder):
    """Keeps frames as they are."""

    frame_size = 4096


def test_the_frames_of_a_segment_are_those_of_its_seconds(video: Path, tiny_vocabulary: dict[str, int]) -> None:
    encoder = as_encoder(make_model(tiny_vocabulary), make_processor(tiny_vocabulary))
    encoder.prepare = lambda picture: picture  # type: ignore[method-assign]  # the barcode needs every pixel
    (file,), _ = find_videos(video, "")
    reader = SegmentReader(encoder, RULE, batch_size=2)
    (task,) = reader.plan(file)
    assert task.spans == ((0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)) and task.total == 5
    read = reader.read(task)
    assert read.frames.shape == (5, T, 3, 64, 96) and len(read.pictures) == 5
    for span, pictures, times in zip(task.spans, read.frames, read.seconds, strict=True):
        assert [read_barcode(picture) for picture in pictures] == [round(second * 25) for second in times]
        assert times[0] == pytest.approx(span[0], abs=0.04) and times[-1] == pytest.approx(span[1] - 0.04, abs=0.04)
    clips = SegmentReader(as_encoder(WholeFrames()), SegmentRule(1.0, 0.5, 0.5))
    (task,) = clips.plan(file)
    read = clips.read(task)
    assert read.frames.shape == (6, 2, 3, 64, 96), "clips of half a second, two frames each"
    assert read.seconds[1] == pytest.approx([0.625, 0.875], abs=0.04)
    assert [read_barcode(picture) for picture in read.frames[1]] == [round(25 * second) for second in read.seconds[1]]


def test_every_clip_is_embedded_once_whatever_overlaps(video: Path) -> None:
    seen: list[int] = []

    class Counting(WholeFrames):
        fingerprint = "counting"

        def encode_clips(self, clips: Any) -> Any:
            seen.append(len(clips))
            return super().encode_clips(clips)

    (file,), _ = find_videos(video, "")
    ((_, duration, segments),) = VideoEmbedder(as_encoder(Counting()), SegmentRule(1.0, 0.5, 0.5), batch_size=4).embed(
        [file]
    )
    assert duration == 3.0 and seen == [4, 2] and [len(one.clips) for one in segments] == [2] * 5  # type: ignore[union-attr]  # segments
    for one, two in zip(segments, segments[1:], strict=False):  # type: ignore[arg-type]  # segments
        np.testing.assert_array_equal(one.clips[1], two.clips[0])


def test_a_video_of_one_segment_is_read_as_the_processor_reads_it(video: Path, tiny_vocabulary: dict[str, int]) -> None:
    processor = make_processor(tiny_vocabulary)
    reader = SegmentReader(as_encoder(make_model(tiny_vocabulary), processor), SegmentRule(60))
    (file,), _ = find_videos(video, "")
    (task,) = reader.plan(file)
    assert torch.equal(reader.read(task).frames[0], processor.video_processor.read_pictures(str(video)).frames)


def test_rows_do_not_depend_on_what_else_is_in_the_list(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    make_videos(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"x")
    encoder = as_encoder(make_model(tiny_vocabulary), make_processor(tiny_vocabulary))
    files, _ = find_videos(tmp_path, str(tmp_path))
    together = {file.path: answer for file, _, answer in VideoEmbedder(encoder, RULE, 2, num_workers=2).embed(files)}
    assert isinstance(together["broken.mp4"], LFVilaVideoError)
    for file in files[1:]:
        ((_, _, alone),) = VideoEmbedder(encoder, RULE, 2).embed([file])
        for one, two in zip(alone, together[file.path], strict=True):  # type: ignore[arg-type]  # segments
            np.testing.assert_array_equal(one.vector, two.vector)
            np.testing.assert_array_equal(one.clips, two.clips)
            assert (one.start, one.end, one.clip_times, one.thumbnail) == (
                two.start,
                two.end,
                two.clip_times,
                two.thumbnail,
            )


# -- what a file may claim and where it may be -------------------------------------------------------------------------


def test_what_a_file_claims_is_not_believed(tmp_path: Path) -> None:
    frame = bytes(16 * 16 * 3 // 2)
    (tmp_path / "long.y4m").write_bytes(
        b"YUV4MPEG2 W16 H16 F1:2147483647 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + frame) * 3
    )
    leap = tmp_path / "leap.mkv"
    with av.open(str(leap), "w") as container:  # four frames, the last of them a day later
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 32, 32
        for number, second in enumerate((0, 1, 2, 86_400)):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")
            picture.pts, picture.time_base = second * 25, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    reasons = {}
    files, _ = find_videos(tmp_path, str(tmp_path))
    for file, _, answer in VideoEmbedder(as_encoder(OwnEncoder())).embed(files):
        assert isinstance(answer, LFVilaVideoError), file.path
        reasons[file.path] = answer.reason
    assert "max_duration" in reasons["long.y4m"], reasons
    assert "max_duration" in reasons["leap.mkv"], reasons


def test_links_are_not_followed_below_a_root(tmp_path: Path) -> None:
    (outside,) = make_videos(tmp_path / "outside", (20,))
    (inside,) = make_videos(tmp_path / "root", (20,), start=1)
    root = str(tmp_path / "root")
    (tmp_path / "root" / "link.mp4").symlink_to(outside)
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "outside")
    files, problems = find_videos(root, root)
    assert [file.path for file in files] == ["clip_1.mp4"]
    assert [(one.path, one.reason) for one in problems] == [("link.mp4", "it is a link, or lies behind one")]
    for name in ("folder/clip_0.mp4", "../outside/clip_0.mp4", "/etc/passwd", "", "clip_1.mp4/x"):
        with pytest.raises(LFVilaVideoError):
            os.close(open_video(root, name))
    os.mkfifo(tmp_path / "root" / "pipe.mp4")
    with pytest.raises(LFVilaVideoError, match="no regular file"):
        open_video(root, "pipe.mp4")
    with pytest.raises(ValueError, match="is outside the library's folder"):
        find_videos(outside, root)
    with pytest.raises(LFVilaVideoError, match="no such file or folder"):
        find_videos(tmp_path / "absent", "")
    assert [file.path for file in find_videos(inside, "")[0]] == [str(inside)]


def test_a_file_that_is_exchanged_while_it_is_read_is_a_passing_problem(video: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(video, tmp_path / "a.mp4"))
    (file,), _ = find_videos(copy, str(tmp_path))
    copy.unlink()
    copy.symlink_to("/etc/hostname")
    with pytest.raises(LFVilaVideoError, match="it is a link"):
        list(SegmentReader(as_encoder(OwnEncoder()), SegmentRule()).plan(file))
    copy.unlink()
    copy.write_bytes(b"another file")
    with pytest.raises(LFVilaVideoError, match="the file changed or went away"):
        list(SegmentReader(as_encoder(OwnEncoder()), SegmentRule()).plan(file))


def test_a_video_is_read_isolated_by_its_descriptor(video: Path) -> None:
    (file,), _ = find_videos(video, "")
    embedders = [VideoEmbedder(as_encoder(OwnEncoder()), isolated=isolated) for isolated in (False, True)]
    answers = [next(iter(embedder.embed([file])))[2] for embedder in embedders]
    np.testing.assert_array_equal(*(answer[0].clips for answer in answers))  # type: ignore[index,union-attr]  # segments


def test_a_thumbnail_is_a_small_jpeg_of_the_picture() -> None:
    picture = torch.zeros(3, 270, 480)
    picture[0, :, :240], picture[2, :, 240:] = 220.0, 220.0  # red on the left, blue on the right
    data = thumbnail(picture)
    assert data == thumbnail(picture), "equal pictures give equal bytes"
    with av.open(io.BytesIO(data)) as container:
        seen = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert seen.shape == (180, 320, 3)
    assert seen[90, 60].tolist() == pytest.approx([220, 0, 0], abs=12)
    assert seen[90, 260].tolist() == pytest.approx([0, 0, 220], abs=12)

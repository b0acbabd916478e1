"""What happens to a decoded picture: rotation, mirroring, colour, and a size that changes on the way.

Lesson 2 of the traps in `test_video_decoding_lfvila.py`: files say by how much their pictures are to be turned.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import assert_sequential, write_video

from lfvila_hf.video_reading_lfvila import LFVilaVideoError, read_frames


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_lesson_2_rotation_is_applied_and_scaling_knows_of_it(tmp_path: Path, angle: int) -> None:
    path = write_video(tmp_path / "turned.mp4", 10, rotation=angle)
    assert_sequential(path)
    upright = (96, 64) if angle != 180 else (64, 96)
    read = read_frames(path, indices=[3], size=(upright[0] // 2, upright[1] // 2))
    whole = read_frames(path, indices=[3])
    smaller = torch.nn.functional.avg_pool2d(whole.frames.float(), 2)
    assert (read.frames.float() - smaller).abs().mean() < 6


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_lesson_2_a_mirrored_picture_is_mirrored_back(tmp_path: Path, angle: int) -> None:
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

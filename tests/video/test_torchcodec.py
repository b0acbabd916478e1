"""torchcodec in place of PyAV: the same frames and seconds where it is installed, a clear word where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from video_files import read_barcodes, write_video

from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, read_frames, uniform_indices


def _torchcodec_works() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401  # only whether it loads
    except (ImportError, RuntimeError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not _torchcodec_works(), reason="torchcodec, an optional decoder, is not here")


@needs_torchcodec
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "late.mp4", "variable.mp4"])
def test_frames_and_seconds_are_those_of_pyav(tmp_path: Path, name: str) -> None:
    ticks = {"late.mp4": range(50, 80), "variable.mp4": [index + index // 4 for index in range(30)]}.get(name)
    path = write_video(tmp_path / name, 30, ticks=None if ticks is None else list(ticks))
    for wanted in (uniform_indices(30, 6), [29, 4, 4]):
        one = read_frames(path, indices=wanted)
        other = read_frames(path, indices=wanted, backend="torchcodec")
        assert read_barcodes(other.frames) == other.indices == wanted
        assert other.times == pytest.approx(one.times, abs=1e-3)
        assert (one.frames.float() - other.frames.float()).abs().mean() < 3
    assert other.metadata.duration == pytest.approx(one.metadata.duration, abs=0.05)
    assert (other.metadata.total_num_frames, other.metadata.backend) == (30, "torchcodec")


@needs_torchcodec
def test_rotation_size_transform_and_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", 10, rotation=90)
    plain = read_frames(path, indices=[2])
    assert read_frames(path, indices=[2], backend="torchcodec").frames.shape == plain.frames.shape
    small = read_frames(path.read_bytes(), indices=[2, 3], backend="torchcodec", size=(48, 32))
    assert tuple(small.frames.shape) == (2, 3, 48, 32)
    halved = read_frames(path, indices=[2], backend="torchcodec", transform=lambda picture: picture[:, ::2])
    assert tuple(halved.frames.shape) == (1, 3, 48, 64)


@needs_torchcodec
def test_a_decoder_object_is_a_video(tmp_path: Path) -> None:
    from torchcodec.decoders import VideoDecoder

    path = write_video(tmp_path / "a.mp4", 30)
    assert read_barcodes(read_frames(VideoDecoder(str(path)), num_frames=4).frames) == uniform_indices(30, 4)


@needs_torchcodec
def test_errors_and_limits_are_the_same(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    (tmp_path / "text.mp4").write_text("no video " * 100)
    with pytest.raises(LFVilaVideoError, match="text.mp4"):
        read_frames(tmp_path / "text.mp4", num_frames=4, backend="torchcodec")
    for name, value in [("max_frames", 10), ("max_pixels", 100), ("max_output_bytes", 100)]:
        with pytest.raises(LFVilaVideoError, match=name):
            read_frames(path, num_frames=4, backend="torchcodec", limits=VideoLimits(**{name: value}))
    with pytest.raises(ValueError, match="frame 30 was asked for") as caught:
        read_frames(path, indices=[30], backend="torchcodec")
    assert not isinstance(caught.value, LFVilaVideoError)


def test_seconds_need_pyav_and_decoders_have_names(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    with pytest.raises(ValueError, match="use the backend 'pyav' with times"):
        read_frames(path, times=[0.0], backend="torchcodec")
    with pytest.raises(ValueError, match="backend must be one of pyav, torchcodec, got 'decord'"):
        read_frames(path, num_frames=2, backend="decord")


def test_without_torchcodec_it_says_what_to_install(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    folder = Path(__file__).resolve().parents[2] / "lfvila_hf"
    program = f"""
import sys, types
sys.modules["torchcodec"] = None
package = types.ModuleType("bare")
package.__path__ = [{str(folder)!r}]
sys.modules["bare"] = package
from bare.video_reading_lfvila import read_frames
print(len(read_frames({str(path)!r}, num_frames=2)))
try:
    read_frames({str(path)!r}, num_frames=2, backend="torchcodec")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "2", done.stderr
    assert "pip install torchcodec" in done.stdout
    assert torch.is_tensor(read_frames(path, num_frames=2).frames)

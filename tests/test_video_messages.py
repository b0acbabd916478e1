"""Every message that docs/video-input.md lists for unusable and odd videos is given by a file that is made here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import write_sound, write_video

from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, read_frames

PAGE = Path(__file__).resolve().parents[1] / "docs" / "video-input.md"


def _listed() -> list[str]:
    """Quoted messages of the two tables of the page."""
    section = (
        PAGE.read_text("utf-8").split("## When a video cannot be used")[1].split("What is said of a short file")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [message for row in rows for message in re.findall(r'"([^"]+)"', row)]


def _hole(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    start, end = len(data) * 4 // 10, len(data) * 6 // 10
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return path


def _cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _unusable(folder: Path) -> list[Any]:
    """Videos that cannot be used, and the arguments they are read with."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video at all")
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.ts\n")
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    secret = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    write_video(folder / "secret.mp4", 10, container_options=secret)
    _cut(write_video(folder / "cut.mp4", 60, container_options={"movflags": "faststart"}))
    noisy = write_video(folder / "noisy.ts", 60, gop=60, size=(128, 192), bframes=0)
    data = np.frombuffer(noisy.read_bytes(), np.uint8).copy()
    for packet in range(20, len(data) // 188, 3):
        data[packet * 188 + 100 : packet * 188 + 188] = np.random.default_rng(packet).integers(0, 256, 88)
    noisy.write_bytes(data.tobytes())
    growing = write_video(folder / "growing.mp4", 10)

    def disturb(picture: torch.Tensor) -> torch.Tensor:
        with growing.open("ab") as file:
            file.write(b"more")
        return picture

    names = ("absent.mp4", "empty.mp4", "text.mp4", "list.mp4", "picture.png", "secret.mp4", "cut.mp4", "noisy.ts")
    files: list[Any] = [(folder / name, {}) for name in names]
    files += [(folder, {}), (write_sound(folder / "sound.m4a", cover=True), {}), (growing, {"transform": disturb})]
    return [*files, (growing, {"limits": VideoLimits(max_frames=1)})]


def _odd(folder: Path) -> list[Any]:
    """Videos that can be used and say that something is wrong."""
    whole = write_video(folder / "ts.ts", 120, gop=20).read_bytes()
    middle = len(whole) // 2 // 188 * 188
    (folder / "lost.ts").write_bytes(whole[:middle] + bytes(400_000) + whole[middle:])
    (folder / "joined.ts").write_bytes(whole + whole)
    spoilt = bytearray(write_video(folder / "spoilt.avi", 60, codec="mpeg4").read_bytes())
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 60] = b"\xff" * 60
    (folder / "spoilt.avi").write_bytes(spoilt)
    ticks = [*range(20), *range(120, 140)]
    files = [folder / name for name in ("lost.ts", "joined.ts", "spoilt.avi", "cut.mp4")]
    files += [_hole(write_video(folder / "hole.mp4", 150, gop=25, container_options={"movflags": "faststart"}))]
    files += [_hole(write_video(folder / "hole.ts", 150, gop=25)), _hole(write_video(folder / "hole.flv", 150, gop=25))]
    files += [_cut(write_video(folder / "cut.mkv", 60)), write_video(folder / "gap.mkv", 40, ticks=ticks)]
    return [(file, {"accept_truncated": True}) for file in files]


def _said(make: Callable[[Path], list[Any]], folder: Path) -> list[str]:
    messages: list[str] = []
    for source, options in make(folder):
        try:
            messages += read_frames(source, **options).metadata.notes
        except LFVilaVideoError as error:
            messages.append(error.reason)
    return messages


def _pattern(listed: str) -> str:
    """Expression for a listed message: any numbers, singular or plural, and anything in place of dots."""
    words = re.sub(r"(\\ )?\\\.\\\.\\\.(\\ )?", ".*", re.escape(listed))
    return re.sub(r"\b(packet|time|gap)s?\b", r"\1s?", re.sub(r"\d+(\\\.\d+)?", r"[\\d.]+", words))


def test_every_message_of_the_documentation_is_given_and_every_given_one_is_documented(tmp_path: Path) -> None:
    said = [*_said(_unusable, tmp_path), *_said(_odd, tmp_path)]
    patterns = [_pattern(one) for one in _listed() if one != "..."]
    assert len(patterns) > 15
    unsaid = [pattern for pattern in patterns if not any(re.match(pattern, message) for message in said)]
    assert not unsaid, said
    named = [message for message in said if not re.search(r"\(max_\w+\)", message)]  # "names the limit"
    unlisted = [message for message in named if not any(re.match(pattern, message) for pattern in patterns)]
    assert not unlisted


def test_a_limit_is_named() -> None:
    with pytest.raises(LFVilaVideoError, match=r"above the limit of 2 \(max_bytes\)"):
        read_frames(b"123", limits=VideoLimits(max_bytes=2))

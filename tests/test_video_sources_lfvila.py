"""Sources: paths, bytes, files, addresses (a server on this machine), `datasets` columns; limits and the one error.

Files that are no videos, lie about themselves, change, or never come are refused before a decoder sees them.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from video_files import read_barcodes, write_video

from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoFrames, VideoLimits, read_frames, uniform_indices
from lfvila_hf.video_sources_lfvila import FORMATS, VIDEO_EXTENSIONS, describe_source, is_address

WANTED = uniform_indices(30, 5)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 30)


def _assert_read(read: VideoFrames) -> None:
    assert read_barcodes(read.frames) == WANTED


# Addresses.


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file, with or without byte ranges, or stops after some bytes."""

    data = b""
    ranges = True
    stall_after: int | None = None
    drip = False
    status = 200

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        start, end, status = 0, len(self.data), self.status
        wanted = self.headers.get("Range")
        if wanted and self.ranges and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1 if last else end, end), 206
        self.send_response(status)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.data)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if not body:
            return
        with contextlib.suppress(OSError):
            if self.drip:
                for place in range(start, end):
                    self.wfile.write(self.data[place : place + 1])
                    self.wfile.flush()
                    time.sleep(0.2)
            elif self.stall_after is None:
                self.wfile.write(self.data[start:end])
            else:
                self.wfile.write(self.data[start : min(start + self.stall_after, end)])
                self.wfile.flush()
                time.sleep(6)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _server(data: bytes, **settings: Any) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"data": data, **settings})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_http_address_is_a_video(video: Path, ranges: bool) -> None:
    pytest.importorskip("aiohttp")
    with _server(video.read_bytes(), ranges=ranges) as address:
        read = read_frames(address, num_frames=5)
        _assert_read(read)
        assert read.metadata.source == address
        _assert_read(read_frames(address, num_frames=5, num_threads=2))


def test_an_address_that_says_no_is_the_one_error(video: Path) -> None:
    pytest.importorskip("aiohttp")
    with _server(video.read_bytes(), status=404) as address, pytest.raises(LFVilaVideoError, match="/a.mp4: "):
        read_frames(address, num_frames=5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LFVilaVideoError, match=f"127.0.0.1:{port}/b.mp4: "):
        read_frames(f"http://127.0.0.1:{port}/b.mp4", num_frames=5)


def test_an_address_that_stops_answering_ends_at_the_limit(video: Path) -> None:
    pytest.importorskip("aiohttp")
    start = time.monotonic()
    with (
        _server(video.read_bytes(), stall_after=100) as address,
        pytest.raises(LFVilaVideoError, match="/a.mp4: "),
    ):
        read_frames(address, num_frames=5, limits=VideoLimits(open_timeout=1))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("ranges", [True, False])
def test_an_address_that_answers_byte_by_byte_ends_at_the_limit(video: Path, ranges: bool) -> None:
    pytest.importorskip("aiohttp")
    start = time.monotonic()
    with (
        _server(video.read_bytes(), drip=True, ranges=ranges) as address,
        pytest.raises(LFVilaVideoError, match="/a.mp4: "),
    ):
        read_frames(address, num_frames=5, limits=VideoLimits(max_seconds=1))
    assert time.monotonic() - start < 20


def test_any_fsspec_address_is_a_video(video: Path, tmp_path: Path) -> None:
    import zipfile

    import fsspec

    with fsspec.open("memory://clips/a.mp4", "wb") as file:
        file.write(video.read_bytes())
    _assert_read(read_frames("memory://clips/a.mp4", num_frames=5))
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(video, "inner.mp4")
    _assert_read(read_frames(f"zip://inner.mp4::{tmp_path / 'clips.zip'}", num_frames=5))
    with pytest.raises(LFVilaVideoError, match="memory://clips/absent.mp4"):
        read_frames("memory://clips/absent.mp4", num_frames=5)
    with pytest.raises(LFVilaVideoError, match="nonsense://a.mp4"):
        read_frames("nonsense://a.mp4", num_frames=5)


def test_what_looks_like_an_address() -> None:
    assert all(map(is_address, ["http://a/b.mp4", "hf://datasets/a/b.mp4", "zip://a.mp4::http://b", "s3://a"]))
    assert not any(map(is_address, ["a.mp4", "/a/b.mp4", "C://a.mp4", "concat:a|b", "a b://c", "://a"]))


# Files and datasets.


def test_paths_bytes_and_mappings_are_videos(video: Path) -> None:
    data = video.read_bytes()
    for source in (video, str(video), data, bytearray(data), memoryview(data), io.BytesIO(data), video.as_uri()):
        _assert_read(read_frames(source, num_frames=5))
    for mapping in ({"path": str(video), "bytes": None}, {"path": None, "bytes": data}):
        _assert_read(read_frames(mapping, num_frames=5))
    with pytest.raises(ValueError, match="needs 'path' or 'bytes', got the keys \\['bytes', 'path'\\]"):
        read_frames({"path": None, "bytes": None}, num_frames=5)
    with pytest.raises(ValueError, match="a video must be a path"):
        read_frames(17, num_frames=4)


def test_a_file_object_is_left_open_and_may_stand_anywhere(video: Path) -> None:
    with video.open("rb") as file:
        file.seek(100)
        for _ in range(2):
            read = read_frames(file, num_frames=5)
            _assert_read(read)
        assert not file.closed
        assert read.metadata.source == str(video)
    with video.open("rb") as file, pytest.raises(LFVilaVideoError, match="open in text mode"):
        read_frames(io.TextIOWrapper(file), num_frames=5)
    with pytest.raises(LFVilaVideoError, match="a.mp4: "):
        read_frames(file, num_frames=5)


def test_a_stream_that_cannot_seek_is_read_up_to_a_limit(video: Path) -> None:
    program = f"import sys; sys.stdout.buffer.write(open({str(video)!r}, 'rb').read())"

    def pipe() -> Any:
        return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)

    with pipe() as process:
        _assert_read(read_frames(process.stdout, num_frames=5))
    with pipe() as process:
        with pytest.raises(LFVilaVideoError, match="more than 1000 bytes \\(max_bytes_in_memory\\)"):
            read_frames(process.stdout, num_frames=5, limits=VideoLimits(max_bytes_in_memory=1000))
        process.stdout.read()


def test_a_datasets_video_column_is_read(video: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"video": [str(video), {"path": None, "bytes": video.read_bytes()}]}
    features = datasets.Features({"video": datasets.Video(decode=False)})
    for row in datasets.Dataset.from_dict(rows, features=features):
        _assert_read(read_frames(row["video"], num_frames=5))

    class Decoded:
        """What a decoded column holds: a decoder object that remembers where it came from."""

        _hf_encoded = {"path": str(video), "bytes": None}

    _assert_read(read_frames(Decoded(), num_frames=5))


def test_one_list_of_endings_holds_for_all_folders_and_exact_names_need_none(video: Path, tmp_path: Path) -> None:
    from lfvila_hf.data.annotations import resolve_video
    from lfvila_hf.data.checking import find_videos

    assert {".mp4", ".mts", ".m2ts", ".vob", ".3g2", ".ogv"} < set(VIDEO_EXTENSIONS)
    assert VIDEO_EXTENSIONS[0] == ".mp4"
    for number, ending in enumerate(VIDEO_EXTENSIONS):
        (tmp_path / f"{number}{ending}").write_bytes(b"x")
        assert resolve_video(str(tmp_path), str(number), "row 1") == str(tmp_path / f"{number}{ending}")
    assert len(find_videos(tmp_path)) == len(VIDEO_EXTENSIONS)
    for name in ("clip.part1", "clip.", "clip"):
        (tmp_path / name).write_bytes(video.read_bytes())
        assert resolve_video(str(tmp_path), name, "row 1") == str(tmp_path / name)
        _assert_read(read_frames(tmp_path / name, num_frames=5))


def test_sources_are_named_as_a_person_would() -> None:
    assert describe_source(Path("/a/b.mp4")) == "/a/b.mp4"
    assert describe_source(b"123") == "bytes (3)"
    assert describe_source({"path": "c.mp4"}) == "c.mp4"
    assert describe_source(torch.zeros(2, 3, 4, 4)) == "Tensor (2, 3, 4, 4)"
    assert describe_source(io.BytesIO()) == "BytesIO object"


# The one error.


def test_the_error_is_made_again_from_a_text_that_holds_it() -> None:
    first = LFVilaVideoError("old.mp4", "gone")
    for error in (
        LFVilaVideoError("a b.mp4", "truncated: 3 of 5 frames", "frame 7 (0.28 s)"),
        LFVilaVideoError("a.mp4", "no such file: really"),
        LFVilaVideoError("a.mp4", "odd\nin two lines", "frame 7"),
    ):
        text = f"Caught LFVilaVideoError in worker 0.\nValueError: {first}\n\nlfvila.LFVilaVideoError: {error}\n"
        again = LFVilaVideoError(text)
        assert (again.source, again.reason, again.position) == (error.source, error.reason, error.position)
        assert str(again) == text
        assert str(pickle.loads(pickle.dumps(again))) == str(error)
    other = LFVilaVideoError("just words")
    assert (str(other), other.reason, other.position) == ("just words", "just words", None)


def test_limits_are_kept_and_named(video: Path) -> None:
    for name, value in [("max_bytes", 100), ("max_pixels", 1000), ("max_frames", 10), ("max_output_bytes", 1000)]:
        with pytest.raises(LFVilaVideoError, match=name):
            read_frames(video, num_frames=4, limits=VideoLimits(**{name: value}))
    with pytest.raises(LFVilaVideoError, match="longer than the limit of 1e-09 s"):
        read_frames(video, num_frames=4, limits=VideoLimits(max_seconds=1e-9))
    with pytest.raises(ValueError, match="max_pixels must be above 0"):
        VideoLimits(max_pixels=0)


def test_torch_can_raise_a_workers_error_again() -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise LFVilaVideoError("a.mp4", "no such file", "frame 3")
    except LFVilaVideoError:
        wrapper = ExceptionWrapper(where="in a worker")
    with pytest.raises(LFVilaVideoError, match="in a worker") as caught:
        wrapper.reraise()
    assert (caught.value.source, caught.value.reason, caught.value.position) == ("a.mp4", "no such file", "frame 3")


# What is refused.


def test_what_is_no_video_gets_the_one_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    for path, reason in [
        (tmp_path / "empty.mp4", "empty"),
        (tmp_path / "absent.mp4", "no such file"),
        (tmp_path, "directory"),
    ]:
        with pytest.raises(LFVilaVideoError, match=reason) as caught:
            read_frames(path, num_frames=4)
        assert caught.value.source == str(path)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(LFVilaVideoError, match="bytes \\(7\\)"):
        read_frames(b"1234567", num_frames=4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nSECRET\n#EXT-X-ENDLIST\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nSECRET\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile 'SECRET'\n"),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("text.mp4", "no video " * 100),
        ("scene.dash", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
    ],
)
def test_play_lists_and_texts_cannot_make_other_files_be_read(
    video: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content.replace("SECRET", str(video)))
    with pytest.raises(LFVilaVideoError, match=f"{name}: (no video data|not a video that may be opened)"):
        read_frames(tmp_path / name, num_frames=5)


def test_path_names_are_never_protocols(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "http:a.mp4", "pipe:0", "-i.mp4", "a%03d.mp4", "a b\n.mp4"):
        (tmp_path / name).write_bytes(video.read_bytes())
        _assert_read(read_frames(name, num_frames=5))
    with pytest.raises(LFVilaVideoError, match="subfile.*no such file"):
        read_frames("subfile,,start,0,end,0,,:a.mp4", num_frames=5)
    with pytest.raises(LFVilaVideoError, match="cannot be looked at"):
        read_frames("a\0b.mp4", num_frames=5)


def test_a_single_picture_is_no_video(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(LFVilaVideoError, match="a.png: not a video that may be opened"):
        read_frames(tmp_path / "a.png", num_frames=5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(LFVilaVideoError, match="pipe.mp4: this is no regular file but a pipe"):
        read_frames(tmp_path / "pipe.mp4", num_frames=5)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no such permissions")
def test_a_file_without_permission_is_refused(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(video.read_bytes())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # the superuser may read everything, so be somebody else for as long as it takes
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(LFVilaVideoError, match=r"locked.mp4: .*[pP]ermission"):
            read_frames(path, num_frames=5)
    finally:
        os.seteuid(user)


def test_a_file_that_changes_while_it_is_read_is_an_error(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "growing.mp4"
    path.write_bytes(video.read_bytes())

    def disturb(picture: torch.Tensor) -> torch.Tensor:
        with path.open("ab") as file:
            file.write(b"more")
        return picture

    with pytest.raises(LFVilaVideoError, match="growing.mp4: the file changed while it was read"):
        read_frames(path, num_frames=5, transform=disturb)


def test_a_claim_of_huge_pictures_is_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + b"0" * 1000)
    with pytest.raises(LFVilaVideoError, match="16000 x 16000 is above the limit of 67108864 pixels \\(max_pixels\\)"):
        read_frames(path, num_frames=5)


@pytest.mark.parametrize("constant_size", [False, True])
def test_a_claim_of_a_billion_frames_costs_nothing(tmp_path: Path, constant_size: bool) -> None:
    path = write_video(tmp_path / "billion.mp4", 10)
    data = bytearray(path.read_bytes())
    billion = (10**9).to_bytes(4, "big")
    sizes, times, chunks = (data.find(name) for name in (b"stsz", b"stts", b"stsc"))
    assert min(sizes, times, chunks) > 0
    if constant_size:
        data[sizes + 8 : sizes + 12] = (1).to_bytes(4, "big")
    data[sizes + 12 : sizes + 16] = billion
    data[times + 12 : times + 16] = billion
    data[chunks + 16 : chunks + 20] = billion
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(LFVilaVideoError, match="billion.mp4: "):
        read_frames(path, num_frames=5)
    assert time.monotonic() - start < 10


def test_only_containers_of_video_may_be_opened() -> None:
    import av

    known = {name for entry in av.formats_available for name in entry.split(",")}
    allowed = FORMATS.split(",")
    assert {"mov", "mp4", "matroska", "webm", "avi", "flv", "mpegts"} <= set(allowed)
    assert not {"hls", "dash", "concat", "image2", "sdp", "rtsp", "lavfi", "v4l2", "imf"} & set(allowed)
    assert len(set(allowed) & known) > 20

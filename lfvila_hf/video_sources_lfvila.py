# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Sources of videos, the error of an unusable one, and limits of what reading may cost.

A *source* is anything one video can be read from: a path, bytes, an open file, an `http(s)`/`hf`/`s3` address (through
fsspec), or the dictionary `{"path": ..., "bytes": ...}` that a `datasets` video column holds when it is not decoded.
This file turns each of them into something that can be opened more than once, and refuses what cannot be a video
before a decoder sees it: a missing file, a directory, a pipe, an empty file, a file over the size limit.

Two things guard against hostile files. Paths are handed to FFmpeg as `file:` addresses and only demuxers of real video
containers may open them (`FORMATS`), so that a play list that is called `clip.mp4` cannot make the reader open other
files or the network. And `VideoLimits` bounds bytes, pixels, frames, memory and seconds; every bound has a default
that a real video does not meet.

`structure_fault` follows the parts of a container from its first byte to its last, so that lost bytes are not silent.

There is one exception, `LFVilaVideoError`, for "this video cannot be used"; it names the source, the reason and, if
there is one, the position.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]  # checked before use

# The demuxers a source may be opened with: containers and bare streams of video, no play list, no image sequence, no
# device.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,h264,hevc,av1,obu,ivf,m4v,mjpeg,"
    "dv,mxf,nut,rm,swf,vob,wtv,gif,apng,webp_anim,y4m,yuv4mpegpipe,h263,mpjpeg,mp3,aac,wav,flac"
)
ATTACHED_PICTURE = 0x400
# Endings of file names that are taken for videos when a folder is searched, the likeliest first.
VIDEO_EXTENSIONS = tuple(
    ".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .3gp .3g2 .flv .f4v .wmv .asf .ts .mts .m2ts .m2v .vob .ogv .ogg .divx "
    ".dv .mxf .nut .rm .rmvb .qt .y4m .ivf .obu .h264 .hevc .gif".split()
)
# Set by a pool of readers: the event that ends every reading begun in this context.
STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


class LFVilaVideoError(ValueError):
    """Error of a video that cannot be used, with its source, the reason and the position.

    Args:
        source: The video, as a person would name it: the path, the address, or "bytes (1234)".
        reason: The fault and, if it helps, the expectation. Without it `source` is the text of another such
            error with words around it, of which the three parts are read: torch makes an error of a loader worker
            again from its traceback.
        position: Place in the video, such as "frame 812 (27.1 s)"; `None` for the whole video.
    """

    def __init__(self, source: str, reason: str | None = None, position: str | None = None) -> None:
        text = source
        if reason is None:
            source, reason, position = _parts_of(text)
        else:
            text = f"cannot use video {source}{f' at {position}' if position else ''}: {reason}"
        self.source = source
        self.reason = reason
        self.position = position
        super().__init__(text)

    def __reduce__(self) -> tuple[type[LFVilaVideoError], tuple[str, str, str | None]]:
        """Keep the three parts when the error crosses a process border."""
        return type(self), (self.source, self.reason, self.position)


def _parts_of(text: str) -> tuple[str, str, str | None]:
    """Source, reason and position of the last error in a text; a source with ": " in its name is cut there."""
    found = re.search(
        r"cannot use video (.*?)(?: at (frame \d+(?: \([\d.]+ s\))?))?: (.*)", _last_error(text), re.DOTALL
    )
    return (found[1], found[3].strip(), found[2]) if found else ("(not named)", text, None)


def _last_error(text: str) -> str:
    return text[max(text.rfind("cannot use video "), 0) :]


@dataclass(frozen=True)
class VideoLimits:
    """Limits of the cost of one video. A value of `None` lifts a limit.

    Args:
        max_bytes: Size of the file. The default, 64 GiB, is a day of 1080p at 6 Mbit/s.
        max_bytes_in_memory: Size of a source that has to be read into memory (a stream that cannot seek). 2 GiB.
        max_pixels: Height times width of a picture. The default, 8192 x 8192, is above 8K UHD.
        max_frames: Frames in the video. The default, 10 million, is 92 hours at 30 frames per second.
        max_output_bytes: Bytes of the returned frames. 8 GiB.
        max_seconds: Wall seconds one call may read and decode, looked at between packets. 300.
        max_memory_bytes: Memory that decoding in a separate process (`isolated=True`) may allocate there. 4 GiB.
        open_timeout: Seconds that opening or one read from a network address may take. 30.
        max_duration: Seconds that the video's time stamps may claim. The default is a day.
    """

    max_bytes: int | None = 64 * 2**30
    max_bytes_in_memory: int | None = 2 * 2**30
    max_pixels: int | None = 8192 * 8192
    max_frames: int | None = 10_000_000
    max_output_bytes: int | None = 8 * 2**30
    max_seconds: float | None = 300.0
    max_memory_bytes: int | None = 4 * 2**30
    open_timeout: float | None = 30.0
    max_duration: float | None = 86_400.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"the limit {name} must be above 0 or None, got {value!r}")


class Deadline:
    """Time limit of one call.

    Args:
        source: Name of the video for the error.
        seconds: Seconds from now; `None` for no end.
    """

    def __init__(self, source: str, seconds: float | None) -> None:
        self.source = source
        self.seconds = seconds
        self.end = None if seconds is None else time.monotonic() + seconds
        self._stop = STOP.get()

    def check(self, position: str | None = None) -> None:
        """Raise `LFVilaVideoError` if the time is over, or nobody waits for the frames any more."""
        if self._stop is not None and self._stop.is_set():
            raise LFVilaVideoError(self.source, "reading was stopped", position)
        if self.end is not None and time.monotonic() > self.end:
            raise LFVilaVideoError(self.source, f"reading took longer than the limit of {self.seconds:g} s", position)


class VideoSource:
    """Video that can be opened, if need be by several decoders at once.

    Args:
        source: A path (`str`, `os.PathLike`), `bytes`, an open binary file, an address with `://`, or a mapping with
            `path` or `bytes` as `datasets` makes it.
        limits: Bounds; size and reading into memory are checked here.

    Raises:
        LFVilaVideoError: if there is no regular, non-empty file of an allowed size behind it.
        ValueError: if it is of no kind that holds a video.
    """

    def __init__(self, source: Any, limits: VideoLimits) -> None:
        self.limits = limits
        self.path: str | None = None
        self._data: bytes | memoryview | None = None
        self._file: Any = None
        self._opened: Any = None
        self._status: os.stat_result | None = None
        source = _unwrap_mapping(source)
        self.name = describe_source(source)
        if isinstance(source, (str, os.PathLike)):
            text = os.fspath(source)
            if isinstance(text, bytes):
                text = os.fsdecode(text)
            if is_address(text):
                self._opened = _open_address(text, self.name, limits)
                with video_errors(self.name):
                    file = self._opened.open()
                self._adopt_file(file)
            else:
                self.path = os.path.abspath(text)
                self._status = self._check_path()
        elif isinstance(source, (bytes, bytearray, memoryview)):
            self._data = bytes(source) if isinstance(source, bytearray) else source
            self._check_size(len(self._data))
        elif callable(getattr(source, "read", None)):
            self._adopt_file(source)
        else:
            raise ValueError(
                f"a video must be a path, bytes, an open binary file, an address or frames, got {type(source)!r}"
            )

    @property
    def shareable(self) -> bool:
        """True if several decoders can read this source at the same time."""
        return self.path is not None or self._data is not None

    @property
    def identity(self) -> tuple[Any, ...] | None:
        """Whatever changes when another file takes the place of this one; `None` for anything but a path."""
        status = self._status
        if status is None:
            return None
        return self.path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def handle(self) -> Any:
        """Return the path, the bytes, or the file at its start."""
        if self.path is not None:
            return self.path
        if self._data is not None:
            return self._data
        self._file.seek(0)
        return self._file

    def portable(self) -> str | bytes:
        """Return the path or all bytes, which another process can read."""
        if self._file is None:
            return self.path if self.path is not None else bytes(self._data or b"")
        with video_errors(self.name):
            self._file.seek(0)
            return self._read_all(self._file)

    def content(self, most: int) -> bytes | memoryview | None:
        """Read the whole file, and leave an open one at its place; `None` above `most` bytes."""
        if self._data is not None:
            return self._data if len(self._data) <= most else None
        with video_errors(self.name):
            if self._status is not None:
                if self._status.st_size > most:
                    return None
                with open(str(self.path), "rb") as file:
                    data = file.read(most + 1)
            else:
                place = self._file.tell()
                self._file.seek(0)
                data = self._file.read(most + 1)
                self._file.seek(place)
        return data if len(data) <= most else None

    def close(self) -> None:
        """Close the connection to an address. A file that the caller opened stays open."""
        if self._opened is not None:
            self._opened.close()

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open a fresh `av` container at the start of the video and close it afterwards.

        Raises:
            ImportError: without PyAV.
            LFVilaVideoError: if this is no video that FFmpeg knows.
        """
        require_av()
        handle = self.handle()
        if self.path is not None:
            handle = f"file:{self.path}"
        elif self._data is not None:
            handle = io.BytesIO(handle)
        limits = self.limits
        options = {} if limits.max_pixels is None else {"max_pixels": str(limits.max_pixels)}
        with video_errors(self.name):
            container = av.open(
                handle,
                mode="r",
                options=options,
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
                metadata_errors="replace",
                timeout=limits.open_timeout,
            )
        try:
            yield container
        finally:
            container.close()

    def check_unchanged(self) -> None:
        """Raise `LFVilaVideoError` if the file was written to since this source was made."""
        before = self._status
        if before is None:
            return
        now = self._check_path()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise LFVilaVideoError(self.name, "the file changed while it was read")

    def _check_path(self) -> os.stat_result:
        assert self.path is not None
        try:
            status = os.stat(self.path)
        except FileNotFoundError as error:
            raise LFVilaVideoError(self.name, "no such file") from error
        except (OSError, ValueError) as error:
            raise LFVilaVideoError(self.name, f"the file cannot be looked at ({_reason(error)})") from error
        if stat.S_ISDIR(status.st_mode):
            raise LFVilaVideoError(self.name, "this is a directory, a video file was expected")
        if not stat.S_ISREG(status.st_mode):
            raise LFVilaVideoError(self.name, "this is no regular file but a pipe, a socket or a device")
        if not os.access(self.path, os.R_OK):
            raise LFVilaVideoError(self.name, "no permission to read it")
        self._check_size(status.st_size)
        return status

    def _check_size(self, size: int) -> None:
        if size == 0:
            raise LFVilaVideoError(self.name, "it is empty (0 bytes)")
        if self.limits.max_bytes is not None and size > self.limits.max_bytes:
            raise LFVilaVideoError(
                self.name, f"{size} bytes are above the limit of {self.limits.max_bytes} (max_bytes)"
            )

    def _adopt_file(self, file: Any) -> None:
        if isinstance(file, io.TextIOBase):
            raise LFVilaVideoError(self.name, "the file is open in text mode, open it in binary mode ('rb')")
        with video_errors(self.name):
            size = _seekable_size(file)
            if size is not None:
                self._file = file
                self._check_size(size)
                return
            self._data = self._read_all(file)
        self._check_size(len(self._data))

    def _read_all(self, file: Any) -> bytes:
        limit = self.limits.max_bytes_in_memory
        data = file.read() if limit is None else file.read(limit + 1)
        if not isinstance(data, bytes):
            raise LFVilaVideoError(self.name, f"read() gave {type(data)!r}, bytes were expected")
        if limit is not None and len(data) > limit:
            reason = f"it has to be read into memory and has more than {limit} bytes (max_bytes_in_memory)"
            raise LFVilaVideoError(self.name, reason)
        return data


def _seekable_size(file: Any) -> int | None:
    """Return the size of a file that can go back to its start, else `None`."""
    seekable = getattr(file, "seekable", None)
    if seekable is None or not seekable():
        return None
    try:
        size = file.seek(0, os.SEEK_END)
    except (ValueError, io.UnsupportedOperation):  # some network files say that they can seek and cannot
        return None
    file.seek(0)
    return int(size)


def describe_source(source: Any) -> str:
    """Name a source for messages and metadata: the path, the address, or its kind and size."""
    source = _unwrap_mapping(source)
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(os.fspath(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes ({len(source)})"
    shape = getattr(source, "shape", None)
    if shape is not None:
        return f"{type(source).__name__} {tuple(shape)}"
    if isinstance(source, (list, tuple)):
        return f"list of {len(source)} frames"
    name = getattr(source, "name", None)
    return str(name) if isinstance(name, str) else f"{type(source).__name__} object"


def is_address(text: str) -> bool:
    """Tell whether a string is an address such as `https://host/clip.mp4`, and not a path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").replace("::", "").isalnum()


def require_av() -> None:
    """Raise an `ImportError` with the command to install PyAV if it is missing."""
    if av is None:
        raise ImportError("decoding a video file needs PyAV, which is not installed: `pip install av`")


class StaleTableError(Exception):
    """Signal inside the reader that a file is not as its table of frames says; the next, dearer table decides."""


@contextmanager
def video_errors(name: str, position: Callable[[], str | None] | None = None) -> Iterator[None]:
    """Turn whatever FFmpeg, PyAV or the file system raises inside into `LFVilaVideoError`.

    Args:
        name: The source.
        position: Called for the place in the video when something goes wrong.
    """
    try:
        yield
    except (LFVilaVideoError, StaleTableError, ImportError, TypeError, AttributeError, NameError, AssertionError):
        raise  # ours already, or a mistake in a program and not in a video
    except Exception as error:
        raise LFVilaVideoError(name, _reason(error), position() if position else None) from error


def _reason(error: BaseException) -> str:
    if av is not None and isinstance(error, av.error.InvalidDataError):
        return "no video data that can be decoded (FFmpeg: invalid data)"
    if av is not None and isinstance(error, av.error.ArgumentError):
        return "not a video that may be opened (pictures, play lists and device files are refused)"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, BlockingIOError):  # reading packets is tried again by itself; this is a thread without memory
        return "FFmpeg gave up (resource temporarily unavailable): most likely there is not enough memory to decode it"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}"


def _unwrap_mapping(source: Any) -> Any:
    source = getattr(source, "_hf_encoded", source)  # the source of a decoded `datasets` video
    if not isinstance(source, Mapping):
        return source
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key]
    raise ValueError(f"a video given as a mapping needs 'path' or 'bytes', got the keys {sorted(map(str, source))}")


def _open_address(address: str, name: str, limits: VideoLimits) -> Any:
    """Make an unopened `fsspec` file of an address; it has to live as long as the file that its `open` returns."""
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"reading {address} needs fsspec: `pip install fsspec`") from error
    options: dict[str, Any] = {}
    if address.partition("://")[0] in ("http", "https") and limits.open_timeout is not None:
        try:
            import aiohttp
        except ImportError as error:
            raise ImportError(f"reading {address} needs aiohttp: `pip install fsspec[http]`") from error
        # `total` is for one request: a server that sends a byte now and then never meets the other two.
        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(
                total=limits.max_seconds, sock_connect=limits.open_timeout, sock_read=limits.open_timeout
            )
        }
    with video_errors(name):
        return fsspec.open(address, "rb", **options)


# -- structure of containers -------------------------------------------------------------------------------------------
#
# FFmpeg skips what it cannot parse and looks for the next packet behind it, and says so in its log alone. Frames lost
# in that way leave no other trace where a container has no index: a Matroska file that was cut off, a transport stream
# with an overwritten packet. So the parts of short files are followed by their stated sizes, not looking at pictures.

# Zeros up to a sector after the last part are padding.
PADDING = 2048
# Parts that are followed at most: a second's work.
MOST_PARTS = 200_000
# Identifiers of Matroska: the header, the segment, its children, clusters and their children.
HEADER, SEGMENT, CLUSTER, VOID, CHECKSUM = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC, 0xBF
IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, CLUSTER, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469}
IN_SEGMENT |= {VOID, CHECKSUM}
IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854, VOID, CHECKSUM}
# Boxes of a movie fragment.
IN_FRAGMENT = {b"mfhd", b"traf", b"pssh", b"meta", b"udta", b"uuid", b"free"}
# Sizes of transport packets (bare, with a time code of 4 bytes before, with a checksum after), and the marker's place.
PACKET_SIZES = ((188, 0), (192, 4), (204, 0))
# Ends of a part, from its place: `(data, place, end of what it is in)`.
Step = Callable[["_File", int, int], int]


class _Fault(Exception):
    """End of a check, with the fault in words; empty if there are too many parts to follow."""


class _File(bytes):
    """Content of a file, and how many parts may still be followed."""

    left = MOST_PARTS


def structure_fault(data: bytes | memoryview, container: str) -> str | None:
    """Follow the parts of a file.

    Args:
        data: The whole file.
        container: FFmpeg's name of the container format.

    Returns:
        The first fault in words; `None` if there is none, or the container is of no kind that is known here.
    """
    check = _CHECKS.get(container.partition(",")[0])
    try:
        if check is not None:
            check(_File(data))
    except _Fault as fault:
        return str(fault) or None
    return None


def _follow(data: _File, place: int, end: int, step: Step) -> None:
    """Go from part to part until `end`."""
    while place < end:
        data.left -= 1
        if not data.left:
            raise _Fault
        if data[place] == 0 and end - place <= PADDING and not any(data[place:end]):
            return
        place = step(data, place, end)
    if place > end:
        if end < len(data):
            raise _broken(end)
        raise _missing(place - len(data))


def _broken(place: int) -> _Fault:
    return _Fault(f"damaged: the structure of the container is broken at byte {place}")


def _missing(count: int) -> _Fault:
    return _Fault(f"truncated: at least {count} bytes of the container are missing at its end")


def _check_boxes(data: _File) -> None:
    _follow(data, 0, len(data), _after_box)


def _after_box(data: _File, place: int, end: int) -> int:
    size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
    if size == 1:
        size = int.from_bytes(data[place + 8 : place + 16], "big")
    if size == 0:  # until the end
        return end
    if size < 8 or not name.isascii() or not name.decode("ascii").isprintable():
        raise _broken(place)
    after = place + size
    if name == b"moof" and after <= end:
        _follow(data, place + 8, after, _after_box_of_fragment)
    return after


def _after_box_of_fragment(data: _File, place: int, end: int) -> int:
    if data[place + 4 : place + 8] not in IN_FRAGMENT:
        raise _broken(place)
    return _after_box(data, place, end)


def _check_elements(data: _File) -> None:
    name, start, end = _element(data, 0)
    if name != HEADER or end is None:
        raise _broken(0)
    _follow(data, end, len(data), _after_segment)


def _after_segment(data: _File, place: int, end: int) -> int:
    name, start, after = _element(data, place)
    if name == VOID and after is not None:
        return after
    if name != SEGMENT:
        raise _broken(place)
    _follow(data, start, min(after or end, end), _after_child)
    return after or end


def _after_child(data: _File, place: int, end: int) -> int:
    name, start, after = _element(data, place)
    if name not in IN_SEGMENT:
        raise _broken(place)
    if name == CLUSTER and after is None:  # a live recording: its children follow each other with those of the segment
        return start
    if name == CLUSTER and after is not None and after <= end:
        _follow(data, start, after, _after_block)
    if after is None:
        raise _broken(place)
    return after


def _after_block(data: _File, place: int, end: int) -> int:
    name, _, after = _element(data, place)
    if name not in IN_CLUSTER or after is None:
        raise _broken(place)
    return after


def _element(data: _File, place: int) -> tuple[int, int, int | None]:
    """Read the identifier of an element, the place of its content, and its end; `None` if the size is not stated."""
    numbers = []
    start = place
    for bits in (0, 7):
        length = 9 - data[start].bit_length() if start < len(data) else 9
        if length > 8 or start + length > len(data):
            raise _broken(place)
        number = int.from_bytes(data[start : start + length], "big")
        numbers.append(number & ((1 << bits * length) - 1) if bits else number)
        start += length
    unknown = numbers[1] == (1 << 7 * length) - 1
    return numbers[0], start, None if unknown else start + numbers[1]


def _check_chunks(data: _File) -> None:
    _follow(data, 0, len(data), _after_riff)


def _after_riff(data: _File, place: int, end: int) -> int:
    if data[place : place + 4] != b"RIFF":
        raise _broken(place)
    after = place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")
    if after <= end:
        _follow(data, place + 12, after, _after_chunk)
    return after + after % 2


def _after_chunk(data: _File, place: int, end: int) -> int:
    name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
    if not name.isalnum() and name.rstrip() != b"rec":
        raise _broken(place)
    after = place + 8 + size
    if name == b"LIST" and data[place + 8 : place + 12] in (b"movi", b"rec ") and after <= end:
        _follow(data, place + 12, after + after % 2, _after_chunk)
    return after + after % 2


def _check_tags(data: _File) -> None:
    if data[:3] != b"FLV":
        raise _broken(0)
    _follow(data, int.from_bytes(data[5:9], "big") + 4, len(data), _after_tag)


def _after_tag(data: _File, place: int, end: int) -> int:
    if data[place] & 31 not in (8, 9, 18):
        raise _broken(place)
    after = place + 11 + int.from_bytes(data[place + 1 : place + 4], "big")
    if after + 4 <= end and int.from_bytes(data[after : after + 4], "big") not in (0, after - place):
        raise _broken(after)
    return after + 4


def _check_transport_packets(data: _File) -> None:
    """Look at the marker, the error flag and the counter of every transport packet."""
    sizes = [(size, place) for size, place in PACKET_SIZES if len(data) > size and data[place] == data[place + size]]
    size, place = next(((size, place) for size, place in sizes if data[place] == 0x47), (0, 0))
    if not size:
        raise _broken(0)
    count, rest = divmod(len(data), size)
    packets = np.frombuffer(data, np.uint8, count * size).reshape(count, size)[:, place : place + 6].astype(np.int64)
    broken = (packets[:, 0] != 0x47) | (packets[:, 1] & 0x80 > 0)
    program = (packets[:, 1] & 0x1F) << 8 | packets[:, 2]
    has_content = packets[:, 3] & 0x10 > 0
    announced = (packets[:, 3] & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)  # a cut on purpose
    for one in np.unique(program[program != 0x1FFF]):
        places = np.flatnonzero((program == one) & has_content)
        steps = np.diff(packets[places, 3]) & 0xF
        broken[places[1:]] |= (steps > 1) & ~announced[places[1:]]
    if broken.any():
        raise _broken(int(broken.argmax()) * size)
    if rest:
        raise _missing(size - rest)


def _check_program_packets(data: _File) -> None:
    _follow(data, 0, len(data), _after_program_packet)


def _after_program_packet(data: _File, place: int, end: int) -> int:
    if data[place : place + 3] != b"\0\0\1" or place + 4 > end or data[place + 3] < 0xB9:
        raise _broken(place)
    kind = data[place + 3]
    if kind == 0xB9:
        return place + 4
    if kind == 0xBA:
        second = data[place + 4 : place + 5] >= b"\x40"  # MPEG-2 has stuffing
        return place + 14 + (data[place + 13] & 7 if place + 13 < end else 0) if second else place + 12
    return place + 6 + int.from_bytes(data[place + 4 : place + 6], "big")


_CHECKS: dict[str, Callable[[_File], None]] = {
    "mov": _check_boxes,
    "matroska": _check_elements,
    "avi": _check_chunks,
    "flv": _check_tags,
    "mpegts": _check_transport_packets,
    "mpeg": _check_program_packets,
}

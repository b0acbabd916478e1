# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames of a video that is still being made: standard input, a growing file, a device, an address.

`LiveVideo` decodes forward, one frame in memory at a time, and never seeks back. A source ends when its writer closes
it, when nothing comes for `stall_seconds`, or when `stop` is set. In every case what has come by then is decoded and
given out first; `LiveVideo.ending` says which case it was.

FFmpeg reads files and standard input through a Python object, so it opens nothing by itself. Addresses are opened by
FFmpeg, with protocols of the network only.
"""

from __future__ import annotations

import math
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Literal

import torch

from lfvila_hf.video_decoding_lfvila import CLOCK_ERROR, FrameConverter, VideoSession
from lfvila_hf.video_sources_lfvila import (
    FORMATS,
    Deadline,
    LFVilaVideoError,
    VideoLimits,
    av,
    is_address,
    require_av,
    video_errors,
)

NETWORK_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,udplite,rtp,rtmp,rtmps,rtmpt,rtsp,srt,crypto"
NETWORK_FORMATS = f"{FORMATS},hls,dash,rtsp,rtp,sdp"
DEVICE_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
CLOCK_RANGE = Fraction(2**33, 90_000)
"""Seconds after which the clock of MPEG transport streams starts again: 26.5 hours."""
GAP_SECONDS = 30.0
"""Seconds without a frame above which the frame before counts as gone, not as still on screen."""
POLL_SECONDS = 0.1
"""Seconds between two looks at a file that does not grow."""

Ending = Literal["end", "stalled", "broken", "stopped"]


class LiveVideo:
    """Video source that is read once, forward, while it is written.

    Args:
        source: "-" for standard input, a file, a pipe, a device, or an address with `://`.
        stall_seconds: Seconds without new data after which the source counts as ended. Defaults to 30.
        allow_network: Whether an address may be opened. Defaults to False.
        stop: Event that ends reading.
        limits: Bound of the picture size. Defaults to `VideoLimits()`.

    Attributes:
        ending: "end" (the writer closed it; a file did not grow any more), "stalled" (nothing came from a pipe, device
            or address), "broken" (it ended within a frame), or "stopped". `None` while it runs.
        notes: Oddities, in words: gaps, broken packets.

    Raises:
        LFVilaVideoError: There is no such source, or it is an address and `allow_network` is False.
    """

    def __init__(
        self,
        source: str,
        stall_seconds: float = 30.0,
        allow_network: bool = False,
        stop: threading.Event | None = None,
        limits: VideoLimits | None = None,
    ) -> None:
        if not stall_seconds > 0:  # also NaN
            raise ValueError(f"stall_seconds must be above 0, got {stall_seconds}")
        self.source, self.stall_seconds = source, stall_seconds
        self.name = "standard input" if source == "-" else source
        self.stop = stop or threading.Event()
        self.limits = limits or VideoLimits()
        self.ending: Ending | None = None
        self.notes: list[str] = []
        self._bytes: _GrowingBytes | None = None
        self._newest: float | None = None  # second of the newest frame
        self._late = 0.0  # seconds by which a frame may begin late and still be on screen
        if is_address(source):
            if not allow_network:
                raise LFVilaVideoError(self.name, "it is an address: allow it with --allow-network")
        elif source != "-" and not os.path.exists(source):
            raise LFVilaVideoError(self.name, "no such file or device")

    def sampled(self, step: float) -> Iterator[tuple[float, torch.Tensor]]:
        """Yield pictures at a steady rate.

        Args:
            step: Seconds between two pictures.

        Yields:
            A second, counted as `read_frames` does from the container's start, and the upright picture `(3, H, W)`
            uint8 that is on screen then; the first one if none is yet. Where time stamps jump by more than
            `GAP_SECONDS`, the seconds between are left out.

        Raises:
            LFVilaVideoError: The source cannot be decoded, or its time stamps go back.
        """
        converter = FrameConverter(self.name, self.limits)
        shown: tuple[float, Any] | None = None  # the newest frame and its second
        number = gaps = 0
        longest = (0.0, 0.0)  # seconds of the longest gap, and where it begins
        for second, frame in self._frames():
            if shown is not None:
                until = second - self._late
                if second - shown[0] > GAP_SECONDS:
                    gaps += 1
                    longest = max(longest, (second - shown[0], shown[0]))
                    until = math.nextafter(shown[0], math.inf)
                picture = None
                while number * step < until:
                    picture = converter.convert(shown[1]) if picture is None else picture
                    yield number * step, picture
                    number += 1
                number = max(number, math.ceil((second - self._late) / step))
            elif second > GAP_SECONDS:
                number = math.ceil((second - self._late) / step)
            shown = second, frame
        if shown is not None and number * step <= shown[0] + self._late:
            yield number * step, converter.convert(shown[1])
        if gaps:
            self.notes.append(f"{gaps} gaps in time, the longest of {longest[0]:.1f} s after {longest[1]:.1f} s")

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """Decode forward; yields the second of every frame, counted from the container's start, and the frame.

        FFmpeg knows the start from the packets that it read to open the source. If they hold no earlier time stamp, the
        first frame is at second 0.
        """
        zero = None  # time stamp of second 0
        broken = 0
        with self._opened() as container:
            with video_errors(self.name):
                session = VideoSession(self, container, Deadline(self.name, None))  # type: ignore[arg-type]  # name, limits
            decoded: Iterator[Any] = session.decode_forward()
            self._late = float(min(CLOCK_ERROR, session.time_base / 2))
            # A stop ends the bytes of a file or pipe, and what has come is decoded. Other sources have no such end.
            while not (self.stop.is_set() and self._bytes is None):
                with video_errors(self.name, self._position):
                    try:
                        frame = next(decoded, None)
                    except (av.error.ExitError, av.error.TimeoutError):  # FFmpeg's own timeout
                        self.ending = "stalled"
                        decoded = iter(session.context.decode(None))
                        continue
                if frame is None:
                    break
                if frame.is_corrupt:
                    session.corrupt_packets += 1
                    continue
                if frame.pts is None:
                    raise LFVilaVideoError(self.name, "a frame has no time stamp", self._position())
                stamp = frame.pts * session.time_base
                if zero is None:
                    start = session.start(frame.pts)
                    zero = stamp if start is None else start
                second = float(stamp - zero)
                if self._newest is not None and self._newest - second > CLOCK_RANGE / 2:
                    zero -= CLOCK_RANGE
                    second = float(stamp - zero)
                if self._newest is not None and second < self._newest:
                    raise LFVilaVideoError(self.name, f"its time stamps go back to {second:.2f} s", self._position())
                self._newest, broken = second, session.corrupt_packets
                yield second, frame
        if session.corrupt_packets:
            self.notes.append(f"{session.corrupt_packets} broken packets or frames")
        if self.stop.is_set():
            self.ending = "stopped"
        elif self._bytes is not None and self._bytes.is_stalled:
            self.ending = "stalled"
        elif self.ending is None:
            self.ending = "broken" if session.corrupt_packets > broken else "end"
        if self._newest is None:
            raise LFVilaVideoError(self.name, self._reason_of_nothing("no frame of it could be decoded"))

    def _position(self) -> str | None:
        """Name the place behind the newest frame; `None` before the first."""
        return None if self._newest is None else f"{self._newest:.2f} s"

    def _reason_of_nothing(self, otherwise: str) -> str:
        """Say why there is no frame."""
        if self.stop.is_set():
            self.ending = "stopped"
            return "reading was stopped before there was a frame"
        if self.ending == "stalled" or (self._bytes is not None and self._bytes.is_stalled):
            self.ending = "stalled"
            return f"nothing that can be decoded came for {self.stall_seconds:g} s"
        return otherwise

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the container and close it afterwards."""
        require_av()
        options: dict[str, Any] = {"metadata_errors": "replace", "mode": "r"}
        pixels = self.limits.max_pixels
        options["options"] = {} if pixels is None else {"max_pixels": str(pixels)}
        descriptor = -1
        if is_address(self.source):
            handle: Any = self.source
            allowed = {"format_whitelist": NETWORK_FORMATS, "protocol_whitelist": NETWORK_PROTOCOLS}
            options |= {"container_options": allowed, "timeout": (self.stall_seconds, self.stall_seconds)}
        elif self.source != "-" and stat.S_ISCHR(os.stat(self.source).st_mode):
            handle, options["format"] = self.source, _device_format()
            options["timeout"] = (self.stall_seconds, self.stall_seconds)
        else:
            with video_errors(self.name):
                # Without O_NONBLOCK, opening a named pipe waits for its writer, however long that takes.
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                descriptor = 0 if self.source == "-" else os.open(self.source, flags)
                kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
                if kind == stat.S_IFDIR:
                    os.close(descriptor)
                    raise LFVilaVideoError(self.name, "this is a directory, a video file was expected")
            grows = kind == stat.S_IFREG and self.source != "-"
            self._bytes = (_GrowingFile if grows else _GrowingBytes)(descriptor, self.stall_seconds, self.stop)
            handle = self._bytes
            # FFmpeg would look at the end of a transport stream for its duration, and wait there for a file to grow.
            never = {"skip_estimate_duration_from_pts": "1"}
            options["container_options"] = {"format_whitelist": FORMATS, "protocol_whitelist": "file", **never}
        try:
            try:
                with video_errors(self.name):
                    container = av.open(handle, **options)
            except LFVilaVideoError as error:
                timed_out = isinstance(error.__cause__, av.error.ExitError | av.error.TimeoutError)
                self.ending = "stalled" if timed_out else self.ending
                raise LFVilaVideoError(self.name, self._reason_of_nothing(error.reason)) from error
            try:
                yield container
            finally:
                container.close()
        finally:
            if descriptor > 0:
                os.close(descriptor)


class _GrowingBytes:
    """Binary file over a descriptor that waits for more, at most some seconds.

    A stall and a stop look like the end of the data to FFmpeg, so that it gives out what it has.

    Args:
        descriptor: Of a pipe, a socket or standard input.
        stall_seconds: Seconds to wait for the next byte.
        stop: Event that ends the wait.
    """

    def __init__(self, descriptor: int, stall_seconds: float, stop: threading.Event) -> None:
        self.descriptor, self.stall_seconds, self.stop = descriptor, stall_seconds, stop
        self.is_stalled = False
        # A named pipe that no writer has opened yet looks like one whose writer has gone.
        self._awaits_writer = descriptor > 0 and stat.S_ISFIFO(os.fstat(descriptor).st_mode)

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        end = time.monotonic() + self.stall_seconds
        while not (self.is_stalled or self.stop.is_set()):
            if select.select([self.descriptor], [], [], POLL_SECONDS)[0]:
                data = os.read(self.descriptor, size)
                if data or not self._awaits_writer:
                    self._awaits_writer = False
                    return data
                self.stop.wait(POLL_SECONDS)
            self.is_stalled = time.monotonic() > end
        return b""


class _GrowingFile(_GrowingBytes):
    """Regular file that another process may still write to.

    If it does not grow for `stall_seconds`, that is its end: a finished file looks like one whose writer sleeps.
    """

    def __init__(self, descriptor: int, stall_seconds: float, stop: threading.Event) -> None:
        super().__init__(descriptor, stall_seconds, stop)
        self.has_ended = False

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        end = time.monotonic() + self.stall_seconds
        while not self.stop.is_set():
            data = os.read(self.descriptor, size)
            if data or self.has_ended:
                return data
            self.has_ended = time.monotonic() > end
            self.stop.wait(POLL_SECONDS)
        return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place of the file; -1 if there is no such place, which FFmpeg asks for in files that are cut."""
        try:
            return os.lseek(self.descriptor, offset, whence)
        except OSError:
            return -1

    def tell(self) -> int:
        """Return the place in the file."""
        return os.lseek(self.descriptor, 0, os.SEEK_CUR)


def _device_format() -> str:
    """Return FFmpeg's name of the system's video devices."""
    return DEVICE_FORMATS.get(sys.platform, "v4l2")


__all__ = ["LiveVideo"]

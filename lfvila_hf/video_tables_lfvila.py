# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""When every frame of a video is shown: the `FrameTable`, and the three ways to come by one.

"Frame 57" means the 58th picture of a full sequential decode, and its second is the time stamp of that picture. Headers
do not say that reliably: Matroska, WebM, FLV, transport streams and fragmented mp4 have no frame count, a truncated
file keeps its full one, the frame rate of a variable-rate file is a mean. So the table is taken from the cheapest
place that settles it:

- the sample list of an mp4-like file of constant rate (nothing is read but the first packet);
- a list of all packets, not decoded (4 to 6 microseconds each), where time stamps are present, unique and in order;
- a decode of everything, counting: AVI with B-frames, bare streams, joined transport streams, damaged files.

Memory: 8 bytes per frame.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .video_sources_lfvila import ATTACHED_PICTURE, Deadline, LFVilaVideoError, VideoLimits, VideoSource, av

logger = logging.getLogger(__name__)

CHECK_EVERY = 64
# Time stamps that may be repaired from their neighbours before the frame rate is trusted more.
REPAIRABLE = 0.1
# How much finer the clock of repaired time stamps is, so that those made up fit between those that are known.
FINER = 1024


@dataclass(frozen=True)
class FrameTable:
    """When every frame of a video is shown.

    Args:
        pts: Time stamps `(n,)` int64 in ticks, ascending.
        time_base: Seconds in one tick.
        end: Tick at which the last frame stops being shown.
        origin: "header", "packets", "frames" (decoded and counted) or "array".
        keys: Time stamps of the key frames, ascending, where they are known.
    """

    pts: np.ndarray
    time_base: Fraction
    end: int
    origin: str
    keys: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pts)

    def seconds(self, index: int) -> float:
        """Second at which frame `index` is shown, counted from the first frame."""
        return float((int(self.pts[index]) - int(self.pts[0])) * self.time_base)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float((self.end - int(self.pts[0])) * self.time_base)

    def index_at(self, second: float) -> int:
        """The frame that is on screen at `second`; the second is rounded to the file's nearest tick."""
        tick = int(self.pts[0]) + round(Fraction(second) / self.time_base)
        return max(int(np.searchsorted(self.pts, tick, side="right")) - 1, 0)


class VideoSession:
    """One open container and its best video stream.

    Args:
        source: The video.
        container: An open `av` container of it.
        deadline: Checked between packets.

    Raises:
        LFVilaVideoError: where there is no video stream, no picture size or one above the limit, or no clock.
    """

    def __init__(self, source: VideoSource, container: Any, deadline: Deadline) -> None:
        self.source = source
        self.container = container
        self.deadline = deadline
        self.limits = source.limits
        self.stream = pick_stream(container, source.name)
        self.context = self.stream.codec_context
        self.packets_read = 0
        self.corrupt_packets = 0
        self.decoded_frames = 0
        self.notes: list[str] = []
        check_picture_size(source.name, self.context.height, self.context.width, self.limits)
        self.stream.thread_type = "NONE"
        for other in container.streams:
            if other is not self.stream:
                other.discard = av.stream.Discard.all  # neither read nor taken apart, where the container allows
        self.time_base = self.stream.time_base
        if not self.time_base:
            raise LFVilaVideoError(source.name, "the video stream has no time base")

    def packets(self) -> Iterator[Any]:
        """The packets of the video stream from here on; a broken end is an end."""
        self.deadline.check()
        try:
            for packet in self.container.demux(self.stream):
                if packet.size > 0:
                    self.packets_read += 1
                    self.corrupt_packets += packet.is_corrupt
                    yield packet
                    if self.packets_read % CHECK_EVERY == 0:
                        self.deadline.check()
        except av.error.InvalidDataError:
            self.corrupt_packets += 1

    def decode_forward(self) -> Iterator[Any]:
        """Every frame from here on, past packets that cannot be decoded."""
        for packet in self.packets():
            try:
                frames = self.context.decode(packet)
            except av.error.InvalidDataError:
                self.corrupt_packets += 1
                continue
            self.decoded_frames += len(frames)
            yield from frames
        frames = self.context.decode(None)
        self.decoded_frames += len(frames)
        yield from frames

    def header_table(self) -> FrameTable | None:
        """The table from the sample list of an mp4-like file of constant rate, else `None`."""
        stream = self.stream
        entries = getattr(stream, "index_entries", None)
        if not self.container.format.name.startswith("mov") or entries is None or stream.start_time is None:
            return None
        count = len(entries)
        self._check_count(max(count, stream.frames))
        if count == 0 or count != stream.frames:
            return None
        shown = [entry.timestamp for entry in entries if not entry.is_discard]
        if len(shown) != count:
            return None
        ticks = np.asarray(shown, dtype=np.int64)
        step = int(ticks[1] - ticks[0]) if count > 1 else int(stream.duration or 1)
        if step <= 0 or (np.diff(ticks) != step).any() or abs((stream.duration or 0) - count * step) > step:
            return None
        # frames before the first key frame are listed but cannot be decoded
        first = next(self.packets(), None)
        if first is not None and not (first.is_keyframe and first.pts == stream.start_time):
            return None
        pts = int(stream.start_time) + step * np.arange(count, dtype=np.int64)
        return FrameTable(pts, self.time_base, int(pts[-1]) + step, "header")

    def packet_table(self) -> FrameTable | None:
        """The table from listing every packet; `None` where time stamps are missing, repeated or not to be trusted."""
        pts: list[int] = []
        keys: list[int] = []
        newest_dts = newest_key = last = -(2**62)
        last_duration = 0
        trusted = True
        for packet in self.packets():
            if packet.pts is None:
                trusted = False
                continue
            # AVI stores no presentation order, so its time stamps are only right where nothing is reordered
            trusted &= packet.pts == packet.dts or self.container.format.name != "avi"
            trusted &= packet.dts is None or packet.dts >= newest_dts
            newest_dts = newest_dts if packet.dts is None else packet.dts
            if packet.is_keyframe:
                trusted &= packet.pts > newest_key
                newest_key = packet.pts
                keys.append(packet.pts)
            # frames before the first key frame, in either order, cannot be decoded
            trusted &= bool(keys) and packet.pts >= keys[0]
            if packet.is_discard or _is_hidden(self.context.name, packet):
                continue
            pts.append(packet.pts)
            self._check_count(len(pts))
            if packet.pts > last:
                last, last_duration = packet.pts, packet.duration or 0
        ticks = np.unique(np.asarray(pts, dtype=np.int64))
        # a broken packet may or may not become a frame
        if not trusted or not pts or len(ticks) != len(pts) or self.corrupt_packets:
            return None
        if last_duration <= 0:
            last_duration = _usual_step(ticks)
        return FrameTable(ticks, self.time_base, last + last_duration, "packets", np.asarray(keys, dtype=np.int64))

    def counted_table(self) -> FrameTable:
        """The table from decoding everything.

        A few time stamps that are missing or out of order are made up from their neighbours; where they are many, all
        come from the frame rate. Either is noted.
        """
        stamps: list[int | None] = []
        for frame in self.decode_forward():
            stamps.append(frame.pts)
            self._check_count(len(stamps))
        if not stamps:
            raise LFVilaVideoError(self.source.name, "no frame of it can be decoded")
        good = _longest_ascent(stamps)
        ticks = np.asarray([stamps[position] for position in good], dtype=np.int64)
        bad = len(stamps) - len(good)
        if bad == 0:
            return FrameTable(ticks, self.time_base, int(ticks[-1]) + _usual_step(ticks), "frames")
        if bad <= REPAIRABLE * len(stamps):
            self.notes.append(f"{bad} of {len(stamps)} time stamps are missing or out of order and were made up")
            return _interpolated(good, ticks, len(stamps), self.time_base)
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise LFVilaVideoError(self.source.name, "it has neither time stamps in order nor a frame rate")
        self.notes.append("the time stamps are missing or out of order: times come from the frame rate")
        return FrameTable(np.arange(len(stamps), dtype=np.int64), 1 / Fraction(rate), len(stamps), "frames")

    def note_oddities(self, table: FrameTable) -> None:
        """Say in words what the file promises and does not hold."""
        if self.corrupt_packets:
            self.notes.append(f"damaged: {self.corrupt_packets} packets are marked as broken")
        promised = self.container.duration
        if self.container.format.name.startswith("matroska") and promised is not None and table.origin != "header":
            seconds = promised / 1e6
            if seconds > table.duration * 1.05 + 1:
                self.notes.append(f"the header promises {seconds:.2f} s, frames for {table.duration:.2f} s are there")

    def _check_count(self, count: int) -> None:
        limit = self.limits.max_frames
        if limit is not None and count > limit:
            reason = f"{count} frames or more are above the limit of {limit} (max_frames)"
            raise LFVilaVideoError(self.source.name, reason)


def pick_stream(container: Any, name: str) -> Any:
    """The best video stream: no cover picture; the default one, then the largest, then the first."""
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & ATTACHED_PICTURE]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        cover = " (a cover picture is no video)" if container.streams.video else ""
        raise LFVilaVideoError(name, f"there is no video stream in it, only {', '.join(kinds)}{cover}")
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        raise LFVilaVideoError(name, "the codec of its video stream is not known to FFmpeg here")
    return max(usable, key=lambda stream: (int(stream.disposition) & 1, _area(stream), -stream.index))


def check_picture_size(source: str, height: int, width: int, limits: VideoLimits) -> None:
    """Raise `LFVilaVideoError` for a picture without area or above the limit."""
    if height < 1 or width < 1:
        raise LFVilaVideoError(source, f"the picture size is {width} x {height}")
    if limits.max_pixels is not None and height * width > limits.max_pixels:
        reason = f"a picture of {width} x {height} is above the limit of {limits.max_pixels} pixels (max_pixels)"
        raise LFVilaVideoError(source, reason)


def _area(stream: Any) -> int:
    return int(stream.codec_context.width or 0) * int(stream.codec_context.height or 0)


def _usual_step(ticks: np.ndarray) -> int:
    return max(int(np.median(np.diff(ticks))), 1) if len(ticks) > 1 else 1


def _longest_ascent(stamps: list[int | None]) -> list[int]:
    """Positions of the longest run of time stamps that ascend, leaving out the fewest."""
    tails: list[int] = []  # the smallest stamp that ends an ascent of each length
    places: list[int] = []  # and its position
    before = [-1] * len(stamps)
    for position, stamp in enumerate(stamps):
        if stamp is None:
            continue
        length = bisect_left(tails, stamp)
        before[position] = places[length - 1] if length else -1
        tails[length : length + 1] = [stamp]
        places[length : length + 1] = [position]
    ascent = []
    position = places[-1] if places else -1
    while position >= 0:
        ascent.append(position)
        position = before[position]
    return ascent[::-1]


def _interpolated(good: list[int], ticks: np.ndarray, count: int, time_base: Fraction) -> FrameTable:
    """The table of `count` frames whose time stamps are known at the positions `good`, on a finer clock."""
    step = max(round((ticks[-1] - ticks[0]) / max(good[-1] - good[0], 1)), 1)
    positions = np.asarray([good[0] - count, *good, good[-1] + count])
    known = np.asarray([ticks[0] - count * step, *ticks, ticks[-1] + count * step]) * FINER
    pts = np.interp(np.arange(count), positions, known).round().astype(np.int64)
    return FrameTable(pts, time_base / FINER, int(pts[-1]) + step * FINER, "frames")


def _is_hidden(codec: str, packet: Any) -> bool:
    """Whether a VP8 packet is an alternate reference that is never shown (bit 4 of its first byte is 0)."""
    return codec == "vp8" and not memoryview(packet)[0] & 0x10

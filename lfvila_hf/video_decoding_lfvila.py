# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Tables of frames, and the cheapest exact decode of some frames of one video, with PyAV.

A video goes one way through this file: open it, make a `FrameTable`, group the wanted frames by the key frame that they
depend on, decode each group with one seek and one run forward, convert to upright RGB.

*Tables.* "Frame 57" is the 58th picture of a full sequential decode; its second is the time stamp of that picture,
counted from the container's start as in `ffmpeg -ss` (a picture may begin later than the sound does).
Headers do not give that reliably: Matroska, WebM, FLV, transport streams and fragmented mp4 have no frame count, a
truncated file keeps its full one, and the frame rate of a variable-rate file is a mean. So the table comes from the
cheapest place that settles it:

1. the sample list of an mp4-like file of constant rate (only the first packet is read);
2. a list of all packets, not decoded (4 to 6 microseconds each), if time stamps are present, unique and in order;
3. a decode of everything, counting: AVI with B-frames, bare streams, joined transport streams, damaged files, and short
   files of every container without an index.

*Decoding.* Frames that are neither wanted nor referenced are dropped inside the decoder (H.264 and HEVC). After the
last wanted packet the decoder is drained and nothing more is read. Nothing is decoded twice. A frame that does not come
out as planned is never replaced by a neighbour: `StaleTableError` asks for the next, dearer table. So frames equal
those of a full sequential decode, or there is an error.

Memory: 8 bytes per frame of the video, the decoder's own, and the frame that is given out.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .video_sources_lfvila import (
    ATTACHED_PICTURE,
    Deadline,
    LFVilaVideoError,
    StaleTableError,
    VideoLimits,
    VideoSource,
    av,
    structure_fault,
    video_errors,
)

logger = logging.getLogger(__name__)

# Packets between two looks at the deadline.
CHECK_EVERY = 64
# Times that the demuxer may say "try again" in a row.
RETRIES = 100
# Packets and bytes of a short video. What is said of it does not depend on which frames are wanted: the structure of
# its container and of its H.264 and HEVC packets is looked at before a table is believed, and all frames are decoded if
# that is broken, or if the container is of a kind without an index. All of that costs too much for long videos.
INSPECTED, INSPECTED_BYTES = 600, 16 * 2**20
# Seconds, and multiples of the usual distance of two frames, above which a distance is a gap.
GAP_SECONDS, GAP_STEPS = 0.5, 10
# Seconds by which the length that Matroska states of a track may exceed the frames that are there.
TRACK_ERROR = 0.25
# Share of the frames of the liveliest stream below which a stream is a series of stills beside a video.
STILL = 0.1
# Formats whose pictures stand for as long as the author likes.
ANIMATIONS = ("gif", "apng", "webp_anim")
# Share of frames that the decoder may mark as corrupt.
MOST_CORRUPT = 0.5
# Seconds by which a frame may begin late and still be on screen, at most half a tick: clocks of 1 ms round.
CLOCK_ERROR = Fraction(1, 2000)
# Seconds by which a rounded start of the container may differ from the first frame.
START_ERROR = Fraction(2, 1_000_000)
# Share of time stamps that may be repaired from their neighbours before the frame rate is trusted more.
REPAIRABLE = 0.1
# Clock of repaired time stamps over the file's clock, so that made-up ticks fit between known ones.
FINER = 1024
# Decoders whose non-reference frames may be left out without changing any other frame.
DROPPABLE = ("h264", "hevc")
# Packets by which sharing groups between threads must shorten the longest thread's work, to be worth opening the file
# again. The decoder's own frame threads are not used instead: decode and wait alternate, and they came out slower.
WORTH_SHARING = 16


@dataclass(frozen=True)
class FrameTable:
    """Time stamps of every frame of a video.

    Args:
        pts: Time stamps `(n,)` int64 in ticks, ascending.
        time_base: Seconds in one tick.
        end: Tick at which the last frame stops being shown.
        origin: "header", "packets", "frames" (decoded and counted) or "array".
        keys: Time stamps of the key frames, ascending, if they are known.
        start: Time stamp of second 0, in seconds. Defaults to the first frame's.
    """

    pts: np.ndarray
    time_base: Fraction
    end: int
    origin: str
    keys: np.ndarray | None = None
    start: Fraction | None = None

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def second_zero(self) -> Fraction:
        """Time stamp of second 0, in seconds."""
        return int(self.pts[0]) * self.time_base if self.start is None else self.start

    def seconds(self, index: int) -> float:
        """Second at which frame `index` is shown, counted from the container's start."""
        return float(int(self.pts[index]) * self.time_base - self.second_zero)

    @property
    def duration(self) -> float:
        """Seconds from the container's start to the end of the last frame."""
        return float(self.end * self.time_base - self.second_zero)

    @property
    def fps(self) -> float | None:
        """Mean frames per second, from the first frame to the end of the last."""
        seconds = float((self.end - int(self.pts[0])) * self.time_base)
        return len(self) / seconds if seconds > 0 else None

    def index_at(self, second: float | Fraction) -> int:
        """Find the frame on screen at `second`; the first one if none is yet."""
        late = min(CLOCK_ERROR, self.time_base / 2)
        tick = math.floor((self.second_zero + Fraction(second) + late) / self.time_base)
        return max(int(np.searchsorted(self.pts, tick, side="right")) - 1, 0)


class VideoSession:
    """Open container and its best video stream.

    Args:
        source: The video.
        container: An open `av` container of it.
        deadline: Checked between packets.

    Raises:
        LFVilaVideoError: if there is no video stream, no picture size or one above the limit, or no clock.
    """

    def __init__(self, source: VideoSource, container: Any, deadline: Deadline) -> None:
        self.source = source
        self.container = container
        self.deadline = deadline
        self.limits = source.limits
        self.stream = pick_stream(container, source.name)
        self.context = self.stream.codec_context
        self.listed = len(getattr(self.stream, "index_entries", None) or ())  # reading may add to them
        self.packets_read = self.shown_packets = 0
        self.newest_dts: int | None = None
        self.corrupt_packets = 0
        self.retries = 0
        self.decoded_frames = 0
        self.notes: list[str] = []
        check_picture_size(source.name, self.context.height, self.context.width, self.limits)
        self.stream.thread_type = "NONE"
        for other in container.streams:
            if other is not self.stream:
                other.discard = av.stream.Discard.all  # neither read nor parsed, if the container allows it
        self.time_base = self.stream.time_base
        if not self.time_base:
            raise LFVilaVideoError(source.name, "the video stream has no time base")
        self._unit_length = _length_of_unit_sizes(self.context)

    @cached_property
    def fault(self) -> str | None:
        """Fault in the structure of the container of a short file, in words."""
        data = None if self.container.size > INSPECTED_BYTES else self.source.content(INSPECTED_BYTES)
        return None if data is None else structure_fault(data, self.container.format.name)

    def is_short(self) -> bool:
        """Tell a video of few packets, after all were read."""
        return self.packets_read <= INSPECTED and self.container.size <= INSPECTED_BYTES

    def is_indexed(self) -> bool:
        """Tell Matroska, WebM and mp4-like files from fragmented mp4 and containers that are only read forward."""
        name = self.container.format.name
        return name.startswith("matroska") or (name.startswith("mov") and self.stream.frames > 0)

    def packets(self) -> Iterator[Any]:
        """Read the packets of the video stream from here on; a broken end is an end."""
        self.deadline.check()
        in_a_row = 0
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size > 0:
                        in_a_row = 0
                        self._take_in(packet)
                        yield packet
                        if self.packets_read % CHECK_EVERY == 0:
                            self.deadline.check()
                return
            except av.error.InvalidDataError:
                self.corrupt_packets += 1
                return
            except BlockingIOError:  # "try again": the demuxer lost its place in damaged data and finds it later
                self.retries += 1
                in_a_row += 1
                if in_a_row > RETRIES:
                    return

    def _take_in(self, packet: Any) -> None:
        """Count a packet, and refuse an encrypted one."""
        if self.packets_read == 0 and _is_encrypted(self.stream, packet):
            raise LFVilaVideoError(self.source.name, "its video track is encrypted: no picture can be decoded")
        self.packets_read += 1
        self.shown_packets += not packet.is_discard
        self.corrupt_packets += packet.is_corrupt
        if packet.dts is not None and (self.newest_dts is None or packet.dts > self.newest_dts):
            self.newest_dts = packet.dts

    def looks_sound(self, packet: Any) -> bool:
        """Check the structure of one of the first packets; later ones are taken to be sound."""
        return not self._unit_length or self.packets_read > INSPECTED or _units_fit(packet, self._unit_length)

    def decode_forward(self) -> Iterator[Any]:
        """Decode every frame from here on, past packets that cannot be decoded."""
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
        """Make the table from the sample list of an mp4-like file of constant rate; `None` for other files."""
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
        if entries[-1].pos + entries[-1].size > self.container.size > 0:  # the end of the file is missing
            return None
        packets = self.packets()
        # frames before the first key frame are listed but cannot be decoded
        first = next(packets, None)
        if first is not None and not (first.is_keyframe and first.pts == stream.start_time):
            return None
        pts = int(stream.start_time) + step * np.arange(count, dtype=np.int64)
        small = count <= INSPECTED and self.container.size <= INSPECTED_BYTES
        if first is not None and small and self._unit_length:
            read = [first.pts]
            sound = self.looks_sound(first)
            for packet in packets:
                sound &= self.looks_sound(packet)
                read.append(packet.pts)
            if not sound or None in read or sorted(read) != pts.tolist():  # the list has decoding times alone
                return None
        return FrameTable(pts, self.time_base, int(pts[-1]) + step, "header", start=self.start(int(pts[0])))

    def packet_table(self) -> FrameTable | None:
        """Make the table from all packets; `None` if time stamps are missing, repeated or not to be trusted."""
        pts: list[int] = []
        keys: list[int] = []
        newest_dts = newest_key = last = -(2**62)
        last_duration = 0
        trusted = True
        for packet in self.packets():
            if packet.pts is None:
                trusted = False
                continue
            # AVI stores no presentation order, so its time stamps are only right if nothing is reordered
            trusted &= packet.pts == packet.dts or self.container.format.name != "avi"
            trusted &= packet.dts is None or packet.dts >= newest_dts
            newest_dts = newest_dts if packet.dts is None else packet.dts
            if packet.is_keyframe:
                trusted &= packet.pts > newest_key
                newest_key = packet.pts
                keys.append(packet.pts)
            # frames before the first key frame, in either order, cannot be decoded
            trusted &= bool(keys) and packet.pts >= keys[0]
            trusted &= self.looks_sound(packet)
            if packet.is_discard or _is_hidden(self.context.name, packet):
                continue
            pts.append(packet.pts)
            self._check_count(len(pts))
            if packet.pts > last:
                last, last_duration = packet.pts, packet.duration or 0
        ticks = np.unique(np.asarray(pts, dtype=np.int64))
        # a broken packet may or may not become a frame
        if not trusted or not pts or len(ticks) != len(pts) or self.corrupt_packets or self.retries:
            return None
        if self.is_short() and (self.fault or not self.is_indexed()):
            return None
        if last_duration <= 0:
            last_duration = _usual_step(ticks)
        start = self.start(int(ticks[0]))
        return FrameTable(ticks, self.time_base, last + last_duration, "packets", np.asarray(keys, np.int64), start)

    def counted_table(self) -> FrameTable:
        """Make the table from decoding everything.

        A few time stamps that are missing or out of order are made up from their neighbours; if they are many, all
        come from the frame rate. Either is noted.
        """
        stamps: list[int | None] = []
        corrupt = 0
        for frame in self.decode_forward():
            stamps.append(frame.pts)
            corrupt += bool(frame.is_corrupt)
            self._check_count(len(stamps))
        if not stamps:
            raise LFVilaVideoError(self.source.name, "no frame of it can be decoded")
        if corrupt > MOST_CORRUPT * len(stamps):
            raise LFVilaVideoError(self.source.name, f"{corrupt} of {len(stamps)} frames are damaged beyond use")
        if corrupt:
            self.notes.append(f"damaged: {corrupt} of {len(stamps)} frames are marked as corrupt by the decoder")
        good = _longest_ascent(stamps)
        ticks = np.asarray([stamps[position] for position in good], dtype=np.int64)
        bad = len(stamps) - len(good)
        if bad == 0:
            end = int(ticks[-1]) + _usual_step(ticks)
            return FrameTable(ticks, self.time_base, end, "frames", start=self.start(int(ticks[0])))
        if bad <= REPAIRABLE * len(stamps):
            self.notes.append(f"{bad} of {len(stamps)} time stamps are missing or out of order and were made up")
            table = _interpolated(good, ticks, len(stamps), self.time_base)
            return replace(table, start=self.start(Fraction(int(table.pts[0]), FINER)))
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise LFVilaVideoError(self.source.name, "it has neither time stamps in order nor a frame rate")
        self.notes.append("the time stamps are missing or out of order: times come from the frame rate")
        return FrameTable(np.arange(len(stamps), dtype=np.int64), 1 / Fraction(rate), len(stamps), "frames")

    def missing(self) -> tuple[int, float, bool]:
        """Compare the packets that were read with the file's own index, after all were read.

        Returns:
            The frames that the index promises if packets of them are missing, else 0; their seconds; and whether it is
            the end of the file that is missing.
        """
        name = self.container.format.name
        listed, promised, there = 0, self.stream.frames, self.packets_read
        if self.listed > there and promised and name.startswith(("mov", "avi")):
            listed = sum(entry.size > 0 for entry in self.stream.index_entries)
        seconds = float((self.stream.duration or 0) * self.time_base)
        if name == "avi":
            seconds = float(promised * self.time_base)
            if listed > there:  # the index is the end of the file
                return listed, seconds, False
            # the header counts places in time, and an empty place needs no packet
            there = max(there, 0 if self.newest_dts is None else self.newest_dts + 1 - (self.stream.start_time or 0))
        elif name.startswith("mov"):
            return (listed, seconds, True) if listed > there else (0, 0.0, False)
        if name not in ANIMATIONS and promised - there > max(1, promised // 100):
            return promised, seconds, True
        return 0, 0.0, False

    def note_oddities(self, table: FrameTable) -> None:
        """Note damage, gaps, and frames that the header promises and the file does not hold."""
        if self.corrupt_packets:
            self.notes.append(f"damaged: {_number(self.corrupt_packets, 'broken packet')}")
        if self.retries:
            self.notes.append(f"damaged: the demuxer lost its place {_number(self.retries, 'time')}")
        cut = any(note.startswith("truncated") for note in self.notes)
        if table.origin != "header" and self.fault and not (cut and self.fault.startswith("truncated")):
            self.notes.append(self.fault)
        name = self.container.format.name
        if name.startswith(("matroska", "flv", "asf", "mov")) and not self.stream.frames and table.origin != "header":
            track, whole = _seconds_of(self.stream.metadata.get("DURATION", "")), (self.container.duration or 0) / 1e6
            if track > float(table.end * table.time_base) + TRACK_ERROR or whole > table.duration * 1.05 + 1:
                seconds = track or whole  # the whole file may be longer by its sound
                self.notes.append(f"the header promises {seconds:.2f} s, frames for {table.duration:.2f} s are there")
        if name not in ANIMATIONS and table.origin != "header":
            self._note_gaps(table)

    def _note_gaps(self, table: FrameTable) -> None:
        steps = np.diff(table.pts)
        if not len(steps):
            return
        usual = max(float(np.median(steps)), 1.0)
        place = int(steps.argmax())
        seconds = float(int(steps[place]) * table.time_base)
        if seconds > GAP_SECONDS and steps[place] > GAP_STEPS * usual:
            count = int((steps > max(GAP_SECONDS / float(table.time_base), GAP_STEPS * usual)).sum())
            self.notes.append(
                f"{_number(count, 'gap')} in time, the longest of {seconds:.2f} s after "
                f"{table.seconds(place):.2f} s (frames are usually {usual * float(table.time_base):.3f} s apart)"
            )

    def start(self, first: int | Fraction) -> Fraction | None:
        """Compute the time stamp of the container's start in seconds; `None` if that is the first frame's.

        Args:
            first: Time stamp of the first frame.
        """
        begin = self.container.start_time
        if begin is None:
            return None
        late = first * self.time_base - Fraction(begin, av.time_base)
        if self.container.format.name == "avi":  # its stamps are decoding times, in which B-frames make pictures late
            late = (self.stream.start_time or 0) * self.time_base - Fraction(begin, av.time_base)
        return first * self.time_base - late if late > START_ERROR else None

    def check_length(self, table: FrameTable) -> None:
        """Refuse a table with more frames or more seconds than the limits allow."""
        self._check_count(len(table))
        limit = self.limits.max_duration
        if limit is not None and table.duration > limit:
            reason = f"its time stamps claim {table.duration:.0f} s, above the limit of {limit:g} s (max_duration)"
            raise LFVilaVideoError(self.source.name, reason)

    def _check_count(self, count: int) -> None:
        limit = self.limits.max_frames
        if limit is not None and count > limit:
            reason = f"{count} frames or more are above the limit of {limit} (max_frames)"
            raise LFVilaVideoError(self.source.name, reason)


@dataclass(frozen=True)
class FrameGroup:
    """Wanted frames that are decoded in one run.

    Args:
        key: Time stamp of the key frame at which the run begins.
        targets: Numbers of the wanted frames, ascending.
        seek: Argument of the seek that is known to land at the key frame; `None` to find out.
    """

    key: int
    targets: list[int]
    seek: int | None

    def cost(self, table: FrameTable) -> int:
        """Count the packets between the key frame and the last wanted frame, about."""
        return self.targets[-1] - int(np.searchsorted(table.pts, self.key)) + 2


def decoding_plans(
    source: VideoSource, deadline: Deadline, *, accept_truncated: bool = False
) -> Generator[DecodingPlan, None, None]:
    """Open a video once per table of its frames, the cheapest table first.

    The caller takes the next plan when `DecodingPlan.frames` raises `StaleTableError`, and stops otherwise. The last
    plan never raises it.

    Args:
        source: The video.
        deadline: Checked between packets.
        accept_truncated: Take a file whose end is missing for the part that is there, instead of an error.

    Yields:
        Plans over open containers; each is valid until the next one is asked for.

    Raises:
        LFVilaVideoError: If the video cannot be used.
    """
    identity = None if source.identity is None else (*source.identity, accept_truncated)
    known = _TABLES.get(identity)
    claimed = None if known is None else known[0]
    spent = 0
    for origin, make_table in TABLES.items():
        if known is not None and known[0].origin != origin:
            continue
        with source.open() as container:
            with video_errors(source.name):
                session = VideoSession(source, container, deadline)
                if known is not None:
                    table, session.notes = known[0], list(known[1])
                    known = None  # if it is stale, the dearer ones are made
                else:
                    made = make_table(session)
                    if made is None:
                        continue
                    table = made
                    if origin != "header":
                        _judge_missing(session, claimed, table, accept_truncated)
                    session.note_oddities(table)
                session.check_length(table)
                claimed = claimed or table
                _TABLES.put(identity, table, session.notes)
            if origin != "frames":
                yield DecodingPlan(session, table, spent)
            notes, spent = session.notes, spent + session.decoded_frames
    with source.open() as container:  # what was decoded to be counted is decoded again for its pictures
        with video_errors(source.name):
            session = VideoSession(source, container, deadline)
            session.notes = notes
        yield DecodingPlan(session, table, spent)


class _KnownTables:
    """Tables of the files that were read last, so that an hour of video is not listed anew for every minute of it."""

    def __init__(self, max_frames: int) -> None:
        self.max_frames = max_frames
        self._lock = threading.Lock()
        self._tables: dict[Any, tuple[FrameTable, list[str]]] = {}

    def get(self, identity: Any) -> tuple[FrameTable, list[str]] | None:
        """Look up a file's table and notes."""
        with self._lock:
            return self._tables.get(identity)

    def put(self, identity: Any, table: FrameTable, notes: list[str]) -> None:
        """Keep the table of a file in place of an earlier one; forget the oldest if they have too many frames."""
        if identity is None:
            return
        with self._lock:
            self._tables.pop(identity, None)
            self._tables[identity] = (table, list(notes))
            while sum(len(known) for known, _ in self._tables.values()) > self.max_frames:
                del self._tables[next(iter(self._tables))]


TABLES = {
    "header": VideoSession.header_table,
    "packets": VideoSession.packet_table,
    "frames": VideoSession.counted_table,
}
_TABLES = _KnownTables(2**21)  # 16 to 32 MiB


def _judge_missing(
    session: VideoSession, claimed: FrameTable | None, found: FrameTable, accept_truncated: bool
) -> None:
    """Note the frames that a file promises and does not hold; raise an error if the end of the file is missing.

    Args:
        session: All of whose packets were read.
        claimed: An earlier table, if there is one.
        found: The table.
        accept_truncated: Note a missing end as well.
    """
    promised, seconds, is_cut = session.missing()
    if not promised and session.corrupt_packets and len(found) < session.shown_packets == session.stream.frames:
        promised, seconds = session.shown_packets, float((session.stream.duration or 0) * session.time_base)
    if not promised and claimed is not None and len(found) < len(claimed):
        promised, seconds, is_cut = len(claimed), claimed.duration, session.packets_read < len(claimed)
    if not promised:
        return
    text = f"the file promises {promised} frames ({seconds:.2f} s), {len(found)} ({found.duration:.2f} s) can be read"
    if not is_cut:
        session.notes.append(f"damaged: {text}")
    elif accept_truncated:
        session.notes.append(f"truncated: {text}")
    else:
        position = f"frame {len(found)} ({found.duration:.2f} s)"
        raise LFVilaVideoError(session.source.name, f"truncated: {text}", position)


class DecodingPlan:
    """Open video, the table of its frames, and the decode that this table allows.

    Args:
        session: The open video.
        table: All frames.
        spent: Frames that earlier plans decoded in vain.
    """

    def __init__(self, session: VideoSession, table: FrameTable, spent: int = 0) -> None:
        self.session = session
        self.source = session.source
        self.context = session.context
        self.table = table
        self.spent = spent

    @contextmanager
    def reopened(self) -> Iterator[DecodingPlan]:
        """Open the same video again with the same table, for another thread."""
        with self.source.open() as container:
            with video_errors(self.source.name):
                session = VideoSession(self.source, container, self.session.deadline)
            yield DecodingPlan(session, self.table)

    def groups(self, indices: Iterable[int], num_threads: int = 1) -> tuple[list[FrameGroup], bool]:
        """Group wanted frames by the key frame from which they can be decoded.

        Args:
            indices: Frame numbers in any order.
            num_threads: Threads that could share the groups.

        Returns:
            The groups, and whether sharing them is worth it. Groups to be shared are sorted by falling cost, others by
            time.

        Raises:
            StaleTableError: If the video has no such key frame.
        """
        targets = sorted(set(indices))
        if self.table.origin == "frames":
            return [FrameGroup(int(self.table.pts[0]), targets, None)], False
        with video_errors(self.source.name):
            groups = self._by_key(targets)
        shared, saved = _longest_first(groups, self.table, num_threads)
        worth_it = self.source.shareable and saved >= WORTH_SHARING
        return (shared if worth_it else groups), worth_it

    def frames(self, groups: Iterable[FrameGroup]) -> Iterator[tuple[int, Any]]:
        """Decode groups.

        Args:
            groups: From `groups`; threads may share one iterator.

        Yields:
            Frame number and `av.VideoFrame`, ascending within a group.

        Raises:
            StaleTableError: If the file is not as the table says.
            LFVilaVideoError: If a frame cannot be had.
        """
        with video_errors(self.source.name):
            if self.table.origin == "frames":
                for group in groups:
                    yield from self._count_to(group)
                return
            for group in groups:
                try:
                    yield from self._run(group)
                except av.error.FFmpegError as error:
                    raise StaleTableError from error

    def _count_to(self, group: FrameGroup) -> Iterator[tuple[int, Any]]:
        """Decode from the first packet to the last target, counting frames."""
        pending = set(group.targets)
        last = group.targets[-1]
        for index, frame in enumerate(self.session.decode_forward()):
            if index in pending:
                pending.discard(index)
                yield index, frame
            if index >= last:
                return
        reason = "the frame came out of the decoder once and not a second time"
        raise LFVilaVideoError(self.source.name, reason, f"frame {min(pending)}")

    def _run(self, group: FrameGroup) -> Iterator[tuple[int, Any]]:
        """Seek to the group's key frame and decode to its last target."""
        pending = {int(self.table.pts[index]): index for index in group.targets}
        newest = -(2**62)
        for packet in self._packets(group):
            frames = self.context.decode(packet)
            self.session.decoded_frames += len(frames)
            for frame in frames:
                pts = frame.pts
                if pts is None or pts <= newest:
                    raise StaleTableError
                newest = pts
                if frame.is_corrupt and pts >= group.key:
                    raise StaleTableError
                if pts in pending:
                    yield pending.pop(pts), frame
            if not pending:
                return
        raise StaleTableError

    def _packets(self, group: FrameGroup) -> Iterator[Any]:
        """Give packets from the key frame to the last target, dropping what nothing needs, then `None` to drain."""
        table = self.table
        unsent = {int(table.pts[index]) for index in group.targets}
        step = int(table.pts[1] - table.pts[0]) if table.origin == "header" and len(table) > 1 else 1
        drop = self.context.name in DROPPABLE
        dropping = False
        try:
            for packet in self._packets_from_key(group):
                pts = packet.pts
                if pts is None or (pts - group.key) % step:
                    raise StaleTableError
                wanted = pts in unsent
                if drop and dropping is wanted:
                    dropping = not dropping
                    self.context.skip_frame = "NONREF" if dropping else "DEFAULT"
                yield packet
                if wanted:
                    unsent.discard(pts)
                    if not unsent:
                        break
            yield None
        finally:
            if drop:
                self.context.skip_frame = "DEFAULT"

    def _packets_from_key(self, group: FrameGroup) -> Iterator[Any]:
        seeks = [group.seek] if group.seek is not None else self._seek_arguments(int(self.table.pts[group.targets[0]]))
        for argument in seeks:
            self._seek(argument)
            packets = self.session.packets()
            for packet in packets:
                if packet.is_keyframe and packet.pts == group.key:
                    yield packet
                    yield from packets
                    return
                if packet.dts is not None and packet.dts > group.key:
                    break
        raise StaleTableError

    def _by_key(self, targets: list[int]) -> list[FrameGroup]:
        keys = self.table.keys
        groups: list[FrameGroup] = []
        for index in targets:
            target = int(self.table.pts[index])
            if keys is not None:
                place = int(np.searchsorted(keys, target, side="right")) - 1
                if place < 0:
                    raise StaleTableError
                key, seek = int(keys[place]), None
            else:
                key, seek = self._find_key(target)
            if groups and groups[-1].key == key:
                groups[-1].targets.append(index)
            else:
                groups.append(FrameGroup(key, [index], seek))
        return groups

    def _find_key(self, target: int) -> tuple[int, int]:
        """Find the last key frame at or before `target`, and the seek argument that leads to it."""
        for argument in self._seek_arguments(target):
            self._seek(argument)
            packet = next((packet for packet in self.session.packets() if packet.is_keyframe), None)
            if packet is not None and packet.pts is not None and packet.pts <= target:
                return packet.pts, argument
        raise StaleTableError

    def _seek_arguments(self, target: int) -> Iterator[int]:
        """Give seek positions for a frame: the frame itself, then further and further back, as some seeks land late."""
        first = int(self.table.pts[0])
        second = max(int(1 / self.session.time_base), 1)
        yield target
        back = second
        while target - back > first - 10 * second:
            yield target - back
            back *= 2
        yield min(first, 0) - 10 * second

    def _seek(self, argument: int) -> None:
        try:
            self.session.container.seek(argument, stream=self.session.stream, backward=True)
        except av.error.FFmpegError as error:
            raise StaleTableError from error


def _longest_first(groups: list[FrameGroup], table: FrameTable, num_threads: int) -> tuple[list[FrameGroup], int]:
    """Sort groups by falling cost, and count the packets that others than the busiest thread decode in that order."""
    costs = {group.key: group.cost(table) for group in groups}
    ordered = sorted(groups, key=lambda group: -costs[group.key])
    busy = [0] * num_threads
    for group in ordered:
        busy[busy.index(min(busy))] += costs[group.key]
    return ordered, sum(busy) - max(busy)


class FrameConverter:
    """Conversion of decoded frames to upright RGB pictures; one per thread.

    FFmpeg converts and scales in one pass, so a full-size RGB picture is never held if a smaller one is wanted. The
    file's display matrix turns pictures by quarter turns, and may mirror them.

    Args:
        source: Name of the video for errors.
        limits: For the largest picture.
        size: Height and width of the upright picture (bilinear); `None` keeps the stored size.

    Attributes:
        rotation: Degrees counter-clockwise by which the last frame was turned.
    """

    def __init__(self, source: str, limits: VideoLimits, size: tuple[int, int] | None = None) -> None:
        try:
            from av.video.reformatter import VideoReformatter
        except ImportError as error:
            raise ImportError("decoding a video file needs PyAV: pip install av") from error

        self.source = source
        self.limits = limits
        self.size = size
        self.rotation = 0
        self._reformatter = VideoReformatter()  # kept: setting one up costs more than converting a small picture

    def convert(self, frame: Any) -> torch.Tensor:
        """Convert one `av.VideoFrame` to `(3, H, W)` uint8, a view of `(H, W, 3)` memory."""
        check_picture_size(self.source, frame.height, frame.width, self.limits)
        with video_errors(self.source):
            self.rotation, mirrored = display_orientation(frame)
            quarter_turns = round(self.rotation / 90) % 4
            if self.size is None:
                height, width = frame.height, frame.width
            else:
                height, width = self.size[::-1] if quarter_turns % 2 else self.size
            # One thread: the converter's own threads cost more than they give, and a caller has its own parallelism.
            rgb = self._reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
            ).to_ndarray()
            upright = np.rot90(rgb, quarter_turns)  # (H, W, 3)
            upright = upright[:, ::-1] if mirrored else upright
            return torch.from_numpy(np.ascontiguousarray(upright)).permute(2, 0, 1)  # (3, H, W)


def display_orientation(frame: Any) -> tuple[int, bool]:
    """Read how a stored picture is turned to be upright.

    Args:
        frame: A decoded `av.VideoFrame`.

    Returns:
        Degrees counter-clockwise, and whether it is mirrored left to right after that.
    """
    # PyAV ties a frame and its `side_data` into a cycle, which lives until Python's garbage collector runs. A copy of
    # four pixels has the same side data (20 microseconds). Without it, full-size pictures pile up in memory.
    small = frame.reformat(width=2, height=2, format="gray", interpolation="POINT", threads=1)
    try:
        side_data = next((data for data in small.side_data if data.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # side data of a kind that PyAV does not know; then it does not tell mirroring either
        return frame.rotation, False
    if side_data is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(side_data, dtype=np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    if mirrored:
        a = -a
    return -round(float(np.degrees(np.arctan2(b, a)))), bool(mirrored)


def pick_stream(container: Any, name: str) -> Any:
    """Pick the best video stream: no cover picture, no still; the default one, then the largest, then the first."""
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & ATTACHED_PICTURE]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        cover = " (a cover picture is no video)" if container.streams.video else ""
        raise LFVilaVideoError(name, f"there is no video stream in it, only {', '.join(kinds)}{cover}")
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        raise LFVilaVideoError(name, "the codec of its video stream is not known to FFmpeg here")
    most = max(_liveliness(stream) for stream in usable)
    moving = [stream for stream in usable if _liveliness(stream) >= STILL * most]
    return max(moving, key=lambda stream: (int(stream.disposition) & 1, _area(stream), -stream.index))


def check_picture_size(source: str, height: int, width: int, limits: VideoLimits) -> None:
    """Raise `LFVilaVideoError` for a picture without area or above the limit."""
    if height < 1 or width < 1:
        raise LFVilaVideoError(source, f"the picture size is {width} x {height}")
    if limits.max_pixels is not None and height * width > limits.max_pixels:
        reason = f"a picture of {width} x {height} is above the limit of {limits.max_pixels} pixels (max_pixels)"
        raise LFVilaVideoError(source, reason)


def _liveliness(stream: Any) -> float:
    """Count the frames of a stream, or its frames per second if the file has no count; 0 if unknown."""
    return float(stream.frames or stream.average_rate or 0)


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
    """Make the table of `count` frames with time stamps known at the positions `good`, on a finer clock."""
    step = max(round((ticks[-1] - ticks[0]) / max(good[-1] - good[0], 1)), 1)
    positions = np.asarray([good[0] - count, *good, good[-1] + count])
    known = np.asarray([ticks[0] - count * step, *ticks, ticks[-1] + count * step]) * FINER
    pts = np.interp(np.arange(count), positions, known).round().astype(np.int64)
    return FrameTable(pts, time_base / FINER, int(pts[-1]) + step * FINER, "frames")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _seconds_of(text: str) -> float:
    """Read a length such as "00:01:02.040000000"; 0 for anything else."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0


def _is_encrypted(stream: Any, packet: Any) -> bool:
    kinds = {data.data_type for data in packet.iter_sidedata()}
    return bool(kinds & {"encryption_info", "encryption_init_info"}) or "enc_key_id" in stream.metadata


def _length_of_unit_sizes(context: Any) -> int:
    """Bytes of the sizes before the units of H.264 and HEVC in mp4 and Matroska; 0 for other streams."""
    extra = context.extradata or b""
    if context.name == "h264" and len(extra) > 4 and extra[0] == 1:
        return (extra[4] & 3) + 1
    if context.name == "hevc" and len(extra) > 21 and extra[0] == 1:
        return (extra[21] & 3) + 1
    return 0


def _units_fit(packet: Any, length: int) -> bool:
    """Tell whether the units of a packet fill it exactly, none of them empty."""
    data = memoryview(packet)
    place, end = 0, len(data)
    while place < end:
        size = int.from_bytes(data[place : place + length], "big")
        place += length + size
        if size == 0:
            return False
    return place == end


def _is_hidden(codec: str, packet: Any) -> bool:
    """Tell whether a VP8 packet is an alternate reference that is never shown (bit 4 of its first byte is 0)."""
    return codec == "vp8" and not memoryview(packet)[0] & 0x10

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The cheapest exact decode of some frames of one video, with PyAV.

Which frame is "frame 57" is settled first, by a `FrameTable`: the presentation time stamp of every frame, in order.
It comes from the cheapest place that can be trusted: the container's own sample table (mp4 of constant rate, nothing
is read), else all packets are listed without decoding any (about 6 microseconds each), else, for files whose time
stamps are missing, repeated or out of order, the video is decoded and counted.

Then only what the wanted frames need is decoded. Wanted frames are grouped by the key frame they depend on; a group is
one seek and one run forward; frames that are neither wanted nor referenced by others are dropped inside the decoder
(H.264 and HEVC); after the last wanted packet the decoder is drained and nothing more is read. A picture that does
not come out as planned is never replaced by a neighbour: the group is decoded again without dropping, and if that
fails the whole video is counted. So the frames equal those of a full sequential decode, or there is an error.

Memory: one converted picture per wanted frame (after the caller's `convert`), the table (8 bytes per frame), and
whatever the decoder holds. Nothing else grows with the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .video_sources_lfvila import (
    ATTACHED_PICTURE,
    Deadline,
    LFVilaVideoError,
    VideoLimits,
    VideoSource,
    av,
    video_errors,
)

# Decoders whose non-reference frames may be left out without changing any other frame.
DROPPABLE = ("h264", "hevc")
CHECK_EVERY = 64


@dataclass(frozen=True)
class FrameTable:
    """When every frame of a video is shown.

    Args:
        pts: Time stamps `(n,)` int64 in ticks, ascending; where `counted`, they may be made up from the frame rate.
        time_base: Seconds in one tick.
        end: Tick at which the last frame stops being shown.
        origin: "header" (the container's sample table), "packets" or "frames" (decoded and counted).
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


@dataclass
class DecodedVideo:
    """What `decode_video` found.

    Args:
        table: The time stamps of all frames.
        indices: The wanted frames, in the order in which they were asked for.
        pictures: What `convert` made of each wanted frame, by index.
        decoded_frames: How many frames came out of decoders, wanted or not.
        codec: Name of the codec.
        container: Name of the container format.
        pixel_format: Name of the stored pixel format.
        stored_size: Height and width as stored, before rotation.
        rotation: Degrees, counter-clockwise, by which the pictures were turned to be upright.
        notes: What is odd about the file, in words.
    """

    table: FrameTable
    indices: list[int]
    pictures: dict[int, torch.Tensor]
    decoded_frames: int
    codec: str = ""
    container: str = ""
    pixel_format: str = ""
    stored_size: tuple[int, int] = (0, 0)
    rotation: int = 0
    notes: list[str] = field(default_factory=list)


class _PlanFailed(Exception):
    """The file is not as its time stamps say: count instead."""


@dataclass(frozen=True)
class _Group:
    key: int
    targets: list[int]
    hint: int | None


class PictureMaker:
    """Turn decoded frames into upright RGB pictures.

    Args:
        source: Name of the video for errors.
        limits: For the largest picture.
        size: Height and width to scale to inside the colour conversion (bilinear); `None` keeps the stored size.
        transform: Called with each `(3, H, W)` uint8 picture; its result is kept in place of the picture.
    """

    def __init__(
        self,
        source: str,
        limits: VideoLimits,
        size: tuple[int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.source = source
        self.limits = limits
        self.size = size
        self.transform = transform
        self.rotation = 0

    def __call__(self, frame: Any) -> torch.Tensor:
        """One `av.VideoFrame` to `(3, H, W)` uint8, or to what `transform` makes of that."""
        check_picture_size(self.source, frame.height, frame.width, self.limits)
        rotation = int(frame.rotation)
        quarter_turns = round(rotation / 90) % 4
        self.rotation = rotation
        if self.size is None:
            height, width = frame.height, frame.width
        else:
            height, width = self.size[::-1] if quarter_turns % 2 else self.size
        rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR").to_ndarray()
        upright = np.rot90(rgb, quarter_turns)  # (H, W, 3)
        picture = torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))  # (3, H, W)
        return picture if self.transform is None else self.transform(picture)


def decode_video(
    source: VideoSource,
    choose: Callable[[FrameTable], Sequence[int]],
    make_picture: PictureMaker,
    deadline: Deadline,
    *,
    num_threads: int = 1,
    accept_truncated: bool = False,
) -> DecodedVideo:
    """Decode the frames that `choose` picks, and as little else as possible.

    Args:
        source: The video.
        choose: From the table of all frames to the wanted frame numbers (any order, repeats allowed).
        make_picture: Makes the picture that is kept.
        deadline: Checked between packets.
        num_threads: Decoders that work at the same time on different groups; more than one only for sources that can be
            opened twice, and where there is enough to share.
        accept_truncated: Take a file whose end is missing for the part that is there, instead of an error.

    Raises:
        LFVilaVideoError: where the frames cannot be had exactly.
    """
    claimed: FrameTable | None = None
    with source.open() as container, video_errors(source.name):
        session = _Session(source, container, make_picture, deadline)
        table = session.header_table()
        if table is None:
            table = session.packet_table()
        if table is not None:
            indices = session.chosen(choose, table)
            try:
                pictures = session.planned(table, indices, num_threads)
                return session.result(table, indices, pictures)
            except _PlanFailed:
                claimed = table
    with source.open() as container, video_errors(source.name):
        session = _Session(source, container, make_picture, deadline)
        table = session.counted_table()
        missing = session.judge_damage(claimed, table, accept_truncated)
        indices = session.chosen(choose, table)
    with source.open() as container, video_errors(source.name):
        session = _Session(source, container, make_picture, deadline)
        result = session.result(table, indices, session.sequential(indices))
        result.notes.extend(missing)
        result.decoded_frames += len(table)
        return result


def check_picture_size(source: str, height: int, width: int, limits: VideoLimits) -> None:
    """Raise `LFVilaVideoError` for a picture without area or above the limit."""
    if height < 1 or width < 1:
        raise LFVilaVideoError(source, f"the picture size is {width} x {height}")
    if limits.max_pixels is not None and height * width > limits.max_pixels:
        raise LFVilaVideoError(
            source, f"a picture of {width} x {height} is above the limit of {limits.max_pixels} pixels (max_pixels)"
        )


class _Session:
    """One open container, its video stream, and the ways to get frames from it."""

    def __init__(self, source: VideoSource, container: Any, make_picture: PictureMaker, deadline: Deadline) -> None:
        self.source = source
        self.container = container
        self.make_picture = make_picture
        self.deadline = deadline
        self.limits = source.limits
        self.stream = _pick_stream(container, source.name)
        self.context = self.stream.codec_context
        self.decoded_frames = 0
        self.notes: list[str] = []
        check_picture_size(source.name, self.context.height, self.context.width, self.limits)
        self.stream.thread_type = "NONE"
        self.time_base = self.stream.time_base
        if not self.time_base:
            raise LFVilaVideoError(source.name, "the video stream has no time base")

    # Which frames there are.

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
        ticks = np.empty(count, dtype=np.int64)
        for position, entry in enumerate(entries):
            if entry.is_discard:
                return None
            ticks[position] = entry.timestamp
        steps = np.diff(ticks)
        step = int(steps[0]) if count > 1 else int(stream.duration or 1)
        if step <= 0 or (count > 1 and not (steps == step).all()):
            return None
        pts = int(stream.start_time) + step * np.arange(count, dtype=np.int64)
        return FrameTable(pts, self.time_base, int(pts[-1]) + step, "header")

    def packet_table(self) -> FrameTable | None:
        """The table from listing every packet; `None` where time stamps are missing, repeated or not to be trusted."""
        pts: list[int] = []
        keys: list[int] = []
        last, last_duration = -(2**62), 0
        reordered = untimed = False
        for packet in self._packets():
            if packet.pts is None:
                untimed = True
                continue
            if packet.is_discard or _is_hidden(self.context.name, packet):
                continue
            pts.append(packet.pts)
            self._check_count(len(pts))
            reordered |= packet.pts != packet.dts
            if packet.pts > last:
                last, last_duration = packet.pts, packet.duration or 0
            if packet.is_keyframe:
                keys.append(packet.pts)
        # AVI stores no presentation order, so its time stamps are only right where nothing is reordered
        if not pts or untimed or (reordered and self.container.format.name == "avi"):
            return None
        ticks = np.unique(np.asarray(pts, dtype=np.int64))
        if len(ticks) != len(pts) or not keys:
            return None
        if last_duration <= 0:
            last_duration = int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1
        return FrameTable(ticks, self.time_base, last + last_duration, "packets", np.unique(np.asarray(keys, np.int64)))

    def counted_table(self) -> FrameTable:
        """The table from decoding everything. Time stamps that do not ascend are replaced by the frame rate's."""
        pts: list[int | None] = []
        self.packets_read = 0
        for frame in self._decode_forward():
            pts.append(frame.pts)
            self._check_count(len(pts))
        if not pts:
            raise LFVilaVideoError(self.source.name, "no frame can be decoded")
        if all(tick is not None for tick in pts):
            ticks = np.asarray(pts, dtype=np.int64)
            if (np.diff(ticks) > 0).all():
                step = int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1
                return FrameTable(ticks, self.time_base, int(ticks[-1]) + step, "frames")
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise LFVilaVideoError(self.source.name, "it has neither time stamps in order nor a frame rate")
        self.notes.append("the time stamps are missing or out of order: times come from the frame rate")
        return FrameTable(np.arange(len(pts), dtype=np.int64), 1 / Fraction(rate), len(pts), "frames")

    def judge_damage(self, claimed: FrameTable | None, found: FrameTable, accept_truncated: bool) -> list[str]:
        """Say in words what is missing of the `claimed` frames; an error where the end of the file is missing."""
        if claimed is None or len(found) >= len(claimed):
            return self.notes
        text = (
            f"the file promises {len(claimed)} frames ({claimed.duration:.2f} s), "
            f"{len(found)} ({found.duration:.2f} s) can be decoded"
        )
        if self.packets_read < len(claimed) and not accept_truncated:
            raise LFVilaVideoError(
                self.source.name, f"truncated: {text}", f"frame {len(found)} ({found.duration:.2f} s)"
            )
        return [*self.notes, f"damaged: {text}"]

    def chosen(self, choose: Callable[[FrameTable], Sequence[int]], table: FrameTable) -> list[int]:
        """The wanted frame numbers, all of them in the video and together within the memory limit."""
        indices = [int(index) for index in choose(table)]
        if not indices:
            raise ValueError(f"no frame of {self.source.name} was asked for")
        for index in indices:
            if not 0 <= index < len(table):
                raise ValueError(
                    f"frame {index} was asked for, {self.source.name} has the frames 0 to {len(table) - 1}"
                )
        limit = self.limits.max_output_bytes
        if limit is not None and self.make_picture.transform is None:
            height, width = self.make_picture.size or (self.context.height, self.context.width)
            if 3 * height * width * len(indices) > limit:
                raise LFVilaVideoError(
                    self.source.name,
                    f"{len(indices)} frames of {width} x {height} exceed the limit of {limit} bytes (max_output_bytes)",
                )
        return indices

    # Getting frames.

    def planned(self, table: FrameTable, indices: Sequence[int], num_threads: int) -> dict[int, torch.Tensor]:
        """The pictures by index, one seek and one run per key frame."""
        by_pts = {int(table.pts[index]): index for index in indices}
        groups = self._groups(sorted(by_pts), table)
        if num_threads > 1 and self.source.shareable and len(groups) >= 2 * num_threads:
            pictures = self._decode_in_threads(groups, table, num_threads)
        else:
            pictures = self._decode_groups(groups, table)
        return {by_pts[pts]: picture for pts, picture in pictures.items()}

    def sequential(self, indices: Sequence[int]) -> dict[int, torch.Tensor]:
        """The pictures by index, counting frames from the first one on."""
        wanted = set(indices)
        pictures: dict[int, torch.Tensor] = {}
        last = max(wanted)
        for index, frame in enumerate(self._decode_forward()):
            if index in wanted:
                pictures[index] = self.make_picture(frame)
            if index >= last:
                break
        absent = sorted(wanted - pictures.keys())
        if absent:
            raise LFVilaVideoError(
                self.source.name, "the frame came out once and not a second time", f"frame {absent[0]}"
            )
        return pictures

    def result(self, table: FrameTable, indices: list[int], pictures: dict[int, torch.Tensor]) -> DecodedVideo:
        """Everything that is known, in one place."""
        return DecodedVideo(
            table=table,
            indices=indices,
            pictures=pictures,
            decoded_frames=self.decoded_frames,
            codec=self.context.name,
            container=self.container.format.name,
            pixel_format=str(self.context.pix_fmt),
            stored_size=(self.context.height, self.context.width),
            rotation=self.make_picture.rotation,
            notes=list(self.notes),
        )

    def _groups(self, targets: list[int], table: FrameTable) -> list[_Group]:
        """Wanted time stamps by the key frame from which they can be decoded."""
        groups: list[_Group] = []
        for target in targets:
            if table.keys is not None:
                place = int(np.searchsorted(table.keys, target, side="right")) - 1
                if place < 0:
                    raise _PlanFailed
                key, hint = int(table.keys[place]), None
            else:
                key, hint = self._find_key(target, table)
            if groups and groups[-1].key == key:
                groups[-1].targets.append(target)
            else:
                groups.append(_Group(key, [target], hint))
        return groups

    def _find_key(self, target: int, table: FrameTable) -> tuple[int, int]:
        """The last key frame at or before `target`, and the seek argument that leads to it."""
        for argument in self._seek_arguments(target, table):
            self._seek(argument)
            packet = next((packet for packet in self._packets() if packet.is_keyframe), None)
            if packet is not None and packet.pts is not None and packet.pts <= target:
                return packet.pts, argument
        raise _PlanFailed

    def _seek_arguments(self, target: int, table: FrameTable) -> Iterator[int]:
        """Where to seek for a frame: to it, and where that lands too late, further and further back."""
        first = int(table.pts[0])
        yield target
        back = max(int(1 / self.time_base), 1)
        while target - back > first - 10 * max(int(1 / self.time_base), 1):
            yield target - back
            back *= 2
        yield min(first, 0) - max(int(10 / self.time_base), 1)

    def _decode_groups(self, groups: Iterable[_Group], table: FrameTable) -> dict[int, torch.Tensor]:
        pictures: dict[int, torch.Tensor] = {}
        for group in groups:
            try:
                found = self._decode_group(group, table, drop=self.context.name in DROPPABLE)
            except (_PlanFailed, av.error.FFmpegError):
                try:
                    found = self._decode_group(group, table, drop=False)
                except av.error.FFmpegError as error:
                    raise _PlanFailed from error
            pictures.update(found)
        return pictures

    def _decode_group(self, group: _Group, table: FrameTable, drop: bool) -> dict[int, torch.Tensor]:
        """Seek to the group's key frame and run forward to its last wanted frame."""
        pending = set(group.targets)
        unsent = set(group.targets)
        pictures: dict[int, torch.Tensor] = {}
        newest = -(2**62)

        def take(frames: Iterable[Any]) -> None:
            nonlocal newest
            for frame in frames:
                self.decoded_frames += 1
                if frame.pts is None or frame.pts <= newest:
                    raise _PlanFailed
                newest = frame.pts
                if newest in pending:
                    pending.discard(newest)
                    pictures[newest] = self.make_picture(frame)

        dropping = False
        try:
            for packet in self._packets_from(group, table):
                if drop and dropping is (packet.pts in pending):
                    dropping = not dropping
                    self.context.skip_frame = "NONREF" if dropping else "DEFAULT"
                unsent.discard(packet.pts)
                take(self.context.decode(packet))
                if not unsent:
                    break
            if pending:
                take(self.context.decode(None))
        finally:
            if drop:
                self.context.skip_frame = "DEFAULT"
        if pending:
            raise _PlanFailed
        return pictures

    def _packets_from(self, group: _Group, table: FrameTable) -> Iterator[Any]:
        """The packets from the group's key frame on."""
        arguments = [group.hint] if group.hint is not None else self._seek_arguments(group.targets[0], table)
        for argument in arguments:
            self._seek(argument)
            packets = self._packets()
            for packet in packets:
                if packet.is_keyframe and packet.pts == group.key:
                    yield packet
                    yield from packets
                    return
                if packet.dts is not None and packet.dts > group.key:
                    break
        raise _PlanFailed

    def _decode_in_threads(self, groups: list[_Group], table: FrameTable, num_threads: int) -> dict[int, torch.Tensor]:
        """Split the groups into runs, one open container and one thread each."""

        def work(part: list[_Group]) -> tuple[dict[int, torch.Tensor], int]:
            with self.source.open() as container, video_errors(self.source.name):
                session = _Session(self.source, container, self.make_picture, self.deadline)
                return session._decode_groups(part, table), session.decoded_frames

        bounds = [round(len(groups) * thread / num_threads) for thread in range(num_threads + 1)]
        parts = [groups[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        pictures: dict[int, torch.Tensor] = {}
        with ThreadPoolExecutor(num_threads) as pool:
            for found, decoded in pool.map(work, parts):
                pictures.update(found)
                self.decoded_frames += decoded
        return pictures

    def _decode_forward(self) -> Iterator[Any]:
        """Every frame from the first packet on, past packets that cannot be decoded."""
        self.packets_read = 0
        for packet in self._packets():
            self.packets_read += 1
            try:
                frames = self.context.decode(packet)
            except av.error.InvalidDataError:
                continue
            self.decoded_frames += len(frames)
            yield from frames
        frames = self.context.decode(None)
        self.decoded_frames += len(frames)
        yield from frames

    def _seek(self, argument: int) -> None:
        try:
            self.container.seek(argument, stream=self.stream, backward=True)
        except av.error.FFmpegError as error:
            raise _PlanFailed from error

    def _packets(self) -> Iterator[Any]:
        """The packets of the video stream from here on; a broken end is an end."""
        packets = self.container.demux(self.stream)
        for number in range(2**62):
            if number % CHECK_EVERY == 0:
                self.deadline.check()
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError:
                return
            if packet is None:
                return
            if packet.size > 0:
                yield packet

    def _check_count(self, count: int) -> None:
        limit = self.limits.max_frames
        if limit is not None and count > limit:
            raise LFVilaVideoError(
                self.source.name, f"{count} frames or more are above the limit of {limit} (max_frames)"
            )


def _pick_stream(container: Any, name: str) -> Any:
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


def _area(stream: Any) -> int:
    return int(stream.codec_context.width or 0) * int(stream.codec_context.height or 0)


def _is_hidden(codec: str, packet: Any) -> bool:
    """Whether a VP8 packet is an alternate reference that is never shown (bit 4 of its first byte is 0)."""
    return codec == "vp8" and not memoryview(packet)[0] & 0x10

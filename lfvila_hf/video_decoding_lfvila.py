# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The cheapest exact decode of some frames of one video, with PyAV.

A `FrameTable` settles which time stamps are wanted. They are grouped by the key frame they depend on; a group is one
seek and one run forward; frames that are neither wanted nor referenced by others are dropped inside the decoder
(H.264 and HEVC); after the last wanted packet the decoder is drained and nothing more is read. Nothing is decoded
twice.

What does not come out as planned is never replaced by a neighbour: the table is distrusted and the next, dearer one is
made, down to decoding and counting the whole video. So the frames equal those of a full sequential decode, or there
is an error; what is odd about the file is said in the notes.

Memory: one picture per wanted frame (after the caller's `transform`) and whatever the decoder holds. Nothing grows
with the length of the video but the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .video_pictures_lfvila import PictureMaker
from .video_sources_lfvila import (
    Deadline,
    LFVilaVideoError,
    VideoSource,
    av,
    caller_errors,
    video_errors,
)
from .video_tables_lfvila import FrameTable, VideoSession, logger

# Decoders whose non-reference frames may be left out without changing any other frame.
DROPPABLE = ("h264", "hevc")
# Packets by which sharing groups between threads must shorten the longest thread's work, to be worth opening the file
# again. The decoder's own frame threads are not used instead: decode and wait alternate, and they came out slower.
WORTH_SHARING = 16


@dataclass
class DecodedVideo:
    """What `decode_video` found.

    Args:
        table: The time stamps of all frames.
        indices: The wanted frames, in the order in which they were asked for.
        pictures: What `PictureMaker` made of each wanted frame, by index.
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
    """The file is not as the table says."""


@dataclass(frozen=True)
class _Group:
    key: int
    targets: list[int]
    hint: int | None

    def cost(self, table: FrameTable) -> int:
        """Packets between the key frame and the last wanted frame, about."""
        key, last = np.searchsorted(table.pts, [self.key, self.targets[-1]])
        return int(last - key) + 2


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
        num_threads: Decoders that work at the same time on different groups, the longest first; more than one only for
            sources that can be opened twice, and where there is enough to share.
        accept_truncated: Take a file whose end is missing for the part that is there, instead of an error.

    Raises:
        LFVilaVideoError: where the frames cannot be had exactly.
        CallerError: where `choose` or a transform raises something else.
    """
    claimed: FrameTable | None = None
    spent = 0
    for attempt in (VideoSession.header_table, VideoSession.packet_table):
        with source.open() as container, video_errors(source.name):
            session = VideoSession(source, container, deadline)
            table = attempt(session)
            if table is None:
                continue
            _judge_missing(session, claimed, table, accept_truncated)
            claimed = claimed or table
            decoder = _Decoder(session, make_picture)
            indices = decoder.chosen(choose, table)
            session.note_oddities(table)
            try:
                pictures = decoder.planned(table, indices, num_threads)
            except _PlanFailed:
                spent += session.decoded_frames
                continue
            return decoder.result(table, indices, pictures, spent)
    with source.open() as container, video_errors(source.name):
        session = VideoSession(source, container, deadline)
        table = session.counted_table()
        _judge_missing(session, claimed, table, accept_truncated)
        indices = _Decoder(session, make_picture).chosen(choose, table)
        session.note_oddities(table)
        notes, spent = session.notes, spent + session.decoded_frames
    with source.open() as container, video_errors(source.name):
        session = VideoSession(source, container, deadline)
        decoder = _Decoder(session, make_picture)
        pictures = decoder.sequential(indices)
        session.notes = notes
        return decoder.result(table, indices, pictures, spent)


def checked_indices(source: str, choose: Callable[[FrameTable], Sequence[int]], table: FrameTable) -> list[int]:
    """What `choose` picks of a table, each of which the video has; what goes wrong is marked as the caller's error."""
    with caller_errors():
        indices = [int(index) for index in choose(table)]
        if not indices:
            raise ValueError(f"no frame of {source} was asked for")
        for index in indices:
            if not 0 <= index < len(table):
                raise ValueError(f"frame {index} was asked for, {source} has the frames 0 to {len(table) - 1}")
    return indices


def _judge_missing(
    session: VideoSession, claimed: FrameTable | None, found: FrameTable, accept_truncated: bool
) -> None:
    """Note what is missing of the `claimed` frames; an error where the end of the file is."""
    if claimed is None or len(found) >= len(claimed):
        return
    text = (
        f"the file promises {len(claimed)} frames ({claimed.duration:.2f} s), "
        f"{len(found)} ({found.duration:.2f} s) can be read"
    )
    if session.packets_read >= len(claimed):
        session.notes.append(f"damaged: {text}")
    elif accept_truncated:
        session.notes.append(f"truncated: {text}")
    else:
        position = f"frame {len(found)} ({found.duration:.2f} s)"
        raise LFVilaVideoError(session.source.name, f"truncated: {text}", position)


@contextmanager
def _emptied_on_error(groups: Iterator[_Group]) -> Iterator[None]:
    """Where one thread fails, the others need not go on: leave no group for them."""
    try:
        yield
    except BaseException:
        list(groups)
        raise


def _longest_first(groups: list[_Group], table: FrameTable, num_threads: int) -> tuple[list[_Group], int]:
    """The groups by falling cost, and how many packets others than the busiest thread decode in that order."""
    costs = {group.key: group.cost(table) for group in groups}
    ordered = sorted(groups, key=lambda group: -costs[group.key])
    busy = [0] * num_threads
    for group in ordered:
        busy[busy.index(min(busy))] += costs[group.key]
    return ordered, sum(busy) - max(busy)


class _Decoder:
    """The ways to get pictures out of a session."""

    def __init__(self, session: VideoSession, make_picture: PictureMaker) -> None:
        self.session = session
        self.source = session.source
        self.context = session.context
        self.make_picture = make_picture

    def chosen(self, choose: Callable[[FrameTable], Sequence[int]], table: FrameTable) -> list[int]:
        """The wanted frame numbers, all of them in the video and together within the memory limit."""
        indices = checked_indices(self.source.name, choose, table)
        limit = self.source.limits.max_output_bytes
        if limit is not None and self.make_picture.transform is None:
            height, width = self.make_picture.size or (self.context.height, self.context.width)
            if 3 * height * width * len(indices) > limit:
                reason = f"{len(indices)} frames of {width} x {height} exceed the limit of {limit} bytes"
                raise LFVilaVideoError(self.source.name, f"{reason} (max_output_bytes)")
        return indices

    def planned(self, table: FrameTable, indices: Sequence[int], num_threads: int) -> dict[int, torch.Tensor]:
        """The pictures by index, one seek and one run per key frame."""
        by_pts = {int(table.pts[index]): index for index in indices}
        groups = self._groups(sorted(by_pts), table)
        shared, saved = _longest_first(groups, table, num_threads)
        if self.source.shareable and saved >= WORTH_SHARING:
            pictures = self._decode_in_threads(shared, table, num_threads)
        else:
            pictures = self._decode_groups(groups, table)
        return {by_pts[pts]: picture for pts, picture in pictures.items()}

    def sequential(self, indices: Sequence[int]) -> dict[int, torch.Tensor]:
        """The pictures by index, counting frames from the first one on."""
        wanted = set(indices)
        pictures: dict[int, torch.Tensor] = {}
        last = max(wanted)
        for index, frame in enumerate(self.session.decode_forward()):
            if index in wanted:
                pictures[index] = self.make_picture(frame)
            if index >= last:
                break
        absent = sorted(wanted - pictures.keys())
        if absent:
            reason = "the frame came out of the decoder once and not a second time"
            raise LFVilaVideoError(self.source.name, reason, f"frame {absent[0]}")
        return pictures

    def result(
        self, table: FrameTable, indices: list[int], pictures: dict[int, torch.Tensor], spent: int
    ) -> DecodedVideo:
        """Everything that is known, in one place."""
        for note in self.session.notes:
            level = logging.INFO if "time stamps" in note else logging.WARNING
            logger.log(level, "video %s: %s", self.source.name, note)
        return DecodedVideo(
            table=table,
            indices=indices,
            pictures=pictures,
            decoded_frames=spent + self.session.decoded_frames,
            codec=self.context.name,
            container=self.session.container.format.name,
            pixel_format=str(self.context.pix_fmt),
            stored_size=(self.context.height, self.context.width),
            rotation=self.make_picture.rotation,
            notes=list(self.session.notes),
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
            packet = next((packet for packet in self.session.packets() if packet.is_keyframe), None)
            if packet is not None and packet.pts is not None and packet.pts <= target:
                return packet.pts, argument
        raise _PlanFailed

    def _seek_arguments(self, target: int, table: FrameTable) -> Iterator[int]:
        """Where to seek for a frame: to it, and where that lands too late, further and further back."""
        first = int(table.pts[0])
        second = max(int(1 / self.session.time_base), 1)
        yield target
        back = second
        while target - back > first - 10 * second:
            yield target - back
            back *= 2
        yield min(first, 0) - 10 * second

    def _decode_groups(self, groups: Iterable[_Group], table: FrameTable) -> dict[int, torch.Tensor]:
        pictures: dict[int, torch.Tensor] = {}
        for group in groups:
            try:
                pictures.update(self._decode_group(group, table))
            except av.error.FFmpegError as error:
                raise _PlanFailed from error
        return pictures

    def _decode_group(self, group: _Group, table: FrameTable) -> dict[int, torch.Tensor]:
        """Seek to the group's key frame and run forward to its last wanted frame."""
        pending = set(group.targets)
        unsent = set(group.targets)
        pictures: dict[int, torch.Tensor] = {}
        newest = -(2**62)
        step = int(table.pts[1] - table.pts[0]) if table.origin == "header" and len(table) > 1 else 1

        def take(frames: Sequence[Any]) -> None:
            nonlocal newest
            self.session.decoded_frames += len(frames)
            for frame in frames:
                pts = frame.pts
                if pts is None or pts <= newest:
                    raise _PlanFailed
                newest = pts
                if pts in pending:
                    if frame.is_corrupt:
                        raise _PlanFailed
                    pending.discard(pts)
                    pictures[pts] = self.make_picture(frame)

        decode = self.context.decode
        drop = self.context.name in DROPPABLE
        dropping = False
        try:
            for packet in self._packets_from(group, table):
                pts = packet.pts
                if pts is None or (pts - group.key) % step:
                    raise _PlanFailed
                wanted = pts in pending
                if drop and dropping is wanted:
                    dropping = not dropping
                    self.context.skip_frame = "NONREF" if dropping else "DEFAULT"
                frames = decode(packet)
                if frames:
                    take(frames)
                if wanted:
                    unsent.discard(pts)
                    if not unsent:
                        break
            if pending:
                take(decode(None))
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
            packets = self.session.packets()
            for packet in packets:
                if packet.is_keyframe and packet.pts == group.key:
                    yield packet
                    yield from packets
                    return
                if packet.dts is not None and packet.dts > group.key:
                    break
        raise _PlanFailed

    def _decode_in_threads(self, groups: list[_Group], table: FrameTable, num_threads: int) -> dict[int, torch.Tensor]:
        """This thread and others, each with an open container, take group after group until none is left."""
        left = iter(groups)  # one for all threads: a list's iterator gives each item once

        def elsewhere() -> tuple[dict[int, torch.Tensor], int]:
            with _emptied_on_error(left), self.source.open() as container, video_errors(self.source.name):
                session = VideoSession(self.source, container, self.session.deadline)
                return _Decoder(session, self.make_picture)._decode_groups(left, table), session.decoded_frames

        with ThreadPoolExecutor(num_threads - 1) as pool:
            others = [pool.submit(elsewhere) for _ in range(num_threads - 1)]
            with _emptied_on_error(left):
                pictures = self._decode_groups(left, table)
            for future in others:
                found, decoded = future.result()
                pictures.update(found)
                self.session.decoded_frames += decoded
        return pictures

    def _seek(self, argument: int) -> None:
        try:
            self.session.container.seek(argument, stream=self.session.stream, backward=True)
        except av.error.FFmpegError as error:
            raise _PlanFailed from error

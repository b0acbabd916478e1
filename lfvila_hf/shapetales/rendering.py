# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""H.264 files of ShapeTales, made from `plan.Story`.

Design note.

1. One x264 encoder per story, without B-frames, with a key frame where a clip begins. The clip files are cut from the
   finished video by copying its packets, so a clip decodes to exactly the pixels of its part of the video.
2. A file appears under its name only when it is complete (written elsewhere, then renamed), and `StoryFiles` records
   its size and checksum.

Memory: the encoder and the frames of one clip, 24 x 96 x 160 x 3 bytes = 1.1 MB by default. Frames are drawn in
`drawing`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from .drawing import draw_clip
from .story_plan import Story, StoryParameters


@dataclass(frozen=True)
class StoryFiles:
    """Files of one rendered story.

    Attributes:
        clip_id: The story.
        files: Path relative to the data folder, size in bytes and CRC-32 of each file, clips first.
    """

    clip_id: str
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class StoryRenderer:
    """Renderer of stories into a folder; it can be sent to another process.

    Attributes:
        root: Data folder, with the sub-folders `videos` and (with `clip_files`) `clips`.
        parameters: Sizes, frame rate and quality.
    """

    root: Path
    parameters: StoryParameters

    def __call__(self, story: Story) -> StoryFiles:
        """Draw, encode and write one story, replacing its files."""
        unfinished = unfinished_folder(self.root)
        unfinished.mkdir(exist_ok=True)
        video = unfinished / f"{os.getpid()}.{story.clip_id}.mp4"
        encode_story(story, self.parameters, video)
        moves: list[tuple[Path, str]] = []
        if self.parameters.clip_files:
            names = clip_names(story)
            clips = [unfinished / f"{os.getpid()}.{name}" for name in names]
            cut_at_key_frames(video, clips)
            (self.root / "clips" / story.clip_id).mkdir(exist_ok=True)
            moves += [(clip, f"clips/{story.clip_id}/{name}") for clip, name in zip(clips, names, strict=True)]
        moves.append((video, f"videos/{story.clip_id}.mp4"))
        written = []
        for temporary, name in moves:
            content = temporary.read_bytes()
            written.append((name, len(content), zlib.crc32(content)))
            os.replace(temporary, self.root / name)
        return StoryFiles(story.clip_id, tuple(written))


def unfinished_folder(root: Path) -> Path:
    """Return the folder for incomplete files of `root`; it may be deleted."""
    return root / ".unfinished"


def clip_names(story: Story) -> list[str]:
    """Return the file names of a story's clips in order, counted from 0 as in the released format."""
    return [f"{story.clip_id}.{number}.mp4" for number in range(len(story.events))]


def encode_story(story: Story, parameters: StoryParameters, path: Path) -> None:
    """Draw a story and write it as one H.264 file whose clips begin with key frames."""
    options = {
        "preset": "ultrafast",
        "crf": str(parameters.crf),
        "bf": "0",  # presentation order is decoding order, so that packets can be cut into clips
        "sc_threshold": "0",  # key frames only where they are asked for
        "g": str(sum(story.clip_frames) + 1),
        "forced-idr": "1",
    }
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=parameters.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = parameters.width, parameters.height, "yuv420p"
        stream.codec_context.thread_count = 1
        pts = 0
        for clip in draw_clips(story, parameters):
            for number, pixels in enumerate(clip):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = pts
                if number == 0:
                    frame.pict_type = av.video.frame.PictureType.I
                container.mux(stream.encode(frame))
                pts += 1
        container.mux(stream.encode(None))


def cut_at_key_frames(video: Path, clips: list[Path]) -> None:
    """Copy the packets of a video into one file per key frame, without decoding.

    Raises:
        ValueError: The video does not have exactly one key frame per clip.
    """
    with av.open(str(video)) as source:
        stream = source.streams.video[0]
        packets: list[av.Packet] = []
        times: list[int] = []
        starts: list[int] = []
        for packet in source.demux(stream):
            if packet.pts is None:  # the end of the file, as an empty packet
                continue
            if packet.is_keyframe:
                starts.append(len(packets))
            packets.append(packet)
            times.append(packet.pts)
        if len(starts) != len(clips):
            raise ValueError(f"{video} has {len(starts)} key frames, expected one for each of {len(clips)} clips")
        for clip, first, last in zip(clips, starts, [*starts[1:], len(packets)], strict=True):
            with av.open(str(clip), "w", format="mp4") as target:
                copy = target.add_stream_from_template(stream)
                for packet, time in zip(packets[first:last], times[first:last], strict=True):
                    packet.pts = packet.dts = time - times[first]
                    packet.stream = copy
                    target.mux(packet)


def draw_clips(story: Story, parameters: StoryParameters) -> Iterator[np.ndarray]:
    """Yield the frames of each clip of a story: uint8 RGB `(frames of the clip, H, W, 3)`."""
    generator = story.picture_generator()
    for event, num_frames in zip(story.events, story.clip_frames, strict=True):
        yield draw_clip(event, num_frames, parameters.height, parameters.width, generator)

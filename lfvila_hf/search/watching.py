# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Sentences that begin and end in a stream, and the index of a stream.

**Rule.** A sentence begins at the first clip whose cosine with it reaches its threshold, and ends at the first clip
below the threshold that it began with. The threshold is one of three:

- a cosine that is given;
- that of an index: the null threshold of `lfvila_hf.search.sentence_moments`. At most the share `alpha` of the segments
  of the index, nearly all of which do not show the sentence, have a clip that reaches it;
- that of the stream's own past: the same rule for the clips so far, in groups of K as an index has them, without those
  during which the sentence was on. The first `FIRST_CLIPS` clips only calibrate: nothing begins in them.

**Index.** The stream becomes one video of an index. A row is written when its segment is over: T frames for LF-VILA, a
minute of clips for an encoder of clips; segments do not overlap. At the end its rows are read into memory (some 20 KB
per minute) and written once more, in one commit, with the duration of the whole stream.

Letters: M sentences, N segments, C clips, T frames of a segment, K clips of a segment, D width.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.search.index import Index, quoted, rows_of_video
from lfvila_hf.search.ranking import Scan
from lfvila_hf.search.segments import Segment, SegmentRule, VideoFile, thumbnail
from lfvila_hf.search.sentence_moments import Calibration
from lfvila_hf.search.story_sentences import Story
from lfvila_hf.search.video_library import VideoLibrary, provenance_of
from lfvila_hf.streaming import ClipStream, StreamClip

ALPHA = 0.01
"""Share of foreign segments that may reach a threshold; a day of stream has 1,600 segments of 53.6 s."""
FIRST_CLIPS = 30
PAST_SEGMENTS = 1000
"""Newest segments of a stream that its own threshold is made of."""
SEGMENT_SECONDS = 60.0
SEGMENTS_PER_COMPACTION = 500
"""Rows after which the small files of the table are joined: every commit lists all of them."""


# -- begins and ends -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Begin or end of a sentence in a stream.

    Args:
        event: "begin" or "end".
        sentence: Number of the sentence.
        text: The sentence.
        second: Second of the stream at which it begins or ends.
        cosine: Of the clip that it begins with; for an end the largest since the begin.
        threshold: Cosine that it began at.
        start: Second at which it began.
        is_cut: Whether the stream ended while it was on.
    """

    event: Literal["begin", "end"]
    sentence: int
    text: str
    second: float
    cosine: float
    threshold: float
    start: float
    is_cut: bool = False


class OwnPast:
    """Threshold of one sentence from the clips of the stream in which it was off.

    Args:
        clips_per_segment: K.
        alpha: Share of segments that may reach the threshold.
    """

    def __init__(self, clips_per_segment: int, alpha: float = ALPHA) -> None:
        self.clips_per_segment, self.alpha = clips_per_segment, alpha
        self.cosines: deque[float] = deque(maxlen=PAST_SEGMENTS * clips_per_segment)

    def threshold(self) -> float:
        """Return the threshold; infinite during the first clips."""
        if len(self.cosines) < FIRST_CLIPS:
            return float("inf")
        cosines = torch.tensor(self.cosines)[:, None]  # (C, 1)
        largest = torch.stack([part.amax(0) for part in cosines.split(self.clips_per_segment)])  # (N, 1)
        return float(Calibration(largest, cosines, self.alpha).threshold[0])


class SentenceWatch:
    """Begins and ends of sentences in the clips of a stream.

    Args:
        encoder: Encoder of the clips.
        sentences: M sentences. Each is embedded alone, so that none depends on the others.
        clips_per_segment: K, for a threshold from the stream's own past.
        thresholds: M cosines. Defaults to those of the stream's own past.
        alpha: Share of foreign segments that may reach a threshold of the stream's own past.

    Raises:
        ValueError: A number is out of range, or a sentence is empty.
    """

    def __init__(
        self,
        encoder: StoryEncoder,
        sentences: Sequence[str],
        clips_per_segment: int,
        thresholds: Sequence[float] | None = None,
        alpha: float = ALPHA,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        self.sentences = list(sentences)
        self.vectors = sentence_vectors(encoder, self.sentences)  # (M, D)
        self.thresholds = None if thresholds is None else [float(one) for one in thresholds]
        self.past = [OwnPast(clips_per_segment, alpha) for _ in self.sentences]
        self.on: dict[int, Event] = {}
        self.end = 0.0  # second at which the newest clip ends

    def see(self, clip: StreamClip) -> list[Event]:
        """Take the next clip; returns what begins and ends with it."""
        events = []
        self.end = clip.end
        for number, cosine in enumerate((self.vectors @ clip.embedding).tolist()):
            begun = self.on.get(number)
            if begun is not None and cosine >= begun.threshold:
                self.on[number] = replace(begun, cosine=max(cosine, begun.cosine))
                continue
            threshold = self.past[number].threshold() if self.thresholds is None else self.thresholds[number]
            if begun is not None:
                events.append(replace(begun, event="end", second=clip.start))
                del self.on[number]
            elif cosine >= threshold:
                text = self.sentences[number]
                self.on[number] = Event("begin", number, text, clip.start, cosine, threshold, clip.start)
                events.append(self.on[number])
                continue
            self.past[number].cosines.append(cosine)
        return events

    def finish(self) -> list[Event]:
        """Take the end of the stream; returns the ends of the sentences that are on."""
        on = [self.on[number] for number in sorted(self.on)]
        self.on.clear()
        return [replace(one, event="end", second=self.end, is_cut=True) for one in on]


def sentence_vectors(encoder: StoryEncoder, sentences: Sequence[str]) -> torch.Tensor:
    """Embed sentences one by one; returns `(M, D)`.

    Raises:
        ValueError: A sentence has no letter or digit.
    """
    for sentence in sentences:
        if not any(character.isalnum() for character in sentence):
            raise ValueError(f"the sentence {sentence!r} has no words: write one such as 'A man rides a horse.'")
    if not sentences:
        return torch.zeros(0, encoder.width)
    return torch.cat([encoder.encode_sentences([sentence]) for sentence in sentences])


def thresholds_of_index(
    index: str, encoder: StoryEncoder, sentences: Sequence[str], alpha: float = ALPHA
) -> list[float]:
    """Compute the null threshold of every sentence from the segments of an index.

    Args:
        index: Folder or address of an index of the same encoder.
        encoder: Encoder of the stream.
        sentences: M sentences.
        alpha: Share of the segments that may reach a threshold.

    Returns:
        M cosines.

    Raises:
        ValueError: There is no such index, it was made by another encoder, or it has no clips.
    """
    library = VideoLibrary.load(index, encoder)
    scan = Scan(library.view, Story(tuple(sentences), sentence_vectors(encoder, sentences), None))
    if scan.largest is None or scan.cosines is None or not len(scan.largest):
        raise ValueError(f"the index {index} has no clips to calibrate with: index some videos, or give --threshold")
    return Calibration(scan.largest, scan.cosines, alpha).threshold.tolist()


def clips_in_segment(encoder: StoryEncoder, stream: ClipStream, step: float) -> int:
    """Return K: the clips of a segment of LF-VILA, or those of a minute.

    Args:
        encoder: The encoder.
        stream: Its stream.
        step: Seconds between two frames of the stream.
    """
    if encoder.num_frames:
        return max(encoder.num_frames // stream.frames_per_clip, 1)
    return max(round(SEGMENT_SECONDS / (stream.frames_per_clip * step)), 1)


# -- index -----------------------------------------------------------------------------------------------------------


class StreamIndex:
    """A stream as one video of an index that grows while it runs.

    Args:
        address: Folder or address of the index; made if it is not there.
        encoder: The encoder.
        stream: Its stream.
        step: Seconds between two frames of the stream.
        path: Name of the video in the index; rows that it had are replaced when its first segment is there.

    Raises:
        ValueError: The index was made by another encoder, rule or folder, or another process writes to it.
    """

    def __init__(self, address: str, encoder: StoryEncoder, stream: ClipStream, step: float, path: str) -> None:
        self.encoder, self.path, self.step = encoder, path, step
        self.clips_per_segment = clips_in_segment(encoder, stream, step)
        frames = encoder.num_frames or self.clips_per_segment * stream.frames_per_clip
        clip_seconds = 0.0 if encoder.num_frames else stream.frames_per_clip * step
        provenance = provenance_of(encoder, SegmentRule(frames * step, 0.0, clip_seconds), "")
        if not Index.exists(address):
            Index.create(address, provenance)
        self.index = Index.open(address)
        self.index.provenance.check_continues(provenance, address)
        self.file = VideoFile(path, "", 0, time.time_ns())
        self.count = 0
        self._frames: list[torch.Tensor] = []  # prepared, of a segment of LF-VILA
        self._seconds: list[float] = []
        self._clips: list[StreamClip] = []
        self._picture: torch.Tensor | None = None
        self._thumbnail: bytes | None = None

    def add(self, picture: torch.Tensor, second: float, clips: list[StreamClip]) -> None:
        """Take a frame `(3, H, W)` uint8 that was pushed, and the clips that it made final."""
        self._picture = picture
        if self.encoder.num_frames:
            self._frames.append(self.encoder.prepare(picture))
            self._seconds.append(second)
            filled = len(self._frames) / self.encoder.num_frames
        else:
            self._clips += clips
            filled = len(self._clips) / self.clips_per_segment
        if self._thumbnail is None and filled >= 0.5:
            self._thumbnail = thumbnail(picture)
        if filled >= 1:
            self._write()

    def finish(self, clips: list[StreamClip]) -> None:
        """Take the other clips, and write what is left; then all rows once more, with the stream's duration."""
        if not self.encoder.num_frames:
            self._clips += clips
        while self._frames or self._clips:
            self._write()
        if self.count:
            rows = list(self.index.full(f"path = {quoted(self.path)}"))
            segments = [
                Segment(row["start"], row["end"], row["clip_times"], row["clips"], row["vector"], row["thumbnail"])
                for row in sorted(rows, key=lambda row: row["segment"])
            ]
            if os.path.isfile(self.path):
                status = os.stat(self.path)
                self.file = VideoFile(self.path, "", status.st_size, status.st_mtime_ns)
            table = rows_of_video(self.index.provenance, self.file, segments[-1].end, segments)
            self.index.commit([table], [self.path])
        self.index.compact()

    def _segment(self) -> Segment:
        """Make a segment of the first T frames or K clips that are held."""
        assert self._picture is not None  # there was a frame
        jpeg = self._thumbnail or thumbnail(self._picture)
        if not self.encoder.num_frames:
            own = self._clips[: self.clips_per_segment]
            vectors = np.stack([clip.embedding.numpy() for clip in own])
            times = [*(clip.start for clip in own), own[-1].end]
            return Segment(times[0], times[-1], times, vectors, None, jpeg)
        # A shorter segment at the end repeats frames, as one of a file does.
        held = min(len(self._frames), self.encoder.num_frames)
        places = np.linspace(0, held - 1, self.encoder.num_frames).astype(int).tolist()
        whole, clips = self.encoder.encode_segments(torch.stack([self._frames[place] for place in places])[None])
        seconds, end = [self._seconds[place] for place in places], self._seconds[held - 1] + self.step
        if clips is None:
            return Segment(seconds[0], end, [], np.zeros((0, self.encoder.width), np.float32), whole[0].numpy(), jpeg)
        times = [*seconds[:: len(seconds) // clips.shape[1]], end]
        return Segment(seconds[0], end, times, clips[0].numpy(), whole[0].numpy(), jpeg)

    def _write(self) -> None:
        """Append the row of a segment, and then let go of what it was made of."""
        segment = self._segment()
        row = rows_of_video(self.index.provenance, self.file, segment.end, [segment], self.count)
        if self.count:
            self.index.append(row)
        else:
            self.index.commit([row], [self.path])
        self.count += 1
        frames = self.encoder.num_frames
        self._frames, self._seconds = self._frames[frames:], self._seconds[frames:]
        self._clips = self._clips[self.clips_per_segment :]
        self._thumbnail = None
        if self.count % SEGMENTS_PER_COMPACTION == 0:
            self.index.compact()

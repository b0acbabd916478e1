# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Frames of one sample at the target size, decoded or out of a frame store: `CachedVideoReader`.

Without a store this is `LFVilaVideoProcessor.read_pictures`. With one, each video is decoded once, and its frames go
through the same sampling and geometry here. The same seed gives the same frames, crop and flip either way.

Stored frames of a video of n frames, for a model that takes T frames in K clips:

- clip file (pre-training): the T / K frames `clip_indices(n, T / K)`, which training and evaluation both take;
- segments of a whole video (pre-training): T / K frames of every segment, at the same places;
- whole video with n <= `frames_per_video`: all n frames;
- longer video: the T frames `uniform_indices(n, T)`, so that evaluation is exact, and `frames_per_video` uniform ones,
  of which jittered training takes the nearest: at most `(n - 1) / (2 (frames_per_video - 1))` frames (rounded up) away
  from the one asked for, by default an eighth of the distance between two sampled frames.

Stored pixels: with `resolution="reduced"` pictures larger than the first evaluation size (240 x 428 for a target of
192 x 320) are scaled to it and rounded to whole numbers. Evaluation scales to that size anyway, so a pixel differs by
at most half a grey level of 255. Training crops out of the scaled picture, which blurs slightly. Smaller pictures, and
all with `resolution="source"`, are stored as they are, and every pixel is exact. `resolution="crop"` is for training
alone and takes 3/4 of the space: the smallest training crop of a stored picture has as many pixels as the target.

Memory: T pictures at the stored size and T at the target size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers.image_utils import SizeDict

from ..video_processing_lfvila import CROP_OVER_TARGET, RESIZE_OVER_TARGET, random_crop_box
from ..video_reading_lfvila import (
    LFVilaVideoError,
    VideoFrames,
    clip_indices,
    jittered_indices,
    read_frames,
    uniform_indices,
)
from .frame_store import FrameStore, StoredVideo, file_stamp


@dataclass(frozen=True)
class VideoSegments:
    """Some consecutive segments of one video, read as if each were a clip file.

    Attributes:
        path: File of the video.
        borders: Seconds where its segments begin, all of them, and the end of the last one: one more than segments.
        start: Number of the first segment to read.
        count: Number of segments to read.
        is_spread: Read T frames, evenly spread, of those that the segments to read have, instead of T / K frames of
            each. A video with fewer segments than K repeats frames.
    """

    path: str
    borders: tuple[float, ...]
    start: int
    count: int
    is_spread: bool = False

    def __len__(self) -> int:
        return self.count

    def seconds(self, share: int) -> list[float]:
        """Return the seconds of `share` frames of every segment, `linspace(begin, end, share + 1)[:-1]`."""
        pairs = zip(self.borders, self.borders[1:], strict=False)
        return [begin + (end - begin) * place / share for begin, end in pairs for place in range(share)]


class CachedVideoReader:
    """Reader of videos at the target size, not normalised.

    Args:
        video_processor: `LFVilaVideoProcessor`; its settings decide about frames and geometry.
        frame_cache: Store of decoded frames. By default every read decodes.

    Raises:
        ValueError: The settings make no batches of equal shape, or a store cannot serve them.
    """

    def __init__(self, video_processor: Any, frame_cache: FrameStore | None = None) -> None:
        if not (video_processor.do_sample_frames and video_processor.do_resize):
            raise ValueError("a data set needs a video processor with do_sample_frames and do_resize")
        if frame_cache is not None and frame_cache.resolution == "source" and video_processor.scale_in_decoder:
            raise ValueError('resolution="source" keeps pictures as they are, so scale_in_decoder must be False')
        self.video_processor = video_processor
        self.frame_cache = frame_cache

    def read(self, source: str | Sequence[str] | VideoSegments, *, training: bool, seed: int) -> VideoFrames:
        """Read one video, or one that is stored as clip files, or segments of one.

        Args:
            source: A path, the paths of K clips, or K segments.
            training: Apply jitter (to a whole video), random crop and flip.
            seed: Seed of every random choice.

        Returns:
            `frames (T, 3, H, W)` float32 in 0 ... 255, with their seconds and numbers.

        Raises:
            LFVilaVideoError: The video cannot be used.
        """
        video = list(source) if not isinstance(source, str | VideoSegments) else source
        if self.frame_cache is None and not isinstance(video, VideoSegments):
            count = self._frames_of(video)
            return self.video_processor.read_pictures(video, training=training, seed=seed, num_frames=count)
        generator = _generator_of_one_video(seed)
        if isinstance(video, VideoSegments):
            read = self._read_segments(video)
        else:
            read = self._read_clips(video) if isinstance(video, list) else self._read_video(video, training, generator)
        pictures = read.frames.float()  # (T, 3, h, w)
        if training:
            pictures = self._augment(pictures, read.metadata.height, read.metadata.width, generator)
        else:
            pictures = self._evaluation_geometry(pictures)
        return replace(read, frames=pictures)

    def fill(self, source: str | Sequence[str] | VideoSegments) -> None:
        """Put a video, all clip files of one, or all segments of one into the store.

        Args:
            source: A path, the paths of any number of clips, or segments.

        Raises:
            LFVilaVideoError: The video cannot be used.
        """
        if isinstance(source, str):
            self.stored_frames(source, self._frames_of(source), "video")
            return
        if isinstance(source, VideoSegments):
            self._segments(source)
            return
        for path in source:
            self.stored_frames(path, self._frames_of([path]), "clip")

    def stored_frames(
        self, path: str, num_frames: int, rule: Literal["video", "clip", "segments"], times: Sequence[float] = ()
    ) -> StoredVideo:
        """Look up a file in the store; decode and store it if it is not there. Without a store, decode it.

        Args:
            path: A file on this machine.
            num_frames: T of a whole video, T / K of a clip file or segment.
            rule: Sampling that the frames are stored for.
            times: Seconds of the frames, for the rule `"segments"`.

        Raises:
            LFVilaVideoError: The video cannot be used.
            ValueError: `path` is an address.
        """
        store, processor = self.frame_cache, self.video_processor
        if not isinstance(path, str) or "://" in path:
            raise ValueError(f"a frame cache holds frames of files on this machine, expected a path, got {path!r:.80}")
        frames_per_video = None if store is None else store.frames_per_video
        held = max(frames_per_video or 4 * num_frames, num_frames)
        if store is None:
            return self._decode(path, num_frames, rule, held, times)
        settings = {
            "rule": rule,
            "num_frames": num_frames,
            "frames_per_video": held if rule == "video" else None,
            "times": list(times),
            "size": self._stored_size(),
            "accept_truncated": bool(processor.accept_truncated),
            "decoder_size": self._decoder_size(),
        }
        video = store.get(path, settings)
        if video is None:
            stamp = file_stamp(path)
            video = self._decode(path, num_frames, rule, held, times)
            if stamp is not None and file_stamp(path) == stamp:  # the file did not change meanwhile
                store.put(path, settings, video, stamp)
        return video

    def _stored_size(self) -> tuple[int, int] | None:
        """Return height and width that larger pictures are scaled to; `None` keeps them."""
        if self.frame_cache is None or self.frame_cache.resolution == "source":
            return None
        if self.frame_cache.resolution == "reduced":
            return self._scaled(RESIZE_OVER_TARGET)
        enlarged = 1 / math.sqrt(self.video_processor.crop_scale[0])
        return self._scaled((enlarged, enlarged))

    def _decoder_size(self) -> tuple[int, int] | None:
        return self._scaled(RESIZE_OVER_TARGET) if self.video_processor.scale_in_decoder else None

    def _decode(self, path: str, num_frames: int, rule: str, held: int, times: Sequence[float]) -> StoredVideo:
        size = self._stored_size()

        def reduce(picture: torch.Tensor) -> torch.Tensor:
            if size is None or picture.shape[1] * picture.shape[2] <= size[0] * size[1]:
                return picture
            return self._resize(picture.float(), size).round().to(torch.uint8)  # (3, h, w)

        options: dict[str, Any] = {
            "size": self._decoder_size(),
            "accept_truncated": self.video_processor.accept_truncated,
            "num_threads": self.video_processor.num_decoding_threads,
        }
        if rule == "segments":
            try:
                read = read_frames(path, times=times, transform=reduce, **options)
            except LFVilaVideoError:
                raise
            except ValueError as error:  # a second that the video does not have
                raise LFVilaVideoError(path, f"its segments do not fit it: {error}") from error
        elif rule == "clip":
            read = read_frames(path, num_frames=num_frames, sampling="clip", transform=reduce, **options)
        else:
            count = read_frames(path, indices=[0], **options).metadata.total_num_frames
            wanted = (
                range(count) if count <= held else {*uniform_indices(count, held), *uniform_indices(count, num_frames)}
            )
            read = read_frames(path, indices=sorted(wanted), transform=reduce, **options)
        indices, first = np.unique(read.indices, return_index=True)  # a short clip repeats frames
        assert read.times is not None  # a file knows its seconds
        seconds = [read.times[place] for place in first]
        return StoredVideo(read.frames.numpy()[first], indices, seconds, read.metadata)

    def _read_video(self, path: str, training: bool, generator: torch.Generator) -> VideoFrames:
        num_frames = self.video_processor.num_frames
        sampling = self.video_processor.sampling or ("jittered" if training else "uniform")
        video = self.stored_frames(path, num_frames, "video")
        count = video.info.total_num_frames
        if sampling == "jittered":
            return video.take(jittered_indices(count, num_frames, generator))
        return video.take(uniform_indices(count, num_frames))

    def _read_clips(self, paths: list[str]) -> VideoFrames:
        share = self._frames_of(paths) // len(paths)
        videos = [self.stored_frames(path, share, "clip") for path in paths]
        return _joined([video.take(clip_indices(video.info.total_num_frames, share)) for video in videos])

    def _segments(self, source: VideoSegments) -> tuple[StoredVideo, list[float]]:
        """Return the frames of all segments of a video, and the seconds that were asked for."""
        share = self._frames_of([source.path])
        seconds = source.seconds(share)
        return self.stored_frames(source.path, share, "segments", seconds), seconds

    def _read_segments(self, source: VideoSegments) -> VideoFrames:
        video, seconds = self._segments(source)
        share = len(seconds) // (len(source.borders) - 1)
        wanted = seconds[source.start * share : (source.start + source.count) * share]
        if source.is_spread:
            wanted = np.linspace(wanted[0], wanted[-1], self.video_processor.num_frames).tolist()
        # The nearest stored frame is the wanted one, unless frames are spread.
        places = np.abs(np.asarray(video.seconds)[None, :] - np.asarray(wanted)[:, None]).argmin(axis=1)
        frames = video.take(video.indices[places].tolist())
        begin, end = source.borders[source.start], source.borders[source.start + source.count]
        times = [second - begin for second in frames.times or ()]
        return replace(frames, times=times, metadata=replace(frames.metadata, duration=end - begin))

    def _frames_of(self, video: str | list[str]) -> int:
        """Return T; for a video that is given as clip files, T / K times their number."""
        num_frames, num_clips = self.video_processor.num_frames, self.video_processor.num_clips
        if isinstance(video, str):
            return num_frames
        if not video or num_frames % num_clips:
            raise ValueError(f"{num_frames} frames cannot be shared by {num_clips} clips, to read {len(video)} files")
        return num_frames // num_clips * len(video)

    def _evaluation_geometry(self, pictures: torch.Tensor) -> torch.Tensor:
        processor = self.video_processor
        if processor.do_center_crop:
            height, width = self._scaled(CROP_OVER_TARGET)
            pictures = self._resize(pictures, self._scaled(RESIZE_OVER_TARGET))
            pictures = processor.center_crop(pictures, SizeDict(height=height, width=width))
        return self._resize(pictures, self._target)

    def _augment(self, pictures: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        processor = self.video_processor
        # The crop is drawn for the picture in the file, whose proportions the stored picture may not have.
        box = random_crop_box(
            height,
            width,
            processor.crop_scale,
            processor.crop_ratio,
            generator,
            relative=bool(processor.crop_ratio_is_relative),
        )
        flip = float(torch.rand((), generator=generator, dtype=torch.float64)) < processor.flip_probability
        rows, columns = pictures.shape[2:]
        top, left = round(box[0] * rows), round(box[1] * columns)
        bottom, right = top + max(round(box[2] * rows), 1), left + max(round(box[3] * columns), 1)
        pictures = self._resize(pictures[:, :, top:bottom, left:right], self._target)
        return pictures.flip(-1) if flip else pictures

    @property
    def _target(self) -> tuple[int, int]:
        size = self.video_processor.size
        return int(size["height"]), int(size["width"])

    def _scaled(self, over_target: tuple[float, float]) -> tuple[int, int]:
        height, width = self._target
        return round(height * over_target[0]), round(width * over_target[1])

    def _resize(self, pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.video_processor.resize(pictures, SizeDict(height=size[0], width=size[1]))


def _joined(clips: list[VideoFrames]) -> VideoFrames:
    """Join the frames of clip files; seconds and numbers run on."""
    frames, times, indices, seconds, count = [], [], [], 0.0, 0
    for clip in clips:
        info = clip.metadata
        assert clip.times is not None and info.duration is not None  # clips are files here, and files know both
        frames.append(clip.frames)
        times += [seconds + second for second in clip.times]
        indices += [count + index for index in clip.indices]
        seconds, count = seconds + info.duration, count + info.total_num_frames
    shapes = {clip.frames.shape[1:]: clip for clip in clips}
    if len(shapes) > 1:
        (one, first), (other, second_clip) = list(shapes.items())[:2]
        raise LFVilaVideoError(
            second_clip.metadata.source,
            f"its pictures are stored as {tuple(other)}, those of {first.metadata.source} as {tuple(one)}",
        )
    info = replace(
        clips[0].metadata,
        source=" + ".join(clip.metadata.source for clip in clips),
        total_num_frames=count,
        duration=seconds,
        fps=count / seconds if seconds > 0 else None,
    )
    return VideoFrames(torch.cat(frames), times, indices, info)  # (T, 3, h, w)


def _generator_of_one_video(seed: int) -> torch.Generator:
    """Return the generator that `LFVilaVideoProcessor` gives to the first video of a call with this seed."""
    drawn = torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(drawn))


__all__ = ["CachedVideoReader", "VideoSegments"]

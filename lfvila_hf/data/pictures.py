# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""From one row's video to pictures at the target size, decoded or out of a frame cache: `PictureReader`.

Without a cache this is `LFVilaVideoProcessor.read_pictures`. With one, frames come out of `FrameCache` and go through
the same geometry here, for all T frames at once; the same seed gives the same frames, crop and flip on both ways.
Memory: T pictures at the size held in the cache, and T at the target size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.image_utils import SizeDict

from ..video_processing_lfvila import CROP_OVER_TARGET, RESIZE_OVER_TARGET, random_crop_box
from ..video_reading_lfvila import LFVilaVideoError, VideoFrames, clip_indices, jittered_indices, uniform_indices
from .frame_cache import FrameCache


class PictureReader:
    """Reads videos as the processor would, without normalising.

    Args:
        video_processor: `LFVilaVideoProcessor`; its settings decide about frames and geometry.
        frame_cache: Where decoded frames are kept; every read decodes where left out.

    Raises:
        ValueError: For settings that make no batches of equal shape, or that a cache cannot serve.
    """

    def __init__(self, video_processor: Any, frame_cache: FrameCache | None = None) -> None:
        if not (video_processor.do_sample_frames and video_processor.do_resize):
            raise ValueError("a data set needs a video processor with do_sample_frames and do_resize")
        if frame_cache is not None and frame_cache.resolution == "source" and video_processor.scale_in_decoder:
            raise ValueError('resolution="source" keeps pictures as they are, so scale_in_decoder must be False')
        self.video_processor = video_processor
        self.frame_cache = frame_cache

    def read(self, source: str | Sequence[str], *, training: bool, seed: int) -> VideoFrames:
        """One video, or one that is stored as clip files.

        Args:
            source: A path, or the paths of K clips.
            training: Jitter (of a whole video), random crop and flip.
            seed: Behind every random choice.

        Returns:
            `frames (T, 3, H, W)` float32 in 0 ... 255, with their seconds and numbers.

        Raises:
            LFVilaVideoError: Where the video cannot be used.
        """
        video = source if isinstance(source, str) else list(source)
        if self.frame_cache is None:
            count = self._frames_of(video)
            return self.video_processor.read_pictures(video, training=training, seed=seed, num_frames=count)
        generator = _generator_of_one_video(seed)
        read = self._read_clips(video) if isinstance(video, list) else self._read_video(video, training, generator)
        pictures = read.frames.float()  # (T, 3, h, w)
        if training:
            info = read.metadata
            pictures = self._augment(pictures, info.height, info.width, generator)
        else:
            pictures = self._evaluation_geometry(pictures)
        return replace(read, frames=pictures)

    def _read_video(self, path: str, training: bool, generator: torch.Generator) -> VideoFrames:
        num_frames = self.video_processor.num_frames
        sampling = self.video_processor.sampling or ("jittered" if training else "uniform")

        def choose(count: int) -> list[int]:
            if sampling == "jittered":
                return jittered_indices(count, num_frames, generator)
            return uniform_indices(count, num_frames)

        return self._cached(path, choose, num_frames, "video")

    def _frames_of(self, video: str | list[str]) -> int:
        """T; for a video that is given as clip files T / K for each of them."""
        num_frames, num_clips = self.video_processor.num_frames, self.video_processor.num_clips
        if isinstance(video, str):
            return num_frames
        if not video or num_frames % num_clips:
            raise ValueError(f"{num_frames} frames cannot be shared by {num_clips} clips, to read {len(video)} files")
        return num_frames // num_clips * len(video)

    def _read_clips(self, paths: list[str]) -> VideoFrames:
        share = self._frames_of(paths) // len(paths)
        return _joined([self._cached(path, lambda count: clip_indices(count, share), share, "clip") for path in paths])

    def _cached(self, path: str, choose: Callable[[int], Sequence[int]], num_frames: int, rule: Any) -> VideoFrames:
        assert self.frame_cache is not None
        processor = self.video_processor
        return self.frame_cache.read(
            path,
            choose,
            num_frames=num_frames,
            rule=rule,
            reduced_size=self._scaled(RESIZE_OVER_TARGET),
            resize=self._resize,
            size=self._scaled(RESIZE_OVER_TARGET) if processor.scale_in_decoder else None,
            accept_truncated=processor.accept_truncated,
            num_threads=processor.num_decoding_threads,
        )

    def _evaluation_geometry(self, pictures: torch.Tensor) -> torch.Tensor:
        processor = self.video_processor
        if processor.do_center_crop:
            height, width = self._scaled(CROP_OVER_TARGET)
            pictures = self._resize(pictures, self._scaled(RESIZE_OVER_TARGET))
            pictures = processor.center_crop(pictures, SizeDict(height=height, width=width))
        return self._resize(pictures, self._target)

    def _augment(self, pictures: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        processor = self.video_processor
        # The crop is drawn for the picture in the file, whose proportions the held picture may not have.
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
    """The frames of clip files as those of one video, seconds and numbers running on."""
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
            f"its pictures are held as {tuple(other)}, those of {first.metadata.source} as {tuple(one)}",
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
    """The generator that `LFVilaVideoProcessor` gives to the first video of a call with this seed."""
    drawn = torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(drawn))


__all__ = ["PictureReader"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Features of a video whose frames arrive over time: `StreamingEncoder`, `stream_encoder`.

    stream = StreamingEncoder(model, processor)
    for frames, seconds in source:                 # (n, 3, H, W) uint8, n seconds
        for clip in stream.push(frames, seconds):  # each clip once, as soon as its feature is final
            print(clip.start, clip.end, clip.embedding.shape)
    end = stream.finish()                          # the last clips, and the feature of the whole video

Features are final when they are returned, and equal those of one pass over all frames. The reason is that temporal
windows end. Frames before a border that the windows of all levels share do not depend on frames behind it:

- Levels up to the clip level have short windows (2, 4 and 8 frames at the released size). They run on the frames of one
  clip. With `clip_feature_source == "clip_level"` a clip is final after its own frames.
- The other levels run when a *segment* is full: `segment_alignment` frames, 32 at the released size. With
  `clip_feature_source == "last"` clips are final then.
- With `temporal_shift` the other levels reach across the border. They wait for `overlap_needed` frames behind a segment
  and read as many before it.
- A window at the end of a video is filled with zeros, but a video that is shorter than a window shrinks the window. So
  the remainder that `finish` finds is encoded together with the frames before it.

Passes have a fixed number of frames, however frames are cut into calls of `push`. So features are bit-equal for every
cut, and after `state_dict` and `load_state_dict` in another process on the same machine.

Memory: the grids of one segment, its overlap and one alignment, the frames of one clip, and one sum for the video. It
does not grow with the length of the video.

Letters: T frames, n frames of one call, F frames of a clip, P tokens per frame, H W pixels, D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lfvila_hf.configuration_lfvila import LFVilaVideoConfig
from lfvila_hf.inference import autocast_if, eval_mode
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.video_processing_lfvila import VideoGeometry, VideoSettings, normalize_pixels

SECONDS_PER_FRAME = 13.4 / 8
"""Seconds of video per frame in pre-training: clips of 13.4 s on average, 8 frames each."""
STATE_VERSION = 1


# -- dependencies between frames -------------------------------------------------------------------------------------


def segment_alignment(config: LFVilaVideoConfig) -> int:
    """Return the least common multiple of all temporal windows in frames; segments begin at multiples of it."""
    return math.lcm(*config.temporal_windows)


def frames_needed(
    config: LFVilaVideoConfig, start: int, stop: int, level: int | None = None, total: int | None = None
) -> tuple[int, int]:
    """Find the frames that the features of some frames depend on, in one pass over a video longer than every window.

    Args:
        config: Configuration of the video tower.
        start: First frame of the features.
        stop: One past their last frame.
        level: Level that the features come from. Defaults to the last level.
        total: T, an upper limit of the result. Defaults to no limit.

    Returns:
        First frame and one past the last frame that are needed.
    """
    last = len(config.temporal_windows) - 1 if level is None else level
    for number in range(last, -1, -1):
        window = config.temporal_windows[number]
        for block in range(config.depths[number] - 1, -1, -1):
            shift = window // 2 if config.shifts_in_time(number) and block % 2 else 0
            start = max((start + shift) // window * window - shift, 0)
            stop = -(-(stop + shift) // window) * window - shift
            stop = stop if total is None else min(stop, total)
    return start, stop


def overlap_needed(config: LFVilaVideoConfig) -> int:
    """Compute the exact overlap: frames before and after a segment that its features depend on.

    Args:
        config: Configuration of the video tower.

    Returns:
        A multiple of `segment_alignment(config)`; 0 without `temporal_shift`.
    """
    alignment = segment_alignment(config)
    far = 1000 * alignment  # far from the start of the video, which would cut the result
    start, stop = frames_needed(config, far, far + alignment)
    return -(-max(far - start, stop - far - alignment) // alignment) * alignment


# -- frames to features ----------------------------------------------------------------------------------------------


class FeatureStage:
    """Some levels of the tower, run on a stream of frames in passes of a fixed length.

    Args:
        run: Maps `(1, t, ...)` to tensors `(t, ...)`.
        take: Takes the outputs of a pass. If it raises, the pass is run again later.
        hop: Frames whose outputs one pass gives, a multiple of `alignment`.
        alignment: Least common multiple of the temporal windows of the levels.
        overlap: Frames before and behind them that the pass reads as well.
    """

    def __init__(
        self,
        run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        take: Callable[..., None],
        hop: int,
        alignment: int,
        overlap: int,
    ) -> None:
        self.run, self.take, self.hop, self.overlap = run, take, hop, overlap
        # The last pass reads at least an alignment before the remainder, so that no window is shrunk to the remainder.
        self.before_last = max(overlap, alignment)
        self.held: torch.Tensor | None = None  # (t, ...), frames from `start` on
        self.start = self.done = 0

    @property
    def seen(self) -> int:
        """Frames pushed so far."""
        return self.start + (0 if self.held is None else len(self.held))

    def push(self, frames: torch.Tensor) -> None:
        """Take frames `(t, ...)`."""
        self.held = frames if self.held is None else torch.cat([self.held, frames])

    def passes(self, is_last: bool = False) -> Iterator[None]:
        """Run every pass that the frames are there for; yields after each.

        Args:
            is_last: Whether no more frames come. Defaults to False.
        """
        while self.held is not None:
            seen, end = self.seen, self.done + self.hop
            first, stop = max(self.done - self.overlap, 0), end + self.overlap
            if seen < stop:
                if not is_last or seen == self.done:
                    return
                first, stop, end = max(self.done - self.before_last, 0), seen, seen
            outputs = self.run(self.held[first - self.start : stop - self.start][None])
            kept = slice(self.done - first, end - first)
            start = max(end - self.before_last, 0)
            held = self.held[start - self.start :].clone()
            self.take(*(output[kept] for output in outputs))
            self.held, self.start, self.done = held, start, end
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the frames held and their numbers."""
        return {"held": None if self.held is None else self.held.cpu(), "start": self.start, "done": self.done}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a state, on a device."""
        self.held = None if state["held"] is None else state["held"].to(device)
        self.start, self.done = state["start"], state["done"]


class _Means:
    """Means of groups of consecutive frame features, summed in float64 on the CPU.

    Args:
        size: Frames of a group, 0 for all of them.
    """

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self.total: torch.Tensor | None = None  # (D,)

    def add(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Add features `(t, D)`; returns the means `(D,)` of the groups that are full now."""
        total, count, full = self.total, self.count, []
        for feature in features.double():
            total = feature if total is None else total + feature
            count += 1
            if count == self.size:
                full.append(total / count)
                total, count = None, 0
        self.total, self.count = total, count
        return full

    def rest(self) -> list[torch.Tensor]:
        """Return the mean of the group that is not full, if it has a frame."""
        return [] if self.total is None else [self.total / self.count]

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and its number of frames."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.total, self.count = state["total"], state["count"]


class FeatureStream:
    """Clip and video features of a stream of normalised frames.

    Args:
        model: An `LFVilaModel` with projections; it is in evaluation mode during calls.
        frames_per_clip: F. Defaults to `num_frames // num_clips` of the configuration.
        segment_frames: Frames of one pass, a multiple of `segment_alignment(config)`. Defaults to the fewest: those of
            a clip up to the clip level, and `segment_alignment(config)` above.
        overlap: Frames before and behind a segment that its pass reads above the clip level, a multiple of
            `segment_alignment(config)`. Defaults to `overlap_needed(config)`.
        dtype: Half precision for autocast. Defaults to `None`.

    Raises:
        ValueError: A size is no multiple, or the model has no video projection.
    """

    def __init__(
        self,
        model: LFVilaModel,
        frames_per_clip: int | None = None,
        segment_frames: int | None = None,
        overlap: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = model.config.video_config
        alignment, clip_alignment = (
            segment_alignment(config),
            math.lcm(*config.temporal_windows[: config.clip_level + 1]),
        )
        clip = config.num_frames // config.num_clips if frames_per_clip is None else frames_per_clip
        clip_hop = -(-max(clip, 1) // clip_alignment) * clip_alignment if segment_frames is None else segment_frames
        hop = alignment if segment_frames is None else segment_frames
        overlap = overlap_needed(config) if overlap is None else overlap
        for name, value, least in (("segment_frames", hop, 1), ("overlap", overlap, 0)):
            if value < least or value % alignment:
                raise ValueError(
                    f"{name} must be a multiple of {alignment} (the least common multiple of the temporal windows "
                    f"{config.temporal_windows}) and at least {least * alignment}, got {value}"
                )
        if clip < 1:
            raise ValueError(f"frames_per_clip must be at least 1, got {clip}")
        if model.video_projection is None:
            raise ValueError(
                "this model was built without a video projection, so there are no video features; build it with "
                "add_projections=True"
            )
        self.model, self.dtype, self.frames_per_clip = model, dtype, clip
        self.clips_come_early = model.config.clip_feature_source == "clip_level"
        self.lower = FeatureStage(self._run_lower_levels, self._take_lower, clip_hop, clip_alignment, 0)
        self.upper = FeatureStage(self._run_upper_levels, self._take_upper, hop, alignment, overlap)
        self.clips, self.video = _Means(clip), _Means(0)
        self.ready: list[torch.Tensor] = []  # means (D,) of clips that were not given out yet

    @property
    def num_frames(self) -> int:
        """Frames pushed so far."""
        return self.lower.seen

    def hold(self, pixels: torch.Tensor) -> None:
        """Take normalised frames `(t, 3, H, W)`, all of them or, if that fails, none."""
        if len(pixels):
            self.lower.push(pixels.to(self.model.device))

    def advance(self) -> torch.Tensor:
        """Return the embeddings `(n, D)` of the clips that are final now. If it fails, a later call goes on."""
        self._advance(is_last=False)
        embeddings = self._project_clips(self.ready)
        self.ready = []
        return embeddings

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the end of the video.

        Returns:
            Embeddings `(n, D)` of the other clips, the last of which may be shorter, and `(1, D)` of the video.

        Raises:
            ValueError: There was no frame.
        """
        if not self.num_frames:
            raise ValueError("the video has no frames, at least one is expected")
        self._advance(is_last=True)
        # Nothing is reset, so that a call after a failure finds the same.
        embeddings = self._project_clips(self.ready + self.clips.rest())
        return embeddings, self._project(self.model.video_projection, torch.stack(self.video.rest()))

    def _advance(self, is_last: bool) -> None:
        """Run all passes that the frames are there for. If one fails, the next call goes on with it."""
        for _ in self.lower.passes(is_last):
            self._advance_upper(is_last=False)
        self._advance_upper(is_last)

    def _advance_upper(self, is_last: bool) -> None:
        for _ in self.upper.passes(is_last):
            pass

    def _take_lower(self, grid: torch.Tensor, *clip_frames: torch.Tensor) -> None:
        self.upper.push(grid)
        for features in clip_frames:
            self.ready += self.clips.add(features)

    def _take_upper(self, features: torch.Tensor) -> None:
        self.video.add(features)
        if not self.clips_come_early:
            self.ready += self.clips.add(features)

    def _run_lower_levels(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map pixels `(1, t, 3, H, W)` to the grid behind the clip level `(t, h, w, C)` and clip features `(t, D)`.

        There are no clip features if they come from the last level.
        """
        tower = self.model.video_model
        with eval_mode(self.model), autocast_if(self.dtype, self.model.device):
            grid, clip_grid = tower.run_levels(tower.embed_frames(pixels), 0, tower.config.clip_level + 1)
            if not self.clips_come_early:
                return (grid[0],)
            clip_grid = tower.clip_norm(tower.clip_merging(clip_grid))
            return grid[0], tower.pool(clip_grid)[0].mean(1).float().cpu()

    def _run_upper_levels(self, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map the grid behind the clip level `(1, t, h, w, C)` to features `(t, D)`."""
        tower = self.model.video_model
        with eval_mode(self.model), autocast_if(self.dtype, self.model.device):
            grid, _ = tower.run_levels(grid, tower.config.clip_level + 1, len(tower.levels))
            return (tower.pool(tower.norm(grid))[0].mean(1).float().cpu(),)

    def _project_clips(self, means: list[torch.Tensor]) -> torch.Tensor:
        """Project means of clips to `(n, D)`, one by one, so that no bit depends on the clips beside."""
        clips = [torch.zeros(0, self.model.config.hidden_size)]
        if self.model.clip_projection is not None:
            clips += [self._project(self.model.clip_projection, mean[None]) for mean in means]
        return torch.cat(clips)

    def _project(self, projection: Any, features: torch.Tensor) -> torch.Tensor:
        """Project and L2-normalise features; the result is on the CPU in float32."""
        weight = projection.weight
        with eval_mode(self.model):
            return F.normalize(projection(features.to(weight.device, weight.dtype)).float(), dim=-1).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next features depend on."""
        parts = {name: getattr(self, name).state_dict() for name in ("lower", "upper", "clips", "video")}
        return {**parts, "ready": list(self.ready)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in ("lower", "upper"):
            getattr(self, name).load_state_dict(state[name], self.model.device)
        for name in ("clips", "video"):
            getattr(self, name).load_state_dict(state[name])
        self.ready = list(state["ready"])


# -- streams ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamClip:
    """One clip of a stream.

    Args:
        index: Number of the clip.
        start: Second of its first frame.
        end: Second of its last frame, and the median distance of its frames behind it: where the next clip starts if
            frames come regularly.
        embedding: `(D,)`, L2-normalised float32 on the CPU.
    """

    index: int
    start: float
    end: float
    embedding: torch.Tensor


@dataclass(frozen=True)
class StreamEnd:
    """Last features of a stream.

    Args:
        clips: Clips that were not returned before; the last one may be shorter.
        video_embeds: `(1, D)`, L2-normalised float32 on the CPU.
        num_frames: T, frames of the whole stream.
    """

    clips: list[StreamClip]
    video_embeds: torch.Tensor
    num_frames: int


class ClipStream(ABC):
    """Stream of frames that gives clips: checks of its input, seconds of clips, state.

    Args:
        frames_per_clip: F.
        gives_clips: Whether there are clip features. Defaults to True.

    Attributes:
        num_frames: Frames pushed so far.
        num_clips: Clips returned so far.
        last_second: Second of the newest frame; minus infinity before the first.
        picture_size: Height and width of the frames, known from the first one on.
        is_finished: Whether `finish` was called.
    """

    def __init__(self, frames_per_clip: int, gives_clips: bool = True) -> None:
        self.frames_per_clip, self._gives_clips = frames_per_clip, gives_clips
        self.num_frames = self.num_clips = 0
        self.picture_size: tuple[int, int] | None = None
        self.is_finished = False
        self._is_ending = False  # `finish` was called, and may have failed
        self._seconds: list[float] = []  # of frames whose clips were not returned yet
        self.last_second = -math.inf
        self._step = 0.0  # seconds between frames of the newest clip

    def push(self, frames: torch.Tensor, seconds: Sequence[float]) -> list[StreamClip]:
        """Take the next frames.

        Args:
            frames: `(n, 3, H, W)` uint8 RGB; H and W of all calls are equal.
            seconds: n seconds in the stream, from frame to frame equal or later.

        Returns:
            The clips that became final, in order; often none.

        Raises:
            ValueError: Frames or seconds are not as described, or `finish` was called. Nothing of the call is taken
                then, nor if frames cannot be prepared or stored, and the stream can go on. If the model fails, frames
                are kept: a later call goes on with them. `num_frames` tells which.
        """
        seconds = [float(second) for second in seconds]
        frames = self._checked(frames, seconds)
        if len(frames):
            # First what may fail without harm, then what changes the stream.
            self._hold(torch.stack([self._prepare(frame) for frame in frames]), seconds)
            self.picture_size = (frames.shape[2], frames.shape[3])
            self.num_frames += len(frames)
            self._seconds += seconds if self._gives_clips else []
            self.last_second = seconds[-1]
        return self._clips(self._advance())

    def finish(self) -> StreamEnd:
        """End the stream.

        Returns:
            The other clips, and the feature of the whole video.

        Raises:
            ValueError: There was no frame, or `finish` was called before.
        """
        self._check_open()
        if not self.num_frames:
            raise ValueError("the stream has no frames, at least one is expected")
        self._is_ending = True
        embeddings, video = self._end()
        self.is_finished = True
        return StreamEnd(self._clips(embeddings), video, self.num_frames)

    @abstractmethod
    def _prepare(self, frame: torch.Tensor) -> torch.Tensor:
        """Scale one frame `(3, H, W)` uint8 to the encoder's size."""

    @abstractmethod
    def _hold(self, prepared: torch.Tensor, seconds: list[float]) -> None:
        """Take prepared frames `(n, ...)`, all of them or, if that fails, none."""

    @abstractmethod
    def _advance(self) -> torch.Tensor:
        """Return the embeddings `(c, D)` of clips that are final. If it fails, a later call goes on."""

    @abstractmethod
    def _end(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings `(c, D)` of the other clips, and that of the video `(1, D)`; likewise."""

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """Return the state of the features."""

    @abstractmethod
    def _load_own_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the features."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of all that features depend on besides the frames."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors on the CPU, numbers and strings, as `torch.save` writes them.

        Write it to another file and rename that one, so that a kill leaves the old or the new state.
        """
        names = ("num_frames", "num_clips", "picture_size", "is_finished", "_is_ending", "last_second", "_step")
        state = {name.lstrip("_"): getattr(self, name) for name in names}
        state |= {"version": STATE_VERSION, "fingerprint": self.fingerprint, "frames_per_clip": self.frames_per_clip}
        return state | {"seconds": list(self._seconds), "features": self._own_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stream was.

        Args:
            state: From `state_dict` of a stream with the same model, processor and arguments.

        Raises:
            ValueError: The state is of another version, model, processor or argument.
        """
        own = {"version": STATE_VERSION, "frames_per_clip": self.frames_per_clip, "fingerprint": self.fingerprint}
        for name, value in own.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the state of the stream has {name} = {state.get(name)!r}, here it is {value!r}. Use the model, "
                    f"processor and arguments that it was made with"
                )
        self.num_frames, self.num_clips = state["num_frames"], state["num_clips"]
        self.picture_size = None if state["picture_size"] is None else tuple(state["picture_size"])
        self._is_ending = state["is_ending"]
        self.is_finished, self.last_second, self._step = state["is_finished"], state["last_second"], state["step"]
        self._seconds = list(state["seconds"])
        self._load_own_state(state["features"])

    def _check_open(self) -> None:
        if self.is_finished:
            raise ValueError("this stream is finished. Make a new one for other frames")

    def _checked(self, frames: Any, seconds: list[float]) -> torch.Tensor:
        """Return frames as a tensor; raise `ValueError` for frames or seconds that do not fit."""
        self._check_open()
        if self._is_ending:
            raise ValueError("the end of this stream was taken already. Call finish again, or make a new stream")
        if not isinstance(frames, torch.Tensor | np.ndarray):
            raise ValueError(f"frames must be a tensor or an array, got {type(frames).__name__}. Stack pictures first")
        frames = torch.as_tensor(frames)
        if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape[2:] or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames must be (n, 3, H, W) uint8 RGB, got {tuple(frames.shape)} {str(frames.dtype)[6:]}. Convert "
                f"pictures first"
            )
        if self.picture_size is not None and tuple(frames.shape[2:]) != self.picture_size:
            height, width = self.picture_size
            raise ValueError(
                f"the frames before are of {height} x {width} pixels, got {frames.shape[2]} x {frames.shape[3]}. Scale "
                f"them, or finish this stream and make a new one"
            )
        if len(seconds) != len(frames):
            raise ValueError(f"one second per frame is expected, got {len(seconds)} for {len(frames)} frames")
        before = self.last_second
        for place, second in enumerate(seconds):
            if not math.isfinite(second) or second < before:
                raise ValueError(
                    f"second {second:g} of frame {self.num_frames + place} must be at least that of the frame before, "
                    f"{before:g}. Sort the frames, or finish this stream and make a new one"
                )
            before = second
        return frames

    def _clips(self, embeddings: torch.Tensor) -> list[StreamClip]:
        """Give embeddings `(c, D)` their numbers and seconds."""
        clips = []
        for embedding in embeddings:
            own, self._seconds = self._seconds[: self.frames_per_clip], self._seconds[self.frames_per_clip :]
            self._step = float(np.median(np.diff(own))) if len(own) > 1 else self._step
            clips.append(StreamClip(self.num_clips, own[0], own[-1] + self._step, embedding))
            self.num_clips += 1
        return clips


class StreamingEncoder(ClipStream):
    """Clip and video features of a stream of frames with LF-VILA, each final when it is returned.

    Frames are used as they come: choose them at a steady rate, such as one every 1.675 s as in pre-training.

    Args:
        model: An `LFVilaModel`; its weights must not change while the stream runs.
        processor: `LFVilaProcessor` of the model; its frame size, geometry and normalisation are used.
        frames_per_clip: F. Defaults to `num_frames // num_clips` of the configuration.
        dtype: Half precision for autocast, as for `encode_videos`. Defaults to `None`.
        **kwargs: Settings of the video processor, such as `do_center_crop=False`.

    Raises:
        ValueError: The model has no video projection, or a setting is unknown.
    """

    def __init__(
        self,
        model: LFVilaModel,
        processor: Any,
        frames_per_clip: int | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        self._features = FeatureStream(model, frames_per_clip, dtype=dtype)
        super().__init__(self._features.frames_per_clip, model.clip_projection is not None)
        self._settings = video_settings(processor.video_processor, kwargs | {"training": False})
        self._geometry = VideoGeometry(self._settings, None)

    def _prepare(self, frame: torch.Tensor) -> torch.Tensor:
        return self._geometry(frame)

    def _hold(self, prepared: torch.Tensor, seconds: list[float]) -> None:
        self._features.hold(normalize_pixels(prepared, self._settings))

    def _advance(self) -> torch.Tensor:
        return self._features.advance()

    def _end(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._features.finish()

    def _own_state(self) -> dict[str, Any]:
        return self._features.state_dict()

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._features.load_state_dict(state)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, configuration, settings and precision, computed once."""
        from lfvila_hf.search.encoders import fingerprint_of

        model, geometry = self._features.model, self._settings
        parts = [model.video_model, model.video_projection, model.clip_projection]
        read = torch.nn.ModuleList(part for part in parts if part is not None)
        names = "do_resize do_center_crop do_rescale rescale_factor do_normalize image_mean image_std".split()
        values = [geometry.size, *(geometry[name] for name in names), str(self._features.dtype)]
        return fingerprint_of(read, [model.config.to_dict(), values], [])


class EncoderStream(ClipStream):
    """Clip features of a stream of frames with an encoder of the search that embeds clips.

    The feature of the video is the normalised mean of its clips. A last clip of fewer frames repeats its last one.

    Args:
        encoder: A `StoryEncoder` that embeds clips, such as that of a CLIP model.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder.frames_per_clip)
        self.encoder = encoder
        self._held: torch.Tensor | None = None  # (n, ...), prepared frames of clips that are not full
        self._times: list[float] = []
        self._ready: list[torch.Tensor] = []  # (D,), clips that were not given out yet
        self._video = _Means(0)

    def _prepare(self, frame: torch.Tensor) -> torch.Tensor:
        return self.encoder.prepare(frame)

    def _hold(self, prepared: torch.Tensor, seconds: list[float]) -> None:
        self._held = prepared if self._held is None else torch.cat([self._held, prepared])
        self._times = self._times + seconds

    def _advance(self) -> torch.Tensor:
        while len(self._times) >= self.frames_per_clip:
            self._embed_first()
        return self._take_ready()

    def _embed_first(self) -> None:
        """Embed the first F frames that are held, or the rest, of which the last frame is repeated."""
        assert self._held is not None
        frames, times = self._held[: self.frames_per_clip], self._times[: self.frames_per_clip]
        missing = self.frames_per_clip - len(times)
        full = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
        (found,) = self.encoder.encode_clips(full[None], [times + missing * times[-1:]])
        held = self._held[len(times) :].clone()
        self._video.add(found[None])
        self._held, self._times = held, self._times[len(times) :]
        self._ready.append(found)

    def _take_ready(self) -> torch.Tensor:
        ready = torch.stack(self._ready) if self._ready else torch.zeros(0, self.encoder.width)
        self._ready = []
        return ready

    def _end(self) -> tuple[torch.Tensor, torch.Tensor]:
        while self._times:
            self._embed_first()
        video = F.normalize(torch.stack(self._video.rest()), dim=-1).float()
        return self._take_ready(), video

    def _own_state(self) -> dict[str, Any]:
        ready, video = list(self._ready), self._video.state_dict()
        return {"held": self._held, "times": self._times, "ready": ready, "video": video}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._held, self._times, self._ready = state["held"], list(state["times"]), list(state["ready"])
        self._video.load_state_dict(state["video"])

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self.encoder.fingerprint


def stream_encoder(encoder: Any, clip_seconds: float = 0.0) -> tuple[ClipStream, float]:
    """Make the stream of an encoder of the search.

    Args:
        encoder: A `StoryEncoder`, such as `lfvila_hf.search.load_encoder` returns.
        clip_seconds: Length of a clip. Defaults to the encoder's; for LF-VILA to F frames of 1.675 s.

    Returns:
        The stream, and the seconds between two frames that it expects.

    Raises:
        ValueError: The encoder has no clip features, or the length is below 0.
    """
    if not (math.isfinite(clip_seconds) and clip_seconds >= 0):
        raise ValueError(f"clip_seconds must be at least 0, got {clip_seconds}")
    if not encoder.has_clips:
        raise ValueError(
            f"{encoder.name} has no clip features (temporal_alignment=False), which a stream is made of. Use a model "
            f"with temporal_alignment=True"
        )
    if not encoder.num_frames:
        return EncoderStream(encoder), (clip_seconds or encoder.clip_seconds) / encoder.frames_per_clip
    if not hasattr(encoder.model, "video_projection"):
        raise ValueError(f"{encoder.name} is an export, which has no features of single frames: use its checkpoint")
    stream = StreamingEncoder(encoder.model, encoder.processor)
    return stream, clip_seconds / stream.frames_per_clip if clip_seconds else SECONDS_PER_FRAME


def video_settings(video_processor: Any, given: dict[str, Any]) -> VideoSettings:
    """Return the settings of a video processor with some of them replaced.

    Raises:
        ValueError: A setting is unknown.
    """
    known = video_processor.valid_kwargs.__annotations__
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"{type(video_processor).__name__} does not know the settings {unknown}; it has {sorted(known)}"
        )
    return VideoSettings({name: getattr(video_processor, name, None) for name in known} | given)


__all__ = ["ClipStream", "EncoderStream", "StreamClip", "StreamEnd", "StreamingEncoder", "stream_encoder"]

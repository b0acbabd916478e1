# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Sources of clips for OrderTwins: ShapeTales, a folder of captioned clips, a set of the `datasets` library."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from lfvila_hf.evaluation.order_twins.films import FEWEST_CLIPS, Story, encode_clip
from lfvila_hf.shapetales.generate import BENCHMARK_VERSION
from lfvila_hf.shapetales.rendering import draw_clips
from lfvila_hf.shapetales.story_plan import StoryParameters, plan_stories
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, probe_video, read_frames

CAPTIONS = "captions.jsonl"
SHORTEST_SECONDS = 0.5


class ShapeTalesSource:
    """Clips and sentences of the ShapeTales test stories, which no training story shares.

    The stories of 4 to 8 clips are those of the 200 default test stories with different sets of events, 150 in all.
    """

    def __init__(self) -> None:
        # The test split is drawn first and does not depend on the others.
        self.parameters = StoryParameters(train_stories=0, validation_stories=0, query_stories=0)

    @property
    def settings(self) -> dict[str, Any]:
        """See `FilmSource`."""
        return {"source": "ShapeTales", "source_version": BENCHMARK_VERSION}

    @property
    def frame_size(self) -> tuple[int, int]:
        """See `FilmSource`."""
        return self.parameters.height, self.parameters.width

    @property
    def fps(self) -> int:
        """See `FilmSource`."""
        return self.parameters.fps

    def stories(self, num_films: int, seed: int) -> list[Story]:
        """See `FilmSource`."""
        told = plan_stories(self.parameters)["test"]
        different = [story for story in told if story.twin_of is None or story.clip_id < story.twin_of]
        if num_films > len(different):
            raise ValueError(f"num_films is {num_films}, but ShapeTales has {len(different)} test stories. Use fewer")
        chosen = np.random.default_rng(seed).permutation(len(different))[:num_films]
        return [Story(different[number].sentences, different[number]) for number in chosen]

    def encode(self, story: Story) -> list[list[bytes]]:
        """See `FilmSource`."""
        return [encode_clip(frames, self.fps) for frames in draw_clips(story.clips, self.parameters)]


class CaptionedClips:
    """Clips with one sentence each, joined into films: base of the sources of one's own footage.

    Every film draws its clips anew, without a sentence twice. Of each clip the middle `clip_seconds` are shown, scaled
    into the frame with black bars. All clips that a film needs are opened before the first film is made.

    Args:
        name: Name of the source for the manifest.
        sentences: Sentence of every clip. White space is collapsed, and a full stop added where an end is missing.
        videos: Every clip, as `read_frames` takes it.
        labels: Every clip, as an error names it.
        version: What changes with the clips, for the manifest; JSON.
        clips_per_film: Numbers of clips; films take turns.
        clip_seconds: Longest clip in a film.
        frame_size: Height and width in pixels, even numbers.
        fps: Frames per second of the films.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        name: str,
        sentences: Sequence[str],
        videos: Sequence[Any],
        labels: Sequence[str],
        version: Any,
        *,
        clips_per_film: int | Sequence[int] = 5,
        clip_seconds: float = 4.0,
        frame_size: tuple[int, int] = (240, 320),
        fps: int = 8,
    ) -> None:
        self.counts = (clips_per_film,) if isinstance(clips_per_film, int) else tuple(clips_per_film)
        if not self.counts or min(self.counts) < FEWEST_CLIPS:
            raise ValueError(f"clips_per_film is {clips_per_film}, expected {FEWEST_CLIPS} or more")
        if fps < 1 or clip_seconds < SHORTEST_SECONDS:
            raise ValueError(f"fps is {fps} and clip_seconds {clip_seconds}, expected 1 and {SHORTEST_SECONDS} or more")
        if min(frame_size) < 32 or any(side % 2 for side in frame_size):
            raise ValueError(f"frame_size is {frame_size}, expected even numbers of 32 or more")
        self.name, self.videos, self.labels, self.version = name, videos, labels, version
        self.sentences = [_sentence(text) for text in sentences]
        self.clip_seconds, self.frame_size, self.fps = clip_seconds, frame_size, fps
        self.packets: dict[int, list[bytes]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """See `FilmSource`."""
        return {
            "source": self.name,
            "clips": len(self.sentences),
            "content": hashlib.sha256(
                json.dumps([list(self.labels), self.sentences, self.version]).encode()
            ).hexdigest(),
            "clips_per_film": list(self.counts),
            "clip_seconds": self.clip_seconds,
            "frame_size": list(self.frame_size),
            "fps": self.fps,
        }

    def stories(self, num_films: int, seed: int) -> list[Story]:
        """See `FilmSource`."""
        by_sentence: dict[str, list[int]] = {}
        for number, sentence in enumerate(self.sentences):
            by_sentence.setdefault(sentence.casefold(), []).append(number)
        groups = list(by_sentence.values())
        if len(groups) < max(self.counts):
            raise ValueError(
                f"{self.name} has {len(groups)} different sentences, but a film needs {max(self.counts)} of them"
            )
        generator = np.random.default_rng(seed)
        stories = []
        for film in range(num_films):
            chosen = generator.choice(len(groups), self.counts[film % len(self.counts)], replace=False)
            clips = [int(generator.choice(groups[group])) for group in chosen]
            stories.append(Story(tuple(self.sentences[clip] for clip in clips), clips))
        used = sorted({clip for story in stories for clip in story.clips})
        problems = []
        for clip in used:
            try:
                self._check(clip)
            except ValueError as error:
                problems.append(f"{self.labels[clip]} ({getattr(error, 'reason', error)})")
        if problems:
            named = "; ".join([*problems[:5], *([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])])
            raise ValueError(f"{len(problems)} of {len(used)} clips cannot be used: {named}. Mend or remove them")
        return stories

    def encode(self, story: Story) -> list[list[bytes]]:
        """See `FilmSource`; a clip that several films show is decoded and encoded once."""
        for clip in story.clips:
            if clip not in self.packets:
                self.packets[clip] = encode_clip(self._frames(clip), self.fps)
        return [self.packets[clip] for clip in story.clips]

    def _check(self, clip: int) -> None:
        info = probe_video(self.videos[clip])
        if not (info.duration or 0) >= SHORTEST_SECONDS:
            raise LFVilaVideoError(
                self.labels[clip], f"it lasts {info.duration or 0:.2f} s, expected {SHORTEST_SECONDS} s or more"
            )

    def _frames(self, clip: int) -> np.ndarray:
        """Read the middle of a clip, `(n, H, W, 3)`."""
        duration = float(probe_video(self.videos[clip]).duration or 0)
        shown = min(duration, self.clip_seconds)
        count = max(int(shown * self.fps), 2)
        times = (duration - shown) / 2 + (np.arange(count) + 0.5) * shown / count
        read = read_frames(self.videos[clip], times=times.tolist(), transform=self._fit)
        return read.frames.permute(0, 2, 3, 1).numpy()  # (n, H, W, 3)

    def _fit(self, picture: torch.Tensor) -> torch.Tensor:
        """Scale one picture `(3, h, w)` into the frame, with black bars."""
        scale = min(want / have for want, have in zip(self.frame_size, picture.shape[1:], strict=True))
        height, width = (max(round(have * scale), 1) for have in picture.shape[1:])
        scaled = functional.interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True)[0]
        rest = self.frame_size[0] - height, self.frame_size[1] - width
        top, left = rest[0] // 2, rest[1] // 2
        return functional.pad(scaled, (left, rest[1] - left, top, rest[0] - top))


class ClipFolder(CaptionedClips):
    """Own footage: a folder of clips with `captions.jsonl`, one line per clip.

        {"clip_id": "pancake.mp4", "text": "A woman flips a pancake."}

    Args:
        folder: The folder; clips may lie in folders below it.
        **options: See `CaptionedClips`.

    Raises:
        ValueError: The annotation file is missing, or a line of it cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], **options: Any) -> None:
        root = Path(folder)
        path = root / CAPTIONS
        if not path.is_file():
            raise ValueError(f'there is no {path}, expected one line per clip: {{"clip_id": "a.mp4", "text": "..."}}')
        names: list[str] = []
        sentences = []
        for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
            if line.strip():
                name, text = _caption(line, f"{path}:{number}")
                if name in names:
                    raise ValueError(f"{path}:{number}: {name} has a second line, expected one sentence per clip")
                if not (root / name).is_file():
                    raise ValueError(f"{path}:{number}: there is no file {root / name}")
                names.append(name)
                sentences.append(text)
        paths = [str(root / name) for name in names]
        sizes = [os.path.getsize(path) for path in paths]
        super().__init__(root.name or "clips", sentences, paths, names, sizes, **options)


class DatasetClips(CaptionedClips):
    """A set of the `datasets` library with a column of clips and one of captions; videos stay undecoded until needed.

    Args:
        dataset: A `datasets.Dataset`, one split.
        video_column: Column of the clips. Defaults to "video".
        caption_column: Column of the captions, each a text or a list of texts, of which the first counts. Defaults to
            "caption".
        name: Name of the source for the manifest. Defaults to the data set's own.
        **options: See `CaptionedClips`.

    Raises:
        ValueError: A column is missing, or a caption is no text.
    """

    def __init__(
        self,
        dataset: Any,
        video_column: str = "video",
        caption_column: str = "caption",
        name: str = "",
        **options: Any,
    ) -> None:
        from datasets import Video

        for column in (video_column, caption_column):
            if column not in dataset.column_names:
                raise ValueError(f"the data set has no column {column!r}, expected one of {dataset.column_names}")
        if isinstance(dataset.features[video_column], Video):
            dataset = dataset.cast_column(video_column, Video(decode=False))
        captions = [one[0] if isinstance(one, list) and one else one for one in dataset[caption_column]]
        for number, text in enumerate(captions):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"row {number} of the data set has the caption {text!r}, expected a sentence")
        labels = [f"row {number}" for number in range(len(captions))]
        videos, version = _Column(dataset, video_column), [dataset._fingerprint, video_column]
        super().__init__(name or dataset.builder_name or "dataset", captions, videos, labels, version, **options)


class _Column(Sequence[Any]):
    """Videos of a data set, read row by row."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset, self.column = dataset.select_columns([column]), column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        value = self.dataset[index][self.column]
        return (value["bytes"] or value["path"]) if isinstance(value, dict) and "bytes" in value else value


def _caption(line: str, place: str) -> tuple[str, str]:
    """Read one line of the annotation file."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: this is not JSON ({error})") from error
    name, text = (row.get("clip_id"), row.get("text")) if isinstance(row, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str) or not name or not text.strip():
        raise ValueError(f'{place}: expected {{"clip_id": "a.mp4", "text": "One sentence."}}, got {line.strip()[:80]}')
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ValueError(f"{place}: the name {name} leads out of the folder")
    return name, text


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", "。", "！", "？")) else f"{text}."


__all__ = ["CAPTIONS", "CaptionedClips", "ClipFolder", "DatasetClips", "ShapeTalesSource"]

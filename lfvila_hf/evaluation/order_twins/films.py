# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Films of OrderTwins: the same clips joined in four orders, each with its sentences in the same order.

One folder:

    manifest.json           source, seed, number of films, fingerprint of films.jsonl; written last
    films.jsonl             one row per film, in the released retrieval format with more fields
    videos/00000_original.mp4, 00000_reversed.mp4, 00000_permuted.mp4, 00000_swapped.mp4

Every clip is encoded once, as one closed group of pictures, and its packets are copied into the four films. So a film
and its twin decode to exactly the same frames in another order of clips, and no trace of a second encoding tells them
apart. Frames inside a clip always run forwards.

The folder is made under another name and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
from tqdm.auto import tqdm

VERSION = 1
"""Raised with every change that makes other films; accuracies of different versions must not be compared."""

ORIGINAL = "original"
KINDS = ("reversed", "permuted", "swapped")
"""Kinds of twins, from all clips in other places (in a reversed film of odd length, all but one) to two of them."""

FEWEST_CLIPS = 3
"""With two clips all kinds of twins are the same."""


class Story(NamedTuple):
    """Clips of one film before they are joined.

    Args:
        sentences: One sentence per clip, all different.
        clips: What its source encodes the clips from.
    """

    sentences: tuple[str, ...]
    clips: Any


class FilmSource(Protocol):
    """A source of clips with one sentence each."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that the films depend on besides seed and number, for the manifest; JSON."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of every frame, even numbers."""

    @property
    def fps(self) -> int:
        """Frames per second of every clip."""

    def stories(self, num_films: int, seed: int) -> Sequence[Story]:
        """Choose the clips of every film.

        Raises:
            ValueError: There are too few clips, or some cannot be used.
        """

    def encode(self, story: Story) -> list[list[bytes]]:
        """Encode the clips of a story with `encode_clip`: packets of every clip."""


@dataclass(frozen=True)
class Film:
    """One film.

    Args:
        name: Name of its file without the ending.
        base: Number of the story that it shares with its twins.
        kind: "original", or one of `KINDS`.
        order: Clip of the original at every place.
        sentences: One sentence per clip, in the order of this film.
        first_frames: First frame of every clip, and the number of frames of the film.
        fps: Frames per second.
    """

    name: str
    base: int
    kind: str
    order: tuple[int, ...]
    sentences: tuple[str, ...]
    first_frames: tuple[int, ...]
    fps: int

    @property
    def paragraph(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)

    def row(self) -> dict[str, Any]:
        """The film as a row of films.jsonl."""
        return {
            "clip_id": self.name,
            "text": list(self.sentences),
            "seconds": [frame / self.fps for frame in self.first_frames[:-1]],
            "duration": self.first_frames[-1] / self.fps,
            "base": self.base,
            "kind": self.kind,
            "order": list(self.order),
            "first_frames": list(self.first_frames),
            "fps": self.fps,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Film:
        """Read a row of films.jsonl."""
        order, text, first = (tuple(row[name]) for name in ("order", "text", "first_frames"))
        return cls(row["clip_id"], row["base"], row["kind"], order, text, first, row["fps"])


@dataclass(frozen=True)
class TwinFilms:
    """A finished folder of films.

    Args:
        root: The folder.
        films: All films; the four of a story are neighbours, the original first.
        settings: What the manifest says of them.
    """

    root: Path
    films: tuple[Film, ...] = field(repr=False)
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the annotations."""
        return str(self.settings["fingerprint"])

    def check_settings(self, wanted: dict[str, Any]) -> None:
        """Check that the films are those of a source, seed and number.

        Raises:
            ValueError: Others are in the folder.
        """
        differing = [
            f"{name} is {self.settings.get(name)!r} there and {wanted.get(name)!r} here"
            for name in sorted(wanted.keys() | self.settings.keys() - {"fingerprint"})
            if self.settings.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.root} holds other films: {'; '.join(differing)}. Use another folder or remove this one"
            )

    def path(self, film: Film) -> Path:
        """Return the file of a film."""
        return self.root / "videos" / f"{film.name}.mp4"

    def pairs(self, kind: str) -> list[tuple[int, int]]:
        """Return indices of every original and its twin of a kind.

        Raises:
            ValueError: The kind is unknown.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
        place = {(film.base, film.kind): index for index, film in enumerate(self.films)}
        return [(index, place[base, kind]) for (base, name), index in place.items() if name == ORIGINAL]


def twin_orders(num_clips: int, generator: np.random.Generator) -> dict[str, tuple[int, ...]]:
    """Draw the orders of a film and its twins.

    Args:
        num_clips: Number of clips, at least 3.
        generator: Draws the permutation and the two neighbours.

    Returns:
        "original"; "reversed", the last clip first; "permuted", an order in which no clip keeps its place, and not the
        reversed one; "swapped", two neighbours exchanged.

    Raises:
        ValueError: There are too few clips.
    """
    if num_clips < FEWEST_CLIPS:
        raise ValueError(f"a film of {num_clips} clips has no three different twins. Use {FEWEST_CLIPS} clips or more")
    original = tuple(range(num_clips))
    permuted = original
    while permuted == original[::-1] or any(clip == place for place, clip in enumerate(permuted)):
        permuted = tuple(int(clip) for clip in generator.permutation(num_clips))
    first = int(generator.integers(num_clips - 1))
    swapped = (*original[:first], first + 1, first, *original[first + 2 :])
    return {ORIGINAL: original, "reversed": original[::-1], "permuted": permuted, "swapped": swapped}


def make_order_twins(
    root: str | os.PathLike[str],
    source: FilmSource | None = None,
    *,
    num_films: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> TwinFilms:
    """Make films and their twins, or open those that were made before with the same arguments.

    Args:
        root: Folder to make: new, empty, or one that this function made.
        source: Source of the clips. Defaults to `ShapeTalesSource()`.
        num_films: Number of stories; each gives one film and three twins.
        seed: Seed of the choice of clips and of the orders.
        progress: Show a progress bar.

    Returns:
        The films.

    Raises:
        ValueError: An argument is out of range, clips cannot be used, or the folder holds something else.
    """
    if source is None:
        from lfvila_hf.evaluation.order_twins.sources import ShapeTalesSource

        source = ShapeTalesSource()
    if num_films < 1:
        raise ValueError(f"num_films is {num_films}, expected at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    root = Path(os.path.abspath(root))
    wanted = {"name": "OrderTwins", "version": VERSION, "num_films": num_films, "seed": seed, **source.settings}
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        made = load_order_twins(root)
        made.check_settings(wanted)
        return made
    stories = source.stories(num_films, seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir()
        _write_films(unfinished, stories, source, seed, wanted, progress)
        try:
            os.replace(unfinished, root)  # onto nothing, or an empty folder
        except OSError:
            if not (root / "manifest.json").is_file():  # another process may have been faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    made = load_order_twins(root)
    made.check_settings(wanted)
    return made


def load_order_twins(root: str | os.PathLike[str]) -> TwinFilms:
    """Open a folder that `make_order_twins` made.

    Raises:
        ValueError: It is none, its annotations were changed, or a video is missing.
    """
    root = Path(root)
    try:
        settings = json.loads((root / "manifest.json").read_text("utf-8"))
        annotations = (root / "films.jsonl").read_bytes()
        known = settings["name"] == "OrderTwins"
    except (OSError, ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise ValueError(f"{root} is no folder of OrderTwins. Use a new or an empty folder, or one that it made")
    if settings.get("version") != VERSION:
        raise ValueError(f"{root} has version {settings.get('version')} of OrderTwins, expected {VERSION}: remove it")
    if hashlib.sha256(annotations).hexdigest() != settings.get("fingerprint"):
        raise ValueError(f"{root / 'films.jsonl'} is not the file that was made there: remove the folder")
    films = tuple(Film.from_row(json.loads(line)) for line in annotations.decode("utf-8").splitlines())
    data = TwinFilms(root, films, settings)
    missing = [data.path(film).name for film in films if not data.path(film).is_file()]
    if missing:
        raise ValueError(f"{root} lacks {len(missing)} of {len(films)} videos, such as {missing[0]}: remove the folder")
    return data


def encode_clip(frames: np.ndarray, fps: int) -> list[bytes]:
    """Encode one clip as H.264, one closed group of pictures without B-frames.

    Args:
        frames: uint8 RGB `(n, H, W, 3)`, H and W even.
        fps: Frames per second.

    Returns:
        One packet per frame; the first is a key frame.
    """
    context = _encoder(frames.shape[1:3], fps)
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        packets += context.encode(frame)
    packets += context.encode(None)
    return [bytes(packet) for packet in packets]


def _encoder(size: Sequence[int], fps: int) -> Any:
    context: Any = av.CodecContext.create("libx264", "w")
    _configure(context, size, fps)
    context.flags |= av.codec.context.Flags.global_header
    return context


def _configure(context: Any, size: Sequence[int], fps: int) -> None:
    """Set what the header of a film and the packets of its clips must have in common."""
    context.height, context.width, context.pix_fmt = size[0], size[1], "yuv420p"
    context.framerate, context.time_base = Fraction(fps), Fraction(1, fps)
    context.thread_count = 1  # more threads are other slices, and other frames
    context.options = {"preset": "ultrafast", "crf": "23", "bf": "0", "sc_threshold": "0", "g": "100000"}


def _write_films(
    root: Path, stories: Sequence[Story], source: FilmSource, seed: int, settings: dict[str, Any], progress: bool
) -> None:
    (root / "videos").mkdir()
    rows = []
    for base, story in enumerate(tqdm(stories, desc="OrderTwins", unit="film", disable=not progress)):
        packets = source.encode(story)
        for kind, order in twin_orders(len(packets), np.random.default_rng((seed, base))).items():
            lengths = [len(packets[clip]) for clip in order]
            film = Film(
                name=f"{base:05d}_{kind}",
                base=base,
                kind=kind,
                order=order,
                sentences=tuple(story.sentences[clip] for clip in order),
                first_frames=tuple(accumulate(lengths, initial=0)),
                fps=source.fps,
            )
            _join([packets[clip] for clip in order], source.frame_size, source.fps, root / f"videos/{film.name}.mp4")
            rows.append(json.dumps(film.row()) + "\n")
    annotations = "".join(rows).encode()
    (root / "films.jsonl").write_bytes(annotations)
    settings = {**settings, "fingerprint": hashlib.sha256(annotations).hexdigest()}
    (root / "manifest.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _join(clips: Sequence[Sequence[bytes]], size: tuple[int, int], fps: int, path: Path) -> None:
    """Write the packets of clips one behind the other into a file, without decoding."""
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        _configure(stream.codec_context, size, fps)
        place = 0
        for clip in clips:
            for number, data in enumerate(clip):
                packet: Any = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, fps)
                packet.pts = packet.dts = place
                packet.duration = 1
                packet.is_keyframe = number == 0
                container.mux(packet)
                place += 1

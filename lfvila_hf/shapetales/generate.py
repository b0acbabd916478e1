# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Generator of ShapeTales, a benchmark of narrated stories as real H.264 files: `make_shapetales`.

Design note. It writes one folder:

    manifest.json                     parameters and the fingerprint of every story
    files.jsonl                       size and CRC-32 of the files of each finished story
    vocab.txt                         word-piece vocabulary
    videos/test_00012.mp4             the long videos, all splits together
    clips/test_00012/test_00012.3.mp4 the same video cut into its clips, counted from 0
    annotations/retrieval_SPLIT.jsonl     {"clip_id": "test_00012", "text": [sentence, ...], ...}
    annotations/pretraining_SPLIT.jsonl   [{"clip_id": "test_00012.0.mp4", "text": sentence}, ...]

Both annotation formats are the released ones (microsoft/XPretrain, LF-VILA); the retrieval rows carry more fields.

A second call with the same parameters renders only what is missing or damaged: a story is done when all its files have
the recorded size and checksum. Other parameters need another folder. Memory is bounded by one story per worker.
Where workers cannot be forked (not on Linux), a script that calls this needs the usual `__main__` guard.

Stories come from `plan`, pictures from `drawing`, files from `rendering`. `docs/shapetales.md` describes what the
benchmark can and cannot show.
"""

from __future__ import annotations

import json
import os
import shutil
import string
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tqdm.auto import tqdm

from .rendering import StoryFiles, StoryRenderer, clip_names, unfinished_folder
from .story_plan import SPLIT_SEEDS, Story, StoryParameters, fingerprint, plan_stories, story_words

if TYPE_CHECKING:
    from transformers import BertTokenizer

BENCHMARK_VERSION = 1
"""Raised with every change to grammar, seeds or drawing; numbers of different versions must not be compared."""

SPLITS = tuple(SPLIT_SEEDS)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""A fork begins at once, where a fresh process imports torch first. The workers use neither its threads nor a GPU."""

_STORIES_PER_WORKER = 64  # a new process needs seconds before its first story; fewer stories are done sooner without


@dataclass(frozen=True)
class ShapeTales:
    """A finished ShapeTales folder.

    Attributes:
        root: The folder.
        parameters: Parameters that it was made with.
        stories: Split name to its stories, in the order of the annotation files.
    """

    root: Path
    parameters: StoryParameters
    stories: dict[str, list[Story]] = field(repr=False)

    @property
    def videos(self) -> Path:
        """Root of the retrieval format: `videos / f"{clip_id}.mp4"`."""
        return self.root / "videos"

    @property
    def clips(self) -> Path:
        """Root of the pre-training format: `clips / VIDEO / "VIDEO.3.mp4"`."""
        return self.root / "clips"

    def annotations(self, split: str) -> Path:
        """Return the annotation file of a split in the released retrieval format."""
        return self.root / "annotations" / f"retrieval_{_known_split(split)}.jsonl"

    def pretraining_annotations(self, split: str) -> Path:
        """Return the annotation file of a split in the released pre-training format.

        Raises:
            ValueError: The folder was made without clip files.
        """
        if not self.parameters.clip_files:
            raise ValueError(f"{self.root} was made with clip_files=False, so the pre-training format has no files")
        return self.root / "annotations" / f"pretraining_{_known_split(split)}.jsonl"

    def split_rows(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of a split as they stand in its retrieval annotation file.

        Each row has `clip_id`; `text`, a list of sentences; `seconds`, the start of each clip; `duration` in seconds;
        `events`, one dict of figure, colour, action and place per sentence; and `twin_of`, a `clip_id` or None.
        """
        return [_retrieval_row(story, self.parameters.fps) for story in self.stories[_known_split(split)]]

    def twin_pairs(self, split: str) -> list[tuple[str, str]]:
        """Return the `clip_id`s of the order twins of a split, each pair once."""
        stories = self.stories[_known_split(split)]
        return [(story.clip_id, story.twin_of) for story in stories if story.twin_of and story.clip_id < story.twin_of]

    def video_path(self, clip_id: str) -> Path:
        """Return the file of a long video."""
        return self.videos / f"{clip_id}.mp4"

    def word_tokenizer(self) -> BertTokenizer:
        """Return a BERT tokenizer (lower case) that knows the words of the stories and spells all others in letters."""
        from transformers import BertTokenizer

        tokens = (self.root / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def make_shapetales(
    root: str | os.PathLike[str],
    *,
    num_workers: int = 2,
    progress: bool = True,
    after_story: Callable[[dict[str, Any], Path], None] | None = None,
    **parameters: Any,
) -> ShapeTales:
    """Make the benchmark, or finish making it.

    Args:
        root: Folder to write to: new, empty, or made earlier with the same parameters.
        num_workers: Maximum number of processes that draw and encode; for 1, or few stories, this process does it.
        progress: Show a progress bar.
        after_story: Called in the worker with the annotation row and the video of each story that was rendered, so that
            its frames can be decoded on all cores. It must be picklable.
        **parameters: Fields of `StoryParameters`, such as `train_stories`, `train_twins`, `height`.

    Returns:
        The finished folder; every file of it has been checked.

    Raises:
        ValueError: A parameter is out of range, or the folder holds something else than these stories.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}, expected at least 1")
    wanted = StoryParameters(**parameters)
    data = ShapeTales(Path(root), wanted, plan_stories(wanted))
    _claim_folder(data)
    stories = [story for split in SPLITS for story in data.stories[split]]
    done = _finished_stories(data)
    missing = [story for story in stories if story.clip_id not in done]
    bar = tqdm(total=len(stories), initial=len(done), desc="ShapeTales", unit="story", disable=not progress)
    with bar, (data.root / "files.jsonl").open("a", encoding="utf-8") as ledger:
        for result in _rendered(missing, _Worker(StoryRenderer(data.root, wanted), after_story), num_workers):
            if isinstance(result, OSError):
                raise result
            ledger.write(json.dumps(asdict(result)) + "\n")
            ledger.flush()
            bar.update()
    shutil.rmtree(unfinished_folder(data.root), ignore_errors=True)
    _write_annotations(data)
    return data


def load_shapetales(root: str | os.PathLike[str]) -> ShapeTales:
    """Open a folder that `make_shapetales` has finished, without reading its videos.

    Raises:
        ValueError: The folder was not made, was not finished, or holds stories of another version.
    """
    root = Path(root)
    manifest = _read_manifest(root)
    if manifest is None:
        raise ValueError(f"{root} has no manifest.json, expected a folder written by make_shapetales")
    if manifest.get("version") != BENCHMARK_VERSION:
        raise ValueError(f"{root} has version {manifest.get('version')} of ShapeTales, expected {BENCHMARK_VERSION}")
    wanted = StoryParameters(**manifest["parameters"])
    data = ShapeTales(root, wanted, plan_stories(wanted))
    if manifest != _manifest(data):
        raise ValueError(
            f"{root} has the fingerprint {manifest['fingerprint']}, expected {fingerprint(data.stories)}: the stories "
            "drawn here are others, perhaps because numpy draws differently"
        )
    missing = [path.name for path in _annotation_contents(data) if not path.exists()]
    if missing:
        raise ValueError(f"{root} is not finished ({missing[0]} is missing); call make_shapetales again")
    return data


def build_vocabulary(texts: Iterable[str] = ()) -> list[str]:
    """Build the word pieces of a small BERT tokenizer: special tokens, characters, words of ShapeTales and of `texts`.

    Any other lower-case English word is spelled (`z ##e ##b ##r ##a`), so nothing in it becomes `[UNK]`.

    Args:
        texts: More sentences whose words get one token each.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*SPECIAL_TOKENS, *string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    return list(dict.fromkeys([*pieces, *story_words(), *sorted(words)]))


def _known_split(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    return split


# ---------------------------------------------------------------------------------------------------------------------
# Folder and manifest


def _manifest(data: ShapeTales) -> dict[str, Any]:
    return {
        "name": "ShapeTales",
        "version": BENCHMARK_VERSION,
        "parameters": asdict(data.parameters),
        "fingerprint": fingerprint(data.stories),
    }


def _read_manifest(root: Path) -> dict[str, Any] | None:
    path = root / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("name") != "ShapeTales":
        raise ValueError(f"{path} is not a manifest of ShapeTales")
    return manifest


def _claim_folder(data: ShapeTales) -> None:
    """Create the folders, or check that they hold the same stories."""
    root, wanted = data.root, _manifest(data)
    found = _read_manifest(root)
    if found is None:
        if root.exists() and any(root.iterdir()):
            raise ValueError(f"{root} is not empty and has no manifest.json, expected a new or an empty folder")
        root.mkdir(parents=True, exist_ok=True)
        _write_atomically(root / "manifest.json", json.dumps(wanted, indent=2) + "\n")
    elif found != wanted:
        old = {**found, **found.get("parameters", {})}
        new = {**wanted, **wanted["parameters"]}
        changes = [
            f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
            for name in sorted(old.keys() | new.keys())
            if name != "parameters" and old.get(name) != new.get(name)
        ]
        raise ValueError(f"{root} holds other stories: {'; '.join(changes)}. Use another folder or remove this one")
    for name in ("videos", "clips", "annotations"):
        (root / name).mkdir(exist_ok=True)


def _finished_stories(data: ShapeTales) -> set[str]:
    """Return the stories whose files all have the recorded size and checksum."""
    path = data.root / "files.jsonl"
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8")
    complete, _, torn = text.rpartition("\n")
    if torn:  # the line that was being written when an earlier run was killed
        _write_atomically(path, f"{complete}\n" if complete else "")
    try:
        records = [json.loads(line) for line in complete.splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to render every story again") from error
    latest = {record["clip_id"]: record["files"] for record in records}
    return {
        clip_id
        for clip_id, files in latest.items()
        if all(_is_intact(data.root / name, size, checksum) for name, size, checksum in files)
    }


def _is_intact(path: Path, size: int, checksum: int) -> bool:
    try:
        return path.stat().st_size == size and zlib.crc32(path.read_bytes()) == checksum
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class _Worker:
    """Renderer of one story, and what follows it."""

    render: StoryRenderer
    after_story: Callable[[dict[str, Any], Path], None] | None

    def __call__(self, story: Story) -> StoryFiles:
        files = self.render(story)
        if self.after_story is not None:
            row = _retrieval_row(story, self.render.parameters.fps)
            self.after_story(row, self.render.root / "videos" / f"{story.clip_id}.mp4")
        return files


class _Rendering(torch.utils.data.Dataset[StoryFiles | OSError]):
    """Stories that are rendered when they are asked for; a full disk is returned, so that its one line stays one."""

    def __init__(self, stories: list[Story], render: _Worker) -> None:
        self.stories = stories
        self.render = render

    def __len__(self) -> int:
        return len(self.stories)

    def __getitem__(self, index: int) -> StoryFiles | OSError:
        try:
            return self.render(self.stories[index])
        except OSError as error:
            return OSError(error.errno, error.strerror, error.filename)


def _rendered(stories: list[Story], render: _Worker, num_workers: int) -> Iterable[StoryFiles | OSError]:
    """Render stories here or in loader workers, which end when this process is killed."""
    num_workers = min(num_workers, len(stories) // _STORIES_PER_WORKER)
    if num_workers <= 1:
        return map(render, stories)
    return torch.utils.data.DataLoader(
        _Rendering(stories, render),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=8,
        multiprocessing_context=START_METHOD,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Annotations


def _retrieval_row(story: Story, fps: int) -> dict[str, Any]:
    return {
        "clip_id": story.clip_id,
        "text": list(story.sentences),
        "seconds": [first / fps for first in story.first_frames],
        "duration": sum(story.clip_frames) / fps,
        "events": [event._asdict() for event in story.events],
        "twin_of": story.twin_of,
    }


def _pretraining_row(story: Story) -> list[dict[str, str]]:
    return [{"clip_id": name, "text": text} for name, text in zip(clip_names(story), story.sentences, strict=True)]


def _annotation_contents(data: ShapeTales) -> dict[Path, str]:
    """Return every text file that describes the videos, with its content."""
    contents = {data.root / "vocab.txt": "".join(f"{token}\n" for token in build_vocabulary())}
    for split in SPLITS:
        rows = data.split_rows(split)
        contents[data.annotations(split)] = "".join(json.dumps(row) + "\n" for row in rows)
        if data.parameters.clip_files:
            lists = [_pretraining_row(story) for story in data.stories[split]]
            contents[data.pretraining_annotations(split)] = "".join(json.dumps(row) + "\n" for row in lists)
    return contents


def _write_annotations(data: ShapeTales) -> None:
    for path, content in _annotation_contents(data).items():
        _write_atomically(path, content)


def _write_atomically(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)

"""Data of the demo: ShapeTales, generated on the spot, or a folder of the user's own videos with paragraphs.

Both come out as a `DemoData`: rows to train on, validation and test rows, a tokenizer, and a paragraph to search with.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from lfvila_hf import LFVilaVideoProcessor
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.cached_reading import CachedVideoReader, VideoSegments
from lfvila_hf.data.checking import find_videos
from lfvila_hf.data.frame_store import FrameStore
from lfvila_hf.shapetales import build_vocabulary, make_shapetales


@dataclass
class DemoData:
    """Rows and words of the demo.

    Attributes:
        name: Name of the data in the report.
        tokenizer: Tokenizer that knows every word of the paragraphs.
        train: Training rows (`load_retrieval`).
        has_times: Whether the sentences of `train` have seconds, so that segments can be read like clips.
        validation: Rows that choose the reported score.
        test: Held-out rows; for a user's own footage the training rows themselves.
        query: Paragraph that is searched for at the end.
        query_video: Id and file of the video that it describes.
        validation_twins: Pairs of row numbers of `validation` that are order twins.
        test_twins: Pairs of row numbers of `test` that are order twins.
        flips: Whether a mirrored video still fits its text.
        held_out: Whether `test` was kept out of training.
    """

    name: str
    tokenizer: BertTokenizer
    train: Any
    has_times: bool
    validation: Any
    test: Any
    query: list[str]
    query_video: tuple[str, str]
    validation_twins: list[tuple[int, int]] = field(default_factory=list)
    test_twins: list[tuple[int, int]] = field(default_factory=list)
    flips: bool = False
    held_out: bool = True


@dataclass(frozen=True)
class DecodeStory:
    """Decoder of the training frames of a story, run in the process that has just rendered it."""

    video_processor: LFVilaVideoProcessor
    store: FrameStore

    def __call__(self, row: dict[str, Any], video: Path) -> None:
        """Put the frames of a training story into the store."""
        if row["clip_id"].startswith("train"):
            borders = (*map(float, row["seconds"]), float(row["duration"]))
            segments = VideoSegments(str(video), borders, 0, len(borders) - 1)
            CachedVideoReader(self.video_processor, self.store).fill(segments)


def shapetales(
    folder: Path, stories: int, workers: int, video_processor: LFVilaVideoProcessor, store: FrameStore
) -> DemoData:
    """Make ShapeTales (or finish making it) in `folder`, decode its training frames into `store`, and read it."""
    decode = DecodeStory(video_processor, store)
    made = len(list((folder / "videos").glob("*.mp4")))
    if made:
        print(f"    going on: {made} videos are there already", flush=True)
    tales = make_shapetales(
        folder,
        train_stories=stories,
        clip_files=False,
        num_workers=workers,
        progress=sys.stderr.isatty(),
        after_story=decode,
    )
    rows = {
        split: load_retrieval(tales.annotations(split), tales.videos)
        for split in ("train", "validation", "test", "query")
    }

    def twins(split: str) -> list[tuple[int, int]]:
        number = {name: index for index, name in enumerate(rows[split]["id"])}
        return [(number[a], number[b]) for a, b in tales.twin_pairs(split)]

    return DemoData(
        name="ShapeTales",
        tokenizer=tales.word_tokenizer(),
        train=rows["train"],
        has_times=True,
        validation=rows["validation"],
        test=rows["test"],
        query=rows["query"][0]["sentences"],
        query_video=(rows["query"][0]["id"], rows["query"][0]["video"]),
        validation_twins=twins("validation"),
        test_twins=twins("test"),
    )


def own_footage(folder: Path, output: Path) -> DemoData:
    """Read a user's folder: videos and `paragraphs.jsonl`, one `{"clip_id": ..., "text": [...]}` per line.

    Args:
        folder: The user's folder, which is only read.
        output: Folder that gets a template of `paragraphs.jsonl` if the file is missing.

    Raises:
        ValueError: There is no such file, a row cannot be used, or there are fewer than two rows.
    """
    path = folder / "paragraphs.jsonl"
    if not path.is_file():
        raise ValueError(_offer_paragraphs(folder, output))
    rows = load_retrieval(path, folder)
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} row, to search at least 2 are needed")
    twice = [video for video, count in Counter(rows["video"]).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has several rows for {twice[0]}, expected one paragraph for each video")
    paragraphs: list[list[str]] = [list(sentences) for sentences in rows["sentences"]]
    return DemoData(
        name=str(folder),
        tokenizer=word_tokenizer(sentence for paragraph in paragraphs for sentence in paragraph),
        train=rows,
        has_times=False,
        validation=rows,
        test=rows,
        query=list(paragraphs[0]),
        query_video=(rows[0]["id"], rows[0]["video"]),
        flips=not mentions_sides(json.dumps(paragraphs)),
        held_out=False,
    )


def _offer_paragraphs(folder: Path, output: Path) -> str:
    """Write a template of `paragraphs.jsonl` for the videos of a folder, and return what to do with it."""
    names = [str(path.relative_to(folder)) for path in find_videos(folder)]
    text = ["What happens first.", "What happens then.", "And so on, one sentence for each part."]
    lines = [json.dumps({"clip_id": name, "text": text}, ensure_ascii=False) for name in names]
    output.mkdir(parents=True, exist_ok=True)
    template = output / "paragraphs.jsonl"
    if not template.exists():  # or the user is at work on it
        template.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    shown = "\n".join(f"  {line}" for line in lines[:3]) + ("\n  ..." if len(lines) > 3 else "")
    return (
        f"{folder / 'paragraphs.jsonl'} is missing. It holds one line per video, here for your {len(names)}:\n{shown}\n"
        f"This template is in {template}: put your own sentences into it and move it to {folder}/"
    )


def word_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """Build a BERT tokenizer whose vocabulary is the words of `texts`; other words are spelt."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(build_vocabulary(texts))})


def mentions_sides(text: str) -> bool:
    """Tell whether a text mentions left or right, so that a mirrored picture would contradict it."""
    words = text.lower()
    return "left" in words or "right" in words

"""What the demo learns from: ShapeTales made on the spot, or a folder of the user's own videos with paragraphs.

Both come out as a `DemoData`: rows to learn from, validation and test rows, a tokenizer, and a paragraph to search
with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from lfvila_hf.data.annotations import load_pretraining, load_retrieval
from lfvila_hf.shapetales import build_vocabulary, make_shapetales


@dataclass
class DemoData:
    """Rows and words of the demo.

    Attributes:
        name: what the data is called in the report.
        tokenizer: knows every word of the paragraphs.
        train: training rows in the pre-training format, one clip file per sentence (`load_pretraining`); `None` where
            there are only whole videos.
        whole: training rows in the retrieval format, whole videos (`load_retrieval`).
        validation: rows that choose the score which is reported.
        test: held-out rows; the training rows themselves for a user's own footage.
        test_twins: pairs of row numbers of `test` that are order twins.
        query: paragraph that is searched for at the end.
        query_video: id of the video it was written about, `None` where that video is not in the library.
        flips: whether a mirrored video still fits its text.
        held_out: whether `test` was kept out of training.
    """

    name: str
    tokenizer: BertTokenizer
    train: Any
    whole: Any
    validation: Any
    test: Any
    query: list[str]
    query_video: str | None
    validation_twins: list[tuple[int, int]] = field(default_factory=list)
    test_twins: list[tuple[int, int]] = field(default_factory=list)
    flips: bool = False
    held_out: bool = True


def shapetales(folder: Path, train_stories: int, num_workers: int) -> DemoData:
    """Make ShapeTales (or finish making it) in `folder` and read it."""
    tales = make_shapetales(folder, train_stories=train_stories, num_workers=num_workers)
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
        train=load_pretraining(tales.pretraining_annotations("train"), tales.clips),
        whole=rows["train"],
        validation=rows["validation"],
        test=rows["test"],
        query=rows["query"][0]["sentences"],
        query_video=rows["query"][0]["id"],
        validation_twins=twins("validation"),
        test_twins=twins("test"),
    )


def own_footage(folder: Path) -> DemoData:
    """Read a user's folder: videos and `paragraphs.jsonl`, one `{"clip_id": ..., "text": [...]}` per line.

    Raises:
        ValueError: there is no such file, a row cannot be used, or there are fewer than two rows.
    """
    path = folder / "paragraphs.jsonl"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; it holds one line per video: "
            '{"clip_id": "file name with or without suffix", "text": ["First sentence.", "Second sentence."]}'
        )
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
        train=None,
        whole=rows,
        validation=rows,
        test=rows,
        query=list(paragraphs[0]),
        query_video=rows[0]["id"],
        flips=not mentions_sides(json.dumps(paragraphs)),
        held_out=False,
    )


def word_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """A BERT tokenizer whose vocabulary is the words of `texts`; other words are spelt."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(build_vocabulary(texts))})


def mentions_sides(text: str) -> bool:
    """Whether a text tells left from right, so that a mirrored picture would contradict it."""
    words = text.lower()
    return "left" in words or "right" in words

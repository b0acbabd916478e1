# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf search`: which videos tell a story, and when; which look like a video; which text tells a video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from lfvila_hf.library.ranking import Hit, Score
from lfvila_hf.library.video_library import DEFAULT_CANDIDATES, VideoLibrary


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf search",
        description="Search an index by a story in sentences, or by a video.",
        epilog='example: lfvila-hf search INDEX "First a man rides. Then he falls."',
    )
    parser.add_argument("index", metavar="INDEX", help="what `lfvila-hf index` wrote")
    parser.add_argument("story", nargs="?", metavar="STORY", help="sentences, in the order in which they happen")
    parser.add_argument("--video", metavar="VIDEO", help="videos like this one: one of the index, or any file")
    parser.add_argument("--texts", metavar="FILE", help="with --video: which of these texts (one a line) tells it")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="answers wanted (5)")
    parser.add_argument("--score", choices=get_args(Score), help="what the order follows (both, where there are clips)")
    parser.add_argument(
        "--candidates",
        type=int,
        default=DEFAULT_CANDIDATES,
        metavar="N",
        help=f"segments that the global score passes on to the alignment ({DEFAULT_CANDIDATES})",
    )
    parser.add_argument("--rerank", type=int, default=0, metavar="N", help="let the VTM head order the first N")
    parser.add_argument("--model", metavar="CKPT", help="the checkpoint that made the index, where it was moved to")
    parser.add_argument("--videos", metavar="FOLDER", help="the folder of the videos, where it was moved to")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def open_library(
    index: str, model: str | None = None, videos: str | None = None, with_fusion: bool = False
) -> VideoLibrary:
    """An index with its model, quietly.

    Args:
        index: Folder of the index.
        model: The checkpoint, where it is not where the index says.
        videos: The folder of the videos, where it is not where the index says.
        with_fusion: Load the cross-modal encoder too.
    """
    from transformers.utils import logging

    from lfvila_hf.library.fingerprint import load_checkpoint

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    library = VideoLibrary.load(index, root=videos)
    if model or with_fusion:
        checkpoint = model or library.manifest.maker.checkpoint
        if not checkpoint:
            raise ValueError("the index names no checkpoint: give --model")
        library.use_model(*load_checkpoint(checkpoint, with_fusion))
    return library


def main(arguments: list[str]) -> int:
    """Run the command: search, print."""
    options = build_parser().parse_args(arguments)
    if options.texts and not options.video:
        raise ValueError("--texts are ranked for a video: give --video too")
    if options.story is None and not options.video:
        raise ValueError("say what to search for: a story, or --video")
    if options.story is not None and options.video:
        raise ValueError("a story and --video were given: search for one of them")
    library = open_library(options.index, options.model, options.videos, bool(options.rerank))
    if options.texts:
        return _rank_texts(library, options)
    answer: dict[str, Any] = {}
    if options.video:
        hits = library.search_by_video(options.video, options.top, options.candidates)
        answer["video"] = options.video
    else:
        story = library.read_story(options.story)
        hits = library.search(story, options.top, options.score, options.candidates, options.rerank)
        answer |= {"sentences": list(story.sentences), "notes": list(story.notes)}
    answer["hits"] = [{**hit.as_dict(), "file": library.file_of(hit.path)} for hit in hits]
    if options.json:
        print(json.dumps(answer))
        return 0
    for note in answer.get("notes", []):
        print(f"note: {note}")
    print("\n".join(describe(number, hit) for number, hit in enumerate(hits, start=1)) or "the index is empty")
    return 0


def describe(number: int, hit: Hit) -> str:
    """A hit as a person reads it."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in hit.scores.items())
    lines = [f"{number}. {hit.path}  {clock(hit.start)} - {clock(hit.end)} of {clock(hit.duration)}  ({scores})"]
    lines += [
        f"     {moment.start:7.1f} - {moment.end:7.1f} s  {moment.score:6.3f}  {moment.sentence}"
        for moment in hit.moments
    ]
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _rank_texts(library: VideoLibrary, options: argparse.Namespace) -> int:
    texts = [line.strip() for line in Path(options.texts).read_text("utf-8").splitlines() if line.strip()]
    ranked = library.rank_texts(options.video, texts, options.score)[: options.top]
    if options.json:
        found = [{"text": texts[number], "line": number, "score": score} for number, score in ranked]
        print(json.dumps({"video": options.video, "texts": found}))
    else:
        print("\n".join(f"{n}. {score:.3f}  {texts[k]}" for n, (k, score) in enumerate(ranked, start=1)))
    return 0

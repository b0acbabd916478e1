# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf search`: videos and moments of a story; videos like a video; texts ranked for a video."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfvila_hf.search.video_library import VideoLibrary

SCORES = ("global", "aligned", "both")
FORMATS = ("text", "json", "csv", "vtt", "edl")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf search",
        description="Search an index by a story in sentences, or by a video.",
        epilog='Example: lfvila-hf search INDEX "First a man rides. Then he falls."',
    )
    parser.add_argument("index", metavar="INDEX", help="folder or address that `lfvila-hf index` wrote")
    parser.add_argument("story", nargs="?", metavar="STORY", help="sentences, in the order in which they happen")
    parser.add_argument("--video", metavar="VIDEO", help="find videos like this one, a video of the index or any file")
    parser.add_argument(
        "--texts", metavar="FILE", help="with --video: rank these texts, one a line, by how well they describe it"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of hits (default: %(default)s)")
    parser.add_argument(
        "--per-video", type=int, default=1, metavar="N", help="most hits in one video (default: %(default)s)"
    )
    parser.add_argument(
        "--score", choices=SCORES, help="score that hits are ordered by (default: both, or the only one of the index)"
    )
    parser.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="most segments that are aligned (default: as many as an exact answer needs)",
    )
    parser.add_argument(
        "--false-rate",
        type=float,
        default=0.1,
        metavar="P",
        help="share of sentences that do not occur and may still count as found (default: %(default)s)",
    )
    parser.add_argument(
        "--rerank", type=int, default=0, metavar="N", help="rerank the first N hits by the VTM head (default: off)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="model of the index, if it has moved (default: as stored in the index)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    parser.add_argument("--videos", metavar="FOLDER", help="folder of the videos, if it has moved (default: as stored)")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="print text, the hits as json or csv, chapters as vtt, or cuts as edl (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with the sentences, notes, missing sentences and hits with their files; "
        "--format json prints the hits alone",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Check arguments before the package is imported.

    Raises:
        ValueError: They contradict each other, the story is empty, a number is below 1, or a file does not exist.
    """
    if options.texts and not options.video:
        raise ValueError("--texts are ranked for a video: give --video too")
    if options.story is None and not options.video:
        raise ValueError("say what to search for: a story, or --video")
    if options.story is not None and options.video:
        raise ValueError("a story and --video were given: search for one of them")
    for name in ("top", "per_video"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.story is not None and not any(character.isalnum() for character in options.story):
        raise ValueError('the story is empty: write at least one sentence, such as "A man rides. Then he falls."')
    if options.texts and not os.path.isfile(options.texts):
        raise ValueError(f"--texts {options.texts}: no such file")
    known = ("segments.lance", "library.json")  # the second is that of an older version, which `Index.open` names
    if "://" not in options.index and not any(os.path.exists(os.path.join(options.index, name)) for name in known):
        make = f"`lfvila-hf index FOLDER --model NAME --output {options.index}` makes one"
        raise ValueError(f"there is no index in {options.index}; {make}")
    if options.videos and not os.path.isdir(options.videos):
        raise ValueError(f"--videos {options.videos}: there is no such folder")


def open_library(
    index: str,
    model: str | None = None,
    videos: str | None = None,
    with_fusion: bool = False,
    trust_remote_code: bool = False,
) -> VideoLibrary:
    """Open an index with its model, quietly.

    Args:
        index: Folder or address of the index.
        model: The model that made it. Defaults to what the index names.
        videos: The folder of the videos. Defaults to what the index names.
        with_fusion: Load the cross-modal encoder of LF-VILA too.
        trust_remote_code: Let the checkpoint run its own Python code.
    """
    from transformers.utils import logging

    from lfvila_hf.search.encoders import load_encoder
    from lfvila_hf.search.video_library import VideoLibrary

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    library = VideoLibrary.load(index, root=videos, trust_remote_code=trust_remote_code)
    if model or with_fusion:
        checkpoint = model or library.provenance.checkpoint
        if not checkpoint:
            raise ValueError("the index names no checkpoint: give --model")
        library.use_model(load_encoder(checkpoint, trust_remote_code, with_fusion, dtype=library.provenance.dtype))
    return library


def main(arguments: list[str]) -> int:
    """Run the command: search, print."""
    options = build_parser().parse_args(arguments)
    check(options)
    from lfvila_hf.search.formats import FORMATTERS
    from lfvila_hf.search.story_sentences import check_sentences

    if options.story is not None:
        check_sentences(options.story)  # before the model is loaded
    library = open_library(
        options.index, options.model, options.videos, bool(options.rerank), options.trust_remote_code
    )
    if options.texts:
        return _rank_texts(library, options)
    answer: dict[str, object] = {}
    if options.video:
        hits = library.search_by_video(options.video, options.top)
        answer["video"] = options.video
    else:
        story = library.read_story(options.story)
        hits = library.search(
            story,
            options.top,
            options.score,
            options.candidates,
            options.rerank,
            per_video=options.per_video,
            false_rate=options.false_rate,
        )
        missing = [story.sentences[number] for number in hits.missing]
        answer |= {"sentences": list(story.sentences), "notes": list(story.notes), "missing": missing}
    if options.json:
        answer["hits"] = [{**hit.as_dict(), "file": library.file_of(hit.path)} for hit in hits]
        print(json.dumps(answer))
        return 0
    notes = [f"note: {note}" for note in hits.notes]
    notes += [f"not found in this library: {sentence}" for sentence in answer.get("missing", [])]  # type: ignore[attr-defined]  # a list
    if notes:
        print("\n".join(notes), file=sys.stdout if options.format == "text" else sys.stderr)
    print(FORMATTERS[options.format](hits))
    return 0


def _rank_texts(library: VideoLibrary, options: argparse.Namespace) -> int:
    texts = [line.strip() for line in Path(options.texts).read_text("utf-8").splitlines() if line.strip()]
    ranked = library.rank_texts(options.video, texts, options.score)[: options.top]
    if options.json or options.format == "json":
        found = [{"text": texts[number], "line": number, "score": score} for number, score in ranked]
        print(json.dumps({"video": options.video, "texts": found}))
    else:
        print("\n".join(f"{n}. {score:.3f}  {texts[k]}" for n, (k, score) in enumerate(ranked, start=1)))
    return 0

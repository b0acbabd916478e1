# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf corpus`: a table of its own sub-commands, `build`, `cut`, `from-subtitles` and `stats`.

What is printed is the result: a few lines for people; everything else is in the files of the corpus.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from .building import BuildResult, build_corpus
from .engines import make_engine
from .plan import NEAR_DUPLICATES, BuildParameters
from .runs import OVERLAPS, JoinRules
from .text import TextRules

PROGRAM = "lfvila-hf corpus"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Build, cut and count long-form video corpora. docs/corpus.md explains each step."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    return parser


def main(arguments: list[str]) -> int:
    """Run a sub-command."""
    options = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


# -- build -----------------------------------------------------------------------------------------------------------


def _add_build(commands: Any) -> None:
    parser = commands.add_parser(
        "build",
        help="metadata and transcripts into long-form rows",
        description="Join clips that follow each other in time into long videos, as LF-VILA-8M was made from "
        "HD-VILA-100M.",
    )
    parser.set_defaults(run=run_build)
    inputs = parser.add_argument_group("input: files, folders of .jsonl(.gz) or patterns")
    inputs.add_argument("--metadata", nargs="+", required=True, metavar="PATH", help="HD-VILA-100M metadata")
    inputs.add_argument("--transcripts", nargs="+", default=[], metavar="PATH", help="one {clip_id, text} per line")
    inputs.add_argument(
        "--clip-ids", nargs="+", default=[], metavar="PATH", help="published selection: take exactly these rows"
    )
    add_build_options(parser, max_gap=JoinRules().max_gap)


def add_build_options(parser: argparse.ArgumentParser, max_gap: float) -> None:
    """The options that every way to a corpus shares."""
    join, text, rest = JoinRules(), TextRules(), BuildParameters()
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that is there")
    parser.add_argument("--strict", action="store_true", help="make any problem with the input an error")
    rows = parser.add_argument_group("long videos")
    rows.add_argument(
        "--max-gap",
        type=float,
        default=max_gap,
        metavar="S",
        help="seconds between clips that count as contiguous; LF-VILA's own is not published (default: %(default)s)",
    )
    rows.add_argument(
        "--max-overlap",
        type=float,
        default=join.max_overlap,
        metavar="S",
        help="tolerated overlap (default: %(default)s)",
    )
    rows.add_argument(
        "--overlaps",
        choices=OVERLAPS,
        default=join.overlaps,
        help="a clip that overlaps by more begins a new video, is left out, or is kept (default: %(default)s)",
    )
    rows.add_argument("--min-clips", type=int, default=join.min_clips, metavar="N", help="fewest clips (default: 4)")
    rows.add_argument("--max-clips", type=int, metavar="N", help="most clips; longer runs are cut evenly")
    rows.add_argument("--max-seconds", type=float, metavar="S", help="longest video")
    words = parser.add_argument_group("text")
    words.add_argument("--min-words", type=int, default=text.min_words, metavar="N", help="of a clip (default: 1)")
    words.add_argument("--max-words", type=int, default=text.max_words, metavar="N", help="of a clip (default: 512)")
    words.add_argument("--keep-sound-tags", action="store_true", help="keep [Music] and the like")
    words.add_argument(
        "--near-duplicates",
        choices=NEAR_DUPLICATES,
        default=rest.near_duplicates,
        help="rows that nearly repeat another: mark them; also leave out those that leak between splits (default); "
        "leave out all; do not look",
    )
    words.add_argument(
        "--similarity", type=float, default=rest.similarity, metavar="J", help="what counts as one (default: 0.8)"
    )
    split = parser.add_argument_group("split and files")
    split.add_argument("--validation", type=float, default=rest.validation, metavar="PART", help="(default: 0.005)")
    split.add_argument("--test", type=float, default=rest.test, metavar="PART", help="(default: 0.005)")
    split.add_argument("--split-seed", type=int, default=rest.split_seed, metavar="N", help="(default: 0)")
    split.add_argument("--rows-per-file", type=int, default=rest.rows_per_file, metavar="N", help="(default: 20000)")
    machines = parser.add_argument_group("machines")
    machines.add_argument("--engine", choices=["local", "ray"], default="local", help="where tasks run")
    machines.add_argument("--workers", type=int, metavar="N", help="processes of the local engine (default: all cores)")
    machines.add_argument("--ray-address", metavar="ADDRESS", help="cluster to join, such as auto")


def build_parameters(options: argparse.Namespace) -> BuildParameters:
    """What the options of `add_build_options` say.

    Raises:
        ValueError: For a value out of range.
    """
    return BuildParameters(
        join=JoinRules(
            max_gap=options.max_gap,
            max_overlap=options.max_overlap,
            overlaps=options.overlaps,
            min_clips=options.min_clips,
            max_clips=options.max_clips,
            max_seconds=options.max_seconds,
        ),
        text=TextRules(
            min_words=options.min_words, max_words=options.max_words, keep_sound_tags=options.keep_sound_tags
        ),
        validation=options.validation,
        test=options.test,
        split_seed=options.split_seed,
        near_duplicates=options.near_duplicates,
        similarity=options.similarity,
        rows_per_file=options.rows_per_file,
    )


def run_build(options: argparse.Namespace) -> int:
    """Build a corpus and print what came out."""
    parameters = build_parameters(options)
    engine = make_engine(options.engine, options.workers, options.ray_address)
    try:
        result = build_corpus(
            options.output_dir,
            metadata=options.metadata,
            transcripts=options.transcripts,
            clip_ids=options.clip_ids,
            parameters=parameters,
            engine=engine,
            strict=options.strict,
            overwrite=options.overwrite,
        )
    finally:
        engine.close()
    print_build(result)
    return 0


def print_build(result: BuildResult) -> None:
    """A summary of a manifest for people."""
    manifest = result.manifest
    counts, source = manifest["counts"], manifest["source"]
    print(f"clips          {counts.get('metadata_clips', 0):,} in the metadata, {source['clips']:,} eligible")
    for split, found in manifest["splits"].items():
        print(f"{split:<14} {found['rows']:,} rows of {found['clips']:,} clips from {found['videos']:,} videos")
    near = manifest["near_duplicates"]
    if manifest["parameters"]["near_duplicates"] != "off":
        print(
            f"repeated       {near['rows']:,} rows nearly repeat another, {near['across_splits']:,} of them one of "
            f"another split; {near['left_out']:,} left out"
        )
    if manifest["selection"]:
        chosen = manifest["selection"]
        print(f"selection      {chosen['listed']:,} rows listed, {chosen['also_built']:,} of them also by the rules")
    for kind, problem in manifest["problems"].items():
        print(f"{kind:<24} {problem['count']:,}, such as {problem['examples'][0]}", file=sys.stderr)
    print(f"written to     {result.output} in {sum(result.seconds.values()):.1f} s")

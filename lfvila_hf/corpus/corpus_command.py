# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Command `lfvila-hf corpus` with the sub-commands `build`, `cut`, `from-subtitles` and `stats`.

It prints a few lines for people; everything else is in the files of the corpus.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfvila_hf.corpus.building import BuildResult
    from lfvila_hf.corpus.plan import BuildParameters

PROGRAM = "lfvila-hf corpus"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Build, cut and count long-form video corpora. docs/corpus.md explains each step."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_cut(commands)
    _add_from_subtitles(commands)
    _add_stats(commands)
    return parser


def check(options: argparse.Namespace) -> None:
    """Check that the inputs of a sub-command exist, before the package is imported and a folder is made.

    Raises:
        ValueError: One does not.
    """
    if options.command == "build":
        for given in (*options.metadata, *options.transcripts, *options.clip_ids):
            if not os.path.exists(given) and not glob.glob(given):
                raise ValueError(f"there is no input file {given}")
    elif options.command == "cut":
        if not os.path.exists(options.corpus):
            raise ValueError(f"there is no corpus or metadata file {options.corpus}")
        if options.videos is None and options.sources is None:
            raise ValueError("no videos were given: pass --videos FOLDER, or --sources JSONL")
        if options.sources is not None and not os.path.isfile(options.sources):
            raise ValueError(f"--sources {options.sources}: no such file")
    elif options.command == "stats" and not glob.glob(os.path.join(glob.escape(options.corpus), "data", "*.parquet")):
        raise ValueError(f"there is no corpus in {options.corpus}: expected Parquet files in its folder data")
    for name in ("videos", "subtitles"):  # of cut and from-subtitles
        folder = getattr(options, name, None)
        if folder is not None and not os.path.isdir(folder):
            raise ValueError(f"there is no folder {folder}")


def main(arguments: list[str]) -> int:
    """Run a sub-command."""
    options = build_parser().parse_args(arguments)
    check(options)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


# -- build -----------------------------------------------------------------------------------------------------------


def _add_build(commands: Any) -> None:
    parser = commands.add_parser(
        "build",
        help="build long-form rows from metadata and transcripts",
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
    add_build_options(parser, max_gap=1.0)


def add_build_options(parser: argparse.ArgumentParser, max_gap: float) -> None:
    """Add the options that `build` and `from-subtitles` share."""
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    parser.add_argument("--strict", action="store_true", help="make any problem with the input an error")
    rows = parser.add_argument_group("long videos")
    rows.add_argument(
        "--max-gap",
        type=float,
        default=max_gap,
        metavar="S",
        help="largest gap between contiguous clips, in seconds; LF-VILA's is not published (default: %(default)s)",
    )
    rows.add_argument(
        "--max-overlap",
        type=float,
        default=0.1,
        metavar="S",
        help="tolerated overlap, in seconds (default: %(default)s)",
    )
    rows.add_argument(
        "--overlaps",
        choices=("split", "drop", "keep"),
        default="split",
        help="a clip that overlaps by more: begin a new video, leave it out, or keep it (default: %(default)s)",
    )
    rows.add_argument("--min-clips", type=int, default=4, metavar="N", help="fewest clips (default: 4)")
    rows.add_argument("--max-clips", type=int, metavar="N", help="most clips; longer runs are cut evenly")
    rows.add_argument("--max-seconds", type=float, metavar="S", help="longest video")
    words = parser.add_argument_group("text")
    words.add_argument("--min-words", type=int, default=1, metavar="N", help="fewest words of a clip (default: 1)")
    words.add_argument("--max-words", type=int, default=512, metavar="N", help="most words of a clip (default: 512)")
    words.add_argument("--keep-sound-tags", action="store_true", help="keep tags such as [Music]")
    words.add_argument(
        "--near-duplicates",
        choices=("mark", "leaks", "drop", "off"),
        default="leaks",
        help="rows that nearly repeat another one: mark them; also leave out those that leak between splits (default); "
        "leave out all; do not search",
    )
    words.add_argument(
        "--similarity",
        type=float,
        default=0.8,
        metavar="J",
        help="Jaccard similarity of near-duplicates (default: 0.8)",
    )
    split = parser.add_argument_group("split and files")
    split.add_argument(
        "--validation",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="share of the videos for validation (default: 0.005)",
    )
    split.add_argument(
        "--test", type=float, default=0.005, metavar="SHARE", help="share of the videos for the test (default: 0.005)"
    )
    split.add_argument("--split-seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    split.add_argument(
        "--rows-per-file", type=int, default=20_000, metavar="N", help="most rows in one file (default: 20000)"
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="where tasks run (default: local)"
    )
    machines.add_argument("--workers", type=int, metavar="N", help="processes of the local engine (default: all cores)")
    machines.add_argument("--ray-address", metavar="ADDRESS", help="cluster to join, such as auto")


def build_parameters(options: argparse.Namespace) -> BuildParameters:
    """Return the parameters that the options of `add_build_options` state.

    Raises:
        ValueError: If a value is out of range.
    """
    from lfvila_hf.corpus.contiguous_clips import JoinRules
    from lfvila_hf.corpus.plan import BuildParameters
    from lfvila_hf.corpus.text import TextRules

    join, text = _stated(JoinRules, options), _stated(TextRules, options)
    return BuildParameters(
        **{**_stated(BuildParameters, options), "join": JoinRules(**join), "text": TextRules(**text)}
    )


def _stated(kind: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Pick the options that have the names of a dataclass's fields."""
    return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}


def run_build(options: argparse.Namespace) -> int:
    """Build a corpus and print a summary."""
    from lfvila_hf.corpus.building import build_corpus
    from lfvila_hf.corpus.engines import make_engine

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
    """Print a summary of a manifest."""
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


# -- cut -------------------------------------------------------------------------------------------------------------


def _add_cut(commands: Any) -> None:
    parser = commands.add_parser(
        "cut",
        help="cut source videos into the clip files of a corpus",
        description="Cut videos into clips, exact to the frame, and check them. Run it again to resume a stopped run.",
    )
    parser.set_defaults(run=run_cut)
    parser.add_argument(
        "corpus", metavar="CORPUS", help="folder of a corpus, or a metadata file of which all clips are cut"
    )
    parser.add_argument("--videos", metavar="DIR", help="folder of the videos, named by their ids")
    parser.add_argument("--sources", metavar="JSONL", help="files of the videos, as one {video_id, path} per line")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder of the clips, DIR/VIDEO/VIDEO.3.mp4")
    parser.add_argument("--fps", default="3", help="frames per second, or a fraction (default: %(default)s)")
    parser.add_argument("--height", type=int, default=240, help="pixels (default: %(default)s)")
    parser.add_argument("--crf", type=int, default=23, help="x264 quality, 0 is lossless (default: %(default)s)")
    parser.add_argument("--preset", default="veryfast", help="x264 preset (default: %(default)s)")
    parser.add_argument(
        "--gop-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between key frames (default: 1)",
    )
    parser.add_argument(
        "--max-seconds-per-video",
        dest="max_seconds",
        type=float,
        default=3600.0,
        metavar="S",
        help="time limit for one video (default: 3600)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if a clip could not be cut")


def run_cut(options: argparse.Namespace) -> int:
    """Cut a corpus and print a summary.

    Raises:
        ValueError: With `--strict`, if a clip could not be cut.
    """
    from lfvila_hf.corpus.cutting import CutParameters
    from lfvila_hf.corpus.cutting_jobs import LEDGER, cut_corpus, source_finder, wishes_of_corpus, wishes_of_metadata

    parameters = CutParameters(**_stated(CutParameters, options))
    wishes = wishes_of_corpus(options.corpus) if os.path.isdir(options.corpus) else wishes_of_metadata([options.corpus])
    finder = source_finder(options.videos, options.sources)
    summary = cut_corpus(options.output_dir, wishes, finder, parameters, options.workers)
    print(
        f"cut            {summary.cut:,} clips, {summary.frames:,} frames, {summary.bytes / 1e6:,.1f} MB in "
        f"{summary.seconds:.1f} s; {summary.there:,} were cut before"
    )
    if summary.failed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.failures.most_common())
        print(f"failed         {summary.failed:,} clips: {kinds}; see {LEDGER}")
        if options.strict:
            raise ValueError(f"{summary.failed} clips could not be cut")
    return 0


# -- from-subtitles --------------------------------------------------------------------------------------------------

SUBTITLE_GAP = 5.0
"""Largest gap between contiguous clips made of subtitles, in seconds: only speech is timed, and people pause."""


def _add_from_subtitles(commands: Any) -> None:
    parser = commands.add_parser(
        "from-subtitles",
        help="build a corpus from a folder of videos with subtitles",
        description="Make clips of the sentences of subtitles (SubRip, WebVTT, SubStation Alpha), and build a corpus.",
    )
    parser.set_defaults(run=run_from_subtitles)
    parser.add_argument("videos", metavar="DIR", help="folder of the videos, with sub-folders")
    parser.add_argument("--subtitles", metavar="DIR", help="folder of the subtitles (default: beside the videos)")
    parser.add_argument("--language", metavar="TAG", help="take NAME.TAG.vtt or NAME.TAG-*.vtt (.srt, .ass)")
    clips = parser.add_argument_group("clips")
    clips.add_argument("--min-seconds", type=float, default=5.0, metavar="S", help="shortest clip (default: 5)")
    clips.add_argument("--max-clip-seconds", type=float, default=20.0, metavar="S", help="longest clip (default: 20)")
    clips.add_argument("--max-clip-words", type=int, default=40, metavar="N", help="most words of a clip (default: 40)")
    clips.add_argument(
        "--pause", type=float, default=1.5, metavar="S", help="silence that ends a sentence (default: 1.5)"
    )
    add_build_options(parser, max_gap=SUBTITLE_GAP)


def run_from_subtitles(options: argparse.Namespace) -> int:
    """Make metadata and transcripts of a folder, build a corpus of them, and print a summary."""
    from lfvila_hf.corpus.building import build_into, find_inputs
    from lfvila_hf.corpus.engines import make_engine
    from lfvila_hf.corpus.from_subtitles import INPUT_KINDS, SentenceRules, write_source
    from lfvila_hf.corpus.output_folders import new_corpus

    parameters = build_parameters(options)
    rules = SentenceRules(options.min_seconds, options.max_clip_seconds, options.max_clip_words, options.pause)
    engine = make_engine(options.engine, options.workers, options.ray_address)
    try:
        with new_corpus(Path(options.output_dir), options.overwrite) as folder:
            source = write_source(
                options.videos, folder.new / "source", rules, options.subtitles, options.language, options.strict
            )
            inputs = find_inputs([source.metadata], [source.transcripts])
            result = build_into(folder, inputs, parameters=parameters, engine=engine, strict=options.strict)
    finally:
        engine.close()
    print(f"videos         {source.videos:,} with subtitles")
    for kind, count in sorted(source.problems.items()):
        print(f"{kind:<24} {count:,} ({INPUT_KINDS[kind]}); see source/problems.jsonl", file=sys.stderr)
    print_build(result)
    return 0


# -- stats -----------------------------------------------------------------------------------------------------------


def _add_stats(commands: Any) -> None:
    parser = commands.add_parser("stats", help="count a corpus, beside the published figures")
    parser.set_defaults(run=run_stats)
    parser.add_argument("corpus", metavar="CORPUS", help="folder of a corpus")
    parser.add_argument("--json", metavar="FILE", help="also write all figures and histograms to this file")
    parser.add_argument("--plots", metavar="DIR", help="also plot histograms into this folder (needs matplotlib)")


def run_stats(options: argparse.Namespace) -> int:
    """Count a corpus and print a table."""
    from lfvila_hf.corpus.statistics import corpus_statistics, plot_statistics

    found = corpus_statistics(options.corpus)
    print(found.table())
    if options.json:
        Path(options.json).write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    if options.plots:
        print(f"\nplots          {len(plot_statistics(found, options.plots))} files in {options.plots}")
    return 0

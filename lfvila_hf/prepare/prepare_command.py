# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Command `lfvila-hf prepare`: converts public annotation files and checks every video."""

from __future__ import annotations

import argparse
from pathlib import Path

# Those of `prepare_task`, which imports more than `--help` should wait for.
TASKS = (
    "activitynet",
    "didemo",
    "queryd",
    "condensed_movie",
    "how2qa",
    "violin",
    "coin",
    "lvu",
    "activitynet_qa",
)
NUM_ANSWERS = 1654


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf prepare",
        description="Convert the annotation files of a task into JSON lines, and check that every video decodes.",
        epilog="docs/preparing-data.md lists the expected files of each task. Rows whose video is missing or "
        "broken are left out, counted in the table and named in report.json.",
    )
    parser.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--source", required=True, type=Path, help="original annotation: a file or a folder")
    parser.add_argument("--videos", required=True, type=Path, help="folder of the videos, with subfolders")
    parser.add_argument("--output", required=True, type=Path, help="folder to write SPLIT.jsonl and report.json to")
    parser.add_argument(
        "--list", action="append", default=[], metavar="SPLIT=FILE", help="ids of a split, one per line; repeatable"
    )
    parser.add_argument(
        "--order",
        choices=("file", "time"),
        default="file",
        help="order of sentences, as in the file or by their times (default: file)",
    )
    parser.add_argument(
        "--subtitles", type=Path, help="How2QA: folder of VIDEO.vtt, .srt or .ass, or a JSON lines file"
    )
    parser.add_argument(
        "--num-answers", type=int, default=NUM_ANSWERS, help="ActivityNet-QA: classes (default: %(default)s)"
    )
    parser.add_argument(
        "--check", choices=("decode", "exists"), default="decode", help="check of the videos (default: decode)"
    )
    parser.add_argument("--workers", type=int, default=4, help="videos read at once (default: 4)")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if anything was left out")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check arguments that no data are needed for.

    Raises:
        ValueError: One is out of range, has another form, or names a missing file.
    """
    for given in options.list:
        if "=" not in given:
            raise ValueError(f"--list takes SPLIT=FILE, got {given!r}")
    if options.workers < 1 or options.num_answers < 1:
        raise ValueError(f"--workers={options.workers} and --num-answers={options.num_answers} must be at least 1")
    if not options.source.exists():
        raise ValueError(f"there is no annotation at {options.source}")
    if not options.videos.is_dir():
        raise ValueError(f"--videos {options.videos}: there is no such folder")
    if options.subtitles and not options.subtitles.exists():
        raise ValueError(f"--subtitles {options.subtitles}: no such file or folder")


def main(arguments: list[str]) -> int:
    """Run the command and print the report's table."""
    options = build_parser().parse_args(arguments)
    check(options)
    from lfvila_hf.prepare.annotation_files import Source, normal_split
    from lfvila_hf.prepare.prepare_task import prepare

    lists = {}
    for given in options.list:
        split, _, path = given.partition("=")
        lists[normal_split(split)] = Path(path)
    source = Source(options.source, lists, options.order, options.subtitles)
    report = prepare(
        options.task,
        source,
        options.videos,
        options.output,
        check=options.check,
        workers=options.workers,
        num_answers=options.num_answers,
    )
    print(report.table())
    return 1 if options.strict and report.problems else 0

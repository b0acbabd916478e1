# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Command `lfvila-hf check-videos`: find the videos of a folder that cannot be used.

The table goes to standard output and the progress bar to standard error. The exit status is 0 if every file can be
used, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf check-videos",
        description="Read every video of a folder and report faults. Each is decoded in a separate process, so a file "
        "that crashes or hangs a decoder is one line of the table.",
        epilog="The exit status is 0 if every file can be used, and 1 otherwise.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder, or a single file")
    parser.add_argument(
        "--json", metavar="FILE", help="also write all rows as JSON; - writes them instead of the table"
    )
    parser.add_argument("--all", action="store_true", help="also list files without faults")
    parser.add_argument(
        "--every-file", action="store_true", help="read every file (default: those with the suffix of a video)"
    )
    parser.add_argument("--full", action="store_true", help="decode every frame (default: 32 spread over the video)")
    parser.add_argument("--workers", metavar="N", type=int, help="files read at the same time (default: all cores)")
    parser.add_argument(
        "--max-seconds", metavar="S", type=float, default=300.0, help="time limit for one file (default: 300)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check that the videos and the folder of the JSON file exist, and that the folder is not empty.

    Raises:
        ValueError: One does not.
    """
    if not options.folder.exists():
        raise ValueError(f"there is no file or folder {options.folder}")
    if options.folder.is_dir() and not any(options.folder.iterdir()):
        raise ValueError(f"no file was found in {options.folder}")
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise ValueError(f"--json {options.json}: there is no such folder")


def main(arguments: list[str]) -> int:
    """Run the command: read, print the table, write the JSON."""
    options = build_parser().parse_args(arguments)
    check(options)
    from tqdm import tqdm

    from lfvila_hf.data.checking import check_videos, find_videos, summary, table
    from lfvila_hf.video_reading_lfvila import VideoLimits, close_decoder_processes

    if options.folder.is_dir():
        paths = find_videos(options.folder, every_file=options.every_file)
    else:
        paths = [options.folder]
    reading = check_videos(
        paths,
        num_frames=None if options.full else 32,
        num_workers=options.workers,
        limits=VideoLimits(max_seconds=options.max_seconds),
    )
    rows = []
    broken = 0
    try:
        # `None`: no bar if standard error is no terminal
        with tqdm(total=len(paths), unit="file", disable=True if options.no_progress else None) as bar:
            for row in reading:
                rows.append(row)
                broken += row.status == "broken"
                bar.set_postfix(broken=broken, refresh=False)
                bar.update()
    finally:
        reading.close()  # type: ignore[attr-defined]  # a generator
        close_decoder_processes()
    found = summary(rows)
    if options.json != "-":
        listed = [row for row in rows if options.all or row.status != "ok"]
        if listed:
            print(table(listed))
        files = "1 file" if found["files"] == 1 else f"{found['files']} files"
        print(f"{files}: {found['ok']} ok, {found['odd']} odd, {found['broken']} broken")
    if options.json:
        text = json.dumps(found, indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(f"{text}\n", encoding="utf-8")
    return 1 if broken else 0

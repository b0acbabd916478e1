# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf index`: embed a folder of videos, or bring an index up to date.

Several processes share the work under `accelerate launch --num_processes N -m lfvila_hf.cli index ...`; with
`--engine ray` the nodes of a Ray cluster do.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

DTYPES = ("float32", "bfloat16", "float16")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf index",
        description="Embed the videos of a folder, so that they can be searched by a story.",
        epilog="A stopped run resumes when the same command is run again. Later runs pick up new, changed and deleted "
        "files. Files that cannot be used are listed at the end and do not stop the run.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of the videos, with subfolders")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="folder or repository on the Hub: LF-VILA, CLIP, SigLIP, X-CLIP, ...; or module:name of your own encoder",
    )
    parser.add_argument("--output", required=True, metavar="INDEX", help="folder or address (s3://...) of the index")
    parser.add_argument(
        "--segment-seconds", type=float, default=60.0, metavar="S", help="length of a segment (default: 60)"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="share of a segment that overlaps the next (default: %(default)s)"
    )
    parser.add_argument(
        "--clip-seconds", type=float, default=0.0, metavar="S", help="length of a clip (default: the encoder's)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="segments or clips in one pass of the model (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="videos decoded at the same time (default: %(default)s)")
    parser.add_argument(
        "--isolated", action="store_true", help="decode in separate processes, for files from untrusted sources"
    )
    parser.add_argument("--device", help="where the model runs (default: cuda if there is one; an export: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the model (default: the checkpoint's)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    parser.add_argument("--rebuild", action="store_true", help="embed all videos again and replace the index")
    parser.add_argument("--retry", action="store_true", help="read unusable files again, even if they have not changed")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="where it runs (default: %(default)s)"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster (default: the running one, or a new one)")
    parser.add_argument("--actors", type=int, default=1, help="models at work with --engine ray (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the folders and the numbers before the package is imported.

    Raises:
        ValueError: A folder does not exist, or a number is below 1.
    """
    if not os.path.isdir(options.folder):
        raise ValueError(f"there is no folder {options.folder}")
    # A Hub repository is NAME or OWNER/NAME.
    if options.model.startswith((".", "/", "~")) and not os.path.isdir(options.model):
        raise ValueError(f"--model {options.model}: there is no such folder")
    for name in ("batch_size", "workers", "actors"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")


def main(arguments: list[str]) -> int:
    """Run the command: embed new files, commit them, print the report."""
    options = build_parser().parse_args(arguments)
    check(options)
    from transformers.utils import logging

    from lfvila_hf.search.encoders import default_device, load_encoder
    from lfvila_hf.search.indexing import Processes, RayEmbedding, index_folder
    from lfvila_hf.search.segments import SegmentRule

    rule = SegmentRule(options.segment_seconds, options.overlap, options.clip_seconds)
    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    device = options.device or default_device(options.model, Processes().device)
    encoder = load_encoder(options.model, options.trust_remote_code, device=device, dtype=options.dtype)
    embed = None
    if options.engine == "ray":
        embed = RayEmbedding(
            encoder.checkpoint,
            options.batch_size,
            options.actors,
            options.ray_address,
            options.dtype,
            options.trust_remote_code,
            options.isolated,
        )
    report = index_folder(
        options.folder,
        options.output,
        encoder,
        rule,
        batch_size=options.batch_size,
        num_workers=options.workers,
        rebuild=options.rebuild,
        retry=options.retry,
        isolated=options.isolated,
        progress=not options.quiet,
        embed=embed,
    )
    if report is not None:
        print(json.dumps(asdict(report)) if options.json else report)
    return 0 if report is None or report.videos else 1

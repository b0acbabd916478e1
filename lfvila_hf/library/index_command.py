# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf index`: a folder of videos into an index, or an index brought up to date.

Several processes share the work under `accelerate launch --num_processes N -m lfvila_hf.cli index ...`; with
`--engine ray` the nodes of a Ray cluster do.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any, get_args

from lfvila_hf.library.vectors import SearchKind

DTYPES = ("float32", "bfloat16", "float16")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf index",
        description="Embed the videos of a folder, so that they can be searched by a story.",
        epilog="Stop it at any time and run it again: it goes on. Run it again later: new, changed and deleted files "
        "are picked up. Files that cannot be used are listed at the end and do not stop it.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="videos, in subfolders too")
    parser.add_argument("--model", required=True, metavar="CKPT", help="checkpoint folder, or repository on the Hub")
    parser.add_argument("--output", required=True, metavar="INDEX", help="folder of the index")
    parser.add_argument("--segment-seconds", type=float, default=60.0, metavar="S", help="length of a segment (60)")
    parser.add_argument("--overlap", type=float, default=0.5, help="part that two segments share (0.5)")
    parser.add_argument("--batch-size", type=int, default=8, help="segments in one pass of the model (8)")
    parser.add_argument("--workers", type=int, default=2, help="videos decoded ahead at the same time (2)")
    parser.add_argument(
        "--isolated", action="store_true", help="decode in processes of their own: for files of strangers"
    )
    parser.add_argument("--device", help="where the model runs (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the model (default: the checkpoint's)")
    parser.add_argument("--search", choices=get_args(SearchKind), default="auto", help="how it will be searched (auto)")
    parser.add_argument("--rebuild", action="store_true", help="begin anew, whatever made the index that is there")
    parser.add_argument("--retry", action="store_true", help="read unusable files again, though they have not changed")
    parser.add_argument("--work", metavar="ADDRESS", help="folder for finished videos, on any fsspec file system")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where it runs (local)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster (default: the running one, or a new one)")
    parser.add_argument("--actors", type=int, default=1, help="models at work with --engine ray (1)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command: embed what is new, put the index in place, print the report."""
    options = build_parser().parse_args(arguments)
    import torch
    from transformers.utils import logging

    from lfvila_hf.library.fingerprint import fingerprint, load_checkpoint
    from lfvila_hf.library.indexing import Processes, index_folder
    from lfvila_hf.library.segments import SegmentRule

    rule = SegmentRule(options.segment_seconds, options.overlap)
    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    model, processor = load_checkpoint(options.model)
    made_by = fingerprint(model, processor)
    device = options.device or Processes().device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device=device, dtype=getattr(torch, options.dtype) if options.dtype else None)
    settings: dict[str, Any] = {"isolated": True} if options.isolated else {}
    embed = None
    if options.engine == "ray":
        from lfvila_hf.library.ray_indexing import RayEmbedding

        embed = RayEmbedding(
            options.model,
            rule,
            options.batch_size,
            actors=options.actors,
            address=options.ray_address,
            dtype=options.dtype,
            options=settings,
        )
    report = index_folder(
        options.folder,
        options.output,
        model,
        processor,
        checkpoint=options.model,
        rule=rule,
        batch_size=options.batch_size,
        num_workers=options.workers,
        kind=options.search,
        rebuild=options.rebuild,
        retry=options.retry,
        work=options.work,
        progress=not options.quiet,
        embed=embed,
        made_by=made_by,
        options=settings,
    )
    if report is not None:
        print(json.dumps(asdict(report)) if options.json else report)
    return 0

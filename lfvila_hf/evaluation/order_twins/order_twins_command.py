# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Command `lfvila-hf order-twins`: whether a model knows the order of events."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from typing import Any

OWNERS = {
    "split": ("dataset",),
    "video_column": ("dataset",),
    "caption_column": ("dataset",),
    "clips_per_film": ("footage", "dataset"),
}
"""Options with those that they belong to."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf order-twins",
        description="Measure how often a model prefers the right one of two films with the same clips in different "
        "orders. The films are made on the spot; chance is 0.5.",
        epilog="Example: lfvila-hf order-twins --model outputs/demo/checkpoint",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="folder, Hub repository, or module:name of an encoder of your own",
    )
    parser.add_argument(
        "--films", metavar="FOLDER", help="folder of the films, made or opened again (default: a temporary one)"
    )
    parser.add_argument(
        "--footage",
        metavar="FOLDER",
        help="join these clips, one sentence each in captions.jsonl (default: ShapeTales)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="join clips of this set of the datasets library")
    parser.add_argument("--split", help="split of the data set (default: test)")
    parser.add_argument("--video-column", metavar="NAME", help="its column of clips (default: video)")
    parser.add_argument("--caption-column", metavar="NAME", help="its column of captions (default: caption)")
    parser.add_argument(
        "--clips-per-film", type=int, nargs="+", metavar="N", help="with --footage, --dataset; 3 or more (default: 5)"
    )
    parser.add_argument("--num-films", type=int, default=100, metavar="N", help="stories (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of clips and orders (default: %(default)s)")
    parser.add_argument(
        "--num-clips",
        type=int,
        metavar="K",
        help="equal parts that a film is cut into, for models that read clips (default: 8)",
    )
    parser.add_argument("--known-cuts", action="store_true", help="cut films where their clips begin instead")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips at once (default: %(default)s)")
    parser.add_argument("--device", help="device of the model (default: cpu)")
    parser.add_argument("--dtype", help="precision of the model by name (default: the checkpoint's)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check arguments before the package is imported.

    Raises:
        ValueError: They contradict each other, a number is out of range, or the footage does not exist.
    """
    if options.footage and options.dataset:
        raise ValueError("--footage and --dataset were given: films come from one of them")
    for name, owners in OWNERS.items():
        if getattr(options, name) is not None and not any(getattr(options, owner) for owner in owners):
            raise ValueError(f"{_flag(name)} is for {' and '.join(map(_flag, owners))}: leave it out")
    if options.known_cuts and options.num_clips is not None:
        raise ValueError("--num-clips and --known-cuts were given: films are cut by one of them")
    if options.clips_per_film and min(options.clips_per_film) < 3:
        raise ValueError(f"--clips-per-film must be 3 or more, got {min(options.clips_per_film)}")
    for name in ("num_films", "num_clips", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"{_flag(name)} must be at least 1, got {getattr(options, name)}")
    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {options.seed}")
    if options.footage and not os.path.isdir(options.footage):
        raise ValueError(f"--footage {options.footage}: there is no such folder")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main(arguments: list[str]) -> int:
    """Run the command: load the model, make the films, print the table."""
    options = build_parser().parse_args(arguments)
    check(options)
    from transformers.utils import logging

    from lfvila_hf.evaluation.order_twins.films import make_order_twins
    from lfvila_hf.evaluation.order_twins.scoring import DEFAULT_CLIPS, evaluate_order_twins, format_table
    from lfvila_hf.search.encoders import load_encoder

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    progress = sys.stderr.isatty()
    encoder = load_encoder(
        options.model, options.trust_remote_code, device=options.device, dtype=options.dtype
    )  # before the films: a wrong name is told at once
    if encoder.num_frames and (options.known_cuts or options.num_clips is not None):
        option = "--known-cuts" if options.known_cuts else "--num-clips"
        raise ValueError(f"{option} is for models that read clips: {encoder.name} cuts films by itself")
    with tempfile.TemporaryDirectory(prefix="order_twins_") as temporary:
        films = make_order_twins(
            options.films or os.path.join(temporary, "films"),
            _source(options),
            num_films=options.num_films,
            seed=options.seed,
            progress=progress,
        )
        result = evaluate_order_twins(
            encoder,
            films,
            num_clips=options.num_clips or DEFAULT_CLIPS,
            known_cuts=options.known_cuts,
            batch_size=options.batch_size,
            progress=progress,
        )
    print(json.dumps(result) if options.json else format_table(result))
    return 0


def _source(options: argparse.Namespace) -> Any:
    from lfvila_hf.evaluation.order_twins.sources import ClipFolder, DatasetClips, ShapeTalesSource

    counts = options.clips_per_film or [5]
    if options.footage:
        return ClipFolder(options.footage, clips_per_film=counts)
    if options.dataset:
        from datasets import load_dataset

        dataset = load_dataset(options.dataset, split=options.split or "test")
        columns = (options.video_column or "video", options.caption_column or "caption")
        return DatasetClips(dataset, *columns, name=options.dataset, clips_per_film=counts)
    return ShapeTalesSource()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf export`: both towers of a checkpoint as ONNX or OpenVINO graphs."""

from __future__ import annotations

import argparse
import os


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf export",
        description="Export both towers of an LF-VILA checkpoint, to run without PyTorch's eager mode.",
        epilog="The folder holds graphs, configuration and processor; `lfvila-hf index --model FOLDER` and "
        "lfvila_hf.export.ExportedLFVila.from_pretrained(FOLDER) take it in place of the checkpoint.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or repository on the Hub")
    parser.add_argument("--to", required=True, choices=("onnx", "openvino"), help="engine that runs the graphs")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; must be new or empty")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--int8",
        action="store_const",
        dest="precision",
        const="int8",
        help="matrix products in 8-bit integers; the processor that runs them needs VNNI",
    )
    precision.add_argument(
        "--fp16",
        action="store_const",
        dest="precision",
        const="float16",
        help="weights stored in float16, computed with in float32: half the size",
    )
    parser.set_defaults(precision="float32")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the folders before the package is imported.

    Raises:
        ValueError: The checkpoint does not exist, or the output exists.
    """
    if options.checkpoint.startswith((".", "/", "~")) and not os.path.isdir(options.checkpoint):
        raise ValueError(f"there is no folder {options.checkpoint}")
    if os.path.exists(options.output) and (not os.path.isdir(options.output) or os.listdir(options.output)):
        raise ValueError(f"--output {options.output} exists and is not empty. Give another folder, or delete it")


def main(arguments: list[str]) -> int:
    """Run the command: trace, convert, write the folder."""
    options = build_parser().parse_args(arguments)
    check(options)
    from transformers.utils import logging

    from lfvila_hf.export.exporting import export_model

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    folder = export_model(options.checkpoint, options.output, options.to, options.precision)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{folder}: {options.to}, {options.precision}, {megabytes:.1f} MiB")
    return 0

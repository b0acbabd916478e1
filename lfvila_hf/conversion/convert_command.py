"""Command `lfvila-hf convert`: convert a released LF-VILA checkpoint for `from_pretrained`, and upload it if asked.

It prints the report of `report.py` and nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

# Those of `conversion.released` and `conversion.checkpoints`, which import more than `--help` should wait for.
TASKS = ("pretraining", "retrieval", "question_answering", "multiple_choice", "video_classification")
DTYPES = ("float16", "bfloat16", "float32")
DEFAULT_TOKENIZER = "bert-large-uncased"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf convert",
        description="Convert a released LF-VILA checkpoint into a folder that from_pretrained reads.",
        epilog="Unknown keys, missing keys and other shapes are errors. Parts that the task adds to a pre-training "
        "checkpoint start from random weights and are listed.",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="the released .bin, or a folder with one pytorch_model.bin"
    )
    parser.add_argument(
        "--original-config", required=True, metavar="YAML", help="the released configuration of the task"
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="task of the model")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="new or empty folder to write")
    parser.add_argument(
        "--tokenizer",
        default=None,
        metavar="PATH_OR_REPO",
        help=f"tokenizer of the processor (default: {DEFAULT_TOKENIZER}; none for video_classification)",
    )
    parser.add_argument("--bert-config", metavar="JSON", help="the BERT json (default: the file that the YAML names)")
    parser.add_argument(
        "--bert",
        metavar="PATH_OR_REPO",
        help="BERT that missing cross-modal layers start from (default: random weights)",
    )
    parser.add_argument(
        "--swin",
        metavar="PATH_OR_REPO",
        help="Swin that pre-training started from; shows whether the clip projection was trained",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (default: that of the checkpoint)")
    parser.add_argument(
        "--temporal-alignment",
        action="store_true",
        help="keep the projections of MTC, and with them the aligned score, in a retrieval model",
    )
    parser.add_argument(
        "--max-sentences",
        type=int,
        metavar="M",
        help="sentences that the processor keeps apart (default: as in the released data set)",
    )
    parser.add_argument(
        "--max-sentence-length",
        type=int,
        metavar="L",
        help="tokens of a sentence (default: as in the released data set)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of new parts (default: 0)")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload the folder to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make that repository private if it is new")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check that the files that the arguments name exist, and that the output folder is new or empty.

    Raises:
        ValueError: One does not exist, or the output folder holds files.
    """
    for name in ("original_config", "checkpoint", "bert_config"):
        path = getattr(options, name)
        if path is not None and not Path(path).exists():
            raise ValueError(f"--{name.replace('_', '-')} {path}: no such file")
    output = Path(options.output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not empty, nothing was written; pass a new or empty folder")


def main(arguments: list[str]) -> int:
    """Run the command: convert, print the report, upload if asked."""
    options = build_parser().parse_args(arguments)
    check(options)
    import torch

    from lfvila_hf.conversion.checkpoints import convert_checkpoint, push_folder

    torch.manual_seed(options.seed)
    tokenizer = options.tokenizer
    if tokenizer is None and options.task != "video_classification":
        tokenizer = DEFAULT_TOKENIZER
    report = convert_checkpoint(
        options.checkpoint,
        options.original_config,
        options.task,
        options.output_dir,
        tokenizer=tokenizer,
        bert_config=options.bert_config,
        bert=options.bert,
        swin=options.swin,
        dtype=options.dtype,
        max_sentences=options.max_sentences,
        max_sentence_length=options.max_sentence_length,
        **({"temporal_alignment": True} if options.temporal_alignment else {}),
    )
    print(report)
    if options.push_to_hub:
        url = push_folder(options.output_dir, options.push_to_hub, private=options.private or None)
        print(f"uploaded to    {url}")
    return 0

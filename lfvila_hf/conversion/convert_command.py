"""`lfvila-hf convert`: a released LF-VILA checkpoint into a folder for `from_pretrained`, or onto the Hub.

What is printed is the report of `report.py` and nothing else.
"""

from __future__ import annotations

import argparse

# Those of `conversion.names` and `conversion.checkpoints`, which import more than `--help` should wait for.
TASKS = ("pretraining", "retrieval", "question_answering", "multiple_choice", "video_classification")
DTYPES = ("float16", "bfloat16", "float32")
DEFAULT_TOKENIZER = "bert-large-uncased"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf convert",
        description="Convert a released LF-VILA checkpoint into a folder that from_pretrained reads.",
        epilog="Keys that nothing here accounts for, missing keys and other shapes are errors. Parts that the task "
        "adds to a pre-training checkpoint start anew and are listed.",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="the released .bin, or a folder with one pytorch_model.bin"
    )
    parser.add_argument(
        "--original-config", required=True, metavar="YAML", help="the released configuration of the task"
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="what the model is for")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--tokenizer",
        default=None,
        metavar="PATH_OR_REPO",
        help=f"tokenizer of the processor (default: {DEFAULT_TOKENIZER}; none for video_classification)",
    )
    parser.add_argument(
        "--bert-config", metavar="JSON", help="the BERT json, where the YAML's path does not lead to it"
    )
    parser.add_argument("--bert", metavar="PATH_OR_REPO", help="BERT that missing cross-modal layers start from")
    parser.add_argument(
        "--swin",
        metavar="PATH_OR_REPO",
        help="Swin that pre-training started from, to compare the clip projection with",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (default: the checkpoint's)")
    parser.add_argument(
        "--temporal-alignment",
        action="store_true",
        help="keep the projections of MTC, and with them the aligned score, in a retrieval model",
    )
    parser.add_argument("--max-sentences", type=int, metavar="M", help="sentences that the processor keeps apart")
    parser.add_argument("--max-sentence-length", type=int, metavar="L", help="tokens of a sentence")
    parser.add_argument("--seed", type=int, default=0, help="seed of parts that start anew (default: 0)")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload the folder to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make that repository private if it is new")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command: convert, print the report, upload if asked."""
    options = build_parser().parse_args(arguments)
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

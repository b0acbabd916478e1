"""Command `lfvila-hf push DIR REPO`: publish a checkpoint folder with its processor, code and a card."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf push",
        description="Upload a checkpoint folder (a model or a PEFT adapter, and its processor) to the Hub.",
        epilog="The card, README.md, is made again by every push until you edit it. After a failure, run the same "
        "command again: files that have arrived are not sent twice.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that save_pretrained wrote")
    parser.add_argument("repo", metavar="REPO", help="repository, such as org/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--no-processor", action="store_true", help="publish a model without a processor")
    parser.add_argument("--message", default="Upload LF-VILA checkpoint", help="commit message")
    card = parser.add_argument_group("facts of the card")
    card.add_argument("--architecture", metavar="CLASS", help="model class of an adapter that does not name it")
    card.add_argument("--dataset", action="append", default=[], metavar="NAME", help="training data; may be repeated")
    card.add_argument("--license", metavar="ID", help="licence of the weights, such as mit")
    card.add_argument("--base-model", metavar="REPO", help="repository that training started from")
    card.add_argument("--metrics", type=Path, metavar="JSON", help="metrics by name (default: those in the folder)")
    card.add_argument("--evaluated-on", metavar="NAME", help="evaluation data")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the form of the repository's name, and that the files that the arguments name exist.

    Raises:
        ValueError: One does not, or the name has another form; the Hub's library knows more rules.
    """
    if not re.fullmatch(r"(?:\w[\w.-]*/)?\w[\w.-]*", options.repo):
        raise ValueError(f"the repository is {options.repo!r}, expected a name such as org/name")
    if not options.folder.is_dir():
        raise ValueError(f"{options.folder} is not a folder")
    if options.metrics and not options.metrics.is_file():
        raise ValueError(f"--metrics {options.metrics} is not a file")


def main(arguments: list[str]) -> int:
    """Check the folder, complete it, upload and verify it."""
    options = build_parser().parse_args(arguments)
    check(options)
    from lfvila_hf.hub.cards import CardFacts, read_metrics
    from lfvila_hf.hub.publishing import push_checkpoint

    facts = CardFacts(
        datasets=options.dataset,
        license=options.license,
        base_model=options.base_model,
        metrics=read_metrics(options.metrics) if options.metrics else {},
        evaluated_on=options.evaluated_on,
    )
    private = options.private or None
    processor = not options.no_processor
    extra = (private, processor, options.message, options.architecture)
    print(push_checkpoint(options.folder, options.repo, facts, *extra))
    return 0

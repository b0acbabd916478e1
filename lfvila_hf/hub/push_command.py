"""`lfvila-hf push DIR REPO`: a checkpoint folder onto the Hub, with its processor, its code and a card."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf push",
        description="Upload a checkpoint folder (a model or a PEFT adapter, and its processor) to the Hub.",
        epilog="A folder without README.md gets a card, which can be edited before the next push. After a failure the "
        "same command goes on: files that have arrived are not sent again.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what save_pretrained wrote")
    parser.add_argument("repo", metavar="REPO", help="repository, such as org/name; made if it is new")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is new")
    parser.add_argument("--no-processor", action="store_true", help="publish a model that has no processor beside it")
    parser.add_argument("--message", default="Upload LF-VILA checkpoint", help="commit message")
    card = parser.add_argument_group("for the card")
    card.add_argument("--architecture", metavar="CLASS", help="model class an adapter is for, where it does not say")
    card.add_argument("--dataset", action="append", default=[], metavar="NAME", help="trained on this; may be repeated")
    card.add_argument("--license", metavar="ID", help="licence of the weights, such as mit")
    card.add_argument("--base-model", metavar="REPO", help="what training started from")
    card.add_argument("--metrics", type=Path, metavar="JSON", help="numbers by name (default: those in the folder)")
    card.add_argument("--evaluated-on", metavar="NAME", help="data set of those numbers")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command: check, write what is missing, upload, verify."""
    options = build_parser().parse_args(arguments)
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

"""The command `lfvila-hf`: a table of sub-commands, each imported only when it is the one that runs.

This module imports nothing but the standard library, and the console script reaches it through `lfvila_hf_cli.py`
without the package around it, so that listing the sub-commands costs no import of torch. A
sub-command is one row of `COMMANDS`: its name, the function that runs it as `module:function`, and the line that
`--help` prints. The function takes the arguments after the sub-command's name as a list of strings, parses them with a
parser of its own (whose `prog` is `lfvila-hf NAME`) and returns an exit status, or None for success. What a user can
put right, a `ValueError` or an `OSError`, is printed as one line without a traceback and ends in status 1;
`--traceback` before the sub-command shows where it came from. Wrong arguments end in status 2, as `argparse` has it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

PROGRAM = "lfvila-hf"
CommandFunction = Callable[[list[str]], "int | None"]


class Command(NamedTuple):
    """One sub-command: where its function is, and what it does in one line."""

    function: str
    """`module:function`, imported when the sub-command runs."""
    summary: str
    """One line for `lfvila-hf --help`, lower case, without a full stop."""

    def load(self) -> CommandFunction:
        """Import the module and return the function; for one of this file nothing is imported."""
        module, _, name = self.function.partition(":")
        return globals()[name] if module == "lfvila_hf.cli" else getattr(importlib.import_module(module), name)


COMMANDS: dict[str, Command] = {
    "convert": Command("lfvila_hf.conversion.convert_command:main", "turn a released checkpoint into one of ours"),
    "check-videos": Command("lfvila_hf.data.check_command:main", "read every video of a folder, say what is wrong"),
    "corpus": Command("lfvila_hf.corpus.corpus_command:main", "build, cut and count long-form video corpora"),
    "prepare": Command("lfvila_hf.data.preparing.prepare_command:main", "turn public annotation files into ours"),
    "push": Command("lfvila_hf.hub.push_command:main", "publish a checkpoint folder on the Hub, with a card"),
    "index": Command("lfvila_hf.search.index_command:main", "embed a folder of videos, to be searched by a story"),
    "app": Command("lfvila_hf.search.app_command:main", "search an index in the browser"),
    "plot": Command("lfvila_hf.search.plot_command:main", "draw training, alignments, attention, an evaluation set"),
    "search": Command("lfvila_hf.search.search_command:main", "find videos and moments of an index by a story"),
    "version": Command("lfvila_hf.cli:run_version", "print the version of this package"),
    "env": Command("lfvila_hf.cli:run_env", "print the versions and devices that a bug report needs"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before a sub-command's own arguments."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Long-form video-language models (LF-VILA).",
        epilog=f"commands:\n{table}\n\n`{PROGRAM} COMMAND --help` explains one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {package_version('lfvila_hf')}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of the list below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: The words after `lfvila-hf`; those of the process by default.
    """
    options = build_parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        status = COMMANDS[options.command].load()(options.arguments)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. What is still buffered has nowhere to go, and flushing it while
        # the interpreter shuts down would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"{PROGRAM} {options.command}: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"{PROGRAM} {options.command}: error: {error}", file=sys.stderr)
        return 1


def package_version(distribution: str) -> str:
    """Return the installed version of a distribution, or "not installed"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def environment() -> list[tuple[str, str]]:
    """Return what a bug report needs to say about this machine, as pairs of a name and a value.

    Imports torch, which alone knows the devices; the other packages are asked for their versions without an import.
    """
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    packages = (
        "lfvila_hf torch transformers huggingface-hub tokenizers datasets accelerate evaluate peft safetensors av numpy"
    )
    return [
        *((name, package_version(name)) for name in packages.split()),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        ("cpu threads", str(torch.get_num_threads())),
        ("cuda", f"{torch.version.cuda}: {', '.join(devices)}" if devices else "no device"),
    ]


def run_version(arguments: list[str]) -> int:
    """Print the version: `lfvila-hf version`."""
    _parse_no_arguments("version", arguments)
    print(package_version("lfvila_hf"))
    return 0


def run_env(arguments: list[str]) -> int:
    """Print the environment, one `name: value` per line: `lfvila-hf env`."""
    _parse_no_arguments("env", arguments)
    for name, value in environment():
        print(f"{name}: {value}")
    return 0


def _parse_no_arguments(command: str, arguments: list[str]) -> None:
    """Answer `--help` and refuse anything else, for a sub-command that takes no arguments."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command}", description=f"{COMMANDS[command].summary}.")
    parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

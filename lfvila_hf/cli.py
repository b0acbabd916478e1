"""Command `lfvila-hf`: a table of sub-commands, each imported only when it runs.

This module imports the standard library only. The console script loads it through `lfvila_hf_cli.py` without the
package around it, because importing the package registers models with transformers and takes seconds.

A sub-command is one row of `COMMANDS`. Its function takes the arguments after its name as a list of strings and returns
an exit status, or None for success. Its module has a function `build_parser()`, whose `prog` is `lfvila-hf NAME`, and
may have a function `check(options)` that raises a `ValueError` or `OSError` for arguments that cannot work. A module
that imports only the standard library at its top is first loaded by itself, so that `--help` and wrong arguments are
answered at once.

Errors that a user can correct (`ValueError`, `OSError`, a missing extra, a missing device) are one line and status 1;
`--traceback` before the sub-command shows their origin. Wrong arguments end in status 2, as in `argparse`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PROGRAM = "lfvila-hf"
PACKAGE = "lfvila_hf"
CommandFunction = Callable[[list[str]], "int | None"]
# Extras by the module that a missing one is noticed by.
EXTRAS = {
    "lancedb": "search",
    "rensa": "corpus",
    "fastapi": "app",
    "gradio": "app",
    "matplotlib": "plots",
    "mteb": "mteb",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "prometheus_client": "app",
    "ray": "ray",
    "sentence_transformers": "sentence-transformers",
    "uvicorn": "app",
}

# Errors of libraries that read damaged files and are neither `ValueError` nor `OSError`.
DAMAGE = ("SafetensorError", "UnpicklingError", "BadZipFile", "EOFError", "ArrowException")
# Least and greatest value of numeric options by name, in every sub-command that has them; `POSITIVE` ones are above 0.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("workers", "actors", "batch_size", "frames", "num_answers", "rows_per_file"), (1, 1e9)),
    **dict.fromkeys(("top", "per_video", "candidates", "min_clips", "max_clips", "min_words", "max_words"), (1, 1e9)),
    **dict.fromkeys(("max_clip_words",), (1, 1e9)),
    **dict.fromkeys(("rerank", "max_gap", "max_overlap", "min_seconds", "pause", "clip_seconds"), (0, 1e6)),
    **dict.fromkeys(("false_rate", "validation", "test"), (0, 1)),
    "overlap": (0, 0.95),
    "similarity": (0.5, 1),
    "height": (2, 1e6),
    "crf": (0, 51),
    "port": (0, 65535),
}
POSITIVE = ("max_seconds", "gop_seconds", "segment_seconds", "max_clip_seconds")


class Command(NamedTuple):
    """Sub-command.

    Args:
        function: `module:function`, imported when the sub-command runs.
        summary: Line of `lfvila-hf --help`, lower case, without a full stop.
        has_parts: Whether its first argument is a sub-command of its own, which error lines then name. Defaults to
            False.
    """

    function: str
    summary: str
    has_parts: bool = False

    def load(self) -> CommandFunction:
        """Import the module and return the function."""
        module, _, name = self.function.partition(":")
        return globals()[name] if module == "lfvila_hf.cli" else getattr(importlib.import_module(module), name)

    def load_alone(self) -> ModuleType | None:
        """Load the module without its package; None if it needs the package, or the package is imported already."""
        module = self.function.partition(":")[0]
        if PACKAGE in sys.modules or module == "lfvila_hf.cli":
            return None
        spec = importlib.util.spec_from_file_location(
            module.replace(".", "_"), Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
        )
        if spec is None or spec.loader is None:
            return None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = None  # type: ignore[assignment]  # what it imports of the package fails now
        try:
            spec.loader.exec_module(loaded)
        except ImportError:
            return None
        finally:
            del sys.modules[PACKAGE]
        return loaded


COMMANDS: dict[str, Command] = {
    "index": Command("lfvila_hf.search.index_command:main", "embed a folder of videos, so that it can be searched"),
    "search": Command("lfvila_hf.search.search_command:main", "find videos and moments of an index by a story"),
    "watch": Command(
        "lfvila_hf.search.watch_command:main", "say when sentences begin and end in a video that is still being made"
    ),
    "app": Command("lfvila_hf.search.app_command:main", "search an index in the browser"),
    "order-twins": Command(
        "lfvila_hf.evaluation.order_twins.order_twins_command:main", "measure whether a model knows the order of events"
    ),
    "check-videos": Command("lfvila_hf.data.check_command:main", "read every video of a folder, report unusable ones"),
    "prepare": Command("lfvila_hf.prepare.prepare_command:main", "convert public annotation files for training"),
    "corpus": Command("lfvila_hf.corpus.corpus_command:main", "build, cut and count long-form video corpora", True),
    "serve": Command("lfvila_hf.serving.serve_command:main", "serve text and clip embeddings over HTTP"),
    "export": Command("lfvila_hf.export.export_command:main", "export a checkpoint to ONNX or OpenVINO"),
    "convert": Command("lfvila_hf.conversion.convert_command:main", "convert a released checkpoint"),
    "push": Command("lfvila_hf.hub.push_command:main", "publish a checkpoint folder on the Hub, with a card"),
    "plot": Command(
        "lfvila_hf.search.plot_command:main", "draw training, alignments, attention, an evaluation set", True
    ),
    "env": Command("lfvila_hf.cli:run_env", "print the versions and devices that a bug report needs"),
    "version": Command("lfvila_hf.cli:run_version", "print the version of this package"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments before a sub-command's."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Long-form video-language models (LF-VILA).",
        epilog=f"commands:\n{table}\n\n`{PROGRAM} COMMAND --help` explains one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {package_version('lfvila_hf')}")
    parser.add_argument("--traceback", action="store_true", help="before COMMAND: show where an error came from")
    parser.add_argument("command", metavar="COMMAND", help="one of the list below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: Words after `lfvila-hf`. Defaults to those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser()
    if not words:
        parser.print_help()
        return 0
    options = parser.parse_args(words)
    if options.command not in COMMANDS:
        parser.error(f"unknown command {options.command!r}{did_you_mean(options.command, list(COMMANDS))}")
    name, command = f"{PROGRAM} {options.command}", COMMANDS[options.command]
    if command.has_parts and options.arguments:
        name += f" {options.arguments[0]}"
    try:
        check_arguments(command, options.arguments)
        status = command.load()(options.arguments)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. What is still buffered has nowhere to go, and flushing it while
        # the interpreter shuts down would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        message = explanation(error)
        if message is None or options.traceback:
            raise
        print(f"{name}: error: {message}", file=sys.stderr)
        return 1


def check_arguments(command: Command, arguments: list[str]) -> None:
    """Parse a sub-command's arguments before the package is imported, where its module can be loaded alone."""
    module = command.load_alone()
    if module is None:
        return
    parser = module.build_parser()
    improve_errors(parser)
    options = parser.parse_args(arguments)
    check: Callable[[Any], None] | None = getattr(module, "check", None)
    if check is not None:
        check(options)
    check_numbers(options, parser)


def check_numbers(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check numbers that no sub-command can use.

    Raises:
        ValueError: One is out of range, or not finite.
    """
    parts = [part for action in parser._actions for part in _parsers_of(action)]
    names = {action.dest: action.option_strings for one in (parser, *parts) for action in one._actions}
    for name, value in vars(options).items():
        if not isinstance(value, int | float) or isinstance(value, bool) or name not in names:
            continue
        option = (names[name] or [name])[0]
        low, high = BOUNDS.get(name, (-1e18, 1e18))
        if name in POSITIVE and not 0 < value < 1e9:
            raise ValueError(f"{option} must be above 0, got {value:g}")
        if not low <= value <= high:  # also NaN
            expected = f"at least {low:g}" if high >= 1e6 else f"in {low:g} to {high:g}"
            raise ValueError(f"{option} must be {expected}, got {value:g}")


def improve_errors(parser: argparse.ArgumentParser) -> None:
    """Make a parser, and those of its sub-commands, name the most similar known word in errors."""
    parts = [part for action in parser._actions for part in _parsers_of(action)]
    known = [option for one in (parser, *parts) for action in one._actions for option in action.option_strings]
    standard_error = parser.error

    def error(message: str) -> Any:
        """Print the message with a suggestion, and exit."""
        unknown = re.search(r"unrecognized arguments: (?:.* )?(--[\w-]+)", message)
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if unknown and unknown[1] == "--traceback":
            message = f"--traceback goes before the command: {PROGRAM} --traceback {parser.prog.split()[1]} ..."
        elif unknown:
            message += did_you_mean(unknown[1], known)
        elif choice:
            message += did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        standard_error(message)

    parser.error = error  # type: ignore[method-assign]
    for part in parts:
        improve_errors(part)


def _parsers_of(action: argparse.Action) -> list[argparse.ArgumentParser]:
    """List the parsers of the sub-commands that an action chooses from."""
    return list(action.choices.values()) if isinstance(action, argparse._SubParsersAction) else []


def did_you_mean(word: str, known: list[str]) -> str:
    """Return the end of an error that names the most similar known word; empty if none is similar."""
    similar = difflib.get_close_matches(word, known, n=1)
    return f". Did you mean {similar[0]!r}?" if similar else ""


def explanation(error: Exception) -> str | None:
    """Return the message for a user about an error that a user can correct; None for a bug."""
    text = str(error)
    if isinstance(error, ImportError):
        named = re.search(rf"{PACKAGE}\[([\w-]+)\]", text)
        module = (error.name or "").partition(".")[0]
        extra = named[1] if named else EXTRAS.get(module)
        if extra is None:
            return None
        what = text.partition(": pip install")[0] if named else f"the Python package {module} is not installed"
        return f"{what}. Install the extra {extra!r}: {install_advice(extra)}"
    if isinstance(error, ValueError | OSError):
        return text
    if type(error).__name__ in DAMAGE:
        return f"a file is damaged or cut off: {text.splitlines()[0] if text else type(error).__name__}"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    device = re.search(r"CUDA|not compiled with|no NVIDIA|not linked with", text)
    return f"the device cannot be used: {text.splitlines()[0]}" if device else None


def install_advice(extra: str) -> str:
    """Return the command that installs an extra, from a clone or from a package index."""
    root = Path(__file__).resolve().parents[1]
    return (
        f"pip install -e '{root}[{extra}]'" if (root / "setup.cfg").is_file() else f"pip install '{PACKAGE}[{extra}]'"
    )


def package_version(distribution: str) -> str:
    """Return the installed version of a distribution, or "not installed"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def environment() -> list[tuple[str, str]]:
    """Return versions and devices for a bug report, as pairs of name and value.

    Only torch is imported, because it knows the devices.
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
    """Parse the arguments of a sub-command that takes none."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command}", description=f"{COMMANDS[command].summary}.")
    improve_errors(parser)
    parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf app`: the page and the JSON API, for this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="lfvila-hf app", description="Search an index in the browser.")
    parser.add_argument("index", metavar="INDEX", help="folder or address that `lfvila-hf index` wrote")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen at (default: %(default)s)")
    parser.add_argument(
        "--model", metavar="NAME", help="model of the index, if it has moved (default: as stored in the index)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    parser.add_argument("--videos", metavar="FOLDER", help="folder of the videos, if it has moved (default: as stored)")
    return parser


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(options: argparse.Namespace) -> None:
    """Check the index, the folder of the videos and the port, before the package is imported and the model is loaded.

    Raises:
        ValueError: One of the folders does not exist, or the port cannot be used.
    """
    # As in search_command.py. This module must load without the package, so it cannot import it from there.
    known = ("segments.lance", "library.json")
    if "://" not in options.index and not any(os.path.exists(os.path.join(options.index, name)) for name in known):
        make = f"`lfvila-hf index FOLDER --model NAME --output {options.index}` makes one"
        raise ValueError(f"there is no index in {options.index}; {make}")
    if options.videos and not os.path.isdir(options.videos):
        raise ValueError(f"--videos {options.videos}: there is no such folder")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {options.port} of {options.host} cannot be used ({error}): give another --port"
        ) from error


def main(arguments: list[str]) -> int:
    """Run the command: open the index, serve the page until it is stopped."""
    options = build_parser().parse_args(arguments)
    check(options)
    print(f"opening {options.index} and its model ...", file=sys.stderr, flush=True)
    from lfvila_hf.search.app import build_app
    from lfvila_hf.search.app_guard import LOOPBACK_NAMES
    from lfvila_hf.search.search_command import open_library

    library = open_library(options.index, options.model, options.videos, trust_remote_code=options.trust_remote_code)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    app = build_app(library, [*LOOPBACK_NAMES, shown] if is_loopback(options.host) else None)
    import uvicorn

    if not is_loopback(options.host):
        print(
            f"everyone who reaches {options.host} can search and play these {len(library)} videos, without a password",
            file=sys.stderr,
        )
    print(f"http://{shown}:{options.port} (API: /api/docs)", flush=True)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0

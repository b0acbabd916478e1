# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf app`: the page and the JSON API, for this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="lfvila-hf app", description="Search an index in the browser.")
    parser.add_argument("index", metavar="INDEX", help="what `lfvila-hf index` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at (7860)")
    parser.add_argument("--model", metavar="NAME", help="the model that made the index, where it was moved to")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    parser.add_argument("--videos", metavar="FOLDER", help="the folder of the videos, where it was moved to")
    return parser


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use, before anything slow is done.

    Raises:
        ValueError: It cannot be listened at.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"port {port} of {host} cannot be used ({reason}): give another --port") from error


def main(arguments: list[str]) -> int:
    """Run the command: open the index, serve the page until it is stopped."""
    options = build_parser().parse_args(arguments)
    check_port(options.host, options.port)
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

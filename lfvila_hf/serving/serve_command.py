# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf serve`: embeddings of texts and clips over HTTP, for this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys

TOKEN = "LFVILA_HF_TOKEN"
"""Environment variable of the token that requests must carry."""
DTYPES = ("float32", "bfloat16", "float16")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf serve",
        description="Serve embeddings of texts and clips at /v1/embeddings, with /health and /metrics. A request holds "
        "at most 256 inputs, and 256 sentences in all.",
        epilog=f"If the environment variable {TOKEN} is set, requests must carry it: Authorization: Bearer TOKEN.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="folder or repository on the Hub: LF-VILA, an exported folder, CLIP, SigLIP, ...; or module:name",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (default: %(default)s)")
    parser.add_argument("--name", help="name of the model in requests (default: the last part of MODEL)")
    parser.add_argument("--device", help="where the model runs (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the model (default: the checkpoint's)")
    parser.add_argument(
        "--max-batch", type=int, default=32, help="texts in one pass of the model (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="videos decoded at the same time (default: %(default)s)")
    parser.add_argument("--max-mib", type=int, default=32, help="size of a request in MiB (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds after which a request is given up (default: %(default)g)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the model's folder and the numbers before the package is imported.

    Raises:
        ValueError: The folder does not exist, or a number is not above 0.
    """
    if options.model.startswith((".", "/", "~")) and not os.path.isdir(options.model):
        raise ValueError(f"there is no folder {options.model}")
    for name in ("max_batch", "workers", "max_mib", "timeout"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(options, name)}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(arguments: list[str]) -> int:
    """Run the command: load the model, serve until it is stopped."""
    options = build_parser().parse_args(arguments)
    check(options)
    # Bound before the model is loaded: a port that is taken is an error at once.
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family, backlog=2048) as listener:
        import uvicorn
        from transformers.utils import logging

        from lfvila_hf.search.app_guard import LOOPBACK_NAMES
        from lfvila_hf.search.encoders import load_encoder
        from lfvila_hf.serving.service import EmbeddingService, ServiceLimits

        logging.set_verbosity_error()  # heads of pre-training are left out on purpose
        logging.disable_progress_bar()
        print(f"loading {options.model} ...", file=sys.stderr, flush=True)
        encoder = load_encoder(options.model, options.trust_remote_code, device=options.device, dtype=options.dtype)
        limits = ServiceLimits(
            max_body=options.max_mib * 2**20,
            max_held=16 * options.max_mib * 2**20,
            max_batch=options.max_batch,
            answer_seconds=options.timeout,
            decoders=options.workers,
        )
        name = options.name or os.path.basename(options.model.rstrip("/")) or encoder.name
        shown = f"[{options.host}]" if ":" in options.host else options.host
        token = os.environ.get(TOKEN) or None
        hosts = [*LOOPBACK_NAMES, shown] if is_loopback(options.host) else None
        app = EmbeddingService(encoder, name, limits).app(hosts, token)
        if hosts is None and token is None:
            print(f"everyone who reaches {options.host} can use this model: set {TOKEN}", file=sys.stderr)
        print(f"http://{shown}:{listener.getsockname()[1]}/v1/embeddings (model {name})", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=30, timeout_graceful_shutdown=10)
        uvicorn.Server(config).run(sockets=[listener])
    return 0

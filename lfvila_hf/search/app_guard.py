# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Middleware in front of the page and the JSON API: hosts, closed doors, and headers.

Gradio comes with routes that take files in and give files out; the page uses none of them, so they are closed. A page
elsewhere on the web can make a browser send requests to this machine under a name of its own (DNS rebinding); while the
application listens to the loopback only, it answers to the loopback's names only. Answers may be neither read nor
embedded nor framed by pages of another origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import PlainTextResponse

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
CLOSED = ("file", "upload", "proxy", "stream", "custom_component", "dev/", "run-history", "deep_link")
"""Beginnings of Gradio's routes, with or without its prefix, that have to do with files or other machines."""
PREFIX = "gradio_api/"


class AppGuard:
    """An ASGI application in front of another.

    Args:
        app: The application that answers the requests that are let through.
        hosts: Names under which it may be asked. Defaults to any.
        max_body: Most bytes of a request; a story has a few thousand. Defaults to 1 MiB.
    """

    def __init__(self, app: Any, hosts: Sequence[str] | None = None, max_body: float = 2**20) -> None:
        self.app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.max_body = max_body
        # A Space is shown in a frame of the Hub; a page of this machine in none.
        frames = b"'self' https://huggingface.co" if hosts is None else b"'none'"
        self.headers = [
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"frame-ancestors " + frames),
            (b"referrer-policy", b"same-origin"),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            if not self.knows(scope["headers"]):
                refused = PlainTextResponse("this page is only to be asked for by this machine's own names", 421)
                return await refused(scope, receive, send)
            if is_closed(scope["path"]):
                return await PlainTextResponse("there is no such page", 404)(scope, receive, send)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self.headers}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in own and not name.lower().startswith(b"access-control-")
                ]
                message = {**message, "headers": [*kept, *self.headers]}
            await send(message)

        left = self.max_body

        async def bounded() -> Any:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        await self.app(scope, bounded, guarded)

    def knows(self, headers: Any) -> bool:
        """Whether a request names this application as its host, once."""
        if self.hosts is None:
            return True
        named = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        return len(named) == 1 and host_name(named[0]) in self.hosts


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def is_closed(path: str) -> bool:
    """Whether a path is one of Gradio's that nobody may use here."""
    return path.lstrip("/").removeprefix(PREFIX).lstrip("/").startswith(CLOSED)

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Requests of the embeddings route: what a body may say, and what is refused with which status.

Two bodies, the second with every kind of input:

    {"model": NAME, "input": "text", "encoding_format": "float"}
    {"input": ["text", {"text": ["sentence", "sentence"]}, {"video": "data:video/mp4;base64,..."}], "parts": true}
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lfvila_hf.search.story_sentences import check_sentences

KNOWN = {"input", "model", "encoding_format", "dimensions", "user", "parts"}
DATA_URL = re.compile(r"data:(?:[\w.+-]+(?:/[\w.+-]+)?)?(?:;[\w.+=-]+)*;base64,", re.ASCII)
LONGEST_PREFIX = 200
"""Characters of a data URL before its content."""
MOST_VALUES = 1_000_000
"""Brackets, braces and commas of a body, which bound what `json.loads` makes of it; base64 has none."""


class Refusal(Exception):
    """A request that is refused, as clients of embedding services expect it.

    Args:
        status: HTTP status.
        message: What was wrong, what was expected, what to do.
        kind: `type` of the error. Defaults to "invalid_request_error".
        param: Field of the body that was wrong. Defaults to none.
    """

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": None}}


@dataclass(frozen=True)
class EmbeddingRequest:
    """A checked request.

    Args:
        inputs: One per embedding: sentences of a text, or the bytes of a video file.
        as_base64: Whether vectors are wanted as base64 of little-endian float32.
        parts: Whether vectors of sentences and clips are wanted besides.
    """

    inputs: list[tuple[str, ...] | bytes]
    as_base64: bool
    parts: bool


def read_request(body: bytes, name: str, width: int, max_inputs: int, splits: bool) -> EmbeddingRequest:
    """Check the body of a request.

    Args:
        body: JSON.
        name: Name of the model that is served.
        width: D.
        max_inputs: Most inputs, and most sentences of all texts together.
        splits: Whether a string is cut into sentences, for models that read stories.

    Raises:
        Refusal: Something is wrong; the message says what.
    """
    count = len(body) - len(body.translate(None, b"[{,"))
    if count > MOST_VALUES:
        raise Refusal(
            400, f"the body has {count} brackets, braces and commas, at most {MOST_VALUES} are read: send fewer inputs"
        )
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise Refusal(400, f"the body must be a JSON object, got {type(values).__name__}")
    if unknown := sorted(set(values) - KNOWN):
        raise Refusal(400, f"unknown fields {unknown[:5]}: known are {', '.join(sorted(KNOWN))}")
    model = values.get("model", name)
    if model != name:
        raise Refusal(404, f"there is no model {str(model)[:100]!r}, this service has {name!r}", param="model")
    form = values.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refusal(400, f'encoding_format must be "float" or "base64", got {form!r:.100}', param="encoding_format")
    if values.get("dimensions") not in (None, width):
        raise Refusal(
            400, f"dimensions must be {width} or absent, got {values['dimensions']!r:.100}", param="dimensions"
        )
    parts = values.get("parts", False)
    if not isinstance(parts, bool):
        raise Refusal(400, f"parts must be true or false, got {parts!r:.100}", param="parts")
    given = values.get("input")
    inputs = given if isinstance(given, list) else [given]
    if not inputs or (len(inputs) > max_inputs):
        raise Refusal(400, f"input has {len(inputs)} entries, 1 to {max_inputs} are taken", param="input")
    found: list[tuple[str, ...] | bytes] = []
    sentences = 0
    for place, one in enumerate(inputs):
        found.append(_read_input(one, f"input {place}", splits))
        sentences += len(found[-1]) if isinstance(found[-1], tuple) else 0
        if sentences > max_inputs:
            raise Refusal(
                400,
                f"input has more than {max_inputs} sentences up to entry {place}: send several requests",
                param="input",
            )
    return EmbeddingRequest(found, form == "base64", parts)


def _read_input(value: Any, place: str, splits: bool) -> tuple[str, ...] | bytes:
    """Check one input; returns its sentences, or the bytes of its video."""
    if isinstance(value, dict) and set(value) == {"video"}:
        return _read_video(value["video"], place)
    if isinstance(value, dict) and set(value) == {"text"}:
        value = value["text"]
        is_text = isinstance(value, str | list)
    else:
        is_text = isinstance(value, str)
    if not is_text:
        raise Refusal(
            400,
            f'{place} must be a string, {{"text": string or list of sentences}} or {{"video": data URL}}, got '
            f"{_shown(value)}; token ids are not taken",
            param="input",
        )
    try:
        sentences: Sequence[str] = value if isinstance(value, list) or splits else [value]
        return tuple(check_sentences(sentences))
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"{place}: {error}", param="input") from error


def _read_video(value: Any, place: str) -> bytes:
    """Decode a data URL or bare base64."""
    if not isinstance(value, str):
        raise Refusal(400, f"{place}: video must be a data URL or base64, got {_shown(value)}", param="input")
    start = DATA_URL.match(value[:LONGEST_PREFIX])
    if start is None and re.match(r"\w{1,20}:", value):
        raise Refusal(
            400,
            f"{place}: video must be the file itself, as data:video/mp4;base64,... or base64. This service reads no "
            f"addresses and no files",
            param="input",
        )
    try:
        content = base64.b64decode(value[start.end() :] if start else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{place}: video is no base64 ({error})", param="input") from error
    if not content:
        raise Refusal(400, f"{place}: video is empty", param="input")
    return content


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"

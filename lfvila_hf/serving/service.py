# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The HTTP service: embeddings of texts and clips in the shape that embedding clients know.

    POST /v1/embeddings   see lfvila_hf/serving/requests.py
    GET  /v1/models       the one model
    GET  /health          200 when it answers
    GET  /metrics         Prometheus text

Requests are read in the event loop, videos are decoded in processes of their own, and texts and clips wait in one queue
each for the model (`Batcher`). So a request that is malformed, huge or slow costs the others nothing but its share of
the processor. Videos come inside the request: the service reads neither files nor addresses.

Letters: M sentences, F frames of a clip, T frames of a segment, K clips, D width.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hmac
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lfvila_hf.search.app_guard import AppGuard
from lfvila_hf.search.encoders import StoryEncoder
from lfvila_hf.serving.batching import Batcher
from lfvila_hf.serving.requests import EmbeddingRequest, Refusal, read_request
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, read_frames

LOG = logging.getLogger(__name__)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of the service.

    Args:
        max_body: Bytes of a request. Defaults to 32 MiB.
        max_held: Bytes of all requests that are being read and answered. Defaults to 512 MiB.
        max_requests: Requests whose body has come and that are being answered. Defaults to 1,024.
        max_inputs: Inputs of a request, and sentences of all its texts together. Defaults to 256.
        max_batch: Texts in one pass of the model; a quarter as many clips. Defaults to 32.
        read_seconds: Seconds in which the body of a request must have come. Defaults to 30.
        answer_seconds: Seconds after which a request is given up, and a client that does not read its answer. Defaults
            to 120.
        decode_seconds: Seconds that decoding one video may take. Defaults to 30.
        decoders: Videos decoded at the same time. Defaults to 2.
        isolated: Decode in processes of their own. Defaults to True.
    """

    max_body: int = 32 * 2**20
    max_held: int = 512 * 2**20
    max_requests: int = 1024
    max_inputs: int = 256
    max_batch: int = 32
    read_seconds: float = 30.0
    answer_seconds: float = 120.0
    decode_seconds: float = 30.0
    decoders: int = 2
    isolated: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "isolated" and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Embedded:
    """Result of one input.

    Args:
        vector: `(D,)`.
        parts: Sentences `(M, D)`, clips `(K, D)`, or `None` if the model has none.
        tokens: Tokens of a text, 0 for a clip.
    """

    vector: np.ndarray
    parts: np.ndarray | None
    tokens: int


class TokenGuard:
    """An ASGI application that asks for a token in front of another.

    Args:
        app: The application that answers the requests that carry it.
        token: What requests must carry as `Authorization: Bearer TOKEN`, except `/health`. Defaults to nothing.
    """

    def __init__(self, app: Any, token: str | None = None) -> None:
        self.app, self.expected = app, None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http" and self.expected is not None and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                from starlette.responses import JSONResponse

                refusal = Refusal(
                    401, "the token is missing or wrong: send Authorization: Bearer TOKEN", "authentication"
                )
                return await JSONResponse(refusal.body(), 401, {"www-authenticate": "Bearer"})(scope, receive, send)
        await self.app(scope, receive, send)


class EmbeddingService:
    """The routes of one encoder.

    Args:
        encoder: Any encoder of the search.
        name: Name of the model in requests and answers.
        limits: Limits. Defaults to `ServiceLimits()`.

    Raises:
        ImportError: The extra `app` is not installed.
    """

    def __init__(self, encoder: StoryEncoder, name: str, limits: ServiceLimits | None = None) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ImportError("the service needs prometheus_client: pip install 'lfvila_hf[app]'") from error
        self.encoder, self.name, self.limits = encoder, name, limits or ServiceLimits()
        self.requests = self.held = 0
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self.answers = prometheus.Counter("lfvila_requests", "Requests by status", ["status"], registry=registry)
        self.seconds = prometheus.Histogram(
            "lfvila_request_seconds", "Seconds from first byte to answer", registry=registry, buckets=SECONDS
        )
        batches = prometheus.Histogram(
            "lfvila_batch_size", "Inputs in one pass", ["kind"], registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        waiting = prometheus.Gauge("lfvila_waiting", "Inputs that wait for the model", ["kind"], registry=registry)
        self.texts = Batcher(self._embed_texts, self.limits.max_batch, observe=batches.labels("text").observe)
        self.most_clips = most_clips = max(self.limits.max_batch // 4, 1)
        # Decoded frames are large: so many clips are held between decoding and their result, the others as files.
        self.decoded = asyncio.Semaphore(self.limits.decoders + 2 * most_clips)
        self.clips = Batcher(
            self._embed_clips,
            most_clips,
            kind_of=lambda item: item[0].shape,
            observe=batches.labels("clip").observe,
        )
        for kind, batcher in (("text", self.texts), ("clip", self.clips)):
            waiting.labels(kind).set_function(functools.partial(len, batcher.waiting))
        self.decoders = ThreadPoolExecutor(self.limits.decoders)

    def app(self, hosts: Sequence[str] | None = None, token: str | None = None) -> Any:
        """Make the ASGI application.

        Args:
            hosts: Names under which it may be asked. Defaults to any.
            token: What requests must carry as `Authorization: Bearer TOKEN`, except `/health`. Defaults to nothing.
        """
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.routing import Route

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            yield
            self.close()

        return Starlette(
            routes=[
                Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
            ],
            # `embeddings` bounds bodies, and answers with the limit
            middleware=[Middleware(AppGuard, hosts=hosts, max_body=math.inf), Middleware(TokenGuard, token=token)],
            lifespan=lifespan,
        )

    def close(self) -> None:
        """Stop the threads."""
        self.texts.close()
        self.clips.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)

    # -- routes --------------------------------------------------------------------------------------------------------

    async def embeddings(self, request: Any) -> Any:
        """Answer `POST /v1/embeddings`."""
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse, Response

        start, size = time.perf_counter(), 0
        headers = {}
        answer: Any
        try:
            chunks: list[bytes] = []
            try:
                self._check_length(request.headers.get("content-length"))
                async with asyncio.timeout(self.limits.read_seconds):
                    async for chunk in request.stream():
                        size += len(chunk)
                        self.held += len(chunk)
                        self._check_size(size)
                        chunks.append(chunk)
            except TimeoutError as error:
                raise Refusal(
                    408, f"the body did not come within {self.limits.read_seconds:g} s: send it faster", "timeout"
                ) from error
            self.requests += 1  # not before: half a body takes nobody's place
            try:
                if self.requests > self.limits.max_requests:
                    message = f"{self.limits.max_requests} requests are at work already: try again"
                    raise Refusal(503, message, "overloaded")
                async with asyncio.timeout(self.limits.answer_seconds):
                    pieces = await self._answer(chunks)
            except TimeoutError as error:
                raise Refusal(
                    504,
                    f"no answer within {self.limits.answer_seconds:g} s: send fewer inputs, or try again",
                    "timeout",
                ) from error
            finally:
                self.requests -= 1
            status, answer = 200, JsonAnswer(pieces, self.limits.answer_seconds)
        except Refusal as refusal:
            status = refusal.status
            if status == 503:
                headers["retry-after"] = "1"
            if status == 413 and "expect" not in request.headers:
                # A client that is still sending does not see an answer before it is done.
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(self.limits.read_seconds):
                        async for _ in request.stream():
                            pass
            if status in (408, 413, 503):
                headers["connection"] = "close"  # the rest of the body is not read
            answer = JSONResponse(refusal.body(), status, headers)
        except ClientDisconnect:
            status, answer = 499, Response(status_code=499)
        except Exception:
            LOG.exception("a request failed")
            status = 500
            answer = JSONResponse(Refusal(500, "the service failed; its log says why", "server_error").body(), 500)
        finally:
            self.held -= size
        self.answers.labels(str(status)).inc()
        self.seconds.observe(time.perf_counter() - start)
        return answer

    async def models(self, request: Any) -> Any:
        """Answer `GET /v1/models`."""
        from starlette.responses import JSONResponse

        return JSONResponse(
            {"object": "list", "data": [{"id": self.name, "object": "model", "created": 0, "owned_by": "lfvila_hf"}]}
        )

    async def health(self, request: Any) -> Any:
        """Answer `GET /health`."""
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok", "model": self.name, "dimensions": self.encoder.width})

    async def metrics(self, request: Any) -> Any:
        """Answer `GET /metrics`."""
        import prometheus_client as prometheus
        from starlette.responses import Response

        return Response(prometheus.generate_latest(self.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    # -- one request ---------------------------------------------------------------------------------------------------

    def _check_length(self, declared: str | None) -> None:
        if declared is not None and declared.isdigit():
            self._check_size(int(declared))

    def _check_size(self, size: int) -> None:
        """Refuse a body that is too large for a request, or beside the other requests."""
        if size > self.limits.max_body:
            raise Refusal(
                413, f"the request is larger than {self.limits.max_body} bytes: send fewer, shorter or smaller videos"
            )
        if self.held > self.limits.max_held:
            raise Refusal(503, "too many bytes are at work already: try again", "overloaded")

    async def _answer(self, chunks: list[bytes]) -> list[bytes]:
        """Return the JSON of the embeddings of a request, in pieces; takes the chunks of its body out of the list."""
        loop, limits, splits = asyncio.get_running_loop(), self.limits, bool(self.encoder.num_frames)

        def read() -> EmbeddingRequest:
            body = b"".join(chunks)
            chunks.clear()  # not held beside the videos in it
            return read_request(body, self.name, self.encoder.width, limits.max_inputs, splits)

        wanted = await loop.run_in_executor(None, read)
        # A request has one batch of each kind in the queues at a time, so that the others come in between.
        turns = {tuple: asyncio.Semaphore(limits.max_batch), bytes: asyncio.Semaphore(self.most_clips)}
        decoding = asyncio.Semaphore(max(limits.decoders // 2, 1))
        inputs = enumerate(wanted.inputs)
        tasks = [asyncio.ensure_future(self._embed(one, place, turns[type(one)], decoding)) for place, one in inputs]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        tokens = sum(one.tokens for one in found)
        return await loop.run_in_executor(None, _as_json, found, wanted.as_base64, wanted.parts, self.name, tokens)

    async def _embed(
        self, value: tuple[str, ...] | bytes, place: int, turns: asyncio.Semaphore, decoding: asyncio.Semaphore
    ) -> Embedded:
        """Embed one input when its request has a turn; a video when the request may decode besides.

        Raises:
            Refusal: The model cannot read it, or the video cannot be used.
        """
        async with turns:
            if isinstance(value, tuple):
                if len(value) > 1 and not self.encoder.num_frames:
                    message = f"input {place}: {self.name} has no vector of several sentences: send each alone"
                    raise Refusal(400, message, param="input")
                return await self.texts.submit(value)
            async with contextlib.AsyncExitStack() as until_embedded:
                async with decoding:
                    await until_embedded.enter_async_context(self.decoded)
                    try:
                        clip = await asyncio.get_running_loop().run_in_executor(self.decoders, self._decode, value)
                    except LFVilaVideoError as error:
                        message = f"input {place}: the video cannot be used: {error.reason}"
                        raise Refusal(400, message, param="input") from error
                return await self.clips.submit(clip)

    # -- in threads ----------------------------------------------------------------------------------------------------

    def _decode(self, content: bytes) -> tuple[torch.Tensor, list[float]]:
        """Decode F frames of a clip, or T of a segment, evenly spaced from first to last: `(F, 3, H, W)`, seconds."""
        count = self.encoder.num_frames or self.encoder.frames_per_clip
        limits = VideoLimits(max_seconds=self.limits.decode_seconds)
        read = read_frames(
            content, num_frames=count, transform=self.encoder.prepare, limits=limits, isolated=self.limits.isolated
        )
        return read.frames, list(read.times or [0.0] * count)

    def _embed_texts(self, stories: list[tuple[str, ...]]) -> list[Embedded]:
        found = []
        for sentences, (rows, paragraph) in zip(stories, self.encoder.encode_stories(stories), strict=True):
            vector = paragraph if paragraph is not None else rows[0]  # type: ignore[index]  # it has one of them
            tokens = sum(self.encoder.count_tokens(sentences))
            found.append(Embedded(vector.numpy(), None if rows is None else rows.numpy(), tokens))
        return found

    def _embed_clips(self, clips: list[tuple[torch.Tensor, list[float]]]) -> list[Embedded]:
        frames = torch.stack([clip for clip, _ in clips])  # (N, F, 3, H, W)
        if not self.encoder.num_frames:
            vectors = self.encoder.encode_clips(frames, [seconds for _, seconds in clips])
            return [Embedded(vector, vector[None], 0) for vector in vectors.numpy()]
        vectors, parts = self.encoder.encode_segments(frames)  # (N, D), (N, K, D)
        own = [None] * len(clips) if parts is None else list(parts.numpy())
        return [Embedded(vector, rows, 0) for vector, rows in zip(vectors.numpy(), own, strict=True)]


class JsonAnswer:
    """An ASGI application that sends JSON in pieces, and gives up a client that does not read them.

    Args:
        pieces: The JSON.
        seconds: Seconds in which the client must have taken all but what the system's buffers hold.
    """

    def __init__(self, pieces: list[bytes], seconds: float) -> None:
        self.pieces, self.seconds = pieces, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the answer."""
        length = str(sum(map(len, self.pieces))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        try:
            async with asyncio.timeout(self.seconds):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                for piece in self.pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:  # an answer that is not complete makes the server close the connection
            LOG.warning("a client did not read its answer within %g s", self.seconds)


def _as_json(found: Sequence[Embedded], as_base64: bool, parts: bool, name: str, tokens: int) -> list[bytes]:
    """Write the answer in the shape of embedding services: a piece before the vectors, one per input, one behind.

    One piece for all would keep the other threads of Python waiting while it is made.
    """

    def written(vector: np.ndarray) -> Any:
        vector = vector.astype("<f4")
        return base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()

    pieces = [b'{"object": "list", "data": [']
    for index, one in enumerate(found):
        row: dict[str, Any] = {"object": "embedding", "index": index, "embedding": written(one.vector)}
        if parts:
            row["parts"] = None if one.parts is None else [written(part) for part in one.parts]
        pieces.append((", " if index else "").encode() + json.dumps(row).encode())
    rest = {"model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return [*pieces, b"], " + json.dumps(rest).encode().removeprefix(b"{")]

"""The embeddings service: answers as embedding clients expect them, limits, token, hosts, metrics; then under load."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_library import make_checkpoint
from small_service import WIDTH, CountingEncoder, data_url, make_encoder, make_video

pytest.importorskip("starlette", reason="Starlette is not installed (extra app)")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed (extra app)")

pytestmark = pytest.mark.extras

from starlette.testclient import TestClient  # noqa: E402 -- of an extra
from transformers import AutoModel, AutoProcessor  # noqa: E402

from lfvila_hf import encode_paragraphs, encode_videos  # noqa: E402
from lfvila_hf.search.encoders import load_encoder  # noqa: E402
from lfvila_hf.serving.serve_command import TOKEN, build_parser, check, is_loopback  # noqa: E402
from lfvila_hf.serving.service import EmbeddingService, ServiceLimits  # noqa: E402
from lfvila_hf.video_reading_lfvila import read_frames  # noqa: E402

ROUTE = "/v1/embeddings"
SMALL = ServiceLimits(max_body=2**16, max_inputs=4, isolated=False)
CLIENTS, REQUESTS = 32, 1000
GROWTH = 30 * 2**20
"""Bytes that resident memory may grow by between the first fifth of the load and its end."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(EmbeddingService(make_encoder(), "small", SMALL).app()) as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("video"))


def unit(vector: Any) -> np.ndarray:
    return np.asarray(vector) / np.linalg.norm(vector)


def test_an_answer_has_the_shape_that_embedding_clients_know(client: TestClient) -> None:
    answer = client.post(ROUTE, json={"input": ["a man", "it rains"], "model": "small"})
    assert answer.status_code == 200
    body = answer.json()
    assert {name: body[name] for name in ("object", "model")} == {"object": "list", "model": "small"}
    assert set(body["usage"]) == {"prompt_tokens", "total_tokens"}
    assert [row["index"] for row in body["data"]] == [0, 1]
    expected = CountingEncoder().encode_sentences(["a man", "it rains"])
    for row, vector in zip(body["data"], expected, strict=True):
        assert set(row) == {"object", "index", "embedding"}
        np.testing.assert_allclose(row["embedding"], unit(vector), atol=1e-6)


def test_base64_holds_the_same_vectors(client: TestClient) -> None:
    plain = client.post(ROUTE, json={"input": "a man", "parts": True}).json()["data"][0]
    packed = client.post(ROUTE, json={"input": "a man", "parts": True, "encoding_format": "base64"}).json()["data"][0]
    for one, other in ((packed["embedding"], plain["embedding"]), (packed["parts"][0], plain["parts"][0])):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(one), "<f4"), np.float32(other))


def test_a_clip_is_embedded_beside_texts(client: TestClient, video: bytes) -> None:
    answer = client.post(ROUTE, json={"input": ["a man", {"video": data_url(video)}], "parts": True})
    assert answer.status_code == 200, answer.text
    clip = answer.json()["data"][1]
    assert len(clip["embedding"]) == WIDTH
    assert len({round(one, 6) for one in clip["embedding"][3:]}) == 1  # the encoder's constants
    assert clip["embedding"][0] != pytest.approx(clip["embedding"][3])  # the colours of the frames
    assert clip["parts"] == [clip["embedding"]]


def test_lfvila_is_served_with_the_embeddings_of_encode_paragraphs_and_encode_videos(
    tiny_vocabulary: dict[str, int], tmp_path: Path
) -> None:
    checkpoint = str(make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary))
    model, processor = AutoModel.from_pretrained(checkpoint).eval(), AutoProcessor.from_pretrained(checkpoint)
    stories = [["a man rides", "the ball is red"], ["it is blue"], ["a man rides", "it is red", "then it is blue"]]
    films = [make_video(tmp_path, frames) for frames in (10, 40)]
    inputs = [
        {"text": stories[0]},
        "it is blue",
        {"video": data_url(films[0])},
        {"text": stories[2]},
        {"video": data_url(films[1])},
    ]
    service = EmbeddingService(load_encoder(checkpoint), "small", ServiceLimits(isolated=False))
    with TestClient(service.app()) as client:
        answer = client.post(ROUTE, json={"input": inputs, "parts": True})
        assert answer.status_code == 200, answer.text
        plain = client.post(ROUTE, json={"input": inputs}).json()["data"]
    rows = answer.json()["data"]
    texts = encode_paragraphs(model, processor, stories)
    frames = [read_frames(film, num_frames=processor.video_processor.num_frames).frames for film in films]
    videos = encode_videos(model, processor, frames, do_sample_frames=False)
    assert texts.sentence_embeds is not None and videos.clip_embeds is not None
    for place, row in ((0, rows[0]), (1, rows[1]), (2, rows[3])):
        np.testing.assert_allclose(row["embedding"], texts.text_embeds[place], atol=1e-5)
        own = texts.sentence_embeds[place][texts.sentence_mask[place].bool()]
        assert len(row["parts"]) == len(stories[place])
        np.testing.assert_allclose(row["parts"], own, atol=1e-5)
    for place, row in ((0, rows[2]), (1, rows[4])):
        np.testing.assert_allclose(row["embedding"], videos.video_embeds[place], atol=1e-5)
        np.testing.assert_allclose(row["parts"], videos.clip_embeds[place], atol=1e-5)
    assert not np.allclose(rows[2]["embedding"], rows[4]["embedding"], atol=1e-3)
    assert ["parts" in row for row in plain] == [False] * 5
    np.testing.assert_allclose([row["embedding"] for row in plain], [row["embedding"] for row in rows], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": {"video": data_url(b"no video at all")}}, 400, "input 0: the video cannot be used"),
        ({"input": ["a", {"text": ["a", "b"]}]}, 400, "input 1: small has no vector of several sentences"),
        ({"input": "a", "model": "gpt"}, 404, "no model 'gpt'"),
        ({"input": "x" * 2**17}, 413, "larger than 65536 bytes"),
        ({"input": "break"}, 500, "its log says why"),
    ],
)
def test_a_refusal_is_an_error_object(client: TestClient, body: Any, status: int, words: str) -> None:
    answer = client.post(ROUTE, json=body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert client.post(ROUTE, json={"input": "a"}).status_code == 200


def test_a_body_whose_length_is_not_declared_is_bounded_too(client: TestClient) -> None:
    assert client.post(ROUTE, content=(b"x" * 1000 for _ in range(100))).status_code == 413


def test_an_input_that_breaks_the_model_harms_no_other_request() -> None:
    """Both wait behind a slow batch and so share the next one."""
    service = EmbeddingService(make_encoder(), "small", SMALL)
    embed, started, go_on = service._embed_texts, threading.Event(), threading.Event()

    def slow(stories: Any) -> Any:
        if stories == [("first",)]:
            started.set()
            assert go_on.wait(20)
        return embed(stories)

    service.texts.run = slow
    found: dict[str, int] = {}
    with TestClient(service.app()) as client:

        def ask(text: str) -> None:
            found[text] = client.post(ROUTE, json={"input": text}).status_code

        threads = [threading.Thread(target=ask, args=(text,)) for text in ("first", "break", "second")]
        threads[0].start()
        assert started.wait(20)
        for thread in threads[1:]:
            thread.start()
        deadline = time.monotonic() + 20
        while len(service.texts.waiting) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
        for thread in threads:
            thread.join()
    assert found == {"first": 200, "break": 500, "second": 200}


def test_slow_videos_of_one_request_leave_a_decoder_for_the_others() -> None:
    service = EmbeddingService(make_encoder(), "small", SMALL)
    started, go_on = threading.Event(), threading.Event()

    def decode(content: bytes) -> Any:
        if content == b"slow":
            started.set()
            assert go_on.wait(30)
        return torch.zeros(3, 3, 4, 4, dtype=torch.uint8), [0.0, 1.0, 2.0]

    service._decode = decode  # type: ignore[method-assign]
    statuses: list[int] = []
    with TestClient(service.app()) as client:

        def ask(*contents: bytes) -> None:
            inputs = [{"video": data_url(content)} for content in contents]
            statuses.append(client.post(ROUTE, json={"input": inputs}).status_code)

        slow = threading.Thread(target=ask, args=[b"slow"] * 4)
        slow.start()
        assert started.wait(20)
        quick = threading.Thread(target=ask, args=(b"quick",))
        quick.start()
        quick.join(20)
        assert statuses == [200], "the other request waits for the slow videos"
        go_on.set()
        slow.join()
    assert statuses == [200, 200]


def test_a_request_that_takes_too_long_is_given_up() -> None:
    service = EmbeddingService(make_encoder(), "small", ServiceLimits(answer_seconds=0.2, isolated=False))
    embed = service._embed_texts
    service.texts.run = lambda stories: time.sleep(1) or embed(stories)
    with TestClient(service.app()) as client:
        answer = client.post(ROUTE, json={"input": "a"})
        assert answer.status_code == 504
        assert "no answer within 0.2 s" in answer.json()["error"]["message"]


def ask_by_hand(service: EmbeddingService, body: bytes, send: Any = None, more: bool = False) -> list[Any]:
    """Ask without a client, which would send its whole body and read the answer; returns what was sent.

    Args:
        service: The service.
        body: The first chunk of the body.
        send: Called with every message of the answer.
        more: Whether the body goes on, but the rest never comes.
    """
    scope = {
        "type": "http",
        "method": "POST",
        "path": ROUTE,
        "headers": [(b"host", b"localhost")],
        "query_string": b"",
    }
    chunks = [{"type": "http.request", "body": body, "more_body": more}]
    answer: list[Any] = []

    async def receive() -> Any:
        return chunks.pop() if chunks else await asyncio.sleep(60)

    async def keep(message: Any) -> None:
        answer.append(message)
        if send is not None:
            await send(message)

    asyncio.run(asyncio.wait_for(service.app()(scope, receive, keep), 30))
    return answer


def test_a_body_that_does_not_come_is_given_up_and_takes_nobodys_place() -> None:
    service = EmbeddingService(make_encoder(), "small", replace(SMALL, read_seconds=0.2))
    at_work: list[int] = []

    async def look(message: Any) -> None:
        at_work.append(service.requests)

    check_size = service._check_size

    def check(size: int) -> None:
        at_work.append(service.requests)
        check_size(size)

    service._check_size = check  # type: ignore[method-assign]
    start, body = ask_by_hand(service, b'{"input": "a m', look, more=True)
    assert start["status"] == 408 and (b"connection", b"close") in start["headers"]
    assert "the body did not come within 0.2 s" in json.loads(body["body"])["error"]["message"]
    assert service.held == 0 and set(at_work) == {0}


def test_a_client_that_does_not_read_its_answer_is_given_up() -> None:
    service = EmbeddingService(make_encoder(), "small", replace(SMALL, answer_seconds=3.0))

    async def full(message: Any) -> None:
        if message.get("body"):
            await asyncio.sleep(60)  # as the server does while the client's buffers are full

    start, *bodies = ask_by_hand(service, b'{"input": ["a", "b"]}', full)
    assert start["status"] == 200
    assert len(bodies) == 1 and bodies[0]["more_body"], "one piece was sent, and no end"
    whole = ask_by_hand(service, b'{"input": ["a", "b"]}')
    assert len(whole) == 6 and not whole[-1].get("more_body")
    found = json.loads(b"".join(message["body"] for message in whole[1:]))
    assert [row["index"] for row in found["data"]] == [0, 1]


def test_more_requests_than_fit_are_told_to_come_again() -> None:
    service = EmbeddingService(make_encoder(), "small", SMALL)
    with TestClient(service.app()) as client:
        service.requests = SMALL.max_requests
        answer = client.post(ROUTE, json={"input": "a"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        service.requests = 0
        service.held = SMALL.max_held
        assert client.post(ROUTE, json={"input": "a"}).status_code == 503
        service.held = 0
        assert client.post(ROUTE, json={"input": "a"}).status_code == 200
    assert (service.requests, service.held) == (0, 0)


def test_a_token_opens_everything_but_health() -> None:
    with TestClient(EmbeddingService(make_encoder(), "small", SMALL).app(token="secret")) as client:
        assert client.get("/health").json() == {"status": "ok", "model": "small", "dimensions": WIDTH}
        for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "secret"}):
            for path in ("/v1/models", "/metrics", "/nowhere"):
                assert client.get(path, headers=headers).status_code == 401
            assert client.post(ROUTE, json={"input": "a"}, headers=headers).status_code == 401
        answer = client.get("/v1/models", headers={"authorization": "Bearer secret"})
        assert [row["id"] for row in answer.json()["data"]] == ["small"]


def test_only_the_names_of_this_machine_are_answered_to() -> None:
    app = EmbeddingService(make_encoder(), "small", SMALL).app(["localhost"])
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 421
        assert client.get("/v1/embeddings").status_code == 405


def test_metrics_count_requests_and_batches(client: TestClient) -> None:
    def count(pattern: str) -> float:
        found = re.search(pattern + r" ([\d.e+]+)", client.get("/metrics").text)
        return float(found[1]) if found else 0.0

    answered, batches = r'lfvila_requests_total\{status="200"\}', r'lfvila_batch_size_count\{kind="text"\}'
    before = count(answered), count(batches)
    assert client.post(ROUTE, json={"input": "a"}).status_code == 200
    assert (count(answered), count(batches)) == (before[0] + 1, before[1] + 1)
    assert count(r"process_resident_memory_bytes") > 0


def test_the_command_checks_its_arguments_at_once(tmp_path: Path) -> None:
    parser = build_parser()
    with pytest.raises(ValueError, match="there is no folder"):
        check(parser.parse_args([str(tmp_path / "none")]))
    with pytest.raises(ValueError, match="--max-batch must be above 0, got 0"):
        check(parser.parse_args(["name", "--max-batch", "0"]))
    assert [is_loopback(host) for host in ("localhost", "::1", "127.0.0.3", "0.0.0.0", "a.b")] == [True] * 3 + [
        False
    ] * 2


# -- a real server ---------------------------------------------------------------------------------------------------


class Server:
    """`lfvila-hf serve` in a process of its own."""

    def __init__(self, model: str, *options: str, **environment: str) -> None:
        here = str(Path(__file__).parent)
        paths = os.pathsep.join([here, str(Path(here).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "lfvila_hf.cli", "serve", model, "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths, **environment}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes | None = None, timeout: float = 120) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def embed(self, **fields: Any) -> tuple[int, Any]:
        status, content = self.ask("POST", ROUTE, json.dumps(fields).encode())
        return status, json.loads(content)

    def memory(self) -> float:
        found = re.search(rb"process_resident_memory_bytes ([\d.e+]+)", self.ask("GET", "/metrics")[1])
        assert found
        return float(found[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.mark.slow
def test_a_thousand_requests_of_32_clients_beside_bad_ones_are_all_answered(tmp_path: Path) -> None:
    """Beside them, clients that send nothing, half a request, too much, or a broken video."""
    video, done = make_video(tmp_path, 40), threading.Event()
    left, lock = list(range(REQUESTS)), threading.Lock()
    statuses: list[int] = []
    seconds: list[float] = []
    memory: list[float] = []
    with Server("small_service:make_encoder", "--max-mib", "2") as server:
        server.embed(input=["a", {"video": data_url(video)}])  # the decoder process is started

        def work() -> None:
            while True:
                with lock:
                    if not left:
                        return
                    number = left.pop()
                    if number == REQUESTS * 4 // 5:
                        memory.append(server.memory())
                start = time.monotonic()
                value = {"video": data_url(video)} if number % 20 == 0 else f"sentence {number}"
                status, body = server.embed(input=value)
                seconds.append(time.monotonic() - start)
                statuses.append(status)
                assert len(body["data"][0]["embedding"]) == WIDTH

        def pester() -> None:
            idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
            for place, one in enumerate(idle):
                if place % 2:
                    one.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            while not done.is_set():
                assert server.ask("POST", ROUTE, b"{" * 100)[0] == 400
                assert server.ask("POST", ROUTE, b"x" * (3 * 2**20))[0] == 413
                assert server.embed(input={"video": data_url(video[:500])})[0] == 400
            for one in idle:
                one.close()

        bad = threading.Thread(target=pester)
        bad.start()
        threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        bad.join()
        memory.append(server.memory())
        assert server.ask("GET", "/health")[0] == 200
    assert statuses == [200] * REQUESTS
    assert memory[1] - memory[0] < GROWTH, memory
    # nobody waited for the slow ones, which are given 30 s
    assert max(seconds) < 25


@pytest.mark.slow
def test_a_video_larger_than_a_page_request_is_taken(tmp_path: Path) -> None:
    """The page's guard stands in front of the service; its bound on bodies is for stories."""
    content = make_video(tmp_path) + b"\0" * (3 * 2**20)  # what follows the last box is not read
    with Server("small_service:make_encoder", **{TOKEN: ""}) as server:
        status, body = server.embed(input={"video": data_url(content)})
        assert status == 200, body


@pytest.mark.slow
def test_a_taken_port_is_an_error_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "lfvila_hf.cli", "serve", "small_service:make_encoder", "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "lfvila-hf serve: error:" in ended.stderr and "Address already in use" in ended.stderr

"""Bodies of the embeddings route: what they mean, and what is refused with which words."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from lfvila_hf.serving.requests import EmbeddingRequest, Refusal, read_request

VIDEO = base64.b64encode(b"a video").decode()


def read(splits: bool = True, **fields: Any) -> EmbeddingRequest:
    return read_request(json.dumps(fields).encode(), "small", 8, max_inputs=3, splits=splits)


def test_strings_are_cut_into_sentences_for_models_that_read_stories() -> None:
    assert read(input="It rains. It stops.").inputs == [("It rains.", "It stops.")]
    assert read(splits=False, input="It rains. It stops.").inputs == [("It rains. It stops.",)]
    assert read(input=["one", {"text": "two"}]).inputs == [("one",), ("two",)]
    assert read(input={"text": ["a. b", "c"]}).inputs == [("a. b", "c")]


def test_a_video_is_a_data_url_or_base64() -> None:
    urls = [f"data:video/mp4;base64,{VIDEO}", f"data:;base64,{VIDEO}", f"data:video/mp4;codecs=avc1.4d;base64,{VIDEO}"]
    for value in (VIDEO, *urls):
        assert read(input={"video": value}).inputs == [b"a video"], value


def test_videos_are_not_counted_as_sentences() -> None:
    video = {"video": VIDEO}
    assert len(read(input=[{"text": ["a", "b", "c"]}, video, video]).inputs) == 3


def test_what_openai_clients_send_is_taken() -> None:
    found = read(input=["a"], model="small", encoding_format="base64", user="me", dimensions=8)
    assert (found.as_base64, found.parts) == (True, False)
    assert read(input="a", parts=True, dimensions=None).parts


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"\xff\xfe\x00", 400, "no JSON"),
        (b"[1]", 400, "JSON object"),
        ({}, 400, "must be a string"),
        ({"input": []}, 400, "0 entries, 1 to 3"),
        ({"input": ["a"] * 4}, 400, "4 entries, 1 to 3"),
        ({"input": ["a", {"text": ["b", "c", "d"]}]}, 400, "more than 3 sentences up to entry 1"),
        ({"input": "It rains. It stops. It snows. It melts."}, 400, "more than 3 sentences up to entry 0"),
        (b'{"input":[' + b"[]," * 600_000 + b"[]]}", 400, "1200003 brackets, braces and commas, at most 1000000"),
        (b'{"input":[' + b"1," * 1_000_001 + b"1]}", 400, "send fewer inputs"),
        ({"input": [1, 2]}, 400, "token ids are not taken"),
        ({"input": [["a"]]}, 400, "input 0 must be"),
        ({"input": ["a", "  "]}, 400, "input 1: the story is empty"),
        ({"input": {"text": 3}}, 400, "input 0"),
        ({"input": {"text": []}}, 400, "input 0"),
        ({"input": {"text": ["a", 3]}}, 400, "sentence 1"),
        ({"input": {"text": "a", "video": VIDEO}}, 400, "input 0 must be"),
        ({"input": "x" * 30_000}, 400, "30000 characters"),
        ({"input": "a", "model": "other"}, 404, "no model 'other', this service has 'small'"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 4}, 400, "dimensions must be 8"),
        ({"input": "a", "parts": 1}, 400, "parts must be true or false"),
        ({"input": "a", "temperature": 1}, 400, "unknown fields ['temperature']"),
        ({"input": {"video": 3}}, 400, "data URL or base64"),
        ({"input": {"video": "!!!"}}, 400, "no base64"),
        ({"input": {"video": ""}}, 400, "video is empty"),
        ({"input": {"video": "file:///etc/passwd"}}, 400, "reads no addresses and no files"),
        ({"input": {"video": "https://example.org/a.mp4"}}, 400, "reads no addresses and no files"),
        ({"input": {"video": "data:video/mp4,abc"}}, 400, "reads no addresses and no files"),
        ({"input": {"video": "/etc/passwd"}}, 400, "no base64"),
    ],
)
def test_a_wrong_body_is_refused_in_one_sentence(body: Any, status: int, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refusal) as caught:
        read_request(content, "small", 8, max_inputs=3, splits=True)
    assert caught.value.status == status
    assert words in str(caught.value)
    assert caught.value.body()["error"]["message"] == str(caught.value)


def test_long_prefixes_and_texts_are_refused_at_once() -> None:
    start = time.process_time()
    for one in (
        {"video": "data:" + "a" * 200_000},
        {"text": ["a word " * 5_000]},
        {"text": {"hello": 1}},
        "half \ud800",
    ):
        with pytest.raises(Refusal) as found:
            read(input=one)
        assert found.value.status == 400
    assert time.process_time() - start < 2

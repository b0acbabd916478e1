"""Watching a stream: when sentences begin and end, the index of a stream, the command and its endings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_sources import COLOURS, feed, make_pipe, write_colours
from small_library import make_checkpoint

from lfvila_hf import cli
from lfvila_hf.search import VideoLibrary, load_encoder
from lfvila_hf.search.encoders import Clip, as_encoder
from lfvila_hf.search.index import only_writer
from lfvila_hf.search.watching import (
    FIRST_CLIPS,
    Event,
    OwnPast,
    SentenceWatch,
    StreamIndex,
    thresholds_of_index,
)
from lfvila_hf.streaming import StreamClip, stream_encoder

MODEL = f"{__name__}:ColourEncoder"
PARTS = (("green", 2.0), ("red", 3.0), ("blue", 3.0))


class ColourEncoder:
    """Knows colours by their names: a clip is its mean colour, a sentence the colour that it names."""

    name, fingerprint = "ColourEncoder", "of colours"
    frames_per_clip, clip_seconds, frame_size = 2, 1.0, 16

    def encode_sentences(self, sentences: list[str]) -> torch.Tensor:
        named = [[word in sentence for word in COLOURS] for sentence in sentences]
        return torch.tensor(named).float() + 0.01

    def encode_clips(self, clips: list[Clip]) -> torch.Tensor:
        return torch.stack([clip.frames.float().mean((0, 2, 3)) for clip in clips])


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "film.ts", PARTS)


def watch(*arguments: Any) -> int:
    return cli.main(["watch", *map(str, arguments), "--model", MODEL, "--stall-seconds", "0.3"])


# -- rule ------------------------------------------------------------------------------------------------------------


def clips_of(cosines: list[float]) -> Iterator[StreamClip]:
    """Clips of two seconds whose cosine with "red" is as given."""
    for number, cosine in enumerate(cosines):
        vector = torch.tensor([cosine, (1 - cosine**2) ** 0.5, 0.0])
        yield StreamClip(number, 2.0 * number, 2.0 * number + 2.0, vector)


class Red(ColourEncoder):
    def encode_sentences(self, sentences: list[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(sentences), 1)


def events_of(watching: SentenceWatch, cosines: list[float]) -> list[Event]:
    return [event for clip in clips_of(cosines) for event in watching.see(clip)] + watching.finish()


def test_a_sentence_begins_at_its_threshold_and_ends_below_it() -> None:
    watching = SentenceWatch(as_encoder(Red()), ["it is red"], 4, thresholds=[0.5])
    found = events_of(watching, [0.1, 0.5, 0.9, 0.6, 0.49, 0.1, 0.8])
    assert [(one.event, one.second, one.is_cut) for one in found] == [
        ("begin", 2.0, False),
        ("end", 8.0, False),
        ("begin", 12.0, False),
        ("end", 14.0, True),
    ]
    assert found[0].cosine == pytest.approx(0.5, abs=1e-6) and found[0].start == found[1].start == 2.0
    assert found[1].cosine == pytest.approx(0.9, abs=1e-6) and found[1].text == "it is red"
    assert watching.finish() == [], "an end is said once"


def test_without_a_threshold_the_past_of_the_stream_gives_one() -> None:
    draw = np.random.default_rng(0)
    usual = (0.2 + 0.02 * draw.standard_normal(60)).tolist()
    watching = SentenceWatch(as_encoder(Red()), ["it is red"], 4, alpha=0.01)
    # the first clips only calibrate, whatever they show
    early = [*usual[:10], 0.9, *usual[10 : FIRST_CLIPS - 1]]
    assert events_of(watching, early) == [] and watching.past[0].threshold() < 0.5
    found = events_of(watching, [*usual[FIRST_CLIPS:], 0.6, 0.7, 0.6, 0.2])
    assert [(one.event, one.second) for one in found] == [("begin", 60.0), ("end", 66.0)]
    # a sentence that stays on does not become usual: its clips are no part of the past
    before = watching.past[0].threshold()
    assert len(events_of(watching, [0.6] * 500)) == 2 and watching.past[0].threshold() == pytest.approx(
        before, abs=1e-3
    )


def test_the_past_is_bounded_and_keeps_the_false_rate() -> None:
    draw = np.random.default_rng(1)
    past = OwnPast(4, alpha=0.05)
    past.cosines.extend(draw.standard_normal(8000).tolist())
    assert len(past.cosines) == past.cosines.maxlen == 4000
    fresh = draw.standard_normal((20_000, 4)).max(1)
    assert (fresh >= past.threshold()).mean() == pytest.approx(0.05, abs=0.02)


def test_bad_rules_are_refused() -> None:
    encoder = as_encoder(Red())
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 1"):
        SentenceWatch(encoder, ["red"], 4, alpha=1)
    with pytest.raises(ValueError, match=r"the sentence '\.\.\.' has no words"):
        SentenceWatch(encoder, ["..."], 4)


# -- command ---------------------------------------------------------------------------------------------------------


def test_lines_say_when_sentences_begin_and_end(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(film, "a red thing", "a blue thing", "--threshold", 0.95) == 0
    out, err = capsys.readouterr()
    assert [line.split("  (")[0] for line in out.splitlines()] == [
        "0:00:02.0  begins  a red thing",
        "0:00:05.0  ends    a red thing",
        "0:00:05.0  begins  a blue thing",
        "0:00:08.0  ends    a blue thing",
    ]
    assert "still on when the stream ended" in out.splitlines()[-1]
    assert err == "lfvila-hf watch: the stream ended after 0:00:08.0 (8 clips)\n"


def test_json_lines_carry_the_same(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(film, "a red thing", "--threshold", 0.95, "--json", "--clip-seconds", 0.5) == 0
    begin, end, finish = map(json.loads, capsys.readouterr().out.splitlines())
    assert (begin["event"], begin["second"], begin["sentence"], begin["text"]) == ("begin", 2.0, 0, "a red thing")
    assert (end["event"], end["second"], end["start"], end["is_cut"]) == ("end", 5.0, 2.0, False)
    expected = {"event": "finish", "reason": "end", "seconds": 8.0, "frames": 32, "clips": 16, "notes": []}
    assert finish == expected


def test_a_stalled_pipe_ends_with_its_own_status_and_loses_nothing(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = make_pipe(tmp_path / "pipe")
    feed(pipe, film.read_bytes(), hold=30.0)
    assert watch(pipe, "a blue thing", "--threshold", 0.95) == 3
    out, err = capsys.readouterr()
    assert "0:00:08.0  ends    a blue thing" in out and "no data came for 0.3 s after 0:00:08.0" in err
    assert watch(make_pipe(tmp_path / "silent"), "a blue thing", "--threshold", 0.95, "--json") == 3
    finish = json.loads(capsys.readouterr().out)
    assert (finish["reason"], finish["seconds"], finish["clips"]) == ("stalled", 0.0, 0)


def test_a_stream_that_ends_within_a_frame_has_its_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_colours(tmp_path / "whole.nut", PARTS).read_bytes()
    cut = tmp_path / "cut.nut"
    cut.write_bytes(data[: len(data) * 9 // 10])
    assert watch(cut, "a red thing", "a blue thing", "--threshold", 0.95) == 4
    out, err = capsys.readouterr()
    assert out.count("begins") == out.count("ends") == 2
    assert "1 broken packets or frames" in err and "the stream ended within a frame" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order(
    number: int, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipe(tmp_path / "pipe")
    feed(pipe, film.read_bytes(), pieces=1, hold=30.0)
    before = signal.getsignal(number)
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    arguments = ["watch", str(pipe), "a blue thing", "--model", MODEL, "--threshold", "0.95", "--stall-seconds", "20"]
    assert cli.main(arguments) == 130
    out, err = capsys.readouterr()
    assert "0:00:08.0  ends    a blue thing" in out and "stopped after 0:00:08.0 (8 clips)" in err
    assert signal.getsignal(number) is before


def test_a_fault_in_the_stream_is_an_error_after_what_came_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.ts"
    first = write_colours(tmp_path / "1.ts", [("red", 2.0)])
    second = write_colours(tmp_path / "2.ts", [("blue", 2.0)], (96, 64), first_second=2.0)
    film.write_bytes(first.read_bytes() + second.read_bytes())
    assert watch(film, "a red thing", "--threshold", 0.95) == 1
    out, err = capsys.readouterr()
    assert out.count("begins") == out.count("ends") == 1
    assert "the frames before are of 48 x 64 pixels, got 96 x 64" in err


def test_wrong_arguments_are_one_line(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["rtsp://camera/1", "a red thing"], "rtsp://camera/1 is an address: allow it with --allow-network"),
        ([tmp_path / "absent.ts", "a red thing"], "there is no file or device"),
        ([tmp_path, "a red thing"], "is a folder"),
        ([film], "there is nothing to do: give sentences, or --index"),
        ([film, "red", "--alpha", 0], "--alpha must lie between 0 and 1, got 0.0"),
        ([film, "red", "--threshold", 2], "--threshold is a cosine from -1 to 1, got 2.0"),
        ([film, "red", "--clip-seconds", -1], "--clip-seconds must be at least 0, got -1.0"),
        ([film, "red", "--stall-seconds", "nan"], "--stall-seconds must be above 0, got nan"),
        ([film, "red", "--calibrate", tmp_path / "none"], "there is no index in"),
    ):
        assert cli.main(["watch", *map(str, arguments), "--model", MODEL]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        cli.main(["watch", str(film), "red", "--model", MODEL, "--threshold", "0.1", "--calibrate", "index"])
    assert end.value.code == 2


@pytest.mark.slow
def test_standard_input_is_watched_in_a_pipeline(film: Path, tiny_vocabulary: dict[str, int], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary)
    command = [sys.executable, "-m", "lfvila_hf.cli", "watch", "-", "a man rides", "--model", str(checkpoint)]
    options = ["--threshold", "-1", "--clip-seconds", "1", "--json"]
    with film.open("rb") as file:
        found = subprocess.run([*command, *options], stdin=file, stdout=subprocess.PIPE, text=True, check=True)
    begin, end, finish = map(json.loads, found.stdout.splitlines())
    assert begin["second"] == 0.0 and end["second"] == 8.0 and end["is_cut"]
    assert (finish["reason"], finish["frames"], finish["clips"]) == ("end", 16, 8)


# -- index -----------------------------------------------------------------------------------------------------------


def test_a_stream_is_searched_while_it_runs_and_after_it(film: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    index = tmp_path / "index"
    assert watch(film, "a red thing", "--threshold", 0.95, "--index", index) == 0
    library = VideoLibrary.load(index, ColourEncoder())
    assert library.paths == [str(film)] and library.num_segments == 1
    (hit,) = library.search("A red thing.")
    assert hit.duration == 8.0 and (hit.moments[0].start, hit.moments[0].end) == (2.0, 5.0)
    assert library.thumbnail(str(film), 0)[:2] == b"\xff\xd8"
    assert library.segments_of(str(film))[0]["file_size"] == film.stat().st_size
    # again: the same video, not a second one
    assert watch(film, "--index", index) == 0
    assert VideoLibrary.load(index, ColourEncoder()).num_segments == 1
    with only_writer(str(index)):
        assert watch(film, "--index", index) == 1
    film.write_bytes(b"no video any more")
    assert watch(film, "--index", index) == 1
    assert VideoLibrary.load(index, ColourEncoder()).num_segments == 1


def test_a_stream_is_indexed_though_nobody_reads_its_lines(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    index = tmp_path / "index"
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -1` does
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert watch(film, "a red thing", "--threshold", 0.95, "--index", index, "--clip-seconds", 0.5) == 141
        monkeypatch.undo()
    (row,) = VideoLibrary.load(index, ColourEncoder()).segments_of(str(film))
    # the first line is tried with the clip at 2 s
    assert (row["start"], row["end"], row["duration"]) == (0.0, 2.5, 2.5)


@pytest.mark.parametrize("step", ["commit", "append"])
def test_a_segment_that_could_not_be_written_is_written_at_the_end(
    step: str, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    from lfvila_hf.search.index import Index

    write, calls = getattr(Index, step), []

    def full_once(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no space left")
        write(*arguments)

    monkeypatch.setattr(Index, step, full_once)
    monkeypatch.setattr("lfvila_hf.search.watching.SEGMENT_SECONDS", 2.0)
    index = tmp_path / "index"
    assert watch(film, "a green thing", "--threshold", 0.95, "--index", index) == 1
    captured = capsys.readouterr()
    assert "no space left" in captured.err
    assert captured.out.count("begins") == captured.out.count("ends") == 1
    rows = VideoLibrary.load(index, ColourEncoder()).segments_of(str(film))
    assert [row["start"] for row in rows] == ([0.0] if step == "commit" else [0.0, 2.0])
    assert rows[-1]["end"] == (2.0 if step == "commit" else 4.0)


def test_rows_of_a_stream_appear_segment_by_segment(
    tmp_path: Path, tiny_vocabulary: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    encoder = load_encoder(str(make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary)))
    stream, step = stream_encoder(encoder, clip_seconds=1.0)
    address, path = str(tmp_path / "index"), "camera 2026-11-30"
    index = StreamIndex(address, encoder, stream, step, path)
    frames = torch.randint(0, 256, (19, 3, 30, 50), dtype=torch.uint8)
    counts, clips = [], []
    for number, frame in enumerate(frames):
        clips += stream.push(frame[None], [number * step])
        index.add(frame, number * step, [])
        counts.append(VideoLibrary.load(address, encoder).num_segments)
    assert counts == [0] * 7 + [1] * 8 + [2] * 4, "8 frames make a segment"
    index.finish(stream.finish().clips)
    library = VideoLibrary.load(address, encoder)
    rows = library.segments_of(path)
    assert [(row["start"], row["end"]) for row in rows] == [(0.0, 4.0), (4.0, 8.0), (8.0, 9.5)]
    assert {row["duration"] for row in rows} == {9.5} and rows[0]["clip_times"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    prepared = torch.stack([encoder.prepare(frame) for frame in frames[:8]])
    vector, of_clips = encoder.encode_segments(prepared[None])
    row = library._index.row(path, 0)  # type: ignore[union-attr]  # it was opened
    np.testing.assert_array_equal(row["vector"], vector[0].numpy())
    np.testing.assert_array_equal(row["clips"], of_clips[0].numpy())  # type: ignore[index]  # it has clips
    streamed = torch.stack([clip.embedding for clip in clips[:4]])
    np.testing.assert_allclose(row["clips"], streamed.numpy(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="asked for was segments of 4.0 s"):
        StreamIndex(make_index_of_another_rule(tmp_path, encoder), encoder, stream, step, path)


def make_index_of_another_rule(folder: Path, encoder: Any) -> str:
    from lfvila_hf.search.index import Index
    from lfvila_hf.search.video_library import provenance_of

    Index.create(folder / "other", provenance_of(encoder, None, ""))
    return str(folder / "other")


def test_thresholds_of_an_index_are_reached_by_few_of_its_segments(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    encoder = as_encoder(ColourEncoder())
    stream, step = stream_encoder(encoder, clip_seconds=30.0)
    index = StreamIndex(str(tmp_path / "index"), encoder, stream, step, "library")
    draw = np.random.default_rng(0)
    for number in range(160):  # 40 segments of two clips of two frames
        picture = torch.from_numpy(np.broadcast_to(draw.integers(0, 256, (3, 1, 1), np.uint8), (3, 20, 20)).copy())
        index.add(picture, number * step, stream.push(picture[None], [number * step]))
    index.finish(stream.finish().clips)
    words = ["a red thing", "a blue thing"]
    low, high = (thresholds_of_index(str(tmp_path / "index"), encoder, words, alpha) for alpha in (0.5, 0.1))
    assert all(0 < a < b < 1 for a, b in zip(low, high, strict=True))
    view = VideoLibrary.load(tmp_path / "index", encoder).view
    vectors = encoder.encode_sentences(words)
    clips = [torch.from_numpy(np.array(view.clips(number))) for number in range(len(view.rows))]
    largest = torch.stack([(own @ vectors.T).amax(0) for own in clips])
    assert ((largest > torch.tensor(high)).float().mean(0) <= 0.1).all()
    film = write_colours(tmp_path / "film.ts", PARTS)
    assert watch(film, "a red thing", "--calibrate", tmp_path / "index", "--alpha", 0.2) == 0

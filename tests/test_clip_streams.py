"""Streams of frames: features equal to one pass, final when returned, bit-equal for every cut and after a kill.

Windows that reach across segments come from `temporal_shift` of the video tower, see test_modeling_video_lfvila.py.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VIDEO, tiny_config, tiny_model
from torch.nn.functional import normalize

from lfvila_hf import LFVilaConfig, LFVilaModel, LFVilaVideoProcessor, streaming
from lfvila_hf.search.encoders import Clip, as_encoder
from lfvila_hf.streaming import (
    ClipStream,
    EncoderStream,
    FeatureStream,
    StreamClip,
    StreamEnd,
    StreamingEncoder,
    overlap_needed,
    segment_alignment,
    stream_encoder,
)

# Streams against one pass, unit vectors; the bar is 1e-6, the largest difference measured is 1e-7.
ROUNDING = 1e-6
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # Clip level 1 (windows of 2), two levels above it (windows of 4 and 8 frames, two blocks each).
    "plain": {"video": {"temporal_windows": [1, 2, 4, 8], "clip_level": 1, "depths": [1, 2, 2, 2]}},
    "shift": {
        "video": {"temporal_windows": [1, 2, 4, 8], "clip_level": 1, "depths": [1, 2, 2, 2], "temporal_shift": True}
    },
    "conv stem": {"video": {"video_stem": "conv", "temporal_windows": [2, 2, 4, 8], "clip_level": 1}},
    "windows that do not divide each other": {"video": {"temporal_windows": [2, 2, 3, 4], "clip_level": 1}},
    "clip level at the top": {"video": {"clip_level": 3}},
    "clip level after merging": {"video": {"clip_level": 1, "clip_after_merging": True}},
    "preset": {},
}


class Processor:
    """The part of a processor that a stream reads; frames keep their pixels, so that one pass is easy to write."""

    height, width = VIDEO["image_size"]
    video_processor = LFVilaVideoProcessor(size={"height": height, "width": width}, do_center_crop=False)


def make_model(name: str = "plain", **fields: Any) -> LFVilaModel:
    if name == "preset":
        torch.manual_seed(0)
        return LFVilaModel(LFVilaConfig.tiny(**fields)).eval()
    return tiny_model(LFVilaModel, tiny_config(**CONFIGURATIONS[name], **fields))


def make_stream(model: LFVilaModel, **fields: Any) -> StreamingEncoder:
    height, width = model.config.video_config.image_size
    return StreamingEncoder(model, Processor, size={"height": height, "width": width}, **fields)


def random_frames(model: LFVilaModel, count: int, seed: int = 3) -> torch.Tensor:
    height, width = model.config.video_config.image_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_an_end_that_failed_can_be_taken_again_but_takes_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    whole, stream = make_stream(model), make_stream(model)
    frames, seconds = random_frames(model, 3), [0.0, 1.0, 2.0]
    whole.push(frames, seconds)
    stream.push(frames, seconds)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.video_model), "run_levels", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.finish()
    with pytest.raises(ValueError, match="the end of this stream was taken already"):
        stream.push(frames, [3.0, 4.0, 5.0])
    assert torch.equal(stream.finish().video_embeds, whole.finish().video_embeds)


def run(
    stream: ClipStream, frames: torch.Tensor, sizes: tuple[int, ...] = (1,), step: float = 1.675
) -> tuple[list[StreamClip], list[int], StreamEnd]:
    """Push frames in cuts of `sizes` in turn.

    Returns:
        All clips, the number of frames that had been pushed when each was returned, and the end.
    """
    clips: list[StreamClip] = []
    pushed_when: list[int] = []
    start, turn = 0, 0
    while start < len(frames):
        some = frames[start : start + sizes[turn % len(sizes)]]
        found = stream.push(some, [step * number for number in range(start, start + len(some))])
        start, turn = start + len(some), turn + 1
        clips += found
        pushed_when += [start] * len(found)
    end = stream.finish()
    return clips + end.clips, pushed_when, end


def one_pass(model: LFVilaModel, frames: torch.Tensor, frames_per_clip: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip features `(N, D)` and the video feature `(1, D)` of all frames at once, written from the definition."""
    pixels = Processor.video_processor.normalize_pictures(frames)
    with torch.no_grad():
        output = model.video_model(pixels[None])
        early = model.config.clip_feature_source == "clip_level"
        grid = output.clip_hidden_state if early else output.last_hidden_state
        features = model.video_model.pool(grid)[0].mean(1)  # (T, D)
        means = torch.stack([part.mean(0) for part in features.split(frames_per_clip)])
        video = normalize(model.video_projection(output.pooler_output), dim=-1)
        return normalize(model.clip_projection(means), dim=-1), video


def vectors_of(clips: list[StreamClip]) -> torch.Tensor:
    return torch.stack([clip.embedding for clip in clips])


# -- LF-VILA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["clip_level", "last"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_stream_gives_the_features_of_one_pass(name: str, source: str) -> None:
    model = make_model(name, clip_feature_source=source)
    config = model.config.video_config
    per_clip, segment = config.num_frames // config.num_clips, segment_alignment(config)
    for count in (1, per_clip + 1, segment, segment + 1, 3 * segment + per_clip + 1):
        frames = random_frames(model, count)
        clips, _, end = run(make_stream(model), frames, (1, 3, 7))
        expected, video = one_pass(model, frames, per_clip)
        torch.testing.assert_close(vectors_of(clips), expected, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(end.video_embeds, video, atol=ROUNDING, rtol=0)
        assert [clip.index for clip in clips] == list(range(-(-count // per_clip))) and end.num_frames == count


@pytest.mark.parametrize(
    ("name", "source", "waits"),
    [("plain", "clip_level", 2), ("plain", "last", 8), ("shift", "clip_level", 2), ("shift", "last", 24)],
)
def test_a_clip_is_returned_as_soon_as_it_is_final(name: str, source: str, waits: int) -> None:
    model = make_model(name, clip_feature_source=source)
    config = model.config.video_config
    if source == "clip_level":
        assert waits == config.num_frames // config.num_clips
    else:
        assert waits == segment_alignment(config) + overlap_needed(config)
    _, pushed_when, _ = run(make_stream(model), random_frames(model, 34))
    assert pushed_when[0] == waits
    if source == "clip_level":
        assert pushed_when == list(range(2, 35, 2))


@pytest.mark.parametrize("source", ["clip_level", "last"])
@pytest.mark.parametrize("name", ["plain", "shift"])
def test_features_are_bit_equal_for_every_cut_of_the_stream(name: str, source: str) -> None:
    model = make_model(name, clip_feature_source=source)
    frames = random_frames(model, 45)
    clips, _, end = run(make_stream(model), frames)
    for sizes in ((45,), (13, 1, 0, 8)):
        others, _, other_end = run(make_stream(model), frames, sizes)
        assert torch.equal(vectors_of(clips), vectors_of(others))
        assert torch.equal(end.video_embeds, other_end.video_embeds)


def test_clips_of_another_length_and_a_precision() -> None:
    model = make_model()
    frames = random_frames(model, 23)
    clips, pushed_when, end = run(make_stream(model, frames_per_clip=3), frames)
    expected, video = one_pass(model, frames, 3)
    torch.testing.assert_close(vectors_of(clips), expected, atol=ROUNDING, rtol=0)
    assert pushed_when[:4] == [4, 8, 12, 12], "two windows of 2 frames hold a clip of 3"
    half, _, half_end = run(make_stream(model, frames_per_clip=3, dtype=torch.bfloat16), frames)
    assert half[0].embedding.dtype == half_end.video_embeds.dtype == torch.float32
    assert 0 < (half_end.video_embeds - video).abs().max() < 0.05
    assert (vectors_of(half) * vectors_of(clips)).sum(-1).min() > 0.98


def test_clips_know_their_seconds() -> None:
    model = make_model()
    clips, _, _ = run(make_stream(model), random_frames(model, 5), step=2.0)
    assert [(clip.start, clip.end) for clip in clips] == [(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)]
    stream = make_stream(model)
    first = stream.push(random_frames(model, 4), [5.0, 5.0, 6.5, 9.5])
    assert [(clip.start, clip.end) for clip in first] == [(5.0, 5.0), (6.5, 12.5)]
    assert stream.finish().clips == []


def test_a_gap_within_a_clip_does_not_move_its_end() -> None:
    model = make_model()
    stream = make_stream(model, frames_per_clip=4)
    seconds = [0.0, 2.0, 602.0, 604.0]
    (clip,) = stream.push(random_frames(model, 4), seconds)
    assert (clip.start, clip.end) == (0.0, 606.0)


def test_frames_are_scaled_as_by_the_processor() -> None:
    model = make_model()
    processor = LFVilaVideoProcessor(size={"height": 24, "width": 40})
    frames = torch.randint(0, 256, (8, 3, 50, 70), dtype=torch.uint8)
    holder = type("Holder", (), {"video_processor": processor})
    clips, _, end = run(StreamingEncoder(model, holder), frames)
    pixels = processor(videos=[frames], do_sample_frames=False)["pixel_values_videos"]
    with torch.no_grad():
        expected = model.get_video_features(pixels)
    torch.testing.assert_close(vectors_of(clips), expected.clip_embeds[0], atol=ROUNDING, rtol=0)
    torch.testing.assert_close(end.video_embeds, expected.video_embeds, atol=ROUNDING, rtol=0)


def test_a_model_without_clip_features_gives_the_video() -> None:
    model = make_model(temporal_alignment=False)
    stream = make_stream(model)
    clips, _, end = run(stream, random_frames(model, 21))
    assert clips == [] and end.video_embeds.shape == (1, model.config.hidden_size)
    assert not stream._seconds, "seconds of clips that never come would grow with the stream"


@pytest.mark.parametrize("name", ["plain", "shift"])
def test_memory_does_not_grow_with_the_stream(name: str) -> None:
    model = make_model(name, clip_feature_source="last")
    stream = make_stream(model)
    frames = random_frames(model, 4)

    def held() -> int:
        features = stream._features
        grids = sum(stage.held.numel() for stage in (features.lower, features.upper) if stage.held is not None)
        return grids + len(stream._seconds) + len(features.ready)

    sizes = []
    for number in range(40):
        stream.push(frames, [4.0 * number + place for place in range(4)])
        sizes.append(held())
    assert max(sizes[15:]) == max(sizes[:15])


# -- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "shift"])
def test_a_state_goes_on_bit_equal_from_any_frame(name: str, tmp_path: Path) -> None:
    model = make_model(name, clip_feature_source="last")
    frames = random_frames(model, 37)
    expected, _, expected_end = run(make_stream(model), frames, (2,))
    again = make_model(name, clip_feature_source="last")  # another object with the same weights
    file = tmp_path / "state.pt"
    stream, clips = make_stream(model), []
    for start in range(0, 37, 5):
        some = frames[start : start + 5]
        clips += stream.push(some, [1.675 * number for number in range(start, start + len(some))])
        torch.save(stream.state_dict(), file)
        stream = make_stream(again)
        stream.load_state_dict(torch.load(file, weights_only=True))
    end = stream.finish()
    assert torch.equal(vectors_of(clips + end.clips), vectors_of(expected))
    assert torch.equal(end.video_embeds, expected_end.video_embeds)
    assert [(c.index, c.start, c.end) for c in clips + end.clips] == [(c.index, c.start, c.end) for c in expected]


def test_a_state_of_another_model_or_setting_is_refused() -> None:
    model = make_model()
    stream = make_stream(model)
    stream.push(random_frames(model, 3), [0, 1, 2])
    state = stream.state_dict()
    other = make_model()
    with torch.no_grad():
        other.video_model.norm.weight[0] += 1e-3
    for wrong, message in (
        (make_stream(other), "fingerprint"),
        (make_stream(model, do_normalize=False), "fingerprint"),
        (make_stream(model, frames_per_clip=3), "frames_per_clip = 2, here it is 3"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.load_state_dict(state)
        assert wrong.num_frames == 0
    with pytest.raises(ValueError, match="version = None"):
        stream.load_state_dict({})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    # One process imports the package and forks those that are killed, because an import takes seconds.
    program = f"""
import os, random, signal, sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import torch
torch.set_num_threads(1)
from test_clip_streams import make_model, make_stream, random_frames

model = make_model("shift", clip_feature_source="last")
frames = random_frames(model, 400)


def go_on():
    stream, clips = make_stream(model), []
    if os.path.exists("state.pt"):
        saved = torch.load("state.pt", weights_only=True)
        stream.load_state_dict(saved["stream"])
        clips = list(saved["clips"])
    for start in range(stream.num_frames, 400, 2):
        clips += [clip.embedding for clip in stream.push(frames[start : start + 2], [start, start + 1])]
        torch.save({{"stream": stream.state_dict(), "clips": clips}}, "state.new")
        os.replace("state.new", "state.pt")
        time.sleep(0.02)
    end = stream.finish()
    torch.save(torch.stack([*clips, *(clip.embedding for clip in end.clips), end.video_embeds[0]]), "result.new")
    os.replace("result.new", "result.pt")


draw, kills = random.Random(0), 0
while not os.path.exists("result.pt"):
    child = os.fork()
    if not child:
        try:
            go_on()
            os._exit(0)
        finally:
            os._exit(1)
    if kills < 20:
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        kills += 1
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
print(kills)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert found.stdout == "20\n", "the stream ended before it was killed often enough"
    model = make_model("shift", clip_feature_source="last")
    expected, _, end = run(make_stream(model), random_frames(model, 400), (2,), step=1.0)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    assert torch.equal(result, torch.cat([vectors_of(expected), end.video_embeds]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_resident_memory_of_a_film_stays(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import torch
torch.set_num_threads(1)
from test_clip_streams import make_model, make_stream, random_frames

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024

model = make_model("preset")
frames, stream, marks = random_frames(model, 64), make_stream(model), []
for number in range(8000):  # 3.7 hours at 1.675 s a frame
    stream.push(frames[number % 64][None], [1.675 * number])
    if number in (358, 7999):  # ten minutes
        marks.append(resident())
print(marks[1] - marks[0])
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert float(found.stdout) < 10, "MiB"


# -- encoders of the search ------------------------------------------------------------------------------------------


class MeanColour:
    """An encoder of one's own: a clip is its frames' mean colour and the time of its first frame."""

    frames_per_clip, clip_seconds = 3, 6.0

    def encode_sentences(self, sentences: list[str]) -> torch.Tensor:
        return torch.ones(len(sentences), 4)

    def encode_clips(self, clips: list[Clip]) -> torch.Tensor:
        assert all(len(clip.frames) == len(clip.seconds) == 3 for clip in clips)
        return torch.stack([torch.cat([c.frames.float().mean((0, 2, 3)), torch.tensor([c.seconds[0]])]) for c in clips])


def test_any_encoder_streams_a_clip_at_a_time(tmp_path: Path) -> None:
    encoder = as_encoder(MeanColour())
    stream, step = stream_encoder(encoder)
    assert isinstance(stream, EncoderStream) and step == 2.0
    frames = torch.randint(0, 256, (8, 3, 10, 12), dtype=torch.uint8)
    clips, pushed_when, end = run(stream, frames, step=step)
    assert pushed_when == [3, 6] and [(c.start, c.end) for c in clips] == [(0.0, 6.0), (6.0, 12.0), (12.0, 16.0)]
    padded = torch.cat([frames, frames[-1:]]).unflatten(0, (3, 3))
    expected = encoder.encode_clips(padded, [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0], [12.0, 14.0, 14.0]])
    torch.testing.assert_close(vectors_of(clips), expected)
    torch.testing.assert_close(end.video_embeds, normalize(expected.mean(0, keepdim=True), dim=-1))
    # any cut, and a state in between
    other, found = stream_encoder(encoder)[0], []
    for start, stop in ((0, 5), (5, 6), (6, 8)):
        found += other.push(frames[start:stop], [2.0 * number for number in range(start, stop)])
        torch.save(other.state_dict(), tmp_path / "state.pt")
        other = stream_encoder(encoder)[0]
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    last = other.finish()
    assert torch.equal(vectors_of(found + last.clips), vectors_of(clips))
    assert torch.equal(last.video_embeds, end.video_embeds)


def test_an_lfvila_encoder_streams_as_the_model(tiny_tokenizer: Any) -> None:
    from lfvila_hf import LFVilaProcessor

    frames_processor = LFVilaVideoProcessor(size={"height": 24, "width": 40}, num_frames=8, num_clips=4)
    processor = LFVilaProcessor(frames_processor, tiny_tokenizer, max_sentences=4, max_sentence_length=10)
    model = tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_tokenizer)}))
    stream, step = stream_encoder(as_encoder(model, processor))
    assert isinstance(stream, StreamingEncoder) and step == 13.4 / 8
    assert stream_encoder(as_encoder(model, processor), clip_seconds=3.0)[1] == 1.5
    frames = random_frames(model, 10)
    clips, _, _ = run(stream, frames)
    expected, _, _ = run(StreamingEncoder(model, processor), frames)
    assert torch.equal(vectors_of(clips), vectors_of(expected))
    bare = tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_tokenizer)}, temporal_alignment=False))
    with pytest.raises(ValueError, match="has no clip features"):
        stream_encoder(as_encoder(bare, processor))
    with pytest.raises(ValueError, match="clip_seconds must be at least 0, got -1"):
        stream_encoder(as_encoder(model, processor), clip_seconds=-1)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_bad_frames_are_named_and_nothing_is_lost() -> None:
    model = make_model()
    frames = random_frames(model, 10)
    stream, clips = make_stream(model), []
    for number in range(10):
        clips += stream.push(frames[number][None], [float(number)])
        one = frames[number][None]
        for bad, seconds, message in (
            (one.float(), [99.0], "frames must be (n, 3, H, W) uint8 RGB, got (1, 3, 24, 40) float32"),
            (one[0], [99.0], "got (3, 24, 40) uint8"),
            (one.permute(0, 2, 3, 1), [99.0], "got (1, 24, 40, 3) uint8"),
            (one[:, :, :12], [99.0], "the frames before are of 24 x 40 pixels, got 12 x 40"),
            ("picture", [99.0], "frames must be a tensor or an array, got str"),
            (one, [], "one second per frame is expected, got 0 for 1 frames"),
            (one, [number - 0.5], f"second {number - 0.5:g} of frame {number + 1} must be at least"),
            (one, [float("nan")], "second nan of frame"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                stream.push(bad, seconds)  # type: ignore[arg-type]  # that is the point
    end = stream.finish()
    expected, _, expected_end = run(make_stream(model), frames)
    assert torch.equal(vectors_of(clips + end.clips), vectors_of(expected))
    assert torch.equal(end.video_embeds, expected_end.video_embeds)
    for call in (lambda: stream.push(frames, [0.0] * 10), stream.finish):
        with pytest.raises(ValueError, match="this stream is finished"):
            call()


def test_a_stream_without_frames_and_unknown_settings_are_refused() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="the stream has no frames"):
        make_stream(model).finish()
    assert make_stream(model).push(torch.zeros(0, 3, 24, 40, dtype=torch.uint8), []) == []
    with pytest.raises(ValueError, match=r"does not know the settings \['colour'\]"):
        make_stream(model, colour="red")
    with pytest.raises(ValueError, match="frames_per_clip must be at least 1, got 0"):
        make_stream(model, frames_per_clip=0)
    with pytest.raises(ValueError, match="built without a video projection"):
        make_stream(LFVilaModel(tiny_config(), add_projections=False))


def fail_at_times(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Let a third of the calls of a function raise; returns a list that grows with each."""
    whole, draw, fails = getattr(owner, name), random.Random(1), []

    def failing(*arguments: Any, **options: Any) -> Any:
        if draw.random() < 1 / 3:
            fails.append(1)
            raise RuntimeError("out of memory")
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    return fails


def run_with_retries(stream: ClipStream, frames: torch.Tensor) -> tuple[list[StreamClip], StreamEnd]:
    """Push three frames a call and finish; after an error, frames that were not counted are pushed again."""
    clips: list[StreamClip] = []
    while stream.num_frames < len(frames):
        start = stream.num_frames
        some = frames[start : start + 3]
        with contextlib.suppress(RuntimeError):
            clips += stream.push(some, [1.675 * number for number in range(start, start + len(some))])
        assert stream.num_frames in (start, start + len(some))
    while True:
        with contextlib.suppress(RuntimeError):
            return clips, stream.finish()


@pytest.mark.parametrize("source", ["clip_level", "last"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (None, "run_levels"),
        (streaming, "normalize_pixels"),
        (torch, "cat"),
        (torch, "stack"),
        (FeatureStream, "_project"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_that_fails_at_times_loses_no_frame_and_no_clip(
    owner: Any, name: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(clip_feature_source=source)
    frames = random_frames(model, 21)
    expected, _, expected_end = run(make_stream(model), frames, (3,))
    with monkeypatch.context() as patch:
        fails = fail_at_times(patch, owner or model.video_model, name)
        clips, end = run_with_retries(make_stream(model), frames)
    assert len(fails) > 2
    assert torch.equal(vectors_of(clips + end.clips), vectors_of(expected))
    assert torch.equal(end.video_embeds, expected_end.video_embeds)
    assert [(c.index, c.start, c.end) for c in clips + end.clips] == [(c.index, c.start, c.end) for c in expected]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(MeanColour, "encode_clips"), (torch, "cat"), (torch, "stack"), (torch.nn.functional, "normalize")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_encoder_that_fails_at_times_loses_no_frame_and_no_clip(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = as_encoder(MeanColour())
    frames = torch.randint(0, 256, (20, 3, 10, 12), dtype=torch.uint8)
    expected, _, expected_end = run(EncoderStream(encoder), frames, (3,))
    with monkeypatch.context() as patch:
        fails = fail_at_times(patch, owner, name)
        clips, end = run_with_retries(EncoderStream(encoder), frames)
    assert fails
    assert torch.equal(vectors_of(clips + end.clips), vectors_of(expected))
    assert torch.equal(end.video_embeds, expected_end.video_embeds)

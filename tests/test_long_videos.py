"""Long videos in segments: features equal to a single pass, and `clip_is_exact` for those that are not.

Windows that reach across segments come from `temporal_shift` of the video tower, see test_modeling_video_lfvila.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VIDEO, random_videos, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoError, LFVilaVideoProcessor
from lfvila_hf.long_videos import (
    encode_long_frames,
    encode_long_video,
    frames_needed,
    overlap_needed,
    segment_alignment,
)

# Segments against a single pass, unit vectors; the largest difference measured is 2e-7.
ROUNDING = 1e-5


def make_model(shift: bool = False, **fields: Any) -> LFVilaModel:
    # Clip level 1 (windows of 2), two levels above it (windows of 4 and 8 frames, two blocks each).
    video = {"temporal_windows": [1, 2, 4, 8], "clip_level": 1, "depths": [1, 2, 2, 2], "temporal_shift": shift}
    return tiny_model(LFVilaModel, tiny_config(video=video | fields.pop("video", {}), **fields))


def chunks_of(frames: torch.Tensor, sizes: list[int]) -> Iterator[torch.Tensor]:
    start = 0
    while start < len(frames):
        for size in sizes:
            yield frames[start : start + size]
            start += size


def single_pass(model: LFVilaModel, frames: torch.Tensor, clips: int) -> Any:
    with torch.no_grad():
        return model.get_video_features(frames[None], num_clips=clips)


def assert_close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("source", ["clip_level", "last"])
@pytest.mark.parametrize("count", [2, 6, 8, 16, 40, 46, 62])
def test_segments_give_the_features_of_a_single_pass(count: int, source: str) -> None:
    model = make_model(clip_feature_source=source)
    frames = random_videos(1, count)[0]
    expected = single_pass(model, frames, count // 2)
    for segment, sizes in ((8, [3, 1]), (16, [20]), (24, [7])):
        found = encode_long_frames(model, chunks_of(frames, sizes), segment_frames=segment)
        assert_close(found.video_embeds, expected.video_embeds)
        assert_close(found.clip_embeds, expected.clip_embeds)
        assert found.clip_is_exact.all() and len(found.clip_is_exact) == count // 2
        assert found.video_is_exact and found.num_frames == count


@pytest.mark.parametrize("count", [40, 44, 62])
def test_windows_across_segments_need_an_overlap_and_then_are_exact(count: int) -> None:
    model = make_model(shift=True, clip_feature_source="last")
    assert overlap_needed(model.config.video_config) == 16
    frames = random_videos(1, count)[0]
    expected = single_pass(model, frames, count // 2)
    assert expected.clip_embeds is not None
    found = encode_long_frames(model, chunks_of(frames, [5]), segment_frames=8)
    assert_close(found.clip_embeds, expected.clip_embeds)
    assert_close(found.video_embeds, expected.video_embeds)
    assert found.clip_is_exact.all() and found.video_is_exact

    short = encode_long_frames(model, chunks_of(frames, [5]), segment_frames=16, overlap=0)
    assert short.clip_embeds is not None and not short.video_is_exact
    off = (short.clip_embeds - expected.clip_embeds)[0].abs().amax(-1)  # (N,)
    assert off[short.clip_is_exact].max() < ROUNDING if short.clip_is_exact.any() else True
    assert off[~short.clip_is_exact].max() > 100 * ROUNDING, "nothing was lost, so nothing was tested"
    some = encode_long_frames(model, chunks_of(frames, [5]), segment_frames=24, overlap=8)
    assert 0 < some.clip_is_exact.sum() < len(some.clip_is_exact)
    assert some.clip_embeds is not None
    off = (some.clip_embeds - expected.clip_embeds)[0].abs().amax(-1)
    assert off[some.clip_is_exact].max() < ROUNDING < off.max()


def test_clip_features_of_the_clip_level_are_exact_without_any_overlap() -> None:
    model = make_model(shift=True)
    frames = random_videos(1, 40)[0]
    found = encode_long_frames(model, [frames], segment_frames=8, overlap=0)
    assert_close(found.clip_embeds, single_pass(model, frames, 20).clip_embeds)
    assert found.clip_is_exact.all() and not found.video_is_exact


def test_the_convolutional_stem_stays_inside_its_stretch() -> None:
    model = make_model(video={"video_stem": "conv", "temporal_windows": [2, 2, 4, 8]})
    frames = random_videos(1, 26)[0]
    found = encode_long_frames(model, [frames], segment_frames=8)
    assert_close(found.clip_embeds, single_pass(model, frames, 13).clip_embeds)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("level", [1, None])
def test_frames_needed_are_all_that_the_features_depend_on(shift: bool, level: int | None) -> None:
    model = make_model(shift=shift)
    config, total = model.config.video_config, 40
    frames = random_videos(1, total)
    frames.requires_grad_(True)
    output = model.video_model(frames)
    grid = output.clip_hidden_state if level == 1 else output.last_hidden_state
    for place in (0, 13, 16, 21, 39):
        (gradient,) = torch.autograd.grad(grid[0, place].sum(), frames, retain_graph=True)
        reached = gradient[0].flatten(1).abs().amax(1).nonzero().flatten().tolist()
        assert (reached[0], reached[-1] + 1) == frames_needed(config, place, place + 1, level, total)


def test_stretches_of_the_released_size_and_of_grown_windows() -> None:
    config = tiny_config(video={"depths": [2, 2, 2, 2]}).video_config
    config.temporal_windows, config.depths, config.clip_level = [2, 4, 8, 16, 16, 32], [2, 2, 14, 2, 2, 2], 2
    assert segment_alignment(config) == 32 and overlap_needed(config) == 0
    assert frames_needed(config, 33, 34) == (32, 64) and frames_needed(config, 33, 34, level=2) == (32, 40)
    config.temporal_shift = True
    # level 5 reaches 16 + 16 frames beyond its window's ends, levels 4 and 3 8 + 8 each
    assert frames_needed(config, 320, 352) == (256, 416) and overlap_needed(config) == 64
    assert frames_needed(config, 0, 32, total=50) == (0, 50)
    config.temporal_windows[5] = 64
    assert segment_alignment(config) == 64


def test_the_last_clip_may_be_shorter_and_its_length_is_said() -> None:
    model = make_model()
    frames = random_videos(1, 21)[0]
    found = encode_long_frames(model, [frames], segment_frames=8, frames_per_clip=4)
    whole = single_pass(model, frames, 1)
    assert_close(found.video_embeds, whole.video_embeds)
    assert found.clip_embeds is not None and found.clip_embeds.shape[1] == len(found.clip_is_exact) == 6
    with torch.no_grad():
        per_frame = model.video_model.pool(whole.clip_hidden_state)[0].mean(1)
        last = torch.nn.functional.normalize(model.clip_projection(per_frame[20:].mean(0)), dim=-1)
    assert_close(found.clip_embeds[0, -1], last)


def test_no_more_frames_are_held_than_a_segment_needs() -> None:
    model = make_model()
    longest: list[int] = []
    model.video_model.patch_embed.register_forward_pre_hook(lambda _, pixels: longest.append(pixels[0].shape[1]))
    one = random_videos(1, 4)[0]
    taken: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        for _ in range(100):
            taken.append(len(longest))
            yield one

    found = encode_long_frames(model, endless(), segment_frames=16)
    assert found.num_frames == 400 and max(longest) < 16 + 8
    # Frames are asked for when they are needed: at most a segment, a stretch and a chunk ahead of what is encoded.
    assert all(4 * number <= 16 * done + 16 + 8 + 4 for number, done in enumerate(taken))


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", 150, size=(48, 80))


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    height, width = VIDEO["image_size"]
    video_processor = LFVilaVideoProcessor(size={"height": height, "width": width}, num_frames=8, num_clips=4)
    return LFVilaProcessor(video_processor, tiny_tokenizer, max_sentences=4, max_sentence_length=10)


def test_a_file_is_read_at_a_rate_and_its_frames_are_those_of_the_processor(
    film: Path, processor: LFVilaProcessor
) -> None:
    model = make_model()
    whole = processor(videos=[film], do_sample_frames=False, return_metadata=True)
    rate = whole["video_metadata"][0].fps
    found = encode_long_video(model, processor, film, seconds_per_frame=2 / rate, segment_frames=16, num_workers=2)
    pixels = whole["pixel_values_videos"][0, ::2]  # (75, 3, H, W)
    assert found.num_frames == len(pixels) == 75
    assert found.times == pytest.approx([number * 2 / rate for number in range(75)], abs=1e-6)
    expected = encode_long_frames(model, [pixels], segment_frames=16)
    assert_close(found.video_embeds, expected.video_embeds)
    assert_close(found.clip_embeds, expected.clip_embeds)
    half = encode_long_video(model, processor, film, 2 / rate, segment_frames=16, dtype=torch.bfloat16)
    assert (
        0.95 < float((half.video_embeds @ expected.video_embeds.T).squeeze())
        and half.video_embeds.dtype == torch.float32
    )


def test_a_short_file_is_one_frame(film: Path, processor: LFVilaProcessor) -> None:
    found = encode_long_video(make_model(), processor, film, seconds_per_frame=1000)
    assert found.num_frames == 1 and found.times == [0.0]


# -- bad input -------------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_named(film: Path, processor: LFVilaProcessor, tmp_path: Path) -> None:
    model = make_model()
    for arguments, message in (
        (
            {"segment_frames": 12},
            "segment_frames must be a multiple of 8 (the least common multiple",
        ),
        ({"segment_frames": 0}, "got 0"),
        ({"overlap": -8}, "overlap must be a multiple of 8"),
        ({"frames_per_clip": 0}, "frames_per_clip must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            encode_long_frames(model, [], **arguments)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="the video has no frames"):
        encode_long_frames(model, [])
    for value in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds_per_frame must be above 0"):
            encode_long_video(model, processor, film, seconds_per_frame=value)
    with pytest.raises(ValueError, match=r"does not know the settings \['colour'\]"):
        encode_long_video(model, processor, film, colour="red")
    with pytest.raises(LFVilaVideoError, match="absent.mp4"):
        encode_long_video(model, processor, tmp_path / "absent.mp4")

"""The video processor: the released pixels, one random choice per video, and one shape for any batch.

The reference for the geometry is written out step by step with torch, and normalising is checked against the formula.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from video_files import barcode_picture, read_barcodes, sequential_frames, write_video

from lfvila_hf.video_processing_lfvila import LFVilaVideoMetadata, LFVilaVideoProcessor, random_crop_box
from lfvila_hf.video_reading_lfvila import LFVilaVideoError, VideoLimits, close_decoder_processes, uniform_indices

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
SMALL = {"size": {"height": 48, "width": 80}, "num_frames": 8}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / "one.mp4", 40, size=(72, 128)),
        write_video(folder / "two.mkv", 11, size=(120, 90), fps=10, bframes=0),
    ]


def _to_numbers(pixels: torch.Tensor) -> list[int]:
    return read_barcodes(((pixels * STD + MEAN) * 255).round().clamp(0, 255).to(torch.uint8))


def _scale(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(pictures, size=size, mode="bilinear", antialias=True, align_corners=False)


def test_evaluation_gives_the_released_pixels(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor()
    pixels = processor(videos[0])["pixel_values_videos"]
    assert tuple(pixels.shape) == (1, 32, 3, 192, 320)
    frames = np.stack([sequential_frames(videos[0])[index] for index in np.linspace(0, 39, 32).astype(int)])
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    expected = _scale(expected, (240, 428))[:, :, 12:228, 22:407]
    assert tuple(expected.shape[2:]) == (216, 385)
    expected = (_scale(expected, (192, 320)) - MEAN) / STD
    torch.testing.assert_close(pixels[0], expected, atol=2e-5, rtol=0)


def test_other_sizes_keep_the_ratios(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    pixels = processor(videos[0])["pixel_values_videos"]
    frames = np.stack([sequential_frames(videos[0])[index] for index in uniform_indices(40, 8)])
    expected = _scale(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), (60, 107))[:, :, 3:57, 6:102]
    assert tuple(expected.shape[2:]) == (54, 96)
    torch.testing.assert_close(pixels[0], (_scale(expected, (48, 80)) / 255 - MEAN) / STD, atol=2e-5, rtol=0)


def test_every_step_can_be_switched_off(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    plain = processor(videos[0], do_resize=False, do_rescale=False, do_normalize=False)["pixel_values_videos"]
    frames = np.stack([sequential_frames(videos[0])[index] for index in uniform_indices(40, 8)])
    assert torch.equal(plain[0], torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    straight = processor(videos[0], do_center_crop=False, do_normalize=False)["pixel_values_videos"]
    torch.testing.assert_close(straight[0], _scale(plain[0], (48, 80)) / 255, atol=1e-6, rtol=0)
    every = processor(videos[1], do_sample_frames=False)["pixel_values_videos"]
    assert tuple(every.shape) == (1, 11, 3, 48, 80)


def test_a_batch_of_two_unlike_videos_equals_two_batches_of_one(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    both = processor(videos)["pixel_values_videos"]
    assert tuple(both.shape) == (2, 8, 3, 48, 80)
    for number, video in enumerate(videos):
        assert torch.equal(both[number], processor(video)["pixel_values_videos"][0])
    generator = torch.Generator().manual_seed(3)
    both = processor(videos, training=True, generator=generator)["pixel_values_videos"]
    generator = torch.Generator().manual_seed(3)
    for number, video in enumerate(videos):
        one = processor(video, training=True, generator=generator)["pixel_values_videos"]
        assert torch.equal(both[number], one[0])


def test_scaling_in_the_decoder_is_close_and_not_the_default(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    exact = processor(videos[0])["pixel_values_videos"]
    quick = processor(videos[0], scale_in_decoder=True)["pixel_values_videos"]
    assert exact.shape == quick.shape
    difference = ((exact - quick) * STD * 255).abs()
    assert 0 < difference.mean() < 5


def test_scaling_in_the_decoder_differs_by_what_the_documentation_states() -> None:
    # docs/video-input.md: 0.2 to 1.2 of 255 levels in the mean, 62 at most, over 18 real clips at the released size
    if not (SHARED / "videos").is_dir():
        pytest.skip("the real videos (../shared/data/videos) are not here")
    paths = [path for path in sorted((SHARED / "videos").iterdir()) if path.stat().st_size < 1_000_000][:6]
    assert len(paths) == 6
    processor = LFVilaVideoProcessor(num_frames=4, num_clips=1)
    assert processor.scale_in_decoder is False, "the exact way is the default"
    for path in paths:
        exact, quick = (processor.read_pictures(path, scale_in_decoder=how).frames for how in (False, True))
        difference = (exact - quick).abs()
        assert 0.1 < difference.mean() < 1.25, path.name
        assert difference.max() < 65, path.name
        # no shift of the picture: a shift by a pixel is told from these differences
        shifted = (exact[..., 1:] - quick[..., :-1]).abs().mean()
        assert shifted > 1.5 * difference.mean(), path.name


@pytest.mark.skipif(os.name != "posix", reason="decoding in a process of its own needs a POSIX system")
def test_a_decoder_process_changes_no_pixel(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    for options in ({}, {"training": True, "seed": 3}):
        here = processor(videos, **options)["pixel_values_videos"]
        assert torch.equal(processor(videos, isolated=True, **options)["pixel_values_videos"], here)
    close_decoder_processes()


# Training.


def test_training_makes_one_choice_for_all_frames_of_a_video() -> None:
    still = np.repeat(barcode_picture(77, 72, 96)[None], 8, axis=0)
    processor = LFVilaVideoProcessor(**SMALL, crop_ratio_is_relative=True)
    seen = []
    for seed in range(12):
        pixels = processor(still, training=True, seed=seed)["pixel_values_videos"][0]
        assert torch.equal(pixels, pixels[:1].expand_as(pixels))
        seen.append(pixels[0])
    assert len({round(float(picture.sum()), 3) for picture in seen}) == 12


def test_the_seed_decides_and_the_global_generator_is_left_alone(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    state = torch.get_rng_state()
    first = processor(videos, training=True, seed=5)["pixel_values_videos"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(processor(videos, training=True, seed=5)["pixel_values_videos"], first)
    assert not torch.equal(processor(videos, training=True, seed=6)["pixel_values_videos"], first)
    with pytest.raises(ValueError, match="a generator or a seed"):
        processor(videos, training=True, seed=5, generator=torch.Generator())


def test_half_of_the_videos_are_mirrored_unless_it_is_switched_off() -> None:
    ramp = np.zeros((2, 48, 80, 3), np.uint8)
    ramp[..., :] = np.arange(80, dtype=np.uint8)[None, None, :, None]
    processor = LFVilaVideoProcessor(**{**SMALL, "num_frames": 2})

    def mirrored(seed: int, **options: Any) -> bool:
        row = processor(ramp, training=True, seed=seed, **options)["pixel_values_videos"][0, 0, 0, 0]
        return bool(row[0] > row[-1])

    count = sum(mirrored(seed) for seed in range(200))
    assert 70 < count < 130
    assert not any(mirrored(seed, flip_probability=0) for seed in range(30))
    assert all(mirrored(seed, flip_probability=1.0) for seed in range(30))
    with pytest.raises(ValueError, match="flip_probability must lie in 0 to 1, got 2"):
        processor(ramp, training=True, flip_probability=2)


def test_random_crops_keep_area_and_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = [random_crop_box(100, 110, (0.8, 1.0), (3 / 4, 4 / 3), generator) for _ in range(300)]
    areas = [height * width for _, _, height, width in boxes]
    ratios = [width * 110 / (height * 100) for _, _, height, width in boxes]
    assert 0.79 < min(areas) < 0.82
    assert 0.95 < max(areas) <= 1.001
    assert min(ratios) < 0.95
    assert max(ratios) > 1.3
    assert all(0.74 < ratio < 1.35 for ratio in ratios)
    assert all(top >= 0 and left >= 0 and top + height <= 1 and left + width <= 1 for top, left, height, width in boxes)
    assert len({top for top, _, _, _ in boxes}) > 10


def test_a_wide_picture_is_always_cut_to_its_central_part_by_the_released_ratio() -> None:
    boxes = {random_crop_box(360, 640, (0.8, 1.0), (3 / 4, 4 / 3)) for _ in range(50)}
    assert boxes == {(0.0, 80 / 640, 1.0, 480 / 640)}
    assert len({random_crop_box(360, 640, (0.8, 1.0), (3 / 4, 4 / 3), relative=True) for _ in range(50)}) > 10


def test_training_samples_with_jitter_and_evaluation_without(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL, return_metadata=True)
    drawn = [processor(videos[0], training=True, seed=seed)["video_metadata"][0].frames_indices for seed in range(20)]
    assert len({tuple(indices) for indices in drawn}) > 5
    assert all(indices[0] <= 5 and indices[-1] >= 34 for indices in drawn)
    assert processor(videos[0])["video_metadata"][0].frames_indices == uniform_indices(40, 8)
    fixed = processor(videos[0], training=True, sampling="uniform", seed=1)["video_metadata"][0]
    assert fixed.frames_indices == uniform_indices(40, 8)
    assert processor(videos[0], sampling="jittered", seed=2)["video_metadata"][0].frames_indices != uniform_indices(
        40, 8
    )


# Sources and metadata.


def test_clip_files_become_one_long_video(tmp_path: Path) -> None:
    clips = [write_video(tmp_path / f"{number}.mp4", 10, first_number=20 * number) for number in range(4)]
    processor = LFVilaVideoProcessor(**SMALL, return_metadata=True)
    batch = processor([clips, clips[::-1]])
    pixels, metadata = batch["pixel_values_videos"], batch["video_metadata"]
    assert tuple(pixels.shape) == (2, 8, 3, 48, 80)
    whole = processor([clips], do_center_crop=False)["pixel_values_videos"]
    assert _to_numbers(whole[0]) == [0, 5, 20, 25, 40, 45, 60, 65]
    assert metadata[0].timestamps == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4])
    assert metadata[0].duration == pytest.approx(1.6)
    assert metadata[0].source == " + ".join(map(str, clips))
    with pytest.raises(ValueError, match="8 frames cannot be shared by 3 clip files"):
        processor([clips[:3]])
    with pytest.raises(ValueError, match="video 1 of the batch is an empty list"):
        processor([clips, []])


def test_arrays_of_every_layout_are_one_video_or_a_batch() -> None:
    array = np.stack([barcode_picture(number, 60, 107) for number in range(12)])
    first = torch.from_numpy(array).permute(0, 3, 1, 2)
    processor = LFVilaVideoProcessor(**SMALL, do_center_crop=False)
    expected = processor(array)["pixel_values_videos"]
    assert tuple(expected.shape) == (1, 8, 3, 48, 80)
    assert _to_numbers(expected[0]) == uniform_indices(12, 8)
    for source in (first, first.float() / 255, list(array), [array], [first], [list(first)]):
        assert torch.equal(processor(source)["pixel_values_videos"], expected)
    for batch in (torch.stack([first, first]), [array, first], np.stack([array, array]), [list(array), list(array)]):
        assert torch.equal(processor(batch)["pixel_values_videos"], expected.expand(2, -1, -1, -1, -1))


def test_metadata_tells_true_seconds_duration_and_source(videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    assert "video_metadata" not in processor(videos)
    one, two = processor(videos, return_metadata=True)["video_metadata"]
    assert isinstance(one, LFVilaVideoMetadata)
    assert one.timestamps == pytest.approx([index / 25 for index in uniform_indices(40, 8)])
    assert two.timestamps == pytest.approx([index / 10 for index in uniform_indices(11, 8)])
    assert (one.duration, two.duration) == pytest.approx((1.6, 1.1))
    assert (one.source, one.width, one.height, one.total_num_frames) == (str(videos[0]), 128, 72, 40)
    assert one["fps"] == pytest.approx(25)


def test_the_rate_of_an_array_is_never_guessed(videos: list[Path]) -> None:
    array = np.zeros((10, 48, 80, 3), np.uint8)
    processor = LFVilaVideoProcessor(**SMALL, return_metadata=True)
    unknown = processor(array)["video_metadata"][0]
    assert (unknown.times, unknown.duration, unknown.fps) == (None, None, None)
    with pytest.raises(ValueError, match="is not known"):
        _ = unknown.timestamps
    known = processor(array, fps=5)["video_metadata"][0]
    assert known.timestamps == pytest.approx([index / 5 for index in uniform_indices(10, 8)])
    assert known.duration == 2
    both = processor([array, videos[0]], video_metadata=[{"fps": 2.0}, None])["video_metadata"]
    assert [entry.fps for entry in both] == pytest.approx([2, 25])
    with pytest.raises(ValueError, match="one.mp4 knows its own"):
        processor(videos[0], fps=5)
    with pytest.raises(ValueError, match="2 videos but 1 entries"):
        processor([array, array], video_metadata=[{"fps": 2.0}])


# Bad input.


def test_bad_input_names_what_is_wrong(videos: list[Path], tmp_path: Path) -> None:
    processor = LFVilaVideoProcessor(**SMALL)
    with pytest.raises(ValueError, match="videos is empty"):
        processor([])
    with pytest.raises(LFVilaVideoError, match="absent.mp4: no such file"):
        processor([videos[0], tmp_path / "absent.mp4"])
    with pytest.raises(ValueError, match="4 axes"):
        processor(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(TypeError, match="does not know the arguments \\['frames'\\]"):
        processor(videos, frames=3)
    with pytest.raises(ValueError, match="equally many frames"):
        processor(videos, do_sample_frames=False)
    with pytest.raises(LFVilaVideoError, match="max_pixels"):
        processor(videos, limits=VideoLimits(max_pixels=10))
    with pytest.raises(ValueError, match="crop_scale"):
        LFVilaVideoProcessor(crop_scale=(0.9, 0.8))
    for count, reason in ((10**6, "max_output_bytes"), (10**12, "at most 1000000")):
        with pytest.raises(ValueError, match=reason):
            processor(videos[0], num_frames=count)
    with pytest.raises(ValueError, match="size must be of 1 to 67108864 pixels"):
        processor(videos[0], size={"height": 10**5, "width": 10**5})
    with pytest.raises(ValueError, match="size must give height and width"):
        processor(videos, size={"shortest_edge": 4})


# Saving.


def test_settings_survive_saving_and_call_arguments_do_not(tmp_path: Path, videos: list[Path]) -> None:
    processor = LFVilaVideoProcessor(**SMALL, num_clips=2, flip_probability=0.0, crop_ratio_is_relative=True)
    processor(videos[0], training=True, seed=4)
    processor.save_pretrained(tmp_path)
    again = LFVilaVideoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert (again.num_frames, again.num_clips, again.flip_probability) == (8, 2, 0.0)
    assert not {"seed", "generator", "training", "limits"} & set(again.to_dict())
    assert torch.equal(again(videos[0])["pixel_values_videos"], processor(videos[0])["pixel_values_videos"])


@pytest.mark.parametrize("missing", [("torchvision", "PIL", "cv2", "decord", "torchcodec"), ("av",)])
def test_only_files_need_pyav_and_nothing_else_is_needed(videos: list[Path], missing: tuple[str, ...]) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing!r}))
import numpy as np
from lfvila_hf.video_processing_lfvila import LFVilaVideoProcessor
processor = LFVilaVideoProcessor(num_frames=4)
print(tuple(processor(np.zeros((6, 3, 20, 30), np.uint8))["pixel_values_videos"].shape))
try:
    print(tuple(processor({str(videos[0])!r}, training=True, seed=1)["pixel_values_videos"].shape))
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "(1, 4, 3, 192, 320)" in done.stdout, done.stderr
    array, file = done.stdout.splitlines()
    assert array == "(1, 4, 3, 192, 320)"
    assert "pip install av" in file if missing == ("av",) else file == array

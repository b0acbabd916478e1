"""Another number of frames or frame size for a trained model: tables, positions, windows, configuration, loading.

The released recipe for bias tables is compared with recorded tensors in tests/parity/test_recorded_resizing.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_ids, random_videos, tiny_config, tiny_model
from transformers import AutoModel, AutoModelForPreTraining

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTextModel, LFVilaVideoConfig, LFVilaVideoModel
from lfvila_hf.configuration_lfvila import VIDEO_SIZES
from lfvila_hf.modeling_base_lfvila import temporal_windows_for
from lfvila_hf.modeling_text_lfvila import resize_spatial_positions, resize_temporal_positions
from lfvila_hf.modeling_video_lfvila import relative_position_index, resize_bias_table

# Float32 rounding of a dozen products and sums of numbers around 1; worst measured 5e-7.
ROUNDING = 3e-6


# -- bias tables -----------------------------------------------------------------------------------------------------


def cubic_kernel(distance: float, a: float = -0.75) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def slowly_resized(values: list[float], size: int) -> list[float]:
    """Interpolate a line of evenly scaled cells cubically; the end values continue outside."""
    resized = []
    for index in range(size):
        place = (index + 0.5) * len(values) / size - 0.5
        start = math.floor(place)
        total = 0.0
        for neighbour in range(start - 1, start + 3):
            inside = min(max(neighbour, 0), len(values) - 1)
            total += values[inside] * cubic_kernel(place - neighbour)
        resized.append(total)
    return resized


def test_a_longer_temporal_window_is_interpolated_along_time_alone() -> None:
    old, new = (3, 2, 2), (5, 2, 2)
    table = torch.randn(5 * 3 * 3, 2)
    resized = resize_bias_table(table, old, new).view(9, 3, 3, 2)
    for row in range(3):
        for column in range(3):
            for head in range(2):
                line = table.view(5, 3, 3, 2)[:, row, column, head].tolist()
                expected = torch.tensor(slowly_resized(line, 9))
                assert torch.allclose(resized[:, row, column, head], expected, atol=ROUNDING)


def test_another_spatial_window_is_interpolated_in_space_alone() -> None:
    old, new = (2, 3, 3), (2, 2, 5)
    table = torch.randn(3 * 5 * 5, 1)
    resized = resize_bias_table(table, old, new).view(3, 3, 9)
    for time in range(3):
        rows = [slowly_resized(line.tolist(), 9) for line in table.view(3, 5, 5)[time]]
        columns = [slowly_resized([row[column] for row in rows], 3) for column in range(9)]
        assert torch.allclose(resized[time], torch.tensor(columns).T, atol=ROUNDING)


def test_the_offset_of_no_time_keeps_its_values() -> None:
    """Cells of one frame attend to each other as before, for any length of the window."""
    table = torch.randn((2 * 4 - 1) * 9, 3)
    resized = resize_bias_table(table, (4, 2, 2), (9, 2, 2))
    assert torch.allclose(resized.view(17, 9, 3)[8], table.view(7, 9, 3)[3], atol=ROUNDING)


def test_tables_and_positions_that_do_not_change_are_not_touched() -> None:
    table, positions = torch.randn(27, 2), torch.randn(6, 4)
    assert resize_bias_table(table, (2, 2, 2), (2, 2, 2)) is table
    assert resize_temporal_positions(positions, 6) is positions
    assert resize_spatial_positions(positions, (2, 3), (2, 3)) is positions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_resizing_keeps_the_dtype_and_computes_at_least_in_single_precision(dtype: torch.dtype) -> None:
    table = torch.randn(27, 2, dtype=dtype)
    resized = resize_bias_table(table, (2, 2, 2), (3, 2, 2))
    wide = torch.promote_types(dtype, torch.float32)
    assert resized.dtype == dtype
    assert torch.equal(resized, resize_bias_table(table.to(wide), (2, 2, 2), (3, 2, 2)).to(dtype))


def test_a_table_of_another_window_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"windows of \(2, 3, 5\) has 135 rows, got 134"):
        resize_bias_table(torch.zeros(134, 1), (2, 3, 5), (4, 3, 5))


def test_the_position_index_names_the_row_of_every_offset() -> None:
    index = relative_position_index((2, 1, 2))  # offsets in time -1..1, in rows 0, in columns -1..1
    assert index.shape == (2, 1, 2, 2, 1, 2)
    assert index[0, 0, 0, 0, 0, 0] == 1 * 3 + 1  # no offset: the middle of 3 x 3
    assert index[1, 0, 0, 0, 0, 1] == 2 * 3 + 0  # one frame later, one column to the left


# -- positions -------------------------------------------------------------------------------------------------------


def test_temporal_positions_run_linearly_between_ends_that_stay() -> None:
    ramp = torch.linspace(-1, 2, 5)[:, None].repeat(1, 3)
    resized = resize_temporal_positions(ramp, 13)
    assert torch.allclose(resized, torch.linspace(-1, 2, 13)[:, None].repeat(1, 3), atol=ROUNDING)
    positions = torch.randn(4, 3)
    resized = resize_temporal_positions(positions, 7)  # every second one is an old one
    assert torch.allclose(resized[::2], positions, atol=ROUNDING)
    assert torch.allclose(resized[1::2], (positions[:-1] + positions[1:]) / 2, atol=ROUNDING)


def test_spatial_positions_are_interpolated_over_rows_and_columns() -> None:
    positions = torch.randn(6, 2)
    resized = resize_spatial_positions(positions, (2, 3), (3, 4)).view(3, 4, 2)
    for channel in range(2):
        rows = [slowly_resized(line.tolist(), 4) for line in positions.view(2, 3, 2)[..., channel]]
        columns = [slowly_resized([row[column] for row in rows], 3) for column in range(4)]
        assert torch.allclose(resized[..., channel], torch.tensor(columns).T, atol=ROUNDING)


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "windows"),
    [
        (16, [2, 4, 8, 16, 16, 32]),
        (32, [2, 4, 8, 16, 16, 32]),
        (48, [2, 4, 8, 16, 24, 48]),
        (64, [2, 4, 8, 16, 32, 64]),
        (128, [2, 4, 8, 16, 32, 64]),
        (256, [2, 4, 8, 16, 32, 64]),
    ],
)
def test_windows_of_a_released_model_grow_up_to_64_frames(num_frames: int, windows: list[int]) -> None:
    assert temporal_windows_for(LFVilaVideoConfig(), num_frames) == windows


def test_windows_are_the_same_whichever_way_a_length_is_reached() -> None:
    by_steps = LFVilaVideoConfig(num_frames=64, temporal_windows=[2, 4, 8, 16, 32, 64])
    assert temporal_windows_for(by_steps, 256) == temporal_windows_for(LFVilaVideoConfig(), 256)


def test_windows_that_never_spanned_the_video_stay() -> None:
    short = LFVilaVideoConfig(temporal_windows=[2, 4, 8, 8, 8, 8])
    assert temporal_windows_for(short, 128) == [2, 4, 8, 8, 8, 8]


# -- models ----------------------------------------------------------------------------------------------------------


def fused(model: Any, frames: int, height: int = 24, width: int = 40) -> torch.Tensor:
    videos = random_videos(2, frames, height, width)
    with torch.no_grad():
        return model(random_ids(2, 4, 6), None, videos, phase="fusion", return_loss=False).vtm_logits


@pytest.mark.parametrize("frames", [4, 8, 16, 64, 128])
def test_a_model_reads_another_number_of_frames(frames: int) -> None:
    model = tiny_model(LFVilaForPreTraining)
    model.set_num_frames(frames)
    assert fused(model, frames).isfinite().all()
    video = model.config.video_config
    assert (video.num_frames, video.temporal_windows) == (frames, [1, 2, 2, min(max(frames, 8), 64)])
    assert model.model.video_model.config is video
    for level, window in zip(model.model.video_model.levels, video.temporal_windows, strict=True):
        assert level.window == (window, 2, 3)
        rows = (2 * window - 1) * 3 * 5
        assert all(len(block.attn.relative_position_bias_table) == rows for block in level.blocks)
    with pytest.raises(ValueError, match=f"positions for {frames} frames"):
        fused(model, frames + 4)


def test_the_stored_number_of_frames_changes_nothing() -> None:
    model = tiny_model(LFVilaForPreTraining)
    before = dict(model.named_parameters())
    model.set_num_frames(8)
    model.set_image_size([24, 40])
    after = dict(model.named_parameters())
    assert set(before) == set(after) and all(after[name] is before[name] for name in before)


def test_fewer_frames_leave_the_video_tower_as_it_was() -> None:
    model = tiny_model(LFVilaVideoModel, tiny_config().video_config)
    videos = random_videos(1, 4)
    with torch.no_grad():
        before = model(videos).last_hidden_state
        model.set_num_frames(4)
        assert torch.equal(model(videos).last_hidden_state, before)


def test_windows_can_be_given() -> None:
    model = tiny_model(LFVilaForPreTraining)
    before = fused(model, 8)
    model.set_num_frames(8, temporal_windows=[2, 2, 2, 4])
    assert model.config.video_config.temporal_windows == [2, 2, 2, 4]
    assert (fused(model, 8) - before).abs().max() > 1e-4


def test_a_convolutional_stem_follows_the_first_window() -> None:
    model = tiny_model(LFVilaVideoModel, tiny_config({"video_stem": "conv"}).video_config)
    assert model.patch_embed.piece == 1
    model.set_num_frames(8, temporal_windows=[2, 2, 2, 8])
    assert model.patch_embed.piece == 2
    assert model(random_videos(1)).last_hidden_state.shape[1] == 8


@pytest.mark.parametrize(("image_size", "places"), [([24, 40], 2), ([48, 64], 4), ([40, 72], 6)])
def test_a_model_reads_another_frame_size(image_size: list[int], places: int) -> None:
    model = tiny_model(LFVilaForPreTraining)
    tables = {n: p for n, p in model.named_parameters() if n.endswith("relative_position_bias_table")}
    model.set_image_size(image_size)
    assert len(model.cross_modal_encoder.video_embeddings.spatial_position_embeddings) == places
    assert fused(model, 8, *image_size).isfinite().all()
    assert model.config.video_config.image_size == image_size
    assert all(dict(model.named_parameters())[name] is table for name, table in tables.items())


def test_a_spatial_window_can_be_given_with_the_frame_size() -> None:
    model = tiny_model(LFVilaForPreTraining)
    model.set_image_size([48, 80], spatial_window=[3, 5])
    table = model.model.video_model.levels[0].blocks[0].attn.relative_position_bias_table
    assert len(table) == 1 * 5 * 9
    assert fused(model, 8, 48, 80).isfinite().all()


def test_frozen_parameters_stay_frozen_and_keep_their_dtype() -> None:
    model = tiny_model(LFVilaForPreTraining).to(torch.float16)
    model.set_training_phase("fusion")
    model.set_num_frames(16)
    table = model.model.video_model.levels[3].blocks[0].attn.relative_position_bias_table
    positions = model.cross_modal_encoder.video_embeddings.temporal_position_embeddings
    assert (table.requires_grad, positions.requires_grad) == (False, True)
    assert table.dtype == positions.dtype == torch.float16


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_frames": 16},
        {"num_frames": 4, "temporal_windows": [1, 1, 1, 4]},
        {"image_size": [48, 80], "spatial_window": [3, 3]},
        {"num_frames": 128, "image_size": [40, 40]},
    ],
    ids=str,
)
@pytest.mark.parametrize("loader", [LFVilaForPreTraining, AutoModelForPreTraining])
def test_a_checkpoint_is_loaded_at_its_size_and_then_changed(tmp_path: Path, loader: Any, sizes: dict) -> None:
    expected = tiny_model(LFVilaForPreTraining)
    expected.save_pretrained(tmp_path / "stored")
    expected.set_num_frames(sizes.get("num_frames", 8), sizes.get("temporal_windows"))
    expected.set_image_size(sizes.get("image_size", [24, 40]), sizes.get("spatial_window"))
    loaded = loader.from_pretrained(tmp_path / "stored", **sizes)
    for name in VIDEO_SIZES:
        assert getattr(loaded.config.video_config, name) == getattr(expected.config.video_config, name)
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name

    loaded.save_pretrained(tmp_path / "changed")
    again, info = loader.from_pretrained(tmp_path / "changed", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    video = again.config.video_config
    assert torch.equal(
        fused(again, video.num_frames, *video.image_size), fused(loaded, video.num_frames, *video.image_size)
    )


def test_a_size_can_be_given_with_the_loading_info_and_to_auto_model(tmp_path: Path) -> None:
    tiny_model(LFVilaModel).save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, num_frames=16, output_loading_info=True)
    assert isinstance(model, LFVilaModel) and not info["missing_keys"]
    assert model.config.num_frames == 16


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.set_num_frames(0), "num_frames must be a positive integer, got 0"),
        (lambda model: model.set_num_frames(True), "num_frames must be a positive integer, got True"),
        (lambda model: model.set_num_frames(8.0), "num_frames must be a positive integer, got 8.0"),
        (lambda model: model.set_num_frames(10), "num_frames=10 is not divisible by num_clips=4"),
        (lambda model: model.set_num_frames(8, [1, 2]), "one entry per level"),
        (lambda model: model.set_num_frames(8, [1, 2, 2, 0]), "temporal_windows must be positive"),
        (lambda model: model.set_image_size([24]), "image_size must be two positive numbers"),
        (lambda model: model.set_image_size([0, 40]), "image_size must be two positive numbers"),
        (lambda model: model.set_image_size([24, 40], [2]), "spatial_window must be two positive numbers"),
    ],
)
def test_a_size_that_cannot_be_is_an_error_and_changes_nothing(change: Any, message: str) -> None:
    model = tiny_model(LFVilaForPreTraining)
    parameters, fields = dict(model.named_parameters()), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        change(model)
    assert model.config.to_dict() == fields
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_a_model_without_clip_features_takes_any_number_of_frames() -> None:
    model = tiny_model(LFVilaVideoModel, tiny_config().video_config)
    model.set_num_frames(7)
    assert model(random_videos(1, 7)).last_hidden_state.shape[1] == 7


def test_a_text_tower_has_no_frames() -> None:
    with pytest.raises(ValueError, match="LFVilaTextModel has no video side"):
        tiny_model(LFVilaTextModel, tiny_config().text_config).set_num_frames(8)

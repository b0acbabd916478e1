"""Attention maps: cells of windows go back to their places, maps are means of weights, the model is left as it was.

What the attention itself computes is tested in test_modeling_video_lfvila.py.
"""

from __future__ import annotations

import pytest
import torch
from tiny_models import VIDEO, random_videos, tiny_model

from lfvila_hf import LFVilaModel
from lfvila_hf.library.attention_maps import attention_received, on_grid


def test_cells_go_back_to_their_places() -> None:
    frames, rows, columns = grid = (4, 5, 6)
    t, r, c = window = (2, 2, 3)
    shift = (0, 1, 1)
    place = torch.arange(frames * rows * columns).view(grid).float()
    padded = torch.nn.functional.pad(place, (0, 0, 0, 1)).roll((-1, -1), (1, 2))  # (4, 6, 6), as the layer rolls it
    windows = padded.view(2, t, 3, r, 2, c).permute(0, 2, 4, 1, 3, 5).reshape(12, t * r * c)
    assert torch.equal(on_grid(windows / (t * r * c), torch.Size((1, *grid, 8)), window, shift), place)


def test_maps_have_the_grid_of_their_level_and_a_mean_of_one() -> None:
    model = tiny_model(LFVilaModel).video_model
    pixels = random_videos(1)
    maps = attention_received(model, pixels)
    assert [tuple(one.shape) for one in maps] == [(8, 6, 10), (8, 3, 5), (8, 2, 3), (8, 1, 2)]
    for one, exact in zip(maps, (False, False, True, True), strict=True):
        assert (one >= 0).all() and one.std() > 1e-3, "all places look alike"
        if exact:  # no cell fills a window up, so every weight lies on the grid
            assert one.mean().item() == pytest.approx(1, abs=1e-5)


def test_the_last_level_agrees_with_the_weights_of_the_model() -> None:
    model = tiny_model(LFVilaModel).video_model
    pixels = random_videos(1)
    last = attention_received(model, pixels)[-1]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(pixels, output_attentions=True).attentions[-1]  # (windows, A, V, V)
    expected = weights.mean((1, 2)).view(VIDEO["num_frames"], 1, 2) * weights.shape[-1]
    torch.testing.assert_close(last, expected)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model(LFVilaModel).video_model.train()
    before = model.config._attn_implementation
    attention_received(model, random_videos(1))
    assert model.training and model.config._attn_implementation == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.levels.modules())
    with pytest.raises(ValueError, match="attention is drawn for one video, got 2"):
        attention_received(model, random_videos(2))

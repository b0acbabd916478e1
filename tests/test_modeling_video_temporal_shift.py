"""`temporal_shift`: windows above the clip level reach across their neighbours' borders in time, and only there.

What it needs of segments is tested in test_long_videos.py, shifts in space in test_modeling_video_lfvila.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import random_videos, tiny_config, tiny_model
from torch.nn import functional as F

from lfvila_hf import LFVilaVideoModel
from lfvila_hf.resizing_lfvila import relative_position_index

# The same block written out; the largest difference measured is 4e-6.
ROUNDING = 2e-5
WINDOWS = [1, 2, 4, 8]


def make_tower(shift: bool, **fields: Any) -> LFVilaVideoModel:
    video = {"temporal_windows": WINDOWS, "clip_level": 1, "depths": [1, 2, 2, 2], "temporal_shift": shift} | fields
    return tiny_model(LFVilaVideoModel, tiny_config(video=video).video_config)


def reached(tower: LFVilaVideoModel, frames: int, place: int, name: str) -> list[int]:
    """The frames that one frame of an output depends on."""
    pixels = random_videos(1, frames).requires_grad_(True)
    output = tower(pixels)[name]
    (gradient,) = torch.autograd.grad(output[0, place].sum(), pixels)
    return gradient[0].flatten(1).abs().amax(1).nonzero().flatten().tolist()


def test_the_last_level_sees_across_windows_and_the_clip_level_does_not() -> None:
    plain, shifted = make_tower(False), make_tower(True)
    assert reached(plain, 32, 10, "last_hidden_state") == list(range(8, 16))
    assert reached(shifted, 32, 10, "last_hidden_state") == list(range(0, 20))
    for tower in (plain, shifted):
        assert reached(tower, 32, 10, "clip_hidden_state") == [10, 11]


def test_a_video_of_one_window_is_not_shifted_and_released_towers_never_are() -> None:
    pixels = random_videos(2, 4)
    plain, shifted = make_tower(False), make_tower(True)
    with torch.no_grad():
        assert torch.equal(plain(pixels).last_hidden_state, shifted(pixels).last_hidden_state)
        longer = random_videos(2, 8)  # one window of level 3, two of level 2
        assert not torch.allclose(plain(longer).last_hidden_state, shifted(longer).last_hidden_state, atol=1e-3)
    assert tiny_config().video_config.temporal_shift is False


@pytest.mark.parametrize("frames", [16, 13])
def test_a_shifted_block_is_attention_over_windows_that_begin_half_a_window_early(frames: int) -> None:
    """Against a loop over windows; missing cells are zeros after the first LayerNorm, as in any window filled up."""
    tower = make_tower(True)
    level: Any = tower.levels[2]
    grid = torch.randn(2, frames, 2, 3, tower.config.channels[2], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = written_out(level.blocks[1], written_out(level.blocks[0], grid, 4, 0), 4, 2)
        torch.testing.assert_close(level(grid), expected, atol=ROUNDING, rtol=0)


def written_out(block: Any, grid: torch.Tensor, t: int, front: int) -> torch.Tensor:
    """One block over windows of t frames and the whole grid, the first of which begins `front` frames early."""
    batch, frames, rows, columns, channels = grid.shape
    normed = block.norm1(grid)
    attended = torch.zeros_like(grid)
    index = relative_position_index((t, rows, columns)).flatten()
    cells, heads, width = t * rows * columns, block.attn.num_heads, block.attn.head_dim
    bias = block.attn.relative_position_bias_table[index].view(cells, cells, heads).permute(2, 0, 1)
    for first in range(-front, frames, t):
        window = torch.zeros(batch, t, rows, columns, channels)
        for place in range(t):
            if 0 <= first + place < frames:
                window[:, place] = normed[:, first + place]
        qkv = block.attn.qkv(window.flatten(1, 3)).view(batch, cells, 3, heads, width).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-1, -2) * width**-0.5 + bias).softmax(-1)
        out = block.attn.proj((weights @ qkv[2]).transpose(1, 2).flatten(2)).view(window.shape)
        for place in range(t):
            if 0 <= first + place < frames:
                attended[:, first + place] = out[:, place]
    grid = grid + attended
    hidden = block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(grid))))
    return grid + hidden


def test_gradients_flow_and_hidden_states_keep_their_shape() -> None:
    tower = make_tower(True).train()
    output = tower(random_videos(1, 20), output_hidden_states=True)
    output.last_hidden_state.square().mean().backward()
    top: Any = tower.levels[3]
    assert top.blocks[1].attn.relative_position_bias_table.grad.abs().sum() > 0
    assert all(state.shape[:2] == (1, 20) for state in output.hidden_states)
    assert type(tower.config).from_dict(tower.config.to_dict()).temporal_shift is True

"""Video tower: windows, shifts in space and time, bias tables, stems, merging, pooling, clip features, odd sizes.

Window attention is compared with a loop over windows and cells. Properties of all models (checkpointing, backends,
saving, batches) are tested in invariants/test_equivalences.py, compilation in invariants/test_compiling.py, changes of
the size of video in test_size_of_video.py, released numbers in parity/.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from tiny_models import VIDEO, random_videos, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F

from lfvila_hf import LFVilaVideoConfig, LFVilaVideoModel
from lfvila_hf.modeling_video_lfvila import (
    LFVilaDropPath,
    LFVilaPatchMerging,
    LFVilaPatchStem,
    merge_windows,
    partition_windows,
    relative_position_index,
    shifted_window_mask,
)

# float32 sums in another order; the largest difference measured is 1.3e-6 for outputs of size 5
FLOAT32_NOISE = 1e-5


def video_model(**fields: Any) -> LFVilaVideoModel:
    """Build the tiny tower with random weights, in evaluation mode; eager attention returns its weights."""
    return tiny_model(LFVilaVideoModel, LFVilaVideoConfig(**VIDEO | fields, attn_implementation="eager"))


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "window", "shift"),
    [
        ((4, 6, 10), (2, 3, 5), (0, 1, 2)),
        ((4, 6, 10), (2, 3, 5), (0, 0, 0)),
        ((3, 3, 5), (3, 3, 5), (0, 0, 0)),
        ((5, 7, 11), (2, 3, 5), (0, 1, 2)),  # padded on every axis
        ((2, 6, 4), (1, 3, 4), (0, 1, 0)),
        ((5, 6, 4), (4, 3, 4), (2, 1, 0)),  # shifted in time: begins two frames early, ends one late
    ],
)
def test_windows_are_slices_of_the_padded_and_rolled_grid_and_go_back(
    sizes: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    grid = torch.arange(1, 6 * math.prod(sizes) + 1, dtype=torch.float64).view(2, *sizes, 3)
    early = shift[0]
    filled = (sizes[0] + early, *sizes[1:])
    padded = torch.zeros(2, *(size + -size % cells for size, cells in zip(filled, window, strict=True)), 3).double()
    padded[:, early : early + sizes[0], : sizes[1], : sizes[2]] = grid
    rolled = padded.roll((-shift[1], -shift[2]), (2, 3))
    t, r, c = window
    tiles = list(itertools.product(range(0, padded.shape[2], r), range(0, padded.shape[3], c)))
    expected = [
        torch.stack([video[s : s + t, i : i + r, j : j + c].reshape(-1, 3) for i, j in tiles])
        for video in rolled
        for s in range(0, padded.shape[1], t)
    ]
    windows = partition_windows(grid, window, shift)
    assert torch.equal(windows, torch.stack(expected))
    assert torch.equal(merge_windows(windows, window, shift, grid.shape), grid)


# -- positions and masks ---------------------------------------------------------------------------------------------


def table_row(offset: tuple[int, ...], window: tuple[int, ...]) -> int:
    """Return the row of the bias table for an offset (frames, rows, columns) between two cells of a window."""
    row = 0
    for distance, size in zip(offset, window, strict=True):
        row = row * (2 * size - 1) + distance + size - 1
    return row


@pytest.mark.parametrize("window", [(1, 1, 1), (2, 3, 5), (8, 2, 3), (3, 1, 4)])
def test_the_relative_position_index_equals_a_loop_for_every_smaller_window_too(window: tuple[int, int, int]) -> None:
    index = relative_position_index(window)
    assert index.shape == window + window
    for smaller in itertools.product(*(range(1, size + 1) for size in window)):
        t, r, c = smaller
        cells = list(itertools.product(range(t), range(r), range(c)))
        loop = [[table_row(tuple(a - b for a, b in zip(q, k, strict=True)), window) for k in cells] for q in cells]
        assert index[:t, :r, :c, :t, :r, :c].reshape(len(cells), len(cells)).tolist() == loop
    assert index.max() == math.prod(2 * size - 1 for size in window) - 1 and index.min() == 0


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [
        ((6, 10), (2, 3, 5), (1, 2)),
        ((24, 40), (1, 3, 5), (1, 2)),
        ((3, 10), (1, 3, 5), (0, 2)),
        ((6, 5), (2, 3, 5), (1, 0)),
    ]
    + [((6, 12), (1, 2, 3), (1, 1)), ((8, 8), (1, 4, 4), (2, 2))],
)
def test_the_mask_of_shifted_windows_equals_a_loop(
    grid: tuple[int, int], window: tuple[int, int, int], shift: tuple[int, int]
) -> None:
    mask = shifted_window_mask(grid, window, shift, torch.zeros(()))
    frames, rows, columns = window
    loop = []
    for top, left in itertools.product(range(0, grid[0], rows), range(0, grid[1], columns)):
        # where a cell of this window was before the roll; cells are neighbours if nothing came round between them
        cells = list(itertools.product(range(frames), range(top, top + rows), range(left, left + columns)))
        before = [((i + shift[0]) % grid[0] - i, (j + shift[1]) % grid[1] - j) for _, i, j in cells]
        loop.append([[0.0 if q == k else -100.0 for k in before] for q in before])
    assert mask.tolist() == loop
    assert (mask == -100).any() and (mask == 0).any()


# -- window attention ------------------------------------------------------------------------------------------------


def slow_attention(layer: Any, hidden: torch.Tensor, full: tuple[int, int, int], shifted: bool) -> torch.Tensor:
    """Compute the attention of one block per window and cell, before the residual; `(B, T, h, w, C)`."""
    sizes = hidden.shape[1:4]
    window = [min(cells, size) for cells, size in zip(full, sizes, strict=True)]
    padded = [-(-size // cells) * cells for size, cells in zip(sizes, window, strict=True)]
    shift = [0] + [w // 2 if shifted and size > w else 0 for size, w in zip(sizes[1:], window[1:], strict=True)]
    grid = torch.zeros(len(hidden), *padded, hidden.shape[-1])
    grid[:, : sizes[0], : sizes[1], : sizes[2]] = layer.norm1(hidden)
    result = torch.zeros_like(grid)
    heads, width, attention = layer.attn.num_heads, layer.attn.head_dim, layer.attn
    for origin in itertools.product(*(range(0, size, cells) for size, cells in zip(padded, window, strict=True))):
        rolled = list(itertools.product(*(range(o, o + cells) for o, cells in zip(origin, window, strict=True))))
        places = [tuple((p + s) % n for p, s, n in zip(cell, shift, padded, strict=True)) for cell in rolled]
        bias = torch.zeros(heads, len(places), len(places))
        for (q, (cell_q, place_q)), (k, (cell_k, place_k)) in itertools.product(
            enumerate(zip(rolled, places, strict=True)), repeat=2
        ):
            offset = tuple(a - b for a, b in zip(cell_q, cell_k, strict=True))
            bias[:, q, k] = attention.relative_position_bias_table[table_row(offset, full)]
            if tuple(a - b for a, b in zip(place_q, place_k, strict=True)) != offset:
                bias[:, q, k] -= 100.0
        for video in range(len(hidden)):
            tokens = torch.stack([grid[(video, *place)] for place in places])  # (V, C)
            query, key, value = attention.qkv(tokens).view(len(places), 3, heads, width).unbind(1)
            out = []
            for head in range(heads):
                scores = query[:, head] @ key[:, head].T * width**-0.5 + bias[head]
                out.append(scores.softmax(-1) @ value[:, head])
            for place, row in zip(places, attention.proj(torch.cat(out, -1)), strict=True):
                result[(video, *place)] = row
    return result[:, : sizes[0], : sizes[1], : sizes[2]]


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [(4, 6, 9), (4, 4, 6), (6, 4, 6), (5, 5, 7), (3, 2, 3), (1, 1, 2), (2, 3, 2), (2, 2, 7), (7, 4, 3)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_two_blocks_equal_a_loop_over_windows_and_cells(sizes: tuple[int, int, int], backend: str) -> None:
    model = video_model(temporal_windows=[3, 2, 2, 8])
    model.set_attn_implementation(backend)
    level: Any = model.levels[0]
    assert level.window == (3, 2, 3) and len(level.blocks) == 2
    hidden = torch.randn(2, *sizes, 8)
    expected = hidden
    for number, layer in enumerate(level.blocks):
        expected = expected + slow_attention(layer, expected, level.window, shifted=number % 2 == 1)
        expected = expected + layer.mlp(layer.norm2(expected))
    torch.testing.assert_close(level(hidden), expected, atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)
    flat = slow_attention(level.blocks[1], hidden, level.window, shifted=False)
    moved = slow_attention(level.blocks[1], hidden, level.window, shifted=True)
    is_shifted = sizes[1] > 2 or sizes[2] > 3
    assert is_shifted == (not torch.equal(flat, moved)), "the case does not show what it is here for"


def test_blocks_are_shifted_in_turn_and_counted_from_each_level() -> None:
    model, seen = video_model(), []
    for level in model.levels:
        for layer in level.blocks:
            layer.attn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2] is not None))
    model(random_videos(1))
    # grids 6 x 10, 3 x 5, 2 x 3 and 1 x 2; windows of 2 x 3 cover the last two
    assert seen == [False, True, False, True, False, False, False]


# -- stems -----------------------------------------------------------------------------------------------------------


def test_the_patch_stem_is_a_strided_convolution() -> None:
    stem = video_model().patch_embed
    assert isinstance(stem, LFVilaPatchStem) and isinstance(stem.proj, nn.Conv3d)
    frames = random_videos(2)
    expected = stem.proj(frames.transpose(1, 2)).permute(0, 2, 3, 4, 1)  # (B, T, h, w, C)
    assert expected.shape == (2, 8, 6, 10, 8)
    torch.testing.assert_close(stem(frames), stem.norm(expected), atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


@pytest.mark.parametrize(("patch", "steps"), [(1, 1), (2, 1), (4, 2), (8, 3)])
def test_the_conv_stem_ends_at_one_cell_per_patch(patch: int, steps: int) -> None:
    model = video_model(video_stem="conv", patch_size=patch)
    assert len(model.patch_embed.convolutions) == steps
    assert model.patch_embed(random_videos(2, frames=3)).shape == (2, 3, 24 // patch, 40 // patch, 8)


def test_the_conv_stem_mixes_neighbouring_frames_of_one_window_only() -> None:
    stem = video_model(video_stem="conv", temporal_windows=[2, 2, 2, 8]).patch_embed
    frames = random_videos(1)
    changed = frames.clone()
    changed[:, 3] += 1
    moved = (stem(changed) != stem(frames)).flatten(2).any(-1)[0]
    assert moved.tolist() == [False, False, True, True, False, False, False, False]


# -- merging and pooling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (3, 5), (1, 2), (1, 1)])
def test_merging_joins_neighbours_in_the_released_order(rows: int, columns: int) -> None:
    merging = LFVilaPatchMerging(LFVilaVideoConfig(**VIDEO), 3, 7)
    hidden = torch.randn(2, 5, rows, columns, 3)
    padded = torch.zeros(2, 5, rows + rows % 2, columns + columns % 2, 3)
    padded[:, :, :rows, :columns] = hidden
    quarters = [padded[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merging.reduction(merging.norm(torch.cat(quarters, -1)))
    assert expected.shape == (2, 5, -(-rows // 2), -(-columns // 2), 7)
    torch.testing.assert_close(merging(hidden), expected, atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(3, 5, 6), (2, 3, 1), (1, 2, 1), (7, 4, 12)])
def test_pooling_is_a_maximum_with_stride_one(rows: int, columns: int, tokens: int) -> None:
    grid = torch.randn(2, 4, rows, columns, 6)
    kernel = (min(2, rows), min(3, columns))
    expected = F.max_pool2d(grid.flatten(0, 1).permute(0, 3, 1, 2), kernel, stride=1)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, (2, 4))  # (B, T, P, D)
    pooled = video_model(pool_size=[2, 3]).pool(grid)
    assert pooled.shape == (2, 4, tokens, 6) and torch.equal(pooled, expected)


def test_a_clip_feature_is_the_mean_of_its_tokens_and_the_video_feature_that_of_the_clips() -> None:
    model = video_model(image_size=[48, 80], pool_size=[1, 2])
    output = model(random_videos(2, height=48, width=80))
    assert output.last_hidden_state.shape == (2, 8, 2, 3, 64) and output.tokens.shape == (2, 8, 4, 64)
    clips = model.clip_features(output.last_hidden_state)
    for video, clip in itertools.product(range(2), range(4)):
        tokens = [output.tokens[video, frame, place] for frame in (2 * clip, 2 * clip + 1) for place in range(4)]
        torch.testing.assert_close(clips[video, clip], torch.stack(tokens).mean(0))
    torch.testing.assert_close(output.pooler_output, clips.mean(1))


def test_the_clip_level_has_a_merging_and_a_norm_of_its_own() -> None:
    model = video_model()
    captured = {}
    model.levels[2].register_forward_hook(lambda _, arguments, result: captured.update(level=result))
    output = model(random_videos(2))
    expected = model.clip_norm(model.clip_merging(captured["level"]))
    assert torch.equal(output.clip_hidden_state, expected) and output.clip_hidden_state.shape == (2, 8, 1, 2, 64)


# -- what a clip can see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_no_information_crosses_a_clip_up_to_the_clip_level(stem: str) -> None:
    model = video_model(video_stem=stem, temporal_windows=[2, 2, 2, 8])
    frames = random_videos(2)
    changed = frames.clone()
    changed[:, 4:6] = torch.randn_like(changed[:, 4:6])  # the third of four clips
    before, after = model(frames), model(changed)
    moved = model.clip_features(after.clip_hidden_state) - model.clip_features(before.clip_hidden_state)
    assert not moved[:, [0, 1, 3]].any(), "another clip's feature has changed"
    assert moved[:, 2].abs().max() > 0.1
    last = model.clip_features(after.last_hidden_state) - model.clip_features(before.last_hidden_state)
    assert last.abs().amax(-1).min() > 1e-4, "the last level does not look across clips"


def test_windows_longer_than_a_clip_do_look_across() -> None:
    model = video_model(temporal_windows=[2, 2, 4, 8])
    frames = random_videos(1)
    changed = frames.clone()
    changed[:, 4:6] += 1
    moved = model.clip_features(model(changed).clip_hidden_state) - model.clip_features(model(frames).clip_hidden_state)
    assert not moved[:, :2].any() and moved[:, 3].any()


# -- sizes -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 17, 33, 64])
def test_any_number_of_frames_is_encoded(frames: int) -> None:
    for stem in ("patch", "conv"):
        output = video_model(video_stem=stem)(random_videos(1, frames=frames))
        assert output.last_hidden_state.shape == (1, frames, 1, 2, 64)
        assert output.tokens.shape == (1, frames, 2, 64) and output.tokens.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(("height", "width"), [(50, 83), (1, 1), (23, 7), (96, 4)])
def test_any_frame_size_is_encoded_and_filled_up_with_zeros_to_whole_patches(
    stem: str, height: int, width: int
) -> None:
    model = video_model(video_stem=stem)
    frames = random_videos(1, frames=3, height=height, width=width)
    output = model(frames)
    filled = torch.zeros(1, 3, 3, -(-height // 4) * 4, -(-width // 4) * 4)
    filled[..., :height, :width] = frames
    assert torch.equal(output.last_hidden_state, model(filled).last_hidden_state)
    rows, columns = -(-height // 4), -(-width // 4)
    for _ in range(3):
        rows, columns = -(-rows // 2), -(-columns // 2)
    assert output.last_hidden_state.shape == (1, 3, rows, columns, 64)
    assert output.last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 3, 24, 40), r"must be \(B, T, 3, H, W\), none of them 0, got \(8, 3, 24, 40\)"),
        ((1, 8, 1, 24, 40), r"got \(1, 8, 1, 24, 40\)"),
        ((1, 3, 8, 24, 40), r"got \(1, 3, 8, 24, 40\)"),
        ((1, 0, 3, 24, 40), r"got \(1, 0, 3, 24, 40\)"),
        ((0, 8, 3, 24, 40), r"got \(0, 8, 3, 24, 40\)"),
        ((1, 8, 3, 0, 40), r"got \(1, 8, 3, 0, 40\)"),
    ],
)
def test_frames_of_another_shape_are_named(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        video_model()(torch.zeros(shape))


def test_what_is_no_batch_of_normalised_frames_is_named() -> None:
    model = video_model()
    with pytest.raises(ValueError, match=r"floating-point pixels .* got torch\.uint8"):
        model(torch.zeros(1, 8, 3, 24, 40, dtype=torch.uint8))
    with pytest.raises(ValueError, match="pixel_values_videos .* is expected, got None"):
        model(None)
    with pytest.raises(ValueError, match="6 frames are not divisible by num_clips=4"):
        model.clip_features(model(random_videos(1, frames=6)).last_hidden_state)
    with pytest.raises(ValueError, match=r"takes a LFVilaVideoConfig .* got a LFVilaConfig \(model_type 'lfvila'\)"):
        LFVilaVideoModel(tiny_config())


# -- captured states, dropout ----------------------------------------------------------------------------------------


def test_hidden_states_and_attentions_have_one_entry_per_block() -> None:
    model = video_model()
    output = model(random_videos(2), output_hidden_states=True, output_attentions=True)
    grids = [(6, 10, 8)] * 3 + [(3, 5, 16)] * 2 + [(2, 3, 32)] * 2 + [(1, 2, 64)]
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 8, *grid) for grid in grids]
    # windows of 1, 2, 2 and 8 frames; 3 x 4, 2 x 2, 1 x 1 and 1 x 1 tiles; 1, 2, 2 and 4 heads
    shapes = [(2 * 8 * 12, 1, 6, 6)] * 2 + [(2 * 4 * 4, 2, 12, 12)] * 2 + [(2 * 4, 2, 12, 12)] * 2 + [(2, 4, 16, 16)]
    assert [tuple(weights.shape) for weights in output.attentions] == shapes
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    plain = model(random_videos(2))
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(plain.last_hidden_state, output.last_hidden_state)


def test_the_weights_of_shifted_windows_come_tile_by_tile_as_those_of_unshifted_ones() -> None:
    weights = video_model()(random_videos(2), output_attentions=True).attentions[1]
    allowed = shifted_window_mask((6, 12), (1, 2, 3), (1, 1), torch.zeros(())) == 0  # (S, V, V)
    forbidden = weights.view(16, 12, 1, 6, 6)[:, ~allowed[:, None]]
    assert forbidden.numel() and forbidden.max() < 1e-30


def test_stochastic_depth_rises_linearly_over_all_blocks() -> None:
    with torch.device("meta"):
        model = LFVilaVideoModel(LFVilaVideoConfig())
    rates = [module.rate for module in model.modules() if isinstance(module, LFVilaDropPath)]
    assert rates == pytest.approx([0.2 * block / 23 for block in range(24)])


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    drop = LFVilaDropPath(0.25)
    ones = torch.ones(4000, 2, 3)
    dropped = drop(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(ones), ones)


def test_stochastic_depth_acts_in_training_only() -> None:
    model = video_model(drop_path_rate=0.5)
    frames = random_videos(1)
    assert torch.equal(model(frames).tokens, model(frames).tokens)
    model.train()
    assert not torch.equal(model(frames).tokens, model(frames).tokens)


# -- shifts in time --------------------------------------------------------------------------------------------------


WINDOWS = [1, 2, 4, 8]


def make_tower(shift: bool, **fields: Any) -> LFVilaVideoModel:
    video = {"temporal_windows": WINDOWS, "clip_level": 1, "depths": [1, 2, 2, 2], "temporal_shift": shift} | fields
    return tiny_model(LFVilaVideoModel, tiny_config(video=video).video_config)


def reached(tower: LFVilaVideoModel, frames: int, place: int, name: str) -> list[int]:
    """Find the frames that one frame of an output depends on."""
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
    """Compare with a loop over windows; missing cells are zeros after the first LayerNorm."""
    tower = make_tower(True)
    level: Any = tower.levels[2]
    grid = torch.randn(2, frames, 2, 3, tower.config.channels[2], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = written_out(level.blocks[1], written_out(level.blocks[0], grid, 4, 0), 4, 2)
        torch.testing.assert_close(level(grid), expected, atol=2e-5, rtol=0)


def written_out(block: Any, grid: torch.Tensor, t: int, front: int) -> torch.Tensor:
    """Compute one block over windows of t frames and the whole grid; the first begins `front` frames early."""
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

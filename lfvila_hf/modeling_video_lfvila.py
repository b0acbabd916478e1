# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Video tower with hierarchical temporal window attention (HTWA).

Paper section 3.2; released `src/modeling/video_encoder.py` (microsoft/XPretrain, LF-VILA, MIT), which builds on Swin
Transformer. A pyramid over space and time: frames are cut into patches, six levels attend inside windows of `t x r x c`
patches, and patch merging halves the grid between levels. The temporal window `t` grows from level to level. Windows
are short where grids are large, and long where grids are small.

Cost and memory grow linearly with the number of frames.

Letters: B videos, T frames, K clips, H W pixels, h w patch grid, P tokens per frame, C channels of a level, D shared
width. Windows: t r c frames, rows and columns of one window, V = t*r*c its cells, S windows that tile one frame's grid,
G = B*T/t groups (one group is t frames of one video), A attention heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_lfvila import LFVilaVideoConfig
from .modeling_base_lfvila import (
    LFVilaPreTrainedModel,
    LFVilaVideoModelOutput,
    backend_options,
    eager_attention_forward,
    interpolation_dtype,
    resized_parameter,
)

# -- windows ---------------------------------------------------------------------------------------------------------


def fit_window(window: Sequence[int], grid: Sequence[int]) -> tuple[int, int, int]:
    """Shrink a window `(t, r, c)` to the grid `(T, h, w)` on every axis that is shorter than the window."""
    # A comparison, not `min`: `torch.compile` then knows which of the two sizes it is.
    frames, rows, columns = (cells if cells <= size else size for cells, size in zip(window, grid, strict=True))
    return frames, rows, columns


def window_padding(
    sizes: Sequence[int], window: tuple[int, int, int], shift: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Compute the cells that fill windows up: frames before and after, rows below, columns beside a `(T, h, w)` grid.

    A shift in time does not wrap around: the first window begins that many frames early.
    """
    early = shift[0]
    late, below, beside = (-size % cells for size, cells in zip((sizes[0] + early, *sizes[1:]), window, strict=True))
    return early, late, below, beside


def partition_windows(grid: torch.Tensor, window: tuple[int, int, int], shift: tuple[int, int, int]) -> torch.Tensor:
    """Cut a grid into windows.

    Args:
        grid: `(B, T, h, w, C)`; filled up with zeros where windows reach beyond it.
        window: `(t, r, c)`, no longer than the grid on any axis.
        shift: Frames, rows and columns that windows are shifted by.

    Returns:
        `(G, S, V, C)`.
    """
    t, r, c = window
    early, late, below, beside = window_padding(grid.shape[1:4], window, shift)
    if early or late or below or beside:
        grid = F.pad(grid, (0, 0, 0, beside, 0, below, early, late))
    if shift[1] or shift[2]:
        grid = grid.roll((-shift[1], -shift[2]), (2, 3))
    grid = grid.unflatten(3, (-1, c)).unflatten(2, (-1, r)).unflatten(1, (-1, t))  # (B, T/t, t, h/r, r, w/c, c, C)
    return grid.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(2, 3).flatten(0, 1)


def merge_windows(
    windows: torch.Tensor, window: tuple[int, int, int], shift: tuple[int, int, int], shape: torch.Size
) -> torch.Tensor:
    """Put windows `(G, S, V, C)` back into a grid of `shape`, `(B, T, h, w, C)`; undoes `partition_windows`."""
    batch, frames, rows, columns = shape[:4]
    t, r, c = window
    early, late, below, beside = window_padding(shape[1:4], window, shift)
    grid = windows.view(batch, -1, (rows + below) // r, (columns + beside) // c, t, r, c, windows.shape[-1])
    grid = grid.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    if shift[1] or shift[2]:
        grid = grid.roll((shift[1], shift[2]), (2, 3))
    if early or late or below or beside:
        grid = grid[:, early : early + frames, :rows, :columns]
    return grid


def shifted_window_mask(
    grid: tuple[int, int], window: tuple[int, int, int], shift: tuple[int, int], like: torch.Tensor
) -> torch.Tensor:
    """Compute the additive mask that separates cells which only a cyclic shift made neighbours.

    Args:
        grid: Rows and columns of the padded grid.
        window: `(t, r, c)`.
        shift: Rows and columns that the grid was rolled up and left by.
        like: Tensor that gives dtype and device.

    Returns:
        `(S, V, V)`: 0 for cells of one region of the unrolled grid, -100 (as released) for cells of different regions.
    """
    regions = []
    for size, cells, step in zip(grid, window[1:], shift, strict=True):
        position = torch.arange(size, device=like.device)
        # Regions of an axis: windows that the roll left alone, the last window's own part, cells rolled in.
        region = (position >= size - cells).long() + (position >= size - step).long() if step else position * 0
        regions.append(region.view(-1, cells))  # (windows along this axis, cells)
    rows, columns = regions
    region = rows[:, None, :, None] * 3 + columns[None, :, None, :]  # (nr, nc, r, c)
    region = region.reshape(-1, 1, window[1] * window[2])  # (S, 1, r*c)
    region = region.expand(-1, window[0], -1).flatten(1)  # (S, V)
    return (region[:, :, None] != region[:, None, :]).to(like.dtype) * -100.0


def relative_position_index(window: tuple[int, int, int]) -> torch.Tensor:
    """Compute the row of the bias table for every pair of cells of a window `(t, r, c)`.

    The table is ordered by time offset, then row offset, then column offset, each from -(size - 1) to size - 1.

    Returns:
        `(t, r, c, t, r, c)` int64. Slicing every axis to a smaller window gives that window's rows of the same table.
    """
    frames, rows, columns = window
    index = torch.zeros(window + window, dtype=torch.int64)
    for axis, stride in enumerate(((2 * rows - 1) * (2 * columns - 1), 2 * columns - 1, 1)):
        position = torch.arange(window[axis])
        offset = position[:, None] - position[None, :] + window[axis] - 1  # (size, size)
        shape = [1] * 6
        shape[axis], shape[axis + 3] = window[axis], window[axis]
        index = index + stride * offset.view(shape)
    return index


def resize_bias_table(
    table: torch.Tensor, window: tuple[int, int, int], new_window: tuple[int, int, int]
) -> torch.Tensor:
    """Resize a table of relative position bias to another window, bicubically.

    Time offsets are resized alone, row and column offsets together, as the released loader does (it also rounds the
    result to float16; this function does not).

    Args:
        table: `((2t-1)(2r-1)(2c-1), A)` for `window`.
        window: `(t, r, c)` of `table`.
        new_window: `(t, r, c)` of the result.

    Returns:
        The table for `new_window` in the same dtype; `table` itself if the windows are equal.

    Raises:
        ValueError: The table does not have the rows of `window`.
    """
    offsets, new_offsets = ([2 * size - 1 for size in sizes] for sizes in (window, new_window))
    if table.shape[0] != offsets[0] * offsets[1] * offsets[2]:
        raise ValueError(
            f"a bias table for windows of {tuple(window)} has {offsets[0] * offsets[1] * offsets[2]} rows, "
            f"got {table.shape[0]}"
        )
    if offsets == new_offsets:
        return table
    heads = table.shape[1]
    grid = table.T.to(interpolation_dtype(table)).unflatten(1, offsets)  # (A, 2t-1, 2r-1, 2c-1)
    if offsets[0] != new_offsets[0]:
        plane = grid.flatten(2)[:, None]  # (A, 1, 2t-1, (2r-1)(2c-1))
        size = (new_offsets[0], plane.shape[-1])
        grid = F.interpolate(plane, size=size, mode="bicubic").view(heads, -1, *offsets[1:])
    if offsets[1:] != new_offsets[1:]:
        grid = F.interpolate(grid, size=new_offsets[1:], mode="bicubic")  # (A, 2t-1, 2r-1, 2c-1)
    return grid.flatten(1).T.contiguous().to(table.dtype)


# -- stems -----------------------------------------------------------------------------------------------------------


class LFVilaPatchStem(nn.Module):
    """Released stem: one convolution whose stride is its kernel, then LayerNorm."""

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        kernel = (1, *config.patch_shape)
        self.proj = nn.Conv3d(config.num_channels, config.embed_dim, kernel_size=kernel, stride=kernel)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """Map `(B, T, 3, H, W)`, H and W multiples of the patch, to `(B, T, h, w, C)`."""
        return self.norm(self.proj(pixel_values_videos.transpose(1, 2)).permute(0, 2, 3, 4, 1))


class LFVilaConvStem(nn.Module):
    """Overlapping 3 x 3 x 3 convolutions that each halve height and width, then LayerNorm.

    The convolutions run on pieces of one level-0 window of frames, so that no information crosses a clip where windows
    do not.
    """

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        self.piece = config.temporal_windows[0]
        steps = config.patch_shape[0].bit_length() - 1
        widths = [max(config.embed_dim >> (steps - 1 - i), 4) for i in range(steps - 1)] + [config.embed_dim]
        if steps == 0:
            widths = [config.embed_dim]
        stride = (1, 2, 2) if steps else (1, 1, 1)
        sources = [config.num_channels, *widths[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, kernel_size=3, stride=stride, padding=1) for a, b in zip(sources, widths, strict=True)
        )
        self.act = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """Map `(B, T, 3, H, W)`, H and W multiples of the patch, to `(B, T, h, w, C)`."""
        batch, frames = pixel_values_videos.shape[:2]
        missing = -frames % self.piece
        hidden = F.pad(pixel_values_videos, (0, 0, 0, 0, 0, 0, 0, missing))
        hidden = hidden.unflatten(1, (-1, self.piece)).flatten(0, 1).transpose(1, 2)  # (B*pieces, 3, t, H, W)
        for index, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden if index == 0 else self.act(hidden))
        hidden = hidden.permute(0, 2, 3, 4, 1).unflatten(0, (batch, -1)).flatten(1, 2)  # (B, T + missing, h, w, C)
        return self.norm(hidden[:, :frames])


# -- blocks ----------------------------------------------------------------------------------------------------------


class LFVilaDropPath(nn.Module):
    """Stochastic depth: drops a branch for whole samples in training and rescales the rest to keep the mean."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(B, ...)` to the same shape."""
        if not self.training or self.rate == 0.0:
            return hidden_states
        keep = 1.0 - self.rate
        drawn = torch.rand((hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1), device=hidden_states.device)
        return hidden_states * (drawn < keep).to(hidden_states.dtype) / keep

    def extra_repr(self) -> str:
        """Return the rate for the printed model."""
        return f"rate={self.rate:.3f}"


class LFVilaPatchMerging(nn.Module):
    """Concatenation of 2 x 2 neighbours, LayerNorm(4C), Linear(4C, out) without bias. Odd grids are padded by one."""

    def __init__(self, config: LFVilaVideoConfig, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * channels, out_channels, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(B, T, h, w, C)` to `(B, T, ceil(h/2), ceil(w/2), out)`."""
        rows, columns = hidden_states.shape[2:4]
        if rows % 2 or columns % 2:
            hidden_states = F.pad(hidden_states, (0, 0, 0, columns % 2, 0, rows % 2))
        hidden_states = hidden_states.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, T, h/2, 2, w/2, 2, C)
        # Neighbours in the released order: (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
        hidden_states = hidden_states.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # (B, T, h/2, w/2, 4C)
        return self.reduction(self.norm(hidden_states))


class LFVilaVideoAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per head and relative position (time, row, column)."""

    def __init__(self, config: LFVilaVideoConfig, channels: int, num_heads: int, window: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = channels // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.attention_dropout = config.attention_probs_dropout_prob
        table_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, num_heads))
        self.qkv = nn.Linear(channels, 3 * channels, bias=config.qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def relative_position_bias(self, position_index: torch.Tensor) -> torch.Tensor:
        """Look up the bias of every pair of cells: rows of the table `(V, V)` to `(A, V, V)`."""
        # `gather` because the gradient of indexing by a tensor is tens of times slower on a CPU.
        index = position_index.flatten().expand(self.num_heads, -1)
        return self.relative_position_bias_table.T.gather(1, index).view(self.num_heads, *position_index.shape)

    def forward(
        self, windows: torch.Tensor, position_index: torch.Tensor, shift_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend inside every window.

        Args:
            windows: `(G, S, V, C)`.
            position_index: Rows of the bias table, `(V, V)`.
            shift_mask: `(S, V, V)` for shifted windows, else `None`.
            **kwargs: Passed to the attention backend.

        Returns:
            `(G, S, V, C)`, and the weights `(G*S, A, V, V)` if the backend returns them.
        """
        groups, tiles, cells, _ = windows.shape
        qkv = self.qkv(windows).view(groups, tiles, cells, 3, self.num_heads, self.head_dim)
        bias = self.relative_position_bias(position_index)  # (A, V, V)
        if shift_mask is None:  # windows are the batch, and one bias serves them all
            query, key, value = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each (G*S, A, V, d)
            bias = bias[None]
        else:  # windows of a group stand among the heads, so that their masks are stored once for all groups
            query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each (G, S*A, V, d)
            bias = (bias + shift_mask[:, None]).flatten(0, 1)[None]  # (1, S*A, V, V)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, bias, scaling=self.scaling, dropout=dropout, **kwargs)
        if shift_mask is not None:
            out = out.unflatten(2, (tiles, self.num_heads)).transpose(1, 2)  # (G, S, V, A, d)
            weights = weights if weights is None else weights.reshape(-1, self.num_heads, cells, cells)
        out = out.reshape(windows.shape)
        return self.dropout(self.proj(out)), weights


class LFVilaVideoMLP(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, config: LFVilaVideoConfig, channels: int) -> None:
        super().__init__()
        hidden = int(channels * config.mlp_ratio)
        self.fc1 = nn.Linear(channels, hidden)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(..., C)` to the same shape."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(hidden_states)))))


class LFVilaVideoLayer(GradientCheckpointingLayer):
    """One block: `x + attention(norm1(x))` inside windows, then `x + mlp(norm2(x))`."""

    def __init__(
        self,
        config: LFVilaVideoConfig,
        channels: int,
        num_heads: int,
        window: tuple[int, int, int],
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.attn = LFVilaVideoAttention(config, channels, num_heads, window)
        self.norm2 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.mlp = LFVilaVideoMLP(config, channels)
        self.drop_path = LFVilaDropPath(drop_path_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        window: tuple[int, int, int],
        shift: tuple[int, int, int],
        position_index: torch.Tensor,
        shift_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map `(B, T, h, w, C)` to the same shape.

        Args:
            hidden_states: The grid.
            window: `(t, r, c)`, no longer than the grid on any axis.
            shift: Frames, rows and columns that windows are shifted by; all 0 in even blocks.
            position_index: See `LFVilaVideoAttention`.
            shift_mask: See `LFVilaVideoAttention`.
            **kwargs: Passed to the attention backend.
        """
        windows = partition_windows(self.norm1(hidden_states), window, shift)
        windows, _ = self.attn(windows, position_index, shift_mask, **kwargs)
        grid = merge_windows(windows, window, shift, hidden_states.shape)
        hidden_states = hidden_states + self.drop_path(grid)
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))


class LFVilaVideoLevel(nn.Module):
    """Blocks that share one window; every second one shifts it by half a window in space."""

    relative_position_index: torch.Tensor

    def __init__(self, config: LFVilaVideoConfig, level: int, drop_path_rates: list[float]) -> None:
        super().__init__()
        self.window = (config.temporal_windows[level], *config.spatial_window)
        self.shifts_in_time = config.shifts_in_time(level)
        self.blocks = nn.ModuleList(
            LFVilaVideoLayer(config, config.channels[level], config.num_heads[level], self.window, rate)
            for rate in drop_path_rates
        )
        self.register_buffer("relative_position_index", relative_position_index(self.window), persistent=False)

    def set_window(self, window: tuple[int, int, int]) -> None:
        """Change the window to `(t, r, c)`; bias tables are resized."""
        layer: Any
        for layer in self.blocks:
            table = layer.attn.relative_position_bias_table
            resized = resize_bias_table(table, self.window, window)
            layer.attn.relative_position_bias_table = resized_parameter(table, resized)
        device = self.relative_position_index.device
        self.relative_position_index = relative_position_index(window).to(device)
        self.window = window

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Map `(B, T, h, w, C)` to the same shape."""
        frames, rows, columns = hidden_states.shape[1:4]
        t, r, c = window = fit_window(self.window, (frames, rows, columns))
        position_index = self.relative_position_index[:t, :r, :c, :t, :r, :c].reshape(t * r * c, t * r * c)
        # An axis that one window covers is not shifted.
        early = t // 2 if self.shifts_in_time and frames > t else 0
        down, right = r // 2 if rows > r else 0, c // 2 if columns > c else 0
        shift_mask = None
        if down or right:
            padded = (rows + -rows % r, columns + -columns % c)
            shift_mask = shifted_window_mask(padded, window, (down, right), hidden_states)
        for number, block in enumerate(self.blocks):
            if number % 2:
                hidden_states = block(hidden_states, window, (early, down, right), position_index, shift_mask, **kwargs)
            else:
                hidden_states = block(hidden_states, window, (0, 0, 0), position_index, None, **kwargs)
        return hidden_states


class LFVilaVideoModel(LFVilaPreTrainedModel):
    """Video tower with hierarchical temporal window attention."""

    config: LFVilaVideoConfig  # type: ignore[assignment]  # a tower's own
    config_class = LFVilaVideoConfig
    base_model_prefix = "video_model"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video"]
    _can_record_outputs = {"hidden_states": LFVilaVideoLayer, "attentions": LFVilaVideoAttention}

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__(config)
        stem = {"patch": LFVilaPatchStem, "conv": LFVilaConvStem}[config.video_stem]
        self.patch_embed = stem(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        depth = sum(config.depths)
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        starts = [sum(config.depths[:level]) for level in range(len(config.depths))]
        self.levels = nn.ModuleList(
            LFVilaVideoLevel(config, level, rates[start : start + config.depths[level]])
            for level, start in enumerate(starts)
        )
        self.merging = nn.ModuleDict(
            {
                str(level): LFVilaPatchMerging(config, config.channels[level], 2 * config.channels[level])
                for level in config.merge_after
            }
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.clip_merging = LFVilaPatchMerging(config, config.clip_channels, config.hidden_size)
        self.clip_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise weights, and the buffers that no checkpoint holds (models are built on the meta device first)."""
        super()._init_weights(module)
        if isinstance(module, LFVilaVideoAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, LFVilaVideoLevel):
            init.copy_(module.relative_position_index, relative_position_index(module.window))

    def resize_video(self, old: LFVilaVideoConfig, new: LFVilaVideoConfig) -> None:
        """Fit windows to the size of video of `new`; called by `LFVilaPreTrainedModel.set_num_frames` and its like."""
        level: Any
        for level, frames in zip(self.levels, new.temporal_windows, strict=True):
            level.set_window((frames, *new.spatial_window))
        if isinstance(self.patch_embed, LFVilaConvStem):
            self.patch_embed.piece = new.temporal_windows[0]

    def get_input_embeddings(self) -> nn.Module:
        """Return the stem."""
        return self.patch_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the stem."""
        self.patch_embed = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Any) -> LFVilaVideoModelOutput:
        """Encode frames.

        Args:
            pixel_values_videos: Normalised frames `(B, T, 3, H, W)`; any T, H and W.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: The frames are missing, not `(B, T, channels, H, W)`, empty, or of an integer type.
        """
        kwargs = backend_options(kwargs)
        hidden = self.embed_frames(pixel_values_videos)  # (B, T, h, w, C)
        hidden, clip_level = self.run_levels(hidden, 0, self.config.clip_level + 1, **kwargs)
        hidden, _ = self.run_levels(hidden, self.config.clip_level + 1, len(self.levels), **kwargs)
        last = self.norm(hidden)  # (B, T, h, w, D)
        tokens = self.pool(last)  # (B, T, P, D)
        return LFVilaVideoModelOutput(
            last_hidden_state=last,
            pooler_output=tokens.mean((1, 2)),  # (B, D)
            clip_hidden_state=self.clip_norm(self.clip_merging(clip_level)),  # (B, T, h', w', D)
            tokens=tokens,
        )

    def embed_frames(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """Cut frames into patches and embed them: `(B, T, 3, H, W)` to `(B, T, h, w, C)`.

        Raises:
            ValueError: See `forward`.
        """
        if pixel_values_videos is None:
            raise ValueError("pixel_values_videos (B, T, channels, H, W) is expected, got None")
        shape = pixel_values_videos.shape
        if len(shape) != 5 or shape[2] != self.config.num_channels or 0 in shape:
            raise ValueError(
                f"pixel_values_videos must be (B, T, {self.config.num_channels}, H, W), none of them 0, "
                f"got {tuple(shape)}"
            )
        if not pixel_values_videos.is_floating_point():
            raise ValueError(
                f"pixel_values_videos must be normalised floating-point pixels (the processor's output), "
                f"got {pixel_values_videos.dtype}"
            )
        rows, columns = self.config.patch_shape
        pixels = pixel_values_videos.to(self.norm.weight.dtype)
        if shape[3] % rows or shape[4] % columns:
            pixels = F.pad(pixels, (0, -shape[4] % columns, 0, -shape[3] % rows))
        return self.dropout(self.patch_embed(pixels))

    def run_levels(
        self, hidden_states: torch.Tensor, first: int, stop: int, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run some levels, each with the patch merging that follows it.

        Args:
            hidden_states: `(B, T, h, w, C)`, the stem's output for `first` = 0.
            first: First level.
            stop: One past the last level.
            **kwargs: Passed to the attention backend.

        Returns:
            The input of level `stop`, and the grid of the last level that clip features are made from: before its
            merging, or after it with `clip_after_merging`.
        """
        before_merging = hidden_states
        for level in range(first, stop):
            hidden_states = before_merging = self.levels[level](hidden_states, **kwargs)
            if str(level) in self.merging:
                hidden_states = self.merging[str(level)](hidden_states)
        return hidden_states, hidden_states if self.config.clip_after_merging else before_merging

    def pool(self, grid: torch.Tensor) -> torch.Tensor:
        """Max-pool the grid with stride 1: `(B, T, h, w, D)` to the tokens of each frame, `(B, T, P, D)`."""
        # Maxima of shifted views: Inductor gets the gradient of `unfold` wrong on a CPU (torch 2.13).
        for axis, size in zip((2, 3), self.config.pool_size, strict=True):
            cells = min(size, grid.shape[axis])
            places = grid.shape[axis] - cells + 1
            grid = reduce(torch.maximum, (grid.narrow(axis, first, places) for first in range(cells)))
        return grid.flatten(2, 3)

    def clip_features(self, grid: torch.Tensor, num_clips: int | None = None) -> torch.Tensor:
        """Average the pooled tokens of each clip: `(B, T, h, w, D)` to `(B, K, D)`.

        Args:
            grid: Output of a level.
            num_clips: K. Defaults to `config.num_clips`.

        Raises:
            ValueError: T is not divisible by K.
        """
        frames, clips = grid.shape[1], self.config.num_clips if num_clips is None else num_clips
        if clips < 1 or frames % clips:
            raise ValueError(
                f"{frames} frames are not divisible by num_clips={clips}. Use a multiple of {clips} frames, or pass "
                f"num_clips."
            )
        return self.pool(grid).unflatten(1, (clips, frames // clips)).mean((2, 3))

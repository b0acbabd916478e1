"""Plain port of the published window attention: the baseline of `LFVilaVideoModel`.

It follows the description of the architecture step by step, in the manner of Video Swin Transformer: a 3-D convolution,
then per block LayerNorm, padding, roll, cutting into windows, queries, keys and values, the full matrix of scores, the
bias gathered from its table, the mask of the shift, softmax, the product with the values, the projection, and the way
back. Masks are made once per level and call, everything else in every block. Nothing is fused.

Its parameters have the names of `LFVilaVideoModel` (patch stem), so that one state serves both;
tests/benchmarks compares outputs and gradients.

Letters: B videos, T frames, h w patch grid, C channels of a level; t r c frames, rows and columns of a window, V its
cells, N windows of the whole batch, A heads, d width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from lfvila_hf import LFVilaVideoConfig

Window = tuple[int, int, int]


class PlainOutput(NamedTuple):
    """Features that the losses read, named as in the output of the package's tower."""

    tokens: torch.Tensor
    """`(B, T, P, D)`."""
    clip_hidden_state: torch.Tensor
    """`(B, T, h', w', D)`."""


def cut(grid: torch.Tensor, window: Window) -> torch.Tensor:
    """`(B, T, h, w, C)` to windows `(N, V, C)`."""
    batch, frames, rows, columns, channels = grid.shape
    t, r, c = window
    grid = grid.view(batch, frames // t, t, rows // r, r, columns // c, c, channels)
    return grid.permute(0, 1, 3, 5, 2, 4, 6, 7).contiguous().view(-1, t * r * c, channels)


def join(windows: torch.Tensor, window: Window, shape: torch.Size) -> torch.Tensor:
    """Windows `(N, V, C)` back to a grid of this shape, `(B, T, h, w, C)`."""
    batch, frames, rows, columns, channels = shape
    t, r, c = window
    grid = windows.view(batch, frames // t, rows // r, columns // c, t, r, c, channels)
    return grid.permute(0, 1, 4, 2, 5, 3, 6, 7).contiguous().view(shape)


def position_index(window: Window) -> torch.Tensor:
    """Row of the bias table for every pair of cells, `(V, V)`."""
    axes = torch.meshgrid(*(torch.arange(size) for size in window), indexing="ij")
    places = torch.stack(axes).flatten(1)  # (3, V)
    offset = places[:, :, None] - places[:, None, :]  # (3, V, V)
    index = torch.zeros_like(offset[0])
    for axis, size in enumerate(window):
        index = index * (2 * size - 1) + offset[axis] + size - 1
    return index


def rows_in_table(window: Window, full: Window) -> torch.Tensor:
    """`position_index` of a window in the table that was made for the larger window `full`."""
    axes = torch.meshgrid(*(torch.arange(size) for size in window), indexing="ij")
    places = torch.stack(axes).flatten(1)  # (3, V)
    flat = (places[0] * full[1] + places[1]) * full[2] + places[2]  # (V,)
    return position_index(full)[flat][:, flat]


def mask_of_shift(frames: int, rows: int, columns: int, window: Window, shift: Window) -> torch.Tensor:
    """-100 where a shifted window joins cells that are not neighbours, `(N of one video, V, V)`."""
    regions = torch.zeros(1, frames, rows, columns, 1)
    number = 0
    for down in _stretches(window[1], shift[1]):
        for right in _stretches(window[2], shift[2]):
            regions[:, :, down, right] = number
            number += 1
    region = cut(regions, window).squeeze(-1)  # (N, V)
    return (region[:, None, :] != region[:, :, None]).float() * -100.0


def _stretches(size: int, shift: int) -> list[slice]:
    if not shift:
        return [slice(None)]
    return [slice(0, -size), slice(-size, -shift), slice(-shift, None)]


class PlainAttention(nn.Module):
    """Multi-head attention with a relative position bias, written out."""

    def __init__(self, channels: int, heads: int, window: Window, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        table_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, heads))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: torch.Tensor, index: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(N, V, C)` to the same shape."""
        count, cells, channels = windows.shape
        qkv = self.qkv(windows).reshape(count, cells, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * self.scale, qkv[1], qkv[2]  # (N, A, V, d)
        scores = query @ key.transpose(-2, -1)  # (N, A, V, V)
        bias = self.relative_position_bias_table[index.view(-1)].view(cells, cells, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias[None]
        if mask is not None:
            scores = scores.view(-1, len(mask), self.heads, cells, cells) + mask[None, :, None]
            scores = scores.view(-1, self.heads, cells, cells)
        weights = scores.softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(count, cells, channels))


class PlainMLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """`(..., C)` to the same shape."""
        return self.fc2(F.gelu(self.fc1(grid)))


class PlainBlock(nn.Module):
    """Attention inside windows, then the MLP, each on a normalised copy and added."""

    def __init__(self, config: LFVilaVideoConfig, level: int, window: Window, drop_path: float) -> None:
        super().__init__()
        channels = config.channels[level]
        self.drop_rate = drop_path
        self.norm1 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.attn = PlainAttention(channels, config.num_heads[level], window, config.qkv_bias)
        self.norm2 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.mlp = PlainMLP(channels, int(channels * config.mlp_ratio))

    def drop_path(self, branch: torch.Tensor) -> torch.Tensor:
        """Drop the branch of whole videos in training."""
        if not self.training or not self.drop_rate:
            return branch
        keep = 1 - self.drop_rate
        drawn = branch.new_empty(len(branch), *(1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * drawn / keep

    def forward(
        self, grid: torch.Tensor, window: Window, shift: Window, index: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`(B, T, h, w, C)` to the same shape."""
        frames, rows, columns = grid.shape[1:4]
        t, r, c = window
        hidden = F.pad(self.norm1(grid), (0, 0, 0, -columns % c, 0, -rows % r, 0, -frames % t))
        if any(shift):
            hidden = torch.roll(hidden, shifts=(-shift[1], -shift[2]), dims=(2, 3))
        shape = hidden.shape
        hidden = join(self.attn(cut(hidden, window), index, mask), window, shape)
        if any(shift):
            hidden = torch.roll(hidden, shifts=(shift[1], shift[2]), dims=(2, 3))
        grid = grid + self.drop_path(hidden[:, :frames, :rows, :columns].contiguous())
        return grid + self.drop_path(self.mlp(self.norm2(grid)))


class PlainLevel(nn.Module):
    """Blocks of one temporal window; every other one shifted in space."""

    def __init__(self, config: LFVilaVideoConfig, level: int, rates: list[float]) -> None:
        super().__init__()
        self.window: Window = (config.temporal_windows[level], *config.spatial_window)  # type: ignore[assignment]  # two sizes
        self.blocks = nn.ModuleList(PlainBlock(config, level, self.window, rate) for rate in rates)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """`(B, T, h, w, C)` to the same shape."""
        sizes = grid.shape[1:4]
        t, r, c = (min(cells, size) for cells, size in zip(self.window, sizes, strict=True))
        window, shift = (t, r, c), (0, r // 2 if sizes[1] > r else 0, c // 2 if sizes[2] > c else 0)
        index = rows_in_table(window, self.window).to(grid.device)
        mask = None
        if any(shift):
            padded = [size + -size % cells for size, cells in zip(sizes, window, strict=True)]
            mask = mask_of_shift(*padded, window, shift).to(grid)
        for number, block in enumerate(self.blocks):
            odd = number % 2
            grid = block(grid, window, shift if odd else (0, 0, 0), index, mask if odd else None)
        return grid


class PlainMerging(nn.Module):
    """Four neighbours side by side, LayerNorm, Linear."""

    def __init__(self, channels: int, out: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=eps)
        self.reduction = nn.Linear(4 * channels, out, bias=False)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """`(B, T, h, w, C)` to `(B, T, h/2, w/2, out)`, odd grids padded by one."""
        grid = F.pad(grid, (0, 0, 0, grid.shape[3] % 2, 0, grid.shape[2] % 2))
        corners = [grid[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class PlainStem(nn.Module):
    """A strided 3-D convolution, then LayerNorm."""

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        kernel = (1, *config.patch_shape)
        self.proj = nn.Conv3d(config.num_channels, config.embed_dim, kernel_size=kernel, stride=kernel)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, T, 3, H, W)` to `(B, T, h, w, C)`."""
        return self.norm(self.proj(pixels.transpose(1, 2)).permute(0, 2, 3, 4, 1))


class PlainHTWA(nn.Module):
    """The whole tower.

    Args:
        config: with the patch stem, and clip features read before a merging (the defaults).
    """

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        if config.video_stem != "patch" or config.clip_after_merging or config.hidden_dropout_prob:
            raise ValueError("the plain tower has the patch stem, clips before merging and no dropout only")
        self.config = config
        self.patch_embed = PlainStem(config)
        last = max(sum(config.depths) - 1, 1)
        rates = [config.drop_path_rate * place / last for place in range(sum(config.depths))]
        starts = [sum(config.depths[:level]) for level in range(len(config.depths))]
        self.levels = nn.ModuleList(
            PlainLevel(config, level, rates[start : start + config.depths[level]]) for level, start in enumerate(starts)
        )
        eps, channels = config.layer_norm_eps, config.channels
        self.merging = nn.ModuleDict(
            {str(level): PlainMerging(channels[level], 2 * channels[level], eps) for level in config.merge_after}
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.clip_merging = PlainMerging(config.clip_channels, config.hidden_size, eps)
        self.clip_norm = nn.LayerNorm(config.hidden_size, eps=eps)

    def forward(self, pixels: torch.Tensor) -> PlainOutput:
        """`(B, T, 3, H, W)`, frames of whole patches."""
        clip_level: Any = None
        grid = self.patch_embed(pixels)
        for level, blocks in enumerate(self.levels):
            grid = blocks(grid)
            if level == self.config.clip_level:
                clip_level = grid
            if str(level) in self.merging:
                grid = self.merging[str(level)](grid)
        last = self.norm(grid)  # (B, T, h, w, D)
        batch, frames, rows, columns, _ = last.shape
        kernel = (min(self.config.pool_size[0], rows), min(self.config.pool_size[1], columns))
        pooled = F.max_pool2d(last.flatten(0, 1).permute(0, 3, 1, 2), kernel, stride=1)  # (B*T, D, h', w')
        tokens = pooled.flatten(2).transpose(1, 2).unflatten(0, (batch, frames))  # (B, T, P, D)
        return PlainOutput(tokens, self.clip_norm(self.clip_merging(clip_level)))

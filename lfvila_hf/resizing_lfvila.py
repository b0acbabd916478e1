# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A trained model at another number of frames or another frame size.

Three kinds of parameter belong to a size: the tables of relative position bias (rows per time, row and column offset of
a window), the temporal positions of video tokens (one per frame) and their spatial positions (one per pooled cell). All
else is shared over time and space. Tables are resized bicubically, along time by themselves and over the rows and
columns of the grid together, as the released loader does for longer windows and for tables of 2-D Swin (it rounds the
result to float16, we do not). Positions in time are interpolated linearly with both ends fixed, because the first and
the last sampled frame are the first and the last of the video at any T; positions in space bicubically. What does not
change is not touched: the same size again gives the same bits.

Memory: one resized table at a time, the largest (64 frames, 3 x 5 cells, 32 heads) being under a megabyte.

Letters: T frames, K clips, H W pixels, P tokens per frame, D shared width, A heads; t r c frames, rows and columns of a
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Windows grow with the video up to here (DESIGN: 64 frames, one window of 64); longer videos are cut into several.
LONGEST_GROWN_WINDOW = 64


def temporal_windows_for(config: Any, num_frames: int) -> list[int]:
    """Temporal windows of a video tower that is given another number of frames.

    If the last level's window spans the whole video, it goes on doing so, up to 64 frames; the levels between it and
    the clip level follow, each at least half as long as the next. 32 frames with [2, 4, 8, 16, 16, 32] become 64 with
    [2, 4, 8, 16, 32, 64], and 128 or 256 frames keep those: the video is then cut into several windows. Windows never
    shrink (shorter videos use a part of them), and those of the clip level and below never change, so that no
    information crosses a clip.

    Args:
        config: `LFVilaVideoConfig` as it is now.
        num_frames: the new T.
    """
    windows = list(config.temporal_windows)
    last = min(num_frames, LONGEST_GROWN_WINDOW)
    if windows[-1] < config.num_frames or last <= windows[-1]:
        return windows
    top = len(windows) - 1
    for level in range(config.clip_level + 1, len(windows)):
        windows[level] = max(windows[level], last >> (top - level))
    return windows


def relative_position_index(window: tuple[int, int, int]) -> torch.Tensor:
    """Row of the bias table for every pair of cells of a window `(t, r, c)`, as `(t, r, c, t, r, c)` int64.

    The table is ordered by time offset, then row offset, then column offset, each from -(size - 1) to size - 1.
    Slicing every axis to a smaller window gives that window's right rows of the same table.
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
    """A table of relative position bias for another window.

    Args:
        table: `((2t-1)(2r-1)(2c-1), A)` for `window`.
        window: (t, r, c) that the table was made for.
        new_window: (t, r, c) that it is wanted for.

    Returns:
        The table for `new_window`, same dtype; `table` itself where the windows are equal.

    Raises:
        ValueError: the table does not have the rows of `window`.
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
    grid = _at_least_single(table.T).unflatten(1, offsets)  # (A, 2t-1, 2r-1, 2c-1)
    if offsets[0] != new_offsets[0]:
        plane = grid.flatten(2)[:, None]  # (A, 1, 2t-1, (2r-1)(2c-1))
        size = (new_offsets[0], plane.shape[-1])
        grid = F.interpolate(plane, size=size, mode="bicubic").view(heads, -1, *offsets[1:])
    if offsets[1:] != new_offsets[1:]:
        grid = F.interpolate(grid, size=new_offsets[1:], mode="bicubic")  # (A, 2t-1, 2r-1, 2c-1)
    return grid.flatten(1).T.contiguous().to(table.dtype)


def resize_temporal_positions(positions: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Positions of T frames `(T, D)` for another T, linearly between fixed ends; the same tensor for the same T."""
    if len(positions) == num_frames:
        return positions
    line = _at_least_single(positions.T)[None]  # (1, D, T)
    resized = F.interpolate(line, size=num_frames, mode="linear", align_corners=True)
    return resized[0].T.contiguous().to(positions.dtype)


def resize_spatial_positions(positions: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Positions of a frame's tokens `(P, D)`, laid out as `grid` rows and columns, for another grid (bicubic)."""
    if grid == new_grid:
        return positions
    plane = _at_least_single(positions.T).unflatten(1, grid)[None]  # (1, D, rows, columns)
    resized = F.interpolate(plane, size=new_grid, mode="bicubic")
    return resized[0].flatten(1).T.contiguous().to(positions.dtype)


def resize_token_positions(embeddings: Any, old: Any, new: Any) -> None:
    """Fit `LFVilaVideoTokenEmbeddings` made for the video configuration `old` to the T and P of `new`, in place."""
    temporal, spatial = embeddings.temporal_position_embeddings, embeddings.spatial_position_embeddings
    embeddings.temporal_position_embeddings = resized_parameter(
        temporal, resize_temporal_positions(temporal, new.num_frames)
    )
    embeddings.spatial_position_embeddings = resized_parameter(
        spatial, resize_spatial_positions(spatial, old.token_grid, new.token_grid)
    )


def resized_parameter(old: nn.Parameter, data: torch.Tensor) -> nn.Parameter:
    """`data` as a parameter that is trained if `old` was; `old` itself where nothing changed."""
    return old if data is old else nn.Parameter(data.detach(), requires_grad=old.requires_grad)


def resize_model(
    model: nn.Module,
    num_frames: int | None = None,
    temporal_windows: Sequence[int] | None = None,
    image_size: Sequence[int] | None = None,
    spatial_window: Sequence[int] | None = None,
) -> None:
    """Fit a model and its configuration to another size of video, in place.

    Parameters that change are new objects: make the optimizer afterwards.

    Args:
        model: any LF-VILA model.
        num_frames: T; as it is where not given.
        temporal_windows: windows per level; by default those of `temporal_windows_for`.
        image_size: height and width of a frame; as it is where not given.
        spatial_window: rows and columns of a window; as they are where not given.

    Raises:
        ValueError: the sizes do not fit each other, or T does not divide by K in a model that makes clip features.
            Nothing is changed then.
    """
    configs = _video_configs(model)
    old = configs[0]
    frames = old.num_frames if num_frames is None else num_frames
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ValueError(f"num_frames must be a positive number, got {num_frames!r}")
    makes_clips = any(getattr(module, "clip_projection", None) is not None for module in model.modules())
    if makes_clips and frames % old.num_clips:
        raise ValueError(
            f"this model makes clip features: num_frames must divide by its {old.num_clips} clips, got {frames}"
        )
    changes: dict[str, Any] = {
        "num_frames": frames,
        "temporal_windows": list(temporal_windows_for(old, frames) if temporal_windows is None else temporal_windows),
        "image_size": list(old.image_size if image_size is None else image_size),
        "spatial_window": list(old.spatial_window if spatial_window is None else spatial_window),
    }
    new = type(old)(**(old.to_dict() | changes))  # checks that the sizes fit each other
    for module in model.modules():
        resize = getattr(module, "resize_video", None)
        if resize is not None:
            resize(old, new)
    for config in configs:
        for name in changes:
            setattr(config, name, getattr(new, name))


def _video_configs(model: nn.Module) -> list[Any]:
    """Every object in the model that says what size the video has."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        config = getattr(config, "video_config", config)
        if hasattr(config, "temporal_windows"):
            found[id(config)] = config
    if not found:
        raise ValueError(f"{type(model).__name__} has no video side, so it has no number of frames and no frame size")
    return list(found.values())


def _at_least_single(values: torch.Tensor) -> torch.Tensor:
    """Half-precision numbers as float32, in which the interpolation is done; wider ones as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

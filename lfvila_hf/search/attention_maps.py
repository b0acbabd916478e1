# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Attention maps of the video tower: the attention that each place of each frame receives, level by level.

Attention is joint over a window of t frames and r x c patches (HTWA), so a map of it is only comparable inside a
window: each cell shows the mean weight that the queries of its window give to it, times the number of cells in the
window. 1 is what even attention gives. The maps of a level are the mean over its blocks and heads; windows that a shift
has moved are moved back, and cells that only fill a window up are left out.

Memory: the weights of one block at a time, `(windows, A, V, V)` for one video.

Letters: T frames, h w patch grid of a level, t r c window, A heads, V = t r c cells of a window.
"""

from __future__ import annotations

from typing import Any

import torch

from lfvila_hf.modeling_video_lfvila import LFVilaVideoModel, merge_windows


def attention_received(model: LFVilaVideoModel, pixel_values_videos: torch.Tensor) -> list[torch.Tensor]:
    """The attention that each cell receives, for one video.

    Args:
        model: The video tower; used in evaluation mode with eager attention, and left as it was.
        pixel_values_videos: `(1, T, 3, H, W)`.

    Returns:
        One `(T, h, w)` per level; 1 is what even attention gives.

    Raises:
        ValueError: There is more than one video.
    """
    if len(pixel_values_videos) != 1:
        raise ValueError(f"attention is drawn for one video, got {len(pixel_values_videos)}")
    maps: list[list[torch.Tensor]] = [[] for _ in model.levels]
    windows: list[Any] = []  # grid shape, window and shift of the block at work
    handles = []

    def remember_windows(_: Any, arguments: Any) -> None:
        windows[:] = arguments[0].shape, arguments[1], arguments[2]

    def catch_weights(maps_of_level: list[torch.Tensor], output: Any) -> None:
        if output[1] is None:
            raise ValueError("the attention backend gives no weights: eager attention is needed")
        maps_of_level.append(on_grid(output[1].mean((1, 2)), *windows))

    level: Any
    for number, level in enumerate(model.levels):
        for block in level.blocks:
            handles.append(block.register_forward_pre_hook(remember_windows))
            handles.append(block.attn.register_forward_hook(lambda _, __, out, n=number: catch_weights(maps[n], out)))
    training, attention = model.training, model.config._attn_implementation
    try:
        model.eval()
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            model(pixel_values_videos.to(model.device))
    finally:
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(attention)
        model.train(training)
    return [torch.stack(some).mean(0) for some in maps]


def on_grid(
    received: torch.Tensor, shape: torch.Size, window: tuple[int, int, int], shift: tuple[int, int, int]
) -> torch.Tensor:
    """Put cells of windows back to their places.

    Args:
        received: Mean weight of each cell of each window of one video, `(windows, V)`.
        shape: Shape of the block's grid, `(1, T, h, w, C)`.
        window: `(t, r, c)`.
        shift: Frames, rows and columns that windows are shifted by.

    Returns:
        `(T, h, w)`; 1 is what even attention gives.
    """
    groups = shape[1] + shift[0]
    cells = (received * received.shape[-1]).view(-(-groups // window[0]), -1, received.shape[-1], 1)  # (G, S, V, 1)
    return merge_windows(cells, window, shift, shape)[0, ..., 0].float().cpu()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Where the video tower looks: the attention that each place of each frame receives, level by level.

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

from lfvila_hf.modeling_video_lfvila import LFVilaVideoModel
from lfvila_hf.video_windows_lfvila import WindowLayout


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
    handles = []
    level: Any
    for number, level in enumerate(model.levels):
        for block in level.blocks:
            handles.append(block.register_forward_pre_hook(_remember_layout))
            handles.append(block.attn.register_forward_hook(_catcher(block, maps[number])))
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


def _remember_layout(block: Any, arguments: Any) -> None:
    block._drawn = next(one for one in arguments if isinstance(one, WindowLayout))


def _catcher(block: Any, maps: list[torch.Tensor]) -> Any:
    def catch(_: Any, __: Any, output: Any) -> None:
        weights = output[1]
        if weights is None:
            raise ValueError("the attention backend gives no weights: eager attention is needed")
        maps.append(on_grid(weights.mean((1, 2)), block._drawn))
        del block._drawn

    return catch


def on_grid(received: torch.Tensor, layout: WindowLayout) -> torch.Tensor:
    """Cells of windows back to their places.

    Args:
        received: `(windows, V)`: the mean weight of each cell of each window of one video.
        layout: The windows of the block.

    Returns:
        `(T, h, w)`; 1 is what even attention gives.
    """
    cells = (received * received.shape[-1]).view(*layout.shape[:-1], 1)  # (1, n, S, V, 1)
    return layout.merge(cells)[0, ..., 0].float().cpu()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The two ways from pixels to patches: the released convolution of a patch, and a pyramid of small convolutions.

Letters: B videos, T frames, H W pixels, h w patch grid, C channels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_lfvila import LFVilaVideoConfig
from .cpu_linear_lfvila import is_untouched


class LFVilaPatchStem(nn.Module):
    """Frames to patches by one convolution whose kernel is its stride (released stem), then LayerNorm."""

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        self.patch_shape = config.patch_shape
        kernel = (1, *self.patch_shape)
        self.proj = nn.Conv3d(config.num_channels, config.embed_dim, kernel_size=kernel, stride=kernel)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """`(B, T, 3, H, W)` with H and W multiples of the patch, to `(B, T, h, w, C)`."""
        if not is_untouched(self.proj, nn.Conv3d):  # an adapter's, or its weights are elsewhere
            return self.norm(self.proj(pixel_values_videos.transpose(1, 2)).permute(0, 2, 3, 4, 1))
        batch, frames, channels, height, width = pixel_values_videos.shape
        rows, columns = self.patch_shape
        # Kernel equals stride, so the convolution is one matrix product over patches laid out channels-last.
        patches = pixel_values_videos.reshape(batch, frames, channels, height // rows, rows, width // columns, columns)
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)  # (B, T, h, w, 3*rows*columns)
        return self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))


class LFVilaConvStem(nn.Module):
    """Frames to patches by overlapping 3 x 3 x 3 convolutions that each halve height and width, then LayerNorm.

    Time is cut into stretches of one level-0 window first, so that no information crosses a clip where windows do not.
    """

    def __init__(self, config: LFVilaVideoConfig) -> None:
        super().__init__()
        self.stretch = config.temporal_windows[0]
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
        """`(B, T, 3, H, W)` with H and W multiples of the patch, to `(B, T, h, w, C)`."""
        batch, frames = pixel_values_videos.shape[:2]
        missing = -frames % self.stretch
        hidden = F.pad(pixel_values_videos, (0, 0, 0, 0, 0, 0, 0, missing))
        hidden = hidden.unflatten(1, (-1, self.stretch)).flatten(0, 1).transpose(1, 2)  # (B*stretches, 3, t, H, W)
        for index, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden if index == 0 else self.act(hidden))
        hidden = hidden.permute(0, 2, 3, 4, 1).unflatten(0, (batch, -1)).flatten(1, 2)  # (B, T + missing, h, w, C)
        return self.norm(hidden[:, :frames])


__all__ = ["LFVilaConvStem", "LFVilaPatchStem"]

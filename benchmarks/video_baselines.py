"""Other video models at equal tokens: the baselines of hierarchical temporal windows.

The tower does most of its work on the grid of its clip level (14 of 24 blocks): one token per frame and 32 x 32 pixels,
1,920 for 32 frames of 192 x 320. The flat models get the same tokens, through patches of that size, and the depth and
width of ViT-B, which is as large as our tower (86 M and 89 M parameters):

| name | model | tokens |
|---|---|---|
| `plain` | the published window attention, plainly ported (plain_htwa.py) | as ours |
| `full` | the same tower, every block attending to all of space and time (fused attention, no bias) | as ours |
| `swin` | `SwinModel` of transformers on every frame by itself, of our widths and depths | as ours |
| `timesformer` | `TimesformerModel` of transformers, divided space-time attention | those of the clip level |
| `videomae` | `VideoMAEModel` of transformers, joint space-time attention, tubes of one frame | same |

Swin's windows are square: 3 x 3 patches, the largest that the last grid (3 x 5) holds. TimeSformer takes square frames
only: it gets the smallest square of at least as many tokens (64 for 60), filled with the same pixels and zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from plain_htwa import PlainAttention, PlainBlock, PlainHTWA
from torch import nn
from torch.nn import functional as F
from transformers import SwinConfig, SwinModel, TimesformerConfig, TimesformerModel, VideoMAEConfig, VideoMAEModel

from lfvila_hf import LFVilaVideoConfig

FLAT_LAYERS = 12
FLAT_WIDTH = 6
"""Width of the flat models over `embed_dim`: 768 for 128."""


class FullAttention(nn.Module):
    """Attention to every token of a video: PyTorch's fused kernel, which keeps no matrix of scores."""

    def __init__(self, inside: PlainAttention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = inside.heads, inside.qkv, inside.proj

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, tokens, C)` to the same shape."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)  # (B, A, tokens, d)
        return self.proj(out.transpose(1, 2).flatten(2))


class FullBlock(PlainBlock):
    """A block of the plain tower whose window is everything."""

    def forward(self, grid: torch.Tensor, *_: object) -> torch.Tensor:
        """`(B, T, h, w, C)` to the same shape."""
        hidden = self.attn(self.norm1(grid).flatten(1, 3)).view(grid.shape)
        grid = grid + self.drop_path(hidden)
        return grid + self.drop_path(self.mlp(self.norm2(grid)))


class FramesFirst(nn.Module):
    """A model of transformers behind `(B, T, 3, H, W)`; gives its last hidden state.

    Args:
        model: the model.
        one_by_one: whether it reads single frames.
        side: pixels along a side, for a model that reads square frames only.
    """

    def __init__(self, model: nn.Module, one_by_one: bool = False, side: int | None = None) -> None:
        super().__init__()
        self.model, self.one_by_one, self.side = model, one_by_one, side

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, T, 3, H, W)` to tokens."""
        if self.side is not None:
            flat = pixels.flatten(-2)  # (B, T, 3, H*W)
            pixels = F.pad(flat, (0, self.side**2 - flat.shape[-1])).unflatten(-1, (self.side, self.side))
        return self.model(pixels.flatten(0, 1) if self.one_by_one else pixels).last_hidden_state


def make_full(config: LFVilaVideoConfig) -> nn.Module:
    """Our pyramid with joint attention over all of space and time in every block."""
    tower = PlainHTWA(type(config)(**(config.to_dict() | {"temporal_windows": [1] * len(config.depths)})))
    for module in tower.modules():
        if isinstance(module, PlainBlock):
            module.attn = FullAttention(module.attn)  # type: ignore[assignment]  # takes its place
            module.__class__ = FullBlock
    return tower


def make_swin(config: LFVilaVideoConfig) -> nn.Module:
    """A Swin pyramid on single frames: levels between two mergings are one stage."""
    stages: list[int] = [0]
    for level, depth in enumerate(config.depths):
        stages[-1] += depth
        if level in config.merge_after:
            stages.append(0)
    heads = [config.num_heads[0], *(config.num_heads[level + 1] for level in config.merge_after)]
    swin = SwinConfig(
        image_size=config.image_size,
        patch_size=config.patch_shape[0],
        embed_dim=config.embed_dim,
        depths=stages,
        num_heads=heads,
        window_size=min(*config.spatial_window, *config.last_grid),
        drop_path_rate=config.drop_path_rate,
    )
    return FramesFirst(SwinModel(swin, add_pooling_layer=False), one_by_one=True)


def flat_patch(config: LFVilaVideoConfig) -> int:
    """Pixels along a side of one cell of the clip level's grid."""
    return config.patch_shape[0] * config.channels[config.clip_level] // config.embed_dim


def _flat_sizes(config: LFVilaVideoConfig) -> dict[str, object]:
    width = FLAT_WIDTH * config.embed_dim
    return {
        "image_size": tuple(config.image_size),
        "patch_size": flat_patch(config),
        "num_frames": config.num_frames,
        "hidden_size": width,
        "num_hidden_layers": FLAT_LAYERS,
        "num_attention_heads": 12 if width % 12 == 0 else 1,
        "intermediate_size": 4 * width,
    }


def make_timesformer(config: LFVilaVideoConfig) -> nn.Module:
    """Divided space-time attention, ViT-B where ours has the released size."""
    sizes, patch = _flat_sizes(config), flat_patch(config)
    tokens = math.prod(-(-size // patch) for size in config.image_size)
    side = math.ceil(math.sqrt(tokens)) * patch
    return FramesFirst(TimesformerModel(TimesformerConfig(**(sizes | {"image_size": side}))), side=side)


def make_videomae(config: LFVilaVideoConfig) -> nn.Module:
    """Joint space-time attention, ViT-B where ours has the released size."""
    return FramesFirst(VideoMAEModel(VideoMAEConfig(**_flat_sizes(config), tubelet_size=1)))


BASELINES: dict[str, Callable[[LFVilaVideoConfig], nn.Module]] = {
    "plain": PlainHTWA,
    "full": make_full,
    "swin": make_swin,
    "timesformer": make_timesformer,
    "videomae": make_videomae,
}

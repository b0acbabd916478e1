# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The video tower: hierarchical temporal window attention (HTWA).

Paper section 3.2; released `src/modeling/video_encoder.py` (microsoft/XPretrain, LF-VILA, MIT), which builds on Swin
Transformer. A Swin pyramid over space and time whose attention windows reach further in time level by level: while
grids are large the windows are short, and where windows are long the grids are small.

Memory is bounded by the first two levels (their grids hold three quarters of all activations) and by the attention
bias of the widest windows; nothing here grows faster than linearly in the number of frames.

Letters: B videos, T frames, K clips, M sentences, L tokens, H W pixels, h w patch grid, P tokens per frame, C channels
of a level, D shared width, N answers.
Windows: t r c are frames, rows and columns of one window, V its t*r*c cells, S windows that tile one frame's grid,
A attention heads.
"""

from __future__ import annotations

from collections.abc import Callable
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
from .cpu_linear_lfvila import is_exporting, is_untouched, project, project_twice
from .modeling_base_lfvila import LFVilaPreTrainedModel, LFVilaVideoModelOutput, eager_attention_forward
from .resizing_lfvila import relative_position_index, resize_bias_table, resized_parameter
from .video_stems_lfvila import LFVilaConvStem, LFVilaPatchStem
from .video_windows_lfvila import WindowLayout, fit_window, shifted_window_mask
from .window_attention_lfvila import WindowAttention, relative_bias, runs_on_cpu


class LFVilaDropPath(nn.Module):
    """Stochastic depth: in training, drops a branch for whole samples and scales what is left (mean unchanged)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, ...)` to the same shape."""
        if not self.training or self.rate == 0.0:
            return hidden_states
        keep = 1.0 - self.rate
        drawn = torch.rand((hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1), device=hidden_states.device)
        return hidden_states * (drawn < keep).to(hidden_states.dtype) / keep

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3f}"


class LFVilaPatchMerging(nn.Module):
    """Joins 2 x 2 neighbours of the grid: LayerNorm(4C), Linear(4C, out) without bias. Odd grids are padded by one."""

    def __init__(self, config: LFVilaVideoConfig, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * channels, out_channels, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, T, h, w, C)` to `(B, T, ceil(h/2), ceil(w/2), out)`."""
        rows, columns = hidden_states.shape[2:4]
        if rows % 2 or columns % 2:
            hidden_states = F.pad(hidden_states, (0, 0, 0, columns % 2, 0, rows % 2))
        hidden_states = hidden_states.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, T, h/2, 2, w/2, 2, C)
        # Neighbours in the released order: (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
        hidden_states = hidden_states.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # (B, T, h/2, w/2, 4C)
        return project(self.reduction, self.norm(hidden_states))


class LFVilaVideoAttention(nn.Module):
    """Multi-head attention inside windows; a learned bias per head and relative position (time, row, column)."""

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

    def forward(
        self,
        windows: torch.Tensor,
        position_index: torch.Tensor,
        shift_mask: torch.Tensor | None,
        norm: nn.Module | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend inside every window.

        Args:
            windows: `(groups, S, V, C)`: one group is one stretch of time of one video, S windows tile its grid.
            position_index: rows of the bias table, `(V*V,)`.
            shift_mask: `(S, V, V)` for shifted windows, else `None`.
            norm: applied to the windows first, where it is given.
            **kwargs: passed to the attention backend.

        Returns:
            `(groups, S, V, C)` and the weights `(groups * S, A, V, V)` where the backend gives them.
        """
        groups, tiles, cells, channels = windows.shape
        bias = relative_bias(self.relative_position_bias_table, position_index, cells)  # (A, V, V)
        qkv = project(self.qkv, windows, norm).view(groups, tiles, cells, 3, self.num_heads, self.head_dim)
        dropout = self.attention_dropout if self.training else 0.0
        implementation = self.config._attn_implementation
        if runs_on_cpu(qkv, bias, implementation, dropout):
            out = WindowAttention.apply(qkv, bias, shift_mask, self.scaling)
            return self.dropout(project(self.proj, out)), None
        if shift_mask is None:
            # Windows are the batch, and one bias serves them all.
            query, key, value = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each (groups*S, A, V, d)
            bias = bias[None]  # (1, A, V, V)
        else:
            # Every tile has its own mask. With tiles among the heads, the mask is stored once for all groups.
            query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each (groups, S*A, V, d)
            bias = (bias + shift_mask[:, None]).flatten(0, 1)[None]  # (1, S*A, V, V)
        compiled = torch.compiler.is_compiling() and not is_exporting()
        if implementation == "sdpa" and windows.device.type == "cpu" and compiled and torch.is_grad_enabled():
            implementation = "eager"  # there is no fused kernel for a learned bias, and this one can be compiled
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        out, weights = attend(self, query, key, value, bias, scaling=self.scaling, dropout=dropout, **kwargs)
        if shift_mask is not None:
            out = out.view(groups, cells, tiles, channels).transpose(1, 2)  # (groups, S, V, C)
            weights = weights if weights is None else weights.reshape(-1, self.num_heads, cells, cells)
        out = project(self.proj, out.reshape(groups, tiles, cells, channels))
        return self.dropout(out), weights


class LFVilaVideoMLP(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, config: LFVilaVideoConfig, channels: int) -> None:
        super().__init__()
        hidden = int(channels * config.mlp_ratio)
        self.fc1 = nn.Linear(channels, hidden)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
        """`(..., C)` to the same shape; `norm` is applied first where it is given."""
        if is_untouched(self.dropout, nn.Dropout) and not (self.dropout.training and self.dropout.p):
            return project_twice(self.fc1, self.act, self.fc2, hidden_states, norm)
        hidden_states = hidden_states if norm is None else norm(hidden_states)
        return self.dropout(project(self.fc2, self.dropout(self.act(project(self.fc1, hidden_states)))))


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
        position_index: torch.Tensor,
        shift_mask: torch.Tensor | None,
        layout: WindowLayout,
        laid_out: bool,
        **kwargs: Any,
    ) -> torch.Tensor:
        """A grid `(B, T, h, w, C)`, or cells laid out window by window `(B, n, S, V, C)`, to the same shape.

        Args:
            hidden_states: the grid.
            position_index: see `LFVilaVideoAttention`.
            shift_mask: see `LFVilaVideoAttention`; `None` exactly where nothing is shifted.
            layout: the windows of this block.
            laid_out: whether `hidden_states` are in that layout already.
            **kwargs: passed to the attention backend.
        """
        # A norm goes along to where its result is used, so that it need not be kept. Not into a branch whose input
        # somebody looks at, who expects what it always was.
        inside = not is_exporting()
        goes_along = inside and laid_out and is_untouched(self.attn, LFVilaVideoAttention, may_be_recorded=True)
        norm = self.norm1 if goes_along else None
        branch = hidden_states if norm is not None else self.norm1(hidden_states)
        windows = branch if laid_out else layout.partition(branch)  # (B, n, S, V, C)
        attended, _ = self.attn(windows.flatten(0, 1), position_index, shift_mask, norm, **kwargs)
        attended = attended.view(windows.shape)
        hidden_states = hidden_states + self.drop_path(attended if laid_out else layout.merge(attended))
        if inside and is_untouched(self.mlp, LFVilaVideoMLP):
            branch = self.mlp(hidden_states, self.norm2)
        else:
            branch = self.mlp(self.norm2(hidden_states))
        return hidden_states + self.drop_path(branch)


class LFVilaVideoLevel(nn.Module):
    """Blocks that share one temporal window; what depends on the grid's shape alone is made once for all of them."""

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
        """Attend in windows of another size `(t, r, c)`; bias tables are resized."""
        layer: Any
        for layer in self.blocks:
            table = layer.attn.relative_position_bias_table
            resized = resize_bias_table(table, self.window, window)
            layer.attn.relative_position_bias_table = resized_parameter(table, resized)
        device = self.relative_position_index.device
        self.relative_position_index = relative_position_index(window).to(device)
        self.window = window

    def forward(self, hidden_states: torch.Tensor, keep_grids: bool = False, **kwargs: Any) -> torch.Tensor:
        """`(B, T, h, w, C)` to the same shape.

        Args:
            hidden_states: the grid.
            keep_grids: have every block take and return a grid, for those who look at what it returns.
            **kwargs: passed to the attention backend.
        """
        sizes = hidden_states.shape[1:4]
        t, r, c = window = fit_window(self.window, sizes)
        # An axis that one window covers is not shifted. Time (`temporal_shift`) does not wrap and needs no mask.
        half = (r // 2 if sizes[1] > r else 0, c // 2 if sizes[2] > c else 0)
        index = self.relative_position_index[:t, :r, :c, :t, :r, :c].flatten()  # (V*V,)
        early = t // 2 if self.shifts_in_time and sizes[0] > t else 0
        shifts = [(0, 0), half] if (any(half) or early) and len(self.blocks) > 1 else [(0, 0)]
        layouts = [
            WindowLayout(hidden_states.shape, window, shift, hidden_states.device, early * number)
            for number, shift in enumerate(shifts)
        ]
        masks: list[torch.Tensor | None] = [None]
        for shift in shifts[1:]:
            _, rows, columns = layouts[0].padded
            shifted = any(shift)  # else in time alone
            masks.append(shifted_window_mask((rows, columns), window, shift, hidden_states) if shifted else None)
        # Grids that windows do not tile stay grids, so that attention alone pays for padding.
        tiled = not (keep_grids or any(layout.is_padded for layout in layouts))
        if tiled:
            hidden_states = layouts[0].partition(hidden_states)
        for number, block in enumerate(self.blocks):
            kind = number % len(layouts)
            if tiled and number and len(layouts) > 1:
                hidden_states = layouts[1 - kind].change(hidden_states, layouts[kind])
            hidden_states = block(hidden_states, index, masks[kind], layouts[kind], tiled, **kwargs)
        return layouts[kind].merge(hidden_states) if tiled else hidden_states


class LFVilaVideoModel(LFVilaPreTrainedModel):
    """The video tower: hierarchical temporal window attention."""

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
        """New weights, and the buffers that no checkpoint holds (models are built without memory first)."""
        super()._init_weights(module)
        if isinstance(module, LFVilaVideoAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, LFVilaVideoLevel):
            init.copy_(module.relative_position_index, relative_position_index(module.window))

    def resize_video(self, old: LFVilaVideoConfig, new: LFVilaVideoConfig) -> None:
        """Fit what depends on the size of the video to `new`; see `resizing_lfvila.resize_model`, which calls it."""
        level: Any
        for level, frames in zip(self.levels, new.temporal_windows, strict=True):
            level.set_window((frames, *new.spatial_window))
        if isinstance(self.patch_embed, LFVilaConvStem):
            self.patch_embed.stretch = new.temporal_windows[0]

    def get_input_embeddings(self) -> nn.Module:
        """The stem."""
        return self.patch_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the stem."""
        self.patch_embed = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Any) -> LFVilaVideoModelOutput:
        """Encode frames.

        Args:
            pixel_values_videos: normalised frames `(B, T, 3, H, W)`; any T, H and W.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and what the attention backend takes.

        Raises:
            ValueError: the frames are missing, not `(B, T, channels, H, W)`, empty, or of an integer type.
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
        height, width = self.config.image_size
        pixels = pixel_values_videos.to(self.norm.weight.dtype)
        # The usual size is asked for first: a compiler that was told that any may come (`dynamic=True`) then knows it,
        # and need not carry expressions of it through every shape.
        is_usual = shape[3] == height and shape[4] == width
        if (not is_usual or height % rows or width % columns) and (shape[3] % rows or shape[4] % columns):
            pixels = F.pad(pixels, (0, -shape[4] % columns, 0, -shape[3] % rows))
        hidden = self.dropout(self.patch_embed(pixels))  # (B, T, h, w, C)
        keep_grids = bool(kwargs.get("output_hidden_states", self.config.output_hidden_states))
        for level, blocks in enumerate(self.levels):
            hidden = blocks(hidden, keep_grids, **kwargs)
            before_merging = hidden
            if str(level) in self.merging:
                hidden = self.merging[str(level)](hidden)
            if level == self.config.clip_level:
                clip_level = hidden if self.config.clip_after_merging else before_merging
        last = self.norm(hidden)  # (B, T, h, w, D)
        tokens = self.pool(last)  # (B, T, P, D)
        return LFVilaVideoModelOutput(
            last_hidden_state=last,
            pooler_output=tokens.mean((1, 2)),  # (B, D)
            clip_hidden_state=self.clip_norm(self.clip_merging(clip_level)),  # (B, T, h', w', D)
            tokens=tokens,
        )

    def pool(self, grid: torch.Tensor) -> torch.Tensor:
        """Max-pool with stride 1: `(B, T, h, w, D)` to the tokens of each frame, `(B, T, P, D)`."""
        # Maxima of shifted views: the gradient of `unfold` adds up by index, which Inductor gets wrong on a CPU
        # (torch 2.13 wrote beyond the gradient), and has no rule under `vmap`.
        for axis, size in zip((2, 3), self.config.pool_size, strict=True):
            cells = min(size, grid.shape[axis])
            places = grid.shape[axis] - cells + 1
            grid = reduce(torch.maximum, (grid.narrow(axis, first, places) for first in range(cells)))
        return grid.flatten(2, 3)

    def clip_features(self, grid: torch.Tensor, num_clips: int | None = None) -> torch.Tensor:
        """Mean of each clip's pooled tokens: `(B, T, h, w, D)` to `(B, K, D)`.

        Args:
            grid: a level's output.
            num_clips: K; `config.num_clips` where not given.

        Raises:
            ValueError: T does not divide by K.
        """
        frames, clips = grid.shape[1], self.config.num_clips if num_clips is None else num_clips
        if clips < 1 or frames % clips:
            raise ValueError(f"clip features need T frames that divide by K clips, got T = {frames} and K = {clips}")
        return self.pool(grid).unflatten(1, (clips, frames // clips)).mean((2, 3))

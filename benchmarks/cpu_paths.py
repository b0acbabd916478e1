"""What each piece of the CPU's fast path saves: the way PyTorch goes by itself against ours, level by level.

    python benchmarks/cpu_paths.py                 # the released size, one video, a minute
    python benchmarks/cpu_paths.py --preset tiny

| piece | by itself | ours |
|---|---|---|
| `mlp` | two linear layers and GELU through BLAS, no gradients | `project_twice`: oneDNN, GELU in the product |
| `mlp_training` | the same, forward and backward | `project_twice`: `MLPOnCPU`, which makes GELU's result twice |
| `linear_training` | `nn.Linear`, forward and backward | `project`: `LinearOnCPU` |
| `attention` | `scaled_dot_product_attention` with the bias as mask, no gradients | `WindowAttention` |
| `attention_training` | the same, forward and backward | the same, forward and backward |
| `bias` | the bias table indexed, forward and backward | `relative_bias` |
| `layout` | pad, roll, partition, and back | `WindowLayout.change`, from windows to shifted ones |

All on random float32 numbers of the shapes that the level has. Numbers are medians over rounds in which both ways take
turns; the ratio is the median of each round's ratio, ours over the other. The last line is one JSON object.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import Seconds, finish, make_parser, ratio, read_options, record, time_rounds
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from lfvila_hf import LFVilaConfig, LFVilaVideoConfig
from lfvila_hf.cpu_linear_lfvila import project, project_twice
from lfvila_hf.resizing_lfvila import relative_position_index
from lfvila_hf.video_windows_lfvila import WindowLayout
from lfvila_hf.window_attention_lfvila import WindowAttention, relative_bias

PIECES = ("mlp", "mlp_training", "linear_training", "attention", "attention_training", "bias", "layout")


def pair(piece: str, config: LFVilaVideoConfig, level: int, grid: tuple[int, int], batch: int) -> dict[str, Callable]:
    """Both ways to compute a piece of a level: `{"plain": ..., "ours": ...}`."""
    torch.manual_seed(0)
    channels, heads = config.channels[level], config.num_heads[level]
    frames = config.num_frames
    window = (min(config.temporal_windows[level], frames), *map(min, config.spatial_window, grid))
    cells = window[0] * window[1] * window[2]
    shape = torch.Size((batch, frames, *grid, channels))
    layout = WindowLayout(shape, window, (0, 0), torch.device("cpu"))
    rows, hidden = shape[:-1].numel(), int(channels * config.mlp_ratio)
    if piece.startswith("mlp"):
        return mlp_pair(channels, hidden, rows, piece == "mlp_training")
    if piece == "linear_training":
        return linear_pair(channels, hidden, rows)
    if piece.startswith("attention"):
        windows = layout.shape[1] * layout.shape[2] * batch
        return attention_pair(windows, cells, heads, channels // heads, piece == "attention_training")
    if piece == "bias":
        return bias_pair(window, heads)
    half = tuple(size // 2 if axis > size else 0 for size, axis in zip(window[1:], grid, strict=True))
    return layout_pair(shape, window, (half[0], half[1]))


def mlp_pair(channels: int, hidden: int, rows: int, training: bool) -> dict[str, Callable]:
    """A block's MLP."""
    first, act, second = nn.Linear(channels, hidden), ACT2FN["gelu"], nn.Linear(hidden, channels)
    states, grad = torch.randn(rows, channels, requires_grad=training), torch.randn(rows, channels)
    both: dict[str, Callable] = {
        "plain": lambda: second(act(first(states))),
        "ours": lambda: project_twice(first, act, second, states),
    }
    if not training:
        return {name: torch.no_grad()(one) for name, one in both.items()}
    learning = [states, *first.parameters(), *second.parameters()]
    return {name: partial(gradients, one, learning, grad) for name, one in both.items()}


def gradients(compute: Callable, learning: list[torch.Tensor], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Forward and backward."""
    return torch.autograd.grad(compute(), learning, grad)


def linear_pair(channels: int, hidden: int, rows: int) -> dict[str, Callable]:
    """The first linear layer of a block's MLP, forward and backward."""
    linear, states = nn.Linear(channels, hidden), torch.randn(rows, channels, requires_grad=True)
    learning, grad = [states, *linear.parameters()], torch.randn(rows, hidden)
    return {
        "plain": lambda: gradients(lambda: linear(states), learning, grad),
        "ours": lambda: gradients(lambda: project(linear, states), learning, grad),
    }


def attention_pair(windows: int, cells: int, heads: int, width: int, training: bool) -> dict[str, Callable]:
    """Attention inside all windows of a level."""
    packed = torch.randn(1, windows, cells, 3, heads, width, requires_grad=training)
    bias = torch.randn(heads, cells, cells, requires_grad=training)
    grad = torch.randn(1, windows, cells, heads * width)

    def plain() -> torch.Tensor:
        query, key, value = packed.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each (N, A, V, d)
        out = F.scaled_dot_product_attention(query, key, value, bias[None], scale=width**-0.5)
        return out.transpose(1, 2).reshape(grad.shape)

    def ours() -> torch.Tensor:
        return WindowAttention.apply(packed, bias, None, width**-0.5)

    if training:
        learning = [packed, bias]
        return {"plain": partial(gradients, plain, learning, grad), "ours": partial(gradients, ours, learning, grad)}
    return {"plain": torch.no_grad()(plain), "ours": torch.no_grad()(ours)}


def bias_pair(window: tuple[int, int, int], heads: int) -> dict[str, Callable]:
    """The bias of every pair of cells out of the table, and the table's gradient."""
    index = relative_position_index(window).flatten()
    table = torch.randn(int(index.max()) + 1, heads, requires_grad=True)
    cells = window[0] * window[1] * window[2]
    grad = torch.randn(heads, cells, cells)
    return {
        "plain": lambda: torch.autograd.grad(table[index].T.contiguous().view(grad.shape), table, grad),
        "ours": lambda: torch.autograd.grad(relative_bias(table, index, cells), table, grad),
    }


def layout_pair(shape: torch.Size, window: tuple[int, int, int], shift: tuple[int, int]) -> dict[str, Callable]:
    """From the windows of a block to the shifted ones of the next."""
    batch, frames, rows, columns, channels = shape
    t, r, c = window
    grid = torch.randn(shape)
    layout, shifted = (WindowLayout(shape, window, by, grid.device) for by in ((0, 0), shift))
    windows = layout.partition(grid)
    split = (batch, layout.padded[0] // t, layout.padded[1] // r, layout.padded[2] // c, t, r, c, channels)

    def plain() -> torch.Tensor:
        merged = windows.view(split).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *layout.padded, channels)
        rolled = merged.roll((-shift[0], -shift[1]), (2, 3))
        again = rolled.view(batch, split[1], t, split[2], r, split[3], c, channels)
        return again.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(layout.shape)

    return {"plain": torch.no_grad()(plain), "ours": torch.no_grad()(lambda: layout.change(windows, shifted))}


def grids(config: LFVilaVideoConfig) -> list[tuple[int, int]]:
    """Rows and columns of every level."""
    rows, columns = (-(-size // patch) for size, patch in zip(config.image_size, config.patch_shape, strict=True))
    found = []
    for level in range(len(config.depths)):
        found.append((rows, columns))
        if level in config.merge_after:
            rows, columns = -(-rows // 2), -(-columns // 2)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--preset", choices=["tiny", "base"], default="base", help="size of the model")
    parser.add_argument("--batch", type=int, default=1, help="videos in a batch")
    options = read_options(parser, arguments, "batch")
    if options.device != "cpu":
        parser.error("this is about the CPU's kernels; --device cpu")
    config: Any = getattr(LFVilaConfig, options.preset)().video_config
    found: dict[str, list[dict[str, Any]]] = {}
    print(f"{'piece':20} {'level':>5} {'plain ms':>10} {'ours ms':>10} {'ours / plain':>13}")
    for piece in PIECES:
        for level, grid in enumerate(grids(config)):
            make = partial(pair, piece, config, level, grid, options.batch)
            seconds: Seconds = time_rounds(make(), options.rounds, warmup=2)
            plain, ours = (1e3 * statistics.median(seconds[name]) for name in ("plain", "ours"))
            both = ratio(seconds, "ours", "plain")
            found.setdefault(piece, []).append({"level": level, "plain_ms": plain, "ours_ms": ours, "ratio": both})
            print(f"{piece:20} {level:5} {plain:10.3f} {ours:10.3f} {both:13.2f}")
    finish(record("cpu_paths", options, pieces=found), options)


if __name__ == "__main__":
    main()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""How the cells of a grid are laid out window by window, and which pairs of cells a shift must keep apart.

Attention needs the cells of a window side by side; norms, linear layers and residual sums do not care. Where windows
tile the grid, a level therefore lays its cells out once, and changes from windows to shifted windows and back by one
permutation between blocks, in place of partition, roll, and both undone, around every attention. The permutation of the
cells of one stretch of t frames is all there is to know: stretches and videos are laid out alike.

Released counterparts: `window_partition`, `window_reverse` and `compute_mask` of `src/modeling/video_encoder.py`
(microsoft/XPretrain, LF-VILA, MIT).

Letters: B videos, T frames, h w patch grid, C channels. Windows: t r c are frames, rows and columns of one window, V
its t*r*c cells, S windows that tile one frame's grid, n stretches of t frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .cpu_linear_lfvila import is_transformed


def fit_window(window: tuple[int, int, int], sizes: Sequence[int]) -> tuple[int, int, int]:
    """A window `(t, r, c)`, cut to the grid's `(T, h, w)` where that is smaller."""
    # Not `min`: a compiler would carry it through every shape in place of one of the two numbers.
    frames, rows, columns = (cells if cells <= size else size for cells, size in zip(window, sizes, strict=True))
    return frames, rows, columns


def shifted_window_mask(
    grid: tuple[int, int], window: tuple[int, int, int], shift: tuple[int, int], like: torch.Tensor
) -> torch.Tensor:
    """Additive mask that keeps apart what a cyclic shift has brought together.

    Args:
        grid: padded rows and columns of the grid.
        window: (t, r, c).
        shift: rows and columns that the grid was rolled up and left by.
        like: gives dtype and device.

    Returns:
        `(S, V, V)`: 0 for cells of one region of the unrolled grid, -100 (as released) for cells of different ones.
    """
    regions = []
    for size, cells, step in zip(grid, window[1:], shift, strict=True):
        position = torch.arange(size, device=like.device)
        # Three stretches: windows untouched by the roll, the last window's own part, what came round from the start.
        stretch = (position >= size - cells).long() + (position >= size - step).long() if step else position * 0
        regions.append(stretch.view(-1, cells))  # (windows along this axis, cells)
    rows, columns = regions
    region = rows[:, None, :, None] * 3 + columns[None, :, None, :]  # (nr, nc, r, c)
    region = region.reshape(-1, 1, window[1] * window[2])  # (S, 1, r*c)
    region = region.expand(-1, window[0], -1).flatten(1)  # (S, V)
    return (region[:, :, None] != region[:, None, :]).to(like.dtype) * -100.0


def window_order(
    grid: tuple[int, int], window: tuple[int, int, int], shift: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Which cell of a stretch stands where when its windows follow each other.

    Args:
        grid: padded rows and columns of the grid.
        window: (t, r, c).
        shift: rows and columns that the grid is rolled up and left by before it is cut into windows.
        device: of the result.

    Returns:
        `(S*V,)`: numbers of cells, counted frame by frame and row by row.
    """
    t, r, c = window
    cells = torch.arange(t * grid[0] * grid[1], device=device).view(t, *grid).roll((-shift[0], -shift[1]), (1, 2))
    return cells.view(t, grid[0] // r, r, grid[1] // c, c).permute(1, 3, 0, 2, 4).flatten()


class WindowLayout:
    """The windows of a block on a grid, and the way from the grid into them and back.

    Args:
        shape: of the grid, `(B, T, h, w, C)`.
        window: (t, r, c), none longer than its axis.
        shift: rows and columns that windows are shifted by.
        device: of the grid.
        early: frames that the first window begins before the first frame; they are filled up like what is missing at
            the end.
    """

    def __init__(
        self,
        shape: torch.Size,
        window: tuple[int, int, int],
        shift: tuple[int, int],
        device: torch.device,
        early: int = 0,
    ) -> None:
        batch, *self.sizes = shape[:4]
        self.early = early
        filled = (self.sizes[0] + early, *self.sizes[1:])
        missing = [-size % cells for size, cells in zip(filled, window, strict=True)]
        # Nothing is added to a size that fits: a compiler would carry the sum, and its remainders, through every shape.
        self.padded = [size + more if more else size for size, more in zip(filled, missing, strict=True)]
        frames, rows, columns = self.padded
        self.frames = window[0]
        stretches = frames // window[0]
        cells = window[0] * window[1] * window[2]
        self.shape = (batch, stretches, rows * columns * window[0] // cells, cells, shape[4])  # (B, n, S, V, C)
        self.order = window_order((rows, columns), window, shift, device)  # (S*V,)
        place = torch.arange(len(self.order), device=device)
        self.places = torch.empty_like(self.order).scatter_(0, self.order, place)  # the inverse
        first = torch.arange(batch * stretches, device=device) * len(self.order)
        self._first = first[:, None]  # row that each stretch begins at, (B*n, 1)

    @property
    def is_padded(self) -> bool:
        """Whether windows reach beyond the grid."""
        return self.padded != self.sizes

    def partition(self, grid: torch.Tensor) -> torch.Tensor:
        """`(B, T, h, w, C)` to windows `(B, n, S, V, C)`; cells beyond the grid are 0."""
        if self.is_padded:
            missing = [padded - size for padded, size in zip(self.padded, self.sizes, strict=True)]
            grid = F.pad(grid, (0, 0, 0, missing[2], 0, missing[1], self.early, missing[0] - self.early))
        stretches = grid.unflatten(1, (-1, self.frames)).flatten(2, 4)  # (B, n, S*V, C)
        return self._permute(stretches, self.order, self.places).unflatten(2, self.shape[2:4])

    def merge(self, windows: torch.Tensor) -> torch.Tensor:
        """`(B, n, S, V, C)` to the grid `(B, T, h, w, C)`."""
        frames, rows, columns = self.sizes
        stretches = self._permute(windows.flatten(2, 3), self.places, self.order)
        grid = stretches.unflatten(2, (self.frames, *self.padded[1:])).flatten(1, 2)
        return grid[:, self.early : self.early + frames, :rows, :columns] if self.is_padded else grid

    def change(self, windows: torch.Tensor, other: WindowLayout) -> torch.Tensor:
        """These windows to those of `other`, a layout of the same grid and window with another shift."""
        stretches = windows.flatten(2, 3)
        moved = self._permute(stretches, self.places[other.order], other.places[self.order])
        return moved.unflatten(2, other.shape[2:4])

    def _permute(self, stretches: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Stretches of cells, `(B, n, S*V, C)`, with the cells of each in the given order."""
        # Blocks of one level may lie on several devices (`device_map`).
        order, inverse = order.to(stretches.device), inverse.to(stretches.device)
        if is_transformed(stretches):
            return stretches.index_select(2, order)
        if torch.compiler.is_compiling():  # a product of sizes that may change could not be taken apart again
            return Permutation.apply(stretches, order, inverse, 2)
        rows, back = ((self._first.to(one.device) + one).flatten() for one in (order, inverse))
        cells = stretches.reshape(-1, stretches.shape[-1])  # moved one by one, which is faster
        return Permutation.apply(cells, rows, back, 0).view(stretches.shape)


class Permutation(torch.autograd.Function):
    """Rows in another order. The gradient is a copy too, where indexing would add up over rows that might repeat."""

    @staticmethod
    def forward(hidden_states: torch.Tensor, rows: torch.Tensor, back: torch.Tensor, axis: int) -> torch.Tensor:
        """Select `rows` along an axis.

        Args:
            hidden_states: any tensor.
            rows: a permutation of the axis.
            back: its inverse.
            axis: number of the axis.
        """
        return hidden_states.index_select(axis, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep the permutation."""
        ctx.save_for_backward(*inputs[1:3])
        ctx.axis = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Rows back in their places.

        Args:
            ctx: autograd's.
            grad: of the result.
        """
        rows, back = ctx.saved_tensors
        return Permutation.apply(grad, back, rows, ctx.axis), None, None, None


__all__ = ["Permutation", "WindowLayout", "fit_window", "shifted_window_mask", "window_order"]

"""Layouts of windows: against slicing a rolled grid, there and back, from one shift to another, and their gradients.

What attention makes of them is in test_modeling_video_lfvila.py, which also holds the mask of shifted windows against a
loop.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from lfvila_hf.video_windows_lfvila import Permutation, WindowLayout

GRIDS = [
    ((4, 6, 10), (2, 3, 5), (1, 2)),
    ((4, 6, 10), (2, 3, 5), (0, 0)),
    ((3, 3, 5), (3, 3, 5), (0, 0)),
    ((5, 7, 11), (2, 3, 5), (1, 2)),  # padded on every axis
    ((2, 6, 4), (1, 3, 4), (1, 0)),
]


def numbered(sizes: tuple[int, int, int], batch: int = 2) -> torch.Tensor:
    """A grid whose every value is another, none of them 0."""
    count = batch * sizes[0] * sizes[1] * sizes[2]
    return torch.arange(1, 3 * count + 1, dtype=torch.float64).view(batch, *sizes, 3)


@pytest.mark.parametrize(("sizes", "window", "shift"), GRIDS)
def test_windows_are_slices_of_the_padded_and_rolled_grid(
    sizes: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int]
) -> None:
    grid = numbered(sizes)
    layout = WindowLayout(grid.shape, window, shift, grid.device)
    padded = torch.zeros(2, *(size + -size % cells for size, cells in zip(sizes, window, strict=True)), 3).double()
    padded[:, : sizes[0], : sizes[1], : sizes[2]] = grid
    rolled = padded.roll((-shift[0], -shift[1]), (2, 3))
    t, r, c = window
    expected = [
        [
            torch.stack([rolled[b, s : s + t, i : i + r, j : j + c].reshape(-1, 3) for i, j in itertools.product(
                range(0, padded.shape[2], r), range(0, padded.shape[3], c)
            )])
            for s in range(0, padded.shape[1], t)
        ]
        for b in range(2)
    ]  # fmt: skip
    windows = layout.partition(grid)
    assert torch.equal(windows, torch.stack([torch.stack(video) for video in expected]))
    assert torch.equal(layout.merge(windows), grid)
    assert layout.is_padded == (tuple(padded.shape[1:4]) != sizes)


@pytest.mark.parametrize(("sizes", "window", "shift"), GRIDS)
def test_one_layout_changes_into_another_without_the_grid_between(
    sizes: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int]
) -> None:
    grid = numbered(sizes)
    plain, shifted = (WindowLayout(grid.shape, window, by, grid.device) for by in ((0, 0), shift))
    assert torch.equal(plain.change(plain.partition(grid), shifted), shifted.partition(grid))
    assert torch.equal(shifted.change(shifted.partition(grid), plain), plain.partition(grid))


@pytest.mark.parametrize("axis", [0, 2])
def test_gradients_come_back_to_their_cells_once_and_twice(axis: int) -> None:
    rows = torch.tensor([2, 0, 3, 1])
    cells = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)

    def permute(states: torch.Tensor) -> torch.Tensor:
        return Permutation.apply(states, rows, rows.argsort(), axis)

    assert torch.equal(permute(cells), cells[(slice(None),) * axis + (rows,)])
    assert torch.autograd.gradcheck(permute, cells)
    assert torch.autograd.gradgradcheck(lambda states: permute(states).square(), cells)


def test_permutations_follow_cells_to_another_device() -> None:
    grid = torch.zeros(2, 4, 6, 10, 8, device="meta")
    plain, shifted = (WindowLayout(grid.shape, (2, 3, 5), by, torch.device("cpu")) for by in ((0, 0), (1, 2)))
    assert shifted.merge(plain.change(plain.partition(grid), shifted)).device.type == "meta"

"""Floors of a video tower: its linear layers as bare matrix products, and the bytes that these must move.

*Products*: every linear layer, and every convolution as the matrix product that it is, on buffers that exist already.
Nothing else runs: no attention, no normalisation, no activation, no copy. A training step needs three products per
layer: the output, the gradient of the input, the gradient of the weight.

*Bytes*: each product reads its two operands once and writes its result once. That is what would remain if every other
step were fused into a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from measuring import Part
from torch.utils._python_dispatch import TorchDispatchMode

from lfvila_hf import LFVilaVideoConfig, LFVilaVideoModel

Shape = tuple[int, int, int]
"""Rows, inner and outer size of a matrix product `(rows, inner) x (inner, outer)`."""


class ProductRecorder(TorchDispatchMode):
    """Keeps the sizes of products of two matrices and of convolutions; those of attention are batched and not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Shape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket
        if kind in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.shapes.append((left.shape[0], left.shape[1], right.shape[1]))
        elif kind is torch.ops.aten.convolution:
            outer, inner = len(args[1]), args[1][0].numel()
            self.shapes.append((result.numel() // outer, inner, outer))
        return result


def linear_shapes(config: LFVilaVideoConfig, batch: int) -> list[Shape]:
    """The products of one forward, in order: every linear layer, and every convolution as the product that it is."""
    with torch.device("meta"), torch.no_grad():
        tower = LFVilaVideoModel(config)
        pixels = torch.empty(batch, config.num_frames, config.num_channels, *config.image_size)
        with ProductRecorder() as recorder:
            tower(pixels)
    return recorder.shapes


def make_floor(
    shapes: Sequence[Shape], training: bool, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Part:
    """Products of these sizes on buffers that exist already; sizes that come again use the same buffers."""
    place: Any = {"device": device, "dtype": dtype}
    buffers = {
        (rows, inner, outer): tuple(
            torch.randn(size, **place) for size in ((rows, inner), (outer, inner), (rows, outer))
        )
        for rows, inner, outer in set(shapes)
    }
    gradients = {
        shape: (torch.empty_like(value), torch.empty_like(weight)) if training else ()
        for shape, (value, weight, _) in buffers.items()
    }

    def products() -> None:
        for shape in shapes:
            value, weight, result = buffers[shape]
            torch.mm(value, weight.T, out=result)
            if training:
                value_gradient, weight_gradient = gradients[shape]
                torch.mm(result, weight, out=value_gradient)
                torch.mm(result.T, value, out=weight_gradient)

    return products


def make_onednn_floor(shapes: Sequence[Shape]) -> Part:
    """The forward's products on a CPU by oneDNN, which PyTorch has beside its BLAS library; float32.

    Each product makes its result anew, since the operator takes no buffer.
    """
    kernel: Any = torch.ops.mkldnn._linear_pointwise
    buffers = {shape: (torch.randn(shape[0], shape[1]), torch.randn(shape[2], shape[1])) for shape in set(shapes)}

    def products() -> None:
        for shape in shapes:
            kernel(*buffers[shape], None, "none", [], "")

    return products


def has_onednn() -> bool:
    """Whether this build of PyTorch has that operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiplications(shapes: Sequence[Shape]) -> int:
    """Multiplications (with their additions) of these products."""
    return sum(rows * inner * outer for rows, inner, outer in shapes)


def bytes_that_must_move(shapes: Sequence[Shape], training: bool, size: int = 4) -> int:
    """Bytes that the products read and write, each operand once.

    Args:
        shapes: of one forward.
        training: three products per layer instead of one.
        size: bytes of one number.
    """
    operands = sum(rows * inner + inner * outer + rows * outer for rows, inner, outer in shapes)
    return operands * size * (3 if training else 1)

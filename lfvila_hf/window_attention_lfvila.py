# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Window attention with a learned bias on a CPU, as a few batched products.

`scaled_dot_product_attention` has a fused CPU kernel. It has no gradient for an additive bias, so that wherever the
bias table learns it falls back to a generic path that copies queries, keys and values and keeps several matrices of the
size of the weights; and for small windows it is slower than the products alone (docs/performance.md).
`WindowAttention` does the same products head by head on strided views of the packed projection, so that every call is
one batched product over all windows and nothing is copied, and keeps the weights alone. Results agree to rounding.

It takes the place of `sdpa` in `modeling_video_lfvila` exactly where `runs_on_cpu` says so; other devices, half
precision, attention dropout, exported graphs, traces and transforms go the ordinary way. Compiled models hold its two
directions as one operator each, or their compiler would unroll the loops over heads.

Memory between forward and backward: the packed projection and one weight per pair of cells and head.

Letters: N windows = groups of time (G) x tiles of the grid (S), V cells of a window, A heads, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .cpu_linear_lfvila import is_exporting, is_transformed


def relative_bias(table: torch.Tensor, position_index: torch.Tensor, cells: int) -> torch.Tensor:
    """The bias of every pair of the V `cells`: table `(rows, A)` and index `(V*V,)` to `(A, V, V)`."""
    heads = table.shape[1]
    if table.device.type == "cpu":
        # Its gradient is a plain sum per row; that of indexing is tens of times slower there.
        return table.T.contiguous().gather(1, position_index.expand(heads, -1)).view(heads, cells, cells)
    return table[position_index].T.contiguous().view(heads, cells, cells)


FEWEST_WEIGHTS = 2**20
"""Pairs of cells, over all windows and heads, below which the fused kernel is faster where it can be had."""


MOST_CELLS = 64
"""Cells of a window above which the fused kernel is faster where it can be had."""


def runs_on_cpu(packed: torch.Tensor, bias: torch.Tensor, implementation: str | None, dropout: float) -> bool:
    """Whether `WindowAttention` is the way to go.

    Args:
        packed: queries, keys and values.
        bias: `(A, V, V)`.
        implementation: the attention backend that the configuration names.
        dropout: of the attention weights.
    """
    groups, tiles, cells, _, heads, _ = packed.shape
    learns = torch.is_grad_enabled() and bias.requires_grad
    return (
        implementation == "sdpa"
        and packed.device.type == "cpu"
        and packed.dtype in (torch.float32, torch.float64)
        and bias.dtype == packed.dtype
        and dropout == 0.0
        and not is_exporting()
        and not is_transformed(packed)
        and (learns or (cells <= MOST_CELLS and groups * tiles * heads * cells * cells >= FEWEST_WEIGHTS))
    )


@torch.library.custom_op("lfvila_hf::cpu_window_attention", mutates_args=())
def _opaque_attend(
    packed: torch.Tensor, bias: torch.Tensor, shift_mask: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_attend` as one operator."""
    return _attend(packed, bias, shift_mask, scaling)


@_opaque_attend.register_fake
def _shapes_of_attend(
    packed: torch.Tensor, bias: torch.Tensor, shift_mask: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    groups, tiles, cells, _, heads, width = packed.shape
    out = packed.new_empty(groups, tiles, cells, heads * width)
    return out, packed.new_empty(heads, groups * tiles, cells, cells)


@torch.library.custom_op("lfvila_hf::cpu_window_attention_backward", mutates_args=())
def _opaque_gradients(
    grad: torch.Tensor, packed: torch.Tensor, weights: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_gradients` as one operator."""
    return _gradients(grad, packed, weights, scaling)


@_opaque_gradients.register_fake
def _shapes_of_gradients(
    grad: torch.Tensor, packed: torch.Tensor, weights: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    cells, heads = packed.shape[2], packed.shape[4]
    return torch.empty_like(packed), weights.new_empty(heads, cells, cells)


class WindowAttention(torch.autograd.Function):
    """Attention inside windows from the packed projection, with the gradient of the bias."""

    @staticmethod
    def forward(
        ctx: Any, packed: torch.Tensor, bias: torch.Tensor, shift_mask: torch.Tensor | None, scaling: float
    ) -> torch.Tensor:
        """Attend; see `_attend`, whose weights are kept.

        Args:
            ctx: autograd's.
            packed: queries, keys and values, `(G, S, V, 3, A, d)`, contiguous.
            bias: added to the scaled products, `(A, V, V)`.
            shift_mask: added to those of each tile, `(S, V, V)`; no gradient.
            scaling: factor of the products.

        Returns:
            `(G, S, V, A * d)`.
        """
        attend = _opaque_attend if torch.compiler.is_compiling() else _attend
        out, weights = attend(packed, bias, shift_mask, scaling)
        ctx.save_for_backward(packed, weights)
        ctx.scaling = scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Gradients of the packed projection and of the bias.

        Args:
            ctx: autograd's.
            grad: `(G, S, V, A * d)`.
        """
        differentiate = _opaque_gradients if torch.compiler.is_compiling() else _gradients
        packed, weights = ctx.saved_tensors
        return *differentiate(grad, packed, weights, ctx.scaling), None, None


def _attend(
    packed: torch.Tensor, bias: torch.Tensor, shift_mask: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(G, S, V, 3, A, d)` to what the windows give, `(G, S, V, A * d)`, and the weights, `(A, N, V, V)`."""
    groups, tiles, cells, _, heads, width = packed.shape
    windows = groups * tiles
    query, key, value = packed.view(windows, cells, 3, heads, width).unbind(2)  # each (N, V, A, d)
    scores = packed.new_empty(heads, windows, cells, cells)
    for head in range(heads):
        torch.bmm(query[:, :, head], key[:, :, head].transpose(1, 2), out=scores[head])
    torch.add(bias[:, None], scores, alpha=scaling, out=scores)
    if shift_mask is not None:
        scores.view(heads, groups, tiles, cells, cells).add_(shift_mask)
    weights = scores.softmax(-1)
    out = packed.new_empty(heads, windows, cells, width)
    for head in range(heads):
        torch.bmm(weights[head], value[:, :, head], out=out[head])
    return out.permute(1, 2, 0, 3).reshape(groups, tiles, cells, heads * width), weights


def _gradients(
    grad: torch.Tensor, packed: torch.Tensor, weights: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the gradient `(G, S, V, A * d)` those of `packed`, `(G, S, V, 3, A, d)`, and of the bias, `(A, V, V)`."""
    cells, _, heads, width = packed.shape[2:]
    query, key, value = packed.view(-1, cells, 3, heads, width).unbind(2)  # each (N, V, A, d)
    grad = grad.reshape(-1, cells, heads, width)  # (N, V, A, d)
    packed_grad = torch.empty_like(packed)
    query_grad, key_grad, value_grad = packed_grad.view(-1, cells, 3, heads, width).unbind(2)
    bias_grad = weights.new_empty(heads, cells, cells)
    for head in range(heads):
        share = weights[head]  # (N, V, V)
        out_grad = grad[:, :, head]  # (N, V, d)
        value_grad[:, :, head] = torch.bmm(share.transpose(1, 2), out_grad)
        share_grad = torch.bmm(out_grad, value[:, :, head].transpose(1, 2))
        score_grad = torch.ops.aten._softmax_backward_data(share_grad, share, -1, share.dtype)  # (N, V, V)
        torch.sum(score_grad, 0, out=bias_grad[head])
        score_grad.mul_(scaling)
        query_grad[:, :, head] = torch.bmm(score_grad, key[:, :, head])
        key_grad[:, :, head] = torch.bmm(score_grad.transpose(1, 2), query[:, :, head])
    return packed_grad, bias_grad


__all__ = ["WindowAttention", "relative_bias", "runs_on_cpu"]

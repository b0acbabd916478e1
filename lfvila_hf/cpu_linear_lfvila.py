# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Linear layers on a CPU by oneDNN's kernels, which PyTorch uses for compiled models but not for plain ones.

For float32 `torch.nn.functional.linear` calls the BLAS library: it writes the bias into the result first and adds the
product to it. oneDNN's inner product adds bias and, without gradients, GELU while the result is still in registers. It
was faster for the large layers of the released size (docs/performance.md), but holds compiled code and buffers for
every shape it has seen, so this is for the video tower, whose shapes are few, and for layers that are large enough.

`project` and `project_twice` take that way for a plain `nn.Linear` on the CPU. They call the module elsewhere: other
devices and types, autocast, small layers, tracing, transforms, and layers that an adapter, a quantiser, a hook or
another library has changed. Results agree to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks
from transformers.activations import GELUActivation

Kind = TypeVar("Kind", bound=nn.Module)

FEWEST_PRODUCTS = 2**28
"""Multiplications of a layer below which BLAS was as fast or faster (two cores)."""


RECORDING = "transformers.utils.output_capturing"
"""Where hooks come from that record what modules return."""

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether a graph is made that is to run without this package; before PyTorch could tell, any graph."""


def is_transformed(states: torch.Tensor) -> bool:
    """Whether tensors stand for more than their values: transforms of `torch.func`, forward-mode gradients, jit traces.

    Kernels and functions of this package know nothing of them; PyTorch's own operators do. Of a graph that is being
    compiled no more can be told than whether `states` themselves are those of many samples (`torch.func.vmap`, without
    a gradient inside).
    """
    if torch.compiler.is_compiling():
        return torch._C._functorch.is_batchedtensor(states)
    transforms = torch._C._functorch.peek_interpreter_stack() is not None
    return transforms or forward_ad._current_level >= 0 or torch.jit.is_tracing()


def _find_kernel() -> Any:
    """PyTorch's operator for oneDNN's inner product, `None` in builds without it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


_KERNEL = _find_kernel()


@torch.library.custom_op(
    "lfvila_hf::cpu_linear",
    mutates_args=(),
    schema="(Tensor hidden_states, Tensor weight, Tensor? bias, str activation) -> Tensor",
)
def _opaque_linear(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """The kernel as one operator for compiled models, whose compiler takes it apart otherwise and wants constants."""
    return _KERNEL(hidden_states, weight, bias, activation, [], "none")


@_opaque_linear.register_fake
def _shape_of_linear(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    return hidden_states.new_empty((*hidden_states.shape[:-1], weight.shape[0]))


def _multiply(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"
) -> torch.Tensor:
    """`activation(hidden_states @ weight.T + bias)` by the kernel."""
    if torch.compiler.is_compiling():
        return _opaque_linear(hidden_states, weight, bias, activation)
    return _KERNEL(hidden_states, weight, bias, activation, [], "none")


def is_untouched(module: nn.Module, kind: type[Kind], may_be_recorded: bool = False) -> TypeGuard[Kind]:
    """Whether a call of `module` does nothing but what the class `kind` says: no subclass, wrapper or hook.

    Args:
        module: it.
        kind: its class.
        may_be_recorded: whether hooks by which transformers records outputs are none. It leaves them where they were
            once needed.
    """
    ignored = RECORDING if may_be_recorded else None
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not module._forward_pre_hooks
        and all(ignored and getattr(hook, "__module__", None) == ignored for hook in module._forward_hooks.values())
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not (module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks)
        and not (module_hooks._global_backward_hooks or module_hooks._global_backward_pre_hooks)
    )


def _fits(linear: nn.Module, hidden_states: torch.Tensor) -> TypeGuard[nn.Linear]:
    """Whether `linear` may be computed by oneDNN for as many rows: nothing but its weights says what it does."""
    return (
        _KERNEL is not None
        and is_untouched(linear, nn.Linear)
        and type(linear.weight) is nn.Parameter
        and type(hidden_states) is torch.Tensor
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == linear.weight.dtype == torch.float32
        and linear.weight.device.type == "cpu"
        and not is_exporting()  # first: a comparison of sizes would bound the sizes that the graph takes
        and math.prod(hidden_states.shape[:-1]) * linear.weight.numel() >= FEWEST_PRODUCTS
        and not is_transformed(hidden_states)
        and not torch.is_autocast_enabled("cpu")
        and getattr(torch.backends.mkldnn, "enabled", True)
    )


def _can_redo(norm: nn.Module, width: int) -> TypeGuard[nn.LayerNorm]:
    """Whether `norm` is LayerNorm over the last axis, of that width, that does what its weights say."""
    return (
        is_untouched(norm, nn.LayerNorm)
        and norm.normalized_shape == (width,)
        and all(one is None or type(one) is nn.Parameter for one in (norm.weight, norm.bias))
    )


def _learns(hidden_states: torch.Tensor, *layers: nn.Module) -> bool:
    """Whether a gradient may be asked for."""
    weights = (one for layer in layers for one in layer.parameters(recurse=False))
    return torch.is_grad_enabled() and any(one.requires_grad for one in (hidden_states, *weights))


def project(linear: nn.Module, hidden_states: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
    """`linear(norm(hidden_states))`: `(..., in)` to `(..., out)`.

    Args:
        linear: `(..., in)` to `(..., out)`.
        hidden_states: `(..., in)`.
        norm: before the layer; what a plain `nn.LayerNorm` returns is not kept for the backward but made again.
    """
    if norm is not None:
        # Where the layer does not learn, the ordinary way keeps less.
        learns = torch.is_grad_enabled() and _fits(linear, hidden_states) and linear.weight.requires_grad
        if learns and _can_redo(norm, hidden_states.shape[-1]):
            return LinearOnCPU.apply(hidden_states, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps)
        return project(linear, norm(hidden_states))
    if not _fits(linear, hidden_states):
        return linear(hidden_states)
    if _learns(hidden_states, linear):
        return LinearOnCPU.apply(hidden_states, None, None, linear.weight, linear.bias, None)
    return _multiply(hidden_states, linear.weight, linear.bias)


def project_twice(
    first: nn.Module, act: nn.Module, second: nn.Module, hidden_states: torch.Tensor, norm: nn.Module | None = None
) -> torch.Tensor:
    """`second(act(first(norm(hidden_states))))`, exact GELU in one go with what is around it.

    Args:
        first: `(..., in)` to `(..., inner)`.
        act: of what it gives.
        second: `(..., inner)` to `(..., out)`.
        hidden_states: `(..., in)`.
        norm: before the layers; that of a plain `nn.LayerNorm` is not kept for the backward but made again.
    """
    known = is_untouched(act, GELUActivation) and (norm is None or _can_redo(norm, hidden_states.shape[-1]))
    learns = _learns(hidden_states, first, second, *([] if norm is None else [norm]))
    if known and _fits(first, hidden_states) and _fits(second, hidden_states):
        weights = first.weight, first.bias, second.weight, second.bias
        if learns and first.weight.requires_grad:  # else the ordinary way keeps less
            normal = (None, None, None) if norm is None else (norm.weight, norm.bias, norm.eps)
            return MLPOnCPU.apply(hidden_states, *normal[:2], *weights, normal[2])
        if not learns:
            hidden_states = hidden_states if norm is None else norm(hidden_states)
            return _multiply(_multiply(hidden_states, *weights[:2], "gelu"), *weights[2:])
    hidden_states = hidden_states if norm is None else norm(hidden_states)
    return project(second, act(project(first, hidden_states)))


class LinearOnCPU(torch.autograd.Function):
    """LayerNorm or nothing, and a linear layer, with their gradients: oneDNN where it is faster, BLAS for the weight's.

    What LayerNorm returns is not kept but made again from what it was given, which its gradient needs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        norm_weight: torch.Tensor | None,
        norm_bias: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float | None,
    ) -> torch.Tensor:
        """`normalised hidden_states @ weight.T + bias`.

        Args:
            ctx: autograd's.
            hidden_states: `(..., in)`.
            norm_weight: of LayerNorm, `(in,)`.
            norm_bias: `(in,)`.
            weight: `(out, in)`.
            bias: `(out,)`.
            eps: of LayerNorm; `None` for none.
        """
        is_read = weight.requires_grad or eps is not None
        ctx.save_for_backward(hidden_states if is_read else None, norm_weight, norm_bias, weight)
        ctx.eps = eps
        return _multiply(_normalise(hidden_states, norm_weight, norm_bias, eps)[0], weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of input, weights and biases, those that are asked for.

        Args:
            ctx: autograd's.
            grad: `(..., out)`.
        """
        hidden_states, norm_weight, norm_bias, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        normed, *statistics = _normalise(hidden_states, norm_weight, norm_bias, ctx.eps)
        own = _weight_gradients(grad, normed, needed[3:5])
        if not any(needed[:3]):
            return None, None, None, *own, None
        grad = _input_gradient(grad, weight)
        return *_norm_gradients(grad, hidden_states, statistics, norm_weight, norm_bias, needed[:3]), *own, None


class MLPOnCPU(torch.autograd.Function):
    """LayerNorm or nothing, linear, GELU, linear with their gradients.

    What LayerNorm and GELU return is not kept but made again from what they were given, which their gradients need.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        norm_weight: torch.Tensor | None,
        norm_bias: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        second_weight: torch.Tensor,
        second_bias: torch.Tensor | None,
        eps: float | None,
    ) -> torch.Tensor:
        """Both layers, `(..., in)` to `(..., out)`.

        Args:
            ctx: autograd's.
            hidden_states: `(..., in)`.
            norm_weight: of LayerNorm, `(in,)`.
            norm_bias: `(in,)`.
            weight: of the first layer, `(inner, in)`.
            bias: `(inner,)`.
            second_weight: `(out, inner)`.
            second_bias: `(out,)`.
            eps: of LayerNorm; `None` for none.
        """
        normed, *_ = _normalise(hidden_states, norm_weight, norm_bias, eps)
        inner = _multiply(normed, weight, bias)
        ctx.save_for_backward(hidden_states, norm_weight, norm_bias, weight, second_weight, inner)
        ctx.bias, ctx.eps = bias, eps  # plain gradients do not depend on the bias: it may change
        return _multiply(F.gelu(inner), second_weight, second_bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of input, weights and biases, those that are asked for.

        Args:
            ctx: autograd's.
            grad: `(..., out)`.
        """
        hidden_states, norm_weight, norm_bias, weight, second_weight, inner = ctx.saved_tensors
        needed = ctx.needs_input_grad
        normed, *statistics = _normalise(hidden_states, norm_weight, norm_bias, ctx.eps)
        if torch.is_grad_enabled():  # for gradients of gradients, what was kept would be a constant
            inner = F.linear(normed, weight, ctx.bias)
        second = _weight_gradients(grad, F.gelu(inner) if needed[5] else inner, needed[5:7])
        if not any(needed[:5]):
            return *[None] * 5, *second, None
        grad = torch.ops.aten.gelu_backward(_input_gradient(grad, second_weight), inner)
        first = _weight_gradients(grad, normed, needed[3:5])
        if not any(needed[:3]):
            return *[None] * 3, *first, *second, None
        grad = _input_gradient(grad, weight)
        before = _norm_gradients(grad, hidden_states, statistics, norm_weight, norm_bias, needed[:3])
        return *before, *first, *second, None


def _normalise(
    hidden_states: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, ...]:
    """LayerNorm over the last axis with the means and reciprocal deviations that its gradient needs, or nothing."""
    if eps is None:
        return (hidden_states,)
    return torch.native_layer_norm(hidden_states, hidden_states.shape[-1:], weight, bias, eps)


def _norm_gradients(
    grad: torch.Tensor,
    hidden_states: torch.Tensor,
    statistics: Sequence[torch.Tensor],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    needed: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Of input, weight and bias of what `_normalise` did, from `(..., in)`."""
    if not statistics:
        return grad, None, None
    width, mask = hidden_states.shape[-1:], list(needed)
    return torch.ops.aten.native_layer_norm_backward(grad, hidden_states, width, *statistics, weight, bias, mask)


def _input_gradient(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`(..., out)` to `(..., in)`; gradients of gradients go through operators that have some."""
    return grad @ weight if torch.is_grad_enabled() else _multiply(grad, weight.T, None)


def _weight_gradients(
    grad: torch.Tensor, hidden_states: torch.Tensor, needed: Sequence[bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Of weight and bias, from `(..., out)` and `(..., in)`."""
    rows = grad.reshape(-1, grad.shape[-1])
    weight_grad = rows.T @ hidden_states.reshape(-1, hidden_states.shape[-1]) if needed[0] else None
    return weight_grad, rows.sum(0) if needed[1] else None


__all__ = ["LinearOnCPU", "MLPOnCPU", "is_exporting", "is_transformed", "is_untouched", "project", "project_twice"]

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Linear layers on a CPU by oneDNN's kernels, which PyTorch uses for compiled models but not for plain ones.

For float32 `torch.nn.functional.linear` calls the BLAS library: it writes the bias into the result first and adds the
product to it. oneDNN's inner product adds bias and, without gradients, GELU while the result is still in registers. It
was faster for the large layers of the released size (docs/performance.md), but holds compiled code and buffers for
every shape it has seen, so this is for the video tower, whose shapes are few, and for layers that are large enough.

`project` takes that way for a plain `nn.Linear` on the CPU and calls the module everywhere else: other devices and
types, autocast, small layers, tracing, transforms, and layers that an adapter, a quantiser, a hook or another library
has changed. Results agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_hooks
from transformers.activations import GELUActivation

FEWEST_PRODUCTS = 2**29
"""Multiplications of a layer below which BLAS was as fast or faster (two cores)."""


is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether a graph is made that is to run without this package; before PyTorch could tell, any graph."""


def is_transformed() -> bool:
    """Whether tensors stand for more than their values: transforms of `torch.func`, forward-mode gradients, jit traces.

    Kernels and functions of this package know nothing of them; PyTorch's own operators do.
    """
    if torch.compiler.is_compiling():
        return False
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


def is_untouched(module: nn.Module) -> bool:
    """Whether a call of `module` does nothing but what its class says."""
    return (
        "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not (module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks)
        and not (module_hooks._global_backward_hooks or module_hooks._global_backward_pre_hooks)
    )


def _fits(linear: nn.Module, hidden_states: torch.Tensor) -> TypeGuard[nn.Linear]:
    """Whether `linear` may be computed by oneDNN: nothing but its weights says what it does."""
    return (
        _KERNEL is not None
        and type(linear) is nn.Linear
        and type(linear.weight) is nn.Parameter
        and type(hidden_states) is torch.Tensor
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == linear.weight.dtype == torch.float32
        and linear.weight.device.type == "cpu"
        and not is_exporting()  # first: a comparison of sizes would bound the sizes that the graph takes
        and hidden_states.numel() * linear.out_features >= FEWEST_PRODUCTS
        and not is_transformed()
        and not torch.is_autocast_enabled("cpu")
        and getattr(torch.backends.mkldnn, "enabled", True)
        and is_untouched(linear)
    )


def project(linear: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """`linear(hidden_states)`: `(..., in)` to `(..., out)`."""
    if not _fits(linear, hidden_states):
        return linear(hidden_states)
    learns = hidden_states.requires_grad or any(one.requires_grad for one in linear.parameters(recurse=False))
    if torch.is_grad_enabled() and learns:
        return LinearOnCPU.apply(hidden_states, linear.weight, linear.bias)
    return _multiply(hidden_states, linear.weight, linear.bias)


def project_act(linear: nn.Module, act: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """`act(linear(hidden_states))`: `(..., in)` to `(..., out)`; exact GELU without gradients in one go."""
    in_one_go = isinstance(act, GELUActivation) and is_untouched(act) and not torch.is_grad_enabled()
    if in_one_go and _fits(linear, hidden_states):
        return _multiply(hidden_states, linear.weight, linear.bias, "gelu")
    return act(project(linear, hidden_states))


class LinearOnCPU(torch.autograd.Function):
    """A linear layer with its gradients: oneDNN where it is faster, BLAS for the weight's."""

    @staticmethod
    def forward(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`hidden_states @ weight.T + bias`.

        Args:
            hidden_states: `(..., in)`.
            weight: `(out, in)`.
            bias: `(out,)`.
        """
        return _multiply(hidden_states, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep what the gradients need."""
        hidden_states, weight, _ = inputs
        ctx.save_for_backward(hidden_states if weight.requires_grad else None, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Gradients of input, weight and bias, those that are asked for.

        Args:
            ctx: autograd's.
            grad: `(..., out)`.
        """
        hidden_states, weight = ctx.saved_tensors
        input_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            # Gradients of gradients go through operators that have some.
            input_grad = grad @ weight if torch.is_grad_enabled() else _multiply(grad, weight.T, None)
        flat = grad.reshape(-1, grad.shape[-1])  # (rows, out)
        if ctx.needs_input_grad[1]:
            weight_grad = flat.T @ hidden_states.reshape(-1, hidden_states.shape[-1])
        if ctx.needs_input_grad[2]:
            bias_grad = flat.sum(0)
        return input_grad, weight_grad, bias_grad


__all__ = ["LinearOnCPU", "is_exporting", "is_transformed", "is_untouched", "project", "project_act"]

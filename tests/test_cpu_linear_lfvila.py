"""Linear layers by oneDNN: the numbers and gradients of `nn.Linear`, and the module itself wherever it does more.

What the towers make of it is in test_modeling_video_lfvila.py and parity/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from transformers.activations import ACT2FN

from lfvila_hf import cpu_linear_lfvila
from lfvila_hf.cpu_linear_lfvila import LinearOnCPU, MLPOnCPU, project, project_twice

needs_kernel = pytest.mark.skipif(
    cpu_linear_lfvila._KERNEL is None, reason="this build of PyTorch has no oneDNN inner product"
)

# float32 sums of 96 products in another order; the largest difference measured is 1.2e-6 for values up to 4
FLOAT32_NOISE = 1e-5


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of a test's size are worth the kernel."""
    monkeypatch.setattr(cpu_linear_lfvila, "FEWEST_PRODUCTS", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activations that the kernel was called with."""
    kernel, seen = cpu_linear_lfvila._KERNEL, []

    def spy(hidden: torch.Tensor, weight: torch.Tensor, bias: Any, attribute: str, *rest: Any) -> torch.Tensor:
        seen.append(attribute)
        return kernel(hidden, weight, bias, attribute, *rest)

    monkeypatch.setattr(cpu_linear_lfvila, "_KERNEL", spy)
    return seen


def layer(bias: bool = True) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(96, 40, bias=bias), torch.randn(3, 7, 96)


@needs_kernel
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), ("input",), ("weight",), ("bias",), ("input", "bias"), ("input", "weight")])
def test_numbers_and_gradients_are_those_of_the_module(calls: list[str], bias: bool, frozen: tuple[str, ...]) -> None:
    linear, hidden = layer(bias)
    hidden.requires_grad_("input" not in frozen)
    for name, parameter in linear.named_parameters():
        parameter.requires_grad_(name not in frozen)
    learning = [one for one in (hidden, *linear.parameters()) if one.requires_grad]
    if not learning:
        pytest.skip("nothing learns")
    grad = torch.randn(3, 7, 40)
    results = []
    for compute in (project, lambda module, states: module(states)):
        out = compute(linear, hidden)
        results.append((out, *torch.autograd.grad(out, learning, grad)))
    assert calls and len(results[0]) == 1 + len(learning)
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=FLOAT32_NOISE, atol=FLOAT32_NOISE)


def let_learn(tensors: dict[str, torch.Tensor | None], learning: str) -> list[torch.Tensor]:
    """Have those alone that `learning` names ask for gradients, and return them; without any, the test is skipped."""
    for name, one in tensors.items():
        if one is not None:
            one.requires_grad_(name in learning)
    wanted = [one for name, one in tensors.items() if one is not None and name in learning]
    if not wanted:
        pytest.skip("nothing learns")
    return wanted


def second_layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(40, 96, bias=bias)


@needs_kernel
def test_gelu_is_part_of_the_product_without_gradients_and_apart_with_them(calls: list[str]) -> None:
    (linear, hidden), second = layer(), second_layer()
    expected = second(F.gelu(linear(hidden)))
    with torch.no_grad():
        found = project_twice(linear, ACT2FN["gelu"], second, hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=FLOAT32_NOISE)
    found = project_twice(linear, ACT2FN["gelu"], second, hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=FLOAT32_NOISE)
    assert calls == ["gelu", "none", "none", "none"]


@needs_kernel
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learning", ["isSb", "isSB", "i", "s", "b", "S", "B", "sb", "SB", "iSB"])
def test_two_layers_have_the_gradients_of_the_modules(calls: list[str], bias: bool, learning: str) -> None:
    """Letters: i input, s and b weight and bias of the first layer, S and B of the second."""
    (linear, hidden), second = layer(bias), second_layer(bias)
    tensors = {"i": hidden, "s": linear.weight, "b": linear.bias, "S": second.weight, "B": second.bias}
    wanted = let_learn(tensors, learning)
    grad = torch.randn(3, 7, 96)
    out, expected = project_twice(linear, ACT2FN["gelu"], second, hidden), second(F.gelu(linear(hidden)))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=FLOAT32_NOISE)
    assert calls and ("MLPOnCPU" in out.grad_fn.name()) == ("s" in learning)
    for found, right in zip(*(torch.autograd.grad(one, wanted, grad) for one in (out, expected)), strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(found, right, rtol=1e-5, atol=FLOAT32_NOISE)


def kept_by(compute: Callable[[], torch.Tensor], *modules: nn.Module) -> int:
    """How many numbers besides the weights of `modules` a forward keeps for its backward, which is run too."""
    weights = {one.data_ptr() for module in modules for one in module.parameters()}
    kept: dict[int, int] = {}

    def keep(one: torch.Tensor) -> torch.Tensor:
        kept[one.data_ptr()] = one.numel()
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        out = compute()
    out.sum().backward()
    return sum(size for place, size in kept.items() if place not in weights)


@needs_kernel
def test_what_gelu_returns_is_not_kept() -> None:
    (linear, hidden), second = layer(), second_layer()
    hidden.requires_grad_()
    ours = kept_by(lambda: project_twice(linear, ACT2FN["gelu"], second, hidden), linear, second)
    assert ours == hidden.numel() + 3 * 7 * 40
    assert ours == kept_by(lambda: second(F.gelu(linear(hidden))), linear, second) - 3 * 7 * 40


def normalising(affine: bool = True) -> nn.LayerNorm:
    torch.manual_seed(2)
    norm = nn.LayerNorm(96, eps=1e-3, elementwise_affine=affine)
    for one in norm.parameters():
        nn.init.normal_(one)
    return norm


@needs_kernel
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("learning", ["ianAs", "ianAsbSB", "s", "as", "nsB", "isS", "ian", "aB", "SB"])
def test_a_norm_before_two_layers_has_the_gradients_of_the_modules(affine: bool, learning: str) -> None:
    """Letters: i input, a and n weight and bias of the norm, s b S B as above."""
    (linear, hidden), second, norm = layer(), second_layer(), normalising(affine)
    tensors = {"i": hidden, "a": norm.weight, "n": norm.bias}
    tensors |= {"s": linear.weight, "b": linear.bias, "S": second.weight, "B": second.bias}
    wanted = let_learn(tensors, learning)
    grad = torch.randn(3, 7, 96)
    out = project_twice(linear, ACT2FN["gelu"], second, hidden, norm)
    expected = second(F.gelu(linear(norm(hidden))))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=FLOAT32_NOISE)
    assert ("MLPOnCPU" in out.grad_fn.name()) == ("s" in learning)
    for found, right in zip(*(torch.autograd.grad(one, wanted, grad) for one in (out, expected)), strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(found, right, rtol=1e-5, atol=3 * FLOAT32_NOISE)
    with torch.no_grad():
        found = project_twice(linear, ACT2FN["gelu"], second, hidden, norm)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=FLOAT32_NOISE)


@needs_kernel
def test_gradients_of_gradients_through_the_norm_are_those_of_the_modules() -> None:
    (linear, hidden), second, norm = layer(), second_layer(), normalising()
    hidden.requires_grad_()
    results = []
    for compute in (
        lambda: project_twice(linear, ACT2FN["gelu"], second, hidden, norm),
        lambda: second(F.gelu(linear(norm(hidden)))),
    ):
        grads = torch.autograd.grad(compute().square().sum(), (hidden, norm.weight, second.weight), create_graph=True)
        total = sum(one.square().sum() for one in grads)
        results.append(torch.autograd.grad(total, (hidden, norm.weight, norm.bias, linear.weight, second.weight)))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@needs_kernel
def test_what_the_norm_returns_is_not_kept() -> None:
    (linear, hidden), second, norm = layer(), second_layer(), normalising()
    hidden.requires_grad_()
    modules = linear, second, norm
    assert kept_by(lambda: project(linear, hidden, norm), *modules) == hidden.numel()
    kept = kept_by(lambda: project_twice(linear, ACT2FN["gelu"], second, hidden, norm), *modules)
    assert kept == hidden.numel() + 3 * 7 * 40


@needs_kernel
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("learning", ["ianSB", "S", "aS", "nS", "iS", "ian", "B", "aB", "iSB"])
def test_a_norm_before_one_layer_has_the_gradients_of_the_modules(affine: bool, learning: str) -> None:
    """Letters: i input, a and n weight and bias of the norm, S and B of the layer."""
    (linear, hidden), norm = layer(), normalising(affine)
    wanted = let_learn({"i": hidden, "a": norm.weight, "n": norm.bias, "S": linear.weight, "B": linear.bias}, learning)
    grad = torch.randn(3, 7, 40)
    out, expected = project(linear, hidden, norm), linear(norm(hidden))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=FLOAT32_NOISE)
    for found, right in zip(*(torch.autograd.grad(one, wanted, grad) for one in (out, expected)), strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(found, right, rtol=1e-5, atol=FLOAT32_NOISE)
    kept = kept_by(lambda: project(linear, hidden, norm), linear, norm)
    assert kept <= kept_by(lambda: linear(norm(hidden)), linear, norm)


@needs_kernel
def test_gradients_of_gradients_through_the_norm_of_one_layer_are_those_of_the_modules() -> None:
    (linear, hidden), norm = layer(), normalising()
    hidden.requires_grad_()
    results = []
    for compute in (lambda: project(linear, hidden, norm), lambda: linear(norm(hidden))):
        grads = torch.autograd.grad(compute().square().sum(), (hidden, norm.weight, linear.weight), create_graph=True)
        total = sum(one.square().sum() for one in grads)
        results.append(torch.autograd.grad(total, (hidden, norm.weight, norm.bias, linear.weight)))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_layer_without_a_weight_of_its_own_is_called_after_the_norm() -> None:
    """As quantisation and wrappers make them."""
    (linear, hidden), norm = layer(), normalising()
    expected = linear(norm(hidden))
    torch.testing.assert_close(project(nn.Sequential(linear), hidden, norm), expected, rtol=0, atol=FLOAT32_NOISE)
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)[0]
    torch.testing.assert_close(project(quantised, hidden, norm), quantised(norm(hidden)), rtol=0, atol=0)


@needs_kernel
def test_biases_may_change_before_the_gradient_as_those_of_the_modules_may() -> None:
    (linear, hidden), second = layer(), second_layer()
    out = project_twice(linear, ACT2FN["gelu"], second, hidden)
    expected = torch.autograd.grad(second(F.gelu(linear(hidden))).sum(), (linear.weight, linear.bias))
    with torch.no_grad():
        linear.bias.add_(1.0)
        second.bias.add_(1.0)
    found = torch.autograd.grad(out.sum(), (linear.weight, linear.bias))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=FLOAT32_NOISE)


def test_a_norm_of_another_width_is_refused_as_it_refuses() -> None:
    (linear, hidden), second = layer(), second_layer()
    with pytest.raises(RuntimeError, match="normalized_shape"):
        project_twice(linear, ACT2FN["gelu"], second, hidden, nn.LayerNorm(48, elementwise_affine=False))


@pytest.mark.parametrize("change", ["hook", "class", "axes"])
def test_a_norm_that_does_more_is_called(calls: list[str], change: str) -> None:
    (linear, hidden), second, norm = layer(), second_layer(), normalising()
    if change == "hook":
        norm.register_forward_hook(lambda *arguments: 2 * arguments[-1])
    elif change == "class":
        norm = nn.RMSNorm(96)
    else:
        norm = nn.LayerNorm((7, 96))
    expected = second(F.gelu(linear(norm(hidden))))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = project_twice(linear, ACT2FN["gelu"], second, hidden, norm)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=FLOAT32_NOISE)
            alone = project(linear, hidden, norm)
            torch.testing.assert_close(alone, linear(norm(hidden)), rtol=1e-5, atol=FLOAT32_NOISE)
    assert "gelu" not in calls


@needs_kernel
@pytest.mark.parametrize("name", ["relu", "gelu_new", "quick_gelu"])
def test_another_activation_is_applied_as_it_is(calls: list[str], name: str) -> None:
    (linear, hidden), second = layer(), second_layer()
    with torch.no_grad():
        found = project_twice(linear, ACT2FN[name], second, hidden)
        torch.testing.assert_close(found, second(ACT2FN[name](linear(hidden))), rtol=1e-5, atol=FLOAT32_NOISE)
        assert not torch.allclose(found, second(F.gelu(linear(hidden))), atol=1e-4)
    assert calls == ["none", "none"]


@needs_kernel
def test_gradients_of_gradients_of_two_layers_are_those_of_the_modules() -> None:
    (linear, hidden), second = layer(), second_layer()
    hidden.requires_grad_()
    results = []
    for compute in (
        lambda: project_twice(linear, ACT2FN["gelu"], second, hidden),
        lambda: second(F.gelu(linear(hidden))),
    ):
        grads = torch.autograd.grad(compute().square().sum(), (hidden, second.weight), create_graph=True)
        total = sum(one.square().sum() for one in grads)
        results.append(torch.autograd.grad(total, (hidden, linear.weight, linear.bias, second.weight)))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@needs_kernel
def test_gradients_of_gradients_are_those_of_the_module() -> None:
    linear, hidden = layer()
    hidden.requires_grad_()
    results = []
    for compute in (project, lambda module, states: module(states)):
        (grad,) = torch.autograd.grad(compute(linear, hidden).square().sum(), hidden, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), (hidden, linear.weight)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


@needs_kernel
@pytest.mark.parametrize("training", [False, True])
def test_compiled_models_call_the_kernel_in_one_graph(calls: list[str], training: bool) -> None:
    torch._dynamo.reset()
    (linear, hidden), second, norm = layer(), second_layer(), normalising()
    hidden.requires_grad_(training)
    compiled = torch.compile(
        lambda states: project_twice(linear, ACT2FN["gelu"], second, states, norm), fullgraph=True, backend="aot_eager"
    )
    with torch.set_grad_enabled(training):
        found, expected = compiled(hidden), second(F.gelu(linear(norm(hidden))))
    assert calls == ["none" if training else "gelu", "none"]
    torch.testing.assert_close(found, expected, rtol=FLOAT32_NOISE, atol=FLOAT32_NOISE)
    if training:
        learning = [hidden, linear.weight, second.weight, norm.weight]
        gradients = [torch.autograd.grad(out.square().sum(), learning) for out in (found, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
        assert len(calls) == 4, "two forward and two for the gradients of inputs"


class Louder(nn.Linear):
    """A layer that does more than its weights say."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # the name that nn.Linear has
        return 2 * super().forward(input)


def hooked(linear: nn.Linear) -> nn.Linear:
    linear.register_forward_hook(lambda *arguments: 2 * arguments[-1])
    return linear


def replaced(linear: nn.Linear) -> nn.Linear:
    linear.forward = lambda states: 2 * F.linear(states, linear.weight, linear.bias)  # as accelerate's hooks do
    return linear


def louder(linear: nn.Linear) -> nn.Linear:
    other = Louder(linear.in_features, linear.out_features)
    other.load_state_dict(linear.state_dict())
    return other


@pytest.mark.parametrize("change", [hooked, replaced, louder])
def test_a_layer_that_does_more_does_it_still(calls: list[str], change: Callable) -> None:
    linear, hidden = layer()
    expected = 2 * linear(hidden)
    changed = change(linear)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(project(changed, hidden), expected)
            for first, second in ((changed, nn.Identity()), (nn.Identity(), changed)):
                found = project_twice(first, ACT2FN["gelu"], second, hidden)
                torch.testing.assert_close(found, F.gelu(expected) if first is changed else changed(F.gelu(hidden)))
    assert not calls


def test_a_hooked_activation_is_called(calls: list[str]) -> None:
    (linear, hidden), second = layer(), second_layer()
    act = ACT2FN["gelu"]
    act.register_forward_hook(lambda *arguments: 2 * arguments[-1])
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = project_twice(linear, act, second, hidden)
            torch.testing.assert_close(found, second(2 * F.gelu(linear(hidden))), rtol=1e-5, atol=FLOAT32_NOISE)
    assert "gelu" not in calls


def test_transforms_and_forward_gradients_go_through_the_module(calls: list[str]) -> None:
    linear, hidden = layer()
    expected = F.linear(torch.ones_like(hidden), linear.weight)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            _, tangent = torch.func.jvp(lambda states: project(linear, states), (hidden,), (torch.ones_like(hidden),))
            torch.testing.assert_close(tangent, expected)
            mapped = torch.func.vmap(lambda states: project(linear, states))(hidden)
            torch.testing.assert_close(mapped, linear(hidden), rtol=1e-5, atol=FLOAT32_NOISE)
            with forward_ad.dual_level():
                found = project(linear, forward_ad.make_dual(hidden, torch.ones_like(hidden)))
                torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, expected)
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_autocast_go_through_the_module(calls: list[str], dtype: torch.dtype) -> None:
    linear, hidden = layer()
    assert project(linear.to(dtype), hidden.to(dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert project(linear.float(), hidden).dtype == torch.bfloat16
    assert project(linear.to("meta"), hidden.to("meta")).device.type == "meta"
    assert not calls


def test_small_layers_go_through_the_module(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    linear, hidden = layer()
    monkeypatch.setattr(cpu_linear_lfvila, "FEWEST_PRODUCTS", hidden.numel() * 40 + 1)
    project(linear, hidden)
    assert not calls
    assert not {LinearOnCPU, MLPOnCPU} & {type(project(linear, hidden).grad_fn)}

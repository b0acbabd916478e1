"""The CPU's way of window attention: the same numbers and gradients as plain attention, and when it is taken.

The blocks around it are in test_modeling_video_lfvila.py, released numbers in parity/.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, enable_checkpointing

from lfvila_hf import LFVilaConfig, LFVilaVideoModel, modeling_video_lfvila, window_attention_lfvila
from lfvila_hf.window_attention_lfvila import WindowAttention, runs_on_cpu

GROUPS, TILES, CELLS, HEADS, WIDTH = 3, 2, 5, 4, 6


def inputs(mask: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(GROUPS, TILES, CELLS, 3, HEADS, WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(HEADS, CELLS, CELLS, generator=generator, dtype=torch.float64)
    apart = (torch.rand(TILES, CELLS, CELLS, generator=generator) < 0.3).double() * -100.0 if mask else None
    return packed.requires_grad_(), bias.requires_grad_(), apart


def by_hand(packed: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """One window and one head at a time."""
    out = []
    for group in packed:
        for tile, window in enumerate(group):
            heads = []
            for head in range(HEADS):
                query, key, value = (window[:, part, head] for part in range(3))  # (V, d)
                scores = query @ key.T * scaling + bias[head] + (0 if mask is None else mask[tile])
                heads.append(scores.softmax(-1) @ value)
            out.append(torch.cat(heads, -1))
    return torch.stack(out).view(GROUPS, TILES, CELLS, HEADS * WIDTH)


@pytest.mark.parametrize("mask", [False, True])
def test_numbers_and_gradients_are_those_of_windows_and_heads_one_by_one(mask: bool) -> None:
    packed, bias, apart = inputs(mask)
    grad = torch.randn(GROUPS, TILES, CELLS, HEADS * WIDTH, dtype=torch.float64)
    results = []
    for attend in (WindowAttention.apply, by_hand):
        out = attend(packed, bias, apart, 0.3)
        results.append((out, *torch.autograd.grad(out, (packed, bias), grad)))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_mask_matters() -> None:
    packed, bias, apart = inputs(mask=True)
    assert not torch.allclose(WindowAttention.apply(packed, bias, apart, 0.3), by_hand(packed, bias, None, 0.3))


def test_gradients_agree_with_finite_differences() -> None:
    packed, bias, apart = inputs(mask=True)
    one = packed.detach()[:1, :, :3, :, :2].contiguous().requires_grad_()
    small = bias.detach()[:2, :3, :3].contiguous().requires_grad_()
    assert apart is not None
    assert torch.autograd.gradcheck(lambda p, b: WindowAttention.apply(p, b, apart[:, :3, :3], 0.3), (one, small))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    packed, bias, _ = inputs(mask=False)
    (grad,) = torch.autograd.grad(
        WindowAttention.apply(packed, bias, None, 0.3).square().sum(), bias, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"implementation": "eager"}, False),
        ({"implementation": None}, False),
        ({"dropout": 0.1}, False),
        ({"dtype": torch.bfloat16}, False),
        ({"device": "meta"}, False),
        ({"dtype": torch.float64}, True),
        ({"frozen_bias": True}, False),
        ({"no_grad": True}, False),
        ({"frozen_bias": True, "windows": 2**18}, True),
        ({"no_grad": True, "windows": 2**18}, True),
        ({"no_grad": True, "windows": 2**12, "cells": 65}, False),
        ({"windows": 2**12, "cells": 65}, True),
    ],
)
def test_it_is_taken_only_where_it_gains(change: dict[str, Any], taken: bool) -> None:
    options = {"dtype": torch.float32, "device": "cpu", **change}
    cells = change.get("cells", 2)
    packed = torch.zeros(1, 1, cells, 3, 1, 2, dtype=options["dtype"], device=options["device"])
    packed = packed.expand(change.get("windows", 1), -1, -1, -1, -1, -1)
    bias = torch.zeros(1, cells, cells, dtype=options["dtype"], device=options["device"])
    bias.requires_grad_(not change.get("frozen_bias", False))
    with torch.set_grad_enabled(not change.get("no_grad", False)):
        found = runs_on_cpu(packed, bias, options.get("implementation", "sdpa"), options.get("dropout", 0.0))
    assert found is taken


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_tower_trains_to_the_same_gradients_with_it_as_without(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    config = LFVilaConfig.tiny(video_config={"image_size": [72, 112]}).video_config  # a grid that is padded and shifted
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    tower = LFVilaVideoModel(config).train()
    if checkpointing:
        enable_checkpointing(tower)
    pixels = torch.randn(2, 16, 3, 72, 112)
    gradients: list[dict[str, torch.Tensor]] = []
    calls = []

    def spy(*arguments: Any) -> bool:
        calls.append(runs_on_cpu(*arguments))
        return calls[-1]

    for decide in (spy, lambda *arguments: False):
        monkeypatch.setattr(modeling_video_lfvila, "runs_on_cpu", decide)
        tower.zero_grad()
        output = tower(pixels)
        (output.tokens.square().sum() + output.clip_hidden_state.square().sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None})
    assert len(calls) >= sum(config.depths) and all(calls)
    assert any("bias_table" in name for name in gradients[0])
    for name, expected in gradients[1].items():
        difference = (gradients[0][name] - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        assert difference < 1e-4, name


def test_operators_of_compiled_models_are_described_as_they_behave() -> None:
    packed, bias, apart = (None if one is None else one.detach() for one in inputs(mask=True))
    for mask in (apart, None):
        torch.library.opcheck(window_attention_lfvila._opaque_attend, (packed, bias, mask, 0.3))
    grad, weights = torch.randn(3, 2, 5, HEADS * WIDTH).double(), torch.rand(HEADS, 6, CELLS, CELLS).double()
    torch.library.opcheck(window_attention_lfvila._opaque_gradients, (grad, packed, weights, 0.3))


@pytest.mark.parametrize("mask", [False, True])
def test_compiled_numbers_and_gradients_are_the_same_and_come_from_it(
    mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("_attend", "_gradients"):
        original = getattr(window_attention_lfvila, name)

        def spy(*arguments: Any, original: Any = original, name: str = name) -> Any:
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(window_attention_lfvila, name, spy)

    def step(packed: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        assert runs_on_cpu(packed, bias, "sdpa", 0.0)
        return WindowAttention.apply(packed, bias, mask, 0.3).square()

    packed, bias, apart = inputs(mask)
    results = []
    for attend in (torch.compile(step, fullgraph=True, backend="aot_eager"), step):
        out = attend(packed, bias, apart)
        results.append((out, *torch.autograd.grad(out.sum(), (packed, bias))))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
    assert calls == ["_attend", "_gradients"] * 2


@pytest.mark.parametrize("example", ["video tower", "text tower"])
def test_gradients_of_single_samples_are_those_of_batches_of_one(example: str) -> None:
    model, inputs_of_two = EXAMPLES[example].model(), EXAMPLES[example].inputs(2)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(state: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        one = {name: value[None] for name, value in inputs.items()}
        return torch.func.functional_call(model, state, (), one).pooler_output.square().sum()

    # eager: sdpa's kernels have rules of their own for this, some without gradients of masks
    model.set_attn_implementation("eager")
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, inputs_of_two)
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        model(**{name: value[1:] for name, value in inputs_of_two.items()}).pooler_output.square().sum().backward()
        learned = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        assert len(learned) > 10
        for name, expected in learned.items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[name][1], expected, rtol=1e-3, atol=1e-4 * scale + 1e-6)
    if example == "video tower":
        torch.func.grad(loss)(state, {name: value[1] for name, value in inputs_of_two.items()})

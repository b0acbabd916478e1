"""Gradient caching without the trainer: exact, random numbers replayed, memory of a chunk, the state afterwards.

With the trainer, processes, adapters and both phases: test_whole_batches.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_models import random_ids, random_videos, tiny_model
from torch.nn import functional as F
from training_runs import dropout_config

from lfvila_hf import LFVilaModel
from lfvila_hf.loss_lfvila import LFVilaLoss, draw_mtc
from lfvila_hf.training.caching import RandomState, cached_backward, features_of, number_of_chunks, split_inputs

BATCH = 8


def batch() -> dict[str, Any]:
    ids = random_ids(BATCH, 4, 6)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": random_videos(BATCH)}


def loss_of(features: dict[str, torch.Tensor]) -> torch.Tensor:
    return LFVilaLoss()({**features, "mtc_draw": draw_mtc(BATCH, 4, seed=1)})


def model_with_dropout(attention: str) -> LFVilaModel:
    config = dropout_config()
    config._attn_implementation = attention
    return tiny_model(LFVilaModel, config, spread=0.05).double().train()


def inputs_in_double() -> dict[str, Any]:
    return {name: v.double() if v.is_floating_point() else v for name, v in batch().items()}


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 8])
def test_the_gradient_is_that_of_one_graph_over_the_same_random_numbers(chunks: int, attention: str) -> None:
    model = model_with_dropout(attention)
    parts = split_inputs(inputs_in_double(), chunks)

    torch.manual_seed(4)
    kept = [features_of(model(**part, return_loss=False)) for part in parts]
    expected_loss = loss_of({name: torch.cat([part[name] for part in kept]) for name in kept[0]})
    expected_loss.backward()
    expected, state = gradients(model), torch.get_rng_state()

    model.zero_grad()
    torch.manual_seed(4)
    loss = cached_backward(lambda **part: model(**part, return_loss=False), parts, loss_of)
    found = gradients(model)
    assert torch.equal(loss, expected_loss.detach()) and not loss.requires_grad
    assert found.keys() == expected.keys() and len(found) > 100
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state), "the next step would repeat random numbers of this one"

    with torch.random.fork_rng():  # dropout is on: other numbers give another gradient
        torch.manual_seed(5)
        model.zero_grad()
        cached_backward(lambda **part: model(**part, return_loss=False), parts, loss_of)
    assert sum(not torch.allclose(gradients(model)[name], value, rtol=1e-3) for name, value in expected.items()) > 50


def test_without_the_replay_the_gradient_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with_dropout("sdpa")
    parts = split_inputs(inputs_in_double(), 4)

    def made() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(4)
        cached_backward(lambda **part: model(**part, return_loss=False), parts, loss_of)
        return gradients(model)

    right = made()
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    wrong = made()
    assert max(F.mse_loss(wrong[n], right[n]) / right[n].square().mean() for n in right) > 0.01


def test_every_sample_is_encoded_twice_but_those_of_the_last_chunk_and_gradients_wait_for_the_last_pass() -> None:
    model = model_with_dropout("sdpa")
    seen: list[tuple[int, bool]] = []
    waiting: list[bool] = []
    depth = [0]

    @contextmanager
    def deferred() -> Any:
        depth[0] += 1
        yield
        depth[0] -= 1

    def forward(**part: Any) -> Any:
        seen.append((len(part["input_ids"]), torch.is_grad_enabled()))
        return model(**part, return_loss=False)

    def backward(value: torch.Tensor) -> None:
        waiting.append(depth[0] > 0)
        value.backward()

    cached_backward(forward, split_inputs(inputs_in_double(), 3), loss_of, backward, deferred)
    assert seen == [(3, False), (3, False), (2, True), (3, True), (3, True)]
    assert waiting == [True, True, False]
    waiting.clear()
    cached_backward(forward, split_inputs(inputs_in_double(), 1), loss_of, backward, deferred)
    assert waiting == [False] and seen[-1] == (8, True)


def test_the_graph_in_memory_is_that_of_one_chunk() -> None:
    model = model_with_dropout("sdpa")

    def most_saved(chunks: int) -> int:
        alive = {"now": 0, "most": 0}

        class Saved:
            def __init__(self, value: torch.Tensor) -> None:
                self.value, self.size = value, value.numel()
                alive["now"] += self.size
                alive["most"] = max(alive["most"], alive["now"])

            def __del__(self) -> None:
                alive["now"] -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.value):
            parts = split_inputs(inputs_in_double(), chunks)
            cached_backward(lambda **part: model(**part, return_loss=False), parts, loss_of)
        return alive["most"]

    whole, single = most_saved(1), most_saved(8)
    assert single < whole / 4  # an eighth, and the parameters, which count each time


def test_batches_are_cut_into_nearly_equal_parts_and_the_rest_goes_to_every_part() -> None:
    parts = split_inputs({**batch(), "num_clips": 4, "note": None}, 3)
    assert (
        [len(part["input_ids"]) for part in parts] == [len(part["pixel_values_videos"]) for part in parts] == [3, 3, 2]
    )
    assert all(part["num_clips"] == 4 and part["note"] is None for part in parts)
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), batch()["input_ids"])


@pytest.mark.parametrize(
    ("sizes", "chunk", "expected"),
    [((8,), 3, 3), ((8,), 8, 1), ((8,), 9, 1), ((5, 3), 2, 3), ((9, 8), 8, 2), ((2, 1), 1, 1), ((512,), 8, 64)],
)
def test_every_process_makes_as_many_chunks(sizes: tuple[int, ...], chunk: int, expected: int) -> None:
    assert number_of_chunks(sizes, chunk) == expected

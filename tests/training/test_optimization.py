"""Which parameters are decayed, and the linear schedule, step by step.

That the trainer uses both is tested in test_trainer.py.
"""

from __future__ import annotations

import pytest
import torch
from tiny_models import EXAMPLES, Example
from torch import nn

from lfvila_hf.training.optimization import decayed_parameter_names, linear_factor, linear_schedule

POSITION_TABLES = ("relative_position_bias_table", "spatial_position_embeddings", "temporal_position_embeddings")


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_biases_norms_and_position_tables_are_not_decayed_and_all_else_is(example: Example) -> None:
    model = example.model()
    expected = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            if not isinstance(module, nn.LayerNorm) and name != "bias" and name not in POSITION_TABLES:
                expected.add(f"{prefix}.{name}" if prefix else name)
    found = decayed_parameter_names(model)
    assert len(found) == len(set(found)) and set(found) == expected
    kept = {name for name, _ in model.named_parameters()} - expected
    assert any("norm" in name.lower() for name in kept) and any(name.endswith(".bias") for name in kept)
    assert any(name.endswith(".weight") for name in expected)


def test_the_video_towers_and_the_video_tokens_have_position_tables_that_are_not_decayed() -> None:
    model = EXAMPLES["fusion phase"].model()
    kept = {name for name, _ in model.named_parameters()} - set(decayed_parameter_names(model))
    ends = {name.rpartition(".")[2] for name in kept}
    assert ends >= set(POSITION_TABLES)
    assert "model.text_model.embeddings.word_embeddings.weight" not in kept


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (5, 0.901), (9, 0.505), (14, 0.01), (20, 0.01)],
)
def test_the_linear_factor_at_chosen_steps(step: int, factor: float) -> None:
    # four steps of warm-up, then ten steps that take 0.099 each
    found = linear_factor(step, warmup_steps=4, total_steps=14, min_ratio=0.01)
    assert found == pytest.approx(factor, abs=1e-12)


def test_without_warm_up_the_first_step_is_the_highest() -> None:
    factors = [linear_factor(step, warmup_steps=0, total_steps=3, min_ratio=0.1) for step in range(4)]
    assert factors == pytest.approx([1.0, 0.7, 0.4, 0.1])
    assert linear_factor(5, warmup_steps=5, total_steps=5, min_ratio=0.1) == 1.0  # nothing but warm-up


def test_the_schedule_moves_every_group_and_resumes_where_it_stopped() -> None:
    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (1.0, 10.0)]
        optimizer = torch.optim.SGD(groups)
        return optimizer, linear_schedule(optimizer, warmup_steps=1, total_steps=5, min_ratio=0.2)

    def advance(
        optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR, steps: int
    ) -> list[tuple[float, ...]]:
        rates = []
        for _ in range(steps):
            rates.append(tuple(group["lr"] for group in optimizer.param_groups))
            optimizer.step()
            schedule.step()
        return rates

    optimizer, schedule = make()
    rates = advance(optimizer, schedule, 6)
    assert [low for low, _ in rates] == pytest.approx([0.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert [high for _, high in rates] == pytest.approx([10 * low for low, _ in rates])

    optimizer, schedule = make()
    first = advance(optimizer, schedule, 3)
    resumed_optimizer, resumed = make()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert first + advance(resumed_optimizer, resumed, 3) == rates

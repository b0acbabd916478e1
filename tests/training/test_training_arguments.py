"""Arguments: defaults, command line, refused values; decayed parameters and the linear schedule.

How the trainer uses them is tested in test_trainer.py.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, Example
from torch import nn
from training_runs import arguments
from transformers import HfArgumentParser, TrainingArguments

from lfvila_hf import LFVilaTrainingArguments
from lfvila_hf.training import training_arguments
from lfvila_hf.training.training_arguments import decayed_parameter_names, linear_factor

OURS = {
    "training_phase",
    "min_lr_ratio",
    "eval_scores",
    "eval_retrieval",
    "retrieval_block_size",
    "eval_sample_size",
    "contrastive_chunk_size",
    "contrastive_block_size",
    "stop_on_nonfinite_loss",
    "peak_tflops",
}


def defaults(dataclass: Any) -> dict[str, Any]:
    return {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(dataclass)
        if field.init
    }


def test_defaults_that_differ_are_those_of_the_table_with_both_values() -> None:
    theirs, ours = defaults(TrainingArguments), defaults(LFVilaTrainingArguments)
    assert ours.keys() - theirs.keys() == OURS and theirs.keys() <= ours.keys()
    differing = {name: (str(theirs[name]), str(ours[name])) for name in theirs if theirs[name] != ours[name]}
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", training_arguments.__doc__ or "", flags=re.MULTILINE)
    table = {name: (old.strip(), new.strip()) for name, old, new in rows}
    assert table.pop("lr_scheduler_type") == ("linear to 0", "linear to `min_lr_ratio` = 1 %")
    assert ours["lr_scheduler_type"] == "linear" and ours["min_lr_ratio"] == 0.01
    assert table == differing and len(differing) == 3
    assert (ours["learning_rate"], ours["adam_beta1"], ours["adam_epsilon"]) == (5e-5, 0.9, 1e-8)


def test_every_field_of_ours_explains_itself_on_the_command_line_and_in_the_docstring() -> None:
    documented = LFVilaTrainingArguments.__doc__ or ""
    for field in dataclasses.fields(LFVilaTrainingArguments):
        if field.name in OURS:
            assert field.metadata["help"].endswith(".")
            assert f"        {field.name}: " in documented


def test_the_command_line_sets_every_field_of_ours(tmp_path: Path) -> None:
    words = f"--output_dir {tmp_path} --training_phase fusion --min_lr_ratio 0.1 --eval_scores aligned both "
    words += "--no_eval_retrieval --retrieval_block_size 7 --weight_decay 0.2 --eval_sample_size 9 "
    words += "--contrastive_chunk_size 3 --contrastive_block_size 5 --no_stop_on_nonfinite_loss --peak_tflops 312"
    (parsed,) = HfArgumentParser(LFVilaTrainingArguments).parse_args_into_dataclasses(words.split())
    assert (parsed.training_phase, parsed.min_lr_ratio, parsed.eval_scores) == ("fusion", 0.1, ["aligned", "both"])
    assert (parsed.eval_retrieval, parsed.retrieval_block_size, parsed.weight_decay) == (False, 7, 0.2)
    assert (parsed.eval_sample_size, parsed.contrastive_chunk_size, parsed.contrastive_block_size) == (9, 3, 5)
    assert (parsed.stop_on_nonfinite_loss, parsed.peak_tflops) == (False, 312)
    with pytest.raises(SystemExit):
        HfArgumentParser(LFVilaTrainingArguments).parse_args_into_dataclasses(
            ["--output_dir", str(tmp_path), "--training_phase", "third"]
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training_phase": "third"}, 'training_phase must be "contrastive" or "fusion", got \'third\''),
        ({"min_lr_ratio": -0.1}, "min_lr_ratio must lie in 0 to 1, got -0.1"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio must lie in 0 to 1, got 2.0"),
        ({"eval_scores": ["global", "best"]}, r"eval_scores must be among global, aligned and both, got \['best'\]"),
        ({"retrieval_block_size": 0}, "retrieval_block_size must be positive, got 0"),
        ({"eval_sample_size": 0}, "eval_sample_size must be positive, got 0"),
        ({"contrastive_chunk_size": -1}, "contrastive_chunk_size must be positive, got -1"),
        ({"contrastive_block_size": 0}, "contrastive_block_size must be positive, got 0"),
        ({"peak_tflops": 0.0}, "peak_tflops must be positive, got 0.0"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


# -- weight decay and schedule ----------------------------------------------------------------------------------------

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


def test_the_schedule_moves_every_group_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    factor = arguments(tmp_path, warmup_steps=1, min_lr_ratio=0.2).learning_rate_factor(5)
    assert factor is not None and arguments(tmp_path, lr_scheduler_type="cosine").learning_rate_factor(5) is None

    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (1.0, 10.0)]
        optimizer = torch.optim.SGD(groups)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

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

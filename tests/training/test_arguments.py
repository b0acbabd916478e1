"""Training arguments: which defaults differ from transformers', the command line, and what is refused.

What the trainer makes of them is tested in test_trainer.py and test_trainer_evaluation.py.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from training_runs import arguments
from transformers import HfArgumentParser, TrainingArguments

import lfvila_hf.training.arguments as module
from lfvila_hf import LFVilaTrainingArguments

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
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", module.__doc__ or "", flags=re.MULTILINE)
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


def test_arguments_survive_the_way_through_a_dict(tmp_path: Path) -> None:
    given = arguments(tmp_path, training_phase="fusion", eval_scores=["global"], min_lr_ratio=0.2)
    (again,) = HfArgumentParser(LFVilaTrainingArguments).parse_dict(given.to_dict(), allow_extra_keys=True)
    assert {name: getattr(again, name) for name in OURS} == {name: getattr(given, name) for name in OURS}
    assert again.training_phase == "fusion"


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

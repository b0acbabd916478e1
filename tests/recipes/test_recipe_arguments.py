"""Arguments of the recipes: command line over smoke over yaml over defaults, and what is refused.

Modules: `arguments` and `tasks`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lfvila_hf.recipes.arguments import SMOKE, parse_recipe, read_yaml
from lfvila_hf.recipes.tasks import TASKS, tasks_of

VIOLIN = str(Path(__file__).resolve().parents[2] / "examples" / "video_qa" / "configs" / "violin.yaml")
DATA = ["--data_dir", "data", "--video_dir", "videos", "--use_cpu"]


def test_options_win_over_smoke_and_smoke_over_the_yaml(tmp_path: Path) -> None:
    arguments, training = parse_recipe([VIOLIN, *DATA, "--output_dir", str(tmp_path)])
    assert (arguments.task, arguments.max_sentence_length, arguments.num_frames) == ("violin", 30, 32)
    assert (training.per_device_train_batch_size, training.weight_decay, training.warmup_epochs) == (12, 0.1, 10)
    assert training.released_schedule(1000)(100) == pytest.approx(1.0)
    arguments, training = parse_recipe([VIOLIN, "--smoke", "--max_steps", "7", "--output_dir", str(tmp_path)])
    assert (arguments.num_frames, arguments.generated_videos) == (SMOKE["num_frames"], SMOKE["generated_videos"])
    assert (training.max_steps, training.per_device_train_batch_size) == (7, SMOKE["per_device_train_batch_size"])
    assert training.weight_decay == 0.1  # of the yaml


def test_the_output_folder_is_named_after_the_task() -> None:
    assert parse_recipe([VIOLIN, *DATA])[1].output_dir == "outputs/violin"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "cooking", *DATA], "the task is 'cooking', expected one of contrastive"),
        ([VIOLIN, "--use_cpu"], "--data_dir and --video_dir"),
        ([VIOLIN, *DATA, "--eval_views", "0"], "eval_views must be at least 1"),
        ([VIOLIN, *DATA, "--preset", "tiny", "--model_name_or_path", "x"], "not both"),
        ([VIOLIN, *DATA, "--warmup_epochs", "100"], "warmup_epochs < epochs"),
        (["nowhere.yaml", *DATA], "there is no recipe at nowhere.yaml"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_recipe(words)


def test_a_script_refuses_the_task_of_another_one() -> None:
    with pytest.raises(ValueError, match="runs coin.*, not 'violin'"):
        parse_recipe([VIOLIN, *DATA], tasks_of("classification"))


def test_a_misspelt_key_of_a_yaml_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: violin\nlearning_rat: 1.0e-5\n")
    with pytest.raises(ValueError, match="learning_rat"):
        read_yaml(path)
    path.write_text("- a list")
    with pytest.raises(ValueError, match="one argument per line"):
        read_yaml(path)


def test_every_task_belongs_to_one_kind() -> None:
    kinds = ("contrastive", "fusion", "retrieval", "question_answering", "multiple_choice", "classification")
    assert sum(len(tasks_of(kind)) for kind in kinds) == len(TASKS) == 13

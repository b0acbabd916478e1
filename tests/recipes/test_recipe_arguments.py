"""Arguments of the recipes: command line over smoke over yaml over defaults, refused values, released schedules.

The numbers of the schedules are worked out by hand from the rules in `ReleasedSchedule`.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_batch, tiny_config, tiny_model

from lfvila_hf import LFVilaForQuestionAnswering, LFVilaTrainer
from lfvila_hf.recipes.recipe_arguments import SMOKE, RecipeTrainingArguments, ReleasedSchedule, parse_recipe, read_yaml
from lfvila_hf.recipes.tasks import TASKS, tasks_of

ROOT = Path(__file__).resolve().parents[2]
VIOLIN = str(ROOT / "examples" / "video_qa" / "configs" / "violin.yaml")
DATA = ["--data_dir", "data", "--video_dir", "videos", "--use_cpu"]


def test_options_win_over_smoke_and_smoke_over_the_yaml(tmp_path: Path) -> None:
    arguments, training = parse_recipe([VIOLIN, *DATA, "--output_dir", str(tmp_path)])
    assert (arguments.task, arguments.max_sentence_length, arguments.num_frames) == ("violin", 30, 32)
    assert (training.per_device_train_batch_size, training.weight_decay, training.warmup_epochs) == (12, 0.1, 10)
    assert training.learning_rate_factor(1000)(100) == pytest.approx(1.0)
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
        ([VIOLIN, "--smoke", *DATA], "would replace the data in data: .*--generated_videos 0"),
        (["nowhere.yaml", *DATA], "there is no recipe at nowhere.yaml"),
        ([VIOLIN, *DATA, "--shuffle_labels", "True", "--streaming", "True"], "leave --streaming out"),
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


# -- released schedules -----------------------------------------------------------------------------------------------

HIGHEST = 5e-5


def schedule_of(name: str, steps_per_epoch: int = 100) -> tuple[ReleasedSchedule, int]:
    """The schedule of a task's yaml for epochs of that many steps, and the number of steps."""
    (path,) = ROOT.glob(f"examples/*/configs/{name}.yaml")
    values = read_yaml(path)
    total = steps_per_epoch * values["num_train_epochs"]
    ratio = values["min_lr"] / values["learning_rate"] if "min_lr" in values else values.get("min_lr_ratio", 0.01)
    names = ("warmup_epochs", "decay_epochs", "decay_rate")
    options = {name: values[name] for name in names if name in values}
    return ReleasedSchedule(values["schedule"], total, values["num_train_epochs"], min_ratio=ratio, **options), total


# task: (epoch, learning rate in units of the highest)
CHOSEN = {
    "contrastive": [(0, 0.0), (0.5, 0.5), (1, 1.0), (5.5, 0.505), (10, 0.01)],
    "fusion": [(1, 1.0), (10, 0.01)],
    "activitynet": [(0.5, 0.5), (1, 1.0), (4.99, 1.0), (5, 0.25), (10, 0.0625), (19.99, 0.25**3)],
    "condensed_movie": [(0.5, 0.5), (1, 0.5), (2, 0.25), (19, 0.5**19)],
    "violin": [(5, 0.5), (10, 1.0), (55, 0.505), (100, 0.01)],
    "how2qa": [(5, 0.5), (10, 1.0), (20, 0.505), (30, 0.01)],
    "activitynet_qa": [
        (5, 0.5),
        (9.99, 0.999),
        (10, (1 + math.cos(math.pi * 0.1)) / 2),  # a little below the highest: the cosine began at step 0
        (50, 0.5),
        (100, 1e-8 / HIGHEST),
    ],
    "coin": [(0.5, 0.5), (1, 1.0), (250.5, 0.505), (500, 0.01)],
}


@pytest.mark.parametrize("task", list(CHOSEN))
def test_the_learning_rate_at_chosen_epochs_is_the_released_one(task: str) -> None:
    schedule, _ = schedule_of(task)
    for epoch, expected in CHOSEN[task]:
        assert schedule(round(epoch * 100)) == pytest.approx(expected, rel=2e-3, abs=1e-9), epoch


def test_a_run_that_is_cut_to_some_steps_goes_through_all_of_the_schedule() -> None:
    short = ReleasedSchedule("step", 40, 20, warmup_epochs=1, decay_epochs=5, decay_rate=0.25)
    assert [short(step) for step in (0, 1, 2, 9, 10, 39)] == [0.0, 0.5, 1.0, 1.0, 0.25, 0.25**3]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "square"}, "linear, step or cosine"),
        ({"warmup_epochs": 10}, "warmup_epochs < epochs"),
        ({"total_steps": 0}, "needs steps"),
        ({"decay_rate": 0}, "decay_rate=0"),
        ({"decay_epochs": 0}, "decay_epochs=0"),
        ({"min_ratio": 2}, "min_ratio=2"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReleasedSchedule(**({"name": "linear", "total_steps": 10, "epochs": 10} | fields))  # type: ignore[arg-type]  # wrong on purpose


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in tiny_batch(4).items()} | {"labels": torch.tensor(index % 2)}


def test_the_optimizer_of_a_recipe_decays_what_is_released_and_follows_the_schedule(tmp_path: Path) -> None:
    arguments = RecipeTrainingArguments(
        output_dir=str(tmp_path),
        schedule="cosine",
        warmup_epochs=1,
        num_train_epochs=4,
        min_lr=1e-8,
        learning_rate=HIGHEST,
        weight_decay=0.1,
        per_device_train_batch_size=1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = tiny_model(LFVilaForQuestionAnswering, tiny_config())
    trainer = LFVilaTrainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train()
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
    groups = optimizer.param_groups
    by_decay = {group["weight_decay"]: group for group in groups}
    assert sorted(by_decay) == [0.0, 0.1]
    assert by_decay[0.1]["betas"] == (0.9, 0.98) and by_decay[0.1]["eps"] == 1e-8
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain = {names[id(parameter)] for parameter in by_decay[0.0]["params"]}
    decayed = {names[id(parameter)] for parameter in by_decay[0.1]["params"]}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert plain | decayed == learning and not plain & decayed
    for name in decayed:
        assert name.endswith(".weight") and "norm" not in name.lower(), name
    assert all("bias" in name or "norm" in name.lower() or "position_embeddings" in name for name in plain)
    assert any("relative_position_bias_table" in name for name in plain)
    assert "cross_modal_encoder.pooler.dense.weight" in decayed  # trained here, left out of the released optimizer
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    schedule = arguments.learning_rate_factor(16)
    # the Trainer logs the rate that the step was taken with or the next one; both are rates of the schedule
    expected = [HIGHEST * schedule(step) for step in range(17)]
    assert len(rates) == 16
    offset = 0 if rates[0] == 0 else 1
    assert rates == pytest.approx(expected[offset : 16 + offset])

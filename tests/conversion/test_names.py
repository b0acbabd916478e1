"""The table of released names: every released key of every task falls into exactly one row, and every row is needed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from released_layout import released_shapes, tiny_original

from lfvila_hf.conversion import TASKS, config_from_original
from lfvila_hf.conversion.names import NEW_PARTS, NOT_READ, RENAMES, SIGNS, UNNEEDED, reason_unneeded, rename

STAGES = {"pretraining": (1, 2)}
EVERY = [(task, stage) for task in TASKS for stage in STAGES.get(task, (2,))]


def released_keys(task: str, stage: int) -> tuple[list[str], Any]:
    original = tiny_original(stage)
    return list(released_shapes(original, task)), config_from_original(original, task)


@pytest.mark.parametrize(("task", "stage"), EVERY)
def test_every_released_key_is_either_unneeded_or_renamed_by_one_row(task: str, stage: int) -> None:
    keys, config = released_keys(task, stage)
    ours = []
    for key in keys:
        if reason_unneeded(key, task) is None:
            assert sum(task in row.tasks and re.fullmatch(row.released, key) is not None for row in RENAMES) == 1, key
            ours.append(rename(key, config, task))
    assert len(set(ours)) == len(ours) > 100
    constants = ("position_ids", "relative_position_index", "cls.predictions.bias")
    unneeded = [key for key in keys if reason_unneeded(key, task)]
    assert all(key.endswith(constants) or key.startswith("video_frame_proj.") for key in unneeded)


def test_every_row_of_the_tables_is_used() -> None:
    used = set()
    for task, stage in EVERY:
        for key in released_keys(task, stage)[0]:
            rows = UNNEEDED if reason_unneeded(key, task) else RENAMES
            used |= {row for row in rows if task in row.tasks and re.fullmatch(row.released, key)}
    assert used == {*RENAMES, *UNNEEDED}


def test_bert_s_layers_are_counted_over_the_slices() -> None:
    config = config_from_original(tiny_original(2))  # 2 + 1 + 3
    layers = [rename(f"text_encoder.bert.encoder.layer.{n}.output.dense.bias", config, "pretraining") for n in range(6)]
    slices = ["text_model.sentence_layers"] * 2 + ["text_model.paragraph_layers"] + ["cross_modal_encoder.layers"] * 3
    places = [0, 1, 0, 0, 1, 2]
    assert layers == [f"{part}.{place}.output.dense.bias" for part, place in zip(slices, places, strict=True)]


def test_the_two_classifiers_are_told_apart() -> None:
    config = config_from_original(tiny_original(2))
    for task in TASKS:
        text = rename("text_encoder.classifier.weight", config, task)
        video = rename("classifier.weight", config, task)
        assert text == ("classifier.weight" if task in ("question_answering", "multiple_choice") else None)
        assert video == ("classifier.weight" if task == "video_classification" else None)


def test_the_tables_speak_of_parts_that_exist() -> None:
    names = set()
    for task, stage in EVERY:
        model = TASKS[task](config_from_original(tiny_original(stage), task, temporal_alignment=True))
        names |= {name.removeprefix("model.") for name in model.state_dict()}
    for task in TASKS:
        for part in (*NOT_READ[task], *NEW_PARTS[task]):
            assert part.endswith(".") and any(name.startswith(part) for name in names), part
        assert not set(NEW_PARTS[task]) & set(NOT_READ[task])


@pytest.mark.parametrize(("task", "stage"), EVERY)
def test_a_checkpoint_tells_its_task(task: str, stage: int) -> None:
    keys = set(released_keys(task, stage)[0])
    assert next(kind for key, kind in SIGNS if key in keys) == task

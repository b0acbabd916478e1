"""Released state dicts under our names: tables, all tasks, any size, new parts, and errors that list all problems.

Recorded numbers are in tests/parity/, files in test_checkpoints.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from released_layout import example_original, random_state, released_shapes, tiny_original

from lfvila_hf.conversion import TASKS, config_from_original, convert_state_dict, map_checkpoint
from lfvila_hf.conversion.released import (
    NEW_PARTS,
    NOT_READ,
    RENAMES,
    UNNEEDED,
    kind_of_checkpoint,
    meta_model,
    new_parameters,
    reason_unneeded,
    rename,
)

FINE_TUNED = ("retrieval", "question_answering", "multiple_choice", "video_classification")
EVERY = [("pretraining", 1), *((task, 2) for task in TASKS)]


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "stage"), EVERY)
def test_every_released_key_is_either_unneeded_or_renamed_by_one_row(task: str, stage: int) -> None:
    original = tiny_original(stage)
    keys, config = list(released_shapes(original, task)), config_from_original(original, task)
    unneeded = {key for key in keys if reason_unneeded(key, task)}
    for key in set(keys) - unneeded:
        assert sum(task in row.tasks and re.fullmatch(row.released, key) is not None for row in RENAMES) == 1, key
    ours = [rename(key, config, task) for key in keys if key not in unneeded]
    assert len(set(ours)) == len(ours) > 100
    constants = ("position_ids", "relative_position_index", "cls.predictions.bias")
    assert all(key.endswith(constants) or key.startswith("video_frame_proj.") for key in unneeded)
    assert kind_of_checkpoint(dict.fromkeys(keys, torch.empty(0))) == task


def test_every_row_of_the_tables_is_used_and_speaks_of_parts_that_exist() -> None:
    used, names = set(), set()
    for task, stage in EVERY:
        for key in released_shapes(tiny_original(stage), task):
            rows = UNNEEDED if reason_unneeded(key, task) else RENAMES
            used |= {row for row in rows if task in row.tasks and re.fullmatch(row.released, key)}
        model = meta_model(config_from_original(tiny_original(stage), task, temporal_alignment=True), task)
        names |= {name.removeprefix("model.") for name in model.state_dict()}
    assert used == {*RENAMES, *UNNEEDED}
    for task in TASKS:
        for part in (*NOT_READ[task], *NEW_PARTS[task]):
            assert part.endswith(".") and any(name.startswith(part) for name in names), part
        assert not set(NEW_PARTS[task]) & set(NOT_READ[task])


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


# -- state dicts -------------------------------------------------------------------------------------------------------


def released(task: str, stage: int = 2, dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], Any]:
    original = tiny_original(stage)
    return random_state(original, task, dtype), config_from_original(original, task)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("task", "stage"), EVERY)
def test_every_task_converts_and_keeps_every_number(task: str, stage: int, dtype: torch.dtype) -> None:
    state, config = released(task, stage, dtype)
    ours = convert_state_dict(state, config, task)
    TASKS[task](config).load_state_dict(ours, strict=True)
    assert all(tensor.dtype == dtype for tensor in ours.values())
    # Every number of ours is one of theirs, once.
    theirs = torch.cat([t.flatten() for t in state.values() if t.is_floating_point()]).sort().values
    mine = torch.cat([t.flatten() for t in ours.values()]).sort().values
    places = torch.searchsorted(theirs.float(), mine.float()).clamp(max=len(theirs) - 1)
    assert torch.equal(theirs[places], mine)


@pytest.mark.parametrize(("stage", "millions"), [(1, 276.9), (2, 461.5)])
def test_the_released_size_has_the_known_number_of_parameters(stage: int, millions: float) -> None:
    """Count on the meta device. Phase one leaves out 33.4 M of unused heads."""
    original = example_original(stage)
    state = {
        name: torch.empty(shape, device="meta", dtype=torch.float16)
        for name, shape in released_shapes(original, "pretraining").items()
    }
    ours = convert_state_dict(state, config_from_original(original))
    assert round(sum(tensor.numel() for tensor in ours.values()) / 1e6, 1) == millions


def test_keys_left_out_are_listed_with_their_reason() -> None:
    state, config = released("pretraining", stage=1)
    mapped = map_checkpoint(state, config)
    left_out = {reason: len(keys) for reason, keys in mapped.left_out.items()}
    assert left_out == {
        "a constant, made again from the window": 10,
        "a constant, made again from the length": 2,
        "the MLM bias a second time; the decoder's is the one in use": 1,
        "cross-modal encoder (with BERT's pooler), which this task does not run": 2,
        "head of the fusion phase, which this task does not run": 8,
    }
    assert sum(left_out.values()) + len(mapped.state) == len(state)
    assert not mapped.new


# -- from pre-training to a task -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("task", FINE_TUNED)
def test_a_pre_training_checkpoint_becomes_any_task_with_its_new_parts_listed(task: str, stage: int) -> None:
    state = random_state(tiny_original(stage), "pretraining")
    config = config_from_original(tiny_original(2), task)
    mapped = map_checkpoint(state, config, task, initialise_new_parts=True)
    model: Any = TASKS[task](config)
    model.load_state_dict(mapped.state, strict=True)
    cross_modal = {part for part in NEW_PARTS[task] if part.startswith("cross_modal_encoder.")}
    assert set(mapped.new) == set(NEW_PARTS[task]) - (cross_modal if stage == 2 else set())
    new = {name for names in mapped.new.values() for name in names}
    # What is not new is the checkpoint's, number for number.
    theirs = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    for name, tensor in mapped.state.items():
        assert (tensor.untyped_storage().data_ptr() in theirs) == (name not in new), name
    if new:
        with pytest.raises(ValueError, match=f"{len(new)} missing: "):
            convert_state_dict(state, config, task)
    else:
        assert convert_state_dict(state, config, task).keys() == mapped.state.keys()


def test_phase_one_starts_phase_two_with_cross_modal_layers_from_bert_if_given() -> None:
    state = random_state(tiny_original(1), "pretraining", torch.float16)
    config = config_from_original(tiny_original(2))
    mapped = map_checkpoint(state, config, initialise_new_parts=True)
    assert set(mapped.new) == {"cross_modal_encoder.video_embeddings.", "cross_modal_encoder.layers."}
    for ours, theirs in (
        ("mlm_head.dense.weight", "text_encoder.cls.predictions.transform.dense.weight"),
        ("cross_modal_encoder.pooler.dense.bias", "text_encoder.bert.pooler.dense.bias"),
    ):
        assert torch.equal(mapped.state[ours], state[theirs])
    part = "cross_modal_encoder.layers.1."
    bert = {name: torch.randn(tensor.shape) for name, tensor in mapped.state.items() if name.startswith(part)}
    mapped = map_checkpoint(state, config, initialise_new_parts=True, bert_layers=bert)
    assert set(mapped.from_bert) == set(bert) and len(bert) == 16
    assert all(torch.equal(mapped.state[name], tensor) for name, tensor in bert.items())
    assert mapped.state["cross_modal_encoder.layers.0.output.dense.weight"].dtype == torch.float32


def test_new_parts_start_as_in_a_new_model() -> None:
    state = random_state(tiny_original(1), "pretraining")
    config = config_from_original(tiny_original(2), "question_answering")
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        mapped = map_checkpoint(state, config, "question_answering", initialise_new_parts=True)
        runs.append({name: mapped.state[name] for part in mapped.new.values() for name in part})
    for name, tensor in runs[0].items():
        assert torch.equal(runs[1][name], tensor)
        if name.endswith("bias"):
            assert tensor.abs().max() == 0, name
        elif "norm" in name.lower():
            assert bool(tensor.eq(1).all()), name
        else:
            assert 0.015 < float(tensor.std()) < 0.025, name


def test_memory_is_taken_for_new_parameters_alone() -> None:
    config = config_from_original(example_original(), "question_answering")
    parameters = new_parameters(config, "question_answering", ["classifier.weight"])
    assert {name: tuple(tensor.shape) for name, tensor in parameters.items()} == {"classifier.weight": (1654, 1024)}


def test_projections_of_mtc_are_kept_for_retrieval_on_request() -> None:
    state = random_state(tiny_original(1), "pretraining")
    config = config_from_original(tiny_original(1), "retrieval", temporal_alignment=True)
    ours = convert_state_dict(state, config, "retrieval")
    assert torch.equal(ours["clip_projection.weight"], state["video_local_proj.weight"])


# -- storage ---------------------------------------------------------------------------------------------------------


def test_tensors_are_not_copied_unless_they_share_memory() -> None:
    state, config = released("retrieval")
    whole = torch.randn(2, 48)
    state["text_global_proj.bias"], state["video_global_proj.bias"] = whole[0], whole[1]
    state["video_encoder.norm.weight"] = state["video_encoder.norm_local.weight"]
    ours = convert_state_dict(state, config, "retrieval")
    key = "text_encoder.bert.embeddings.word_embeddings.weight"
    assert ours["text_model.embeddings.word_embeddings.weight"].data_ptr() == state[key].data_ptr()
    pointers = [tensor.untyped_storage().data_ptr() for tensor in ours.values()]
    assert len(set(pointers)) == len(pointers)
    assert torch.equal(ours["video_projection.bias"], whole[1])


# -- bad input -------------------------------------------------------------------------------------------------------


def test_one_error_lists_all_problems() -> None:
    state, config = released("retrieval")
    del state["video_encoder.norm.weight"], state["text_global_proj.bias"]
    state["video_encoder.extra"] = torch.zeros(1)
    state["text_encoder.bert.embeddings.word_embeddings.weight"] = torch.zeros(72, 48)
    state["video_encoder.norm.bias"] = state["video_encoder.norm.bias"].long()
    state["sent_embedding.norm.bias"][3] = float("nan")
    state["text_encoder.seq_relationship.bias"][0] = float("inf")
    with pytest.raises(ValueError, match="no released retrieval checkpoint of this configuration") as caught:
        convert_state_dict(state, config, "retrieval")
    message = str(caught.value)
    for part in (
        "1 unknown: video_encoder.extra",
        "2 missing: text_projection.bias, video_model.norm.weight",
        "text_encoder.bert.embeddings.word_embeddings.weight (72, 48) (expected (71, 48))",
        "video_encoder.norm.bias of torch.int64 (expected floating-point numbers)",
        "2 not finite: ",
        "sent_embedding.norm.bias",
        "text_encoder.seq_relationship.bias",
    ):
        assert part in message


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("trained_for", FINE_TUNED)
def test_a_checkpoint_of_another_task_is_refused_and_recognised(trained_for: str, task: str) -> None:
    if task == trained_for:
        return
    state, config = random_state(tiny_original(2), trained_for), config_from_original(tiny_original(2), task)
    for initialise in (False, True):
        with pytest.raises(ValueError, match=f"no released {task} checkpoint .*; it looks like a {trained_for} "):
            map_checkpoint(state, config, task, initialise_new_parts=initialise)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("text_encoder.bert.encoder.layer.4.output.dense.bias", r"1 missing: cross_modal_encoder\.layers\.1\.output"),
        ("sent_embedding.", "4 missing: model.text_model.paragraph_embeddings"),
    ],
)
def test_a_part_that_is_partly_missing_and_a_tower_are_never_new(removed: str, message: str) -> None:
    state, config = released("pretraining")
    state = {key: tensor for key, tensor in state.items() if not key.startswith(removed)}
    with pytest.raises(ValueError, match=message):
        map_checkpoint(state, config, initialise_new_parts=True)


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (tiny_original(1) | {"stage1_layers": 2}, "16 unknown"),  # fewer text layers than the checkpoint has
        (tiny_original(1) | {"stage1_layers": 4}, "16 missing"),
        (tiny_original(1) | {"type_vocab_size": 8}, "1 of another shape"),
        (example_original(1), r"of another shape: .*\(48,\) \(expected \(1024,\)\)"),
    ],
)
def test_a_yaml_of_another_size_is_an_error(original: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state_dict(random_state(tiny_original(1), "pretraining"), config_from_original(original))


def test_another_model_and_an_unknown_task_are_errors() -> None:
    state, config = {"encoder.layer.0.weight": torch.zeros(2, 2)}, config_from_original(tiny_original(2))
    with pytest.raises(ValueError, match="nothing in it looks like LF-VILA.* 1 unknown: encoder.layer.0.weight"):
        convert_state_dict(state, config)
    assert kind_of_checkpoint(state) is None
    with pytest.raises(ValueError, match="task must be one of .*, got 'captioning'"):
        convert_state_dict({}, config, "captioning")

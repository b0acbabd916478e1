"""`LFVilaTrainer`: logged terms, recipe, phases, draws, reproducible and resumed runs, loaders, evaluation.

The losses are tested in tests/test_loss_lfvila.py, ranks and scores in tests/evaluation, shares of rows and streams in
tests/data.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from gradient_runs import CHECKPOINTING, in_processes
from tiny_models import EXAMPLES, tiny_config, tiny_model
from torch.nn import functional as F
from training_runs import (
    OnStep,
    Recorder,
    TensorRows,
    arguments,
    changed,
    dropout_config,
    fusion_pairs,
    logged,
    make_processor,
    pairs,
    state,
    write_rows,
    write_stream_shards,
)
from transformers import EvalPrediction, Trainer

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import PreTrainingReader, RetrievalDataset
from lfvila_hf.data.streaming import ResumableStream, stream_webdataset
from lfvila_hf.evaluation import RetrievalFeatures, evaluate_features, make_compute_metrics
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw, draw_mtc, global_contrastive_loss, mtc_loss
from lfvila_hf.training.trainer import reproducible_sampler

# Losses of another batch shape or summed in another order; the largest difference measured is 2e-6 relative.
FLOAT32_NOISE = 1e-5
# Weights after one SGD step, whole batch against two halves; measured 2e-8.
ACCUMULATION_NOISE = 1e-6

# PEFT asks models for a property that transformers 5.23 has renamed.
quiet_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


# -- the log ---------------------------------------------------------------------------------------------------------


def test_terms_of_the_contrastive_phase_are_logged_and_equal_those_made_by_hand(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining)
    recorder = Recorder(model)
    options = {"max_steps": 4, "logging_steps": 2, "learning_rate": 0.0, "per_device_train_batch_size": 4}
    evaluated = {"eval_strategy": "steps", "eval_steps": 1}  # evaluation must leave no trace in the terms
    options |= {"training_phase": "contrastive", "seed": 7}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, **options, **evaluated),
        train_dataset=pairs(8),
        eval_dataset=pairs(3),
    )
    trainer.train()
    assert len(logged(trainer)) == 2 and len(logged(trainer, "eval_loss")) == 4

    by_hand = []
    model.eval()
    for step, call in enumerate(recorder.calls):
        with torch.no_grad():
            text = model.model.get_text_features(call["input_ids"], call["attention_mask"])
            video = model.model.get_video_features(call["pixel_values_videos"])
        one = global_contrastive_loss(text.text_embeds, video.video_embeds)
        draw = draw_mtc(4, 4, 2, 2, seed=7, step=step)
        by_hand.append((one, mtc_loss(text.sentence_embeds, video.clip_embeds, draw, 0.05, text.sentence_mask)))
    assert len(by_hand) == 4
    for entry, first, second in zip(logged(trainer), by_hand[::2], by_hand[1::2], strict=True):
        global_loss, mtc = ((a + b).item() / 2 for a, b in zip(first, second, strict=True))
        assert entry["global_loss"] == pytest.approx(global_loss, rel=FLOAT32_NOISE)
        assert entry["mtc_loss"] == pytest.approx(mtc, rel=FLOAT32_NOISE)
        assert entry["loss"] == pytest.approx(global_loss + 0.25 * mtc, rel=FLOAT32_NOISE)
        assert global_loss > 0 and mtc > 0 and "mlm_loss" not in entry and "span_loss" not in entry
    assert len({entry["mtc_loss"] for entry in logged(trainer)}) == 2


def test_terms_of_the_fusion_phase_are_logged_and_equal_those_made_by_hand(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining)
    recorder = Recorder(model)
    options = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 4, "training_phase": "fusion"}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), train_dataset=fusion_pairs(4))
    trainer.train()
    (entry,), (call,) = logged(trainer), recorder.calls

    model.eval()
    swapped = call["pixel_values_videos"][[1, 0, 2, 3]]  # the first half exchanges its videos
    with torch.no_grad():
        text, video = model.encode(call["input_ids"], call["attention_mask"], swapped)
        fused = model.fuse(text, video)
        words, matches = model.mlm_head(fused.last_hidden_state), model.vtm_head(fused.pooler_output)
    losses = []
    for pair in (2, 3):  # masked tokens count in matched pairs only
        for sentence in range(4):
            right = call["mlm_targets"][pair, sentence, 1]
            losses.append(-F.log_softmax(words[pair, 1 + sentence * 6 + 1], -1)[right])
    mlm = torch.stack(losses).mean().item()
    vtm = torch.stack([-F.log_softmax(matches[i], -1)[i // 2] for i in range(4)]).mean().item()
    assert entry["mlm_loss"] == pytest.approx(mlm, rel=FLOAT32_NOISE)
    assert entry["vtm_loss"] == pytest.approx(vtm, rel=FLOAT32_NOISE)
    assert entry["loss"] == pytest.approx(mlm + 10 * vtm, rel=FLOAT32_NOISE)
    assert "global_loss" not in entry and "mtc_loss" not in entry


def test_the_span_term_of_multiple_choice_is_logged(tmp_path: Path) -> None:
    example = EXAMPLES["multiple choice"]
    model = example.model()
    rows = [{name: value[row] for name, value in example.inputs(2).items()} for row in range(2)]
    expected = model(**example.inputs(2))
    options = arguments(tmp_path, max_steps=1, learning_rate=0.0, per_device_train_batch_size=2)
    trainer = LFVilaTrainer(model=model, args=options, train_dataset=rows)
    trainer.train()
    (entry,) = logged(trainer)
    assert entry["span_loss"] == pytest.approx(expected.span_loss.item(), rel=FLOAT32_NOISE)
    assert entry["loss"] == pytest.approx(expected.loss.item(), rel=FLOAT32_NOISE)


def test_a_second_training_starts_its_counts_anew(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel)
    recorder = Recorder(model)
    options = {"max_steps": 3, "logging_steps": 2, "learning_rate": 0.0, "per_device_train_batch_size": 4}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), train_dataset=pairs(4))
    trainer.train()
    first = logged(trainer)
    trainer.train()
    assert [entry["mtc_loss"] for entry in logged(trainer)] == [entry["mtc_loss"] for entry in first] != []
    assert all(
        torch.equal(recorder.calls[i]["mtc_draw"].anchors, recorder.calls[i + 3]["mtc_draw"].anchors) for i in range(3)
    )


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_weight_decay_and_the_schedule_reach_the_optimizer(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel)
    options = {"max_steps": 6, "warmup_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), train_dataset=pairs(4))
    trainer.train()
    # two steps up from 0, then 99 % in four steps; the log of a step holds the rate that the step was made with
    expected = [0.0, 0.5e-3, 1e-3, 0.7525e-3, 0.505e-3, 0.2575e-3]
    assert [entry["learning_rate"] for entry in logged(trainer)] == pytest.approx(expected, rel=0.01)
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([1e-5, 1e-5], rel=0.01)

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.05, 0.0]
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-8 for group in trainer.optimizer.param_groups)
    assert decayed == set(trainer.get_decay_parameter_names(model))
    assert decayed | kept == set(names.values()) and not decayed & kept
    assert any(name.endswith("relative_position_bias_table") for name in kept)


def test_another_schedule_is_that_of_transformers(tmp_path: Path) -> None:
    options = {"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "per_device_train_batch_size": 2}
    trainer = LFVilaTrainer(model=tiny_model(LFVilaModel), args=arguments(tmp_path, **options), train_dataset=pairs(4))
    trainer.train()
    rates = [entry["learning_rate"] for entry in logged(trainer)]
    assert rates == pytest.approx([1e-3, 1e-3 * (1 + 2**-0.5) / 2, 0.5e-3, 1e-3 * (1 - 2**-0.5) / 2])


# -- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["contrastive", "fusion"])
def test_a_phase_trains_its_own_part_and_leaves_the_rest_bit_for_bit(phase: Any, tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining, dropout_config())
    before, modes = state(model), []
    options = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "training_phase": phase}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=fusion_pairs(8) if phase == "fusion" else pairs(8),
        callbacks=[OnStep(lambda: modes.append((model.model, [m.training for m in model.model.modules()])))],
    )
    trainer.train()
    moved = changed(before, state(model))
    towers = {name for name in before if name.startswith("model.")}
    assert towers and before.keys() - towers
    # The other side of what is trained is bit for bit as it was, and so are buffers.
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if (name in towers) == (phase == "contrastive")}
    assert moved <= trained and len(moved) > 0.9 * len(trained)
    assert model.config.training_phase == phase
    assert len(modes) == 2 and all(set(mode) == {phase == "contrastive"} for _, mode in modes)


def test_a_checkpoint_of_the_fusion_phase_is_frozen_again_when_it_is_trained_on(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining, dropout_config())
    model.set_training_phase("fusion")
    model.save_pretrained(tmp_path / "saved")
    loaded = LFVilaForPreTraining.from_pretrained(tmp_path / "saved")
    assert loaded.awaits_freezing and any(parameter.requires_grad for parameter in loaded.model.parameters())
    before = state(loaded)
    options = {"max_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    LFVilaTrainer(model=loaded, args=arguments(tmp_path, **options), train_dataset=fusion_pairs(4)).train()
    moved = changed(before, state(loaded))
    assert moved and not {name for name in moved if name.startswith("model.")}
    assert not loaded.awaits_freezing


def test_models_of_model_init_are_set_up_as_a_given_model(tmp_path: Path) -> None:
    """The Trainer makes one model in its constructor and another one in every training."""
    made: list[LFVilaForPreTraining] = []

    def make() -> LFVilaForPreTraining:
        made.append(tiny_model(LFVilaForPreTraining))
        return made[-1]

    options = {"max_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "training_phase": "fusion"}
    trainer = LFVilaTrainer(model_init=make, args=arguments(tmp_path, **options), train_dataset=fusion_pairs(4))
    for _ in range(2):
        trainer.train()
        moved = changed(state(tiny_model(LFVilaForPreTraining)), state(trainer.model))
        assert moved and not {name for name in moved if name.startswith("model.")}
        assert logged(trainer)[0]["mlm_loss"] > 0
    assert len(made) == 3 and all(model.config.training_phase == "fusion" for model in made)
    chunked = arguments(tmp_path, max_steps=1, contrastive_chunk_size=2)
    with pytest.raises(ValueError, match="contrastive_chunk_size is for LFVilaModel"):
        LFVilaTrainer(model_init=lambda: EXAMPLES["classification"].model(), args=chunked)


def test_a_phase_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training_phase='fusion' is for LFVilaForPreTraining, got LFVilaModel"):
        LFVilaTrainer(model=tiny_model(LFVilaModel), args=arguments(tmp_path, training_phase="fusion"))
    no_fusion = tiny_model(LFVilaForPreTraining, tiny_config(text={"num_cross_modal_layers": 0}))
    with pytest.raises(ValueError, match="num_cross_modal_layers > 0"):
        LFVilaTrainer(model=no_fusion, args=arguments(tmp_path, training_phase="fusion"))


# -- draws -----------------------------------------------------------------------------------------------------------


def test_every_batch_of_an_accumulated_step_gets_a_draw_of_its_own(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel)
    recorder = Recorder(model)
    # Five batches an epoch, two to a step: the third step of an epoch has one batch.
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "seed": 5}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), train_dataset=pairs(10))
    trainer.train()
    assert trainer.state.global_step == 6
    steps = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]  # step 2 uses 4 and leaves out 5, step 5 uses 10
    found = [call["mtc_draw"] for call in recorder.calls]
    for draw, step in zip(found, steps, strict=True):
        expected = draw_mtc(2, 4, 2, 2, seed=5, step=step)
        assert all(torch.equal(a, b) for a, b in zip(draw, expected, strict=True)), step
    assert len({str(draw) for draw in found}) > 5


def test_a_draw_that_comes_with_the_batch_is_used(tmp_path: Path) -> None:
    rows = pairs(4)
    draw = draw_mtc(4, 4, seed=99)

    def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        return {name: torch.stack([s[name] for s in samples]) for name in samples[0]} | {"mtc_draw": draw}

    model = tiny_model(LFVilaModel)
    expected = model(**rows.tensors, mtc_draw=draw)
    assert expected.mtc_loss != model(**rows.tensors, mtc_draw=draw_mtc(4, 4, seed=42)).mtc_loss
    options = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 4}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, train_sampling_strategy="sequential", **options),
        train_dataset=rows,
        data_collator=collate,
    )
    trainer.train()
    assert isinstance(draw, MTCDraw)
    assert logged(trainer)[0]["mtc_loss"] == pytest.approx(expected.mtc_loss.item(), rel=FLOAT32_NOISE)


def test_without_temporal_alignment_nothing_is_drawn(tmp_path: Path) -> None:
    model = tiny_model(LFVilaModel, tiny_config(temporal_alignment=False))
    recorder = Recorder(model)
    options = arguments(tmp_path, max_steps=1, per_device_train_batch_size=4)
    trainer = LFVilaTrainer(model=model, args=options, train_dataset=pairs(4))
    trainer.train()
    assert recorder.calls and "mtc_draw" not in recorder.calls[0]
    assert logged(trainer)[0]["loss"] == logged(trainer)[0]["global_loss"]


# -- one seed, one run -----------------------------------------------------------------------------------------------


def run_on_videos(folder: Path, rows: Any, tokenizer: Any, seed: int = 3, resume: Any = None, **fields: Any) -> Any:
    """Train on real video files with jitter, crops and dropout, five rows to an epoch."""
    torch.manual_seed(11)  # weights to start from; the trainer sets the run's seed
    config = dropout_config()
    config.text_config.vocab_size = len(tokenizer)
    model = LFVilaModel(config)
    processor = make_processor(tokenizer)
    options = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "seed": seed}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(folder, **(options | fields)),
        train_dataset=RetrievalDataset(rows, processor, training=True, seed=seed),
        data_collator=LFVilaCollator(processor, seed=seed),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = write_rows(tmp_path, 3)
    short = {"max_steps": 2}
    one, same = (run_on_videos(tmp_path / name, rows, tiny_tokenizer, **short) for name in "ab")
    other = run_on_videos(tmp_path / "c", rows, tiny_tokenizer, seed=4, **short)
    assert not changed(state(one.model), state(same.model))
    assert changed(state(one.model), state(other.model))
    assert [entry["mtc_loss"] for entry in logged(one)] == [entry["mtc_loss"] for entry in logged(same)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, tiny_tokenizer: Any, accumulation: int) -> None:
    """Three batches an epoch: step 2 of 4 lies within the first epoch, or (two batches to a step) at its uneven end."""
    rows = write_rows(tmp_path, 5)
    options = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": accumulation}
    whole = run_on_videos(tmp_path / "whole", rows, tiny_tokenizer, **options)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert whole.state.global_step == 4 and whole.state.epoch > 1
    assert (checkpoint / "video_preprocessor_config.json").exists() or (checkpoint / "processor_config.json").exists()

    resumed = run_on_videos(tmp_path / "resumed", rows, tiny_tokenizer, resume=str(checkpoint), **options)
    assert not changed(state(whole.model), state(resumed.model))
    kept = ("loss", "grad_norm", "learning_rate", "global_loss", "mtc_loss", "step")
    assert [[entry[k] for k in kept] for entry in logged(resumed)] == [[e[k] for k in kept] for e in logged(whole)]
    at_two = LFVilaModel.from_pretrained(checkpoint)
    assert changed(state(at_two), state(whole.model)), "nothing was learnt after the checkpoint"


# -- accumulation, other losses, adapters ----------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [False, True])
def test_two_halves_of_a_batch_equal_the_whole_where_pairs_are_given(tmp_path: Path, outside: bool) -> None:
    found, norms = [], []
    for size, accumulation in ((4, 1), (2, 2)):
        model = tiny_model(LFVilaForPreTraining)
        before = state(model)
        trainer = LFVilaTrainer(
            model=model,
            args=arguments(
                tmp_path,
                training_phase="fusion",
                max_steps=1,
                optim="sgd",
                learning_rate=1e-3,
                weight_decay=0.0,
                train_sampling_strategy="sequential",
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
            ),
            train_dataset=fusion_pairs(4, matched=True),
            compute_loss_func=LFVilaLoss(model.config) if outside else None,
        )
        trainer.train()
        assert len(changed(before, state(model))) > 10
        found.append(state(model))
        norms.append(logged(trainer)[0])
    whole, halves = found
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], atol=ACCUMULATION_NOISE, rtol=ACCUMULATION_NOISE)
    for key in ("loss", "grad_norm", "mlm_loss", "vtm_loss"):
        assert norms[1][key] == pytest.approx(norms[0][key], rel=FLOAT32_NOISE) and norms[0][key] > 0, key


@pytest.mark.parametrize("phase", ["contrastive", "fusion"])
def test_the_stock_trainer_trains_with_the_loss_of_the_model_and_with_the_loss_outside(
    phase: Any, tmp_path: Path
) -> None:
    runs = []
    for trainer_class, outside in ((Trainer, False), (Trainer, True), (LFVilaTrainer, True)):
        model = tiny_model(LFVilaForPreTraining)
        model.set_training_phase(phase)
        before = state(model)
        trainer = trainer_class(
            model=model,
            args=arguments(tmp_path, max_steps=2, per_device_train_batch_size=4, weight_decay=0.0),
            train_dataset=fusion_pairs(8) if phase == "fusion" else pairs(8),
            compute_loss_func=LFVilaLoss() if outside else None,
        )
        trainer.train()
        assert len(changed(before, state(model))) > 10
        runs.append((state(model), [entry["loss"] for entry in logged(trainer)]))
    (inside, losses), (outside_weights, outside_losses), (_, ours) = runs
    assert not changed(inside, outside_weights)
    assert losses == outside_losses and min(losses) > 0
    if phase == "fusion":  # the contrastive phase differs in its draws
        assert ours == losses


@quiet_peft
def test_adapters_train_and_all_else_stays(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model(LFVilaModel)
    before = state(base)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query", "value", "qkv"]))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    start = state(model)
    options = arguments(
        tmp_path, max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, dataloader_drop_last=True
    )
    trainer = LFVilaTrainer(model=model, args=options, train_dataset=pairs(8), eval_dataset=pairs(5))
    trainer.train()
    moved = changed(start, state(model))
    assert moved and all("lora_" in name for name in moved)
    merged = {name.replace("base_model.model.", "").replace("base_layer.", ""): w for name, w in state(model).items()}
    assert not changed(before, {name: merged[name] for name in before})
    assert logged(trainer)[0]["mtc_loss"] > 0
    assert trainer.evaluate()["eval_aligned_num_texts"] == 5


@quiet_peft
def test_adapters_of_a_phase_are_added_after_it_is_set(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model(LFVilaForPreTraining, dropout_config())
    base.set_training_phase("fusion")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=r".*cross_modal_encoder.*(query|value)"))
    modes: list[bool] = []
    options = {"max_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=fusion_pairs(4),
        callbacks=[OnStep(lambda: modes.extend([base.model.training, base.cross_modal_encoder.training]))],
    )
    start = state(model)
    trainer.train()
    assert modes == [False, True]
    moved = changed(start, state(model))
    adapted = {name for name in moved if "cross_modal_encoder" in name and "lora_" in name}
    heads = {name for name in moved if ".modules_to_save." in name}  # trained and saved with the adapter
    assert adapted and heads and moved == adapted | heads
    with pytest.raises(ValueError, match="got PeftModel; to train adapters, call set_training_phase"):
        LFVilaTrainer(model=model, args=arguments(tmp_path, training_phase="fusion"))


# -- task heads in several processes ----------------------------------------------------------------------------------


def head_run(name: str, folder: Path, trainer_class: type[Trainer], batch_size: int, **fields: Any) -> Trainer:
    """Two steps of 8 rows in all; DDP finds parameters without a gradient in the second one."""
    example = EXAMPLES[name]
    options = {"max_steps": 2, "learning_rate": 0.05, "optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0}
    trainer = trainer_class(
        model=example.model(),
        args=arguments(
            folder,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch_size,
            **options,
            **fields,
        ),
        train_dataset=TensorRows(**example.inputs(8)),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    return trainer


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [
        ("question answering", True),
        ("classification", False),
        pytest.param("question answering", False, marks=pytest.mark.slow),
        pytest.param("classification", True, marks=pytest.mark.slow),
        pytest.param("multiple choice", False, marks=pytest.mark.slow),
        pytest.param("multiple choice", True, marks=pytest.mark.slow),
        pytest.param("contrastive phase", True, marks=pytest.mark.slow),
    ],
)
def test_task_heads_train_in_two_processes(name: str, checkpointing: bool, tmp_path: Path) -> None:
    fields = {CHECKPOINTING: True} if checkpointing else {}

    def train(rank: int) -> None:
        trainer = head_run(name, tmp_path / f"rank-{rank}", LFVilaTrainer, 2, **fields)
        if rank == 0:
            torch.save(state(trainer.model), tmp_path / "weights.pt")

    in_processes(2, tmp_path / "errors", train)
    found, begun = torch.load(tmp_path / "weights.pt"), state(EXAMPLES[name].model())
    assert len(changed(begun, found)) > 50
    if name != "multiple choice":  # the span loss weighs the frames of each process's rows by themselves
        expected = state(head_run(name, tmp_path / "one", LFVilaTrainer, 4, **fields).model)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("name", ["question answering", "multiple choice", "classification"])
def test_checkpointed_task_heads_train_in_two_processes_of_the_stock_trainer(name: str, tmp_path: Path) -> None:
    """With checkpointing the Trainer does not let DDP look for unused parameters."""

    def train(rank: int) -> None:
        head_run(name, tmp_path / f"rank-{rank}", Trainer, 2, **{CHECKPOINTING: True})

    in_processes(2, tmp_path / "errors", train)


# -- loaders ----------------------------------------------------------------------------------------------------------


class Hearing(torch.utils.data.Dataset):
    """Rows that say which epoch they were asked in."""

    def __init__(self) -> None:
        self.rows, self.epoch, self.asked = pairs(10), 0, []

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        self.asked.append((self.epoch, index))
        return self.rows[index]


def trainer_on(rows: Any, folder: Path, **fields: Any) -> LFVilaTrainer:
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "seed": 9} | fields
    return LFVilaTrainer(model=tiny_model(LFVilaModel), args=arguments(folder, **options), train_dataset=rows)


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    rows = Hearing()
    trainer_on(rows, tmp_path).train()
    expected = []
    for epoch in range(2):
        sampler = SeedableRandomSampler(rows, data_seed=9)
        sampler.set_epoch(epoch)
        expected += [(epoch, row) for row in sampler]
    assert rows.asked == expected and expected[:10] != expected[10:]
    assert type(reproducible_sampler(torch.utils.data.SequentialSampler(rows), 9)) is torch.utils.data.SequentialSampler


def stream_trainer(shards: Path, folder: Path, tokenizer: Any, **fields: Any) -> LFVilaTrainer:
    processor = make_processor(tokenizer)
    torch.manual_seed(11)
    config = dropout_config()
    config.text_config.vocab_size = len(tokenizer)
    rows = stream_webdataset(str(shards / "*.tar"))
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "save_strategy": "steps"}
    options |= {"save_steps": 1, "seed": 4, "dataloader_num_workers": 2}
    return LFVilaTrainer(
        model=LFVilaModel(config),
        args=arguments(folder, **(options | fields)),
        train_dataset=ResumableStream(
            rows, PreTrainingReader(processor, training=True, seed=4), shuffle_seed=1, shuffle_buffer=3
        ),
        data_collator=LFVilaCollator(processor, seed=4),
    )


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_on_a_stream_equals_one_that_never_stopped(
    workers: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Six rows, two to a step: the checkpoint lies in the second pass."""
    shards = write_stream_shards(tmp_path / "shards", rows=6, rows_per_shard=2)
    whole = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=workers)
    whole.train()
    assert len({entry["loss"] for entry in logged(whole)}) == 5
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    resumed = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=workers)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5 and not changed(state(whole.model), state(resumed.model))
    assert [entry["mtc_loss"] for entry in logged(resumed)] == [entry["mtc_loss"] for entry in logged(whole)]


def test_there_are_no_more_workers_than_shards(
    tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shards = write_stream_shards(tmp_path / "shards", rows=2, rows_per_shard=2)
    trainer = stream_trainer(shards, tmp_path / "run", tiny_tokenizer, dataloader_num_workers=3)
    assert trainer.get_train_dataloader().num_workers == 1


# -- evaluation -------------------------------------------------------------------------------------------------------

ROWS, BATCH = 7, 3
DRAWN = ("chance_r1", "num_texts", "num_videos", "num_twins")


def features_by_hand(model: LFVilaModel, rows: TensorRows) -> RetrievalFeatures:
    """All rows in one call of each tower."""
    with torch.no_grad():
        text = model.get_text_features(rows.tensors["input_ids"], rows.tensors["attention_mask"])
        video = model.get_video_features(rows.tensors["pixel_values_videos"])
    return RetrievalFeatures(
        text.text_embeds, video.video_embeds, text.sentence_embeds, text.sentence_mask.bool(), video.clip_embeds
    )


def assert_metrics(found: dict[str, float], expected: dict[Any, dict[str, float]], prefix: str) -> None:
    """The metrics hold exactly the expected ones of every score, under `{prefix}_{score}_{name}`."""
    wanted = {f"{prefix}_{score}_{name}": value for score, values in expected.items() for name, value in values.items()}
    scores = tuple(f"{prefix}_{score}_" for score in ("global", "aligned", "both"))
    timed = ("loss", "runtime", "per_second")
    ours = {name: value for name, value in found.items() if name.startswith(scores) and not name.endswith(timed)}
    assert wanted and ours == pytest.approx(wanted)
    assert any(value not in (0.0, 1.0) for name, value in wanted.items() if "_r1" in name and "chance" not in name)


@pytest.fixture
def model() -> LFVilaModel:
    return tiny_model(LFVilaModel)


@pytest.mark.parametrize("batch_size", [1, BATCH, 16])
def test_evaluation_covers_every_row_whatever_training_drops(
    model: LFVilaModel, tmp_path: Path, batch_size: int
) -> None:
    rows = pairs(ROWS)
    options = arguments(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=batch_size)
    trainer = LFVilaTrainer(model=model, args=options, train_dataset=pairs(5), eval_dataset=rows)
    metrics = trainer.evaluate()
    assert metrics["eval_global_num_texts"] == metrics["eval_both_num_videos"] == ROWS
    assert_metrics(metrics, evaluate_features(features_by_hand(model, rows)), "eval")
    assert options.dataloader_drop_last  # and training still drops
    assert [len(batch["input_ids"]) for batch in trainer.get_train_dataloader()] == []
    assert sum(len(batch["input_ids"]) for batch in trainer.get_test_dataloader(rows)) == ROWS


def test_the_loss_is_the_mean_over_rows(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, per_device_eval_batch_size=BATCH), eval_dataset=rows)
    metrics = trainer.evaluate()
    sums = dict.fromkeys(("loss", "global_loss", "mtc_loss"), 0.0)
    for start in range(0, ROWS, BATCH):
        batch = {name: value[start : start + BATCH] for name, value in rows.tensors.items()}
        with torch.no_grad():
            output = model(**batch)
        for name in sums:
            sums[name] += output[name].item() * len(batch["input_ids"]) / ROWS
    for name, value in sums.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=FLOAT32_NOISE) and value > 0
    assert logged(trainer, "eval_loss") and "loss" not in trainer.state.log_history[0]
    again = trainer.evaluate()
    assert again["eval_mtc_loss"] == metrics["eval_mtc_loss"], "positions of MTC must be the same in every evaluation"


def test_the_loss_given_to_the_trainer_is_the_one_that_is_evaluated(model: LFVilaModel, tmp_path: Path) -> None:
    def doubled(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return 2 * outputs["loss"]

    losses = []
    for function in (None, doubled):
        options = arguments(tmp_path, per_device_eval_batch_size=4)
        trainer = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(4), compute_loss_func=function)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] == pytest.approx(2 * losses[0]) and losses[0] > 0


def test_order_twins_are_counted_by_every_score(model: LFVilaModel, tmp_path: Path) -> None:
    rows, twins = pairs(ROWS), [(0, 3), (5, 2), (1, 6)]
    options = arguments(tmp_path, per_device_eval_batch_size=BATCH)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=rows, eval_twins=twins)
    metrics = trainer.evaluate()
    expected = evaluate_features(features_by_hand(model, rows), twins=twins)
    assert_metrics(metrics, expected, "eval")
    assert metrics["eval_aligned_num_twins"] == 3 and "eval_both_order_accuracy" in metrics
    trainer.eval_twins = [(0, 1), (2, ROWS)]
    with pytest.raises(ValueError, match="eval_twins names row 7, the data set has 7 rows"):
        trainer.evaluate()


def test_only_the_scores_asked_for_are_made(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    options = {"eval_scores": ["aligned"], "retrieval_block_size": 2, "per_device_eval_batch_size": BATCH}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, **options), eval_dataset=rows)
    metrics = trainer.evaluate()
    assert not [name for name in metrics if name.startswith(("eval_global_t", "eval_global_n", "eval_both"))]
    assert_metrics(metrics, evaluate_features(features_by_hand(model, rows), scores=["aligned"]), "eval")


def test_batches_may_differ_in_their_number_of_sentences(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(4)
    for row, sentences in enumerate((2, 1, 4, 3)):
        rows.tensors["attention_mask"][row, sentences:] = 0

    def trim(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        longest = int(batch["attention_mask"].any(-1).sum(-1).max())
        return {name: v if name == "pixel_values_videos" else v[:, :longest] for name, v in batch.items()}

    options = arguments(tmp_path, per_device_eval_batch_size=2)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=rows, data_collator=trim)
    lengths = [batch["input_ids"].shape[1] for batch in trainer.get_eval_dataloader()]
    assert lengths == [2, 4]
    assert_metrics(trainer.evaluate(), evaluate_features(features_by_hand(model, rows)), "eval")


def test_predictions_are_the_features_of_all_rows(model: LFVilaModel, tmp_path: Path) -> None:
    rows = pairs(ROWS)
    options = arguments(tmp_path, per_device_eval_batch_size=BATCH, dataloader_drop_last=True)
    found = LFVilaTrainer(model=model, args=options).predict(rows)
    expected = features_by_hand(model, rows)
    assert set(found.predictions) == {
        "text_embeds",
        "video_embeds",
        "sentence_embeds",
        "sentence_mask",
        "clip_embeds",
    }
    for name, array in found.predictions.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, getattr(expected, name).numpy(), atol=FLOAT32_NOISE)
    assert_metrics(found.metrics, evaluate_features(expected), "test")
    again = make_compute_metrics(scores=("both",))(EvalPrediction(found.predictions, ()))
    assert again["t2v_r1"] == found.metrics["test_both_t2v_r1"]


def test_metrics_of_the_users_own_are_called(model: LFVilaModel, tmp_path: Path) -> None:
    def count(prediction: EvalPrediction) -> dict[str, float]:
        return {"arrays": len(prediction.predictions), "rows": len(prediction.predictions[0])}

    options = arguments(tmp_path, per_device_eval_batch_size=BATCH, dataloader_drop_last=True)
    trainer = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(ROWS), compute_metrics=count)
    metrics = trainer.evaluate()
    assert (metrics["eval_arrays"], metrics["eval_rows"]) == (5, ROWS)
    assert metrics["eval_loss"] > 0


def test_retrieval_may_be_left_out_sets_have_names_and_half_precision_changes_the_model(
    model: LFVilaModel, tmp_path: Path
) -> None:
    options = arguments(tmp_path, eval_retrieval=False)
    metrics = LFVilaTrainer(model=model, args=options, eval_dataset=pairs(4)).evaluate()
    assert metrics["eval_loss"] > 0 and not [name for name in metrics if "r1" in name]
    sets = {"small": pairs(3), "large": pairs(5)}
    trainer = LFVilaTrainer(model=model, args=arguments(tmp_path, bf16_full_eval=True), eval_dataset=sets)
    metrics = trainer.evaluate()
    assert (metrics["eval_small_global_num_texts"], metrics["eval_large_global_num_texts"]) == (3, 5)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}


def test_the_best_checkpoint_by_retrieval_is_kept(model: LFVilaModel, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "both_t2v_meanr", "greater_is_better": False}
    trainer = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate=1e-2, per_device_train_batch_size=4, **options),
        train_dataset=pairs(4),
        eval_dataset=pairs(4),
    )
    trainer.train()
    ranks = [entry["eval_both_t2v_meanr"] for entry in logged(trainer, "eval_both_t2v_meanr")]
    assert len(ranks) == 2 and trainer.state.best_metric == min(ranks)


@pytest.mark.parametrize("workers", [{}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}])
def test_evaluation_during_training_may_take_a_sample_of_the_rows(tmp_path: Path, workers: dict[str, Any]) -> None:
    trainer = LFVilaTrainer(
        model=tiny_model(LFVilaModel),
        args=arguments(
            tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, eval_sample_size=4, learning_rate=0.0, **workers
        ),
        train_dataset=pairs(2),
        eval_dataset=pairs(9),
        eval_twins=[(number, number + 1) for number in range(8)],
    )
    trainer.train()
    first, second = logged(trainer, "eval_loss")
    assert first["eval_both_num_texts"] == 4
    assert {n: v for n, v in first.items() if "both" in n} == {n: v for n, v in second.items() if "both" in n}
    assert trainer.evaluate()["eval_both_num_texts"] == 9
    trainer.eval_twins = []
    assert trainer.evaluate(pairs(3))["eval_both_num_texts"] == 3, "a loader of other rows was used"


def test_persistent_workers_draw_nothing_from_the_generator_of_dropout(tmp_path: Path) -> None:
    # A resumed run starts its workers anew, at an epoch where the uninterrupted run has them.
    options = arguments(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    loader = LFVilaTrainer(model=tiny_model(LFVilaModel), args=options, train_dataset=pairs(4)).get_train_dataloader()
    before = torch.get_rng_state()
    for _ in range(2):
        assert sum(len(batch["input_ids"]) for batch in loader) == 4
    assert torch.equal(torch.get_rng_state(), before)


# -- heads of the fusion phase ---------------------------------------------------------------------------------------


def test_the_fusion_phase_is_evaluated_by_the_accuracy_of_its_heads(tmp_path: Path) -> None:
    model, rows = tiny_model(LFVilaForPreTraining), fusion_pairs(6, matched=True)
    options = arguments(tmp_path, training_phase="fusion", per_device_eval_batch_size=4)
    metrics = LFVilaTrainer(model=model, args=options, eval_dataset=rows).evaluate()
    model.eval()
    with torch.no_grad():
        output = model(**rows.tensors, phase="fusion")
    matches = [int(output.vtm_logits[row].argmax()) == row % 2 for row in range(6)]
    words = []
    for row in range(1, 6, 2):  # masked tokens of matched pairs
        for sentence in range(4):
            guess = output.mlm_logits[row, 1 + 6 * sentence + 1].argmax()
            words.append(bool(guess == rows.tensors["mlm_targets"][row, sentence, 1]))
    assert metrics["eval_vtm_accuracy"] == pytest.approx(sum(matches) / 6)
    assert metrics["eval_mlm_accuracy"] == pytest.approx(sum(words) / 12)
    assert metrics["eval_vtm_loss"] == pytest.approx(output.vtm_loss.item(), rel=FLOAT32_NOISE)
    assert not [name for name in metrics if "_r1" in name or "global" in name]


# -- tasks with labels -----------------------------------------------------------------------------------------------


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean()), "rows": len(logits)}


@pytest.mark.parametrize("trainer_class", [LFVilaTrainer, Trainer])
@pytest.mark.parametrize("name", ["question answering", "multiple choice", "classification"])
def test_a_task_with_labels_trains_and_is_evaluated_by_its_metrics(
    name: str, trainer_class: type[Trainer], tmp_path: Path
) -> None:
    example = EXAMPLES[name]
    model, rows = example.model(), TensorRows(**example.inputs(5))
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 1e-3}
    trainer = trainer_class(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=accuracy,
    )
    trainer.train()
    assert len(logged(trainer)) == 2 and all(entry["loss"] > 0 for entry in logged(trainer))
    metrics = trainer.evaluate()
    with torch.no_grad():
        logits = model.eval()(**rows.tensors).logits
    expected = sum(int(logits[row].argmax() == rows.tensors["labels"][row]) for row in range(5)) / 5
    assert metrics["eval_accuracy"] == pytest.approx(expected)
    assert metrics["eval_rows"] == 5 and metrics["eval_loss"] > 0
    found = trainer.predict(rows)
    assert found.label_ids.tolist() == rows.tensors["labels"].tolist()

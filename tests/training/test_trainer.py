"""`LFVilaTrainer` in training: logged terms, the recipe, phases, draws, reproducible and resumed runs, accumulation.

Evaluation is tested in test_trainer_evaluation.py, the arguments in test_arguments.py, the schedule's formula in
test_optimization.py, the losses themselves in tests/test_loss_lfvila.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, tiny_config, tiny_model
from torch.nn import functional as F
from training_runs import (
    OnStep,
    Recorder,
    arguments,
    changed,
    dropout_config,
    fusion_pairs,
    logged,
    make_processor,
    pairs,
    state,
    write_rows,
)
from transformers import Trainer

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.data.collating import LFVilaCollator
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.loss_lfvila import LFVilaLoss, MTCDraw, draw_mtc, global_contrastive_loss, mtc_loss

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


def test_dropout_of_frozen_towers_is_off(tmp_path: Path) -> None:
    model = tiny_model(LFVilaForPreTraining, dropout_config())
    features: list[torch.Tensor] = []
    model.model.video_model.register_forward_hook(lambda _, __, output: features.append(output.tokens))
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    train = LFVilaTrainer(
        model=model,
        args=arguments(tmp_path, training_phase="fusion", num_train_epochs=2, **options),
        train_dataset=fusion_pairs(4),
    )
    train.train()
    assert len(features) == 2 and torch.equal(*features)
    train.model.set_training_phase("contrastive")
    model.train()
    model(**{name: fusion_pairs(4).tensors[name] for name in ("input_ids", "attention_mask", "pixel_values_videos")})
    assert not torch.equal(features[2], features[0]), "there is no dropout here"


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

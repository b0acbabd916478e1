"""Joint models: features and scores, both phases of pre-training, task heads, and errors.

Towers are tested in test_modeling_video_lfvila.py and test_modeling_text_lfvila.py, losses in test_loss_lfvila.py.
Properties of all models (backward, saving, batches, backends, tuples) are tested in invariants/test_equivalences.py.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import EXAMPLES, TEXT, random_ids, random_videos, tiny_batch, tiny_config, tiny_model
from torch.nn import functional as F
from transformers import BertConfig

from lfvila_hf import (
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaTextModel,
    LFVilaVideoModel,
)
from lfvila_hf.alignment_lfvila import monotone_alignment
from lfvila_hf.loss_lfvila import draw_mtc, global_contrastive_loss, mtc_loss, span_loss

# float32 sums in another order; the largest difference measured is 6e-7
FLOAT32_NOISE = 1e-5
D = TEXT["hidden_size"]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=FLOAT32_NOISE, rtol=FLOAT32_NOISE)


def mlm_targets(batch: int = 4, sentences: int = 4) -> torch.Tensor:
    targets = torch.full((batch, sentences, 6), -100)
    targets[:, :, 1] = random_ids(batch, sentences, seed=5)
    return targets


# -- features and scores ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("source", ["clip_level", "last"])
def test_embeddings_are_projected_and_normalised_features(source: str) -> None:
    model, batch = tiny_model(LFVilaModel, tiny_config(clip_feature_source=source)), tiny_batch(3)
    output = model(**batch)
    text = model.text_model(batch["input_ids"], batch["attention_mask"])
    video = model.video_model(batch["pixel_values_videos"])
    grid = video.clip_hidden_state if source == "clip_level" else video.last_hidden_state
    for found, projection, features in (
        (output.text_embeds, model.text_projection, text.pooler_output),
        (output.video_embeds, model.video_projection, video.tokens.mean((1, 2))),
        (output.sentence_embeds, model.sentence_projection, text.sentence_hidden_state[:, :, 0]),
        (output.clip_embeds, model.clip_projection, model.video_model.clip_features(grid)),
    ):
        assert_close(found, F.normalize(projection(features), dim=-1))
        assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]))
    assert (output.sentence_embeds.shape, output.clip_embeds.shape) == ((3, 4, D), (3, 4, D))
    assert output.sentence_mask.tolist() == [[1] * 4] * 3
    assert_close(output.logits_per_text, output.text_embeds @ output.video_embeds.T / 0.05)
    assert torch.equal(output.logits_per_video, output.logits_per_text.T)
    assert torch.equal(model.get_clip_features(batch["pixel_values_videos"]), output.clip_embeds)
    features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    assert_close(F.normalize(features.pooler_output, dim=-1), output.text_embeds)


@torch.no_grad()
def test_the_three_scores_equal_loops_over_pairs() -> None:
    model, batch = tiny_model(LFVilaModel), tiny_batch(3)
    batch["attention_mask"][1, 3] = 0
    texts = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    videos = model.get_video_features(random_videos(5))
    assert texts.sentence_mask.tolist()[1] == [1, 1, 1, 0]
    scores = {name: model.similarity(texts, videos, name) for name in ("global", "aligned", "both")}
    for i, j in itertools.product(range(3), range(5)):
        table = texts.sentence_embeds[i] @ videos.clip_embeds[j].T
        aligned = monotone_alignment(table, texts.sentence_mask[i])[0]
        assert_close(scores["global"][i, j], texts.text_embeds[i] @ videos.video_embeds[j])
        assert_close(scores["aligned"][i, j], aligned)
        assert_close(scores["both"][i, j], scores["global"][i, j] + aligned)
    assert torch.equal(model.similarity(texts, videos), scores["global"])
    assert not torch.allclose(scores["global"], scores["aligned"], atol=0.05)
    with pytest.raises(ValueError, match='score must be "global", "aligned" or "both", got \'local\''):
        model.similarity(texts, videos, "local")


def test_without_temporal_alignment_there_is_the_global_loss_alone() -> None:
    model, batch = tiny_model(LFVilaModel, tiny_config(temporal_alignment=False)), tiny_batch(3)
    assert model.sentence_projection is None and model.clip_projection is None
    output = model(**batch)
    assert output.sentence_embeds is None and output.clip_embeds is None and output.mtc_loss is None
    assert output.loss == output.global_loss > 0
    assert model(**batch | {"pixel_values_videos": random_videos(3, frames=6)}).loss > 0  # no clips, any T
    with pytest.raises(ValueError, match="score='aligned' needs sentence and clip embeddings"):
        model.similarity(output, output, "aligned")
    with pytest.raises(ValueError, match=r"no clip projection \(temporal_alignment=False\)"):
        model.get_clip_features(batch["pixel_values_videos"])


# -- contrastive phase -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [LFVilaModel, LFVilaForPreTraining])
def test_the_loss_is_global_plus_a_quarter_of_mtc(model_class: type[Any]) -> None:
    batch = tiny_batch(3)
    draw = draw_mtc(3, 4, seed=123)
    output = tiny_model(model_class)(**batch, mtc_draw=draw)
    expected = mtc_loss(output.sentence_embeds, output.clip_embeds, draw, 0.05, output.sentence_mask)
    assert_close(output.mtc_loss, expected)
    assert_close(output.global_loss, global_contrastive_loss(output.text_embeds, output.video_embeds, 0.05))
    assert_close(output.loss, output.global_loss + 0.25 * output.mtc_loss)
    assert output.mtc_loss > 0 and list(output)[0] == "loss"


def test_draws_are_fixed_in_evaluation_and_follow_the_generator_in_training() -> None:
    model, batch = tiny_model(LFVilaModel), tiny_batch(4)
    fixed = draw_mtc(4, 4)
    assert all(torch.equal(a, b) for a, b in zip(model(**batch).mtc_draw, fixed, strict=True))
    model.train()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(torch.cat([field.flatten() for field in model(**batch).mtc_draw]).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_unequal_numbers_of_texts_and_videos_give_logits_and_no_loss() -> None:
    model, batch = tiny_model(LFVilaModel), tiny_batch(3)
    output = model(**batch | {"pixel_values_videos": random_videos(2)})
    assert output.logits_per_text.shape == (3, 2) and output.logits_per_video.shape == (2, 3)
    assert output.loss is None and output.global_loss is None and output.mtc_loss is None and output.mtc_draw is None
    assert model(**batch, return_loss=False).loss is None


def test_what_the_joined_model_cannot_read_is_named() -> None:
    model, batch = tiny_model(LFVilaModel), tiny_batch(2)
    with pytest.raises(ValueError, match="input_ids and pixel_values_videos are both expected"):
        model(batch["input_ids"])
    with pytest.raises(ValueError, match="6 frames are not divisible by num_clips=4"):
        model(**batch | {"pixel_values_videos": random_videos(2, frames=6)})
    for other in (BertConfig(), tiny_config().video_config):
        with pytest.raises(ValueError, match=f"LFVilaModel takes a LFVilaConfig .* got a {type(other).__name__}"):
            LFVilaModel(other)
    answering = tiny_model(LFVilaForQuestionAnswering)
    with pytest.raises(ValueError, match="built without a text projection"):
        answering.model(**batch)
    with pytest.raises(ValueError, match="built without a video projection"):
        answering.model.get_video_features(batch["pixel_values_videos"])


# -- fusion phase ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_fusion_phase_swaps_videos_and_masks_tokens_of_matched_pairs_only() -> None:
    model, batch = tiny_model(LFVilaForPreTraining), tiny_batch(4)
    targets = mlm_targets()
    output = model(**batch, phase="fusion", mlm_targets=targets)
    assert output.vtm_targets.tolist() == [0, 0, 1, 1]
    assert (output.mlm_targets[:2] == -100).all() and torch.equal(output.mlm_targets[2:], targets[2:])
    text = model.model.text_model(batch["input_ids"], batch["attention_mask"])
    tokens = model.model.video_model(batch["pixel_values_videos"]).tokens[[1, 0, 2, 3]]
    fused = model.cross_modal_encoder(text.last_hidden_state, text.attention_mask, tokens)
    assert_close(output.mlm_logits, model.mlm_head(fused.last_hidden_state))
    assert_close(output.vtm_logits, model.vtm_head(fused.pooler_output))
    assert output.mlm_logits.shape == (4, 1 + 4 * 6 + 8 * 2, TEXT["vocab_size"])
    words = output.mlm_logits[2:, 1:25].unflatten(1, (4, 6))[:, :, 1]  # (2, M, vocabulary) of the masked tokens
    assert_close(output.mlm_loss, F.cross_entropy(words.flatten(0, 1), targets[2:, :, 1].flatten()))
    assert_close(output.vtm_loss, F.cross_entropy(output.vtm_logits, output.vtm_targets))
    assert_close(output.loss, output.mlm_loss + 10 * output.vtm_loss)
    assert list(output)[0] == "loss"


@torch.no_grad()
def test_pairs_that_are_given_are_taken_as_they_are() -> None:
    model, batch, targets = tiny_model(LFVilaForPreTraining), tiny_batch(4), mlm_targets()
    given = torch.tensor([1, 0, 1, 0])
    output = model(**batch, phase="fusion", mlm_targets=targets, vtm_targets=given)
    plain = model(**batch, phase="fusion", return_loss=False)
    assert torch.equal(output.vtm_logits, plain.vtm_logits), "a video was swapped"
    assert plain.loss is None and plain.vtm_targets is None
    assert torch.equal(output.vtm_targets, given)
    assert ((output.mlm_targets == -100).flatten(1).all(1) == torch.tensor([False, True, False, True])).all()
    made = model(**batch, phase="fusion")
    assert not torch.equal(made.vtm_logits[:2], plain.vtm_logits[:2])
    assert made.mlm_loss is None and made.loss == 10 * made.vtm_loss


@torch.no_grad()
def test_one_pair_and_one_flat_sentence_go_through_the_fusion_phase() -> None:
    model, batch = tiny_model(LFVilaForPreTraining), tiny_batch(1, sentences=1)
    nested = model(**batch, phase="fusion", mlm_targets=mlm_targets(1, 1))
    assert nested.vtm_targets.tolist() == [1] and nested.loss.isfinite()
    batch = {name: value[:, 0] if name != "pixel_values_videos" else value for name, value in batch.items()}
    flat = model(**batch, phase="fusion", mlm_targets=mlm_targets(1, 1)[:, 0])
    assert flat.mlm_targets.shape == (1, 6) and torch.equal(flat.loss, nested.loss)


def test_what_the_fusion_phase_cannot_read_is_named() -> None:
    model, batch = tiny_model(LFVilaForPreTraining), tiny_batch(2)
    for wrong, words in (
        ({"phase": "both"}, 'phase must be "contrastive" or "fusion", got \'both\''),
        ({"mlm_targets": mlm_targets(2)[:, :3]}, r"mlm_targets \(2, 3, 6\) must have the shape .* \(2, 4, 6\)"),
        ({"vtm_targets": torch.tensor([1])}, r"vtm_targets must be \(2,\), one per pair, got \(1,\)"),
        ({"pixel_values_videos": random_videos(3)}, "read in pairs, got 2 texts and 3 videos"),
        ({"pixel_values_videos": random_videos(2, frames=4)}, "4 frames of 2 tokens, .* for 8 frames of 2 tokens"),
        ({"pixel_values_videos": None}, "pixel_values_videos .* expected, got None"),
    ):
        with pytest.raises(ValueError, match=words):
            model(**{**batch, "phase": "fusion", **wrong})
    without = tiny_model(LFVilaForPreTraining, tiny_config(text={"num_cross_modal_layers": 0}))
    assert without.mlm_head is None and without(**batch).loss > 0
    for call in (lambda: without(**batch, phase="fusion"), lambda: without.set_training_phase("fusion")):
        with pytest.raises(ValueError, match="needs text_config.num_cross_modal_layers > 0, got 0"):
            call()


def test_the_phase_is_read_from_the_configuration_where_none_is_given() -> None:
    model, batch = tiny_model(LFVilaForPreTraining), tiny_batch(2)
    assert model(**batch).global_loss is not None
    model.set_training_phase("fusion")
    assert model.config.training_phase == "fusion"
    assert model(**batch).vtm_loss is not None and model(**batch, phase="contrastive").global_loss is not None


def test_each_phase_trains_its_own_parameters_and_frozen_means_evaluation() -> None:
    dropout = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    config = tiny_config(video={"drop_path_rate": 0.5, **dropout}, text=dropout)
    model, batch = tiny_model(LFVilaForPreTraining, config).train(), tiny_batch(4)
    towers = {name for name, _ in model.named_parameters() if name.startswith("model.")}
    fusion = {name for name, _ in model.named_parameters()} - towers
    assert towers and fusion

    def trained() -> set[str]:
        model.zero_grad()
        model(**batch, mlm_targets=mlm_targets()).loss.backward()
        return {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    def tower_features() -> torch.Tensor:
        return (
            model.model(**batch, return_loss=False).text_embeds + model.model(**batch, return_loss=False).video_embeds
        )

    model.set_training_phase("contrastive")
    assert trained() == towers
    assert not torch.equal(tower_features(), tower_features()), "there is no dropout in this test"
    for _ in range(2):
        model.set_training_phase("fusion")
        model.eval().train()  # what the Trainer does around an evaluation
        assert trained() == fusion
        assert not any(module.training for module in model.model.modules())
        assert all(module.training for module in model.cross_modal_encoder.modules()) and model.training
        assert torch.equal(tower_features(), tower_features())
        assert not torch.equal(model(**batch).vtm_logits, model(**batch).vtm_logits)
        model.set_training_phase("contrastive")
        assert model.model.training and trained() == towers
    model.eval()
    model.set_training_phase("fusion")
    assert not model.training and not model.cross_modal_encoder.training
    with pytest.raises(ValueError, match="got 'third'"):
        model.set_training_phase("third")


# -- heads -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_question_answering_classifies_the_pooled_token() -> None:
    model, batch = tiny_model(LFVilaForQuestionAnswering, tiny_config(num_labels=7)), tiny_batch(3)
    labels = torch.tensor([6, 0, 3])
    output, unlabelled = model(**batch, labels=labels), model(**batch)
    text = model.model.text_model(batch["input_ids"], batch["attention_mask"])
    video = model.model.video_model(batch["pixel_values_videos"])
    fused = model.cross_modal_encoder(text.last_hidden_state, text.attention_mask, video.tokens)
    assert_close(output.logits, model.classifier(fused.pooler_output))
    assert output.logits.shape == (3, 7) and unlabelled.loss is None and torch.equal(unlabelled.logits, output.logits)
    assert_close(output.loss, F.cross_entropy(output.logits, labels))
    dropping = LFVilaForQuestionAnswering(tiny_config(text={"hidden_dropout_prob": 0.3}))
    assert dropping.dropout.p == 0.3
    with pytest.raises(ValueError, match="pixel_values_videos .* expected, got None"):
        model(batch["input_ids"])


@torch.no_grad()
def test_multiple_choice_reads_the_video_once_with_every_answer() -> None:
    model, videos = tiny_model(LFVilaForMultipleChoice, tiny_config(span_loss_weight=0.5)), random_videos(2)
    ids, labels = random_ids(2, 3, 4, 6), torch.tensor([2, 0])
    mask = (torch.arange(6) < 2 + torch.arange(24).view(2, 3, 4, 1) % 5).long()
    span_targets = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0], [1] * 6 + [0] * 2])
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": videos}
    output = model(**given, labels=labels, span_targets=span_targets)
    video = model.model.video_model(videos)
    span_logits = torch.full((2, 8, 2), -torch.inf)
    for pair, choice in itertools.product(range(2), range(3)):
        text = model.model.text_model(ids[pair, choice][None], mask[pair, choice][None])
        fused = model.cross_modal_encoder(text.last_hidden_state, text.attention_mask, video.tokens[pair][None])
        assert_close(output.logits[pair, choice], model.classifier(fused.pooler_output)[0, 0])
        frames = fused.last_hidden_state[0, 1 + 4 * 6 :].view(8, 2, D).mean(1)  # (T, D)
        span_logits[pair] = torch.maximum(span_logits[pair], model.span_classifier(frames))
    assert_close(output.span_logits, span_logits)
    assert_close(output.span_loss, span_loss(span_logits, span_targets))
    assert_close(output.loss, F.cross_entropy(output.logits, labels) + 0.5 * output.span_loss)
    weights = torch.rand(2, 8)
    weighted = model(**given, span_targets=span_targets, span_weights=weights)
    assert_close(weighted.span_loss, span_loss(span_logits, span_targets, weights))
    assert weighted.loss is None and model(**given).span_loss is None
    assert_close(model(**given, labels=labels).loss, F.cross_entropy(output.logits, labels))


def test_what_multiple_choice_cannot_read_is_named() -> None:
    model = tiny_model(LFVilaForMultipleChoice)
    with pytest.raises(ValueError, match=r"must be \(B, N, M, L\), got \(2, 4, 6\)"):
        model(random_ids(2, 4, 6), pixel_values_videos=random_videos(2))
    with pytest.raises(ValueError, match="one video per question is expected, got 2 questions and 3 videos"):
        model(random_ids(2, 3, 4, 6), pixel_values_videos=random_videos(3))
    without = tiny_model(LFVilaForMultipleChoice, tiny_config(text={"num_cross_modal_layers": 0}))
    with pytest.raises(ValueError, match="no cross-modal encoder"):
        without(random_ids(2, 3, 4, 6), pixel_values_videos=random_videos(2))


@torch.no_grad()
def test_classification_reads_the_normalised_video_feature_and_has_no_text_tower() -> None:
    model, videos = tiny_model(LFVilaForVideoClassification, tiny_config(num_labels=5)), random_videos(3)
    assert model.model.text_model is None and not [name for name in model.state_dict() if "text" in name]
    labels = torch.tensor([4, 0, 1])
    output = model(videos, labels=labels)
    assert_close(output.logits, model.classifier(model.model.get_video_features(videos).video_embeds))
    assert_close(output.loss, F.cross_entropy(output.logits, labels))
    assert model(videos).loss is None and model(random_videos(1, frames=7)).logits.shape == (1, 5)
    several = tiny_model(LFVilaForVideoClassification, tiny_config(num_labels=5))
    targets = torch.rand(3, 5).round()
    expected = F.binary_cross_entropy_with_logits(output.logits, targets)
    assert_close(several(videos, labels=targets).loss, expected)


# -- transformers' machinery -----------------------------------------------------------------------------------------


def test_towers_hold_the_very_configurations_of_the_model_and_follow_its_backend() -> None:
    model = tiny_model(LFVilaForPreTraining, tiny_config(attn_implementation={"text_config": "eager"}))
    inner = model.model
    assert inner.text_model.config is model.config.text_config is model.cross_modal_encoder.config.text_config
    assert inner.video_model.config is model.config.video_config
    layers = [*inner.text_model.sentence_layers, *model.cross_modal_encoder.layers]
    assert {layer.attention.self.config._attn_implementation for layer in layers} == {"eager"}
    assert inner.video_model.levels[0].blocks[0].attn.config._attn_implementation == "sdpa"
    model.set_attn_implementation({"text_config": "sdpa", "video_config": "eager"})
    assert {layer.attention.self.config._attn_implementation for layer in layers} == {"sdpa"}
    assert inner.video_model.levels[0].blocks[0].attn.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="flash|Flash"):
        tiny_model(LFVilaModel, tiny_config(attn_implementation="flash_attention_2"))


def test_word_embeddings_are_resized_with_the_separate_decoder() -> None:
    model, batch = tiny_model(LFVilaForPreTraining), tiny_batch(2)
    words, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    assert words is model.model.text_model.embeddings.word_embeddings and decoder is model.mlm_head.decoder
    before = model(**batch, phase="fusion").mlm_logits
    model.resize_token_embeddings(70, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape == model.mlm_head.decoder.weight.shape == (70, D)
    assert model.mlm_head.decoder.bias.shape == (70,)
    assert model.get_input_embeddings().weight is not model.mlm_head.decoder.weight
    assert model.config.text_config.vocab_size == model.model.text_model.config.vocab_size == 70
    after = model(**batch, phase="fusion").mlm_logits
    assert after.shape[-1] == 70
    assert_close(after[..., :60], before)


def test_every_model_names_its_input_embeddings() -> None:
    joined = tiny_model(LFVilaModel)
    assert joined.get_input_embeddings() is joined.text_model.get_input_embeddings()
    assert joined.video_model.get_input_embeddings() is joined.video_model.patch_embed
    classifier = tiny_model(LFVilaForVideoClassification)
    assert classifier.get_input_embeddings() is classifier.model.video_model.patch_embed
    new = torch.nn.Embedding(9, D)
    joined.set_input_embeddings(new)
    assert joined.text_model.embeddings.word_embeddings is new


@pytest.mark.parametrize("tower", [LFVilaVideoModel, LFVilaTextModel])
def test_a_tower_and_a_head_load_from_a_checkpoint_of_the_joined_model(tower: type[Any], tmp_path: Path) -> None:
    joined = tiny_model(LFVilaModel)
    joined.save_pretrained(tmp_path)
    loaded, report = tower.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    theirs = getattr(joined, tower.base_model_prefix).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.state_dict().items())
    head, report = LFVilaForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"cross_modal_encoder", "classifier"}
    assert torch.equal(head.model.video_model.norm.weight, joined.video_model.norm.weight)


def test_a_pretraining_checkpoint_loads_as_joined_model_and_as_head(tmp_path: Path) -> None:
    pretrained = tiny_model(LFVilaForPreTraining)
    pretrained.save_pretrained(tmp_path)
    _, report = LFVilaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    head, report = LFVilaForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"classifier", "span_classifier"}
    pooler = pretrained.cross_modal_encoder.pooler.dense.weight
    assert torch.equal(head.cross_modal_encoder.pooler.dense.weight, pooler)


# -- heads in the ecosystem ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", ["question answering", "multiple choice", "classification", "joined, no alignment"])
def test_every_parameter_that_can_learn_gets_a_gradient(name: str, loaded: bool, tmp_path: Path) -> None:
    model, inputs = EXAMPLES[name].model(), EXAMPLES[name].inputs(4)
    if loaded:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    inputs.pop("span_targets", None)  # a batch without spans
    model.train()(**inputs).loss.backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert not any(one.requires_grad for name, one in model.named_parameters() if ".clip_" in f".{name}")


def test_a_new_phase_does_not_unfreeze_what_nothing_reads() -> None:
    model = tiny_model(LFVilaForPreTraining, tiny_config(temporal_alignment=False))
    model.set_training_phase("contrastive")
    assert not any(one.requires_grad for one in model.model.video_model.clip_merging.parameters())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_text_inputs_and_unknown_keywords_change_nothing_of_a_video_model(backend: str) -> None:
    model, inputs = EXAMPLES["classification"].model(attn_implementation=backend), tiny_batch(2)
    alone = model(inputs["pixel_values_videos"]).logits
    assert torch.equal(model(**inputs, task_type="VIDEO_CLS").logits, alone)


def test_answers_obey_the_problem_type() -> None:
    model, labels = EXAMPLES["question answering"].model(problem_type="multi_label_classification"), torch.rand(2, 2)
    output = model(**tiny_batch(2), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)
    choice, inputs = EXAMPLES["multiple choice"].model(problem_type="regression"), EXAMPLES["multiple choice"].inputs(2)
    with pytest.raises(ValueError, match='problem_type="regression" is not supported'):
        choice(**inputs)
    choice.config.problem_type = None
    with pytest.raises(
        ValueError, match=r"labels must be \(B,\) numbers of the right choices, got torch.float32 \(2, 3\)"
    ):
        choice(**inputs | {"labels": torch.rand(2, 3)})


@pytest.mark.parametrize("name", ["joined", "fusion phase", "question answering", "multiple choice", "classification"])
def test_a_checkpoint_of_another_class_loads_without_a_report_of_parts_that_it_has_besides(
    name: str, tmp_path: Path
) -> None:
    EXAMPLES[name].model().save_pretrained(tmp_path)
    for other in ("joined", "fusion phase", "question answering", "multiple choice", "classification"):
        _, report = EXAMPLES[other].model_class.from_pretrained(
            tmp_path, output_loading_info=True, ignore_mismatched_sizes=True
        )
        assert not report["unexpected_keys"], "each would be a line of the report that transformers prints"
        heads = EXAMPLES[other].model_class.head_modules
        if name == "joined" and heads:
            assert {key.partition(".")[0] for key in report["missing_keys"]} >= set(heads), "a new head is still said"
    weights = load_file(tmp_path / "model.safetensors")
    weights["mistaken.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    _, report = LFVilaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert "mistaken.weight" in report["unexpected_keys"]

"""`from_pretrained_towers`: which model comes out of a Swin and a BERT, and what does not fit.

How a Swin is read and inflated is tested in test_swin_inflation_lfvila.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    SwinConfig,
    SwinModel,
)

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaVideoModel,
)
from lfvila_hf.conversion.swin_inflation import SWIN_RENAMES
from lfvila_hf.conversion.towers import derived_config

BERT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
SWIN = {"image_size": 48, "patch_size": 4, "embed_dim": 8, "num_heads": [1, 2, 2, 4], "window_size": 3}
# Neither a Swin nor a BERT has these parts.
ALWAYS_NEW = {
    "model.text_projection",
    "model.video_projection",
    "model.sentence_projection",
    "model.clip_projection",
    "model.text_model.paragraph_embeddings.segment_embeddings",
    "model.text_model.paragraph_embeddings.LayerNorm",
    "cross_modal_encoder.video_embeddings",
    "vtm_head",
}


def random_bert(model_class: Any = BertForPreTraining, **fields: Any) -> Any:
    torch.manual_seed(5)
    model = model_class(BertConfig(**(BERT | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def random_swin(**fields: Any) -> SwinModel:
    torch.manual_seed(6)
    return SwinModel(SwinConfig(**(SWIN | {"depths": [1, 1, 4, 1]} | fields)))


def fitting_config(**text: Any) -> LFVilaConfig:
    """The configuration of BERT = 2 + 1 + 3 layers and Swin = [1, 1, 2, 1, 1, 1] blocks."""
    video = {
        "image_size": [32, 48],
        "num_frames": 8,
        "embed_dim": 8,
        "depths": [1, 1, 2, 1, 1, 1],
        "num_heads": [1, 2, 2, 2, 2, 4],
        "temporal_windows": [1, 2, 2, 4, 4, 8],
        "spatial_window": [2, 3],
    }
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    slices = {"num_sentence_layers": 2, "num_paragraph_layers": 1, "num_cross_modal_layers": 3}
    fusion = text.pop("cross_modal_fusion", "merged")
    fields = {name: BERT[name] for name in names} | slices | text
    return LFVilaConfig(video_config=video, text_config=fields, cross_modal_fusion=fusion)


def starts(names: list[str]) -> set[str]:
    """Parts that parameters belong to, as finely as `ALWAYS_NEW` has them."""
    return {next((part for part in ALWAYS_NEW if name.startswith(part)), name) for name in names}


@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "model"])
@pytest.mark.parametrize(
    ("bert_class", "also_new"),
    [
        (BertForPreTraining, set()),
        (BertForMaskedLM, {"cross_modal_encoder.pooler.dense.weight", "cross_modal_encoder.pooler.dense.bias"}),
        (BertModel, {f"mlm_head.{name}" for name in ("dense", "LayerNorm", "decoder")}),
    ],
)
def test_every_bert_fills_what_it_has(tmp_path: Path, bert_class: Any, also_new: set[str], as_folder: bool) -> None:
    bert, swin = random_bert(bert_class), random_swin()
    sources: dict[str, Any] = {"video": swin, "text": bert}
    if as_folder:
        for name, model in sources.items():
            model.save_pretrained(tmp_path / name)
            sources[name] = str(tmp_path / name)
    config = fitting_config()
    model, report = LFVilaForPreTraining.from_pretrained_towers(**sources, config=config, output_loading_info=True)
    new = {name.rpartition(".")[0] if name.startswith("mlm_head") else name for name in starts(report.missing_keys)}
    assert new == ALWAYS_NEW | also_new
    assert report.unused_keys == []
    assert not model.training and model.dtype == torch.float32


def test_bert_s_layers_are_split_over_the_three_slices() -> None:
    bert = random_bert()
    model = LFVilaForPreTraining.from_pretrained_towers(random_swin(), bert, fitting_config())
    text, layers = model.model.text_model, bert.bert.encoder.layer
    ours = [*text.sentence_layers, *text.paragraph_layers, *model.cross_modal_encoder.layers]
    assert (len(text.sentence_layers), len(text.paragraph_layers), len(ours)) == (2, 1, 6)
    states, mask = torch.randn(2, 5, 64), torch.zeros(2, 1, 1, 5)
    for mine, theirs in zip(ours, layers, strict=True):
        with torch.no_grad():
            assert torch.allclose(mine(states, mask), theirs(states, mask), atol=1e-6)
    assert torch.equal(model.cross_modal_encoder.pooler.dense.weight, bert.bert.pooler.dense.weight)


def test_a_sentence_is_embedded_as_bert_embeds_it_and_the_paragraph_counts_on_with_the_same_positions() -> None:
    bert = random_bert()
    model = LFVilaForPreTraining.from_pretrained_towers(random_swin(), bert, fitting_config())
    ids = torch.randint(1, 60, (3, 7))
    with torch.no_grad():
        ours, theirs = model.model.text_model.embeddings(ids), bert.bert.embeddings(ids)
    assert torch.allclose(ours, theirs, atol=1e-6)
    own, positions = model.model.text_model.paragraph_embeddings, bert.bert.embeddings.position_embeddings.weight
    assert torch.equal(own.position_embeddings.weight, positions)
    own.position_embeddings.weight.data.zero_()  # a copy: BERT's and the sentences' stay
    assert torch.equal(model.model.text_model.embeddings.position_embeddings.weight, positions)


@pytest.mark.parametrize("bert_class", [BertForMaskedLM, BertForPreTraining])
def test_the_mlm_head_is_bert_s_but_no_longer_tied_to_the_words(bert_class: Any) -> None:
    bert = random_bert(bert_class)
    model = LFVilaForPreTraining.from_pretrained_towers(random_swin(), bert, fitting_config())
    states = torch.randn(4, 64)
    with torch.no_grad():
        theirs = bert.cls.predictions(states) if bert_class is BertForPreTraining else bert.cls(states)
        assert torch.allclose(model.mlm_head(states), theirs, atol=1e-5)
    words = model.model.text_model.embeddings.word_embeddings.weight
    assert torch.equal(words, model.mlm_head.decoder.weight)
    words.data.zero_()
    assert model.mlm_head.decoder.weight.abs().max() > 0


def test_both_streams_of_co_attention_start_from_bert() -> None:
    bert = random_bert()
    config = fitting_config(cross_modal_fusion="co_attention")
    model, report = LFVilaForPreTraining.from_pretrained_towers(random_swin(), bert, config, output_loading_info=True)
    layer, theirs = model.cross_modal_encoder.layers[0], bert.bert.encoder.layer[3]
    for stream in (layer.text_layer, layer.video_layer):
        assert torch.equal(stream.intermediate.dense.weight, theirs.intermediate.dense.weight)
    assert [name for name in report.missing_keys if ".text_to_video." in name]


def test_without_cross_modal_layers_bert_s_upper_layers_are_listed_as_unused() -> None:
    config = fitting_config(num_cross_modal_layers=0)
    model, report = LFVilaForPreTraining.from_pretrained_towers(
        random_swin(), random_bert(), config, output_loading_info=True
    )
    assert model.cross_modal_encoder is None
    parts = {name.split(".")[0] for name in report.unused_keys}
    assert parts == {"cross_modal_encoder", "mlm_head"}
    assert len([name for name in report.unused_keys if ".layers." in name]) == 3 * 16


@pytest.mark.parametrize("model_class", [LFVilaModel, LFVilaForQuestionAnswering, LFVilaForVideoClassification])
def test_every_model_with_both_towers_can_start_from_them(model_class: Any) -> None:
    swin, bert = random_swin(), random_bert()
    model, report = model_class.from_pretrained_towers(swin, bert, fitting_config(), output_loading_info=True)
    tower = model.video_model if model_class is LFVilaModel else model.model.video_model
    assert torch.equal(tower.norm.weight, swin.layernorm.weight)
    assert not [name for name in report.missing_keys if "video_model" in name]


def test_one_tower_alone_leaves_the_other_new() -> None:
    swin = random_swin()
    model, report = LFVilaModel.from_pretrained_towers(video=swin, config=fitting_config(), output_loading_info=True)
    assert torch.equal(model.video_model.clip_norm.weight, swin.layernorm.weight)
    assert "text_model.embeddings.word_embeddings.weight" in report.missing_keys


def test_a_configuration_is_derived_from_both_towers() -> None:
    model = LFVilaForPreTraining.from_pretrained_towers(
        random_swin(depths=[1, 2, 7, 1]),
        random_bert(num_hidden_layers=7, hidden_dropout_prob=0.2),
        video_config={"num_frames": 16},
        temporal_alignment=False,
    )
    video, text = model.config.video_config, model.config.text_config
    assert (video.depths, video.num_heads) == ([1, 2, 3, 2, 2, 1], [1, 2, 2, 2, 2, 4])
    assert (video.embed_dim, video.num_frames, video.image_size) == (8, 16, [192, 320])
    assert (text.num_sentence_layers, text.num_paragraph_layers, text.num_cross_modal_layers) == (2, 1, 4)
    assert (text.hidden_dropout_prob, text.vocab_size) == (0.2, 60)
    assert model.config.temporal_alignment is False


def test_swin_b_and_bert_large_imply_the_released_size() -> None:
    """On shapes alone: no memory is taken for either."""
    with torch.device("meta"):
        swin = SwinModel(
            SwinConfig(image_size=384, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12)
        )
    state = {
        next(re.sub(pattern, ours, name) for pattern, ours in SWIN_RENAMES if re.fullmatch(pattern, name)): tensor
        for name, tensor in swin.state_dict().items()
    }
    bert = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    derived, released = derived_config(LFVilaConfig, state, bert, {}), LFVilaConfig.base()
    for name in ("depths", "num_heads", "embed_dim", "temporal_windows", "merge_after", "mlp_ratio"):
        assert getattr(derived.video_config, name) == getattr(released.video_config, name)
    for name in ("num_sentence_layers", "num_paragraph_layers", "num_cross_modal_layers", "vocab_size", "hidden_size"):
        assert getattr(derived.text_config, name) == getattr(released.text_config, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"num_hidden_layers": 5}, r"BERT has 5 layers, the slices here have 2 \+ 1 \+ 3"),
        ({"num_hidden_layers": 7}, r"BERT has 7 layers, the slices here have 2 \+ 1 \+ 3"),
        ({"hidden_size": 32}, "hidden_size is 32 in BERT, 64 here"),
        ({"vocab_size": 61}, "vocab_size is 61 in BERT, 60 here"),
        ({"num_attention_heads": 8}, "num_attention_heads is 8 in BERT, 4 here"),
        ({"intermediate_size": 97, "vocab_size": 61}, "vocab_size is 61 .*; intermediate_size is 97"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu' in BERT, 'gelu' here"),
        ({"max_position_embeddings": 64}, "max_position_embeddings is 64 in BERT, 40 here"),
    ],
)
def test_a_bert_that_does_not_fit_is_named(text: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"this BERT does not fit the configuration: .*{message}"):
        LFVilaForPreTraining.from_pretrained_towers(random_swin(), random_bert(**text), fitting_config())


def test_a_swin_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="this Swin does not fit the configuration: embed_dim is 4 in Swin, 8 here"):
        LFVilaForPreTraining.from_pretrained_towers(random_swin(embed_dim=4), random_bert(), fitting_config())


def test_what_cannot_be_asked_for_is_an_error() -> None:
    swin, bert, config = random_swin(), random_bert(), fitting_config()
    start = LFVilaForPreTraining.from_pretrained_towers
    with pytest.raises(ValueError, match="needs video=, text= or both"):
        start()
    with pytest.raises(ValueError, match="derived from video= and text= together only"):
        start(video=swin)
    with pytest.raises(ValueError, match=r"got both \(fields \['temperature'\]\)"):
        start(video=swin, text=bert, config=config, temperature=1.0)
    with pytest.raises(ValueError, match="Swin ends at 32 channels, BERT's hidden_size is 64"):
        start(video=random_swin(embed_dim=4), text=bert)
    with pytest.raises(ValueError, match="a Swin of four stages"):
        start(video=random_swin(depths=[1, 1, 2, 1]), text=bert)
    with pytest.raises(ValueError, match="LFVilaVideoModel is one tower"):
        LFVilaVideoModel.from_pretrained_towers(video=swin, config=config.video_config)
    other = DistilBertModel(DistilBertConfig(vocab_size=20, dim=8, n_heads=2, n_layers=1, hidden_dim=8))
    with pytest.raises(ValueError, match='model_type "bert" is expected, got "distilbert"'):
        start(video=swin, text=other)
    with torch.no_grad():
        bert.bert.pooler.dense.bias[0] = float("inf")
    with pytest.raises(ValueError, match=r"not finite: \['pooler\.dense\.bias'\]"):
        start(video=swin, text=bert, config=config)

"""Initialisation from a Swin and a BERT: all forms of both, the mapping of parameters, and sources that do not fit.

tests/parity/test_recorded_resizing.py compares inflated tensors with those of the released loader.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
)

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaVideoConfig,
    LFVilaVideoModel,
)
from lfvila_hf.conversion.towers import SWIN_RENAMES, derived_config, inflate_swin, read_swin, swin_shape

BERT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
SWIN = {"image_size": 48, "patch_size": 4, "embed_dim": 8, "depths": [1, 2, 4, 1], "num_heads": [1, 2, 2, 4]}
# The same pyramid as a video tower: the third stage of 4 blocks is three levels of 2, 1 and 1.
VIDEO = {
    "image_size": [32, 48],
    "num_frames": 8,
    "embed_dim": 8,
    "depths": [1, 2, 2, 1, 1, 1],
    "num_heads": [1, 2, 2, 2, 2, 4],
    "temporal_windows": [1, 2, 2, 4, 4, 8],
    "spatial_window": [2, 3],
}
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


def randomised(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def random_bert(model_class: Any = BertForPreTraining, **fields: Any) -> Any:
    return randomised(model_class(BertConfig(**(BERT | fields))))


def random_swin(model_class: Any = SwinModel, **fields: Any) -> Any:
    return randomised(model_class(SwinConfig(**(SWIN | {"window_size": 3} | fields))))


def fitting_config(**text: Any) -> LFVilaConfig:
    """Return the configuration of BERT = 2 + 1 + 3 layers and of `SWIN`."""
    slices = {"num_sentence_layers": 2, "num_paragraph_layers": 1, "num_cross_modal_layers": 3}
    fusion = text.pop("cross_modal_fusion", "merged")
    fields = {name: value for name, value in BERT.items() if name != "num_hidden_layers"} | slices | text
    return LFVilaConfig(video_config=VIDEO, text_config=fields, cross_modal_fusion=fusion)


# -- Swin --------------------------------------------------------------------------------------------------------------


def authors_names(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters under the names of the authors' `.pth`, written out by hand from transformers' modules."""
    swin, state = model.swin if hasattr(model, "swin") else model, {}
    state["patch_embed.proj.weight"] = swin.embeddings.patch_embeddings.projection.weight
    state["patch_embed.proj.bias"] = swin.embeddings.patch_embeddings.projection.bias
    for name in ("weight", "bias"):
        state[f"patch_embed.norm.{name}"] = getattr(swin.embeddings.norm, name)
        state[f"norm.{name}"] = getattr(swin.layernorm, name)
    for stage, layer in enumerate(swin.encoder.layers):
        for number, block in enumerate(layer.blocks):
            prefix, attention = f"layers.{stage}.blocks.{number}", dict(block.attention.named_parameters())
            table = next(tensor for name, tensor in attention.items() if name.endswith("relative_position_bias_table"))
            state[f"{prefix}.attn.relative_position_bias_table"] = table
            state[f"{prefix}.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.int64)
            linears = [module for module in block.attention.modules() if isinstance(module, torch.nn.Linear)]
            feeds = [m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear) and "attention" not in n]
            assert (len(linears), len(feeds)) == (4, 2)
            for name in ("weight", "bias"):
                state[f"{prefix}.attn.qkv.{name}"] = torch.cat([getattr(linear, name) for linear in linears[:3]])
                state[f"{prefix}.attn.proj.{name}"] = getattr(linears[3], name)
                state[f"{prefix}.mlp.fc1.{name}"] = getattr(feeds[0], name)
                state[f"{prefix}.mlp.fc2.{name}"] = getattr(feeds[1], name)
                state[f"{prefix}.norm1.{name}"] = getattr(block.layernorm_before, name)
                state[f"{prefix}.norm2.{name}"] = getattr(block.layernorm_after, name)
        if layer.downsample is not None:
            state[f"layers.{stage}.downsample.reduction.weight"] = layer.downsample.reduction.weight
            for name in ("weight", "bias"):
                state[f"layers.{stage}.downsample.norm.{name}"] = getattr(layer.downsample.norm, name)
    state["head.weight"], state["head.bias"] = torch.zeros(5, 64), torch.zeros(5)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def test_every_form_of_a_swin_is_read_alike(tmp_path: Path) -> None:
    model = random_swin(SwinForImageClassification)
    model.save_pretrained(tmp_path / "classifier")
    model.swin.save_pretrained(tmp_path / "bare")
    torch.save({"model": authors_names(model)}, tmp_path / "swin.pth")
    sources = [
        model,
        model.swin,
        model.swin.state_dict(),
        model.state_dict(),
        tmp_path / "classifier",
        str(tmp_path / "bare"),
        tmp_path / "swin.pth",
        load_file(tmp_path / "classifier" / "model.safetensors"),
        authors_names(model),
    ]
    expected = read_swin(sources[-1])
    assert len(expected) > 50
    for source in sources[:-1]:
        read = read_swin(source)
        assert set(read) == set(expected)
        assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def test_an_inflated_swin_fills_the_video_tower() -> None:
    config = LFVilaVideoConfig(**VIDEO)
    swin = read_swin(random_swin())
    shape = swin_shape(swin)
    assert (shape.embed_dim, shape.depths, shape.num_heads) == (8, (1, 2, 4, 1), (1, 2, 2, 4))
    assert (shape.patch, shape.mlp_ratio) == ((4, 4), 4.0)
    inflated = inflate_swin(swin, config)
    model = LFVilaVideoModel(config)
    model.load_state_dict(inflated, strict=True)
    for ours, theirs in {
        "levels.2.blocks.1.mlp.fc1.weight": "layers.2.blocks.1.mlp.fc1.weight",
        "levels.3.blocks.0.attn.qkv.bias": "layers.2.blocks.2.attn.qkv.bias",
        "levels.4.blocks.0.norm2.weight": "layers.2.blocks.3.norm2.weight",
        "levels.5.blocks.0.attn.proj.weight": "layers.3.blocks.0.attn.proj.weight",
        "merging.1.reduction.weight": "layers.1.downsample.reduction.weight",
        "merging.4.norm.bias": "layers.2.downsample.norm.bias",
        "clip_merging.reduction.weight": "layers.2.downsample.reduction.weight",
        "clip_norm.weight": "norm.weight",
    }.items():
        assert torch.equal(inflated[ours], swin[theirs]), ours
    assert model(torch.randn(1, 8, 3, 32, 48)).last_hidden_state.isfinite().all()


def test_patches_of_swin_s_own_size_keep_their_kernel_and_larger_ones_average_it() -> None:
    swin = read_swin(random_swin())
    own = inflate_swin(swin, LFVilaVideoConfig(**VIDEO, patch_size=4))
    assert torch.equal(own["patch_embed.proj.weight"][:, :, 0], swin["patch_embed.proj.weight"])
    larger = inflate_swin(swin, LFVilaVideoConfig(**VIDEO, patch_size=[8, 12]))["patch_embed.proj.weight"][:, :, 0]
    picture = torch.randn(1, 3, 8, 12)
    parts = torch.nn.functional.conv2d(picture, swin["patch_embed.proj.weight"], stride=4)  # (1, C, 2, 3)
    whole = torch.nn.functional.conv2d(picture, larger, stride=(8, 12))
    assert torch.allclose(whole.flatten(), parts.mean((2, 3)).flatten(), atol=1e-5)


def test_windows_as_large_as_swin_s_keep_their_tables_at_every_time_offset() -> None:
    swin = read_swin(random_swin())
    inflated = inflate_swin(swin, LFVilaVideoConfig(**(VIDEO | {"spatial_window": [3, 3]})))
    table = inflated["levels.5.blocks.0.attn.relative_position_bias_table"].view(15, 25, 4)
    assert all(torch.equal(offset, swin["layers.3.blocks.0.attn.relative_position_bias_table"]) for offset in table)


@pytest.mark.parametrize(
    ("fields", "kept", "new"),
    [
        ({"video_stem": "conv"}, "patch_embed.norm.weight", "patch_embed.proj"),
        ({"clip_level": 1}, "clip_norm.weight", "clip_merging"),  # of another width
    ],
)
def test_parts_that_swin_cannot_fill_stay_new(fields: dict[str, Any], kept: str, new: str) -> None:
    inflated = inflate_swin(read_swin(random_swin()), LFVilaVideoConfig(**VIDEO, **fields))
    assert kept in inflated
    assert not [name for name in inflated if name.startswith(new)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed_dim": 16}, "embed_dim is 8 in Swin, 16 here"),
        ({"depths": [1, 2, 2, 1, 1, 2]}, r"Swin has 8 blocks \[1, 2, 4, 1\], depths here are"),
        ({"depths": [2, 1, 2, 1, 1, 1]}, r"block 1 of level 0 has 8 channels .* Swin's layers\.1\.blocks\.0 has 16"),
        ({"num_heads": [1, 2, 2, 2, 2, 8]}, "block 0 of level 5 has 64 channels and 8 heads, .* has 64 and 4"),
        ({"merge_after": [0, 1, 4, 5]}, r"Swin has 3 merging layers, merge_after here is \[0, 1, 4, 5\]"),
        ({"patch_size": 6}, r"patches are \(4, 4\) in Swin, \(6, 6\) here is no multiple"),
        ({"mlp_ratio": 2}, "mlp_ratio is 4 in Swin, 2 here"),
        ({"qkv_bias": False}, "qkv_bias here is False"),
    ],
)
def test_sizes_that_do_not_fit_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"this Swin does not fit the configuration: .*{message}"):
        inflate_swin(read_swin(random_swin()), LFVilaVideoConfig(**(VIDEO | fields)))


def test_a_source_that_is_no_swin_is_an_error(tmp_path: Path) -> None:
    state = authors_names(random_swin())
    with pytest.raises(ValueError, match=r"no 2-D Swin without absolute positions; it has \['absolute_pos_embed'\]"):
        read_swin(state | {"absolute_pos_embed": torch.zeros(1, 4, 8)})
    with pytest.raises(ValueError, match="no 2-D Swin"):
        read_swin({"conv1.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"not finite: \['norm\.weight'\]"):
        read_swin(state | {"norm.weight": torch.full((64,), float("nan"))})
    with pytest.raises(ValueError, match='model_type "swin" is expected, got "swinv2"'):
        random = random_swin()
        random.config.model_type = "swinv2"
        read_swin(random)
    with pytest.raises(ValueError, match="cannot load"):
        read_swin(tmp_path / "nothing")


# -- both towers -------------------------------------------------------------------------------------------------------


def starts(names: list[str]) -> set[str]:
    """Return the parts of `ALWAYS_NEW` that parameters belong to, or their own names."""
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


def test_bert_s_layers_are_split_over_the_three_slices_and_its_positions_serve_the_paragraph_too() -> None:
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
    _, report = LFVilaModel.from_pretrained_towers(
        video=random_swin(), config=fitting_config(), output_loading_info=True
    )
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
    """Compare shapes on the meta device."""
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
        ({"intermediate_size": 97, "vocab_size": 61}, "vocab_size is 61 .*; intermediate_size is 97"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu' in BERT, 'gelu' here"),
        ({"max_position_embeddings": 64}, "max_position_embeddings is 64 in BERT, 40 here"),
    ],
)
def test_a_bert_that_does_not_fit_is_named(text: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"this BERT does not fit the configuration: .*{message}"):
        LFVilaForPreTraining.from_pretrained_towers(random_swin(), random_bert(**text), fitting_config())


def test_arguments_and_sources_that_do_not_fit_are_errors() -> None:
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

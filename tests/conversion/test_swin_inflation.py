"""A 2-D Swin becomes the video tower: every spelling of Swin, what goes where, and what does not fit.

The inflated numbers of the released loader are in tests/parity/test_recorded_resizing.py; the model that is put
together from a Swin and a BERT is tested in test_towers_lfvila.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import SwinConfig, SwinForImageClassification, SwinModel

from lfvila_hf import LFVilaVideoConfig, LFVilaVideoModel
from lfvila_hf.conversion.swin_inflation import inflate_swin, read_swin, swin_shape

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


def random_swin(model_class: Any = SwinModel, **fields: Any) -> Any:
    torch.manual_seed(3)
    model = model_class(SwinConfig(**(SWIN | {"window_size": 3} | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def authors_names(model: Any) -> dict[str, torch.Tensor]:
    """The parameters as the authors' `.pth` names them, written out by hand from transformers' modules."""
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


def test_the_shape_of_a_swin_is_read_off_its_parameters() -> None:
    shape = swin_shape(read_swin(random_swin()))
    assert (shape.embed_dim, shape.depths, shape.num_heads) == (8, (1, 2, 4, 1), (1, 2, 2, 4))
    assert (shape.patch, shape.mlp_ratio) == ((4, 4), 4.0)


def test_an_inflated_swin_fills_the_video_tower() -> None:
    config = LFVilaVideoConfig(**VIDEO)
    swin = read_swin(random_swin())
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


def test_a_convolutional_stem_leaves_swin_s_kernel_out() -> None:
    inflated = inflate_swin(read_swin(random_swin()), LFVilaVideoConfig(**VIDEO, video_stem="conv"))
    assert "patch_embed.norm.weight" in inflated
    assert not [name for name in inflated if name.startswith("patch_embed.proj")]


def test_clip_merging_of_another_width_stays_new() -> None:
    inflated = inflate_swin(read_swin(random_swin()), LFVilaVideoConfig(**VIDEO, clip_level=1))
    assert "clip_norm.weight" in inflated
    assert not [name for name in inflated if name.startswith("clip_merging")]


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


def test_what_is_no_swin_is_an_error(tmp_path: Path) -> None:
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

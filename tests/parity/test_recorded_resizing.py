"""Bias tables for longer windows, and an inflated 2-D Swin, against tensors recorded from the released loader.

Behaviour beyond these tensors is tested in tests/test_size_of_video.py and tests/conversion/test_towers.py.
"""

from __future__ import annotations

import re

import torch
from load_case import load_case

from lfvila_hf import LFVilaConfig, LFVilaModel, LFVilaVideoConfig
from lfvila_hf.conversion.released import rename
from lfvila_hf.conversion.towers import inflate_swin, read_swin
from lfvila_hf.modeling_video_lfvila import resize_bias_table


def test_bias_tables_of_longer_windows_are_the_released_ones() -> None:
    case = load_case("temporal_window_resize")
    old, new = case.settings["spec"]["window_size"], case.settings["new_window_size"]
    resized = 0
    for key, table in case.groups["before"].items():
        level = int(re.findall(r"layers\.(\d+)\.", key)[0])
        ours, released = resize_bias_table(table, old[level], new[level]), case.groups["after"][key]
        if old[level] == new[level]:
            assert torch.equal(ours, released)
        else:
            # The released loader rounds to float16, and so does the comparison: not one bit differs.
            assert torch.equal(ours.half().float(), released)
            resized += 1
    assert resized == 4


def test_set_num_frames_gives_a_model_the_released_tables() -> None:
    case = load_case("temporal_window_resize")
    model = LFVilaModel(tiny_config(case.settings["spec"]))
    tables = {name: p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")}
    with torch.no_grad():
        for key, table in case.groups["before"].items():
            tables[rename(key, model.config, "retrieval")].copy_(table)
    model.set_num_frames(64)
    windows = [window[0] for window in case.settings["new_window_size"]]
    assert model.config.video_config.temporal_windows == windows
    tables = {name: p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")}
    for key, released in case.groups["after"].items():
        ours = tables[rename(key, model.config, "retrieval")]
        assert torch.allclose(ours, released, rtol=2**-11, atol=2**-24), key


def test_an_inflated_swin_is_the_released_video_tower() -> None:
    case = load_case("swin2d_inflation")
    config = tiny_config(case.settings["spec"])
    inflated = inflate_swin(read_swin(case.groups["swin2d"]), config.video_config)
    released = {rename(f"video_encoder.{key}", config, "retrieval"): t for key, t in case.groups["video"].items()}
    assert len(inflated) == len(released) > 100
    for name, tensor in released.items():
        assert torch.equal(inflated[name.removeprefix("video_model.")], tensor), name


def tiny_config(spec: dict) -> LFVilaConfig:
    video = LFVilaVideoConfig(
        image_size=spec["size"],
        embed_dim=spec["embed_dim"],
        depths=spec["depths"],
        num_heads=spec["video_heads"],
        temporal_windows=[window[0] for window in spec["window_size"]],
    )
    text = {
        "hidden_size": video.hidden_size,
        "num_attention_heads": spec["text_heads"],
        "intermediate_size": spec["intermediate"],
        "vocab_size": spec["vocab"],
        "num_sentence_layers": 1,
        "num_paragraph_layers": 1,
        "num_cross_modal_layers": 0,
    }
    return LFVilaConfig(video_config=video, text_config=text)

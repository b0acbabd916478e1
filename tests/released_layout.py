"""Names and shapes of released checkpoints at any size, written down from the recorded ones and not from our model.

`released_shapes` follows the released YAML alone, so that conversion can be tried at sizes that no recorded case has:
other depths, windows, vocabularies, and the released size itself. test_released_layout.py holds it against the recorded
cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Shape = tuple[int, ...]
FUSING_TASKS = ("question_answering", "multiple_choice")


def example_original(stage: int = 2) -> dict[str, Any]:
    """The released YAML (its parts that describe the model) at the released size."""
    windows = [[2, 3, 5], [4, 3, 5], [8, 3, 5], [16, 3, 5], [16, 3, 5], [32, 3, 5]]
    video = {
        "patch_size": [1, 8, 8],
        "embed_dim": 128,
        "depths": [2, 2, 14, 2, 2, 2],
        "downsample_stages": [0, 1, 4],
        "stages": [0, 1, 2, 2, 2, 3],
        "num_heads": [4, 8, 16, 16, 16, 32],
        "window_size": windows,
        "patch_norm": True,
        "local_window": 8,
    }
    bert = {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    }
    return {
        "VideoEncoder": video,
        "bert_config": bert,
        "stage": stage,
        "type_vocab_size": 8,
        "num_local_layers": 8,
        "stage1_layers": 12,
        "final_num_patches": 6,
        "DATA": {"sample_frame": 32, "sample_clip": 4, "input_res": [192, 320], "classification_labels": 1654},
        "TRAINING": {"temp": 0.05, "time_temp": 0.05, "num_key": 2, "num_value": 2, "num_other_neg": 3},
    }


def tiny_original(stage: int = 2, **video: Any) -> dict[str, Any]:
    """A released YAML of another size in every respect, small enough to run: 3 clips of 4 frames, 40 x 56 pixels."""
    original = example_original(stage)
    original["VideoEncoder"] |= {
        "patch_size": [1, 4, 4],
        "embed_dim": 6,
        "depths": [1, 2, 3, 1, 2, 1],
        "num_heads": [1, 2, 3, 3, 4, 6],
        "window_size": [[1, 2, 3], [2, 2, 3], [4, 2, 3], [6, 2, 3], [6, 2, 3], [12, 2, 3]],
        "local_window": 4,
    } | video
    original["bert_config"] |= {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_attention_heads": 3,
        "num_hidden_layers": 6,
        "vocab_size": 71,
        "max_position_embeddings": 64,
    }
    original["DATA"] |= {"sample_frame": 12, "sample_clip": 3, "input_res": [40, 56], "classification_labels": 9}
    return original | {"num_local_layers": 2, "stage1_layers": 3, "type_vocab_size": 5, "final_num_patches": 1}


def released_shapes(original: Mapping[str, Any], task: str) -> dict[str, Shape]:
    """Name and shape of every tensor in a released checkpoint of `task`, constants included."""
    shapes = dict(_video_shapes(original["VideoEncoder"]))
    width = original["bert_config"]["hidden_size"]
    if task == "video_classification":
        shapes |= dict(_linear("video_global_proj", width, width))
        shapes |= dict(_linear("video_frame_proj", width, width))
        return shapes | dict(_linear("classifier", original["DATA"]["classification_labels"], width))
    shapes |= dict(_text_shapes(original, task))
    projections = {
        "pretraining": ("text_global_proj", "video_global_proj", "text_local_proj", "video_local_proj"),
        "retrieval": ("text_global_proj", "video_global_proj"),
    }
    for name in projections.get(task, ()):
        shapes |= dict(_linear(name, width, width))
    return shapes


def random_state(original: Mapping[str, Any], task: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A released checkpoint with random numbers in it."""
    state = {}
    for name, shape in released_shapes(original, task).items():
        if name.endswith(("position_ids", "relative_position_index")):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            noise = torch.randn(shape) * 0.2
            state[name] = (noise + (1 if is_norm_weight(name) else 0)).to(dtype)
    return state


def is_norm_weight(name: str) -> bool:
    """Whether a released parameter multiplies in a LayerNorm."""
    return name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm_local.weight", "LayerNorm.weight"))


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _merging(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm", 4 * channels)
    yield f"{name}.reduction.weight", (2 * channels, 4 * channels)


def _video_shapes(video: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    base = video["embed_dim"]
    yield "video_encoder.patch_embed.proj.weight", (base, 3, *video["patch_size"])
    yield "video_encoder.patch_embed.proj.bias", (base,)
    yield from _norm("video_encoder.patch_embed.norm", base)
    for level, depth in enumerate(video["depths"]):
        channels = base * 2 ** video["stages"][level]
        t, r, c = video["window_size"][level]
        for number in range(depth):
            block = f"video_encoder.layers.{level}.blocks.{number}"
            table = ((2 * t - 1) * (2 * r - 1) * (2 * c - 1), video["num_heads"][level])
            yield f"{block}.attn.relative_position_bias_table", table
            yield f"{block}.attn.relative_position_index", (t * r * c, t * r * c)
            yield from _norm(f"{block}.norm1", channels)
            yield from _norm(f"{block}.norm2", channels)
            yield from _linear(f"{block}.attn.qkv", 3 * channels, channels)
            yield from _linear(f"{block}.attn.proj", channels, channels)
            yield from _linear(f"{block}.mlp.fc1", 4 * channels, channels)
            yield from _linear(f"{block}.mlp.fc2", channels, 4 * channels)
        if level in video["downsample_stages"]:
            yield from _merging(f"video_encoder.layers.{level}.downsample", channels)
    yield from _merging("video_encoder.local_feat_proj", 4 * base)
    yield from _norm("video_encoder.norm", 8 * base)
    yield from _norm("video_encoder.norm_local", 8 * base)


def _text_shapes(original: Mapping[str, Any], task: str) -> Iterator[tuple[str, Shape]]:
    bert, data = original["bert_config"], original["DATA"]
    width, inner, words = bert["hidden_size"], bert["intermediate_size"], bert["vocab_size"]
    positions = bert["max_position_embeddings"]
    fuses = task in FUSING_TASKS or (task == "pretraining" and original["stage"] == 2)
    yield "sent_embedding.position_ids", (1, positions)
    yield "sent_embedding.position_embeddings.weight", (positions, width)
    yield "sent_embedding.segment_embeddings.weight", (original["type_vocab_size"], width)
    yield from _norm("sent_embedding.norm", width)
    embeddings = "text_encoder.bert.embeddings"
    yield f"{embeddings}.position_ids", (1, positions)
    yield f"{embeddings}.word_embeddings.weight", (words, width)
    yield f"{embeddings}.position_embeddings.weight", (positions, width)
    yield f"{embeddings}.token_type_embeddings.weight", (bert["type_vocab_size"], width)
    yield from _norm(f"{embeddings}.LayerNorm", width)
    for number in range(bert["num_hidden_layers"] if fuses else original["stage1_layers"]):
        layer = f"text_encoder.bert.encoder.layer.{number}"
        for name in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{name}", width, width)
        yield from _linear(f"{layer}.attention.output.dense", width, width)
        yield from _norm(f"{layer}.attention.output.LayerNorm", width)
        yield from _linear(f"{layer}.intermediate.dense", inner, width)
        yield from _linear(f"{layer}.output.dense", width, inner)
        yield from _norm(f"{layer}.output.LayerNorm", width)
    yield from _linear("text_encoder.bert.pooler.dense", width, width)
    if task in FUSING_TASKS:
        answers = data["classification_labels"] if task == "question_answering" else 1
        yield from _linear("text_encoder.classifier", answers, width)
        if task == "multiple_choice":
            yield from _linear("text_encoder.span_classifier", 2, width)
    else:
        yield "text_encoder.cls.predictions.bias", (words,)
        yield from _linear("text_encoder.cls.predictions.decoder", words, width)
        yield from _linear("text_encoder.cls.predictions.transform.dense", width, width)
        yield from _norm("text_encoder.cls.predictions.transform.LayerNorm", width)
        yield from _linear("text_encoder.seq_relationship", 2, width)
    if fuses:
        yield "video_token_pos.s_pos_embed", (1, 1, original["final_num_patches"], width)
        yield "video_token_pos.t_pos_embed", (1, data["sample_frame"], 1, width)
        yield from _norm("video_token_pos.norm", width)

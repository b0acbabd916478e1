# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""2-D Swin inflated into HTWA, which is what the release starts its video tower from (`src/utils/load.py`).

The patch kernel is tiled over our larger patch and divided by the number of tiles; blocks and merging layers map onto
ours in order; tables of relative position bias are resized to our windows (bicubic, see `resize_bias_table`) and
repeated over the time offsets; clip merging and clip norm start from the last merging layer and the last norm.

Swin is read as its authors' `.pth` or as any transformers checkpoint of it.

Letters: T frames, H W pixels, C channels of a level, A heads; t r c frames, rows and columns of a window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from lfvila_hf.conversion.checkpoint_files import not_finite, read_state_dict
from lfvila_hf.modeling_video_lfvila import resize_bias_table

# A Swin of transformers (names in memory, and the older ones of its files) under the names of the authors' `.pth`.
SWIN_RENAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(.+)", r"patch_embed.norm.\1"),
    (r"encoder\.(layers\.\d+\.downsample\..+)", r"\1"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.(?:self\.)?(query|key|value)\.(.+)", r"\1.attn.\2.\3"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.([qkv])_proj\.(.+)", r"\1.attn.\2.\3"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.(?:o_proj|output\.dense)\.(.+)", r"\1.attn.proj.\2"),
    (
        r"encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.\w+\.relative_position_bias_table",
        r"\1.attn.relative_position_bias_table",
    ),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.layernorm_before\.(.+)", r"\1.norm1.\2"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.layernorm_after\.(.+)", r"\1.norm2.\2"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.(?:mlp\.fc1|intermediate\.dense)\.(.+)", r"\1.mlp.fc1.\2"),
    (r"encoder\.(layers\.\d+\.blocks\.\d+)\.(?:mlp\.fc2|output\.dense)\.(.+)", r"\1.mlp.fc2.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
# Parts of a 2-D Swin that have no place in the video tower: a classifier of images, and constants.
SWIN_UNNEEDED = re.compile(r"((head|classifier)\..+|.+\.attn_mask|.+\.relative_position_index|embeddings\.mask_token)")


class SwinShape(NamedTuple):
    """Sizes of a 2-D Swin, read off its parameters."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch: tuple[int, int]
    mlp_ratio: float


def read_swin(source: Any) -> dict[str, torch.Tensor]:
    """Parameters of a 2-D Swin under the names of the authors' `.pth`.

    Args:
        source: That `.pth`, a folder or repository of transformers, a model of transformers, or a state dict.

    Raises:
        ValueError: Not a 2-D Swin, one with absolute positions, parameters that are unknown or not finite.
    """
    if isinstance(source, PreTrainedModel):
        state = dict(getattr(source, source.base_model_prefix, source).state_dict())
        expect_model_type(source.config, "swin")
    elif isinstance(source, Mapping):
        state = dict(source)
    elif Path(source).is_file():
        state = read_state_dict(source)
    else:
        from transformers import SwinModel

        _, model, absent = load_pretrained(SwinModel, source, "swin")
        if absent:
            raise ValueError(f"{source}: this Swin lacks {sorted(absent)}")
        state = dict(model.state_dict())
    renamed, unknown = {}, []
    for key, tensor in state.items():
        key = key.removeprefix("swin.")
        if SWIN_UNNEEDED.fullmatch(key):
            continue
        match = next((m for pattern, ours in SWIN_RENAMES if (m := _renamed(pattern, ours, key))), key)
        if re.fullmatch(r"(patch_embed\.(proj|norm)|norm|layers\.\d+\.(blocks\.\d+|downsample)\..+)\.\w+", match):
            renamed[match] = tensor.float()
        else:
            unknown.append(key)
    if unknown or "patch_embed.proj.weight" not in renamed or "norm.weight" not in renamed:
        raise ValueError(f"this is no 2-D Swin without absolute positions; it has {unknown or sorted(state)[:8]}")
    if bad := not_finite(renamed):
        raise ValueError(f"this Swin has parameters that are not finite: {bad}")
    return _with_joined_qkv(renamed)


def swin_shape(state: Mapping[str, torch.Tensor]) -> SwinShape:
    """Sizes of a 2-D Swin that `read_swin` read."""
    blocks = _swin_blocks(state)
    stages = sorted({int(block.split(".")[1]) for block in blocks})
    firsts = [f"layers.{stage}.blocks.0" for stage in stages]
    weight = state["patch_embed.proj.weight"]
    hidden, channels = state[f"{firsts[0]}.mlp.fc1.weight"].shape
    return SwinShape(
        embed_dim=weight.shape[0],
        depths=tuple(sum(block.startswith(f"layers.{stage}.") for block in blocks) for stage in stages),
        num_heads=tuple(state[f"{first}.attn.relative_position_bias_table"].shape[1] for first in firsts),
        patch=(weight.shape[2], weight.shape[3]),
        mlp_ratio=hidden / channels,
    )


def inflate_swin(state: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Parameters of our video tower out of a 2-D Swin's.

    Args:
        state: What `read_swin` returns.
        config: `LFVilaVideoConfig`.

    Raises:
        ValueError: Widths, heads, numbers of blocks or mergings, or patches that do not fit; all of them listed.
    """
    shape = swin_shape(state)
    blocks = _swin_blocks(state)
    levels = [(level, block) for level, depth in enumerate(config.depths) for block in range(depth)]
    mergings = sorted({key.rsplit(".downsample.", 1)[0] for key in state if ".downsample." in key})
    problems = _swin_problems(state, shape, config, blocks, levels, mergings)
    if problems:
        raise ValueError(f"this Swin does not fit the configuration: {'; '.join(problems)}")
    names = {
        f"{theirs}.": f"levels.{level}.blocks.{block}." for theirs, (level, block) in zip(blocks, levels, strict=True)
    }
    names |= {
        f"{theirs}.downsample.": f"merging.{level}." for theirs, level in zip(mergings, config.merge_after, strict=True)
    }
    inflated: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        prefix = next((prefix for prefix in names if key.startswith(prefix)), "")
        inflated[names.get(prefix, "") + key.removeprefix(prefix)] = tensor
    for (level, block), theirs in zip(levels, blocks, strict=True):
        inflated[f"levels.{level}.blocks.{block}.attn.relative_position_bias_table"] = _inflated_table(
            state[f"{theirs}.attn.relative_position_bias_table"],
            (config.temporal_windows[level], *config.spatial_window),
        )
    if config.video_stem == "patch":
        tiles = [ours // theirs for ours, theirs in zip(config.patch_shape, shape.patch, strict=True)]
        kernel = state["patch_embed.proj.weight"].repeat(1, 1, *tiles) / (tiles[0] * tiles[1])  # (C, 3, rows, columns)
        inflated["patch_embed.proj.weight"] = kernel[:, :, None]  # (C, 3, 1, rows, columns)
    else:
        inflated = {name: tensor for name, tensor in inflated.items() if not name.startswith("patch_embed.proj.")}
    last = f"{mergings[-1]}.downsample." if mergings else None
    if last is not None and state[f"{last}reduction.weight"].shape == (config.hidden_size, 4 * config.clip_channels):
        for name in ("norm.weight", "norm.bias", "reduction.weight"):
            inflated[f"clip_merging.{name}"] = state[last + name]
    for name in ("weight", "bias"):
        inflated[f"clip_norm.{name}"] = state[f"norm.{name}"]
    return inflated


def _swin_problems(
    state: Mapping[str, torch.Tensor],
    shape: SwinShape,
    config: Any,
    blocks: list[str],
    levels: list[tuple[int, int]],
    mergings: list[str],
) -> list[str]:
    """Sizes in which a Swin and our video tower disagree, in words."""
    problems = []
    if shape.embed_dim != config.embed_dim:
        problems.append(f"embed_dim is {shape.embed_dim} in Swin, {config.embed_dim} here")
    if len(blocks) != len(levels):
        problems.append(f"Swin has {len(blocks)} blocks {list(shape.depths)}, depths here are {config.depths}")
    if len(mergings) != len(config.merge_after):
        problems.append(f"Swin has {len(mergings)} merging layers, merge_after here is {config.merge_after}")
    pairs = list(zip(config.patch_shape, shape.patch, strict=True))
    if config.video_stem == "patch" and any(ours % theirs for ours, theirs in pairs):
        problems.append(f"patches are {shape.patch} in Swin, {config.patch_shape} here is no multiple")
    if abs(shape.mlp_ratio - config.mlp_ratio) > 1e-6:
        problems.append(f"mlp_ratio is {shape.mlp_ratio:g} in Swin, {config.mlp_ratio:g} here")
    if f"{blocks[0]}.attn.qkv.bias" in state and not config.qkv_bias:
        problems.append("Swin has qkv biases, qkv_bias here is False")
    if problems:
        return problems
    for theirs, (level, block) in zip(blocks, levels, strict=True):
        heads = state[f"{theirs}.attn.relative_position_bias_table"].shape[1]
        channels = len(state[f"{theirs}.norm1.weight"])
        found, expected = (channels, heads), (config.channels[level], config.num_heads[level])
        if found != expected:
            problems.append(
                f"block {block} of level {level} has {expected[0]} channels and {expected[1]} heads, Swin's {theirs} "
                f"has {found[0]} and {found[1]}"
            )
    return problems


def _swin_blocks(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of Swin's blocks in the order in which they run."""
    found = {match[0] for key in state if (match := re.match(r"layers\.\d+\.blocks\.\d+", key))}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _inflated_table(table: torch.Tensor, window: tuple[int, int, int]) -> torch.Tensor:
    """A bias table of square windows for windows of `(t, r, c)`: resized in space, repeated over the time offsets."""
    size = (round(len(table) ** 0.5) + 1) // 2
    flat = resize_bias_table(table, (1, size, size), (1, *window[1:]))  # ((2r-1)(2c-1), A)
    return flat.repeat(2 * window[0] - 1, 1)  # ((2t-1)(2r-1)(2c-1), A)


def _with_joined_qkv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of transformers' Swin as one parameter each."""
    joined = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"(.+\.attn)\.(query|key|value|q|k|v)\.(weight|bias)", key)
        if match is None:
            joined[key] = tensor
        elif match[2] in ("query", "q"):
            rest = ("key", "value") if match[2] == "query" else ("k", "v")
            parts = [tensor, *(state[f"{match[1]}.{name}.{match[3]}"] for name in rest)]
            joined[f"{match[1]}.qkv.{match[3]}"] = torch.cat(parts)  # (3C, C) or (3C,)
    return joined


def _renamed(pattern: str, ours: str, key: str) -> str | None:
    """Our spelling of a key that matches."""
    match = re.fullmatch(pattern, key)
    return None if match is None else match.expand(ours)


def expect_model_type(config: Any, model_type: str) -> None:
    """Raise `ValueError` for a checkpoint of another model."""
    found = getattr(config, "model_type", None)
    if found != model_type:
        raise ValueError(f'a checkpoint of model_type "{model_type}" is expected, got "{found}"')


def load_pretrained(model_class: Any, source: Any, model_type: str) -> tuple[Any, Any, set[str]]:
    """Configuration, model (float32) and names of missing parameters of a checkpoint of transformers.

    Raises:
        ValueError: There is none, or it is another model's.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source)
            expect_model_type(config, model_type)
            model, info = model_class.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except OSError as error:
        raise ValueError(f"cannot load {source} ({' '.join(str(error).split())[:300]})") from error
    return config, model, set(info["missing_keys"])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and its table of keys, which say nothing that is not checked here."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()

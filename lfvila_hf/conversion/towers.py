# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Initialisation from a 2-D Swin and a BERT, as the release starts pre-training (`src/utils/load.py`).

Paper section 4 (implementation details). The release starts from two models:

- Swin-B (ImageNet-22k, window 12, 384 pixels), inflated into the video tower. The patch kernel is tiled over our larger
  patch and divided by the number of tiles. Blocks and merging layers map onto ours in order. Tables of relative
  position bias are resized to our windows (`resize_bias_table`) and repeated over the time offsets. Clip merging and
  clip norm start from the last merging layer and the last norm.
- BERT-large, uncased, split over the sentence, paragraph and cross-modal slices. The positions of a paragraph start
  from BERT's, as do the MLM head and the pooler if BERT has them. BERT's next-sentence head is not used: its first
  class is "belongs together", ours is the second.

Memory: both pretrained models and the new one, in float32.

Letters: T frames, H W pixels, C channels of a level, A heads, D shared width; t r c frames, rows and columns of a
window.
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

logger = logging.get_logger(__name__)

BERT_UNNEEDED = re.compile(r"(cls\.seq_relationship\..+|cls\.predictions\.bias|.*\.position_ids|.*\.token_type_ids)")
# Fields in which BERT's configuration and ours must agree; otherwise its layers would silently be meaningless here.
TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)


class TowerReport(NamedTuple):
    """Loading report of `from_pretrained_towers`.

    Args:
        missing_keys: Parameters that neither tower has; they are new.
        unused_keys: Parameters of the towers that the model does not have.
    """

    missing_keys: list[str]
    unused_keys: list[str]


def from_towers(
    model_class: Any, video: Any = None, text: Any = None, config: Any = None, **overrides: Any
) -> tuple[Any, TowerReport]:
    """Build a model from towers; `LFVilaPreTrainedModel.from_pretrained_towers` documents the arguments.

    Returns:
        The model in evaluation mode, and the report.
    """
    if video is None and text is None:
        raise ValueError("from_pretrained_towers needs video=, text= or both, got neither")
    if model_class.config_class.model_type != "lfvila":
        raise ValueError(f"{model_class.__name__} is one tower; use a model with both, such as LFVilaModel")
    swin = None if video is None else read_swin(video)
    bert = None if text is None else read_bert(text)
    if config is None:
        config = derived_config(model_class.config_class, swin, None if bert is None else bert[0], overrides)
    elif overrides:
        raise ValueError(
            f"pass either config= or single fields of a derived one, got both (fields {sorted(overrides)})"
        )
    state: dict[str, torch.Tensor] = {}
    if swin is not None:
        state |= {f"video_model.{name}": tensor for name, tensor in inflate_swin(swin, config.video_config).items()}
    if bert is not None:
        state |= bert_state(*bert, config)
    model = model_class(config)
    own = model.state_dict()
    nested = any(name.startswith("model.") for name in own)
    found: dict[str, torch.Tensor] = {}
    unused = []
    for name, tensor in state.items():
        ours = f"model.{name}" if nested and f"model.{name}" in own else name
        if ours in own:
            found[ours] = tensor
        else:
            unused.append(name)
    wrong = [
        f"{name} {tuple(tensor.shape)} (expected {tuple(own[name].shape)})"
        for name, tensor in found.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"parameters of the towers do not fit the configuration: {', '.join(wrong)}")
    missing, _ = model.load_state_dict(found, strict=False)
    report = TowerReport(sorted(missing), sorted(unused))
    logger.info(f"new parameters: {report.missing_keys}; parameters without a place: {report.unused_keys}")
    return model.eval(), report


# -- configuration ---------------------------------------------------------------------------------------------------


def derived_config(config_class: Any, swin: Mapping[str, torch.Tensor] | None, bert: Any, overrides: Any) -> Any:
    """Derive a configuration from a Swin and a BERT: Swin-B and BERT-large give the released one.

    Swin's third stage is split into three levels, the last two of 2 blocks each (1 if it has fewer than 6). BERT's
    layers are split as the release splits 24 into 8, 4 and 12: a third, a sixth, the rest.

    Args:
        config_class: `LFVilaConfig`, or its copy in remote code.
        swin: Parameters of the Swin, see `read_swin`.
        bert: `BertConfig`.
        overrides: Fields that replace derived ones; dicts of the towers replace single fields.

    Raises:
        ValueError: One of the two is missing, Swin does not have four stages, or the widths at the top differ.
    """
    if swin is None or bert is None:
        raise ValueError("a configuration can be derived from video= and text= together only; pass config=")
    shape = swin_shape(swin)
    if len(shape.depths) != 4 or shape.depths[2] < 3:
        raise ValueError(
            f"a configuration can be derived from a Swin of four stages with at least 3 blocks in the third, this one "
            f"has {shape.depths}; pass config="
        )
    width = shape.embed_dim * 2 ** (len(shape.depths) - 1)
    if width != bert.hidden_size:
        raise ValueError(
            f"both towers must end at the same width: Swin ends at {width} channels, BERT's hidden_size is "
            f"{bert.hidden_size}"
        )
    first, second, third, last = shape.depths
    tail = 2 if third >= 6 else 1
    heads = shape.num_heads
    layers = bert.num_hidden_layers
    video = {
        "embed_dim": shape.embed_dim,
        "depths": [first, second, third - 2 * tail, tail, tail, last],
        "num_heads": [heads[0], heads[1], heads[2], heads[2], heads[2], heads[3]],
        "mlp_ratio": shape.mlp_ratio,
    }
    names = (*TEXT_FIELDS, "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "pad_token_id")
    text = {name: getattr(bert, name) for name in names} | {
        "num_sentence_layers": layers // 3,
        "num_paragraph_layers": layers // 6,
        "num_cross_modal_layers": layers - layers // 3 - layers // 6,
    }
    video |= dict(overrides.pop("video_config", {}))
    text |= dict(overrides.pop("text_config", {}))
    return config_class(video_config=video, text_config=text, **overrides)


# -- BERT ------------------------------------------------------------------------------------------------------------


def read_bert(source: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Read configuration and parameters of a BERT.

    Args:
        source: A folder or repository of transformers (`BertModel`, `BertForMaskedLM`, `BertForPreTraining`), or such a
            model.

    Returns:
        `BertConfig`, and parameters under the names of `BertForPreTraining` without "bert.".

    Raises:
        ValueError: It is not a BERT with absolute positions, layers are missing, or parameters are not finite.
    """
    if isinstance(source, PreTrainedModel):
        config, state = source.config, dict(source.state_dict())
        expect_model_type(config, "bert")
    else:
        from transformers import BertForPreTraining

        config, model, absent = load_pretrained(BertForPreTraining, source, "bert")
        state = {key: tensor for key, tensor in model.state_dict().items() if key not in absent}
    if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        raise ValueError(f"a BERT with absolute positions is expected, got {config.position_embedding_type!r}")
    state = {key.removeprefix("bert."): tensor.float() for key, tensor in state.items()}
    if not any(key.startswith("cls.predictions.transform.") for key in state):
        state = {key: tensor for key, tensor in state.items() if not key.startswith("cls.")}
    layers = {int(match[1]) for key in state if (match := re.match(r"encoder\.layer\.(\d+)\.", key))}
    if len(layers) != config.num_hidden_layers or "embeddings.word_embeddings.weight" not in state:
        raise ValueError(
            f"this BERT holds {len(layers)} of its {config.num_hidden_layers} layers, or no word embeddings; a "
            f"complete checkpoint is expected"
        )
    if bad := not_finite(state):
        raise ValueError(f"this BERT has parameters that are not finite: {bad}")
    return config, state


def bert_state(bert: Any, state: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Map a BERT's parameters to our text tower, cross-modal encoder and MLM head.

    Args:
        bert: `BertConfig`.
        state: BERT's parameters, see `read_bert`.
        config: `LFVilaConfig`.

    Returns:
        Parameters under our names, those of towers without "model.".

    Raises:
        ValueError: Sizes do not fit, or BERT has fewer layers than the slices; all problems are listed.
    """
    text = config.text_config
    problems = [
        f"{name} is {getattr(bert, name)!r} in BERT, {getattr(text, name)!r} here"
        for name in TEXT_FIELDS
        if getattr(bert, name) != getattr(text, name)
    ]
    slices = (text.num_sentence_layers, text.num_paragraph_layers, text.num_cross_modal_layers)
    # Without cross-modal layers (contrastive phase) BERT's upper layers are not needed.
    if bert.num_hidden_layers < sum(slices) or (slices[2] and bert.num_hidden_layers > sum(slices)):
        problems.append(
            f"BERT has {bert.num_hidden_layers} layers, the slices here have {slices[0]} + {slices[1]} + {slices[2]}"
        )
    if problems:
        raise ValueError(f"this BERT does not fit the configuration: {'; '.join(problems)}")
    ours: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if BERT_UNNEEDED.fullmatch(key):
            continue
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", key):
            for name in _layer_names(int(match[1]), match[2], slices, config.cross_modal_fusion):
                ours[name] = tensor
        elif key.startswith("cls.predictions."):
            name = key.removeprefix("cls.predictions.").removeprefix("transform.")
            ours[f"mlm_head.{name}"] = tensor.clone()  # BERT's decoder is tied to the word embeddings, ours is not
        elif key.startswith("pooler."):
            ours[f"cross_modal_encoder.{key}"] = tensor
        else:
            ours[f"text_model.{key}"] = tensor
    if "mlm_head.decoder.weight" in ours and "mlm_head.decoder.bias" not in ours:
        ours["mlm_head.decoder.bias"] = state["cls.predictions.bias"]
    positions = state["embeddings.position_embeddings.weight"]
    ours["text_model.paragraph_embeddings.position_embeddings.weight"] = positions.clone()
    return ours


def _layer_names(number: int, rest: str, slices: tuple[int, int, int], fusion: str) -> Iterator[str]:
    """Yield our names of a parameter of BERT's layer `number`; two in co-attention, one for each stream."""
    if number < slices[0]:
        yield f"text_model.sentence_layers.{number}.{rest}"
    elif number < slices[0] + slices[1]:
        yield f"text_model.paragraph_layers.{number - slices[0]}.{rest}"
    else:
        layer = f"cross_modal_encoder.layers.{number - slices[0] - slices[1]}"
        for stream in ("text_layer.", "video_layer.") if fusion == "co_attention" else ("",):
            yield f"{layer}.{stream}{rest}"


# -- Swin --------------------------------------------------------------------------------------------------------------

# Names of a Swin of transformers (in memory, and older ones in its files) -> names of the authors' `.pth`.
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
# Parts of a 2-D Swin that the video tower does not need: a classifier of images, and constants.
SWIN_UNNEEDED = re.compile(r"((head|classifier)\..+|.+\.attn_mask|.+\.relative_position_index|embeddings\.mask_token)")


class SwinShape(NamedTuple):
    """Sizes of a 2-D Swin, derived from its parameters.

    Args:
        embed_dim: Channels of the first stage.
        depths: Blocks of every stage.
        num_heads: Attention heads of every stage.
        patch: Rows and columns of a patch in pixels.
        mlp_ratio: Hidden width of a block's MLP over its channels.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch: tuple[int, int]
    mlp_ratio: float


def read_swin(source: Any) -> dict[str, torch.Tensor]:
    """Read the parameters of a 2-D Swin.

    Args:
        source: The `.pth` of Swin's authors, a folder or repository of transformers, a model of transformers, or a
            state dict.

    Returns:
        Parameters under the names of the authors' `.pth`, float32.

    Raises:
        ValueError: It is not a 2-D Swin, it has absolute positions, or parameters are unknown or not finite.
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
    """Derive the sizes of a 2-D Swin from the parameters that `read_swin` returns."""
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
    """Inflate a 2-D Swin's parameters into our video tower's.

    Args:
        state: Swin's parameters, see `read_swin`.
        config: `LFVilaVideoConfig`.

    Returns:
        Parameters under the names of `LFVilaVideoModel`.

    Raises:
        ValueError: Widths, heads, numbers of blocks or mergings, or patches do not fit; all problems are listed.
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
    """List the sizes in which a Swin and our video tower disagree."""
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
    """List the names of Swin's blocks in the order in which they run."""
    found = {match[0] for key in state if (match := re.match(r"layers\.\d+\.blocks\.\d+", key))}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _inflated_table(table: torch.Tensor, window: tuple[int, int, int]) -> torch.Tensor:
    """Inflate a bias table of square windows to windows `(t, r, c)`: resize in space, repeat over time offsets."""
    size = (round(len(table) ** 0.5) + 1) // 2
    flat = resize_bias_table(table, (1, size, size), (1, *window[1:]))  # ((2r-1)(2c-1), A)
    return flat.repeat(2 * window[0] - 1, 1)  # ((2t-1)(2r-1)(2c-1), A)


def _with_joined_qkv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Concatenate query, key and value of transformers' Swin, as the authors' `.pth` stores them."""
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
    """Expand `ours` for a key that matches `pattern`; `None` otherwise."""
    match = re.fullmatch(pattern, key)
    return None if match is None else match.expand(ours)


# -- checkpoints of transformers ---------------------------------------------------------------------------------------


def expect_model_type(config: Any, model_type: str) -> None:
    """Raise `ValueError` for a checkpoint of another model."""
    found = getattr(config, "model_type", None)
    if found != model_type:
        raise ValueError(f'a checkpoint of model_type "{model_type}" is expected, got "{found}"')


def load_pretrained(model_class: Any, source: Any, model_type: str) -> tuple[Any, Any, set[str]]:
    """Load a checkpoint of transformers in float32.

    Args:
        model_class: Class of the model.
        source: Folder or repository.
        model_type: Expected `model_type`.

    Returns:
        Configuration, model, and names of missing parameters.

    Raises:
        ValueError: There is no such checkpoint, or it belongs to another model.
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
    """Silence transformers' progress bars and its table of keys; the conversion checks all keys itself."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()

# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""A new model out of an image model and a language model: 2-D Swin inflated into HTWA, BERT split over three slices.

Paper section 4 (implementation details), released `src/utils/load.py`. What the release starts pre-training from:

- Swin-B (ImageNet-22k, window 12, 384 pixels), inflated as in swin_inflation.py;
- BERT-large, uncased: layers go in order to the sentence, paragraph and cross-modal slices; the positions of a
  paragraph start from BERT's, the MLM head and the pooler from BERT's where it has them. BERT's next-sentence head is
  not used: its first class is "belongs together", ours is the second.

Memory: both pretrained models and the new one, in float32.

Letters: T frames, C channels of a level, D shared width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from lfvila_hf.conversion.checkpoint_files import not_finite
from lfvila_hf.conversion.swin_inflation import expect_model_type, inflate_swin, load_pretrained, read_swin, swin_shape

logger = logging.get_logger(__name__)

BERT_UNNEEDED = re.compile(r"(cls\.seq_relationship\..+|cls\.predictions\.bias|.*\.position_ids|.*\.token_type_ids)")
# What two text configurations must share for the layers of one to mean the same in the other.
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
    """What `from_pretrained_towers` did, with `output_loading_info`."""

    missing_keys: list[str]
    """Parameters that neither tower has: they are new."""
    unused_keys: list[str]
    """Parameters of the towers that the model has no place for."""


def from_towers(
    model_class: Any, video: Any = None, text: Any = None, config: Any = None, **overrides: Any
) -> tuple[Any, TowerReport]:
    """What `LFVilaPreTrainedModel.from_pretrained_towers` does; see there."""
    if video is None and text is None:
        raise ValueError("from_pretrained_towers needs video=, text= or both")
    if model_class.config_class.model_type != "lfvila":
        raise ValueError(f"{model_class.__name__} is one tower; expected a model with both, such as LFVilaModel")
    swin = None if video is None else read_swin(video)
    bert = None if text is None else read_bert(text)
    if config is None:
        config = derived_config(model_class.config_class, swin, None if bert is None else bert[0], overrides)
    elif overrides:
        raise ValueError(
            f"give either config= or single fields of a derived one, got both (fields {sorted(overrides)})"
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
    """The configuration that a Swin and a BERT imply: Swin-B and BERT-large give the released one.

    Swin's third stage is cut into three levels, the last two of 2 blocks each (1 where it has fewer than 6). BERT's
    layers are cut as the release cuts 24 into 8, 4 and 12: a third, a sixth, the rest.

    Raises:
        ValueError: One of the two is missing, Swin does not have four stages, or the widths at the top differ.
    """
    if swin is None or bert is None:
        raise ValueError("a configuration can be derived from video= and text= together only; give config=")
    shape = swin_shape(swin)
    if len(shape.depths) != 4 or shape.depths[2] < 3:
        raise ValueError(
            f"a configuration can be derived from a Swin of four stages with at least 3 blocks in the third, this one "
            f"has {shape.depths}; give config="
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
    """Configuration and parameters of a BERT, under the names of `BertForPreTraining` without "bert.".

    Args:
        source: A folder or repository of transformers (`BertModel`, `BertForMaskedLM`, `BertForPreTraining`), or such a
            model.

    Raises:
        ValueError: Not a BERT with absolute positions, one that lacks layers, or parameters that are not finite.
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
        raise ValueError(f"this BERT holds {len(layers)} of its {config.num_hidden_layers} layers, or no embeddings")
    if bad := not_finite(state):
        raise ValueError(f"this BERT has parameters that are not finite: {bad}")
    return config, state


def bert_state(bert: Any, state: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Parameters of our text tower, cross-modal encoder and MLM head out of BERT's; towers without "model.".

    Args:
        bert: `BertConfig`.
        state: What `read_bert` returns.
        config: `LFVilaConfig`.

    Raises:
        ValueError: Sizes that do not fit, or fewer layers than the slices have; all of them listed.
    """
    text = config.text_config
    problems = [
        f"{name} is {getattr(bert, name)!r} in BERT, {getattr(text, name)!r} here"
        for name in TEXT_FIELDS
        if getattr(bert, name) != getattr(text, name)
    ]
    slices = (text.num_sentence_layers, text.num_paragraph_layers, text.num_cross_modal_layers)
    # Without cross-modal layers (contrastive phase) BERT's upper layers are simply not needed.
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
    """Where a parameter of BERT's layer `number` goes; to both streams of co-attention."""
    if number < slices[0]:
        yield f"text_model.sentence_layers.{number}.{rest}"
    elif number < slices[0] + slices[1]:
        yield f"text_model.paragraph_layers.{number - slices[0]}.{rest}"
    else:
        layer = f"cross_modal_encoder.layers.{number - slices[0] - slices[1]}"
        for stream in ("text_layer.", "video_layer.") if fusion == "co_attention" else ("",):
            yield f"{layer}.{stream}{rest}"

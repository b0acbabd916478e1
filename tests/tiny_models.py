"""Configurations, models and batches that are small enough for tests yet take every branch of the architecture.

The tiny video tower has four levels over 8 frames of 24 x 40 pixels, K = 4 clips of two frames, patches of 4 x 4 and
windows of 2 x 3 patches. Its grids are 6 x 10 (shifted, columns filled up to 12), 3 x 5 (shifted, both filled up, odd
for the merging), 2 x 3 (one window, not shifted) and 1 x 2 (smaller than the window), which leaves P = 2 tokens per
frame. The text side has one layer in each slice. Everything is float32 on the CPU, and a forward takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from lfvila_hf import (
    LFVilaConfig,
    LFVilaForMultipleChoice,
    LFVilaForPreTraining,
    LFVilaForQuestionAnswering,
    LFVilaForVideoClassification,
    LFVilaModel,
    LFVilaPreTrainedModel,
    LFVilaTextModel,
    LFVilaVideoModel,
)

VIDEO = {
    "image_size": [24, 40],
    "num_frames": 8,
    "num_clips": 4,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 2, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "temporal_windows": [1, 2, 2, 8],
    "spatial_window": [2, 3],
    "merge_after": [0, 1, 2],
    "clip_level": 2,
    "pool_size": [1, 1],
    "mlp_ratio": 2,
    "drop_path_rate": 0.0,
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_sentence_layers": 1,
    "num_paragraph_layers": 1,
    "num_cross_modal_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
    "max_sentences": 5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

Model = TypeVar("Model", bound=LFVilaPreTrainedModel)


def tiny_config(video: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **fields: Any) -> LFVilaConfig:
    """The tiny configuration with single fields of the towers (`video`, `text`) or of the whole replaced."""
    return LFVilaConfig(video_config=VIDEO | (video or {}), text_config=TEXT | (text or {}), **fields)


def tiny_model(
    model_class: type[Model], config: LFVilaConfig | None = None, spread: float = 0.2, seed: int = 0
) -> Model:
    """A model in evaluation mode whose weights are large enough that every part matters to the output.

    Fresh weights (standard deviation 0.02, bias 0) leave so little in a residual branch that a comparison would pass
    with the branch removed; here every parameter is moved by normal noise of standard deviation `spread`.
    """
    torch.manual_seed(seed)
    model = model_class(tiny_config() if config is None else config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval()


def enable_checkpointing(model: LFVilaPreTrainedModel, **arguments: Any) -> None:
    """Gradient checkpointing, under its name before and after transformers 5.23."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(arguments or None)


def random_ids(*shape: int, vocab_size: int = TEXT["vocab_size"], seed: int = 1) -> torch.Tensor:
    """Random token ids without the padding token."""
    return torch.randint(1, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def random_videos(batch: int, frames: int = 8, height: int = 24, width: int = 40, seed: int = 2) -> torch.Tensor:
    """Random normalised frames, `(B, T, 3, H, W)`."""
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def tiny_batch(batch: int = 2, sentences: int = 4, tokens: int = 6, padded: bool = True) -> dict[str, torch.Tensor]:
    """Paragraphs and videos as the processor gives them; with `padded`, sentences differ in length (none is empty)."""
    mask = torch.ones(batch, sentences, tokens, dtype=torch.long)
    if padded:
        lengths = 2 + torch.arange(batch * sentences).view(batch, sentences) % (tokens - 1)
        mask = (torch.arange(tokens) < lengths[..., None]).long()
    return {
        "input_ids": random_ids(batch, sentences, tokens) * mask,
        "attention_mask": mask,
        "pixel_values_videos": random_videos(batch),
    }


class Example(NamedTuple):
    """One way to use a model: its class and configuration, a batch for it, and what of it such a step cannot train."""

    model_class: type[LFVilaPreTrainedModel]
    config: Callable[..., Any]
    """Makes the configuration; takes the arguments of `tiny_config`."""
    inputs: Callable[[int], dict[str, Any]]
    """Makes a batch of that many videos, with targets where the model takes any."""
    untrained: tuple[str, ...] = ()
    """Beginnings of the names of parameters that get no gradient."""

    def model(self, **fields: Any) -> Any:
        """The model with weights that matter; `fields` as for `tiny_config`."""
        return tiny_model(self.model_class, self.config(**fields))


def _video_config(**fields: Any) -> Any:
    return tiny_config(**fields).video_config


def _text_config(**fields: Any) -> Any:
    return tiny_config(**fields).text_config


def _videos(batch: int) -> dict[str, Any]:
    return {"pixel_values_videos": random_videos(batch)}


def _texts(batch: int) -> dict[str, Any]:
    both = tiny_batch(batch)
    return {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"]}


def _fusion(batch: int) -> dict[str, Any]:
    targets = torch.full((batch, 4, 6), -100)
    targets[:, :, 1] = random_ids(batch, 4, seed=5)
    pairs = torch.arange(batch) % 2 == 0
    return tiny_batch(batch) | {"phase": "fusion", "mlm_targets": targets, "vtm_targets": pairs.long()}


def _choices(batch: int) -> dict[str, Any]:
    both = tiny_batch(3 * batch)
    targets = {"labels": torch.arange(batch) % 3, "span_targets": (torch.arange(8) > 2).long().repeat(batch, 1)}
    choices = {name: both[name].unflatten(0, (batch, 3)) for name in ("input_ids", "attention_mask")}
    return choices | _videos(batch) | targets


_UNUSED = ("model.video_model.clip_",)
_UNUSED_IN_FUSION = (*_UNUSED, *(f"model.{name}_projection" for name in ("text", "video", "sentence", "clip")))


def _without_alignment(**fields: Any) -> LFVilaConfig:
    return tiny_config(temporal_alignment=False, **fields)


def _conv_stem(video: dict[str, Any] | None = None, **fields: Any) -> LFVilaConfig:
    # Stretches of two frames: of one frame, torch's bfloat16 convolution on the CPU returns uninitialised memory.
    return tiny_config(video={"video_stem": "conv", "temporal_windows": [2, 2, 2, 8]} | (video or {}), **fields)


def _co_attention(**fields: Any) -> LFVilaConfig:
    return tiny_config(cross_modal_fusion="co_attention", **fields)


EXAMPLES = {
    "video tower": Example(LFVilaVideoModel, _video_config, _videos),
    "text tower": Example(LFVilaTextModel, _text_config, _texts),
    "joined": Example(LFVilaModel, tiny_config, tiny_batch),
    "joined, conv stem": Example(LFVilaModel, _conv_stem, tiny_batch),
    "joined, no alignment": Example(LFVilaModel, _without_alignment, tiny_batch, ("video_model.clip_",)),
    "contrastive phase": Example(
        LFVilaForPreTraining, tiny_config, tiny_batch, ("cross_modal_encoder", "mlm_head", "vtm_head")
    ),
    "fusion phase": Example(LFVilaForPreTraining, tiny_config, _fusion, _UNUSED_IN_FUSION),
    "fusion phase, co-attention": Example(LFVilaForPreTraining, _co_attention, _fusion, _UNUSED_IN_FUSION),
    "question answering": Example(
        LFVilaForQuestionAnswering, tiny_config, lambda b: tiny_batch(b) | {"labels": torch.arange(b) % 2}, _UNUSED
    ),
    "multiple choice": Example(LFVilaForMultipleChoice, tiny_config, _choices, _UNUSED),
    "classification": Example(
        LFVilaForVideoClassification, tiny_config, lambda b: _videos(b) | {"labels": torch.arange(b) % 2}, _UNUSED
    ),
}

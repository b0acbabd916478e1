"""Configurations, models and batches that are small enough for tests yet take every branch of the architecture.

The tiny video tower has four levels over 8 frames of 24 x 40 pixels, K = 4 clips of two frames, patches of 4 x 4 and
windows of 2 x 3 patches. Its grids are 6 x 10 (shifted, columns filled up to 12), 3 x 5 (shifted, both filled up, odd
for the merging), 2 x 3 (one window, not shifted) and 1 x 2 (smaller than the window), which leaves P = 2 tokens per
frame. The text side has one layer in each slice. Everything is float32 on the CPU, and a forward takes milliseconds.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from lfvila_hf import LFVilaConfig, LFVilaPreTrainedModel

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

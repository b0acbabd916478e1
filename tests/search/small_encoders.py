"""Checkpoints of every encoder family with small random weights.

They are saved as the Hub has them: model, tokenizer, processor. The image families get a 32 x 32 picture and 4
layers at most; a BERT word-piece tokenizer serves all of them, because which words there are does not matter here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP_PICTURES = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_resize": True,
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": MEAN,
    "image_std": STD,
}
SIGLIP_PICTURES = {
    **CLIP_PICTURES,
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 32, "width": 32},
    "do_center_crop": False,
}


def _clip(words: int) -> Any:
    config = transformers.CLIPConfig(text_config={**TEXT, "vocab_size": words}, vision_config=VISION, projection_dim=24)
    return transformers.CLIPModel(config), CLIP_PICTURES


def _siglip(words: int) -> Any:
    text = {**TEXT, "vocab_size": words, "projection_size": 32}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)), SIGLIP_PICTURES


def _siglip2(words: int) -> Any:
    text = {**TEXT, "vocab_size": words, "projection_size": 32}
    vision = {name: value for name, value in VISION.items() if name != "image_size"} | {"num_patches": 16}
    pictures = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision)), pictures


def _align(words: int) -> Any:
    vision = {
        "image_size": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "hidden_dim": 24,
        "num_hidden_layers": 16,
    }
    text = {name: value for name, value in TEXT.items() if "os_token_id" not in name}
    config = transformers.AlignConfig(
        text_config={**text, "vocab_size": words}, vision_config=vision, projection_dim=80
    )
    pictures = {
        **CLIP_PICTURES,
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 36, "width": 36},
        "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
        "include_top": False,
    }
    return transformers.AlignModel(config), pictures


def _chinese_clip(words: int) -> Any:
    text = {name: value for name, value in TEXT.items() if "os_token_id" not in name}
    config = transformers.ChineseCLIPConfig(
        text_config={**text, "vocab_size": words}, vision_config=VISION, projection_dim=24
    )
    return transformers.ChineseCLIPModel(config), {
        **CLIP_PICTURES,
        "image_processor_type": "ChineseCLIPImageProcessor",
        "size": {"height": 32, "width": 32},
        "do_center_crop": False,
    }


def _xclip(words: int) -> Any:
    vision = {
        **VISION,
        "num_frames": 4,
        "mit_hidden_size": 24,
        "mit_intermediate_size": 37,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 4,
    }
    config = transformers.XCLIPConfig(
        text_config={**TEXT, "vocab_size": words}, vision_config=vision, projection_dim=24, prompt_num_attention_heads=4
    )
    return transformers.XCLIPModel(config), CLIP_PICTURES


def _videoprism(words: int) -> Any:
    text = {**TEXT, "vocab_size": words}
    vision = {
        "image_size": 32,
        "num_frames": 4,
        "tubelet_size": [1, 16, 16],
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
    }
    config = transformers.VideoPrismConfig(text_config=text, vision_config=vision)
    pictures = {"video_processor_type": "VideoPrismVideoProcessor", "size": {"height": 32, "width": 32}}
    return transformers.VideoPrismClipModel(config), {**pictures, "do_normalize": False, "resample": 3}


def _pe_video(words: int) -> Any:
    text = {
        "vocab_size": words,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        **dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
    }
    video = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    config = transformers.PeVideoConfig(text_config=text, video_config=video)
    # Its own pictures' model needs timm; this one takes and gives the same.
    config.video_config.vision_config = transformers.ViTConfig(**VISION, num_labels=24)
    pictures = {
        "video_processor_type": "PeVideoVideoProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": MEAN,
    }
    return transformers.PeVideoModel(config), {**pictures, "image_std": STD, "num_frames": 4}


FAMILIES = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "align": _align,
    "chinese_clip": _chinese_clip,
    "xclip": _xclip,
    "videoprism": _videoprism,
    "pe_video": _pe_video,
}


def make_family(name: str, vocabulary: dict[str, int], seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and picture settings of a family."""
    torch.manual_seed(seed)
    if name in ("pe_video", "videoprism") and not hasattr(
        transformers, {"pe_video": "PeVideoModel"}.get(name, "VideoPrismClipModel")
    ):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    model, pictures = FAMILIES[name](len(vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # default initialisation makes every sentence and picture alike
                parameter.normal_(0, 0.25)
    return model, transformers.BertTokenizer(vocab=dict(vocabulary), model_max_length=12), pictures


def save_family(name: str, folder: Path, vocabulary: dict[str, int], seed: int = 0) -> Path:
    """Save the checkpoint of a family."""
    model, tokenizer, pictures = make_family(name, vocabulary, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = "video_preprocessor_config.json" if "video_processor_type" in pictures else "preprocessor_config.json"
    (folder / file).write_text(json.dumps(pictures))
    return folder


def save_sentence_transformer(folder: Path, vocabulary: dict[str, int]) -> Path:
    """Save a CLIP model as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer

    save_family("clip", folder / "clip", vocabulary)
    SentenceTransformer(modules=[Transformer(str(folder / "clip"))]).save(str(folder / "model"))
    return folder / "model"
